//! The secret that callers show.

use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::fault::Fault;
use crate::redact;
use crate::world::files::read_text;

/// The secret that callers share with us; only its digest is kept.
pub(super) struct Token([u8; 32]);

/// Fewer characters could be guessed.
const SHORTEST: usize = 16;

impl Token {
    /// The token of `TRAPKEY_TOKEN`, or of the file that `TRAPKEY_TOKEN_FILE` names.
    ///
    /// Errors (2): neither is set, the file cannot be read, or the token is too short.
    pub(super) fn read() -> Result<Self, Fault> {
        let help = "make one with `openssl rand -hex 32`";
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let text = match (set("TRAPKEY_TOKEN"), set("TRAPKEY_TOKEN_FILE")) {
            (Some(token), _) => token,
            (None, Some(path)) => read_text(Path::new(&path)).map_err(|e| {
                Fault::usage("the file of the token cannot be read").place(path).cause(e).help(help)
            })?,
            (None, None) => {
                return Err(Fault::usage("whoever calls must show a token, and there is none")
                    .help(format!("set TRAPKEY_TOKEN, or TRAPKEY_TOKEN_FILE; {help}")));
            }
        };
        let text = text.trim();
        if text.len() < SHORTEST {
            return Err(Fault::usage(format!("the token is shorter than {SHORTEST} characters")).help(help));
        }
        redact::learn(text);
        Ok(Self(digest(text)))
    }

    /// Whether an `Authorization` header shows it. Digests are compared, and in constant time, so that
    /// neither its length nor its beginning shows in how long this takes.
    pub(super) fn is_shown_by(&self, header: Option<&str>) -> bool {
        let parted = header.and_then(|text| text.split_once(' '));
        let shown = parted.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        shown.is_some_and(|(_, token)| digest(token.trim()).ct_eq(&self.0).into())
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
