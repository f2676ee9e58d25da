//! The address where users' requests enter: who answers there, and what stands in the way.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::super::record::Markers;
use super::super::shift::Entry;
use crate::fault::Fault;
use crate::plan::Promote;
use crate::redact::redact;
use crate::routers::{Counters, Router};
use crate::units::show_duration;
use crate::world::address::Address;
use crate::world::http::{Answer, Client, NoAnswer, Request};
use crate::world::signal;

/// The same, held against what the router that is steered has counted of it.
///
/// Errors: those of [`reaches_blue`]; another router serves the front door, or one more does (2).
pub(in crate::tools::promote) fn by_this_router(
    router: &mut dyn Router,
    entry: &Entry,
    markers: &Markers,
    plan: &Promote,
) -> Result<String, Fault> {
    let before = router.counters().ok().flatten();
    let (seen, sent) = reaches_blue(entry, markers, plan)?;
    let Some(before) = before else { return Ok(seen) };
    let until = Instant::now() + COUNTS_WITHIN;
    loop {
        // Without counters of the same start nothing is known.
        let now = router.counters().ok().flatten().filter(|now| now.instance == before.instance);
        let Some(now) = now else { return Ok(seen) };
        let counted = counted(&now).saturating_sub(counted(&before));
        if counted >= sent {
            return Ok(seen);
        }
        if Instant::now() >= until {
            return Err(Fault::usage("the front door is served by another router than the one that is steered, or by one more")
                .place(entry.url.clone())
                .cause(format!(
                    "blue answered {sent} requests there, and {} at {} has counted {counted}",
                    plan.router.kind, plan.router.target.shown
                ))
                .help("two routers that share the users (active/active) need one plan that steers both, by `kind: command`; another router or a cache in front answers in its place: give `promote.router.entry` an address of the router that is steered"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How long a router may take to count what it has answered.
const COUNTS_WITHIN: Duration = Duration::from_secs(10);

/// All that a router has counted.
fn counted(counters: &Counters) -> u64 {
    counters.blue.requests + counters.green.requests + counters.nobody
}

/// Whether requests through the router all reach blue; gives that in words, and how many blue has answered.
///
/// Errors (4): they do not. What is there instead is named: a certificate that nobody trusts, a refused connection,
/// a redirect, a login page, another release.
fn reaches_blue(entry: &Entry, markers: &Markers, plan: &Promote) -> Result<(String, u64), Fault> {
    let blue = markers.blue.as_deref().unwrap_or_default();
    let client = Client::new(plan.probe.timeout.map_or(Duration::from_secs(5), |t| t.0));
    let mut request = Request::get(&entry.url);
    request.headers.push(("connection".into(), "close".into()));
    // A limit of the front door says nothing of who stands behind it, unless it is all that comes.
    let answered = || {
        let is_limit = |answer: &Result<Answer, NoAnswer>| answer.as_ref().is_ok_and(|a| a.status == 429);
        let mut answer = client.send(&request);
        for _ in 1..LOOKS {
            if !is_limit(&answer) || !signal::sleep(AFTER_A_LIMIT) {
                break;
            }
            answer = client.send(&request);
        }
        answer
    };
    let look = || wrong(&entry.url, &answered(), &entry.headers.release, blue);
    let fault = |wrong: Wrong| {
        Fault::infrastructure(wrong.what).place(entry.url.clone()).cause(wrong.cause).help(wrong.help)
    };
    // One first: where nothing answers, the others need not wait for the same.
    if let Some(wrong) = look() {
        return Err(fault(if takes_a_proxy_line(&entry.url) { only_by_proxy(&wrong) } else { wrong }));
    }
    let probed = entry.probe(markers, Instant::now() + PATIENCE);
    if probed.blue >= probed.requests {
        let said = format!("{} of {} requests were answered by blue, {blue}", probed.blue, probed.requests);
        return Ok((said, probed.blue));
    }
    let others = (0..LOOKS).find_map(|_| look()).map(|wrong| format!("; one more: {}", wrong.cause));
    Err(fault(Wrong::new(
        "requests through the router do not all reach blue",
        format!(
            "of {} requests blue answered {}, nobody known {} within {}{}",
            probed.requests,
            probed.blue,
            probed.requests - probed.blue,
            show_duration(PATIENCE.as_secs_f64()),
            others.unwrap_or_default()
        ),
        "is this the address that the router serves, and does it send the release header on?",
    )))
}

/// Whether what gives HTTP no answer gives one behind the line that a proxy in front would send: then it listens with
/// `accept-proxy` (HAProxy), `proxy_protocol` (nginx) or the like.
fn takes_a_proxy_line(url: &str) -> bool {
    let Ok(address) = Address::read(url, &["http"]) else { return false };
    let (Some(host), port) = (address.host, address.port.unwrap_or(80)) else { return false };
    let asked = |line: &str| -> Option<Vec<u8>> {
        let to = (host.as_str(), port).to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&to, PROXY_ANSWERS).ok()?;
        stream.set_read_timeout(Some(PROXY_ANSWERS)).ok()?;
        let request =
            format!("{line}GET /{} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n", address.path);
        stream.write_all(request.as_bytes()).ok()?;
        let mut start = [0; 16];
        let read = stream.read(&mut start).ok()?;
        Some(start[..read].to_vec())
    };
    let well = |start: Vec<u8>| start.starts_with(b"HTTP/1.") && start.get(8..12) != Some(b" 400".as_slice());
    let answers = |line: &str| asked(line).is_some_and(well);
    !answers("") && answers("PROXY UNKNOWN\r\n")
}

/// How long it may take to answer that.
const PROXY_ANSWERS: Duration = Duration::from_secs(2);

fn only_by_proxy(wrong: &Wrong) -> Wrong {
    Wrong::new(
        "the front door takes requests only behind a line of the PROXY protocol",
        format!("{}; with such a line it answers", wrong.cause),
        "give `promote.router.entry` the address of the load balancer in front, or a listener of the router without it (HAProxy: one more `bind` without `accept-proxy`, on loopback)",
    )
}

/// How long the requests together may take: longer than after a shift, for nothing waits for it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is tried to meet once more what answered in blue's place.
const LOOKS: usize = 20;

/// The pause after an answer that only names a limit.
const AFTER_A_LIMIT: Duration = Duration::from_millis(100);

/// What is wrong with an answer.
#[derive(Debug)]
struct Wrong {
    what: String,
    cause: String,
    help: String,
}

impl Wrong {
    fn new(what: impl Into<String>, cause: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), cause: cause.into(), help: help.into() }
    }
}

/// What is wrong with the answer to one request at `url`; none where blue signed it.
fn wrong(url: &str, answer: &Result<Answer, NoAnswer>, header: &str, blue: &str) -> Option<Wrong> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(none) => return Some(unanswered(url, none)),
    };
    match answer.header(header) {
        Some(release) if release == blue => None,
        Some(release) => Some(another(answer, release, blue)),
        None => Some(unsigned(url, answer, header)),
    }
}

/// No answer at all.
fn unanswered(url: &str, none: &NoAnswer) -> Wrong {
    let said = none.why.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let secure = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    if none.timed_out {
        return Wrong::new(
            "the front door does not answer in time",
            &none.why,
            "check the address; a firewall that drops packets looks like this",
        );
    }
    if says(&["connection refused"]) {
        return Wrong::new(
            "the front door refuses connections",
            &none.why,
            "check that the router runs and listens on this port (HAProxy: `bind`)",
        );
    }
    if says(&["certificate", "unknownissuer", "notvalidforname"]) {
        if says(&["causedasendentity"]) {
            return Wrong::new(
                "the certificate of the front door is not trusted",
                format!("it is that of an authority itself, with CA:TRUE, and no server's ({})", none.why),
                "`openssl req -x509` makes such a one unless it is told `-addext basicConstraints=critical,CA:FALSE`: \
                 name this very file in the plan (`connections: {HOST: {ca: FILE}}`), or show one for servers",
            );
        }
        let help = if says(&["notvalidforname", "not valid for name"]) {
            "use a name that the certificate has, in `promote.router.entry` or the environment's `url`"
        } else if says(&["expired", "not valid yet", "notvalidyet"]) {
            "renew the certificate, and look at this machine's clock"
        } else {
            "name the file with its authority in the plan (`connections: {HOST: {ca: FILE}}`) or in SSL_CERT_FILE, or \
             give `promote.router.entry` an address of the router itself, such as http://127.0.0.1:8080"
        };
        return Wrong::new("the certificate of the front door is not trusted", &none.why, help);
    }
    if says(&["host not found", "failed to lookup", "name or service not known"]) {
        return Wrong::new(
            "the name of the front door is not known here",
            &none.why,
            "correct `promote.router.entry` or the environment's `url`, or let this machine resolve the name",
        );
    }
    if secure && says(&["corrupt message", "invalidcontenttype", "tls", "unexpected eof"]) {
        return Wrong::new(
            "what answers at the front door does not speak TLS",
            &none.why,
            "write http:// instead of https:// if the router listens without TLS on this port",
        );
    }
    Wrong::new(
        "the front door gives no answer that HTTP knows",
        &none.why,
        "check scheme and port; a listener for HTTPS answers plain HTTP like this",
    )
}

/// An answer of another release than blue's.
fn another(answer: &Answer, release: &str, blue: &str) -> Wrong {
    let cached = ["age", "x-cache", "cf-cache-status"].iter().any(|name| answer.header(name).is_some());
    let help = if cached {
        "the answer comes out of a cache: give `promote.router.entry` an address behind it"
    } else {
        "check that blue is the side that serves now, and that nothing else moves traffic"
    };
    Wrong::new(
        "another release than blue's answers at the front door",
        format!("it says that it is `{}`, and blue says `{}`", plain(release), plain(blue)),
        help,
    )
}

/// An answer that does not say which release made it.
fn unsigned(url: &str, answer: &Answer, header: &str) -> Wrong {
    const PAST: &str = "give `promote.router.entry` an address of the router itself, or `promote.probe.path` a path that needs no login";
    let status = answer.status;
    let cause = format!("it answered {status}, without the header `{header}`");
    if let Some(location) = answer.header("location").filter(|_| (300..400).contains(&status)) {
        let location = plain(location.split(['?', '#']).next().unwrap_or_default());
        if leads_to_a_login(&location) {
            return Wrong::new(
                "the front door leads to a login page",
                format!("{cause}, and sends to {location}"),
                PAST,
            );
        }
        let secured = url.starts_with("http://") && location.starts_with("https://");
        let help = if secured {
            "give `promote.router.entry` (or the environment's `url`) the https:// address: no redirect is followed"
        } else {
            "give `promote.router.entry` or `promote.probe.path` what the service itself answers: no redirect is followed"
        };
        return Wrong::new(format!("the front door redirects to {location}"), cause, help);
    }
    if matches!(status, 401 | 407) || answer.header("www-authenticate").is_some() {
        return Wrong::new("the front door asks for a login", cause, PAST);
    }
    if is_a_login_page(answer) {
        return Wrong::new(
            "the front door answers with a login page",
            format!("{cause}, and the page asks for a password"),
            PAST,
        );
    }
    if status >= 500 {
        return Wrong::new(
            format!("the front door answers {status}"),
            cause,
            "if the router itself answers so, none of the backend's servers takes requests: look at its health checks",
        );
    }
    if status == 404 {
        return Wrong::new(
            "the front door answers 404",
            cause,
            "check host name and `promote.probe.path`: another site of the same router may be answering",
        );
    }
    Wrong::new(
        "the front door does not say which release answered",
        cause,
        "let the service send that header, and everything in between pass it on; `promote.probe.header` names another one",
    )
}

/// Whether a redirect goes to where people log in.
fn leads_to_a_login(location: &str) -> bool {
    let location = location.to_ascii_lowercase();
    ["login", "log-in", "signin", "sign-in", "sso", "oauth", "saml", "authorize", "auth/", "accounts."]
        .iter()
        .any(|word| location.contains(word))
}

fn is_a_login_page(answer: &Answer) -> bool {
    let page = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    let password = ["type=\"password\"", "type='password'", "type=password"];
    page.contains("<input") && password.iter().any(|field| page.contains(field))
}

/// What came from outside, as a part of one line.
fn plain(text: &str) -> String {
    let text: String = redact(text).chars().filter(|c| !c.is_control()).collect();
    crate::units::clipped(&text, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Answer { status, headers, body: body.into(), latency: Duration::ZERO }
    }

    fn none(why: &str) -> Result<Answer, NoAnswer> {
        Err(NoAnswer { why: why.into(), timed_out: false, after: Duration::ZERO })
    }

    fn what(url: &str, answer: &Result<Answer, NoAnswer>) -> String {
        let wrong = wrong(url, answer, "x-release", "1.0").unwrap();
        assert!(!wrong.help.is_empty() && !wrong.cause.is_empty(), "{wrong:?}");
        wrong.what
    }

    #[test]
    fn what_stands_at_the_front_door_is_named_as_what_it_is() {
        let http = "http://shop.example.com/";
        assert!(wrong(http, &Ok(answer(200, &[("x-release", "1.0")], "")), "x-release", "1.0").is_none());
        for (seen, named) in [
            (Ok(answer(200, &[("x-release", "1.1")], "")), "another release than blue's"),
            (
                Ok(answer(301, &[("location", "https://shop.example.com/?t=1")], "")),
                "redirects to https://shop.example.com/",
            ),
            (Ok(answer(302, &[("location", "https://sso.example.com/x")], "")), "leads to a login page"),
            (Ok(answer(302, &[("location", "/users/sign-in")], "")), "leads to a login page"),
            (Ok(answer(401, &[], "")), "asks for a login"),
            (
                Ok(answer(200, &[], "<form><input name=p TYPE=\"password\"></form>")),
                "answers with a login page",
            ),
            (Ok(answer(503, &[], "No server is available")), "answers 503"),
            (Ok(answer(404, &[], "")), "answers 404"),
            (Ok(answer(200, &[], "hello")), "does not say which release answered"),
            (none("io: Connection refused (os error 111)"), "refuses connections"),
            (none("host not found"), "is not known here"),
            (none("protocol: http parse fail"), "no answer that HTTP knows"),
        ] {
            assert!(what(http, &seen).contains(named), "{named}: {}", what(http, &seen));
        }
        let https = "https://shop.example.com/";
        let untrusted = what(https, &none("io: invalid peer certificate: UnknownIssuer"));
        assert_eq!(untrusted, "the certificate of the front door is not trusted");
        // As the library words it for what `openssl req -x509` makes.
        let seen = none("io: invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))");
        let own = wrong(https, &seen, "x-release", "1.0").unwrap();
        assert!(
            own.cause.starts_with("it is that of an authority itself") && own.help.contains("CA:FALSE"),
            "{own:?}"
        );
        assert!(
            what(https, &none("io: received corrupt message of type InvalidContentType")).contains("TLS")
        );
    }

    #[test]
    fn the_secret_of_a_redirect_is_not_repeated() {
        let seen = Ok(answer(302, &[("location", "https://a.example/x?token=s3cr3t#s3cr3t")], ""));
        let wrong = wrong("http://shop/", &seen, "x-release", "1.0").unwrap();
        assert!(!format!("{wrong:?}").contains("s3cr3t"), "{wrong:?}");
    }
}
