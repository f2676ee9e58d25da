//! What the tests of databases share: a snapshot of a live one, the comparison with it, and the way back
//! into a live one.

use std::io::Write;
use std::path::PathBuf;

use trapkey::evidence::{Finding, SourceRecord, Verdict};
use trapkey::fault::Fault;
use trapkey::plan::Loaded;
use trapkey::sources::{self, Order, ReadBack, intact};
use trapkey::units::Text;

use super::Place;
use crate::support::{Ended, run};

/// `create` with this URL in `DATABASE_URL`.
pub(crate) fn create(place: &Place, url: &str) -> Ended {
    run(place.command().arg("create").env("DATABASE_URL", url))
}

/// `create` that must succeed.
pub(crate) fn created(place: &Place, url: &str) {
    let ended = create(place, url);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

fn loaded(place: &Place, url: &str) -> Loaded {
    Loaded::read(&place.path("release.yaml"), [("DATABASE_URL".to_owned(), url.to_owned())].into()).unwrap()
}

fn records(place: &Place) -> Vec<SourceRecord> {
    serde_json::from_value(place.document()["snapshot"]["sources"].clone()).unwrap()
}

/// The live data against the document.
pub(crate) fn compare(place: &Place, url: &str) -> Vec<Finding> {
    let loaded = loaded(place, url);
    intact(&loaded.plan.snapshot.as_ref().unwrap().sources, &loaded, &records(place))
}

pub(crate) fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
    findings.iter().map(|f| f.verdict).collect()
}

/// Files of a restored snapshot.
struct Restored(PathBuf);

impl ReadBack for Restored {
    fn read(&self, path: &[u8], out: &mut dyn Write) -> Result<(), Fault> {
        let bytes = std::fs::read(self.0.join(std::str::from_utf8(path).unwrap())).unwrap();
        out.write_all(&bytes).map_err(|e| Fault::infrastructure("the pipe").cause(e))
    }
}

/// Restores the latest snapshot into the folder `back`, once.
pub(crate) fn folder(place: &Place) {
    if !place.path("back").exists() {
        place.good(&["restore", "--store", "store", "--to", "back"]);
    }
}

/// Restores the first source of the plan into a live place.
pub(crate) fn restore_into(place: &Place, url: &str, target: &str, force: bool) -> Result<String, Fault> {
    folder(place);
    let loaded = loaded(place, url);
    let spec = &loaded.plan.snapshot.as_ref().unwrap().sources[0];
    let source = sources::prepare(&Order { spec, loaded: &loaded }).map_err(|p| loaded.fault(p)).unwrap();
    let target = Text { value: target.to_owned(), shown: "--into".to_owned() };
    let back = Restored(place.path("back").join(&spec.name));
    source.restore_into(&target, force, &back, &records(place)[0].tables)
}

/// Nothing of a failed backup is listed, and the document says so.
pub(crate) fn assert_nothing_kept(place: &Place) {
    assert_eq!(place.document()["verdict"], "error");
    // Without the plan, whose variable is not set for `list`.
    let (plan, aside) = (place.path("release.yaml"), place.path("aside.yaml"));
    std::fs::rename(&plan, &aside).unwrap();
    let list = place.good(&["list", "--json", "--store", "store"]).stdout;
    std::fs::rename(&aside, &plan).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["snapshots"], serde_json::json!([]));
}

/// A secret is in none of these texts, and nowhere in the folder's store and evidence.
pub(crate) fn assert_kept_secret(place: &Place, secrets: &[&str], texts: &[&str]) {
    for secret in secrets {
        for text in texts {
            assert!(!text.contains(secret), "{text}");
        }
        for folder in ["store", "evidence"] {
            for file in super::walk(&place.path(folder)) {
                let bytes = std::fs::read(&file).unwrap();
                assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", file.display());
            }
        }
    }
}
