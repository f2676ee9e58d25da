use super::*;
use crate::evidence::{
    Body, Document, Head, PlanRef, PreflightBody, Run, ToolRef, VERSION, name_release, to_bytes,
};

const PLAN: &str = "a1";

fn key(seed: u8) -> SigningKey {
    SigningKey::of_seed([seed; 32])
}

/// CI signs evidence; olga and the role `release_manager` itself only approve.
fn trust() -> Trust {
    Trust::of(&[("ci", &key(1))], &[("olga", &key(2)), ("release_manager", &key(3))])
}

fn release() -> Release {
    Release {
        service: "shop".into(),
        version: "1.1".into(),
        previous: None,
        environment: "production".into(),
        commit: None,
        artifacts: Vec::new(),
    }
}

fn approvers() -> BTreeMap<String, Vec<String>> {
    [("product_owner".to_owned(), vec!["otto".to_owned(), "olga".to_owned()]), ("nobody".to_owned(), vec![])]
        .into()
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn approval() -> Approval {
    Approval {
        epoch: 7,
        promotion: Some("1f".into()),
        step: None,
        role: "product_owner".into(),
        who: "anybody".into(),
        reason: Some("figures are fine".into()),
        expires_at: None,
    }
}

fn document<B: Body>(body: B) -> Document<B> {
    let at = now();
    let head = Head {
        schema: B::schema(),
        tool: ToolRef { name: "promote".into(), version: VERSION.into() },
        release: Some(release()),
        plan: Some(PlanRef { path: "release.yaml".into(), sha256: PLAN.into() }),
        variables: crate::evidence::Used::default(),
        needs: Vec::new(),
        run: Run { started_at: at, finished_at: at, host: "h".into(), ci: None },
        verdict: DocumentVerdict::Pass,
        summary: "approved".into(),
        findings: Vec::new(),
        signature: None,
    };
    Document { head, body }
}

fn approved(change: impl FnOnce(&mut Document<ApprovalBody>)) -> Vec<u8> {
    let mut document = document(ApprovalBody { approval: Some(approval()) });
    change(&mut document);
    to_bytes(&document, Some(&key(2))).unwrap()
}

fn of(change: impl FnOnce(&mut Approval)) -> Vec<u8> {
    approved(|document| change(document.body.approval.as_mut().unwrap()))
}

/// Checks for the role `product_owner`, step 2 of promotion 7.
fn told(bytes: &[u8]) -> Result<Approved, String> {
    told_to(bytes, |_| {})
}

fn told_to(bytes: &[u8], change: impl FnOnce(&mut Wanted<'_>)) -> Result<Approved, String> {
    let (approvers, release) = (approvers(), release());
    let mut wanted = Wanted {
        approvers: &approvers,
        release: &release,
        plan: PLAN,
        epoch: 7,
        promotion: Some("1f"),
        role: "product_owner",
        step: 2,
        needs: Vec::new(),
        now: now(),
    };
    change(&mut wanted);
    check(bytes, &trust(), &wanted)
}

fn refused(bytes: &[u8], word: &str) {
    let why = told(bytes).unwrap_err();
    assert!(why.contains(word), "`{word}` is missing: {why}");
}

#[test]
fn counts_by_the_name_of_the_key_and_not_by_what_it_says_of_itself() {
    let bytes = of(|_| {});
    let approved = told(&bytes).unwrap();
    assert_eq!(
        (approved.who.as_str(), approved.role.as_str(), approved.reason.as_deref()),
        ("olga", "product_owner", Some("figures are fine"))
    );
    assert_eq!(approved.key, key(2).id());
    assert_eq!(approved.need.sha256, evidence::sha256_hex(&bytes));
}

#[test]
fn a_role_without_a_list_is_approved_by_the_key_of_its_name() {
    let of_manager = |signer: u8| {
        let mut document = document(ApprovalBody { approval: Some(approval()) });
        document.body.approval.as_mut().unwrap().role = "release_manager".into();
        to_bytes(&document, Some(&key(signer))).unwrap()
    };
    let ask = |bytes: &[u8]| told_to(bytes, |wanted| wanted.role = "release_manager");
    assert_eq!(ask(&of_manager(3)).unwrap().who, "release_manager");
    assert!(ask(&of_manager(2)).unwrap_err().contains("olga may not approve"));
    let nobodys = of(|a| a.role = "nobody".into());
    assert!(told_to(&nobodys, |wanted| wanted.role = "nobody").unwrap_err().contains("nobody"));
}

#[test]
fn refuses_the_key_of_somebody_who_may_not() {
    let bytes = to_bytes(&document(ApprovalBody { approval: Some(approval()) }), Some(&key(1))).unwrap();
    refused(&bytes, "ci may not approve for the role `product_owner`: that is for otto, olga");
}

#[test]
fn refuses_another_role_epoch_plan_release_or_step() {
    refused(&of(|a| a.role = "release_manager".into()), "is of the role `release_manager`");
    refused(&of(|a| a.epoch = 6), "is about promotion 6");
    refused(&of(|a| a.epoch = 8), "is about promotion 8");
    refused(&of(|a| a.step = Some(3)), "is about step 3, asked is step 2");
    assert!(told(&of(|a| a.step = Some(2))).is_ok());
    refused(&approved(|d| d.head.plan.as_mut().unwrap().sha256 = "b2".into()), "another plan");
    refused(&approved(|d| d.head.plan = None), "another plan");
    let old = Need { path: "preflight.json".into(), schema: PreflightBody::schema(), sha256: "0".repeat(64) };
    refused(&approved(|d| d.head.needs.push(old.clone())), "other evidence");
    let wants_old = |bytes: &[u8]| told_to(bytes, |wanted| wanted.needs = vec![old.clone()]);
    assert!(wants_old(&of(|_| {})).unwrap_err().contains("other evidence"));
    assert!(wants_old(&approved(|d| d.head.needs.push(old.clone()))).is_ok());
    refused(&approved(|d| d.head.release.as_mut().unwrap().version = "1.2".into()), "shop 1.2");
    refused(&approved(|d| d.head.release.as_mut().unwrap().environment = "staging".into()), "staging");
    refused(&approved(|d| d.head.release = None), "names no release");
    refused(&approved(|d| d.head.verdict = DocumentVerdict::Error), "did not pass");
    refused(&approved(|d| d.body.approval = None), "approves nothing");
}

#[test]
fn refuses_what_has_expired_or_comes_from_the_future() {
    let until = |end: &str| of(|a| a.expires_at = Some(end.parse().unwrap()));
    assert!(told(&until("2026-01-01T12:00:00.001Z")).is_ok());
    refused(&until("2026-01-01T12:00:00Z"), "has expired");
    refused(&until("2025-01-01T00:00:00Z"), "has expired");
    let made = |at: &str| approved(|d| d.head.run.finished_at = at.parse().unwrap());
    assert!(told(&made("2026-01-01T12:05:00Z")).is_ok(), "clocks of two machines differ a little");
    refused(&made("2026-01-01T12:05:01Z"), "comes from the future");
}

#[test]
fn refuses_what_is_unsigned_or_signed_by_somebody_who_is_not_trusted() {
    let document = document(ApprovalBody { approval: Some(approval()) });
    refused(&to_bytes(&document, None).unwrap(), "is not signed");
    refused(&to_bytes(&document, Some(&key(9))).unwrap(), "not trusted");
}

#[test]
fn refuses_a_change_of_any_byte() {
    let bytes = of(|_| {});
    assert!(told(&bytes).is_ok());
    for at in 0..bytes.len() {
        for other in [bytes[at] ^ 1, bytes[at] ^ 0x20] {
            let mut changed = bytes.clone();
            changed[at] = other;
            assert!(told(&changed).is_err(), "byte {at} as {other}");
        }
    }
}

#[test]
fn refuses_another_document_and_its_signature() {
    let preflight = to_bytes(&document(PreflightBody::default()), Some(&key(2))).unwrap();
    refused(&preflight, "is not a document of `trapkey/approval/v1`");
    // The signature of a sound preflight.json, put into an approval.
    let mut forged: serde_json::Value = serde_json::from_slice(&of(|_| {})).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&preflight).unwrap();
    forged["signature"] = other["signature"].clone();
    refused(&serde_json::to_vec_pretty(&forged).unwrap(), "was changed after it was signed");
    for garbage in [&b""[..], b"{}", b"null", b"[]", b"\xff\xfe"] {
        assert!(told(garbage).is_err());
    }
}

/// A job over a plan in a folder of its own.
fn job(folder: &std::path::Path) -> Job {
    let plan = folder.join("release.yaml");
    std::fs::write(&plan, "version: 1\nservice: shop\nrelease: {version: \"1.1\"}\n").unwrap();
    Job::open(crate::job::Call {
        tool: "promote",
        plan,
        environment: None,
        evidence: folder.join("evidence"),
        state: None,
        set: BTreeMap::new(),
        ambient: std::collections::BTreeSet::new(),
        json: false,
        sign: None,
        keys: crate::job::KeyFiles::default(),
        trust: None,
        talk: crate::world::talk::Talk::new(true, crate::world::talk::Color::Never),
        started_at: crate::world::now(),
    })
    .unwrap()
}

#[test]
fn what_is_written_counts() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path());
    let order = |role: &str| Order {
        epoch: 7,
        promotion: Some("1f".into()),
        role: role.into(),
        step: Some(2),
        reason: None,
        expires_at: None,
        needs: Vec::new(),
    };
    let bytes = write(&job, order("product_owner"), &key(2)).unwrap();
    let approvers = approvers();
    let wanted = Wanted {
        approvers: &approvers,
        release: &job.release,
        plan: &job.loaded.reference.sha256,
        epoch: 7,
        promotion: Some("1f"),
        role: "product_owner",
        step: 2,
        needs: Vec::new(),
        now: crate::world::now(),
    };
    assert_eq!(check(&bytes, &trust(), &wanted).unwrap().who, "olga");
    let text = String::from_utf8(bytes).unwrap();
    let sentence = format!("product_owner approves step 2 of {} (promotion 7)", name_release(&job.release));
    assert!(text.contains(&sentence), "{text}");
    for role in ["", "../../etc/passwd", "a b", "a.b"] {
        assert_eq!(write(&job, order(role), &key(2)).unwrap_err().exit, crate::fault::Exit::Usage);
    }
}
