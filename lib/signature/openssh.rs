//! Keys as OpenSSH writes them: the private key, plain or encrypted, and the public one; and an agent that signs.
//!
//! Sources: PROTOCOL.key of OpenSSH (openssh-key-v1), RFC 8709 (ssh-ed25519), RFC 9987 (the agent's protocol).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use aes::cipher::{KeyIvInit as _, StreamCipher as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How a private key begins.
pub(super) const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const ED25519: &str = "ssh-ed25519";
/// The most rounds of the key derivation: ssh-keygen takes 16 to 24 unless it is told otherwise.
const MOST_ROUNDS: u32 = 4096;
/// How long an agent may take. It may ask its user.
const AGENT: Duration = Duration::from_secs(120);
/// The longest answer of an agent in bytes.
const LONGEST: u32 = 256 * 1024;

/// A private key as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Private {
    /// Its 32 secret bytes, and its public ones.
    Seed(Box<[u8; 32]>, Vec<u8>),
    /// It is encrypted, and no passphrase was given; its public bytes.
    Encrypted(Vec<u8>),
}

/// Reads a private key. Errors: what is wrong with it, in words.
pub(super) fn private(text: &str, passphrase: Option<&str>) -> Result<Private, String> {
    let body = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(body, _)| body);
    let body: String = body.ok_or("it is cut off")?.split_whitespace().collect();
    let bytes = STANDARD.decode(body).map_err(|_| "it is no sound base64")?;
    let mut all = Reader(bytes.strip_prefix(MAGIC).ok_or("it is of another format than openssh-key-v1")?);
    let (cipher, kdf, options) = (all.text()?, all.text()?, all.bytes()?);
    if all.number()? != 1 {
        return Err("it holds more than one key".into());
    }
    let public = public_bytes(all.bytes()?)?;
    let sealed = all.bytes()?.to_vec();
    let open = match (cipher, kdf) {
        ("none", "none") => sealed,
        ("aes256-ctr", "bcrypt") => match passphrase {
            Some(passphrase) => decrypted(sealed, options, passphrase)?,
            None => return Ok(Private::Encrypted(public.to_vec())),
        },
        _ => {
            return Err(format!(
                "it is encrypted with `{cipher}` ({kdf}); known here is aes256-ctr: `ssh-keygen -p -Z aes256-ctr -f FILE`"
            ));
        }
    };
    let mut inside = Reader(&open);
    if inside.number()? != inside.number()? {
        return Err(
            if cipher == "none" { "it is damaged" } else { "the passphrase is not the right one" }.into()
        );
    }
    if inside.text()? != ED25519 {
        return Err("it is a key of another algorithm".into());
    }
    let known = inside.bytes()?;
    let (seed, again) = inside.bytes()?.split_at_checked(32).ok_or("it is damaged")?;
    if known != public || again != public {
        return Err("its public part is another one's".into());
    }
    let seed: [u8; 32] = seed.try_into().map_err(|_| "it is damaged")?;
    Ok(Private::Seed(Box::new(seed), public.to_vec()))
}

fn decrypted(mut sealed: Vec<u8>, options: &[u8], passphrase: &str) -> Result<Vec<u8>, String> {
    let mut options = Reader(options);
    let (salt, rounds) = (options.bytes()?, options.number()?);
    if rounds == 0 || rounds > MOST_ROUNDS {
        return Err(format!("its passphrase is stretched in {rounds} rounds; taken are 1 to {MOST_ROUNDS}"));
    }
    let mut derived = [0_u8; 48];
    bcrypt_pbkdf::bcrypt_pbkdf(passphrase, salt, rounds, &mut derived)
        .map_err(|_| "its passphrase cannot be stretched, or is empty")?;
    let (key, start) = derived.split_at(32);
    let mut cipher = ctr::Ctr128BE::<aes::Aes256>::new_from_slices(key, start).map_err(|e| e.to_string())?;
    cipher.apply_keystream(&mut sealed);
    Ok(sealed)
}

/// The 32 bytes of a public key in one line, `ssh-ed25519 AAAA… comment`; none where it is no such line.
pub(super) fn public(text: &str) -> Option<Result<Vec<u8>, String>> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut words = line.split_whitespace();
    let (kind, body) = (words.next()?, words.next()?);
    if !kind.starts_with("ssh-") && !kind.starts_with("ecdsa-") && !kind.starts_with("sk-") {
        return None;
    }
    if kind != ED25519 {
        return Some(Err(format!("it is a key of another algorithm, `{kind}`")));
    }
    let more = text.lines().filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')).count() > 1;
    if more {
        return Some(Err("it holds more than one key".into()));
    }
    let bytes = STANDARD.decode(body).map_err(|_| "it is no sound base64".to_owned());
    Some(bytes.and_then(|bytes| public_bytes(&bytes).map(<[u8]>::to_vec)))
}

/// What is inside of a public key.
fn public_bytes(blob: &[u8]) -> Result<&[u8], String> {
    let mut blob = Reader(blob);
    if blob.text()? != ED25519 {
        return Err("it is a key of another algorithm".into());
    }
    let key = blob.bytes()?;
    if key.len() == 32 && blob.0.is_empty() { Ok(key) } else { Err("it is damaged".into()) }
}

fn blob_of(public: &[u8]) -> Vec<u8> {
    [&field(ED25519.as_bytes())[..], &field(public)].concat()
}

fn field(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[..], bytes].concat()
}

/// Has an agent sign with the private part of a public key. Errors: why it did not, in words.
pub(super) fn sign_by_agent(socket: &Path, public: &[u8], message: &[u8]) -> Result<Vec<u8>, String> {
    let blob = blob_of(public);
    let request = [&[13][..], &field(&blob), &field(message), &0_u32.to_be_bytes()].concat();
    let answer = ask(socket, &request).map_err(|e| format!("the agent does not answer: {e}"))?;
    let mut answer = match answer.split_first() {
        Some((14, rest)) => Reader(rest),
        _ => {
            return Err(
                "the agent does not have it, or refused to sign: `ssh-add -l` lists what it has".into()
            );
        }
    };
    let mut signature = Reader(answer.bytes()?);
    if signature.text()? != ED25519 {
        return Err("the agent signed with another algorithm".into());
    }
    Ok(signature.bytes()?.to_vec())
}

/// Whether an agent has the private part of a public key. Errors: why that cannot be seen.
pub(super) fn agent_has(socket: &Path, public: &[u8]) -> Result<bool, String> {
    let answer = ask(socket, &[11]).map_err(|e| format!("the agent does not answer: {e}"))?;
    let mut answer = match answer.split_first() {
        Some((12, rest)) => Reader(rest),
        _ => return Err("the agent does not say which keys it has".into()),
    };
    let wanted = blob_of(public);
    for _ in 0..answer.number()? {
        let (blob, _comment) = (answer.bytes()?, answer.bytes()?);
        if blob == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

fn ask(socket: &Path, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut agent = UnixStream::connect(socket)?;
    agent.set_read_timeout(Some(AGENT))?;
    agent.set_write_timeout(Some(AGENT))?;
    agent.write_all(&field(request))?;
    let mut length = [0; 4];
    agent.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(std::io::Error::other("its answer is too long"));
    }
    let mut answer = vec![0; length as usize];
    agent.read_exact(&mut answer)?;
    Ok(answer)
}

/// What is left of a message: fields, each behind its length.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u32, String> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or("it is cut off")?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.number()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("it is cut off")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "it is damaged".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_cut_off_or_turned_over_is_taken_or_panics() {
        let inside = [
            &7_u32.to_be_bytes()[..],
            &7_u32.to_be_bytes(),
            &blob_of(&[9; 32]),
            &field(&[[5; 32], [9; 32]].concat()),
            &field(b"ci"),
            &[1, 2, 3],
        ]
        .concat();
        let whole = [
            MAGIC,
            &field(b"none"),
            &field(b"none"),
            &field(b""),
            &1_u32.to_be_bytes(),
            &field(&blob_of(&[9; 32])),
            &field(&inside),
        ]
        .concat();
        let text = |bytes: &[u8]| format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(bytes));
        assert_eq!(private(&text(&whole), None).unwrap(), Private::Seed(Box::new([5; 32]), vec![9; 32]));
        for at in 0..whole.len() {
            assert!(private(&text(&whole[..at]), None).is_err(), "cut off at {at}");
            let mut other = whole.clone();
            other[at] ^= 0x81;
            // The secret bytes themselves, the comment and the padding have nothing to be held against.
            if let Ok(read) = private(&text(&other), None) {
                assert!(matches!(read, Private::Seed(_, public) if public == [9; 32]), "byte {at}");
            }
        }
    }
}
