//! Doors for the fuzzer (`tests/fuzz.rs`): every reader of bytes that somebody else may have written.
//!
//! Whoever can write to the store, or has the key, chooses these bytes. A reader may refuse them; it may
//! not panic, take long, take much memory, or accept what it does not mean.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::archiver::Progress;
use super::backend::{Backend, Kind, Name};
use super::check::ReadData;
use super::config::Config;
use super::crypto::Key;
use super::id::Id;
use super::index::{self, Index};
use super::locks::LockInfo;
use super::node::{Attribute, Moment, Node, NodeKind};
use super::pack::{self, Blob, BlobKind};
use super::packer::{Packer, lock};
use super::prune::Thrift;
use super::restore::How;
use super::snapshot::Snapshot;
use super::store::{Scratch, Store};
use super::{Repository, codec, keys, manifest, quoting, tree};
use crate::fault::Fault;

/// One reader, and bytes that it understands.
#[derive(Debug)]
pub struct Reader {
    /// What it reads.
    pub name: &'static str,
    /// Valid inputs, to be spoiled.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Whether it understood the bytes. Errors: a rule that was broken.
    pub read: fn(&[u8]) -> Result<bool, String>,
}

/// All of them.
pub static READERS: &[Reader] = &[
    Reader { name: "tree", samples: tree_samples, read: read_tree },
    Reader { name: "index", samples: index_samples, read: read_index },
    Reader { name: "header", samples: header_samples, read: read_header },
    Reader { name: "snapshot", samples: snapshot_samples, read: read_snapshot },
    Reader { name: "key", samples: key_samples, read: read_key },
    Reader { name: "config", samples: config_samples, read: read_config },
    Reader { name: "lock", samples: lock_samples, read: read_lock },
    Reader { name: "packed", samples: packed_samples, read: read_packed },
    Reader { name: "blob", samples: blob_samples, read: read_blob },
    Reader { name: "name", samples: name_samples, read: read_name },
    Reader { name: "manifest", samples: manifest_samples, read: read_manifest },
    Reader { name: "repository", samples: repository_samples, read: read_repository },
];

/// Makes a repository whose only snapshot has exactly this tree, for tests of whoever restores it.
///
/// `CONTENT` in the tree's JSON stands for the id of a piece that says `evil`, `BELOW` for a folder with a
/// file `victim` of it.
///
/// Errors: those of the store.
pub fn plant(at: &Path, passphrase: &super::Passphrase, tree: &str) -> Result<(), Fault> {
    let backend = Arc::new(super::Local::new(at.to_path_buf()));
    let repository = Repository::init(backend, passphrase, std::time::Duration::ZERO)?;
    let packer = Packer::new(Arc::clone(&repository.store), Arc::new(Index::default()));
    let mut scratch = Scratch::default();
    let content = packer.save(BlobKind::Data, b"evil", &mut scratch)?;
    let victim =
        Node { name: b"victim".to_vec(), mode: 0o644, content: Some(vec![content]), ..Node::default() };
    let below = packer.save(BlobKind::Tree, &tree::to_json(&[victim]), &mut scratch)?;
    let tree = tree.replace("CONTENT", &content.to_string()).replace("BELOW", &below.to_string());
    let root = packer.save(BlobKind::Tree, tree.as_bytes(), &mut scratch)?;
    packer.flush()?;
    let json = format!("{{\"time\":\"2026-01-01T00:00:00Z\",\"tree\":\"{root}\",\"paths\":[\"/x\"]}}");
    repository.store.save(Kind::Snapshot, json.as_bytes()).map(drop)
}

/// Whether a rule holds.
fn holds(rule: bool, what: &str) -> Result<(), String> {
    if rule { Ok(()) } else { Err(what.to_owned()) }
}

fn tree_samples() -> Vec<Vec<u8>> {
    vec![root(), tree::to_json(&[]), b"{\"nodes\":null}".to_vec()]
}

fn read_tree(bytes: &[u8]) -> Result<bool, String> {
    let Ok(nodes) = tree::parse(bytes) else { return Ok(false) };
    let mut names: Vec<&[u8]> = nodes.iter().map(|node| &*node.name).collect();
    holds(names.iter().all(|name| Node::name_is_sane(name)), "a name leads elsewhere")?;
    names.sort_unstable();
    holds(names.windows(2).all(|two| two[0] != two[1]), "a name is there twice")?;
    let written = tree::to_json(&nodes);
    let again = tree::parse(&written).map_err(|why| format!("what was written is not read: {why}"))?;
    holds(tree::to_json(&again) == written, "a folder is written differently the second time")?;
    Ok(true)
}

fn blobs() -> Vec<Blob> {
    let blob = |n: u8, kind, uncompressed| Blob {
        kind,
        id: Id([n; 32]),
        offset: u32::from(n) * 100,
        length: 100,
        uncompressed,
    };
    vec![blob(0, BlobKind::Data, 0), blob(1, BlobKind::Tree, 900), blob(2, BlobKind::Data, 70)]
}

fn index_samples() -> Vec<Vec<u8>> {
    let packs = [(Id([8; 32]), blobs()), (Id([9; 32]), Vec::new())];
    let with = |packs: &[index::Packed], gone: &[Id]| index::to_json(packs, gone).unwrap_or_default();
    vec![with(&packs, &[Id([7; 32])]), with(&packs[..1], &[]), with(&[], &[])]
}

fn read_index(bytes: &[u8]) -> Result<bool, String> {
    let Ok(packs) = index::parse(bytes) else { return Ok(false) };
    holds(packs.iter().flat_map(|(_, blobs)| blobs).all(|blob| blob.sane().is_ok()), "a blob is not sane")?;
    let written = index::to_json(&packs, &[]).map_err(|e| e.to_string())?;
    holds(index::parse(&written).as_ref() == Ok(&packs), "an index is read differently the second time")?;
    Ok(true)
}

fn header_samples() -> Vec<Vec<u8>> {
    vec![pack::header(&blobs()), pack::header(&[])]
}

fn read_header(bytes: &[u8]) -> Result<bool, String> {
    // The end of a pack as well: the same bytes as its last ones, and as its length.
    if let Some((rest, last)) = bytes.split_last_chunk::<4>() {
        let length = rest.first_chunk::<8>().map_or(bytes.len() as u64, |long| u64::from_le_bytes(*long));
        if let Ok((offset, header)) = pack::header_place(length, *last) {
            holds(offset + header as u64 + 4 == length, "a header does not end where it should")?;
        }
    }
    let Ok(blobs) = pack::parse_header(bytes) else { return Ok(false) };
    holds(blobs.iter().all(|blob| blob.sane().is_ok()), "a blob is not sane")?;
    holds(pack::header(&blobs) == bytes, "a header is written differently")?;
    Ok(true)
}

fn snapshot_samples() -> Vec<Vec<u8>> {
    let summary = r#"{"backup_start":"2026-01-01T00:00:00Z","backup_end":"2026-01-01T00:00:01Z","files_new":1,"files_changed":2,"files_unmodified":3,"dirs_new":4,"dirs_changed":5,"dirs_unmodified":6,"data_blobs":7,"tree_blobs":8,"data_added":9,"data_added_packed":10,"total_files_processed":11,"total_bytes_processed":12}"#;
    let id = Id([5; 32]);
    let long = format!(
        r#"{{"time":"2015-01-02T18:10:50.895208559+01:00","parent":"{id}","tree":"{id}","paths":["/a","/b"],"hostname":"kasimir","username":"fd0","uid":1000,"gid":100,"excludes":["*.o"],"tags":["NL"],"original":"{id}","program_version":"restic 0.18","later":{{"x":[1,null]}},"summary":{summary}}}"#
    );
    let short = format!(r#"{{"time":"2026-01-01T00:00:00Z","tree":"{id}","paths":null,"tags":null}}"#);
    vec![long.into_bytes(), short.into_bytes()]
}

fn read_snapshot(bytes: &[u8]) -> Result<bool, String> {
    let Ok(snapshot) = Snapshot::parse(bytes) else { return Ok(false) };
    let written = serde_json::to_vec(&snapshot).map_err(|e| e.to_string())?;
    let again = Snapshot::parse(&written).map_err(|why| format!("what was written is not read: {why}"))?;
    let second = serde_json::to_vec(&again).map_err(|e| e.to_string())?;
    holds(second == written, "a snapshot is written differently the second time")?;
    Ok(true)
}

fn key_samples() -> Vec<Vec<u8>> {
    keys::samples()
}

#[expect(clippy::unnecessary_wraps, reason = "as all readers")]
fn read_key(bytes: &[u8]) -> Result<bool, String> {
    Ok(keys::try_bytes(bytes))
}

fn config_samples() -> Vec<Vec<u8>> {
    let id = Id([5; 32]);
    vec![
        format!("{{\"version\":2,\"id\":\"{id}\",\"chunker_polynomial\":\"25b468838dcb75\"}}").into_bytes(),
        format!("{{\"version\":1,\"id\":\"{id}\",\"chunker_polynomial\":\"3289c80c130705\"}}").into_bytes(),
    ]
}

fn read_config(bytes: &[u8]) -> Result<bool, String> {
    let Ok(config) = Config::parse(bytes) else { return Ok(false) };
    holds(matches!(config.version, 1 | 2), "an unknown version")?;
    let written = serde_json::to_vec(&config).map_err(|e| e.to_string())?;
    let again = Config::parse(&written)?;
    holds(again.id == config.id && again.seed() == config.seed(), "a config is read differently")?;
    Ok(true)
}

fn lock_samples() -> Vec<Vec<u8>> {
    let lock =
        |rest: &str| format!("{{\"time\":\"2026-01-01T00:00:00Z\",\"exclusive\":{rest}}}").into_bytes();
    vec![
        lock(r#"true,"hostname":"h","username":"u","pid":4711,"uid":1,"gid":2"#),
        lock(r#"false,"hostname":"elsewhere","username":"u","pid":-1"#),
        lock("false"),
    ]
}

fn read_lock(bytes: &[u8]) -> Result<bool, String> {
    let Ok(info) = serde_json::from_slice::<LockInfo>(bytes) else { return Ok(false) };
    for now in [jiff::Timestamp::MIN, jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX] {
        info.stale(now, "h");
    }
    let written = serde_json::to_vec(&info).map_err(|e| e.to_string())?;
    serde_json::from_slice::<LockInfo>(&written).map_err(|e| format!("what was written is not read: {e}"))?;
    Ok(true)
}

fn packed_samples() -> Vec<Vec<u8>> {
    let json = index_samples().remove(0);
    let zeros = codec::pack_json(&vec![b' '; 3_000_000]).unwrap_or_default();
    vec![codec::pack_json(&json).unwrap_or_default(), json, zeros]
}

fn read_packed(bytes: &[u8]) -> Result<bool, String> {
    const MOST: u64 = 16 * 1024 * 1024;
    let Ok(json) = codec::unpack_json(bytes.to_vec(), MOST) else { return Ok(false) };
    holds(json.len() as u64 <= MOST, "more was unpacked than was allowed")?;
    let packed = codec::pack_json(&json).map_err(|e| e.to_string())?;
    holds(codec::unpack_json(packed, MOST) == Ok(json), "JSON is not unpacked as it was packed")?;
    Ok(true)
}

/// The plain length that is said (4 bytes), and what is sealed.
fn blob_samples() -> Vec<Vec<u8>> {
    let with = |length: u32, bytes: &[u8]| [&length.to_le_bytes()[..], bytes].concat();
    let text = b"some text, and again some text".repeat(300);
    let mut packed = Vec::new();
    let fits = codec::compress(&text, &mut packed).is_ok();
    let length = u32::try_from(text.len()).unwrap_or_default();
    vec![with(if fits { length } else { 0 }, &packed), with(0, &text), with(0, b"")]
}

fn read_blob(bytes: &[u8]) -> Result<bool, String> {
    let Some((said, stored)) = bytes.split_first_chunk::<4>() else { return Ok(false) };
    let store = store();
    let mut sealed = Vec::new();
    store.key.encrypt(stored, &mut sealed).map_err(|fault| fault.line())?;
    let mut blob = Blob {
        kind: BlobKind::Data,
        id: Id::of(stored),
        offset: 0,
        length: u32::try_from(sealed.len()).unwrap_or(u32::MAX),
        uncompressed: u32::from_le_bytes(*said),
    };
    if blob.sane().is_err() {
        return Ok(false);
    }
    let mut scratch = Scratch::default();
    if store.open_blob(&sealed, &blob, &mut scratch).is_ok() {
        holds(Id::of(&scratch.plain) == blob.id, "a blob was taken for another")?;
    } else if blob.uncompressed != 0 && !scratch.plain.is_empty() {
        // What it would be if its name were right.
        blob.id = Id::of(&scratch.plain);
        let opened = store.open_blob(&sealed, &blob, &mut scratch);
        let right = scratch.plain.len() == blob.uncompressed as usize;
        holds(opened.is_err() || right, "a blob has another length than it says")?;
    }
    let at = usize::from(said[0]) % sealed.len();
    sealed[at] ^= 1 << (said[1] % 8);
    holds(store.open_blob(&sealed, &blob, &mut scratch).is_err(), "a flipped bit was not seen")?;
    Ok(blob.uncompressed != 0)
}

fn name_samples() -> Vec<Vec<u8>> {
    let odd: [&[u8]; 4] = [
        b"a\\xff\\u00e9\\U0001f600\\101\\n",
        b"plain",
        "grüße 猫 \u{301}\u{a0}".as_bytes(),
        b"\xff\\\"\t\n/..",
    ];
    odd.iter().map(|name| name.to_vec()).collect()
}

fn read_name(bytes: &[u8]) -> Result<bool, String> {
    let quoted = quoting::quote(bytes);
    holds(quoting::unquote(&quoted).as_deref() == Some(bytes), "a name does not come back")?;
    holds(!quoted.chars().any(char::is_control), "a quoted name has a control character")?;
    let mut json = String::new();
    quoting::json_string(&quoted, &mut json);
    holds(serde_json::from_str(&json).ok() == Some(quoted), "JSON does not come back")?;
    Ok(std::str::from_utf8(bytes).is_ok_and(|text| quoting::unquote(text).is_some()))
}

fn manifest_samples() -> Vec<Vec<u8>> {
    let paths = [&b"a/plain name"[..], b"a/back\\slash\nand\rbreaks", b"a/\xff"];
    let lines: Vec<_> = paths.iter().map(|path| (path.to_vec(), Id::of(path))).collect();
    vec![manifest::text(&lines)]
}

fn read_manifest(bytes: &[u8]) -> Result<bool, String> {
    let read = manifest::parse(bytes);
    let lines: Vec<_> = read.iter().map(|(path, sha256)| (path.clone(), *sha256)).collect();
    holds(
        manifest::parse(&manifest::text(&lines)) == read,
        "a manifest is read differently the second time",
    )?;
    Ok(!read.is_empty())
}

/// A store in memory.
#[derive(Debug, Default)]
struct Memory {
    files: Mutex<BTreeMap<Name, Arc<Vec<u8>>>>,
}

impl Memory {
    fn copy(&self) -> Self {
        Self { files: Mutex::new(lock(&self.files).clone()) }
    }
}

impl Backend for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    fn prepare(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        let files = lock(&self.files);
        let named = files.iter().filter_map(|(name, bytes)| match name {
            Name::File(this, id) if *this == kind => Some((*id, bytes.len() as u64)),
            _ => None,
        });
        Ok(named.collect())
    }

    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        Ok(lock(&self.files).get(&name).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        into.clear();
        let bytes = lock(&self.files).get(&name).cloned();
        let outside = || Fault::infrastructure("the file ends before").place(name.to_string());
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let end = start.checked_add(length).ok_or_else(outside)?;
        into.extend_from_slice(bytes.as_ref().and_then(|bytes| bytes.get(start..end)).ok_or_else(outside)?);
        Ok(())
    }

    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        lock(&self.files).entry(name).or_insert_with(|| Arc::new(parts.concat()));
        Ok(())
    }

    fn sweep(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn remove(&self, name: Name) -> Result<(), Fault> {
        lock(&self.files).remove(&name);
        Ok(())
    }
}

/// What every hostile repository is made from; all the same but for the pack's nonces.
struct Base {
    memory: Arc<Memory>,
    data: Id,
    index: Vec<u8>,
}

/// Stand for the names of the packs in an index.
const DATA_PACK: Id = Id([0xda; 32]);
const TREE_PACK: Id = Id([0xee; 32]);
/// What the files hold.
const PIECES: [&[u8]; 3] = [b"first piece", b"the second piece, and it is longer", &[7; 3000]];

/// A key and nothing else.
fn store() -> Arc<Store> {
    static STORE: OnceLock<Arc<Store>> = OnceLock::new();
    let made = || Arc::new(Store::new(Arc::new(Memory::default()), Key::from_bytes(&[3; 64]), 2));
    Arc::clone(STORE.get_or_init(made))
}

fn on(backend: Arc<Memory>) -> Arc<Store> {
    Arc::new(Store::new(backend, Key::from_bytes(&[3; 64]), 2))
}

/// The root of the hostile repository: a folder of files, folders, links and more.
fn root() -> Vec<u8> {
    let time = Moment { seconds: 1_700_000_000, nanoseconds: 5 };
    let node = |name: &str, kind| Node {
        name: name.into(),
        kind,
        mode: super::mode::from_unix(kind, 0o755),
        mtime: time,
        ..Node::default()
    };
    let file = |name: &str, pieces: &[usize]| Node {
        content: Some(pieces.iter().map(|at| Id::of(PIECES[*at])).collect()),
        size: pieces.iter().map(|at| PIECES[*at].len() as u64).sum(),
        user: "user".into(),
        ..node(name, NodeKind::File)
    };
    let linked = |name: &str| Node { links: 2, inode: 77, device_id: 1, ..file(name, &[1, 2]) };
    let attributes = vec![Attribute { name: "user.x".into(), value: vec![1, 0, 255] }];
    tree::to_json(&[
        Node { attributes, ..file("a", &[0]) },
        file("b", &[0, 1, 2, 0]),
        node("c", NodeKind::Fifo),
        Node { subtree: Some(Id::of(&below())), ..node("d", NodeKind::Dir) },
        Node { subtree: Some(Id::of(&below())), ..node("e", NodeKind::Dir) },
        file("empty", &[]),
        linked("h1"),
        linked("h2"),
        Node { linktarget: b"../../outside".to_vec(), ..node("l", NodeKind::Symlink) },
        Node { device: 259, ..node("m", NodeKind::CharDevice) },
    ])
}

fn below() -> Vec<u8> {
    let deep =
        Node { name: b"deep \xff".to_vec(), content: Some(vec![Id::of(PIECES[0])]), ..Node::default() };
    tree::to_json(&[deep])
}

fn base() -> Result<&'static Base, String> {
    static BASE: OnceLock<Result<Base, String>> = OnceLock::new();
    BASE.get_or_init(|| make_base().map_err(|fault: Fault| fault.line())).as_ref().map_err(Clone::clone)
}

fn make_base() -> Result<Base, Fault> {
    let memory = Arc::new(Memory::default());
    let store = on(Arc::clone(&memory));
    let mut config = Vec::new();
    store.key.encrypt(&config_samples().remove(0), &mut config)?;
    memory.put(Name::Config, &[&config])?;
    let packer = Packer::new(Arc::clone(&store), Arc::new(Index::default()));
    let mut scratch = Scratch::default();
    for piece in PIECES {
        packer.save(BlobKind::Data, piece, &mut scratch)?;
    }
    packer.save(BlobKind::Tree, &below(), &mut scratch)?;
    packer.flush()?;
    let mut index = String::new();
    let mut data = Id::of(b"");
    for (id, _) in memory.list(Kind::Index)? {
        index = String::from_utf8_lossy(&store.load(Kind::Index, id)?).into_owned();
        for (pack, blobs) in store.load_index(id)? {
            let is_data = blobs.iter().all(|blob| blob.kind == BlobKind::Data);
            let stands = if is_data { DATA_PACK } else { TREE_PACK };
            index = index.replace(&pack.to_string(), &stands.to_string());
            if is_data {
                data = pack;
            }
        }
    }
    Ok(Base { memory, data, index: index.into_bytes() })
}

/// The first byte says what the rest is: a root folder, an index, a snapshot, the header of the pack
/// with data, or a lock.
fn repository_samples() -> Vec<Vec<u8>> {
    let Ok(base) = base() else { return Vec::new() };
    let header = base
        .memory
        .length(Name::File(Kind::Pack, base.data))
        .ok()
        .flatten()
        .and_then(|length| on(Arc::clone(&base.memory)).header(base.data, length).ok());
    let header = pack::header(&header.unwrap_or_default());
    let snapshot = format!(
        r#"{{"time":"2026-01-01T00:00:00Z","tree":"{}","paths":["/x"],"parent":"{}"}}"#,
        Id::of(&root()),
        Id([5; 32])
    );
    let parts = [root(), base.index.clone(), snapshot.into_bytes(), header, lock_samples().remove(0)];
    let mut samples = Vec::new();
    for (at, part) in (0..).zip(parts) {
        samples.push([&[at][..], &part].concat());
    }
    samples
}

/// Makes a repository that is honest but for one part, and does with it whatever can be done.
fn read_repository(bytes: &[u8]) -> Result<bool, String> {
    let Some((what, part)) = bytes.split_first() else { return Ok(false) };
    let base = base()?;
    let memory = Arc::new(base.memory.copy());
    let store = on(Arc::clone(&memory));
    let made = hostile(&store, base, *what, part).map_err(|fault| fault.line())?;
    if !made {
        return Ok(false);
    }
    let config = Config::parse(&config_samples().remove(0))?;
    let repository = Repository { store, config, key: Id([0; 32]), locking: true };
    let folder = tempfile_folder().map_err(|e| e.to_string())?;
    let result = use_it(&repository, &folder.join("target"));
    let strange = std::fs::read_dir(&folder).map(Iterator::count).unwrap_or_default();
    std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    holds(strange <= 1, "something was written beside the target")?;
    result
}

fn hostile(store: &Arc<Store>, base: &Base, what: u8, part: &[u8]) -> Result<bool, Fault> {
    let packer = Packer::new(Arc::clone(store), Arc::new(Index::default()));
    let mut scratch = Scratch::default();
    let tree = if what == 0 { part.to_vec() } else { root() };
    let root = packer.save(BlobKind::Tree, &tree, &mut scratch)?;
    packer.flush()?;
    let json = format!(r#"{{"time":"2026-01-01T00:00:00Z","tree":"{root}","paths":["/x"]}}"#);
    match what {
        0 => {}
        1 => {
            let text = String::from_utf8_lossy(part);
            let mut text = text.replace(&DATA_PACK.to_string(), &base.data.to_string());
            for (id, _) in store.backend.list(Kind::Pack)?.into_iter().filter(|(id, _)| *id != base.data) {
                text = text.replacen(&TREE_PACK.to_string(), &id.to_string(), 1);
            }
            store.save(Kind::Index, text.as_bytes())?;
            if part.len().is_multiple_of(2) {
                // As the only one; otherwise it contradicts the honest one.
                let honest = base.memory.list(Kind::Index)?;
                for (id, _) in honest {
                    store.backend.remove(Name::File(Kind::Index, id))?;
                }
            }
        }
        2 => drop(store.save(Kind::Snapshot, part)?),
        3 => spoil_header(store, base, part)?,
        4 => drop(store.save(Kind::Lock, part)?),
        _ => return Ok(false),
    }
    store.save(Kind::Snapshot, json.as_bytes())?;
    Ok(true)
}

/// Puts another header behind the pack with data, with all that is needed to get there.
fn spoil_header(store: &Store, base: &Base, header: &[u8]) -> Result<(), Fault> {
    let name = Name::File(Kind::Pack, base.data);
    let length = store.backend.length(name)?.unwrap_or_default();
    let content: u64 = store.header(base.data, length)?.iter().map(|blob| u64::from(blob.length)).sum();
    let mut bytes = Vec::new();
    store.backend.read(name, 0, usize::try_from(content).unwrap_or_default(), &mut bytes)?;
    let start = bytes.len();
    store.key.encrypt(header, &mut bytes)?;
    let sealed = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&sealed.to_le_bytes());
    let new = Id::of(&bytes);
    store.backend.put(Name::File(Kind::Pack, new), &[&bytes])?;
    store.backend.remove(name)?;
    for (id, _) in base.memory.list(Kind::Index)? {
        let json = store.load(Kind::Index, id)?;
        let text = String::from_utf8_lossy(&json).replace(&base.data.to_string(), &new.to_string());
        store.backend.remove(Name::File(Kind::Index, id))?;
        store.save(Kind::Index, text.as_bytes())?;
    }
    Ok(())
}

/// Enough for whatever an input of some MB can hold.
const ENTRIES: usize = 100_000;

type Read = HashMap<Id, BTreeMap<PathBuf, Id>>;

fn use_it(repository: &Repository, target: &Path) -> Result<bool, String> {
    let open = repository.without_locks();
    let health = open.check(ReadData::All, &|_, _| {}).map_err(|fault| fault.line())?;
    let before = read_all(&open)?;
    let listed = open.snapshots().map_err(|fault| fault.line())?;
    if health.damaged.is_empty() {
        let all = listed.damaged.is_empty() && listed.whole.iter().all(|(id, _)| before.contains_key(id));
        holds(all, "check found nothing, and a snapshot cannot be read")?;
    }
    for (at, (id, _)) in listed.whole.iter().enumerate() {
        let how = How { sparse: at == 0, into_existing: at != 0, ..How::default() };
        let restored = open.read(*id).and_then(|opened| opened.restore(target, &how, &Progress::default()));
        if let (Err(fault), true) = (&restored, health.damaged.is_empty() && before.contains_key(id)) {
            // The names of a whole snapshot may be ones that this file system cannot have.
            let system = fault.place.as_ref().is_some_and(|place| place.contains("target"));
            holds(system, &format!("check found nothing, and a restore fails: {}", fault.line()))?;
        }
    }
    let thrift = Thrift { max_unused: 0.0, join_small: false };
    if repository.prune(thrift, &mut |_, _| {}).is_ok() {
        holds(read_all(&open)? == before, "a prune changed what can be read")?;
    }
    // Otherwise it may be the header that lies.
    if health.damaged.is_empty() && repository.rebuild_index().is_ok() {
        let after = read_all(&open)?;
        let kept = before.iter().all(|(id, files)| after.get(id) == Some(files));
        holds(kept, "a new index lost something that could be read")?;
    }
    Ok(health.damaged.is_empty())
}

/// Every file of every snapshot that can be read to its end.
fn read_all(repository: &Repository) -> Result<Read, String> {
    let mut read = Read::new();
    for (id, _) in repository.snapshots().map_err(|fault| fault.line())?.whole {
        let Ok(opened) = repository.read(id) else { continue };
        let (mut files, mut count) = (Vec::new(), 0);
        let walked = opened.walk(&mut |path, node| {
            count += 1;
            if node.kind == NodeKind::File {
                files.push(path.to_path_buf());
            }
            if count > ENTRIES { Err(Fault::infrastructure("too many entries")) } else { Ok(true) }
        });
        let mut sums = BTreeMap::new();
        // Very many files only repeat each other, and each is looked for from the root on.
        let well = walked.is_ok()
            && files.iter().take(50).all(|path| {
                let mut bytes = Vec::new();
                let dumped = opened.dump(path, &mut bytes).is_ok();
                sums.insert(path.clone(), Id::of(&bytes));
                dumped
            });
        if well {
            read.insert(id, sums);
        }
    }
    Ok(read)
}

/// A new folder, in memory where there is such a place.
fn tempfile_folder() -> std::io::Result<PathBuf> {
    let shared = Path::new("/dev/shm");
    let above = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
    let folder = above.join(format!("trapkey-fuzz-{:016x}", crate::world::unique()));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}
