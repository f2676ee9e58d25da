//! Tests: snapshot.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ended, call, folder, json, tool, wait_until};

mod compose;
mod database;
mod diff;
mod drill;
mod files;
mod hooks;
mod keys;
mod kills;
mod kinds;
mod kubernetes;
mod live;
mod mysql;
mod pins;
mod prune;
mod redis;
mod restore;
mod sqlite;
mod stops;
mod store;
mod versions;

/// A folder with a plan.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    /// A plan with these sources, given as lines of YAML.
    pub(crate) fn new(sources: &str) -> Self {
        let place = Self { folder: folder() };
        place.plan(sources, "");
        place
    }

    pub(crate) fn plan(&self, sources: &str, more: &str) {
        let sources: String = sources.lines().flat_map(|line| ["    - ", line.trim(), "\n"]).collect();
        let text = format!(
            "version: 1\nservice: shop\nrelease: {{version: 1.4.2}}\n{more}snapshot:\n  store: store\n  encryption: {{none_needed_because: a test}}\n  sources:\n{sources}"
        );
        self.write("release.yaml", text.as_bytes());
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    pub(crate) fn write(&self, inside: &str, bytes: &[u8]) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn script(&self, inside: &str, text: &str) {
        self.write(inside, format!("#!/bin/sh\n{text}\n").as_bytes());
        std::fs::set_permissions(self.path(inside), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Ended {
        call("snapshot", self.folder.path(), arguments)
    }

    /// Runs a command that must succeed.
    pub(crate) fn good(&self, arguments: &[&str]) -> Ended {
        let ended = self.call(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        ended
    }

    /// Creates a snapshot and returns the document.
    pub(crate) fn create(&self) -> Value {
        self.good(&["create"]);
        self.document()
    }

    pub(crate) fn document(&self) -> Value {
        json(&self.path("evidence/snapshot.json"))
    }

    pub(crate) fn command(&self) -> Command {
        tool("snapshot", self.folder.path())
    }

    /// Begins `create` and waits until `file` is there.
    pub(crate) fn begin(&self, file: &str) -> Child {
        let child =
            self.command().arg("create").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(file, || self.path(file).exists());
        child
    }

    pub(crate) fn listed(&self) -> usize {
        let list: Value = serde_json::from_str(&self.good(&["list", "--json"]).stdout).unwrap();
        list["snapshots"].as_array().unwrap().len()
    }

    /// No snapshot is listed, nothing is locked or half written, and the store is whole.
    pub(crate) fn assert_nothing_kept(&self) {
        if !self.path("store/config").exists() {
            return;
        }
        assert_eq!(self.listed(), 0);
        let left = |folder: &str| walk(&self.path("store").join(folder));
        assert_eq!((left("snapshots"), left("locks")), (Vec::new(), Vec::new()));
        let odd = |path: &PathBuf| path.file_name().is_none_or(|name| name.len() != 64);
        assert_eq!(left("data").into_iter().filter(odd).collect::<Vec<_>>(), Vec::<PathBuf>::new());
        self.good(&["check", "--read-data"]);
    }
}

/// Every file below a folder, sorted.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// How often a test that lasts long does its work: so often, and in a soak `usual` times its factor.
pub(crate) fn rounds(quick: u64, usual: u64) -> u64 {
    if std::env::var_os("TRAPKEY_SOAK").is_some() { crate::promote::rounds(usual) } else { quick }
}

pub(crate) fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Bytes without pattern, always the same.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut number = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        number.to_le_bytes()[3]
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}
