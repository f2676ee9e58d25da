//! Redirects of real servers: where they lead, what goes along, and what `curl` does with the same answers.

use std::process::Command;
use std::sync::{Arc, Mutex};

use trapkey::evidence::{Finding, Verdict};

use super::rules::run_all;
use super::servers::{Server, http};

/// What a server was asked: method, path, header lines, body.
type Asked = Arc<Mutex<Vec<(String, String, String, String)>>>;

/// Answers `/STATUS?LOCATION` with that status and `Location`, all else with 200.
fn redirector() -> (Server, Asked) {
    let asked = Asked::default();
    let record = Arc::clone(&asked);
    let server = http(move |request| {
        let (headers, body) = (request.headers.clone(), request.body.clone());
        record.lock().unwrap().push((request.method.clone(), request.path.clone(), headers, body));
        let redirect = request.path.split_once('?').and_then(|(path, location)| {
            let status =
                path.rsplit('/').next()?.parse().ok().filter(|status| (300..400).contains(status))?;
            Some((status, location.replace("%20", " ")))
        });
        match redirect {
            Some((status, location)) => (status, vec![format!("location: {location}")], String::new()),
            None => (200, Vec::new(), request.path.clone()),
        }
    });
    (server, asked)
}

fn check(url: &str, more: &str) -> Finding {
    let line = format!("    - {{name: it, kind: http, target: '{url}'{more}}}\n");
    run_all(&line, 1).unwrap_or_else(|fault| panic!("{line}{fault:?}")).remove(0)
}

fn curl(url: &str, arguments: &[&str]) {
    let ended = Command::new("curl")
        .args(["-sSL", "--noproxy", "*", "-o", "/dev/null"])
        .args(arguments)
        .arg(url)
        .output();
    let ended = ended.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Method, path and body of all that was asked since the last call.
fn taken(asked: &Asked) -> Vec<(String, String, String)> {
    asked.lock().unwrap().drain(..).map(|(method, path, _, body)| (method, path, body)).collect()
}

#[test]
fn a_redirect_asks_what_curl_asks() {
    let (server, asked) = redirector();
    let base = format!("http://127.0.0.1:{}", server.port);
    for status in [301, 302, 303, 307, 308] {
        for location in [
            "/x",
            "?q=1",
            "../x",
            "x/./y",
            "./../../../x?a=b",
            &format!("{base}/abs"),
            &format!("//127.0.0.1:{}/net", server.port),
        ] {
            let url = format!("{base}/a/b/{status}?{location}");
            for method in ["GET", "POST"] {
                let (more, arguments): (&str, &[&str]) = match method {
                    "POST" => (", with: {body: hello}", &["-d", "hello"]),
                    _ => ("", &[]),
                };
                let finding = check(&url, more);
                assert_eq!(finding.verdict, Verdict::Pass, "{url}: {}", finding.message);
                let ours = taken(&asked);
                curl(&url, arguments);
                assert_eq!(ours, taken(&asked), "{method} {url}");
                assert!(ours.len() >= 2, "{method} {url}");
            }
        }
    }
}

#[test]
fn a_redirect_that_leads_nowhere_is_no_pass() {
    let (server, asked) = redirector();
    let base = format!("http://127.0.0.1:{}", server.port);
    for (location, words) in [
        ("file:///etc/passwd", "`file:` is not followed"),
        ("javascript:alert(1)", "`javascript:` is not followed"),
        ("data:,ok", "`data:` is not followed"),
        ("http://", "is no address"),
        ("http:///x", "is no address"),
        ("http://[::1", "is no address"),
        ("http:x", "is no address"),
        ("///x", "is no address"),
        ("/a\\b", "is no address"),
    ] {
        let finding = check(&format!("{base}/302?{location}"), "");
        assert_eq!(finding.verdict, Verdict::Fail, "{location}: {}", finding.message);
        assert!(finding.message.contains(words), "{location}: {}", finding.message);
        assert_eq!(taken(&asked).len(), 1, "{location}");
    }
    let circle = http(|request| {
        let next = if request.path == "/a" { "/b?token=t" } else { "/a" };
        (302, vec![format!("location: {next}")], String::new())
    });
    let finding = check(&format!("http://127.0.0.1:{}/a", circle.port), "");
    assert_eq!(finding.verdict, Verdict::Fail);
    assert!(finding.message.starts_with("redirects go in a circle"), "{}", finding.message);
    assert!(finding.message.contains("/b?…") && !finding.message.contains("token"), "{}", finding.message);
    let endless = http(|request| (302, vec![format!("location: {}x", request.path)], String::new()));
    let finding = check(&format!("http://127.0.0.1:{}/", endless.port), ", with: {redirects: 3}");
    assert_eq!(finding.verdict, Verdict::Fail);
    assert!(
        finding.message.contains("more than 3 redirects; the next one leads to http://127.0.0.1"),
        "{}",
        finding.message
    );
    assert!(finding.message.ends_with("/xxxx"), "{}", finding.message);
    // Several places at once are none; without any, or without following, the answer itself counts.
    let several = http(|_| (302, vec!["location: /a".into(), "location: /b".into()], String::new()));
    let finding = check(&format!("http://127.0.0.1:{}/", several.port), "");
    assert!(finding.message.contains("several places at once"), "{}", finding.message);
    let bare = http(|_| (302, Vec::new(), String::new()));
    let finding = check(&format!("http://127.0.0.1:{}/", bare.port), "");
    assert!(finding.message.contains("status is 302"), "{}", finding.message);
    let finding = check(
        &format!("{base}/302?file:///etc/passwd"),
        ", with: {follow: false}, expect: {status: 302, \"header:location\": \"~ ^file:\"}",
    );
    assert_eq!(finding.verdict, Verdict::Pass, "{}", finding.message);
}

#[test]
fn what_says_who_asks_stays_at_its_origin() {
    let (here, asked_here) = redirector();
    let (there, asked_there) = redirector();
    let headers = "authorization: Bearer s3kret-1, cookie: a=s3kret-2, x-api-key: s3kret-3, private-token: s3kret-4, \
                   x-of-my-own: s3kret-5, proxy-authorization: s3kret-6, accept: text/plain";
    let with = format!(", with: {{headers: {{{headers}}}}}");
    let (a, b) = (format!("http://127.0.0.1:{}", here.port), format!("http://127.0.0.1:{}", there.port));
    // On the same origin all go along.
    let finding = check(&format!("{a}/302?{a}/x"), &with);
    assert_eq!(finding.verdict, Verdict::Pass, "{}", finding.message);
    for (_, path, lines, _) in asked_here.lock().unwrap().drain(..) {
        assert_eq!((1..=6).filter(|n| lines.contains(&format!("s3kret-{n}"))).count(), 6, "{path}: {lines}");
    }
    // To another one none, at the first step or a later one, and not on the way back either.
    for way in [
        format!("{a}/302?{b}/x"),
        format!("{a}/302?/307?{b}/x"),
        format!("{a}/302?{b}/302?{a}/back"),
        format!("{a}/302?{b}/302?{b}/x"),
    ] {
        let finding = check(&way, &with);
        assert_eq!(finding.verdict, Verdict::Pass, "{way}: {}", finding.message);
        let there: Vec<_> = asked_there.lock().unwrap().drain(..).collect();
        assert!(!there.is_empty(), "{way}");
        for (_, path, lines, _) in &there {
            assert!(
                !lines.contains("s3kret") && lines.contains("accept: text/plain"),
                "{way} {path}: {lines}"
            );
        }
        for (_, path, lines, _) in
            asked_here.lock().unwrap().drain(..).filter(|(_, path, ..)| path == "/back")
        {
            assert!(!lines.contains("s3kret"), "{way} {path}: {lines}");
        }
    }
    // Where that is why it fails, it says so.
    let finding = check(&format!("{a}/302?{b}/x"), &format!("{with}, expect: {{status: 401}}"));
    assert!(
        finding.message.contains("another origin") && finding.message.contains("authorization"),
        "{}",
        finding.message
    );
    // User and password of the address are those of its origin.
    let basic = "authorization: basic dtpw";
    let with_basic = |asked: &Asked| {
        let all = std::mem::take(&mut *asked.lock().unwrap());
        (all.len(), all.iter().filter(|(_, _, lines, _)| lines.contains(basic)).count())
    };
    with_basic(&asked_here);
    with_basic(&asked_there);
    check(&format!("http://u:p@127.0.0.1:{}/302?{a}/x", here.port), "");
    assert_eq!(with_basic(&asked_here), (2, 2));
    check(&format!("http://u:p@127.0.0.1:{}/302?{b}/x", here.port), "");
    assert_eq!((with_basic(&asked_here), with_basic(&asked_there)), ((1, 1), (1, 0)));
}
