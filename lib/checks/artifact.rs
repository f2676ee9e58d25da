//! `artifact`: whether what is about to be released is what was built.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Text, Unit};
use crate::world::files;
use crate::yaml::Problem;

/// See `preflight explain artifact`.
pub(super) static KIND: Kind = Kind {
    name: "artifact",
    about: "Compares the SHA-256 of what is about to be released with the one on record.",
    target: "a path, relative to the plan",
    example: "\
- name: artifact is what CI built
  kind: artifact
  target: dist/shop.tar.gz
  with: {checksums: dist/SHA256SUMS}
",
    observes: &[
        Observable { name: "matches", unit: Unit::Flag, about: "whether it is the one on record" },
        Observable { name: "sha256", unit: Unit::Text, about: "its SHA-256 in hexadecimal" },
    ],
    presumes: &[Presumed::new("matches", "true")],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The SHA-256 that it must have.
    #[serde(default)]
    sha256: Option<Text>,
    /// A file as `sha256sum` or `openssl dgst -sha256` writes it, or with nothing but the digest, relative to the
    /// plan.
    #[serde(default)]
    checksums: Option<Text>,
}

struct Artifact {
    path: PathBuf,
    name: String,
    record: Record,
}

enum Record {
    Digest(String),
    Checksums(PathBuf),
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let record = match (settings.sha256, settings.checksums) {
        (Some(digest), None) => {
            let digest = digest.value.trim().to_ascii_lowercase();
            if !is_digest(&digest) {
                return Err(order.problem("with", "`sha256` is not 64 hexadecimal digits"));
            }
            Record::Digest(digest)
        }
        (None, Some(file)) => Record::Checksums(order.loaded.at(&file.value)),
        (Some(_), Some(_)) => {
            return Err(order.problem("with", "`sha256` and `checksums` are both given").help("keep one"));
        }
        (None, None) => {
            return Err(order
                .problem("with", "nothing says which artifact is the right one")
                .help("add `with: {checksums: FILE}` or `with: {sha256: …}`"));
        }
    };
    let name = order.target()?.value.clone();
    Ok(Box::new(Artifact { path: order.path()?, name, record }))
}

impl Check for Artifact {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let wanted = match &self.record {
            Record::Digest(digest) => digest.clone(),
            Record::Checksums(file) => {
                let place = file.display();
                let text =
                    files::read_text(file).map_err(|error| Trouble::broken(format!("{place}: {error}")))?;
                wanted(&text, &self.name).map_err(|why| Trouble::failed(format!("{place} {why}")))?
            }
        };
        let place = self.path.display();
        let (sha256, size) = files::sha256_file(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Trouble::failed(format!("{place}: {error}")),
            _ => Trouble::broken(format!("{place}: {error}")),
        })?;
        let note = format!("its sha256 is {sha256}, on record is {wanted}");
        Ok(Sight::default()
            .saw("matches", Observed::Flag(sha256 == wanted))
            .saw("sha256", Observed::Text(sha256))
            .detail("recorded_sha256", wanted)
            .detail("bytes", size)
            .note(note))
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The digest that a checksum file has for a path, or else for its file name; a digest without a name where
/// there is nothing else in the file.
fn wanted(checksums: &str, name: &str) -> Result<String, String> {
    let base = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
    let clean = |path: &str| path.trim_start_matches("./").to_owned();
    let lines: Vec<(String, Option<String>)> = checksums.lines().filter_map(entry).collect();
    let find = |same: &dyn Fn(Option<&str>) -> bool| -> Vec<&String> {
        let mut found: Vec<&String> =
            lines.iter().filter(|(_, path)| same(path.as_deref())).map(|(digest, _)| digest).collect();
        found.sort();
        found.dedup();
        found
    };
    let mut found = find(&|path| path.is_some_and(|path| clean(path) == clean(name)));
    if found.is_empty() {
        found = find(&|path| path.is_some_and(|path| base(path) == base(name)));
    }
    if lines.iter().all(|(_, path)| path.is_none()) {
        found = find(&|_| true);
    }
    match found.as_slice() {
        [digest] => Ok((*digest).clone()),
        [] => Err(format!("lists no `{name}`")),
        _ => Err(format!("lists several digests for `{name}`")),
    }
}

/// A digest, and whose it is where the line says so: `DIGEST  path`, `DIGEST *path`, BSD's `SHA256 (path) = DIGEST`,
/// OpenSSL's `SHA2-256(path)= DIGEST`, and a bare `DIGEST`.
fn entry(line: &str) -> Option<(String, Option<String>)> {
    let line = line.trim_start_matches('\u{feff}').trim_end();
    let digest = |text: &str| is_digest(text).then(|| text.to_ascii_lowercase());
    // What was read from a pipe has no name.
    let named = |path: &str| (!["-", "stdin"].contains(&path)).then(|| path.to_owned());
    if let Some(bare) = digest(line) {
        return Some((bare, None));
    }
    if let Some((head, found)) = line.rsplit_once('=') {
        let path = head.trim_end().strip_suffix(')');
        let tagged = path.and_then(|path| {
            ["SHA256", "SHA2-256", "sha256", ""]
                .iter()
                .find_map(|tag| path.strip_prefix(tag)?.trim_start().strip_prefix('('))
        });
        if let (Some(path), Some(found)) = (tagged, digest(found.trim_start())) {
            return Some((found, named(path)));
        }
    }
    // A backslash in front says that the path has escapes.
    let (escaped, line) = match line.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (found, path) = line.split_once(' ')?;
    let path = path.strip_prefix([' ', '*'])?;
    let path = if escaped { path.replace("\\n", "\n").replace("\\\\", "\\") } else { path.to_owned() };
    digest(found).map(|found| (found, named(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_checksum_files() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let text = format!("{a}  dist/shop.tar.gz\r\n{b} *other.bin\nSHA256 (bsd.bin) = {a}\nrubbish\n");
        assert_eq!(wanted(&text, "dist/shop.tar.gz"), Ok(a.clone()));
        assert_eq!(wanted(&text, "./dist/shop.tar.gz"), Ok(a.clone()));
        assert_eq!(wanted(&text, "build/other.bin"), Ok("b".repeat(64)));
        assert_eq!(wanted(&text, "bsd.bin"), Ok(a.clone()));
        assert_eq!(wanted(&text, "none"), Err("lists no `none`".into()));
        let twice = format!("{a}  x/f\n{b}  y/f\n");
        assert_eq!(wanted(&twice, "z/f"), Err("lists several digests for `z/f`".into()));
        assert_eq!(wanted(&twice, "y/f"), Ok("b".repeat(64)));
    }

    #[test]
    fn reads_what_openssl_writes_and_bare_digests() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        for text in [
            format!("SHA2-256(shop.tar.gz)= {a}\n"),
            format!("SHA256(dist/shop.tar.gz)= {a}\r\n"),
            format!("{a} *shop.tar.gz\n"),
            format!("SHA256 (a=b) = {b}\nSHA256 (shop.tar.gz) = {a}\n"),
            format!("\u{feff}{}  \n", a.to_uppercase()),
            format!("{a}\n"),
            a.clone(),
            format!("{a}  -\n"),
            format!("SHA2-256(stdin)= {a}\n"),
            format!("(stdin)= {a}\n"),
        ] {
            assert_eq!(wanted(&text, "shop.tar.gz"), Ok(a.clone()), "{text:?}");
        }
        // Another's digest, two of them, a bare one among others, another algorithm.
        for text in [
            format!("SHA2-256(other)= {a}\n"),
            format!("{a}\n{b}\n"),
            format!("{a}\n{b}  other\n"),
            format!("SHA1(shop.tar.gz)= {}\n", "a".repeat(40)),
            format!("SHA3-256(shop.tar.gz)= {a}\n"),
            format!("SHA2-512(shop.tar.gz)= {a}{b}\n"),
        ] {
            assert!(wanted(&text, "shop.tar.gz").is_err(), "{text:?}");
        }
        let equal = format!("SHA256 (a=b.bin) = {a}");
        assert_eq!(wanted(&equal, "a=b.bin"), Ok(a));
    }
}
