//! The folder `keys`: the master key, once per passphrase, encrypted with what scrypt makes of it.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::backend::{self, Backend, Kind, Name};
use super::crypto::{self, Key};
use super::id::Id;
use crate::fault::Fault;
use crate::world;

/// 2^15 blocks of 8: 32 MiB of memory, as restic has it.
const LOG_N: u8 = 15;
/// Where no work is asked for: a passphrase that everybody knows is not protected by any.
const LOG_N_OF_NONE: u8 = 4;
const BLOCK: u32 = 8;
const MAX_P: u32 = 16;
/// The most lanes that are worked on at once, each with memory of its own.
const AT_ONCE: usize = 4;
/// More work than this is refused: whoever can write to the store could stop everybody with it.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;
const MAX_WORK: u64 = 1 << 32;
const MAX_FILE: u64 = 64 * 1024;
const MAX_KEYS: usize = 64;

/// What opens a repository. It is never shown.
#[derive(Clone)]
pub struct Passphrase(String);

impl Passphrase {
    /// Errors (2): it is empty.
    pub fn new(text: impl Into<String>) -> Result<Self, Fault> {
        let text = text.into();
        if text.is_empty() {
            return Err(Fault::usage("the passphrase of the repository is empty")
                .help("give the one that the repository was made with"));
        }
        Ok(Self(text))
    }

    /// Whether it is this text.
    pub fn is(&self, text: &str) -> bool {
        self.0 == text
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(***)")
    }
}

/// One key of a repository, as anybody may know it.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The name of its file.
    pub id: Id,
    /// Who made it.
    pub username: String,
    /// Where.
    pub hostname: String,
    /// When, in RFC 3339.
    pub created: String,
    /// Whether it is the one that opened the repository.
    pub current: bool,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    created: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct Master {
    mac: MasterMac,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct MasterMac {
    k: String,
    r: String,
}

/// Writes the master key under a passphrase and returns the name of its file. The derivation of the
/// key takes about `work` on this machine, and next to nothing where that is zero: only for a passphrase that is
/// no secret.
pub(super) fn add(
    backend: &dyn Backend,
    master: &Key,
    passphrase: &Passphrase,
    work: Duration,
) -> Result<Id, Fault> {
    if backend.list(Kind::Key)?.len() >= MAX_KEYS {
        return Err(Fault::refused(format!("the repository has {MAX_KEYS} keys; more are never tried"))
            .place(backend.place())
            .help("remove one that nobody needs any more"));
    }
    let mut salt = [0; 64];
    crypto::random(&mut salt)?;
    let (log_n, p) = calibrate(work)?;
    let derived = derive(passphrase, &salt, log_n, BLOCK, p).map_err(Fault::infrastructure)?;
    let (encrypt, k, r) = master.parts();
    let plain = Master {
        mac: MasterMac { k: STANDARD.encode(k), r: STANDARD.encode(r) },
        encrypt: STANDARD.encode(encrypt),
    };
    let mut sealed = Vec::new();
    derived.encrypt(&json(&plain)?, &mut sealed)?;
    let file = json(&KeyFile {
        created: world::now().to_string(),
        username: super::people::own_name(),
        hostname: world::host_name(),
        kdf: "scrypt".into(),
        n: 1 << log_n,
        r: BLOCK,
        p,
        salt: STANDARD.encode(salt),
        data: STANDARD.encode(sealed),
    })?;
    let id = Id::of(&file);
    backend.put(Name::File(Kind::Key, id), &[&file])?;
    Ok(id)
}

/// Finds the key that the passphrase opens and that fits, or else one that it opens: somebody may have
/// put the key of another repository here.
///
/// Errors: refused (5) when it opens none; 4 when there is none, or none that can be read.
pub(super) fn open(
    backend: &dyn Backend,
    passphrase: &Passphrase,
    fits: &dyn Fn(&Key) -> bool,
) -> Result<(Id, Key), Fault> {
    let mut ids: Vec<Id> = backend.list(Kind::Key)?.into_iter().map(|(id, _)| id).collect();
    ids.sort();
    if ids.is_empty() {
        return Err(Fault::infrastructure("the repository has no key")
            .place(format!("{}/keys", backend.place()))
            .help("restore the folder `keys` from a copy; without it the repository cannot be read"));
    }
    let (mut unusable, mut foreign) = (None, None);
    for id in ids.into_iter().take(MAX_KEYS) {
        match read(backend, id)
            .and_then(|file| unlock(&file, passphrase).map_err(|why| bad(backend, id, why)))
        {
            Ok(Some(key)) if fits(&key) => return Ok((id, key)),
            Ok(Some(key)) => foreign = Some((id, key)),
            Ok(None) => {}
            Err(fault) => unusable = Some(fault),
        }
    }
    foreign.ok_or_else(|| {
        unusable.unwrap_or_else(|| {
            Fault::refused("the passphrase does not open the repository")
                .place(backend.place())
                .help("give the passphrase that the repository was made with, or one that was added since")
        })
    })
}

/// Every key file that is not what was written, and why.
///
/// Errors (4): the store cannot be reached.
pub(super) fn damaged(backend: &dyn Backend) -> Result<Vec<(Id, String)>, Fault> {
    let mut found = Vec::new();
    for (id, _) in backend.list(Kind::Key)? {
        if let Err(fault) = read(backend, id)
            && backend.length(Name::File(Kind::Key, id))?.is_some()
        {
            found.push((id, fault.cause.unwrap_or(fault.what)));
        }
    }
    Ok(found)
}

/// Whether one key opens with a passphrase, and holds the master key of this repository.
pub(super) fn opens(
    backend: &dyn Backend,
    id: Id,
    passphrase: &Passphrase,
    master: &Key,
) -> Result<bool, Fault> {
    let found = unlock(&read(backend, id)?, passphrase).map_err(|why| bad(backend, id, why))?;
    Ok(found.is_some_and(|key| key.parts() == master.parts()))
}

/// Removes what other makings of a repository have left that now has `own`: the keys that the same passphrase
/// opens, where they were there `before` or hold another master key. restic would try these, and fail. Where they
/// cannot be removed they stay, and are passed over here.
pub(super) fn clear(backend: &dyn Backend, own: Id, master: &Key, before: &[Id], passphrase: &Passphrase) {
    let others = backend.list(Kind::Key).unwrap_or_default().into_iter().map(|(id, _)| id);
    for id in others.filter(|id| *id != own).take(MAX_KEYS) {
        let opened = read(backend, id).ok().and_then(|file| unlock(&file, passphrase).ok().flatten());
        if opened.is_some_and(|key| before.contains(&id) || key.parts() != master.parts()) {
            let _ = backend.remove(Name::File(Kind::Key, id));
        }
    }
}

/// Every key.
pub(super) fn list(backend: &dyn Backend, current: Id) -> Result<Vec<KeyInfo>, Fault> {
    let mut keys = Vec::new();
    for (id, _) in backend.list(Kind::Key)? {
        let KeyFile { username, hostname, created, .. } = read(backend, id)?;
        keys.push(KeyInfo { id, username, hostname, created, current: id == current });
    }
    keys.sort_by(|a, b| (&a.created, a.id).cmp(&(&b.created, b.id)));
    Ok(keys)
}

fn bad(backend: &dyn Backend, id: Id, why: String) -> Fault {
    backend::damaged(backend, Name::File(Kind::Key, id), why)
}

fn read(backend: &dyn Backend, id: Id) -> Result<KeyFile, Fault> {
    let bytes = backend::read_whole(backend, Name::File(Kind::Key, id), MAX_FILE)?;
    if Id::of(&bytes) != id {
        return Err(bad(backend, id, "its bytes have another SHA-256 than its name".into()));
    }
    serde_json::from_slice(&bytes).map_err(|e| bad(backend, id, e.to_string()))
}

/// None when the passphrase is not that of this key; an error when the file makes no sense.
fn unlock(file: &KeyFile, passphrase: &Passphrase) -> Result<Option<Key>, String> {
    if file.kdf != "scrypt" {
        return Err(format!("its derivation is `{}`; known here is `scrypt`", file.kdf));
    }
    let memory = file.n.saturating_mul(u64::from(file.r)).saturating_mul(128);
    if !file.n.is_power_of_two() || file.n < 2 || file.r == 0 || file.p == 0 {
        return Err(format!("its parameters N={}, r={}, p={} are none of scrypt", file.n, file.r, file.p));
    }
    if memory > MAX_MEMORY || memory.saturating_mul(u64::from(file.p)) > MAX_WORK {
        return Err(format!("its parameters N={}, r={}, p={} ask for too much work", file.n, file.r, file.p));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|e| e.to_string());
    let (salt, data) = (bytes(&file.salt)?, bytes(&file.data)?);
    let log_n = u8::try_from(file.n.trailing_zeros()).map_err(|e| e.to_string())?;
    let derived = derive(passphrase, &salt, log_n, file.r, file.p)?;
    let mut plain = Vec::new();
    if derived.decrypt(&data, &mut plain).is_none() {
        return Ok(None);
    }
    let master: Master = serde_json::from_slice(&plain).map_err(|e| e.to_string())?;
    let mut whole = bytes(&master.encrypt)?;
    whole.extend(bytes(&master.mac.k)?);
    whole.extend(bytes(&master.mac.r)?);
    let whole: [u8; 64] = whole.try_into().map_err(|_| "its key is not 64 bytes long".to_owned())?;
    Ok(Some(Key::from_bytes(&whole)))
}

/// For the fuzzer: key files that take no work to speak of.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let passphrase = Passphrase("word".into());
    let made = |n: u64, r: u32| -> Option<Vec<u8>> {
        let log_n = u8::try_from(n.trailing_zeros()).ok()?;
        let derived = derive(&passphrase, b"salt", log_n, r, 1).ok()?;
        let part = |length: usize| STANDARD.encode(vec![7; length]);
        let plain = Master { mac: MasterMac { k: part(16), r: part(16) }, encrypt: part(32) };
        let mut sealed = Vec::new();
        derived.encrypt(&json(&plain).ok()?, &mut sealed).ok()?;
        let [created, username, hostname] = ["2026-01-01T00:00:00Z", "u", "h"].map(String::from);
        let (salt, data) = (STANDARD.encode(b"salt"), STANDARD.encode(sealed));
        json(&KeyFile { created, username, hostname, kdf: "scrypt".into(), n, r, p: 1, salt, data }).ok()
    };
    [made(2, 1), made(16, 2)].into_iter().flatten().collect()
}

/// For the fuzzer: whether these bytes are a key file that `word` opens. What asks for much work is only
/// looked at.
pub(super) fn try_bytes(bytes: &[u8]) -> bool {
    const LITTLE: u64 = 64 * 1024;
    let Ok(file) = serde_json::from_slice::<KeyFile>(bytes) else { return false };
    let work = file.n.saturating_mul(u64::from(file.r)).saturating_mul(u64::from(file.p));
    work <= LITTLE && unlock(&file, &Passphrase("word".into())).is_ok_and(|key| key.is_some())
}

fn derive(passphrase: &Passphrase, salt: &[u8], log_n: u8, r: u32, p: u32) -> Result<Key, String> {
    let parameters = scrypt::Params::new(log_n, r, p).map_err(|e| e.to_string())?;
    let memory = (u64::from(r) * 128) << log_n;
    // What one lane takes was limited; several at once stay within the same limit.
    let lanes = usize::try_from(MAX_MEMORY / memory.max(1)).unwrap_or(1).clamp(1, AT_ONCE);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(lanes);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|e| e.to_string())?;
    let mut bytes = [0; 64];
    pool.install(|| scrypt::scrypt(passphrase.0.as_bytes(), salt, &parameters, &mut bytes))
        .map_err(|e| e.to_string())?;
    Ok(Key::from_bytes(&bytes))
}

/// The cost (as a power of two) and the number of lanes that take about this long here.
fn calibrate(work: Duration) -> Result<(u8, u32), Fault> {
    if work.is_zero() {
        return Ok((LOG_N_OF_NONE, 1));
    }
    let probe = Passphrase("probe".into());
    let start = Instant::now();
    derive(&probe, b"salt", LOG_N, BLOCK, 1).map_err(Fault::infrastructure)?;
    let one = start.elapsed().as_secs_f64().max(0.001);
    let mut p = 1;
    while p < MAX_P && f64::from(p + 1) * one <= work.as_secs_f64() {
        p += 1;
    }
    Ok((LOG_N, p))
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|e| Fault::infrastructure("a key cannot be written").cause(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::restic::backend::Local;

    #[test]
    fn a_key_opens_with_its_passphrase_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Local::new(folder.path());
        let right = Passphrase::new("right").unwrap();
        assert_eq!(open(&store, &right, &|_| true).unwrap_err().what, "the repository has no key");
        let master = Key::random().unwrap();
        let id = add(&store, &master, &right, Duration::ZERO).unwrap();
        let (found, key) = open(&store, &right, &|_| true).unwrap();
        assert_eq!((found, key.parts()), (id, master.parts()));
        let wrong = open(&store, &Passphrase::new("wrong").unwrap(), &|_| true).unwrap_err();
        assert_eq!(wrong.what, "the passphrase does not open the repository");
        assert_eq!(wrong.exit, crate::fault::Exit::Refused);
        assert!(Passphrase::new("").is_err());
        assert!(!format!("{right:?}").contains("right"));
    }

    #[test]
    fn a_passphrase_is_protected_by_work_wherever_any_is_asked_for() {
        assert_eq!(calibrate(Duration::ZERO).unwrap(), (LOG_N_OF_NONE, 1));
        for work in [Duration::from_nanos(1), Duration::from_secs(60)] {
            let (log_n, p) = calibrate(work).unwrap();
            assert_eq!(log_n, LOG_N);
            assert!((1..=MAX_P).contains(&p), "{p}");
        }
    }

    #[test]
    fn a_key_file_cannot_ask_for_endless_work_or_memory() {
        let file = |n, r, p| KeyFile {
            created: String::new(),
            username: String::new(),
            hostname: String::new(),
            kdf: "scrypt".into(),
            n,
            r,
            p,
            salt: String::new(),
            data: String::new(),
        };
        let any = Passphrase::new("any").unwrap();
        for (n, r, p) in [(1 << 40, 8, 1), (1 << 15, u32::MAX, 1), (1 << 15, 8, 1 << 20), (u64::MAX, 8, 1)] {
            assert!(unlock(&file(n, r, p), &any).is_err(), "{n} {r} {p}");
        }
        for (n, r, p) in [(0, 8, 1), (3, 8, 1), (1, 1, 1), (1 << 15, 0, 1), (1 << 15, 8, 0)] {
            assert!(unlock(&file(n, r, p), &any).unwrap_err().contains("none of scrypt"), "{n} {r} {p}");
        }
        assert!(unlock(&KeyFile { kdf: "md5".into(), ..file(2, 1, 1) }, &any).unwrap_err().contains("md5"));
    }
}
