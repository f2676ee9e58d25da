//! The state on an S3 store: a change only of what was read, by conditional writes.
//!
//! | object below `PREFIX/ENVIRONMENT/` | holds |
//! | --- | --- |
//! | `lease.json`, `state.json`, `abort.json`, `pause.json`, … | the objects |
//! | `journal/FENCE-LINE.json` | one line of the journal each |
//! | `probe-…` | for a moment, before the first lease: whether the store keeps conditions |

use std::time::Duration;

use super::{Condition, Object, Place, Put, Tag};
use crate::fault::Fault;
use crate::world::s3::{self, Access};

/// What an address of such a place begins with.
pub(super) const SCHEME: &str = "s3://";

/// One environment's objects.
#[derive(Debug)]
pub(super) struct Bucket {
    bucket: s3::Bucket,
    /// What every key begins with; ends with `/`.
    folder: String,
}

impl Bucket {
    /// The state of `environment` below `BUCKET[/PREFIX]`. Touches nothing.
    ///
    /// Errors (2): the address is not understood.
    pub(super) fn new(inside: &str, environment: &str, access: &Access) -> Result<Self, Fault> {
        let (name, prefix) = inside.split_once('/').unwrap_or((inside, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |part: &str| !["", ".", ".."].contains(&part) && !part.chars().any(char::is_control);
        if !prefix.is_empty() && !prefix.split('/').all(plain) {
            return Err(Fault::usage("the place of the promote state is not understood")
                .place(format!("{SCHEME}{inside}"))
                .help("write it like s3://BUCKET/PREFIX, without empty parts, `.` or `..`"));
        }
        let environment = super::plain_name(environment);
        let folder =
            if prefix.is_empty() { format!("{environment}/") } else { format!("{prefix}/{environment}/") };
        Ok(Self { bucket: access.bucket(name)?, folder })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    fn unfit(&self) -> Fault {
        Fault::usage("this S3 store does not keep the conditions of a write")
            .place(self.shown())
            .cause("it overwrote an object under If-None-Match or If-Match, so two jobs at once would both win")
            .help("choose a store with conditional writes (docs/state.md names some), or a newer version of this one")
    }

    /// Tries both conditions where they must not hold.
    fn keeps_conditions(&self, key: &str) -> Result<bool, Fault> {
        let tag = match self.bucket.put(key, b"first", &s3::Condition::New)? {
            s3::Put::Done(tag) => tag,
            // Nobody else writes this key.
            s3::Put::Conflict => return Ok(false),
        };
        if self.bucket.put(key, b"second", &s3::Condition::New)? != s3::Put::Conflict {
            return Ok(false);
        }
        let other = s3::Condition::Is("\"00000000000000000000000000000000\"".into());
        if self.bucket.put(key, b"third", &other)? != s3::Put::Conflict {
            return Ok(false);
        }
        Ok(matches!(self.bucket.put(key, b"fourth", &s3::Condition::Is(tag))?, s3::Put::Done(_)))
    }
}

impl Place for Bucket {
    fn shown(&self) -> String {
        format!("{SCHEME}{}/{}", self.bucket.name(), self.folder.trim_end_matches('/'))
    }

    fn get(&self, name: &str) -> Result<Option<Object>, Fault> {
        let found = self.bucket.get(&self.key(name))?;
        Ok(found.map(|object| Object { bytes: object.bytes, tag: Tag(object.tag) }))
    }

    fn put(&self, name: &str, bytes: &[u8], condition: &Condition) -> Result<Put, Fault> {
        let condition = match condition {
            Condition::Any => s3::Condition::Any,
            Condition::New => s3::Condition::New,
            Condition::Is(tag) => s3::Condition::Is(tag.0.clone()),
        };
        Ok(match self.bucket.put(&self.key(name), bytes, &condition)? {
            s3::Put::Done(tag) => Put::Done(Tag(tag)),
            s3::Put::Conflict => Put::Conflict,
        })
    }

    fn remove(&self, name: &str) -> Result<(), Fault> {
        self.bucket.delete(&self.key(name))
    }

    fn list(&self, beginning: &str) -> Result<Vec<String>, Fault> {
        let found = self.bucket.list(&self.key(beginning))?;
        let names = found.iter().filter_map(|key| key.strip_prefix(&self.folder));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn journal(&self, line: &str, key: &str) -> Result<(), Fault> {
        let name = format!("journal/{key}.json");
        match self.put(&name, format!("{line}\n").as_bytes(), &Condition::New)? {
            Put::Done(_) => Ok(()),
            Put::Conflict => Err(Fault::refused("a line of the journal was written by somebody else")
                .place(format!("{}/{name}", self.shown()))
                .help("does another program write below this prefix? look at `promote status`")),
        }
    }

    fn prove(&self) -> Result<(), Fault> {
        let key = self.key(&format!("probe-{:016x}", crate::world::unique()));
        let kept = self.keeps_conditions(&key);
        let removed = self.bucket.delete(&key);
        if kept? { removed } else { Err(self.unfit()) }
    }

    /// Writes an object of its own on a condition that cannot hold. A store that keeps conditions looks at the
    /// key's rights first, and then writes nothing: that takes no right to remove anything.
    fn may_write(&self) -> Result<(), Fault> {
        let key = self.key(&format!("probe-{:016x}", crate::world::unique()));
        let nobody = s3::Condition::Is("\"00000000000000000000000000000000\"".into());
        match self.bucket.put(&key, b"probe", &nobody)? {
            s3::Put::Conflict => Ok(()),
            s3::Put::Done(_) => {
                // What it wrote in spite of the condition; the store is unfit whether or not it can be removed.
                let _ = self.bucket.delete(&key);
                Err(self.unfit())
            }
        }
    }

    fn hurry(&self, lasts: Duration) {
        self.bucket.hurry(lasts / 6);
    }

    fn between_looks(&self) -> Duration {
        Duration::from_secs(1)
    }
}
