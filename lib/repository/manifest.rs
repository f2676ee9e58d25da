//! What a snapshot consists of, and the refusal of manifests that lie about paths.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::MAX_CHUNK;
use crate::evidence::hex;
use crate::fault::Fault;

/// The format of a manifest.
pub const FORMAT: &str = "trapkey/snapshot-manifest/v1";

/// A whole snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// What it was made for.
    pub label: Label,
    /// Source by source.
    pub sources: Vec<Part>,
}

/// What a snapshot was made for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The service.
    pub service: String,
    /// The version that was about to be released.
    pub version: String,
    /// Where to.
    pub environment: String,
    /// The machine that made it.
    pub host: String,
    /// The version of Trapkey.
    pub tool: String,
}

/// One source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the plan: the folder that it is restored to.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What was backed up, secrets left out.
    pub target: String,
    /// Its files, folders and links.
    pub entries: Vec<Entry>,
}

/// One file, folder or link.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Entry {
    /// Its path inside the source; empty for the source's own folder.
    pub path: Name,
    /// Permission bits.
    pub mode: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// What it is.
    #[serde(flatten)]
    pub what: What,
}

/// What an entry is.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A file.
    File(Content),
    /// A folder.
    Folder {},
    /// A symbolic link, kept as it is.
    Link {
        /// Where it points.
        to: Name,
    },
}

/// The bytes of a file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// The SHA-256 of all of them in hexadecimal.
    pub sha256: String,
    /// The pieces in their order.
    pub chunks: Vec<Chunk>,
}

/// One piece of a file.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Its SHA-256 in hexadecimal, which is its name in the store.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u32,
}

/// A path as the file system has it: bytes, which need not be UTF-8.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub Vec<u8>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may hold line breaks and escape sequences, which must not reach a terminal.
        String::from_utf8_lossy(&self.0).escape_debug().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes { hex: String },
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Written::Bytes { hex: hex(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Bytes { hex } => {
                unhex(&hex).map(Self).ok_or_else(|| de::Error::custom("a name is not in hexadecimal"))
            }
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

impl Part {
    /// Files, and the bytes of all of them.
    pub fn totals(&self) -> (u64, u64) {
        self.contents().fold((0, 0), |(files, bytes), (_, c)| (files + 1, bytes.saturating_add(c.size)))
    }

    /// Every file with its bytes.
    pub fn contents(&self) -> impl Iterator<Item = (&Entry, &Content)> {
        self.entries.iter().filter_map(|e| match &e.what {
            What::File(content) => Some((e, content)),
            What::Folder {} | What::Link { .. } => None,
        })
    }
}

impl Manifest {
    /// Refuses (4) a manifest that could write outside its target or that contradicts itself.
    ///
    /// A manifest is input like any other: whoever can write to the store could have made it.
    pub fn sane(&self) -> Result<(), Fault> {
        let refuse = |why: String| {
            Fault::infrastructure("the snapshot's manifest is not one that Trapkey writes")
                .cause(why)
                .help("do not use this snapshot; find out who changed the store")
        };
        if self.format != FORMAT {
            return Err(refuse(format!("its format is `{}`; known here is `{FORMAT}`", self.format)));
        }
        let mut names = std::collections::BTreeSet::new();
        for part in &self.sources {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if part.name.is_empty() || part.name.starts_with('.') || !part.name.chars().all(plain) {
                return Err(refuse(format!("the source name {:?} is no plain name", part.name)));
            }
            if !names.insert(&part.name) {
                return Err(refuse(format!("two sources are named `{}`", part.name)));
            }
            sane_part(part).map_err(|why| refuse(format!("{}: {why}", part.name)))?;
        }
        Ok(())
    }
}

fn sane_part(part: &Part) -> Result<(), String> {
    let mut seen: BTreeMap<&[u8], bool> = BTreeMap::new();
    for entry in &part.entries {
        let folder = matches!(entry.what, What::Folder {});
        sane_path(&entry.path.0, folder).map_err(|why| format!("{}: {why}", entry.path))?;
        if seen.insert(&entry.path.0, folder).is_some() {
            return Err(format!("{} is there twice", entry.path));
        }
        match &entry.what {
            What::File(content) => sane_content(content).map_err(|why| format!("{}: {why}", entry.path))?,
            What::Link { to } if to.0.is_empty() || to.0.contains(&0) => {
                return Err(format!("{} is a link to nowhere", entry.path));
            }
            What::Link { .. } | What::Folder {} => {}
        }
    }
    // Below a link or a file there is nothing: else a link would lead the writer out of the target.
    for path in seen.keys() {
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            if seen.get(&path[..at]) == Some(&false) {
                let above = Name(path[..at].to_vec());
                return Err(format!("{} lies below {above}, which is no folder", Name(path.to_vec())));
            }
        }
    }
    Ok(())
}

fn sane_path(path: &[u8], folder: bool) -> Result<(), String> {
    if path.is_empty() {
        return if folder { Ok(()) } else { Err("has no name".into()) };
    }
    if path.contains(&0) {
        return Err("has a NUL in its name".into());
    }
    for step in path.split(|b| *b == b'/') {
        match step {
            b"" => return Err("is absolute or has an empty step".into()),
            b"." | b".." => return Err("leads elsewhere with `.` or `..`".into()),
            _ => {}
        }
    }
    Ok(())
}

fn sane_content(content: &Content) -> Result<(), String> {
    let digest = |text: &str| {
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if !digest(&content.sha256) || !content.chunks.iter().all(|c| digest(&c.sha256)) {
        return Err("has a digest that is none".into());
    }
    if content.chunks.iter().any(|c| c.size == 0 || c.size > MAX_CHUNK) {
        return Err("has a chunk of an impossible size".into());
    }
    let sum: u64 = content.chunks.iter().map(|c| u64::from(c.size)).sum();
    if sum != content.size {
        return Err(format!("has {} bytes, but its chunks have {sum}", content.size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(entries: Vec<Entry>) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            created_at: Timestamp::UNIX_EPOCH,
            label: Label::default(),
            sources: vec![Part { name: "a".into(), kind: "files".into(), target: "x".into(), entries }],
        }
    }

    fn entry(path: &[u8], what: What) -> Entry {
        Entry { path: Name(path.to_vec()), mode: 0o644, mtime: (0, 0), what }
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        let file = || What::File(Content { size: 0, sha256: "0".repeat(64), chunks: vec![] });
        for path in [&b"../x"[..], b"/etc/x", b"a/../x", b"a//x", b"./x", b"a/", b"", b"a\0b", b".."] {
            assert!(manifest(vec![entry(path, file())]).sane().is_err(), "{path:?}");
        }
        for path in [&b"x"[..], b"a/b", b"..x", b"a/..b", b"\xff\xfe"] {
            assert!(manifest(vec![entry(path, file())]).sane().is_ok(), "{path:?}");
        }
    }

    #[test]
    fn refuses_files_below_links_and_names_given_twice() {
        let file = || What::File(Content { size: 0, sha256: "0".repeat(64), chunks: vec![] });
        let link = || What::Link { to: Name(b"/etc".to_vec()) };
        assert!(manifest(vec![entry(b"l", link())]).sane().is_ok());
        assert!(manifest(vec![entry(b"l", link()), entry(b"l/x", file())]).sane().is_err());
        assert!(manifest(vec![entry(b"l/x/y", file()), entry(b"l", link())]).sane().is_err());
        assert!(manifest(vec![entry(b"l", link()), entry(b"l", file())]).sane().is_err());
        let mut twice = manifest(vec![]);
        twice.sources.push(twice.sources[0].clone());
        assert!(twice.sane().is_err());
        for name in ["..", ".x", "a/b", "", "/"] {
            let mut wrong = manifest(vec![]);
            wrong.sources[0].name = name.into();
            assert!(wrong.sane().is_err(), "{name}");
        }
    }

    #[test]
    fn refuses_contents_that_do_not_add_up() {
        let chunk = |size| Chunk { sha256: "0".repeat(64), size };
        let with = |size, chunks| {
            manifest(vec![entry(b"x", What::File(Content { size, sha256: "0".repeat(64), chunks }))]).sane()
        };
        assert!(with(3, vec![chunk(3)]).is_ok());
        assert!(with(4, vec![chunk(3)]).is_err());
        assert!(with(0, vec![chunk(0)]).is_err());
        assert!(with(u64::from(MAX_CHUNK) + 1, vec![chunk(MAX_CHUNK + 1)]).is_err());
        let outside = Chunk { sha256: format!("../../{}", "0".repeat(58)), size: 3 };
        assert!(with(3, vec![outside]).is_err());
    }

    #[test]
    fn keeps_names_that_are_not_utf_8() {
        let before = vec![
            entry(b"a\xffb", What::Link { to: Name(b"\x80".to_vec()) }),
            entry(b"plain", What::Folder {}),
        ];
        let text = serde_json::to_string(&before).unwrap();
        assert!(text.contains(r#"{"hex":"61ff62"}"#) && text.contains(r#""plain""#), "{text}");
        let after: Vec<Entry> = serde_json::from_str(&text).unwrap();
        assert_eq!(before, after);
        assert!(serde_json::from_str::<Name>(r#"{"hex":"6"}"#).is_err());
    }
}
