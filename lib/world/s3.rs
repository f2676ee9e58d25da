//! S3, and stores that speak like it: small objects, written on conditions.
//!
//! Where the store is and who asks stands in the variables that all S3 tools know:
//!
//! | variable | holds |
//! | --- | --- |
//! | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` | the key |
//! | `AWS_SESSION_TOKEN` | what belongs to a key that is lent for a while |
//! | `AWS_REGION`, `AWS_DEFAULT_REGION` | the region |
//! | `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` | the store, where it is not Amazon's |
//! | `TRAPKEY_S3_STYLE` | `path` or `virtual`: where in a URL the bucket stands |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusty_s3::{Credentials, Method, UrlStyle, signing};

use super::http::{Answer, Client, NoAnswer, Request};
use crate::fault::Fault;
use crate::redact;

mod bulk;
mod said;

pub use bulk::Stored;
use said::{No, Said};

/// How long a call goes on trying, unless somebody is in more of a hurry.
const PATIENCE: Duration = Duration::from_secs(5);
/// No patience is shorter than that: a first connection needs it.
const SHORTEST: Duration = Duration::from_millis(500);
/// The pause after the first try; it doubles with each one, up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long a signature holds, in seconds. Clocks may differ by less than that.
const SIGNED_FOR: u64 = 600;
/// No object that is read here is larger.
const LARGEST: u64 = 256 << 20;
/// So many times in a row a store may say that two writes met.
const MEETINGS: u32 = 4;

/// Where the store is, and who asks.
#[derive(Clone, Debug)]
pub struct Access {
    endpoint: Option<String>,
    region: String,
    style: Option<UrlStyle>,
    credentials: Credentials,
}

/// A bucket.
#[derive(Debug)]
pub struct Bucket {
    at: rusty_s3::Bucket,
    credentials: Credentials,
    client: Client,
    patience: Mutex<Duration>,
    /// Whether the last call was given up: then the next ones try once, until one is answered.
    down: AtomicBool,
    /// How long the calls for large objects go on trying.
    endurance: Mutex<Duration>,
    /// Whether the store has said that it knows no conditional writes.
    unconditional: AtomicBool,
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// What tells it from other contents (`ETag`, with its quotes).
    pub tag: String,
}

/// When a write may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever stands there.
    Any,
    /// Only where nothing stands yet (`If-None-Match: *`).
    New,
    /// Only where that still stands (`If-Match`).
    Is(String),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It stands there, under that tag.
    Done(String),
    /// The condition did not hold, and nothing was changed.
    Conflict,
}

/// Why a try settled nothing.
#[derive(Debug)]
enum Unsettled {
    /// It may work in a moment, or after the pause that the store asks for.
    Again(Fault, Option<Duration>),
    /// It will not work.
    Never(Fault),
    /// The store does not know what was asked.
    Unknown(Fault),
}

/// What is asked of an object, and the right that it takes.
#[derive(Clone, Copy, Debug)]
struct Wish<'a> {
    method: Method,
    right: &'static str,
    key: &'a str,
    headers: &'a [(&'static str, &'a str)],
    query: &'a [(&'static str, &'a str)],
    body: Option<&'a [u8]>,
    /// How much of the answer's body is kept, in bytes.
    keep: u64,
}

impl Access {
    /// What the environment says.
    ///
    /// Errors (2): a variable is missing or not understood.
    pub fn from_environment() -> Result<Self, Fault> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// The same, from any set of variables; empty ones count as missing.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let variable = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let needed = |name: &str| {
            variable(name).ok_or_else(|| {
                Fault::usage(format!("the variable {name} is not set, and a place on s3:// needs it"))
                    .help("S3 takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with a lent key also AWS_SESSION_TOKEN) and AWS_REGION; another store than Amazon's also AWS_ENDPOINT_URL_S3")
            })
        };
        let (key, secret) = (needed("AWS_ACCESS_KEY_ID")?, needed("AWS_SECRET_ACCESS_KEY")?);
        redact::learn(&secret);
        let credentials = match variable("AWS_SESSION_TOKEN") {
            Some(token) => {
                redact::learn(&token);
                Credentials::new_with_token(key, secret, token)
            }
            None => Credentials::new(key, secret),
        };
        let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
        let region = match variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")) {
            Some(region) => region,
            // Most stores of one's own have no regions, and take this word.
            None if endpoint.is_some() => "us-east-1".into(),
            None => needed("AWS_REGION")?,
        };
        let style = match variable("TRAPKEY_S3_STYLE").as_deref() {
            None => None,
            Some("path") => Some(UrlStyle::Path),
            Some("virtual") => Some(UrlStyle::VirtualHost),
            Some(_) => {
                return Err(Fault::usage("the variable TRAPKEY_S3_STYLE is neither `path` nor `virtual`")
                    .help("`path` is https://STORE/BUCKET/KEY, `virtual` is https://BUCKET.STORE/KEY"));
            }
        };
        Ok(Self { endpoint, region, style, credentials })
    }

    /// The bucket of that name. Touches nothing.
    ///
    /// Errors (2): it is no name of a bucket, or the store's address is none.
    pub fn bucket(&self, name: &str) -> Result<Bucket, Fault> {
        if !is_bucket(name) {
            return Err(Fault::usage(format!("`{name}` is not the name of a bucket")).help(
                "a bucket has 3 to 63 lowercase letters, digits, dots and hyphens: s3://BUCKET/PREFIX",
            ));
        }
        // A certificate holds for one label before the store's name.
        let style = self.style.unwrap_or(if self.endpoint.is_some() || name.contains('.') {
            UrlStyle::Path
        } else {
            UrlStyle::VirtualHost
        });
        let amazon = || format!("https://s3.{}.{}", self.region, domain(&self.region));
        let endpoint = self.endpoint.clone().unwrap_or_else(amazon);
        let wrong = |cause: &dyn std::fmt::Display| {
            Fault::usage("the address of the S3 store is not understood")
                .place(redact::redact(&endpoint))
                .cause(cause)
                .help("write AWS_ENDPOINT_URL_S3 like https://minio.example.com:9000, or AWS_REGION like eu-central-1")
        };
        let url = endpoint.parse().map_err(|e| wrong(&format!("{e}")))?;
        let at = rusty_s3::Bucket::new(url, style, name.to_owned(), self.region.clone())
            .map_err(|e| wrong(&format!("{e}")))?;
        Ok(Bucket {
            at,
            credentials: self.credentials.clone(),
            client: Client::new(PATIENCE),
            patience: Mutex::new(PATIENCE),
            down: AtomicBool::new(false),
            endurance: Mutex::new(bulk::ENDURANCE),
            unconditional: AtomicBool::new(false),
        })
    }
}

/// China's regions have a domain of their own.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
        && !name.contains("..")
}

impl Bucket {
    /// Its name.
    pub fn name(&self) -> &str {
        self.at.name()
    }

    /// From now on no call takes longer than about that.
    pub fn hurry(&self, patience: Duration) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience.clamp(SHORTEST, PATIENCE);
    }

    /// Reads an object; nothing where there is none.
    ///
    /// Errors (4): the store cannot be reached, does not let this key read it, or answers wrongly.
    pub fn get(&self, key: &str) -> Result<Option<Object>, Fault> {
        self.settle(|limit| self.get_once(key, limit))
    }

    fn get_once(&self, key: &str, limit: Duration) -> Result<Option<Object>, Unsettled> {
        let wish = Wish { key, ..Wish::plain(Method::Get, "s3:GetObject") };
        let (said, answer) = self.ask(&wish, limit)?;
        match (said, tag(&answer)) {
            (Said::Absent, _) => Ok(None),
            (Said::Good, Some(tag)) => Ok(Some(Object { tag, bytes: answer.body })),
            _ => Err(self.garbage(&wish, &answer)),
        }
    }

    /// Writes an object where the condition holds. Of several writers on the same condition one is
    /// told `Done`. Where a reply was lost, what stands there is compared: bytes that are equal to
    /// these count as written by this call, so they must be unlike those of any other writer.
    ///
    /// Errors: the store cannot be reached, does not let this key write it, or answers wrongly (4);
    /// it knows no conditions (2).
    pub fn put(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<Put, Fault> {
        let mut lost = false;
        let mut met = 0;
        let condition = match condition {
            Condition::Any => None,
            Condition::New => Some(("if-none-match", "*")),
            Condition::Is(tag) => Some(("if-match", tag.as_str())),
        };
        let headers: Vec<_> = condition.into_iter().collect();
        let wish =
            Wish { key, headers: &headers, body: Some(bytes), ..Wish::plain(Method::Put, "s3:PutObject") };
        self.settle(|limit| {
            let (said, answer) = self.ask(&wish, limit).inspect_err(|_| lost = true)?;
            match (said, tag(&answer)) {
                (Said::Good, Some(tag)) => Ok(Put::Done(tag)),
                (Said::Good, None) => {
                    lost = true;
                    Err(self.garbage(&wish, &answer))
                }
                (Said::Met, _) if met < MEETINGS => {
                    met += 1;
                    Err(self.garbage(&wish, &answer))
                }
                _ if lost => match self.get_once(key, limit)? {
                    Some(found) if found.bytes == bytes => Ok(Put::Done(found.tag)),
                    _ => Ok(Put::Conflict),
                },
                _ => Ok(Put::Conflict),
            }
        })
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&self, key: &str) -> Result<(), Fault> {
        let wish = Wish { key, ..Wish::plain(Method::Delete, "s3:DeleteObject") };
        self.settle(|limit| match self.ask(&wish, limit)? {
            (Said::Good | Said::Absent, _) => Ok(()),
            (_, answer) => Err(self.garbage(&wish, &answer)),
        })
    }

    /// The keys that begin like this, sorted.
    pub fn list(&self, beginning: &str) -> Result<Vec<String>, Fault> {
        let mut found = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let page = self.settle(|limit| self.page_once(beginning, from.as_deref(), limit))?;
            found.extend(page.objects.into_iter().map(|(key, _)| key));
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        found.sort();
        Ok(found)
    }

    /// The part of a list that begins there.
    fn page_once(
        &self,
        beginning: &str,
        from: Option<&str>,
        limit: Duration,
    ) -> Result<said::Page, Unsettled> {
        let mut query = vec![("list-type", "2"), ("prefix", beginning)];
        if let Some(from) = from {
            query.insert(0, ("continuation-token", from));
        }
        let wish = Wish { query: &query, ..Wish::plain(Method::Get, "s3:ListBucket") };
        let (said, answer) = self.ask(&wish, limit)?;
        let page = (said == Said::Good).then(|| said::page(&answer.body)).flatten();
        // One that leads to itself never ends.
        page.filter(|page| page.next.is_none() || page.next.as_deref() != from)
            .ok_or_else(|| self.garbage(&wish, &answer))
    }

    /// Tries until it is settled or patience is over. After one that was given up, others try once
    /// and briefly: who must act without the store has no time to wait for it again and again.
    fn settle<T>(&self, mut attempt: impl FnMut(Duration) -> Result<T, Unsettled>) -> Result<T, Fault> {
        let patience = *self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + patience;
        let brief = self.down.load(Ordering::SeqCst);
        let mut pause = FIRST_PAUSE;
        loop {
            let limit = if brief { patience / 5 } else { patience / 2 };
            match attempt(limit.min(until.saturating_duration_since(Instant::now()).max(SHORTEST / 2))) {
                Ok(settled) => {
                    self.down.store(false, Ordering::SeqCst);
                    return Ok(settled);
                }
                Err(Unsettled::Never(fault) | Unsettled::Unknown(fault)) => {
                    self.down.store(false, Ordering::SeqCst);
                    return Err(fault);
                }
                Err(Unsettled::Again(fault, _)) => {
                    let wait = pause / 2 + (pause / 2).mul_f64((super::unique() % 1000) as f64 / 1000.0);
                    if brief || Instant::now() + wait >= until {
                        self.down.store(true, Ordering::SeqCst);
                        return Err(fault);
                    }
                    std::thread::sleep(wait);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// One request, and what its answer means.
    fn ask(&self, wish: &Wish<'_>, limit: Duration) -> Result<(Said, Answer), Unsettled> {
        let answer =
            self.send(wish, limit).map_err(|none| Unsettled::Again(self.unreached(wish, &none), None))?;
        if let Some(fault) = self.wrong_clock(&answer) {
            return Err(Unsettled::Never(fault));
        }
        if answer.body.len() as u64 > LARGEST {
            let fault = self.fault(wish, "an object on the S3 store is larger than 256 MiB");
            return Err(Unsettled::Never(fault.help("it is none of this program's: choose another prefix")));
        }
        match said::meaning(answer.status, &answer.body) {
            Ok(said) => Ok((said, answer)),
            Err(No::Now(why)) => Err(Unsettled::Again(
                self.fault(wish, "the S3 store does not do its work")
                    .cause(why)
                    .help("look at the store's own state, and run this again"),
                bulk::retry_after(&answer),
            )),
            Err(No::Never(error)) if error.code == "BadDigest" || error.code == "IncompleteBody" => {
                let fault = self.fault(wish, "what was written to the S3 store was damaged on its way");
                let fault = fault.cause(error.line(answer.status));
                Err(Unsettled::Again(fault.help("something between here and the store changes bytes"), None))
            }
            Err(No::Never(error)) if error.code == "NotImplemented" => {
                Err(Unsettled::Unknown(self.refused(wish, &answer, &error)))
            }
            Err(No::Never(error)) => Err(Unsettled::Never(self.refused(wish, &answer, &error))),
            Err(No::Sense) => Err(self.garbage(wish, &answer)),
        }
    }

    fn send(&self, wish: &Wish<'_>, limit: Duration) -> Result<Answer, NoAnswer> {
        let plain = self.at.object_url(wish.key);
        let url = signing::sign(
            &super::now(),
            wish.method,
            plain.clone(),
            self.credentials.key(),
            self.credentials.secret(),
            self.credentials.token(),
            self.at.region(),
            SIGNED_FOR,
            wish.query.iter().copied(),
            wish.headers.iter().copied(),
        );
        let request = Request {
            method: wish.method.to_str().into(),
            url: url.to_string(),
            // Bytes are wanted as they lie there.
            headers: [("accept-encoding", "identity")]
                .iter()
                .chain(wish.headers)
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            body: None,
            keep: wish.keep,
        };
        self.client.send_body(&request, wish.body, limit).map_err(|mut none| {
            // The query holds the signature.
            if let Some(query) = url.query() {
                none.why = none.why.replace(query, "");
            }
            none
        })
    }

    /// The fault (4) of a clock that differs by more than five minutes from the store's: it would
    /// measure a bake wrongly, and the store refuses what it signs.
    fn wrong_clock(&self, answer: &Answer) -> Option<Fault> {
        let theirs = jiff::fmt::rfc2822::parse(answer.header("date")?).ok()?.timestamp();
        let seconds = super::now().as_second() - theirs.as_second();
        if seconds.abs() <= 300 {
            return None;
        }
        let by = crate::units::show_duration(seconds.unsigned_abs() as f64);
        let way = if seconds > 0 { "ahead of" } else { "behind" };
        Some(
            Fault::infrastructure(format!("this machine's clock is wrong by {by}"))
                .place(format!("s3://{}", self.name()))
                .cause(format!("it is {way} the clock of the S3 store, which says {theirs}"))
                .help("set the clock (is NTP running?), and run this again: times would be measured wrongly"),
        )
    }

    fn fault(&self, wish: &Wish<'_>, what: &str) -> Fault {
        let beginning = wish.query.iter().find(|(name, _)| *name == "prefix").map_or("", |(_, v)| v);
        let origin = self.at.base_url().origin().ascii_serialization();
        Fault::infrastructure(what).place(format!("s3://{}/{}{beginning} on {origin}", self.name(), wish.key))
    }

    fn unreached(&self, wish: &Wish<'_>, none: &NoAnswer) -> Fault {
        self.fault(wish, "the S3 store cannot be reached")
            .cause(&none.why)
            .help("are AWS_ENDPOINT_URL_S3, AWS_REGION and the network right? run this again once it answers")
    }

    /// An answer that S3 would not give here.
    fn garbage(&self, wish: &Wish<'_>, answer: &Answer) -> Unsettled {
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: String = words.chars().filter(|c| !c.is_control()).collect();
        let words = crate::units::clipped(&crate::redact::redact(&words), 80);
        Unsettled::Again(
            self.fault(wish, "what answers is not an S3 store, or something in between changes its answers")
                .cause(format!("{} was answered with status {}, `{words}`", wish.method, answer.status))
                .help("is AWS_ENDPOINT_URL_S3 right, and no proxy or portal in the way?"),
            None,
        )
    }

    /// The fault for an answer that says no.
    fn refused(&self, wish: &Wish<'_>, answer: &Answer, error: &said::Error) -> Fault {
        let cause = error.line(answer.status);
        let (bucket, right) = (self.name(), wish.right);
        let fault = |what: &str| self.fault(wish, what).cause(&cause);
        match error.code.as_str() {
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" => fault("the S3 store does not know this key")
                .help("are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY a pair, and of this store?"),
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                fault("the S3 store does not take this session token any more")
                    .help("get a new key: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN belong together, and hold for some hours")
            }
            "RequestTimeTooSkewed" => fault("this machine's clock is wrong, says the S3 store")
                .help("set the clock (is NTP running?), and run this again"),
            "NoSuchBucket" => fault(&format!("the bucket `{bucket}` does not exist"))
                .help("make it first, or correct its name, AWS_REGION or AWS_ENDPOINT_URL_S3"),
            "NotImplemented" if !wish.headers.is_empty() => {
                let mut fault = fault("this S3 store knows no conditional writes");
                fault.exit = crate::fault::Exit::Usage;
                fault.help("two jobs at once could not be kept apart on it: choose another store (docs/state.md names some)")
            }
            "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => {
                let region = answer.header("x-amz-bucket-region").map(str::to_owned).or(error.region.clone());
                let named = region.map_or("look its region up".into(), |r| format!("it is in {r}"));
                fault(&format!("the bucket `{bucket}` is in another region")).help(format!("{named}; set AWS_REGION"))
            }
            "InvalidRange" => fault("an object on the S3 store is shorter than expected")
                .help("somebody wrote another object in its place"),
            _ if answer.status == 403 => {
                let object = match wish.right {
                    "s3:ListBucket" => format!("arn:aws:s3:::{bucket}"),
                    _ => format!("arn:aws:s3:::{bucket}/{}", wish.key),
                };
                // Amazon says the same of an object that is not there, unless the key may list.
                let and = if wish.right == "s3:GetObject" {
                    format!(", and s3:ListBucket on arn:aws:s3:::{bucket}, without which S3 says this of every key that is not there")
                } else {
                    String::new()
                };
                fault(&format!("the S3 store refuses {right} to this key"))
                    .help(format!("give it the right {right} on {object}{and}"))
            }
            _ => fault("the S3 store refuses the request").help("look at the store's own words"),
        }
    }
}

impl Wish<'_> {
    fn plain(method: Method, right: &'static str) -> Self {
        Self { method, right, key: "", headers: &[], query: &[], body: None, keep: LARGEST + 1 }
    }
}

/// What tells the content apart, where the answer says so.
fn tag(answer: &Answer) -> Option<String> {
    answer.header("etag").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests;
