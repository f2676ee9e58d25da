//! A repository in an S3 bucket, laid out as restic does it.

use std::borrow::Cow;
use std::time::Duration;

use super::{Backend, Kind, Name};
use crate::fault::Fault;
use crate::repository::restic::id::Id;
use crate::world::s3::{Access, Bucket, Stored};

/// What an address of such a place begins with.
pub(super) const SCHEME: &str = "s3://";
/// Bytes that arrive different from what their name says are fetched so often.
const READS: u32 = 3;
/// So many packs are on their way at the same time; each takes some 20 MB of memory.
const UPLOADS: usize = 4;

/// A prefix in a bucket.
///
/// Each file is one object. An upload becomes visible whole, and says with it which MD5 has to arrive.
#[derive(Debug)]
pub struct S3 {
    bucket: Bucket,
    /// What every key begins with; empty, or ends with `/`.
    folder: String,
}

impl S3 {
    /// What lies below `BUCKET[/PREFIX]`. Touches nothing.
    ///
    /// Errors (2): the address is not understood.
    pub fn new(inside: &str, access: &Access) -> Result<Self, Fault> {
        let (name, prefix) = inside.split_once('/').unwrap_or((inside, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |part: &str| !["", ".", ".."].contains(&part) && !part.chars().any(char::is_control);
        if !prefix.is_empty() && !prefix.split('/').all(plain) {
            return Err(Fault::usage("the place of the repository is not understood")
                .place(format!("{SCHEME}{inside}"))
                .help("write it like s3://BUCKET/PREFIX, without empty parts, `.` or `..`"));
        }
        let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: access.bucket(name)?, folder })
    }

    /// The same, but a call that is not answered is given up after about that long.
    #[must_use]
    pub fn enduring(self, endurance: Duration) -> Self {
        self.bucket.endure(endurance);
        self
    }

    fn key(&self, name: Name) -> String {
        format!("{}{name}", self.folder)
    }

    fn missing(&self, name: Name) -> Fault {
        super::missing(self, name)
            .help("another program may have removed it meanwhile; otherwise `check` says what is lost")
    }
}

impl Backend for S3 {
    fn place(&self) -> String {
        format!("{SCHEME}{}/{}", self.bucket.name(), self.folder).trim_end_matches('/').to_owned()
    }

    fn prepare(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, Fault> {
        let beginning = format!("{}{}/", self.folder, kind.folder());
        let mut found = Vec::new();
        for (key, length) in self.bucket.lengths(&beginning)? {
            let name = key.strip_prefix(&beginning).unwrap_or_default();
            let id = match (kind, name.split_once('/')) {
                (Kind::Pack, Some((first, name))) if name.starts_with(first) && first.len() == 2 => {
                    Id::parse(name)
                }
                (Kind::Pack, _) | (_, Some(_)) => None,
                (_, None) => Id::parse(name),
            };
            found.extend(id.map(|id| (id, length)));
        }
        Ok(found)
    }

    fn length(&self, name: Name) -> Result<Option<u64>, Fault> {
        self.bucket.length(&self.key(name))
    }

    fn read(&self, name: Name, offset: u64, length: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        into.clear();
        let end = offset.checked_add(length as u64).ok_or_else(|| self.missing(name))?;
        *into = self.bucket.range(&self.key(name), offset..end)?.ok_or_else(|| self.missing(name))?;
        Ok(())
    }

    fn whole(&self, name: Name, most: u64) -> Result<Vec<u8>, Fault> {
        let mut reads = 0;
        loop {
            let bytes =
                self.bucket.whole(&self.key(name), most)?.ok_or_else(|| super::missing(self, name))?;
            reads += 1;
            match name {
                // It may have been damaged on the way only.
                Name::File(_, id) if reads < READS && Id::of(&bytes) != id => {}
                _ => return Ok(bytes),
            }
        }
    }

    fn put(&self, name: Name, parts: &[&[u8]]) -> Result<(), Fault> {
        let bytes = match parts {
            [one] => Cow::Borrowed(*one),
            many => Cow::Owned(many.concat()),
        };
        if self.bucket.store(&self.key(name), &bytes)? == Stored::Done || name == Name::Config {
            return Ok(());
        }
        // Ours, and only the answer got lost; or somebody wrote the same.
        match self.length(name)? {
            Some(there) if there == bytes.len() as u64 => Ok(()),
            there => Err(super::damaged(
                self,
                name,
                format!("it has {} bytes where {} belong", there.unwrap_or_default(), bytes.len()),
            )),
        }
    }

    fn sweep(&self) -> Result<(), Fault> {
        // Nobody sees an upload that was cut off.
        Ok(())
    }

    fn remove(&self, name: Name) -> Result<(), Fault> {
        self.bucket.discard(&self.key(name))
    }

    fn remote(&self) -> bool {
        true
    }

    fn uploads(&self) -> usize {
        UPLOADS
    }

    fn may_remove(&self, kind: Kind) -> Result<(), Fault> {
        // The right is looked at first, whether the object is there or not.
        let nobody = Id::of(format!("{:016x}", crate::world::unique()).as_bytes());
        self.remove(Name::File(kind, nobody)).map_err(|fault| {
            let cause = fault.line();
            Fault::refused("the store does not let this key remove anything")
                .place(format!("{}/{}", self.place(), kind.folder()))
                .cause(cause)
                .help("nothing was changed; use a key that may remove (s3:DeleteObject), and no append-only one")
        })
    }
}
