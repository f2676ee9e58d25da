//! Tests: the repository in restic's format, with the real `restic` as its judge.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use trapkey::fault::Fault;
use trapkey::repository::restic::{
    Health, How, Id, Local, NodeKind, Passphrase, Progress, ReadData, Repository, Restored, Sealed, Spec,
    Take, Thrift,
};

use crate::snapshot::noise;
use crate::support::folder;

mod anywhere;
mod damaged;
mod kills;
mod makers;
mod s3;
mod s3_faults;
mod s3_rights;
mod shared;
pub(crate) mod stops;
mod theirs;
mod windows;
mod written;

pub(crate) const WORD: &str = "a pass phrase";

/// A folder with a source and a repository.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Self { folder: folder() };
        std::fs::create_dir(lab.path("src")).unwrap();
        lab
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    pub(crate) fn write(&self, inside: &str, bytes: &[u8]) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A source with everything that a folder may hold.
    pub(crate) fn corpus(&self) {
        self.write("src/a.txt", b"some text\n");
        self.write("src/empty", b"");
        self.write("src/deep/er/and/deeper/b.txt", &b"the same line again\n".repeat(5000));
        self.write("src/large.bin", &noise(5_000_000, 3));
        self.write("src/again.bin", &noise(5_000_000, 3));
        self.write("src/sparse", &zeros(3_000_000, b"end"));
        for i in 0..40 {
            self.write(&format!("src/many/{i}.txt"), format!("file {i}").repeat(i).as_bytes());
        }
        let src = self.path("src");
        std::fs::create_dir(src.join("nothing")).unwrap();
        std::os::unix::fs::symlink("a.txt", src.join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere/\u{e9}", src.join("dangling")).unwrap();
        std::fs::hard_link(src.join("large.bin"), src.join("hard")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"odd \xff\x01\"\\<&>\n name");
        std::fs::create_dir(src.join("odd")).unwrap();
        std::fs::write(src.join("odd").join(odd), "odd").unwrap();
        std::fs::write(src.join("odd/grüße 猫 😀 \u{a0}\u{200b}"), "said").unwrap();
        std::os::unix::fs::symlink("<&>\u{2028}", src.join("odd/link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            src.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        rustix::fs::setxattr(src.join("a.txt"), "user.word", b"\0value\xff", rustix::fs::XattrFlags::empty())
            .unwrap();
        std::fs::set_permissions(src.join("a.txt"), PermissionsExt::from_mode(0o4750)).unwrap();
        std::fs::set_permissions(src.join("nothing"), PermissionsExt::from_mode(0o1777)).unwrap();
        std::fs::set_permissions(src.join("many"), PermissionsExt::from_mode(0o555)).unwrap();
        let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        std::fs::File::open(src.join("many/3.txt")).unwrap().set_modified(old).unwrap();
        std::fs::File::open(src.join("deep")).unwrap().set_modified(old).unwrap();
    }

    pub(crate) fn backend(&self) -> Arc<Local> {
        Arc::new(Local::new(self.path("repo")))
    }

    pub(crate) fn init(&self) -> Repository {
        Repository::init(self.backend(), &word(), Duration::ZERO).unwrap()
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open(self.backend(), &word()).unwrap()
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::new(vec![self.path("src").display().to_string()])
    }

    /// Backs up `src` to where restic would put it.
    pub(crate) fn sealed(&self, repository: &Repository, spec: Spec) -> Result<Sealed, Fault> {
        let mut archive = repository.begin(spec)?;
        let src = self.path("src");
        archive.folder(&src, &src, &everything)?;
        archive.seal()
    }

    pub(crate) fn backup(&self, repository: &Repository) -> Id {
        self.sealed(repository, self.spec()).unwrap().commit().unwrap()
    }

    /// Restores everything as root does it, into a folder.
    pub(crate) fn restore(&self, repository: &Repository, id: Id, into: &str) -> Restored {
        let how = How { owners: true, devices: true, ..How::default() };
        let opened = repository.read(id).unwrap();
        opened.restore(&self.path(into), &how, &Progress::default()).unwrap()
    }

    /// Every file below a folder of the repository.
    pub(crate) fn stored(&self, folder: &str) -> Vec<PathBuf> {
        crate::snapshot::walk(&self.path("repo").join(folder))
    }

    fn restic_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .args(["--no-cache", "-q", "-r"])
            .arg(self.path("repo"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("RESTIC_PASSWORD", WORD);
        command
    }

    /// Runs restic, which must succeed.
    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        let output = self.restic_command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs restic, which must fail, and returns what it says.
    pub(crate) fn restic_fails(&self, arguments: &[&str]) -> String {
        let output = self.restic_command(arguments).output().unwrap();
        assert!(!output.status.success(), "restic {arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn restic_json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.restic(&[arguments, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn word() -> Passphrase {
    Passphrase::new(WORD).unwrap()
}

/// Checks everything.
pub(crate) fn check(repository: &Repository) -> Health {
    repository.check(ReadData::All, &|_, _| {}).unwrap()
}

/// Zeros, and something behind them.
pub(crate) fn zeros(many: usize, end: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; many];
    bytes.extend_from_slice(end);
    bytes
}

pub(crate) fn everything(_: &Path, _: NodeKind) -> bool {
    true
}

/// Everything that can be compared of a folder: by path, what it is, modes, owners, times, targets,
/// attributes, names of the same inode, and content.
pub(crate) fn picture(at: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    picture_of(at, at, &mut found, &mut inodes);
    assert!(found.len() > 1);
    found
}

fn picture_of(
    root: &Path,
    at: &Path,
    found: &mut BTreeMap<PathBuf, String>,
    inodes: &mut BTreeMap<u64, PathBuf>,
) {
    let meta = std::fs::symlink_metadata(at).unwrap();
    let inside = at.strip_prefix(root).unwrap().to_path_buf();
    let kind = meta.file_type();
    let mut text =
        format!("{:o} {}:{} {}.{:09}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
    if kind.is_symlink() {
        text += &format!(" -> {}", std::fs::read_link(at).unwrap().display());
    } else if kind.is_char_device() || kind.is_block_device() {
        text += &format!(" device {:x}", meta.rdev());
    } else if kind.is_file() {
        let sum = Id::of(&std::fs::read(at).unwrap());
        let first = inodes.entry(meta.ino()).or_insert_with(|| inside.clone());
        text += &format!(" {} bytes {sum} first {}", meta.len(), first.display());
        let mut value = [0; 100];
        if let Ok(length) = rustix::fs::getxattr(at, "user.word", &mut value[..]) {
            text += &format!(" {:?}", &value[..length]);
        }
    }
    found.insert(inside, text);
    if kind.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            picture_of(root, &path, found, inodes);
        }
    }
}
