//! Large objects and many of them: ranges, lengths, uploads in parts; with more patience than the
//! small objects of a state need, since nobody's traffic waits for it.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use rusty_s3::Method;

use super::said::{self, Said};
use super::{Answer, Bucket, FIRST_PAUSE, Unsettled, Wish, tag};
use crate::fault::Fault;
use crate::world::{signal, uptime};

/// How long a call goes on trying.
pub(super) const ENDURANCE: Duration = Duration::from_secs(120);
/// How long a removal goes on trying: what was asked under a lock is not done long after.
const REMOVAL: Duration = Duration::from_secs(60);
/// A first try may take so long, and longer by a second for each MiB; each further one twice that.
const FIRST_TRY: Duration = Duration::from_secs(15);
/// No pause is longer, whatever the store asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause doubles with each try up to that.
const PAUSE: Duration = Duration::from_secs(8);
/// An object that is longer goes up in parts of half that size, in bytes.
const IN_PARTS_FROM: usize = 64 << 20;
/// An answer that says no has at most so many bytes that are of interest.
const WORDS: u64 = 64 << 10;
/// A longer range is read in pieces of that size, in bytes.
const PIECE: u64 = 64 << 20;

/// What came of a write of a new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It stands there.
    Done,
    /// Something stands there already, and was left alone.
    There,
}

impl Bucket {
    /// From now on the calls below go on trying for about that long.
    pub fn endure(&self, endurance: Duration) {
        *self.endurance.lock().unwrap_or_else(PoisonError::into_inner) = endurance;
    }

    /// The length of an object in bytes; nothing where there is none.
    pub fn length(&self, key: &str) -> Result<Option<u64>, Fault> {
        self.persist(0, |limit| {
            let wish = Wish { key, keep: 0, ..Wish::plain(Method::Head, "s3:GetObject") };
            let answer = self
                .send(&wish, limit)
                .map_err(|none| Unsettled::Again(self.unreached(&wish, &none), None))?;
            let length = answer.header("content-length").and_then(|text| text.trim().parse().ok());
            match length.filter(|_| answer.status == 200 && tag(&answer).is_some()) {
                Some(length) => Ok(Some(length)),
                // What is wrong stands in a body, and an answer to HEAD has none.
                None => self.length_from_range(key, limit),
            }
        })
    }

    fn length_from_range(&self, key: &str, limit: Duration) -> Result<Option<u64>, Unsettled> {
        let headers = [("range", "bytes=0-0")];
        let wish = Wish { key, headers: &headers, ..Wish::plain(Method::Get, "s3:GetObject") };
        let (said, answer) = self.ask(&wish, limit)?;
        if said == Said::Absent {
            return Ok(None);
        }
        match range(&answer) {
            Some((_, total)) if said == Said::Good => Ok(Some(total)),
            _ => Err(self.garbage(&wish, &answer)),
        }
    }

    /// A whole object; nothing where there is none.
    ///
    /// Errors (4): also where it is longer than `most` bytes.
    pub fn whole(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>, Fault> {
        self.persist(most.min(PIECE), |limit| {
            let wish = Wish { key, keep: (most + 1).max(WORDS), ..Wish::plain(Method::Get, "s3:GetObject") };
            let (said, answer) = self.ask(&wish, limit)?;
            match said {
                Said::Absent => Ok(None),
                Said::Good if answer.body.len() as u64 > most => {
                    let fault = self.fault(&wish, "an object on the S3 store is too long");
                    Err(Unsettled::Never(fault.cause(format!("{most} bytes are the most that make sense"))))
                }
                Said::Good if tag(&answer).is_some() => Ok(Some(answer.body)),
                _ => Err(self.garbage(&wish, &answer)),
            }
        })
    }

    /// A part of an object; nothing where there is none.
    ///
    /// Errors (4): also where the object ends before.
    pub fn range(&self, key: &str, bytes: Range<u64>) -> Result<Option<Vec<u8>>, Fault> {
        let mut whole = Vec::new();
        let mut from = bytes.start;
        while from < bytes.end {
            let end = bytes.end.min(from + PIECE);
            let Some(piece) = self.persist(end - from, |limit| self.piece_once(key, from..end, limit))?
            else {
                return Ok(None);
            };
            // Mostly there is one piece, and nothing is copied.
            if whole.is_empty() {
                whole = piece;
            } else {
                whole.extend_from_slice(&piece);
            }
            from = end;
        }
        Ok(Some(whole))
    }

    fn piece_once(
        &self,
        key: &str,
        bytes: Range<u64>,
        limit: Duration,
    ) -> Result<Option<Vec<u8>>, Unsettled> {
        let wanted = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        let headers = [("range", wanted.as_str())];
        let length = bytes.end - bytes.start;
        let keep = (length + 1).max(WORDS);
        let wish = Wish { key, headers: &headers, keep, ..Wish::plain(Method::Get, "s3:GetObject") };
        let (said, answer) = self.ask(&wish, limit)?;
        if said == Said::Absent {
            return Ok(None);
        }
        let right = answer.body.len() as u64 == length;
        match range(&answer) {
            Some((start, total)) if start == bytes.start && total < bytes.end => {
                let fault = self.fault(&wish, "an object on the S3 store is shorter than expected");
                let why = format!("it has {total} bytes where {length} were expected from {start} on");
                Err(Unsettled::Never(fault.cause(why)))
            }
            Some((start, _)) if said == Said::Good && start == bytes.start && right => Ok(Some(answer.body)),
            // A whole object that is just what was wanted.
            None if said == Said::Good && answer.status == 200 && bytes.start == 0 && right => {
                Ok(Some(answer.body))
            }
            _ => Err(self.garbage(&wish, &answer)),
        }
    }

    /// Writes a new object. The store is told the MD5 of what has to arrive; bytes that were damaged
    /// on the way are refused by it, and sent again. Where the store knows conditional writes nothing
    /// is overwritten.
    pub fn store(&self, key: &str, bytes: &[u8]) -> Result<Stored, Fault> {
        if bytes.len() > IN_PARTS_FROM {
            return self.store_in_parts(key, bytes);
        }
        let md5 = STANDARD.encode(Md5::digest(bytes));
        self.on_condition(bytes.len() as u64, &[("content-md5", md5.as_str())], |headers, limit| {
            let body = Some(bytes);
            let wish = Wish { key, headers, body, ..Wish::plain(Method::Put, "s3:PutObject") };
            let (said, answer) = self.ask(&wish, limit)?;
            match said {
                Said::Good if tag(&answer).is_some() => Ok(Stored::Done),
                Said::Missed => Ok(Stored::There),
                _ => Err(self.garbage(&wish, &answer)),
            }
        })
    }

    /// Does something on the condition that the object is new; without it on a store that knows none.
    fn on_condition(
        &self,
        bytes: u64,
        headers: &[(&'static str, &str)],
        mut attempt: impl FnMut(&[(&'static str, &str)], Duration) -> Result<Stored, Unsettled>,
    ) -> Result<Stored, Fault> {
        let conditional = [headers, &[("if-none-match", "*")]].concat();
        self.persist(bytes, |limit| {
            if self.unconditional.load(Ordering::SeqCst) {
                return attempt(headers, limit);
            }
            match attempt(&conditional, limit) {
                Err(Unsettled::Unknown(_)) => {
                    self.unconditional.store(true, Ordering::SeqCst);
                    attempt(headers, limit)
                }
                done => done,
            }
        })
    }

    fn store_in_parts(&self, key: &str, bytes: &[u8]) -> Result<Stored, Fault> {
        let upload = self.persist(0, |limit| {
            let query = [("uploads", "")];
            let wish =
                Wish { key, query: &query, body: Some(b""), ..Wish::plain(Method::Post, "s3:PutObject") };
            let (said, answer) = self.ask(&wish, limit)?;
            let id = said::element(&answer.body, "InitiateMultipartUploadResult", "UploadId");
            id.filter(|_| said == Said::Good).ok_or_else(|| self.garbage(&wish, &answer))
        })?;
        let done = self.parts(key, bytes, &upload).and_then(|list| self.join(key, bytes, &upload, &list));
        if done.is_err() {
            let query = [("uploadId", upload.as_str())];
            let wish = Wish { key, query: &query, ..Wish::plain(Method::Delete, "s3:AbortMultipartUpload") };
            // The first error is the one to tell; a rule on the bucket removes what is left.
            let _ = self.send(&wish, FIRST_TRY);
        }
        done
    }

    /// Sends the parts and returns the list that joins them.
    fn parts(&self, key: &str, bytes: &[u8], upload: &str) -> Result<String, Fault> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (at, part) in bytes.chunks(IN_PARTS_FROM / 2).enumerate() {
            let (number, md5) = ((at + 1).to_string(), STANDARD.encode(Md5::digest(part)));
            let (query, headers) =
                ([("partNumber", number.as_str()), ("uploadId", upload)], [("content-md5", md5.as_str())]);
            let plain = Wish::plain(Method::Put, "s3:PutObject");
            let wish = Wish { key, query: &query, headers: &headers, body: Some(part), ..plain };
            let tag = self.persist(part.len() as u64, |limit| {
                let (said, answer) = self.ask(&wish, limit)?;
                tag(&answer).filter(|_| said == Said::Good).ok_or_else(|| self.garbage(&wish, &answer))
            })?;
            let tag = quick_xml::escape::escape(tag.as_str()).into_owned();
            list += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        Ok(list + "</CompleteMultipartUpload>")
    }

    fn join(&self, key: &str, bytes: &[u8], upload: &str, list: &str) -> Result<Stored, Fault> {
        let query = [("uploadId", upload)];
        let mut lost = false;
        let joined = self.on_condition(0, &[], |headers, limit| {
            let body = Some(list.as_bytes());
            let wish =
                Wish { key, query: &query, headers, body, ..Wish::plain(Method::Post, "s3:PutObject") };
            let (said, answer) = self.ask(&wish, limit).inspect_err(|e| {
                lost |= matches!(e, Unsettled::Again(..));
            })?;
            // An error may come behind a good status here.
            match said {
                Said::Good
                    if said::element(&answer.body, "CompleteMultipartUploadResult", "ETag").is_some() =>
                {
                    Ok(Stored::Done)
                }
                Said::Missed => Ok(Stored::There),
                _ => {
                    lost = true;
                    Err(self.garbage(&wish, &answer))
                }
            }
        });
        match joined {
            // The upload is over when it was joined and only the answer got lost.
            Err(_) if lost && self.length(key)? == Some(bytes.len() as u64) => Ok(Stored::Done),
            joined => joined,
        }
    }

    /// Removes an object; one that is not there is no error.
    pub fn discard(&self, key: &str) -> Result<(), Fault> {
        let wish = Wish { key, ..Wish::plain(Method::Delete, "s3:DeleteObject") };
        self.persist_for(REMOVAL, 0, |limit| match self.ask(&wish, limit)? {
            (Said::Absent, _) => Ok(()),
            // A portal in between says 200 to everything, with a page.
            (Said::Good, answer) if answer.status == 204 || answer.body.is_empty() => Ok(()),
            (_, answer) => Err(self.garbage(&wish, &answer)),
        })
    }

    /// The keys that begin like this, each with its object's length in bytes.
    pub fn lengths(&self, beginning: &str) -> Result<Vec<(String, u64)>, Fault> {
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.persist(0, |limit| self.page_once(beginning, from.as_deref(), limit))?;
            found.extend(page.objects);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Tries until it is settled, for as long as is endured and at least twice. After one that was
    /// given up the next ones try once, until one is answered.
    fn persist<T>(
        &self,
        bytes: u64,
        attempt: impl FnMut(Duration) -> Result<T, Unsettled>,
    ) -> Result<T, Fault> {
        self.persist_for(ENDURANCE, bytes, attempt)
    }

    fn persist_for<T>(
        &self,
        most: Duration,
        bytes: u64,
        mut attempt: impl FnMut(Duration) -> Result<T, Unsettled>,
    ) -> Result<T, Fault> {
        let endurance = *self.endurance.lock().unwrap_or_else(PoisonError::into_inner);
        let endurance = endurance.min(most);
        // By a clock that runs on while the machine is suspended: nothing is done long after it was asked.
        let until = uptime() + endurance;
        let brief = self.down.load(Ordering::SeqCst);
        let mut limit = FIRST_TRY.min(endurance / 2) + Duration::from_millis(bytes >> 10);
        let mut pause = FIRST_PAUSE * 2;
        let mut tries = 0;
        loop {
            match attempt(limit) {
                Ok(settled) => {
                    self.down.store(false, Ordering::SeqCst);
                    return Ok(settled);
                }
                Err(Unsettled::Never(fault) | Unsettled::Unknown(fault)) => {
                    self.down.store(false, Ordering::SeqCst);
                    return Err(fault);
                }
                Err(Unsettled::Again(fault, asked)) => {
                    tries += 1;
                    let chance = (crate::world::unique() % 1000) as f64 / 1000.0;
                    let wait = (pause / 2 + (pause / 2).mul_f64(chance)).max(asked.unwrap_or_default());
                    let over = tries > 1 && uptime() + wait >= until;
                    // The machine may have been suspended meanwhile.
                    let slept = !brief && !over && signal::sleep(wait);
                    if !slept || uptime() >= until + wait {
                        self.down.store(true, Ordering::SeqCst);
                        return Err(fault);
                    }
                    pause = (pause * 2).min(PAUSE);
                    limit = (limit * 2).min(FIRST_TRY * 40);
                }
            }
        }
    }
}

/// How long the store asks to wait.
pub(super) fn retry_after(answer: &Answer) -> Option<Duration> {
    let text = answer.header("retry-after")?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(until.duration_since(crate::world::now())).ok()?
    };
    Some(wait.min(LONGEST_PAUSE))
}

/// Where the part in an answer begins, and how long the whole object is, in bytes.
fn range(answer: &Answer) -> Option<(u64, u64)> {
    let text = answer.header("content-range").filter(|_| answer.status == 206)?;
    let (part, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((part.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}
