//! The rules of the house, read from the source: arrows point down, and shelves stay apart.

use std::path::{Path, PathBuf};

const FLOORS: &[&[&str]] = &[
    &[
        "bounds",
        "caught",
        "redact",
        "plain",
        "severity",
        "fault",
        "yaml",
        "units",
        "expectation",
        "calendar",
        "signature",
    ],
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

/// What others wrote ends up in lines that a CI system obeys: all of them go out by one door, which makes them harmless.
#[test]
fn every_line_goes_out_by_the_door() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("lib"), &mut files);
    sources(&root.join("bins"), &mut files);
    let door = root.join("lib/world/talk");
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| !file.with_extension("").starts_with(&door)) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for way in ["eprint!", "eprintln!", "println!", "print!(", "dbg!", "stderr()", "stdout()", ".print()"]
        {
            let found = code.match_indices(way).filter(|(at, _)| {
                // `into_stdout()`, `Stdio`'s and an order's own are pipes of children; `error.print()` of a terminal is allowed once.
                let before = &code[..*at];
                let own = before.ends_with("io::")
                    || !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "._:".contains(c));
                own || way.contains('!') || way == ".print()"
            });
            let allowed = usize::from(way == ".print()" && file.ends_with("lib/cli.rs"));
            if found.count() > allowed {
                wrong.push(format!("{}: {way}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these print past lib/world/talk.rs:\n{}", wrong.join("\n"));
}

/// A field of a document is free text, which is redacted, or something that its readers go by, which is not: whoever adds one
/// says which.
#[test]
fn every_text_of_a_document_is_known_as_free_or_as_fixed() {
    const FREE: &[&str] = &[
        "actor",
        "baseline",
        "by_hand",
        "change",
        "command",
        "done",
        "expected",
        "headline",
        "incomplete",
        "message",
        "not_encrypted_because",
        "not_seen",
        "notes",
        "observed",
        "output",
        "place",
        "proof",
        "query",
        "reason",
        "restic_command",
        "restore_command",
        "says",
        "split",
        "store",
        "summary",
        "target",
        "threshold",
        "unsigned",
        "url",
        "waits_for",
        "what",
        "who",
        "why",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = std::fs::read_to_string(root.join("lib/redact/structure.rs")).unwrap();
    let list = |name: &str| -> Vec<String> {
        let from = code.split(&format!("const {name}: &[&str] = &[")).nth(1).unwrap();
        from.split("];").next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let (fixed, whole, everything) = (list("FIXED"), list("WHOLE"), list("FREE"));
    let mut unknown = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(root.join("docs/schemas")).unwrap().flatten() {
        // The plan is read, and no tool writes one.
        if entry.file_name().to_string_lossy().starts_with("release.") {
            continue;
        }
        let schema: serde_json::Value =
            serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap();
        let empty = serde_json::Map::new();
        let mut left = vec![(String::new(), &schema)];
        let shapes = schema.get("$defs").and_then(|d| d.as_object()).unwrap_or(&empty);
        // Only the shapes that are not below a key that is whole or free.
        let mut seen = std::collections::BTreeSet::new();
        while let Some((key, node)) = left.pop() {
            if let Some(name) = node.get("$ref").and_then(|r| r.as_str()).and_then(|r| r.rsplit('/').next()) {
                if seen.insert((key.clone(), name.to_owned())) {
                    left.push((key, &shapes[name]));
                }
                continue;
            }
            for all in ["anyOf", "oneOf", "allOf"] {
                left.extend(
                    node.get(all).and_then(|n| n.as_array()).into_iter().flatten().map(|n| (key.clone(), n)),
                );
            }
            left.extend(node.get("items").map(|n| (key.clone(), n)));
            for (name, child) in node.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
                if !whole.contains(name) && !everything.contains(name) {
                    left.push((name.clone(), child));
                }
            }
            let kind = node.get("type");
            let text = kind.is_some_and(|t| {
                *t == "string" || t.as_array().is_some_and(|t| t.iter().any(|t| t == "string"))
            });
            let is_fixed = fixed.contains(&key) || key.ends_with("_at");
            if text && !is_fixed && !FREE.contains(&key.as_str()) {
                unknown.insert(key);
            }
        }
    }
    assert!(
        unknown.is_empty(),
        "say in lib/redact/structure.rs or here whether these are free text: {unknown:?}"
    );
    for key in FREE {
        assert!(!fixed.iter().any(|known| known == key), "{key}");
    }
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

/// The files of the library that ship, with what of them does: neither tests nor what only tests use.
fn shipped() -> Vec<(String, String)> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib");
    let mut files = Vec::new();
    sources(&lib, &mut files);
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let mut only_tests = Vec::new();
    for file in &files {
        let inside = if file.ends_with("lib.rs") { lib.clone() } else { file.with_extension("") };
        for rest in read(file).split("#[cfg(test)]").skip(1) {
            let declared = rest.trim_start().split(';').next().unwrap_or_default();
            let name = declared.rsplit("mod ").next().filter(|name| !name.contains(char::is_whitespace));
            only_tests.extend(name.filter(|_| declared.contains("mod ")).map(|name| inside.join(name)));
        }
    }
    let tests = |file: &PathBuf| {
        let bare = file.with_extension("");
        bare.ends_with("tests") || only_tests.iter().any(|folder| bare.starts_with(folder))
    };
    let mut all = Vec::new();
    for file in files.iter().filter(|file| !tests(file)) {
        let text = read(file);
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        all.push((file.strip_prefix(&lib).unwrap().display().to_string(), code.to_owned()));
    }
    assert!(all.len() > 200 && all.iter().any(|(name, _)| name == "bounds.rs"));
    all
}

/// Who opens files past `lib/bounds.rs`, and why that is as safe.
const PAST_THE_DOOR: &[(&str, &str)] = &[
    ("bounds.rs", "it is the door"),
    // Relative to an open folder, never through a link, never waiting, and looked at before anything is read.
    ("repository/restic/restore/target.rs", "openat"),
];

#[test]
fn files_are_opened_in_one_way() {
    let ways = [
        "File::open",
        "File::create",
        "File::options",
        "OpenOptions",
        "fs::read(",
        "fs::read_to_string(",
        "fs::write(",
        "fs::copy(",
        "fs::open(",
        "openat(",
        "pem_file",
        "from_path(",
    ];
    let mut wrong = Vec::new();
    for (file, code) in shipped() {
        if PAST_THE_DOOR.iter().any(|(known, _)| *known == file) {
            continue;
        }
        for way in ways.iter().filter(|way| code.contains(**way)) {
            wrong.push(format!("{file}: {way}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "open files by `bounds` (regular ones, never waited for):\n{}",
        wrong.join("\n")
    );
}

/// Who starts threads, and how one that breaks is told.
const THREADS: &[(&str, &str)] = &[
    ("checks/run.rs", "each attempt and each worker: an error of that check"),
    ("metrics/probe.rs", "what it did not measure is missing, and too few samples decide nothing"),
    ("repository/restic/archiver.rs", "the backup fails"),
    ("repository/restic/archiver/sealed.rs", "the scope breaks, and with it the proof"),
    ("repository/restic/backend/cached.rs", "the scope breaks, and with it the look"),
    ("repository/restic/check.rs", "the scope breaks, and with it the check"),
    ("repository/restic/packer.rs", "the backup fails"),
    ("repository/restic/restore/workers.rs", "the scope breaks, and with it the restore"),
    ("sources/mysql.rs", "the lock ends with its session; the dump is judged by its own end"),
    ("tools/promote/listen.rs", "the abort stays asked for, and the next call begins it again"),
    ("routers/ways.rs", "an address that is not known in time"),
    ("world/talk/stage.rs", "a line that is not shown"),
    ("tools/promote/dry_run.rs", "the part is tried again by whoever waits for it"),
    ("tools/promote/readers.rs", "trouble of that source; it is asked again"),
    ("tools/promote/shift.rs", "an answer that did not come"),
    ("tools/promote/ways_out.rs", "a side that did not answer"),
    ("tools/snapshot/hooks.rs", "a guard that does not answer"),
    ("tools/verify/metrics/ask.rs", "an error of that metric"),
    ("world/clock.rs", "it is done again"),
    ("world/net.rs", "a name that is not resolved"),
    ("world/postgres.rs", "a server to which there is no connection"),
    ("world/serve.rs", "that request is answered with 500"),
    ("world/shell.rs", "a stream that was not read to its end"),
    ("world/signal.rs", "a second signal is like the first"),
    ("world/talk.rs", "a line that is not shown"),
];

#[test]
fn it_is_known_how_a_thread_that_breaks_is_told() {
    let starts = ["thread::spawn(", "scope.spawn(", "thread::Builder", ".spawn_scoped("];
    let mut wrong = Vec::new();
    for (file, code) in shipped() {
        let known = THREADS.iter().any(|(known, _)| *known == file);
        let starts = starts.iter().any(|way| code.contains(way));
        if known != starts {
            wrong.push(format!("{file}: {}", if starts { "starts threads" } else { "starts none any more" }));
        }
    }
    assert!(wrong.is_empty(), "say in THREADS what becomes of a panic:\n{}", wrong.join("\n"));
}

#[test]
fn a_panic_can_be_caught_in_what_is_released() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let profiles = manifest.split("[profile.").skip(1);
    for profile in profiles {
        assert!(!profile.contains("panic = \"abort\""), "[profile.{profile}");
    }
}
