//! `http`: one request, and what came back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;

use super::json::{self, Json};
use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble};
use crate::redact;
use crate::units::{Observed, Size, Text, Unit};
use crate::world::http::{Answer, Client, NoAnswer, Request, is_url};
use crate::world::redirect::{self, Stopped};
use crate::world::trust::Trust;
use crate::yaml::Problem;

/// See `preflight explain http`.
pub(super) static KIND: Kind = Kind {
    name: "http",
    about: "Sends one HTTP request and looks at the answer.",
    target: "a URL, `http://` or `https://`, or a unix socket, `http+unix://%2Frun%2Fapp.sock/path`",
    example: "\
- name: shop is healthy
  kind: http
  target: https://shop.example.com/health
  with: {headers: {accept: application/json}}
  expect: {status: 200, /status: ok, latency: \"<= 500ms\"}
  retries: 2
",
    observes: &[
        Observable { name: "status", unit: Unit::Plain, about: "the status code" },
        Observable { name: "latency", unit: Unit::Duration, about: "from the start to the last byte" },
        Observable {
            name: "body",
            unit: Unit::Text,
            about: "the body as text, without the line's end behind it",
        },
        Observable { name: "size", unit: Unit::Bytes, about: "the size of the body" },
    ],
    presumes: &[Presumed::new("status", ">= 200"), Presumed::new("status", "< 300")],
    open_names: Some(
        "`header:NAME` (a response header; of several `Set-Cookie` any) and JSON pointers into the body, such as `/status`",
    ),
    open_unit: |name| match name.strip_prefix("header:") {
        Some(header) => (!header.is_empty()).then_some(Unit::Text),
        None => json::pointer_unit(name),
    },
    settings: Settings::json_schema,
    prepare,
};

settings_with_a_connection! {
    struct Settings {
        /// The method; GET when absent, POST when there is a body.
        #[serde(default)]
        method: Option<String>,
        /// Request headers. Those that say who asks are not sent on to another origin by a redirect.
        #[serde(default)]
        headers: BTreeMap<String, Text>,
        /// The request body.
        #[serde(default)]
        body: Option<Text>,
        /// Whether redirects are followed; true when absent.
        #[serde(default)]
        follow: Option<bool>,
        /// How many redirects are followed; 5 when absent.
        #[serde(default)]
        redirects: Option<u32>,
        /// The largest response body that is looked at; 1MiB when absent.
        #[serde(default)]
        max_body: Option<Size>,
        /// A unix socket that `target` is asked through, relative to the plan.
        #[serde(default)]
        unix_socket: Option<Text>,
    }
}

struct Http {
    trust: Trust,
    socket: Option<PathBuf>,
    request: Request,
    redirects: u32,
    asked: Vec<String>,
}

/// Headers whose value is a secret wherever it comes from.
const SECRET_HEADERS: &[&str] =
    &["authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "private-token"];

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let url = order.target()?;
    if !is_url(&url.value) {
        let message = format!("`{}` is not a URL", redact::redact(&url.shown));
        return Err(order.problem("target", message).help("write https://host/path"));
    }
    let trust = order.trust(&settings.connection())?;
    let headers = headers(order, &settings.headers)?;
    let usual = if settings.body.is_some() { "POST" } else { "GET" };
    let method = settings.method.unwrap_or_else(|| usual.into()).to_ascii_uppercase();
    if hyper::http::Method::from_bytes(method.as_bytes()).is_err() {
        return Err(order.problem("with", format!("`{method}` is not a method")));
    }
    let keep = settings.max_body.map_or(1024 * 1024, |size| size.0);
    let request = Request {
        method,
        url: url.value.clone(),
        headers,
        body: settings.body.map(|body| body.value.into_bytes()),
        // One byte more tells a body that fits from one that was cut.
        keep: keep.saturating_add(1),
    };
    let redirects = if settings.follow.unwrap_or(true) { settings.redirects.unwrap_or(5) } else { 0 };
    let asked = order.expected.iter().map(|line| line.name.clone()).collect();
    let socket = settings.unix_socket.map(|path| order.loaded.at(&path.value));
    Ok(Box::new(Http { trust, socket, request, redirects, asked }))
}

fn headers(order: &Order<'_>, given: &BTreeMap<String, Text>) -> Result<Vec<(String, String)>, Problem> {
    let mut headers = Vec::new();
    for (name, text) in given {
        let name = name.to_ascii_lowercase();
        let legal = hyper::http::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && hyper::http::HeaderValue::from_str(&text.value).is_ok();
        if !legal {
            let message = format!("the header `{name}` has a character that no header may have");
            return Err(order.problem("with", message));
        }
        if SECRET_HEADERS.contains(&name.as_str()) || redact::names_a_secret(&name) {
            redact::learn(&text.value);
            // `Bearer abc` is shown as neither.
            text.value.split_whitespace().skip(1).for_each(redact::learn);
        }
        headers.push((name, text.value.clone()));
    }
    Ok(headers)
}

impl Check for Http {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let client = Client::new(within);
        let client = client.with_own(&self.request.url, self.trust.clone(), self.socket.clone());
        let silent = |no: NoAnswer| {
            if no.timed_out {
                let time = crate::units::show_duration(within.as_secs_f64());
                Trouble::failed(format!("no answer within {time}: {}", no.why))
            } else {
                Trouble::failed(format!("no answer: {}", no.why))
            }
        };
        let followed = redirect::follow(&client, &self.request, self.redirects, within).map_err(
            |stopped| match stopped {
                Stopped::Silent(no) => silent(no),
                Stopped::Astray(why) => Trouble::failed(why),
            },
        )?;
        let sight = sight(&followed.answer, self.request.keep, &self.asked);
        if followed.left_out.is_empty() || sight.note.is_some() {
            return Ok(sight);
        }
        let names = followed.left_out.join(", ");
        Ok(sight.note(format!("redirected to another origin, to which the request took no {names} along")))
    }
}

/// What an answer shows of what is asked for.
fn sight(answer: &Answer, keep: u64, asked: &[String]) -> Sight {
    let mut sight = Sight::default().number("status", f64::from(answer.status), Unit::Plain).number(
        "latency",
        answer.latency.as_secs_f64(),
        Unit::Duration,
    );
    let whole = (answer.body.len() as u64) < keep;
    if whole {
        sight = sight.number("size", answer.body.len() as f64, Unit::Bytes);
    }
    let parsed = if whole { Json::read(&answer.body).ok() } else { None };
    for name in asked {
        if let Some(header) = name.strip_prefix("header:") {
            let values = header_values(answer, &header.to_ascii_lowercase());
            if values.is_empty() {
                sight = sight.note("the answer has no such header");
            }
            sight = values.into_iter().fold(sight, |sight, value| sight.saw(name, Observed::Text(value)));
            let lines = answer.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(header));
            sight = lines.fold(sight, |sight, (_, line)| sight.line_of(name, line));
            continue;
        }
        let found;
        (sight, found) = match (name.as_str(), parsed) {
            ("body", _) if whole => (sight.saw(name, Observed::Text(body(&answer.body))), true),
            (pointer, Some(json)) if pointer.starts_with('/') => json.add(sight, pointer),
            (other, _) => (sight, other != "body" && !other.starts_with('/')),
        };
        if !found {
            sight = sight.note(match parsed {
                _ if !whole => "the body is larger than `max_body`",
                None => "the body is not JSON",
                Some(_) => "the body has nothing there",
            });
        }
    }
    sight
}

/// The values of a header: several of `Set-Cookie`, and of every other one the list that its lines stand for (RFC
/// 9110, section 5.3).
fn header_values(answer: &Answer, name: &str) -> Vec<String> {
    let lines = answer.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone());
    let lines: Vec<String> = lines.collect();
    if name == "set-cookie" || lines.is_empty() { lines } else { vec![lines.join(", ")] }
}

/// The body as text, without the line's end that most servers put behind it.
fn body(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer {
            status: 200,
            headers: vec![("x-release".into(), "1.4.2".into())],
            body: body.into(),
            latency: Duration::from_millis(3),
        }
    }

    #[test]
    fn a_header_that_came_twice_is_not_what_one_of_them_must_not_be() {
        let mut answer = answer("");
        answer.headers.push(("x-release".into(), "1.4.1".into()));
        let sight = sight(&answer, 1000, &["header:X-Release".to_owned()]);
        let lines: Vec<&Observed> = sight.lines.iter().map(|(_, line)| line).collect();
        assert_eq!(lines, [&Observed::Text("1.4.2".into()), &Observed::Text("1.4.1".into())]);
    }

    fn names(sight: &Sight) -> Vec<&str> {
        sight.seen.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn shows_what_is_asked_for_and_says_what_is_missing() {
        let asked: Vec<String> =
            ["body", "/status", "/none", "header:X-Release"].iter().map(ToString::to_string).collect();
        let sight = super::sight(&answer(r#"{"status": "ok"}"#), 1000, &asked);
        assert_eq!(names(&sight), ["status", "latency", "size", "body", "/status", "header:X-Release"]);
        assert_eq!(sight.note.as_deref(), Some("the body has nothing there"));
    }

    #[test]
    fn a_header_that_comes_several_times_is_a_list_and_cookies_stand_alone() {
        let headers = [("set-cookie", "a=1"), ("vary", "x"), ("set-cookie", "b=2"), ("vary", "y")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let answer = Answer { headers, ..answer("") };
        assert_eq!(header_values(&answer, "set-cookie"), ["a=1", "b=2"]);
        assert_eq!(header_values(&answer, "vary"), ["x, y"]);
        assert!(header_values(&answer, "via").is_empty());
    }

    #[test]
    fn one_end_of_the_line_is_no_part_of_a_body() {
        for (bytes, text) in
            [("ok\n", "ok"), ("ok\r\n", "ok"), ("ok\n\n", "ok\n"), ("ok ", "ok "), ("\n", ""), ("", "")]
        {
            assert_eq!(body(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_body_that_was_cut_is_not_looked_at() {
        let sight = super::sight(&answer("0123456789"), 10, &["body".to_owned(), "/a".to_owned()]);
        assert_eq!(names(&sight), ["status", "latency"]);
        assert_eq!(sight.note.as_deref(), Some("the body is larger than `max_body`"));
    }
}
