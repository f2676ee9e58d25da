//! The rules of the house, read from the source: arrows point down, and shelves stay apart.

use std::path::{Path, PathBuf};

const FLOORS: &[&[&str]] = &[
    &["bounds", "caught", "redact", "severity", "fault", "yaml", "units", "expectation", "calendar", "signature"],
    &["evidence", "plan"],
    &["world"],
    &["checks", "sources", "repository", "routers", "metrics", "judge", "renderers", "state"],
    &["job"],
    &["tools"],
    &["cli"],
];
const SHELVES: usize = 3;

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("the module `{module}` has no floor: add it to FLOORS and to lib/lib.rs"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_module_uses_a_higher_floor_and_shelves_stay_apart() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib");
    let mut files = Vec::new();
    sources(&lib, &mut files);
    assert!(files.len() > 20);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&lib).unwrap();
        let own = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if own == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for piece in text.split("crate::").skip(1) {
            let other: String =
                piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if other.is_empty() || other == own {
                continue;
            }
            let (from, to) = (floor(&own), floor(&other));
            if to > from || (from == SHELVES && to == SHELVES) {
                wrong.push(format!("{} uses crate::{other}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "upward or sideways arrows:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_no_io_and_read_no_clock() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib");
    let mut files =
        vec![lib.join("tools/promote/machine.rs"), lib.join("judge.rs"), lib.join("renderers.rs")];
    for folder in ["judge", "renderers"] {
        if lib.join(folder).is_dir() {
            sources(&lib.join(folder), &mut files);
        }
    }
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for door in [
            "crate::world",
            "std::fs",
            "std::net",
            "std::process",
            "Timestamp::now",
            "Instant::now",
            "SystemTime",
        ] {
            if code.contains(door) {
                wrong.push(format!("{}: {door}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
