//! Nothing comes in without a bound: the one way in which files are opened, and JSON is read.
//!
//! Whoever opens a pipe waits for somebody to write; a device has no end, and opening one may already do
//! something; a folder, a socket and a link that leads nowhere have their own errors in every call. So every
//! file that this program reads is opened here: links are followed, what they lead to must be a regular file,
//! it is never waited for, and no more of it is read than the caller names. `tests/house.rs` finds whoever
//! goes past.
//!
//! JSON has two bounds: its text, and the number of its values. A value takes up to a hundred bytes of memory
//! where its text takes two.

use std::fmt;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::units::show_size;

/// Opens a regular file to read it.
///
/// Errors: there is none ([`io::ErrorKind::NotFound`], also where a link leads nowhere), it is something else,
/// or it may not be read.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: a socket cannot be, and some devices act on it.
    let found = fs::metadata(path).map_err(|error| led_nowhere(path, error))?;
    regular(&found)?;
    opened(path, OFlags::empty())
}

/// Opens a file that was seen to be a regular one a moment ago, and not through a link.
///
/// Errors: something else took its place, or it may not be read.
pub fn open_seen(path: &Path) -> io::Result<File> {
    opened(path, OFlags::NOFOLLOW)
}

fn opened(path: &Path, more: OFlags) -> io::Result<File> {
    // What takes its place between the look and the opening is not waited for either.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a folder, to make what happened in it lasting.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// A whole regular file of at most that many bytes.
///
/// Errors: as [`open`], and [`io::ErrorKind::FileTooLarge`].
pub fn whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_large = || {
        let most = show_size(most as f64);
        io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most}"))
    };
    if file.metadata()?.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // Its length is no bound: the kernel's own files have none, and others grow.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// The same as text.
///
/// Errors: as [`whole`], and [`io::ErrorKind::InvalidData`] where it is not UTF-8.
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(whole(path, most)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The same where there is something; none where there is nothing at all.
///
/// Errors: as [`whole`]. A link that leads nowhere is something.
pub fn whole_if_there(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match whole(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(error) => match fs::symlink_metadata(path) {
            Err(none) if none.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Err(io::Error::other(error)),
        },
    }
}

/// A new file to write and read; one that is there is never taken over, nor is a link followed.
pub fn fresh(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// A regular file to lock it, or to write at its end, or both; it is made where there is none.
///
/// Errors: something else is there, or it may not be written.
pub fn open_to_add(path: &Path, mode: u32) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(found) => regular(&found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(mode);
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// What somebody else reads and takes lines from: a file, a terminal or a pipe that has a reader. Nobody is
/// waited for.
pub fn open_to_tell(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).create(true).custom_flags(flags.bits().cast_signed());
    options.open(path).map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NXIO) => io::Error::other("it is a pipe that nobody reads, or a socket"),
        _ => error,
    })
}

/// What a path is, where it is no regular file.
pub fn regular(found: &Metadata) -> io::Result<()> {
    match named(found.file_type()) {
        None => Ok(()),
        Some(_) if found.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file"))
        }
        Some(what) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
        }
    }
}

fn named(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a folder"),
        _ if kind.is_fifo() => Some("a pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_symlink() => Some("a link"),
        _ => Some("a device"),
    }
}

/// "No such file" says too little of a link that is there.
fn led_nowhere(path: &Path, error: io::Error) -> io::Error {
    match fs::read_link(path) {
        Ok(to) if error.kind() == io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), format!("it is a link to {}, which is not there", to.display()))
        }
        _ => error,
    }
}

/// How many values a JSON text has: numbers, texts, words, lists, objects, and the keys of objects.
///
/// Reads it without keeping anything. Errors: it is no JSON, lists lie in each other more than 128 deep, or
/// there are more than `most`.
pub fn count(json: &[u8], most: usize) -> Result<usize, serde_json::Error> {
    let mut left = most;
    let mut reader = serde_json::Deserializer::from_slice(json);
    reader.deserialize_any(Counting { left: &mut left, most })?;
    reader.end()?;
    Ok(most - left)
}

/// What a JSON text says, where it has no more than `most` values.
///
/// Errors: as [`count`], and it says something else.
pub fn json<T: DeserializeOwned>(bytes: &[u8], most: usize) -> Result<T, serde_json::Error> {
    // A text has no more values than bytes.
    if bytes.len() > most {
        count(bytes, most)?;
    }
    serde_json::from_slice(bytes)
}

struct Counting<'a> {
    left: &'a mut usize,
    most: usize,
}

impl Counting<'_> {
    fn one<E: serde::de::Error>(&mut self) -> Result<(), E> {
        let too_many = || E::custom(format_args!("it has more than {} values", self.most));
        *self.left = self.left.checked_sub(1).ok_or_else(too_many)?;
        Ok(())
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Counting<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counting<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E: serde::de::Error>(mut self, _: bool) -> Result<(), E> {
        self.one()
    }
    fn visit_i64<E: serde::de::Error>(mut self, _: i64) -> Result<(), E> {
        self.one()
    }
    fn visit_u64<E: serde::de::Error>(mut self, _: u64) -> Result<(), E> {
        self.one()
    }
    fn visit_f64<E: serde::de::Error>(mut self, _: f64) -> Result<(), E> {
        self.one()
    }
    fn visit_str<E: serde::de::Error>(mut self, _: &str) -> Result<(), E> {
        self.one()
    }
    fn visit_unit<E: serde::de::Error>(mut self) -> Result<(), E> {
        self.one()
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        self.one()?;
        while all.next_element_seed(Counting { left: self.left, most: self.most })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut all: A) -> Result<(), A::Error> {
        self.one()?;
        while all.next_key::<IgnoredAny>()?.is_some() {
            self.one()?;
            all.next_value_seed(Counting { left: self.left, most: self.most })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    /// Everything that a path can be, by name; the listener keeps the socket.
    fn zoo(folder: &Path) -> (Vec<(&'static str, PathBuf)>, UnixListener) {
        let at = |name: &str| folder.join(name);
        fs::write(at("regular"), "words").unwrap();
        fs::write(at("empty"), "").unwrap();
        File::create(at("huge")).unwrap().set_len(1 << 42).unwrap();
        fs::create_dir(at("folder")).unwrap();
        mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let listener = UnixListener::bind(at("socket")).unwrap();
        symlink("regular", at("link")).unwrap();
        symlink("pipe", at("link-to-pipe")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let names = ["regular", "empty", "huge", "folder", "pipe", "socket", "link", "link-to-pipe"];
        let mut all: Vec<_> = names.map(|name| (name, at(name))).to_vec();
        all.extend(["dangling", "loop", "missing"].map(|name| (name, at(name))));
        all.extend(["zero", "null", "tty", "random"].map(|name| (name, Path::new("/dev").join(name))));
        all.push(("below-a-file", at("regular").join("x")));
        (all, listener)
    }

    #[test]
    fn whatever_a_path_is_nobody_waits_and_only_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (zoo, _listener) = zoo(folder.path());
        for (name, path) in zoo {
            let told = |found: io::Result<Vec<u8>>| match found {
                Ok(bytes) => format!("{} bytes", bytes.len()),
                Err(error) => error.to_string(),
            };
            let expected = match name {
                "regular" | "link" => "5 bytes",
                "empty" => "0 bytes",
                "huge" => "it is larger than 64 KiB",
                "folder" => "it is a folder, not a file",
                "pipe" | "link-to-pipe" => "it is a pipe, not a regular file",
                "socket" => "it is a socket, not a regular file",
                "dangling" => "it is a link to nowhere, which is not there",
                "loop" => "Too many levels of symbolic links (os error 40)",
                "missing" => "No such file or directory (os error 2)",
                "below-a-file" => "Not a directory (os error 20)",
                _ => "it is a device, not a regular file",
            };
            let read = whole(&path, 64 * 1024);
            let kind = read.as_ref().err().map(io::Error::kind);
            assert_eq!(told(read), expected, "{name}");
            assert_eq!(
                kind == Some(io::ErrorKind::NotFound),
                matches!(name, "dangling" | "missing"),
                "{name}"
            );
            let there = whole_if_there(&path, 64 * 1024);
            assert_eq!(matches!(there, Ok(None)), name == "missing", "{name}");
            assert_eq!(there.is_err(), !expected.contains(" bytes") && name != "missing", "{name}");
            let opened = open(&path).is_ok();
            assert_eq!(opened, expected.ends_with("bytes") || name == "huge", "{name}");
            assert_eq!(open_seen(&path).is_ok(), opened && name != "link", "{name}");
            assert_eq!(open_folder(&path).is_ok(), name == "folder", "{name}");
        }
        let missing = folder.path().join("missing");
        drop(open_to_add(&missing, 0o600).unwrap());
        for name in ["folder", "pipe", "socket", "loop"] {
            assert!(open_to_add(&folder.path().join(name), 0o600).is_err(), "{name}");
            assert!(open_to_tell(&folder.path().join(name)).is_err(), "{name}");
            assert!(fresh(&folder.path().join(name), 0o600).is_err(), "{name}");
        }
        assert!(open_to_add(Path::new("/dev/null"), 0o600).is_err());
        assert!(open_to_tell(Path::new("/dev/null")).is_ok(), "people send their outputs there");
        // The kernel's own files have no length.
        assert!(!text(Path::new("/proc/self/stat"), 64 * 1024).unwrap().is_empty());
    }

    #[test]
    fn values_are_counted_before_anything_is_kept() {
        for (text, values) in [
            ("0", 1),
            ("[]", 1),
            ("[1, -2, 0.5, true, null, \"a\"]", 7),
            (r#"{"a": 1, "b": {"c": [2]}}"#, 8),
            ("{}", 1),
        ] {
            assert_eq!(count(text.as_bytes(), 100).unwrap(), values, "{text}");
            assert!(count(text.as_bytes(), values).is_ok(), "{text}");
            let error = count(text.as_bytes(), values - 1).unwrap_err().to_string();
            assert!(error.contains(&format!("more than {} values", values - 1)), "{error}");
        }
        let many = format!("[{}0]", "0,".repeat(1000));
        assert!(json::<serde_json::Value>(many.as_bytes(), 1000).is_err());
        assert!(json::<serde_json::Value>(many.as_bytes(), 1002).is_ok());
        let deep = "[".repeat(100_000);
        for wrong in ["", "[", "{\"a\"}", "[1] 2", "nul", &deep] {
            assert!(count(wrong.as_bytes(), 1 << 20).is_err());
        }
    }
}
