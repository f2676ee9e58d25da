//! The chain: every document fits this plan and release, and was made from exactly its parents.

use std::fmt;

use serde::Serialize;

use crate::evidence::used::refuse_other_values;
use crate::evidence::{
    ApprovalBody, BaselineBody, Body, DocumentVerdict, DrillBody, Found, Head, Need, Outcome, PreflightBody,
    PromoteBody, SnapshotBody, VerifyBody, same_release, short,
};
use crate::fault::Fault;
use crate::job::Job;
use crate::renderers::{Documents, Missing};
use crate::signature::Signer;
use crate::world::talk::Mark;
use crate::world::{self, files};

/// The documents that the evidence folder holds; each fits the plan and the release.
pub(super) struct Evidence {
    preflight: Option<Found<PreflightBody>>,
    snapshot: Option<Found<SnapshotBody>>,
    drill: Option<Found<DrillBody>>,
    baseline: Option<Found<BaselineBody>>,
    approvals: Vec<Found<ApprovalBody>>,
    promote: Option<Found<PromoteBody>>,
    verify: Option<Found<VerifyBody>>,
}

/// One proven link: a document, and what it was made from.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Link {
    /// The document.
    pub(super) document: String,
    /// What it was made from: the plan, or an earlier document.
    pub(super) made_from: String,
    /// The SHA-256 of that in hexadecimal.
    pub(super) sha256: String,
    /// Who signed the document; null where it is not signed.
    pub(super) signed_by: Option<Signer>,
}

impl Link {
    /// `snapshot.json -> preflight.json`.
    pub(super) fn name(&self) -> String {
        format!("{} -> {}", self.document, self.made_from)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} sha256 {} holds", self.document, self.made_from, short(&self.sha256))?;
        match &self.signed_by {
            Some(signer) => write!(f, ", {signer}"),
            None => write!(f, ", not signed"),
        }
    }
}

/// Reads what is in the evidence folder.
///
/// Errors: refused (5) when there is nothing, or something that is not a document of its name.
pub(super) fn read(job: &Job) -> Result<Evidence, Fault> {
    let promote: Option<Found<PromoteBody>> = one(job)?;
    let evidence = Evidence {
        preflight: one(job)?,
        snapshot: one(job)?,
        drill: one(job)?.filter(|found| is_of_this(job, found)),
        baseline: one(job)?,
        approvals: approvals(job, promote.as_ref())?,
        promote,
        verify: one(job)?,
    };
    if evidence.needs().is_empty() {
        return Err(Fault::refused("there is no evidence to report on")
            .place(job.evidence().display().to_string())
            .help("run `preflight` first, and pass the evidence folder on between jobs"));
    }
    Ok(evidence)
}

/// Whether a drill is one of this release: it may be rehearsed at any time, and one of another release tells nothing here.
fn is_of_this(job: &Job, found: &Found<DrillBody>) -> bool {
    let known = found.document.head.release.as_ref();
    let is = known.is_some_and(|known| same_release(known, &job.release));
    if !is {
        let line = format!("`{}` is about another release, and left out", DrillBody::FILE);
        job.talk().line(Mark::Warn, &line);
    }
    is
}

/// The approvals that the promotion was made from. Others in the folder had no say.
fn approvals(job: &Job, promote: Option<&Found<PromoteBody>>) -> Result<Vec<Found<ApprovalBody>>, Fault> {
    let needs = promote.iter().flat_map(|found| &found.document.head.needs);
    let files = needs.map(|need| need.path.as_str()).filter(|file| ApprovalBody::role_of(file).is_some());
    // One that is not there is told by its link.
    files.filter(|file| is_there(job, file)).map(|file| job.read_file(file)).collect()
}

fn is_there(job: &Job, file: &str) -> bool {
    !std::fs::symlink_metadata(job.evidence().join(file))
        .is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// A document, where it is there. A dangling link or an unreadable file is not "not there".
fn one<B: Body>(job: &Job) -> Result<Option<Found<B>>, Fault> {
    if !is_there(job, B::FILE) {
        return Ok(None);
    }
    job.read::<B>().map(Some)
}

/// What is known of the samples behind the judgements.
enum Samples {
    /// The promotion names none.
    None,
    /// They are those that it names.
    Hold(Link),
    /// They are not there; why.
    Absent(String),
    /// They are others.
    Broken(Fault),
}

/// Refuses when a document was not made from exactly that parent.
type ComesFrom<'a> = Box<dyn Fn(&Need) -> Result<(), Fault> + 'a>;

/// A document as the chain sees it.
struct Seen<'a> {
    need: &'a Need,
    head: &'a Head,
    signer: Option<&'a Signer>,
    fits: Result<(), Fault>,
    comes_from: ComesFrom<'a>,
    passed: Result<(), Fault>,
}

impl Evidence {
    fn seen<'a>(&'a self, job: &'a Job) -> Vec<Seen<'a>> {
        fn see<'a, B: Body>(found: Option<&'a Found<B>>, job: &'a Job) -> Option<Seen<'a>> {
            let found = found?;
            let fits = found.fits(&crate::evidence::Asked {
                plan: &job.loaded.reference,
                release: &job.release,
                now: world::now(),
                max_age: None,
                values: &job.values,
            });
            Some(Seen {
                need: &found.need,
                head: &found.document.head,
                signer: found.signer.as_ref(),
                fits,
                comes_from: Box::new(|parent| found.comes_from(parent)),
                passed: found.passed(),
            })
        }
        let before = [
            see(self.preflight.as_ref(), job),
            see(self.snapshot.as_ref(), job),
            see(self.drill.as_ref(), job),
            see(self.baseline.as_ref(), job),
        ];
        let approvals = self.approvals.iter().map(|found| see(Some(found), job));
        let after = [see(self.promote.as_ref(), job), see(self.verify.as_ref(), job)];
        before.into_iter().chain(approvals).chain(after).flatten().collect()
    }

    /// How the report names what it was made from.
    pub(super) fn needs(&self) -> Vec<Need> {
        let before = [
            self.preflight.as_ref().map(|f| &f.need),
            self.snapshot.as_ref().map(|f| &f.need),
            self.drill.as_ref().map(|f| &f.need),
            self.baseline.as_ref().map(|f| &f.need),
        ];
        let approvals = self.approvals.iter().map(|f| Some(&f.need));
        let after = [self.promote.as_ref().map(|f| &f.need), self.verify.as_ref().map(|f| &f.need)];
        before.into_iter().chain(approvals).chain(after).flatten().cloned().collect()
    }

    /// Every link, all of them proven.
    ///
    /// Errors: refused (5), naming the first link that does not hold.
    pub(super) fn links(&self, job: &Job) -> Result<Vec<Link>, Fault> {
        match self.prove(job) {
            (links, None) => Ok(links),
            (_, Some(fault)) => Err(fault),
        }
    }

    /// The links that hold, and the first one that does not.
    pub(super) fn prove(&self, job: &Job) -> (Vec<Link>, Option<Fault>) {
        let mut links = Vec::new();
        let all = self.seen(job);
        for document in &all {
            if let Err(fault) = prove_one(document, &all, job, &mut links) {
                return (links, Some(fault));
            }
        }
        if let Err(fault) = same_values(&all) {
            return (links, Some(fault));
        }
        match self.samples(job) {
            Samples::Hold(link) => links.push(link),
            Samples::Broken(fault) => return (links, Some(fault)),
            Samples::None | Samples::Absent(_) => {}
        }
        (links, None)
    }

    /// The documents that belong here and did not pass: file, verdict and sentence.
    pub(super) fn not_passed(&self) -> Vec<(String, &'static str, String)> {
        fn of<B>(found: Option<&Found<B>>) -> Option<(String, &'static str, String)> {
            let head = &found?.document.head;
            let failed = head.verdict != DocumentVerdict::Pass;
            failed.then(|| {
                (
                    found.map_or_else(String::new, |f| f.need.path.clone()),
                    head.verdict.word(),
                    head.summary.clone(),
                )
            })
        }
        let all = [
            of(self.preflight.as_ref()),
            of(self.snapshot.as_ref()),
            of(self.drill.as_ref()),
            of(self.baseline.as_ref()),
            of(self.promote.as_ref()),
            of(self.verify.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }

    /// Who signed what, one line each, and what nobody signed.
    pub(super) fn signers(&self) -> Vec<String> {
        fn who<B>(found: Option<&Found<B>>) -> Option<(String, String)> {
            let found = found?;
            let who = found.signer.as_ref().map_or_else(|| "not signed".to_owned(), ToString::to_string);
            Some((who, found.need.path.clone()))
        }
        let documents = [
            who(self.preflight.as_ref()),
            who(self.snapshot.as_ref()),
            who(self.drill.as_ref()),
            who(self.baseline.as_ref()),
            who(self.promote.as_ref()),
            who(self.verify.as_ref()),
        ];
        let approvals = self.approvals.iter().map(|found| {
            let (who, file) = who(Some(found))?;
            let role = found.document.body.approval.as_ref().map(|a| a.role.clone()).unwrap_or_default();
            Some((who, format!("{file} (as {role})")))
        });
        let mut by: Vec<(String, Vec<String>)> = Vec::new();
        for (who, what) in documents.into_iter().chain(approvals).flatten() {
            match by.iter_mut().find(|(known, _)| *known == who) {
                Some((_, files)) => files.push(what),
                None => by.push((who, vec![what])),
            }
        }
        by.into_iter().map(|(who, files)| format!("{who}: {}", files.join(", "))).collect()
    }

    /// The documents that the plan asks for by now, and that are not there. The last one has no child that would miss it.
    pub(super) fn missing(&self, job: &Job) -> Vec<Missing> {
        let promotion = self.promote.as_ref().and_then(|found| found.document.body.promotion.as_ref());
        let is_over = promotion.is_some_and(|p| matches!(p.outcome, Outcome::Promoted | Outcome::RolledBack));
        if job.loaded.plan.verify.is_none() || self.verify.is_some() || !is_over {
            return Vec::new();
        }
        let file = VerifyBody::FILE;
        let refused = job.read_file::<VerifyBody>("verify.refused.json").ok();
        let why = match refused.map(|found| found.document.head.summary) {
            Some(why) => format!("`{file}` is not there, for `verify` was refused: {why}"),
            None => format!(
                "`{file}` is not there, although the plan has `verify` and the promotion is over: it was not run, or \
                 its document was removed"
            ),
        };
        vec![Missing { file: file.into(), why }]
    }

    /// The documents that the plan asks for and that come later.
    fn to_come(&self, job: &Job) -> Vec<&'static str> {
        let plan = &job.loaded.plan;
        let baseline = plan.verify.as_ref().is_some_and(|verify| verify.baseline.is_some());
        let all = [
            (PreflightBody::FILE, plan.preflight.is_some() && self.preflight.is_none()),
            (SnapshotBody::FILE, plan.snapshot.is_some() && self.snapshot.is_none()),
            (BaselineBody::FILE, baseline && self.baseline.is_none()),
            (PromoteBody::FILE, plan.promote.is_some() && self.promote.is_none()),
            (VerifyBody::FILE, plan.verify.is_some() && self.verify.is_none()),
        ];
        all.into_iter().filter(|(_, to_come)| *to_come).map(|(file, _)| file).collect()
    }

    /// Why nobody can reach the verdicts again from this folder; nothing where everybody can, or where
    /// nothing was judged.
    pub(super) fn without_samples(&self, job: &Job) -> Option<String> {
        match self.samples(job) {
            Samples::Absent(why) => Some(why),
            Samples::None | Samples::Hold(_) | Samples::Broken(_) => None,
        }
    }

    /// The samples behind the judgements, held against the digest in `promote.json`.
    fn samples(&self, job: &Job) -> Samples {
        let Some(found) = &self.promote else { return Samples::None };
        let promotion = found.document.body.promotion.as_ref();
        let Some(record) = promotion.and_then(|promotion| promotion.samples.as_ref()) else {
            return Samples::None;
        };
        let name = format!("`{}`", record.file);
        if record.sha256.is_empty() {
            let why = record.incomplete.clone().unwrap_or_default();
            return Samples::Absent(format!("the samples behind the verdicts were not kept: {why}"));
        }
        let path = job.evidence().join(&record.file);
        let place = path.display().to_string();
        let broken = |cause: String| {
            Samples::Broken(
                Fault::refused(format!("the link {} -> {} is broken", PromoteBody::FILE, record.file))
                    .place(&place)
                    .cause(cause)
                    .help(
                        "pass the whole evidence folder on between jobs; both files come from the same run",
                    ),
            )
        };
        if std::path::Path::new(&record.file).file_name() != Some(record.file.as_ref()) {
            return broken(format!("{name} is not the name of a file in the evidence folder"));
        }
        if !is_there(job, &record.file) {
            return Samples::Absent(format!(
                "{name}, the samples behind the verdicts, is not in the folder: `promote replay` cannot reach them again here"
            ));
        }
        match files::sha256_file(&path) {
            Err(error) => broken(error.to_string()),
            Ok((sha256, _)) if sha256 != record.sha256 => broken(format!(
                "`{}` names a file with SHA-256 {}, and {name} has {}",
                PromoteBody::FILE,
                short(&record.sha256),
                short(&sha256)
            )),
            Ok(_) => Samples::Hold(Link {
                document: PromoteBody::FILE.into(),
                made_from: record.file.clone(),
                sha256: record.sha256.clone(),
                signed_by: found.signer.clone(),
            }),
        }
    }

    /// What the renderers are given.
    pub(super) fn documents(self, job: &Job) -> Documents {
        let report = &job.loaded.plan.report;
        Documents {
            release: job.release.clone(),
            plan: job.loaded.reference.clone(),
            url: job.environment_url().map(|url| url.shown.clone()),
            state: job.call.state.as_ref().map(|place| place.display().to_string()),
            evidence: (job.call.evidence != std::path::Path::new("evidence"))
                .then(|| job.call.evidence.display().to_string()),
            missing: self.missing(job),
            to_come: self.to_come(job),
            contingency: report.contingency.clone(),
            contacts: report.contacts.clone(),
            at: world::now(),
            preflight: self.preflight,
            snapshot: self.snapshot,
            drill: self.drill,
            baseline: self.baseline,
            approvals: self.approvals,
            promote: self.promote,
            verify: self.verify,
        }
    }
}

fn prove_one(document: &Seen<'_>, all: &[Seen<'_>], job: &Job, links: &mut Vec<Link>) -> Result<(), Fault> {
    let file = &document.need.path;
    document.fits.clone()?;
    links.push(Link {
        document: file.clone(),
        made_from: job.loaded.reference.path.clone(),
        sha256: job.loaded.reference.sha256.clone(),
        signed_by: document.signer.cloned(),
    });
    for need in &document.head.needs {
        let Some(parent) = all.iter().find(|d| d.need.path == need.path) else {
            return Err(Fault::refused(format!("the link {file} -> {} is broken", need.path))
                .place(job.evidence().join(file).display().to_string())
                .cause(format!("`{file}` was made from `{}`, which is not in the folder", need.path))
                .help("pass the whole evidence folder on between jobs, or run the release again"));
        };
        (document.comes_from)(parent.need)?;
        links.push(Link {
            document: file.clone(),
            made_from: need.path.clone(),
            sha256: need.sha256.clone(),
            signed_by: document.signer.cloned(),
        });
    }
    for (required, must_pass) in required(file, all, job) {
        let parent = all.iter().find(|d| d.need.path == required);
        // A record of an error claims nothing, so it needs no parents either.
        if only_an_error(document.head) {
            continue;
        }
        match parent {
            Some(parent) => {
                (document.comes_from)(parent.need)?;
                if must_pass {
                    parent.passed.clone()?;
                }
            }
            None => {
                return Err(Fault::refused(format!("the link {file} -> {required} is missing"))
                    .place(job.evidence().display().to_string())
                    .cause(format!("the plan asks for `{required}`, and it is not in the folder"))
                    .help("pass the whole evidence folder on between jobs, or run the release again"));
            }
        }
    }
    Ok(())
}

/// Refuses documents that were made with different values of one variable, whatever this call's own are.
fn same_values(all: &[Seen<'_>]) -> Result<(), Fault> {
    for (number, one) in all.iter().enumerate() {
        for other in all.iter().skip(number + 1) {
            let differ = one.head.variables.differ_from_those_of(&other.head.variables);
            if differ.is_empty() {
                continue;
            }
            let (what, then, now) = (
                format!("`{}` was made", other.need.path),
                format!("in `{}`", one.need.path),
                format!("in `{}`", other.need.path),
            );
            let again = "run the release again with the same values in every job";
            return Err(
                refuse_other_values(&what, &differ, (&then, &now), again).place(other.need.path.clone())
            );
        }
    }
    Ok(())
}

/// The parents that a document must name, and whether each must have passed.
fn required(file: &str, all: &[Seen<'_>], job: &Job) -> Vec<(&'static str, bool)> {
    let plan = &job.loaded.plan;
    let is_there = |name: &str| all.iter().any(|d| d.need.path == name);
    let preflight = plan.preflight.is_some().then_some((PreflightBody::FILE, true));
    let snapshot = plan.snapshot.is_some().then_some((SnapshotBody::FILE, true));
    let baseline = plan.verify.as_ref().is_some_and(|verify| verify.baseline.is_some());
    let baseline = baseline.then_some((BaselineBody::FILE, true));
    let later = |name: &'static str| is_there(name).then_some((name, false));
    let wanted = match file {
        SnapshotBody::FILE => [preflight, None, None],
        PromoteBody::FILE => [preflight, snapshot, baseline],
        VerifyBody::FILE => [later(PromoteBody::FILE), later(BaselineBody::FILE), later(SnapshotBody::FILE)],
        _ => [None, None, None],
    };
    wanted.into_iter().flatten().collect()
}

/// Whether a document says nothing but that its tool could not work.
fn only_an_error(head: &Head) -> bool {
    head.verdict != DocumentVerdict::Pass
        && head.needs.is_empty()
        && matches!(head.findings.as_slice(), [only] if only.kind == "fault")
}
