//! What the sources that are asked over HTTP share: an address with its headers, one answer within
//! bounds, and what of its series is a series of points.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::query::Query;
use super::{Ask, Order, Point, Source, Trouble};
use crate::bounds;
use crate::redact;
use crate::units::{Text, show_duration, show_size};
use crate::world::http::{Answer, Client, NoAnswer, Request, is_url, join};
use crate::yaml::Problem;

/// No answer that is read here is larger.
pub(super) const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// No answer has more values: one series of 11,000 points has some 33,000, and one series is what is needed.
pub(super) const MAX_VALUES: usize = 500_000;
/// A server's words about its trouble are not longer.
const MAX_WORDS: usize = 64 * 1024;
/// Longer parameters go into a body: servers and proxies refuse lines of some thousand bytes.
const LONG: usize = 2_000;
/// How much of what a server says goes into an error.
const MAX_SAID: usize = 300;

/// What a service gives for a query: every series that it has.
pub(super) trait Service: Send {
    /// All series of a query within a window; what lies outside of it is dropped by the caller.
    fn series(&self, query: &str, ask: &Ask<'_>) -> Result<Vec<Series>, Trouble>;
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    /// What tells it from others: `{job="shop", status="500"}`.
    pub label: String,
    /// Its values, in any order.
    pub points: Vec<Point>,
}

/// A source that asks a service.
pub(super) struct Remote<S> {
    /// The service.
    pub service: S,
    /// What it is asked.
    pub query: Query,
}

impl<S: Service> Source for Remote<S> {
    fn points(&mut self, ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
        let filled = self.query.fill(ask);
        let all = filled.and_then(|query| self.service.series(&query, ask));
        all.and_then(|all| one(all, ask)).map_err(|no| Trouble { message: clean(&no.message), ..no })
    }

    fn query(&self, ask: &Ask<'_>) -> String {
        self.query.show(ask)
    }
}

/// The points of the one series that was meant, within the window, ascending.
fn one(mut all: Vec<Series>, ask: &Ask<'_>) -> Result<Vec<Point>, Trouble> {
    if all.len() > 1 {
        return Err(Trouble::several(&all.into_iter().map(|series| series.label).collect::<Vec<_>>()));
    }
    let mut points = all.pop().map(|series| series.points).unwrap_or_default();
    let window = ask.from.as_millisecond()..ask.to.as_millisecond();
    points.retain(|point| window.contains(&point.at_ms));
    points.sort_by_key(|point| point.at_ms);
    match points.windows(2).find(|two| two[0].at_ms == two[1].at_ms) {
        Some(two) => {
            Err(Trouble::babble(format!("two values at one moment, {} ms since 1970", two[0].at_ms)))
        }
        None => Ok(points),
    }
}

/// One line, without secrets.
fn clean(message: &str) -> String {
    redact::redact(message).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Where a service is, and how it is asked.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    base: String,
    shown: String,
    headers: Vec<(String, String)>,
    client: Client,
}

impl Server {
    /// A service by its address. Nothing is asked yet.
    ///
    /// Errors: it is not a URL, or a header is none.
    pub(super) fn new(
        name: &'static str,
        order: &Order<'_>,
        base: &Text,
        headers: &BTreeMap<String, Text>,
    ) -> Result<Self, Problem> {
        let shown = redact::redact(&base.shown);
        if !is_url(&base.value) {
            return Err(order.problem("", format!("`{shown}` is not a URL")).help("write https://host/path"));
        }
        if base.value.contains(['?', '#']) {
            let message = format!("`{shown}` has parameters, and is the beginning of an address");
            return Err(order.problem("", message).help("write https://host/path"));
        }
        let mut server = Self {
            name,
            base: base.value.clone(),
            shown,
            headers: Vec::new(),
            client: Client::new(order.timeout),
        };
        for (header, text) in headers {
            server.header(order, "headers", header, &text.value)?;
        }
        Ok(server)
    }

    /// Adds a header to every request, and remembers what in it must never be shown.
    pub(super) fn header(
        &mut self,
        order: &Order<'_>,
        key: &str,
        name: &str,
        value: &str,
    ) -> Result<(), Problem> {
        let name = name.to_ascii_lowercase();
        let legal = hyper::http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && hyper::http::HeaderValue::from_str(value).is_ok();
        if !legal {
            let message = format!("the header `{name}` has a character that no header may have");
            return Err(order.problem(key, message));
        }
        if ["auth", "cookie", "token", "key", "secret"].iter().any(|word| name.contains(word)) {
            redact::learn(value);
            // `Bearer abc` is shown as neither.
            value.split_whitespace().skip(1).for_each(redact::learn);
        }
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        Ok(())
    }

    /// Asks with parameters: in the address, or as a form where they are long.
    pub(super) fn ask(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        if form.len() > LONG {
            return self.post(
                path,
                &[("content-type", "application/x-www-form-urlencoded")],
                form.into(),
                limit,
            );
        }
        self.get(path, parameters, limit)
    }

    /// Asks with parameters in the address.
    pub(super) fn get(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let url = format!("{}?{form}", join(&self.base, path));
        self.accept(self.send(Request { headers: self.headers.clone(), ..Request::get(&url) }, limit)?)
    }

    /// Sends a body.
    pub(super) fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        self.accept(self.post_raw(path, headers, body, limit)?)
    }

    /// The same; whatever is answered is an answer.
    pub(super) fn post_raw(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, Trouble> {
        let mut all = self.headers.clone();
        all.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let url = join(&self.base, path);
        self.send(Request { method: "POST".into(), url, headers: all, body: Some(body), keep: 0 }, limit)
    }

    fn send(&self, mut request: Request, limit: Duration) -> Result<Answer, Trouble> {
        request.keep = MAX_ANSWER + 1;
        // A connection that is kept from one look to the next may be gone by then.
        request.headers.push(("connection".into(), "close".into()));
        let answer = self.client.send_within(&request, limit).map_err(|no: NoAnswer| {
            let why = if no.timed_out {
                format!("no answer within {}: {}", show_duration(limit.as_secs_f64()), no.why)
            } else {
                format!("no answer: {}", no.why)
            };
            Trouble::unreachable(self.line(&why))
        })?;
        if answer.body.len() as u64 > MAX_ANSWER {
            let most = show_size(MAX_ANSWER as f64);
            return Err(
                self.babble(&format!("an answer of more than {most}; ask for fewer series or a longer step"))
            );
        }
        Ok(answer)
    }

    /// An answer that is none of trouble.
    ///
    /// Errors: by its status, with the server's own words.
    pub(super) fn accept(&self, answer: Answer) -> Result<Answer, Trouble> {
        let said = || match said(&answer) {
            Some(said) => format!("status {}: {said}", answer.status),
            None => format!("status {} ({})", answer.status, content_type(&answer)),
        };
        match answer.status {
            200..=299 => Ok(answer),
            300..=399 => Err(self.refused(&format!(
                "status {}: it sends to another address{}, and none is followed, for the headers would go along",
                answer.status,
                answer.header("location").map(|to| format!(" ({})", origin(to))).unwrap_or_default()
            ))),
            401 | 403 | 407 => Err(self.refused(&format!("no rights, {}", said()))),
            408 | 429 | 502 | 503 | 504 => Err(Trouble::unreachable(self.line(&format!("not now, {}", said())))),
            _ if content_type(&answer).contains("html") => {
                Err(self.babble(&format!("{} is an answer of something else", said())))
            }
            _ => Err(self.refused(&said())),
        }
    }

    /// What is in an answer.
    ///
    /// Errors: it is something else.
    pub(super) fn json<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Trouble> {
        self.parse(answer, &answer.body)
    }

    /// The same of a body that was changed.
    pub(super) fn parse<T: DeserializeOwned>(&self, answer: &Answer, body: &[u8]) -> Result<T, Trouble> {
        bounds::json(body, MAX_VALUES).map_err(|e| self.not_understood(answer, &e.to_string()))
    }

    /// An answer that is something else.
    pub(super) fn not_understood(&self, answer: &Answer, why: &str) -> Trouble {
        let size = show_size(answer.body.len() as f64);
        let what = content_type(answer);
        self.babble(&format!("not understood: status {}, {what}, {size}: {}", answer.status, short(why)))
    }

    /// It refuses.
    pub(super) fn refused(&self, why: &str) -> Trouble {
        Trouble::refused(self.line(why))
    }

    /// It cannot be understood.
    pub(super) fn babble(&self, why: &str) -> Trouble {
        Trouble::babble(self.line(why))
    }

    /// It cannot now.
    pub(super) fn unreachable(&self, why: &str) -> Trouble {
        Trouble::unreachable(self.line(why))
    }

    fn line(&self, why: &str) -> String {
        format!("{} at {}: {why}", self.name, self.shown)
    }

    /// Host and port, as the header `host` has them.
    pub(super) fn host(&self) -> String {
        super::SideOf { word: "", url: self.base.clone(), release: None }.address()
    }
}

fn content_type(answer: &Answer) -> &str {
    answer.header("content-type").map_or("no content type", |t| t.split(';').next().unwrap_or(t).trim())
}

/// Scheme and host of an address; what follows may hold a secret.
fn origin(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            format!("{scheme}://{}", host.rsplit_once('@').map_or(host, |(_, host)| host))
        }
        None => "of its own".into(),
    }
}

/// What a server says about its trouble: the keys that all of them use, or a plain text.
fn said(answer: &Answer) -> Option<String> {
    let words = &answer.body[..answer.body.len().min(MAX_WORDS)];
    let text = match serde_json::from_slice::<Value>(words) {
        Ok(value) => {
            let of = |key: &str| match value.get(key) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Array(items)) => {
                    Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "))
                }
                _ => None,
            };
            ["error", "errors", "message", "Message"].iter().find_map(|key| of(key).filter(|t| !t.is_empty()))
        }
        Err(_) if content_type(answer).contains("html") => None,
        Err(_) => Some(String::from_utf8_lossy(words).into_owned()),
    };
    text.map(|text| short(&text)).filter(|text| !text.is_empty())
}

/// One line of a text, not too long.
pub(super) fn short(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    crate::units::clipped(&redact::redact(&line.join(" ")), MAX_SAID)
}

/// Labels as people know them: `{job="shop", status="500"}`.
pub(super) fn label<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let parts: Vec<String> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", parts.join(", "))
}

/// Milliseconds of seconds since 1970.
///
/// Errors: no moment.
#[expect(clippy::cast_possible_truncation, reason = "checked to be far below 2^63")]
pub(super) fn moment(seconds: f64) -> Result<i64, Trouble> {
    let ms = (seconds * 1e3).round();
    if ms.is_finite() && ms.abs() < 1e16 {
        Ok(ms as i64)
    } else {
        Err(Trouble::babble(format!("{seconds} s since 1970 is no moment")))
    }
}

/// A number, also as the texts in which JSON has what it has no numbers for: `NaN`, `+Inf`, `-Infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number))
            }
            #[expect(clippy::cast_precision_loss, reason = "metrics are floats everywhere")]
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            #[expect(clippy::cast_precision_loss, reason = "metrics are floats everywhere")]
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number as f64))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                // Rust reads `NaN`, `+Inf` and `-Infinity`, in any case.
                text.parse()
                    .map(Number)
                    .map_err(|_| E::custom(format_args!("`{}` is no number", short(text))))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{SideOf, TroubleKind};
    use super::*;

    fn series(label: &str, points: &[(i64, f64)]) -> Series {
        let points = points.iter().map(|(at_ms, value)| Point { at_ms: *at_ms, value: *value }).collect();
        Series { label: label.into(), points }
    }

    fn taken(all: Vec<Series>) -> Result<Vec<i64>, TroubleKind> {
        let side = SideOf { word: "green", url: "http://g".into(), release: None };
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let second = Duration::from_secs(1);
        let ask =
            Ask { side: &side, from: at(1000), to: at(3000), step: second, covers: second, limit: second };
        one(all, &ask).map(|points| points.iter().map(|p| p.at_ms).collect()).map_err(|t| t.what)
    }

    #[test]
    fn points_ascend_lie_within_the_window_and_are_there_once() {
        let all = series("a", &[(3000, 1.0), (2000, 2.0), (999, 3.0), (1000, 4.0)]);
        assert_eq!(taken(vec![all]), Ok(vec![1000, 2000]));
        assert_eq!(taken(vec![]), Ok(vec![]));
        assert_eq!(taken(vec![series("a", &[(1500, 1.0), (1500, 1.0)])]), Err(TroubleKind::Babble));
        // Outside of the window they do no harm.
        assert_eq!(taken(vec![series("a", &[(500, 1.0), (500, 2.0)])]), Ok(vec![]));
        assert_eq!(taken(vec![series("a", &[]), series("b", &[])]), Err(TroubleKind::SeveralSeries));
    }

    #[test]
    fn numbers_come_as_numbers_and_as_texts() {
        let read = |text: &str| {
            serde_json::from_str::<Vec<Number>>(text).map(|all| all.iter().map(|n| n.0).collect())
        };
        let numbers: Vec<f64> =
            read(r#"[1, -2, 0.5, "0.25", "+Inf", "-Inf", "Infinity", "1e9999"]"#).unwrap();
        let inf = f64::INFINITY;
        assert_eq!(numbers, [1.0, -2.0, 0.5, 0.25, inf, -inf, inf, inf]);
        assert!(read(r#"["NaN"]"#).unwrap()[0].is_nan());
        for wrong in ["[null]", "[\"much\"]", "[true]", "[[]]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(moment(1_435_781_430.781).unwrap(), 1_435_781_430_781);
        assert!(moment(f64::NAN).is_err() && moment(1e300).is_err());
    }

    #[test]
    fn an_error_shows_no_more_of_an_address_than_its_host() {
        assert_eq!(origin("https://u:p@sso.example.com/login?token=abc"), "https://sso.example.com");
        assert_eq!(origin("/login?token=abc"), "of its own");
    }
}
