//! What a report is made from: the documents of one release, without secrets.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::evidence::{
    ApprovalBody, BaselineBody, Body, Document, DrillBody, Found, PlanRef, PreflightBody, PromoteBody,
    Release, SnapshotBody, VerifyBody,
};
use crate::fault::Fault;
use crate::plan::{Contact, Contingency};
use crate::redact::redact_json;

/// The documents of one release, and what the plan adds for people.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The release.
    pub release: Release,
    /// The plan.
    pub plan: PlanRef,
    /// Where users reach the service, as the plan shows it.
    pub url: Option<String>,
    /// The place of the promote state, where it is not the plan's own folder.
    pub state: Option<String>,
    /// The evidence folder, where it is not the usual one.
    pub evidence: Option<String>,
    /// The documents that the plan asks for by now, and that are not there.
    pub missing: Vec<Missing>,
    /// Those that come later.
    pub to_come: Vec<&'static str>,
    /// What to do when.
    pub contingency: Vec<Contingency>,
    /// Whom to ask.
    pub contacts: Vec<Contact>,
    /// The moment of the report.
    pub at: Timestamp,
    /// preflight.json.
    pub preflight: Option<Found<PreflightBody>>,
    /// snapshot.json.
    pub snapshot: Option<Found<SnapshotBody>>,
    /// drill.json.
    pub drill: Option<Found<DrillBody>>,
    /// baseline.json.
    pub baseline: Option<Found<BaselineBody>>,
    /// The approvals that promote.json was made from.
    pub approvals: Vec<Found<ApprovalBody>>,
    /// promote.json.
    pub promote: Option<Found<PromoteBody>>,
    /// verify.json.
    pub verify: Option<Found<VerifyBody>>,
}

/// A document that the plan asks for, and that is not there.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct Missing {
    /// Its file.
    pub file: String,
    /// Why it should be there, and what is known of it, in one sentence.
    pub why: String,
}

impl Documents {
    /// The same with every text redacted, before any of it is escaped for a language.
    ///
    /// Errors (4): a document that does not survive its own format.
    pub fn redacted(self) -> Result<Self, Fault> {
        Ok(Self {
            release: hide(&self.release)?,
            plan: hide(&self.plan)?,
            url: hide(&self.url)?,
            state: hide(&self.state)?,
            evidence: hide(&self.evidence)?,
            missing: hide(&self.missing)?,
            to_come: self.to_come,
            contingency: hide(&self.contingency)?,
            contacts: hide(&self.contacts)?,
            at: self.at,
            preflight: hide_found(self.preflight)?,
            snapshot: hide_found(self.snapshot)?,
            drill: hide_found(self.drill)?,
            baseline: hide_found(self.baseline)?,
            approvals: self
                .approvals
                .into_iter()
                .filter_map(|found| hide_found(Some(found)).transpose())
                .collect::<Result<_, Fault>>()?,
            promote: hide_found(self.promote)?,
            verify: hide_found(self.verify)?,
        })
    }
}

fn hide_found<B: Body>(found: Option<Found<B>>) -> Result<Option<Found<B>>, Fault> {
    let hide_document = |d: &Document<B>| Ok(Document { head: hide(&d.head)?, body: hide(&d.body)? });
    found
        .map(|f| Ok(Found { document: hide_document(&f.document)?, need: f.need, signer: f.signer }))
        .transpose()
}

fn hide<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, Fault> {
    let broken = |e: serde_json::Error| Fault::infrastructure("the evidence cannot be redacted").cause(e);
    let mut json = serde_json::to_value(value).map_err(broken)?;
    redact_json(&mut json);
    // From a reference, as documents are read: the same code then serves both.
    T::deserialize(&json).map_err(broken)
}
