//! Redirects: where they lead (RFC 3986), as what (the Fetch standard, as browsers and curl do it), and what goes
//! along.

use std::time::{Duration, Instant};

use url::Url;

use super::http::{Answer, Client, NoAnswer, Request};
use crate::redact::redact;

/// What came at the end of all redirects.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The last answer; its latency is that of the whole way.
    pub answer: Answer,
    /// Headers of the request that were not taken along to another origin.
    pub left_out: Vec<String>,
}

/// Why there is no answer at the end.
#[derive(Clone, Debug)]
pub enum Stopped {
    /// A server did not answer.
    Silent(NoAnswer),
    /// A redirect that is not followed, in words.
    Astray(String),
}

/// Headers that may go to another origin: they say how to answer, never who asks.
const HARMLESS: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "pragma",
    "range",
    "user-agent",
];

/// Sends a request and follows up to `most` redirects; the client itself must follow none. With `most` 0 the first
/// answer is the last one.
///
/// Errors: no answer within the time, or a redirect that leads nowhere.
pub fn follow(client: &Client, request: &Request, most: u32, within: Duration) -> Result<Followed, Stopped> {
    let started = Instant::now();
    let mut request = request.clone();
    let mut way = vec![(request.method.clone(), request.url.clone())];
    let mut left_out = Vec::new();
    loop {
        let left = within.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let answer = client.send_within(&request, left).map_err(Stopped::Silent)?;
        let Some(location) = location(&answer).filter(|_| most > 0) else {
            return Ok(Followed { answer: Answer { latency: started.elapsed(), ..answer }, left_out });
        };
        let url = target(&request.url, &location?).map_err(Stopped::Astray)?;
        if way.len() > most as usize {
            let to = shown(url.as_str());
            return Err(Stopped::Astray(format!("more than {most} redirects; the next one leads to {to}")));
        }
        request = next(&request, answer.status, &url, &mut left_out).map_err(Stopped::Astray)?;
        let step = (request.method.clone(), request.url.clone());
        if let Some(first) = way.iter().position(|before| *before == step) {
            let circle: Vec<String> = way[first..].iter().chain([&step]).map(|(_, url)| shown(url)).collect();
            let circle = circle.join(", ");
            return Err(Stopped::Astray(format!(
                "redirects go in a circle (cookies are not kept): {circle}"
            )));
        }
        way.push(step);
    }
}

/// Where an answer redirects to; none where it does not.
fn location(answer: &Answer) -> Option<Result<String, Stopped>> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let mut all = answer.headers.iter().filter(|(name, _)| name == "location").map(|(_, value)| value);
    let first = all.next()?;
    if all.any(|other| other != first) {
        return Some(Err(Stopped::Astray("it redirects to several places at once".into())));
    }
    Some(Ok(first.trim().to_owned()))
}

/// What a `Location` means at this address: RFC 3986, section 5.
///
/// Errors: it is no address, or none of HTTP.
fn target(base: &str, location: &str) -> Result<Url, String> {
    let broken = || format!("redirects to `{}`, which is no address", cut(location));
    let base_url = Url::parse(base).map_err(|_| broken())?;
    // Browsers read these as something else than the standard, so that nobody knows what is meant.
    if location.contains(|c: char| c.is_control() || matches!(c, '\\' | '\u{fffd}')) {
        return Err(broken());
    }
    let scheme = scheme(location);
    if let Some(other) =
        scheme.filter(|scheme| !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https"))
    {
        return Err(format!("redirects to `{}`, and `{other}:` is not followed", cut(location)));
    }
    let rest = scheme.map_or(location, |scheme| &location[scheme.len() + 1..]);
    let named = rest.strip_prefix("//");
    if scheme.is_some() && named.is_none()
        || named.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    {
        return Err(broken());
    }
    let mut url = base_url.join(location).map_err(|_| broken())?;
    url.set_fragment(None);
    if same_origin(&url, &base_url) && url.username().is_empty() && url.password().is_none() {
        let name = url.set_username(base_url.username());
        let password = url.set_password(base_url.password());
        name.and(password).map_err(|()| broken())?;
    }
    Ok(url)
}

/// Scheme, host and port alike; also of addresses such as `http+unix:`, which no standard gives an origin.
fn same_origin(a: &Url, b: &Url) -> bool {
    let origin =
        |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    origin(a) == origin(b)
}

/// `file` of `file:///etc/passwd`.
fn scheme(location: &str) -> Option<&str> {
    let (scheme, _) = location.split_once(':')?;
    let first = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    let fits = scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (first && fits).then_some(scheme)
}

/// The request that a redirect asks for.
///
/// Errors: a secret in the body would go to another origin.
fn next(before: &Request, status: u16, url: &Url, left_out: &mut Vec<String>) -> Result<Request, String> {
    let mut request = Request { url: url.to_string(), ..before.clone() };
    let asks = match (status, before.method.as_str()) {
        (301 | 302, "POST") => true,
        (303, method) => method != "GET" && method != "HEAD",
        _ => false,
    };
    if asks {
        request.method = "GET".into();
        request.body = None;
        request.headers.retain(|(name, _)| !name.starts_with("content-"));
    }
    let same = Url::parse(&before.url).is_ok_and(|before| same_origin(&before, url));
    if same {
        return Ok(request);
    }
    let is_secret = |text: &str| redact(text) != text;
    if request.body.as_deref().is_some_and(|body| is_secret(&String::from_utf8_lossy(body))) {
        return Err(format!("a redirect to {} would take a secret of the body along", shown(url.as_str())));
    }
    request.headers.retain(|(name, value)| {
        let goes = HARMLESS.contains(&name.as_str()) && !is_secret(value);
        if !goes && !left_out.contains(name) {
            left_out.push(name.clone());
        }
        goes
    });
    Ok(request)
}

/// An address without what may be a secret in it: name, password and query.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "an address".into() };
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    let query = url.query().is_some();
    url.set_query(None);
    format!("{}{}", cut(url.as_str()), if query { "?…" } else { "" })
}

fn cut(text: &str) -> String {
    let text = redact(text);
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if text.chars().nth(200).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3986, sections 5.4.1 and 5.4.2, without those that leave HTTP and with fragments taken off.
    const EXAMPLES: &[(&str, &str)] = &[
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g#s", "http://a/b/c/g"),
        ("g?y#s", "http://a/b/c/g?y"),
        (";x", "http://a/b/c/;x"),
        ("g;x", "http://a/b/c/g;x"),
        ("g;x?y#s", "http://a/b/c/g;x?y"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("./", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../", "http://a/b/"),
        ("../g", "http://a/b/g"),
        ("../..", "http://a/"),
        ("../../", "http://a/"),
        ("../../g", "http://a/g"),
        ("../../../g", "http://a/g"),
        ("../../../../g", "http://a/g"),
        ("/./g", "http://a/g"),
        ("/../g", "http://a/g"),
        ("g.", "http://a/b/c/g."),
        (".g", "http://a/b/c/.g"),
        ("g..", "http://a/b/c/g.."),
        ("..g", "http://a/b/c/..g"),
        ("./../g", "http://a/b/g"),
        ("./g/.", "http://a/b/c/g/"),
        ("g/./h", "http://a/b/c/g/h"),
        ("g/../h", "http://a/b/c/h"),
        ("g;x=1/./y", "http://a/b/c/g;x=1/y"),
        ("g;x=1/../y", "http://a/b/c/y"),
        ("g?y/./x", "http://a/b/c/g?y/./x"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("g#s/../x", "http://a/b/c/g"),
    ];

    #[test]
    fn references_resolve_as_the_standard_says() {
        for (location, url) in EXAMPLES {
            let found = target("http://a/b/c/d;p?q", location).map(String::from);
            assert_eq!(found.as_deref(), Ok(*url), "{location:?}");
        }
        let more = [
            ("HTTPS://B:443/x", "https://b/x"),
            ("//b:8080?q=1", "http://b:8080/?q=1"),
            ("/a b/ü?ü=\"", "http://a/a%20b/%C3%BC?%C3%BC=%22"),
            ("//[::1]:80/x", "http://[::1]/x"),
            ("x:y", ""),
            ("./x:y", "http://a/b/c/x:y"),
        ];
        for (location, url) in more {
            let found = target("http://a/b/c/d;p?q", location).map(String::from);
            assert_eq!(found.unwrap_or_default(), url, "{location:?}");
        }
        assert_eq!(
            target("http+unix://%2Frun%2Fa/x", "/y").map(String::from).as_deref(),
            Ok("http+unix://%2Frun%2Fa/y")
        );
        assert_eq!(target("http://u:p@a/x", "/y").map(String::from).as_deref(), Ok("http://u:p@a/y"));
        assert_eq!(target("http://u:p@a/x", "http://a/y").map(String::from).as_deref(), Ok("http://u:p@a/y"));
        assert_eq!(target("http://u:p@a/x", "//b/y").map(String::from).as_deref(), Ok("http://b/y"));
        assert_eq!(
            target("http://u:p@a/x", "http://a:81/y").map(String::from).as_deref(),
            Ok("http://a:81/y")
        );
    }

    #[test]
    fn what_is_no_address_of_http_is_not_followed() {
        for location in [
            "file:///etc/passwd",
            "FILE:/etc/passwd",
            "javascript:alert(1)",
            "ftp://a/x",
            "data:,x",
            "g:h",
            "mailto:a@b",
            "http:",
            "http:g",
            "http:/g",
            "http://",
            "https://",
            "http:///g",
            "//",
            "///g",
            "//?q",
            "http://[::1",
            "http://a:b/",
            "http://a:99999/",
            "http://a b/",
            "http://%00/",
            "\\\\b\\x",
            "/a\\b",
            "/\u{fffd}",
            "/a\u{7}",
            "http://ü.example/",
        ] {
            let found = target("http://a/b", location);
            assert!(found.is_err(), "{location:?}: {found:?}");
        }
    }

    fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request { method: method.into(), url: url.into(), headers, body: Some(b"b".to_vec()), keep: 10 }
    }

    #[test]
    fn the_method_follows_as_the_fetch_standard_says() {
        // Status, and what becomes of GET, HEAD, POST, PUT, DELETE; in small letters without the body.
        let table = [
            (301, ["GET", "HEAD", "get", "PUT", "DELETE"]),
            (302, ["GET", "HEAD", "get", "PUT", "DELETE"]),
            (303, ["GET", "HEAD", "get", "get", "get"]),
            (307, ["GET", "HEAD", "POST", "PUT", "DELETE"]),
            (308, ["GET", "HEAD", "POST", "PUT", "DELETE"]),
        ];
        for (status, becomes) in table {
            for (method, becomes) in ["GET", "HEAD", "POST", "PUT", "DELETE"].into_iter().zip(becomes) {
                let before = request(method, "http://a/", &[("content-type", "x"), ("accept", "y")]);
                let after =
                    next(&before, status, &Url::parse("http://a/x").unwrap(), &mut Vec::new()).unwrap();
                assert_eq!(after.method, becomes.to_uppercase(), "{status} {method}");
                let whole = becomes.starts_with(|c: char| c.is_ascii_uppercase());
                assert_eq!((after.body.is_some(), after.headers.len()), (whole, 1 + usize::from(whole)));
            }
        }
    }

    #[test]
    fn only_harmless_headers_leave_the_origin() {
        let headers = [
            ("authorization", "Bearer t"),
            ("cookie", "a=b"),
            ("proxy-authorization", "x"),
            ("x-api-key", "k"),
            ("private-token", "k"),
            ("x-anything", "k"),
            ("host", "a"),
            ("referer", "http://a/?t"),
            ("accept", "y"),
        ];
        let names = |to: &str| {
            let mut left_out = Vec::new();
            let before = request("GET", "https://a/", &headers);
            let after = next(&before, 302, &Url::parse(to).unwrap(), &mut left_out).unwrap();
            assert_eq!(after.headers.len() + left_out.len(), headers.len());
            after.headers.len()
        };
        for same in ["https://a/x", "https://a:443/x", "https://A/x?y"] {
            assert_eq!(names(same), headers.len(), "{same}");
        }
        for other in ["http://a/x", "https://a:444/x", "https://b/x", "https://a.b/x", "https://a.:443/x"] {
            assert_eq!(names(other), 1, "{other}");
        }
        crate::redact::learn("a-secret-in-a-harmless-place");
        let mut before = request("POST", "https://a/", &[("user-agent", "a-secret-in-a-harmless-place")]);
        let other = Url::parse("https://b/").unwrap();
        assert!(next(&before, 308, &other, &mut Vec::new()).unwrap().headers.is_empty());
        before.body = Some(b"token=a-secret-in-a-harmless-place".to_vec());
        assert!(next(&before, 307, &other, &mut Vec::new()).is_err());
        assert!(next(&before, 302, &other, &mut Vec::new()).is_ok_and(|after| after.body.is_none()));
    }
}
