//! The rules of the house, read from the source: arrows point down, and shelves stay apart.

use std::path::{Path, PathBuf};

const FLOORS: &[&[&str]] = &[
    &[
        "bounds",
        "caught",
        "redact",
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
    ("tools/promote/live.rs", "the part is tried again by whoever waits for it"),
    ("tools/promote/live/twins.rs", "an address that is not known in time"),
    ("tools/promote/readers.rs", "trouble of that source; it is asked again"),
    ("tools/promote/shift.rs", "an answer that did not come"),
    ("tools/promote/well.rs", "a side that did not answer"),
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
