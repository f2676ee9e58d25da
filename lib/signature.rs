//! Who wrote a document: Ed25519 signatures, the key that signs, and the public keys that count.
//!
//! What is signed are the bytes of the whole file with the signature's value replaced by zeros, so
//! that no second way of writing the same JSON has to be agreed upon: any changed byte is noticed.
//! Source: RFC 8032 (Ed25519), RFC 8410 (its keys in PKCS#8 and SubjectPublicKeyInfo).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::fault::Fault;
use crate::redact::learn;

mod openssh;

/// The variable that holds the passphrase of an encrypted key of OpenSSH.
const PASSPHRASE: &str = "TRAPKEY_SIGN_KEY_PASSPHRASE";
/// The variable that names the socket of an agent.
const AGENT: &str = "SSH_AUTH_SOCK";

/// The only algorithm.
const ALGORITHM: &str = "ed25519";

/// The digits of a signature's value: 64 bytes in hexadecimal.
const DIGITS: usize = 128;

/// What stands before the 32 bytes of an Ed25519 public key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// How every Ed25519 private key in PKCS#8 begins, in base64.
const PKCS8: &str = "MC4CAQAwBQYDK2Vw";

/// The largest key file in bytes that is read.
const MAX_KEY: u64 = 64 * 1024;

/// The folder inside a trust whose keys count for approvals only.
const APPROVERS: &str = "approvers";

/// The signature in a document's head.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Signature {
    /// `ed25519`.
    pub algorithm: String,
    /// The id of the key: the first 16 digits of the SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// The signature in 128 hexadecimal digits, over the file's bytes with zeros in place of them.
    pub value: String,
}

/// Who signed a document.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Signer {
    /// The name of the key among those that are trusted; none where nothing was checked.
    pub name: Option<String>,
    /// The id of the key.
    pub key: String,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "signed by {name}"),
            None => write!(f, "signed by key {}, not checked against a trust", self.key),
        }
    }
}

/// What a signature is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A tool's document.
    Evidence,
    /// A person's approval.
    Approval,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// There is none.
    Unsigned,
    /// It does not fit the bytes.
    Changed,
    /// Nobody here knows the key with this id.
    Stranger(String),
    /// The key of this name counts for approvals only.
    ApproverOnly(String),
}

/// A private key that signs documents. It is never shown.
#[derive(Clone)]
pub struct SigningKey {
    hand: Hand,
    public: Vec<u8>,
    id: String,
}

/// Who holds the private part.
#[derive(Clone)]
enum Hand {
    /// This process.
    Pair(Arc<Ed25519KeyPair>),
    /// An agent, behind this socket.
    Agent(PathBuf),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// Reads a private key, as `openssl genpkey -algorithm ed25519` or `ssh-keygen -t ed25519` write it, or a public key
    /// of OpenSSH whose private part an agent has.
    ///
    /// Errors (2): the file cannot be read, or is not such a key.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let text = path.to_string_lossy();
        // By mistake, and then it must not be shown as a path that cannot be read.
        if text.contains("-----BEGIN") || text.contains(PKCS8) {
            return Err(Fault::usage(
                "--sign-key or TRAPKEY_SIGN_KEY holds a key, and wants the path of its file",
            )
            .help("give the key itself in TRAPKEY_SIGN_KEY_PEM, as CI systems hand over a secret"));
        }
        no_url("--sign-key", path)?;
        let place = path.display().to_string();
        let bytes = read_key_file(path).map_err(|e| {
            Fault::usage("the signing key of --sign-key or TRAPKEY_SIGN_KEY cannot be read")
                .place(&place)
                .cause(e)
                .help("make one with `openssl genpkey -algorithm ed25519 -out key.pem`")
        })?;
        Self::from_pem(&bytes, &place)
    }

    /// Takes a private key from its PEM text; `place` says where that stood.
    ///
    /// From then on its text is a secret. Errors (2): it is not an Ed25519 key that can be used here.
    pub fn from_pem(pem: &[u8], place: &str) -> Result<Self, Fault> {
        let wrong = |cause: &str| {
            Fault::usage("the signing key is not an Ed25519 private key")
                .place(place)
                .cause(cause)
                .help("make one with `openssl genpkey -algorithm ed25519 -out key.pem`")
        };
        if let Some(public) = openssh::public(&String::from_utf8_lossy(pem)) {
            return Self::of_agent(public.map_err(|cause| wrong(&cause))?, place);
        }
        let text = in_lines(&String::from_utf8_lossy(pem));
        for text in [&text, &*String::from_utf8_lossy(pem)] {
            let body = text.split_whitespace().filter(|word| !word.contains("-----") && word.len() >= 16);
            body.for_each(learn);
        }
        if text.contains(openssh::BEGIN) {
            return Self::of_openssh(&text, place);
        }
        if text.contains("ENCRYPTED") {
            return Err(wrong(
                "it is encrypted in PEM form; keep it without a passphrase, as a secret of the CI system, or make one with \
                 `ssh-keygen -t ed25519`",
            ));
        }
        let der = match sections(text.as_bytes()).map_err(wrong)?.as_slice() {
            [(SectionKind::PrivateKey, der)] => der.clone(),
            [(SectionKind::PublicKey, _)] => {
                return Err(wrong("it is a public key; that one goes to --trust"));
            }
            [] => return Err(wrong("it holds no `-----BEGIN PRIVATE KEY-----`")),
            [_] => return Err(wrong("it is of another kind than PKCS#8")),
            _ => return Err(wrong("it holds more than one key")),
        };
        // What openssl writes has no public key beside the private one to check it against.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|e| wrong(&e.to_string()))?;
        Ok(Self::of_pair(pair))
    }

    fn of_pair(pair: Ed25519KeyPair) -> Self {
        let public = pair.public_key().as_ref().to_vec();
        Self { hand: Hand::Pair(Arc::new(pair)), id: id_of(&public), public }
    }

    /// A private key of OpenSSH. An encrypted one is opened with its passphrase; where none is given, an agent that has
    /// it signs.
    fn of_openssh(text: &str, place: &str) -> Result<Self, Fault> {
        let passphrase = std::env::var(PASSPHRASE).ok().filter(|text| !text.is_empty());
        if let Some(text) = &passphrase {
            learn(text);
        }
        let wrong = |cause: &str| {
            Fault::usage("the signing key cannot be used").place(place).cause(cause).help(
                "make one with `ssh-keygen -t ed25519 -f FILE`, or with `openssl genpkey -algorithm ed25519`",
            )
        };
        match openssh::private(text, passphrase.as_deref()).map_err(|cause| wrong(&cause))? {
            openssh::Private::Seed(seed, public) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(&*seed, &public);
                pair.map(Self::of_pair).map_err(|_| wrong("its public part is another one's"))
            }
            openssh::Private::Encrypted(public) => Self::of_agent(public, place).map_err(|fault| {
                Fault::usage("the signing key is encrypted").place(place).cause(fault.line()).help(format!(
                    "give its passphrase in {PASSPHRASE}, or have an agent hold it: `ssh-add FILE`"
                ))
            }),
        }
    }

    /// A key whose private part an agent has.
    fn of_agent(public: Vec<u8>, place: &str) -> Result<Self, Fault> {
        let without = |cause: String| {
            Fault::usage("the signing key is a public one, and no agent has its private part")
                .place(place)
                .cause(cause)
                .help("give the private key, or add it to the agent: `ssh-add FILE`; a public key goes to --trust")
        };
        let socket = std::env::var_os(AGENT).filter(|socket| !socket.is_empty());
        let socket = PathBuf::from(socket.ok_or_else(|| without(format!("{AGENT} is not set")))?);
        match openssh::agent_has(&socket, &public) {
            Ok(true) => Ok(Self { hand: Hand::Agent(socket), id: id_of(&public), public }),
            Ok(false) => Err(without(format!("the agent at {} does not have it", socket.display()))),
            Err(why) => Err(without(why)),
        }
    }

    /// The signature of a message. Errors (4): an agent did not sign.
    fn signature_of(&self, message: &[u8]) -> Result<Vec<u8>, Fault> {
        match &self.hand {
            Hand::Pair(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Hand::Agent(socket) => {
                let signed = openssh::sign_by_agent(socket, &self.public, message).and_then(|signature| {
                    let key = UnparsedPublicKey::new(&ED25519, &self.public);
                    let sound = key.verify(message, &signature);
                    sound.map(|()| signature).map_err(|_| "its signature is not sound".into())
                });
                signed.map_err(|cause| {
                    Fault::infrastructure("the agent did not sign the document")
                        .place(socket.display().to_string())
                        .cause(cause)
                        .help("look at `ssh-add -l`, and whether the agent asks for a confirmation")
                })
            }
        }
    }

    /// The id of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Writes something with a signature in it.
    ///
    /// `write` gives the bytes that carry a signature as it is given to it, and is called twice.
    /// Errors: what `write` says.
    pub fn sign(&self, write: impl Fn(&Signature) -> Result<Vec<u8>, Fault>) -> Result<Vec<u8>, Fault> {
        let filled = |digit: &str| Signature {
            algorithm: ALGORITHM.into(),
            key: self.id.clone(),
            value: digit.repeat(DIGITS),
        };
        let mut bytes = write(&filled("0"))?;
        // Where the value stands is seen from where two values differ: any text may hold many zeros.
        let other = write(&filled("f"))?;
        let at = bytes.iter().zip(&other).position(|(a, b)| a != b);
        let value = hex(&self.signature_of(&bytes)?);
        let place = at.and_then(|at| bytes.get_mut(at..at + DIGITS));
        let Some(place) = place.filter(|place| place.iter().all(|b| *b == b'0')) else {
            return Err(Fault::infrastructure("the document has no place for its signature"));
        };
        place.copy_from_slice(value.as_bytes());
        Ok(bytes)
    }
}

/// The public keys that count, by the name of who holds them.
#[derive(Clone, Debug)]
pub struct Trust {
    /// By id.
    keys: BTreeMap<String, Trusted>,
}

#[derive(Clone, Debug)]
struct Trusted {
    name: String,
    public: Vec<u8>,
    approver_only: bool,
}

impl Trust {
    /// Reads the public keys of a folder, `NAME.pem` or `NAME.pub` each, or a single such file.
    ///
    /// Keys in the folder `approvers` inside it count for approvals only. Other files are left alone.
    /// Each is a key in PEM form, or a line as OpenSSH writes it. Errors (2): no key, a URL, something else than an Ed25519 public key, or one key under two names.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        no_url("--trust", path)?;
        let mut trust = Self { keys: BTreeMap::new() };
        if path.is_dir() {
            trust.add_folder(path, false)?;
            let approvers = path.join(APPROVERS);
            if approvers.is_dir() {
                trust.add_folder(&approvers, true)?;
            }
        } else {
            trust.add(path, false)?;
        }
        if trust.keys.is_empty() {
            return Err(Fault::usage("the trust has no keys")
                .place(path.display().to_string())
                .help("put the public keys that count into it, as NAME.pem: `openssl pkey -in key.pem -pubout -out NAME.pem`"));
        }
        Ok(trust)
    }

    fn add_folder(&mut self, folder: &Path, approver_only: bool) -> Result<(), Fault> {
        let unreadable = |e: std::io::Error| {
            Fault::usage("the folder of --trust cannot be read").place(folder.display().to_string()).cause(e)
        };
        let mut paths = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>())
            .map_err(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|end| end == "pem" || end == "pub"));
        paths.sort();
        paths.iter().try_for_each(|path| self.add(path, approver_only))
    }

    fn add(&mut self, path: &Path, approver_only: bool) -> Result<(), Fault> {
        let place = path.display().to_string();
        let wrong = |what: String| {
            Fault::usage(what)
                .place(&place)
                .help("a public key is made with `openssl pkey -in key.pem -pubout -out NAME.pem`")
        };
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(wrong("the name of a trusted key is not letters, digits or one of `._@+-`".into()));
        }
        let bytes = read_key_file(path)
            .map_err(|e| wrong(format!("the trusted key `{name}` cannot be read")).cause(e))?;
        let public = public_key(&bytes).map_err(|cause| {
            wrong(format!("the trusted key `{name}` is no Ed25519 public key")).cause(cause)
        })?;
        let id = id_of(&public);
        let twice = |other: &str| {
            wrong(format!("`{name}` and `{other}` are trusted twice"))
                .help("one key has one name, and one name one key: who approved is told by the name")
        };
        if let Some(known) = self.keys.values().find(|known| known.name == name || known.public == public) {
            return Err(twice(&known.name));
        }
        if let Some(known) = self.keys.insert(id, Trusted { name, public, approver_only }) {
            return Err(wrong(format!("the key of `{}` has the same id as another one", known.name)));
        }
        Ok(())
    }

    /// The names of those whose documents count.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.keys.values().map(|key| key.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Whether a document of this key would count.
    pub fn knows(&self, key: &SigningKey) -> bool {
        self.keys.contains_key(&key.id)
    }

    /// Says who signed the bytes of a document, whose `signature` was parsed from them.
    ///
    /// Errors: anything but a sound signature by a trusted key.
    pub fn verify(
        &self,
        bytes: &[u8],
        signature: Option<&Value>,
        purpose: Purpose,
    ) -> Result<Signer, Distrust> {
        let written = signature.filter(|value| !value.is_null()).ok_or(Distrust::Unsigned)?;
        let signature = Signature::deserialize(written).map_err(|_| Distrust::Changed)?;
        let value = unhex(&signature.value).filter(|_| signature.algorithm == ALGORITHM);
        let value = value.ok_or(Distrust::Changed)?;
        let key = self.keys.get(&signature.key).ok_or_else(|| Distrust::Stranger(signature.key.clone()))?;
        let signed = without(bytes, signature.value.as_bytes()).ok_or(Distrust::Changed)?;
        UnparsedPublicKey::new(&ED25519, &key.public)
            .verify(&signed, &value)
            .map_err(|_| Distrust::Changed)?;
        if key.approver_only && purpose == Purpose::Evidence {
            return Err(Distrust::ApproverOnly(key.name.clone()));
        }
        Ok(Signer { name: Some(key.name.clone()), key: signature.key })
    }
}

/// Who says to have signed a document, where nothing can be checked.
pub fn claimed(signature: Option<&Value>) -> Option<Signer> {
    let signature = Signature::deserialize(signature?).ok()?;
    let plain = signature.key.len() == 16 && signature.key.chars().all(|c| c.is_ascii_hexdigit());
    plain.then_some(Signer { name: None, key: signature.key })
}

/// The bytes with zeros in place of a value that stands there exactly once.
fn without(bytes: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let mut places = bytes.windows(value.len()).enumerate().filter(|(_, window)| *window == value);
    let (at, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let mut signed = bytes.to_vec();
    signed.get_mut(at..at + value.len())?.fill(b'0');
    Some(signed)
}

fn read_key_file(path: &Path) -> std::io::Result<Vec<u8>> {
    crate::bounds::whole(path, MAX_KEY)
}

/// Refuses a URL by name: whose keys count must not be for a server to say.
fn no_url(flag: &str, path: &Path) -> Result<(), Fault> {
    let text = path.to_string_lossy();
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    let plain = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    if !scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.chars().all(plain)) {
        return Ok(());
    }
    Err(Fault::usage(format!("{flag} is given a URL, and wants files of this machine"))
        .place(crate::redact::redact(&text))
        .cause("whoever answers at that address would decide whose keys count, and could change it from call to call")
        .help("keep the keys in a repository of their own, check it out at a fixed commit, and name that folder"))
}

/// A key in lines, as PEM wants it: CI systems hand it over in one line, with blanks or `\n` between, or whole in base64.
fn in_lines(text: &str) -> String {
    use base64::Engine as _;
    let trimmed = text.trim();
    let decoded = (!trimmed.contains("-----"))
        .then(|| trimmed.split_whitespace().collect::<String>())
        .and_then(|joined| base64::engine::general_purpose::STANDARD.decode(joined).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|inner| inner.trim_start().starts_with("-----BEGIN "));
    let text = decoded.unwrap_or_else(|| trimmed.to_owned());
    let text = text.replace("\\r", "").replace("\\n", "\n");
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, after)) = after.split_once("-----") else { break };
        let end = format!("-----END {label}-----");
        let Some((body, after)) = after.split_once(&end) else { break };
        // Headers of old formats stay as they are: they say what is wrong.
        if body.contains(':') {
            return text;
        }
        let body: Vec<char> = body.chars().filter(|c| !c.is_whitespace()).collect();
        out.push_str(&format!("-----BEGIN {label}-----\n"));
        for line in body.chunks(64) {
            out.extend(line);
            out.push('\n');
        }
        out.push_str(&end);
        out.push('\n');
        rest = after;
    }
    if out.is_empty() { text } else { out }
}

fn sections(pem: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, &'static str> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "it is no sound PEM text")
}

/// The 32 bytes of an Ed25519 public key, in PEM form or as OpenSSH writes it.
fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    let text = String::from_utf8_lossy(pem);
    if text.contains("PRIVATE KEY-----") {
        return Err("it is a private key: take it away from here, and keep it secret".into());
    }
    if let Some(public) = openssh::public(&text) {
        return public;
    }
    match sections(in_lines(&text).as_bytes())?.as_slice() {
        [(SectionKind::PublicKey, der)] => match der.strip_prefix(&SPKI) {
            Some(key) if key.len() == 32 => Ok(key.to_vec()),
            _ => Err("it is a key of another algorithm".into()),
        },
        [] => Err("it holds no `-----BEGIN PUBLIC KEY-----`, and is no line of OpenSSH".into()),
        [_] => Err("it is something else in PEM form".into()),
        _ => Err("it holds more than one key".into()),
    }
}

fn id_of(public: &[u8]) -> String {
    let whole = [&SPKI[..], public].concat();
    hex(&Sha256::digest(&whole)[..8])
}

/// Bytes in lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing into a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The 64 bytes of a signature's value; only one way of writing them is taken.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let lower = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != DIGITS || !text.as_bytes().iter().all(lower) {
        return None;
    }
    (0..DIGITS).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
impl SigningKey {
    /// A key from its 32 secret bytes.
    pub(crate) fn of_seed(seed: [u8; 32]) -> Self {
        Self::of_pair(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap())
    }
}

#[cfg(test)]
impl Trust {
    /// A trust of some keys; those of `approvers` count for approvals only.
    pub(crate) fn of(keys: &[(&str, &SigningKey)], approvers: &[(&str, &SigningKey)]) -> Self {
        let trusted = |(name, key): &(&str, &SigningKey), approver_only| {
            let public = key.public.clone();
            (key.id.clone(), Trusted { name: (*name).to_owned(), public, approver_only })
        };
        let all =
            keys.iter().map(|key| trusted(key, false)).chain(approvers.iter().map(|k| trusted(k, true)));
        Self { keys: all.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::of_seed([seed; 32])
    }

    fn signed(by: &SigningKey, text: &str) -> Vec<u8> {
        by.sign(|signature| {
            let value =
                serde_json::json!({"text": text, "signature": signature, "more": {"zeros": "0".repeat(200)}});
            Ok(serde_json::to_vec_pretty(&value).unwrap())
        })
        .unwrap()
    }

    fn verify(trust: &Trust, bytes: &[u8], purpose: Purpose) -> Result<Signer, Distrust> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| Distrust::Changed)?;
        trust.verify(bytes, value.get("signature"), purpose)
    }

    #[test]
    fn signs_as_rfc_8032_says() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let bytes: Vec<u8> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&seed[at..at + 2], 16).unwrap()).collect();
        let key = SigningKey::of_seed(bytes.try_into().unwrap());
        assert_eq!(hex(&key.public), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(
            hex(&key.signature_of(b"").unwrap()),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        );
    }

    #[test]
    fn tells_who_signed() {
        let (ci, alice) = (key(1), key(2));
        let trust = Trust::of(&[("ci", &ci)], &[("alice", &alice)]);
        // Texts that look like an empty signature do not confuse it.
        let bytes = signed(&ci, &"0".repeat(DIGITS));
        let signer = verify(&trust, &bytes, Purpose::Evidence).unwrap();
        assert_eq!(signer, Signer { name: Some("ci".into()), key: ci.id.clone() });
        assert_eq!(signer.to_string(), "signed by ci");
        let bytes = signed(&alice, "yes");
        assert_eq!(verify(&trust, &bytes, Purpose::Approval).unwrap().name.as_deref(), Some("alice"));
        assert_eq!(verify(&trust, &bytes, Purpose::Evidence), Err(Distrust::ApproverOnly("alice".into())));
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let told = claimed(value.get("signature")).unwrap().to_string();
        assert_eq!(told, format!("signed by key {}, not checked against a trust", alice.id));
    }

    #[test]
    fn refuses_what_is_unsigned_or_signed_by_somebody_else() {
        let trust = Trust::of(&[("ci", &key(1))], &[]);
        for text in ["{}", r#"{"signature": null}"#] {
            assert_eq!(verify(&trust, text.as_bytes(), Purpose::Evidence), Err(Distrust::Unsigned));
        }
        for text in [r#"{"signature": 1}"#, r#"{"signature": {}}"#] {
            assert_eq!(verify(&trust, text.as_bytes(), Purpose::Evidence), Err(Distrust::Changed));
        }
        let stranger = key(9);
        assert_eq!(
            verify(&trust, &signed(&stranger, "x"), Purpose::Evidence),
            Err(Distrust::Stranger(stranger.id.clone()))
        );
        // Somebody else's signature under a trusted key's id.
        let text = String::from_utf8(signed(&stranger, "x")).unwrap().replace(&stranger.id, &key(1).id);
        assert_eq!(verify(&trust, text.as_bytes(), Purpose::Evidence), Err(Distrust::Changed));
    }

    #[test]
    fn refuses_a_change_of_any_byte_to_anything() {
        let ci = key(1);
        let trust = Trust::of(&[("ci", &ci)], &[]);
        let bytes = signed(&ci, "a text");
        for at in 0..bytes.len() {
            for other in [bytes[at] ^ 1, bytes[at] ^ 0x20, bytes[at].to_ascii_uppercase(), b' ', b'0'] {
                if other == bytes[at] {
                    continue;
                }
                let mut changed = bytes.clone();
                changed[at] = other;
                let told = verify(&trust, &changed, Purpose::Evidence);
                assert!(told.is_err(), "byte {at} as {other}: {told:?}");
            }
            let mut shorter = bytes.clone();
            shorter.remove(at);
            assert!(verify(&trust, &shorter, Purpose::Evidence).is_err(), "without byte {at}");
            let mut longer = bytes.clone();
            longer.insert(at, b' ');
            assert!(verify(&trust, &longer, Purpose::Evidence).is_err(), "a space at {at}");
        }
    }

    #[test]
    fn refuses_a_value_that_stands_there_twice_or_is_written_otherwise() {
        let ci = key(1);
        let trust = Trust::of(&[("ci", &ci)], &[]);
        let text = String::from_utf8(signed(&ci, "0")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let digits = value["signature"]["value"].as_str().unwrap();
        let (first, rest) = digits.split_at(1);
        for changed in [
            text.replacen(&"0".repeat(200), digits, 1),
            text.replace(digits, &digits.to_uppercase()),
            text.replace(digits, &format!("\\u00{:02x}{rest}", first.as_bytes()[0])),
            text.replace("\"ed25519\"", "\"none\""),
            text.replace(digits, &"0".repeat(DIGITS)),
            text.replace(digits, ""),
        ] {
            assert_ne!(changed, text);
            assert_eq!(verify(&trust, changed.as_bytes(), Purpose::Evidence), Err(Distrust::Changed));
        }
    }

    #[test]
    fn never_shows_the_key() {
        let shown = format!("{:?}", key(7));
        assert_eq!(shown, format!("SigningKey({})", key(7).id));
        assert!(!shown.contains(&"07".repeat(8)));
    }
}
