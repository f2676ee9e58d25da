//! AES-256 in counter mode, authenticated by Poly1305-AES: `nonce (16) || ciphertext || MAC (16)`.
//!
//! Source: restic's design document, "Keys, Encryption and MAC"; Bernstein, "The Poly1305-AES
//! message-authentication code" (2005). The parts come from the crates `aes`, `ctr` and `poly1305`.

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use poly1305::Poly1305;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::fault::Fault;

/// How much longer encrypted bytes are than plain ones.
pub(super) const OVERHEAD: usize = 32;
const NONCE: usize = 16;
const MAC: usize = 16;

/// Encrypts and authenticates; made from 64 bytes.
pub(super) struct Key {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// A new key from the system's random source.
    pub(super) fn random() -> Result<Self, Fault> {
        let mut bytes = [0; 64];
        random(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The key for AES-256, then `k` and `r` of Poly1305-AES.
    pub(super) fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        mask(&mut key.mac_r);
        key
    }

    /// The three parts: for AES-256, `k` and `r`.
    pub(super) fn parts(&self) -> (&[u8; 32], &[u8; 16], &[u8; 16]) {
        (&self.encrypt, &self.mac_k, &self.mac_r)
    }

    /// Appends the encrypted bytes to `into`.
    pub(super) fn encrypt(&self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), Fault> {
        let mut nonce = [0; NONCE];
        random(&mut nonce)?;
        into.reserve(plain.len() + OVERHEAD);
        into.extend_from_slice(&nonce);
        let start = into.len();
        into.extend_from_slice(plain);
        self.stream(&nonce, &mut into[start..]);
        let mac = self.mac(&nonce, &into[start..]);
        into.extend_from_slice(&mac);
        Ok(())
    }

    /// Puts the decrypted bytes into `into`, in place of what was there.
    ///
    /// None when the bytes are not what was encrypted with this key.
    #[must_use]
    pub(super) fn decrypt(&self, sealed: &[u8], into: &mut Vec<u8>) -> Option<()> {
        into.clear();
        let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
        let (text, mac) = rest.split_last_chunk::<MAC>()?;
        if !bool::from(self.mac(nonce, text).ct_eq(mac)) {
            return None;
        }
        into.extend_from_slice(text);
        self.stream(nonce, into);
        Some(())
    }

    fn stream(&self, nonce: &[u8; NONCE], bytes: &mut [u8]) {
        ctr::Ctr128BE::<Aes256>::new(&self.encrypt.into(), &(*nonce).into()).apply_keystream(bytes);
    }

    fn mac(&self, nonce: &[u8; NONCE], text: &[u8]) -> [u8; MAC] {
        let mut masked = (*nonce).into();
        Aes128::new(&self.mac_k.into()).encrypt_block(&mut masked);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&masked);
        Poly1305::new(&key.into()).compute_unpadded(text).into()
    }
}

/// Clears the bits of `r` that Poly1305 wants cleared.
fn mask(r: &mut [u8; 16]) {
    for at in [3, 7, 11, 15] {
        r[at] &= 0x0f;
    }
    for at in [4, 8, 12] {
        r[at] &= 0xfc;
    }
}

/// Fills with bytes from the system's random source.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), Fault> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| Fault::infrastructure("the system gives no random numbers").help("look at the machine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_that_of_the_paper() {
        // Bernstein (2005), appendix B, fourth example.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let mut bytes = [0; 64];
        bytes[32..48].copy_from_slice(&hex("6acb5f61a7176dd320c5c1eb2edcdc74"));
        bytes[48..].copy_from_slice(&hex("48443d0bb0d21109c89a100b5ce2c208"));
        let key = Key::from_bytes(&bytes);
        let nonce: [u8; 16] = hex("ae212a55399729595dea458bc621ff0e").try_into().unwrap();
        let message = hex("663cea190ffb83d89593f3f476b6bc24d7e679107ea26adb8caf6652d0656136");
        assert_eq!(key.mac(&nonce, &message).to_vec(), hex("0ee1c16bb73f0f4fd19881753c01cdbe"));
    }

    #[test]
    fn no_flipped_or_missing_byte_goes_unseen() {
        let key = Key::random().unwrap();
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        key.encrypt(b"some bytes", &mut sealed).unwrap();
        assert_eq!(sealed.len(), 10 + OVERHEAD);
        key.decrypt(&sealed, &mut plain).unwrap();
        assert_eq!(plain, b"some bytes");
        for at in 0..sealed.len() {
            sealed[at] ^= 1;
            assert!(key.decrypt(&sealed, &mut plain).is_none() && plain.is_empty(), "byte {at}");
            sealed[at] ^= 1;
            assert!(key.decrypt(&sealed[..at], &mut plain).is_none(), "cut at {at}");
        }
    }
}
