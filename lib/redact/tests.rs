use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::*;

/// Secrets of a test's own, whatever other tests have learned.
fn known(secrets: &[&str]) -> Known {
    let mut known = Known::default();
    for secret in secrets {
        let mut all = vec![Cow::Borrowed(*secret)];
        all.extend(forms::spellings(secret));
        known = known.with(&all).unwrap_or(known);
    }
    known
}

fn shows(known: &Known, text: &str) -> String {
    known.redact(text)
}

/// Secrets that writers of JSON, URLs, XML, shells and connection strings have to escape.
const ODD: &[&str] = &[
    "ab\"cd\\ef-secret-9",
    "p@ss:w/rd?x=1&y#z",
    "it's \"quoted\" $HOME `x`",
    "hélf <b>&amp; 日本9",
    "back\\slash\\\\n99",
    "100%real+plus 1",
    "tr41ling-newline",
    "}#T14'GAz&H!{$U_",
    "a''b''''c-secret",
    "^caret^^$$dollar-7",
    "k\u{1f511}y-emoji-77",
    "tab\tand\u{1}control-5",
    "user:pass=word;x-55",
    "==padding==77",
    "pl4in-secret-of-usual-length-0123456789abcdef",
];

type Form = (&'static str, fn(&str) -> String);

fn percent_all(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn entities(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}

fn ascii_json(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |c: char| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        ' '..='~' => c.to_string(),
        c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    text.chars().map(escape).collect()
}

/// The ways in which programs print a secret.
const FORMS: &[Form] = &[
    ("as it is", str::to_owned),
    ("JSON", |s| serde_json::to_string(s).unwrap()),
    ("JSON in JSON", |s| serde_json::to_string(&serde_json::to_string(s).unwrap()).unwrap()),
    ("JSON of Python and PHP, ASCII alone", ascii_json),
    ("JSON of PHP, with slashes escaped", |s| serde_json::to_string(s).unwrap().replace('/', "\\/")),
    ("JSON of Go and .NET, safe in HTML", |s| {
        let text = serde_json::to_string(s).unwrap();
        text.replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003E")
            .replace('\'', "\\u0027")
            .replace('+', "\\u002B")
    }),
    ("Rust's {:?}", |s| format!("{s:?}")),
    ("a C string in hexadecimal", |s| s.bytes().map(|b| format!("\\x{b:02x}")).collect()),
    ("URL", percent_all),
    ("URL in small letters", |s| {
        s.bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
            .collect()
    }),
    ("form", |s| form_urlencoded::byte_serialize(s.as_bytes()).collect()),
    ("URL twice", |s| percent_all(&percent_all(s))),
    ("XML", entities),
    ("XML by numbers", |s| s.chars().map(|c| format!("&#{};", u32::from(c))).collect()),
    ("XML by hexadecimal numbers", |s| s.chars().map(|c| format!("&#x{:X};", u32::from(c))).collect()),
    ("JSON in XML", |s| entities(&serde_json::to_string(s).unwrap())),
    ("base64", |s| STANDARD.encode(s)),
    ("base64 with a line feed", |s| STANDARD.encode(format!("{s}\n"))),
    ("base64 without padding", |s| STANDARD_NO_PAD.encode(s)),
    ("base64 for URLs", |s| URL_SAFE.encode(s)),
    ("base64 for URLs without padding", |s| URL_SAFE_NO_PAD.encode(s)),
    ("base64 in a URL", |s| percent_all(&STANDARD.encode(s))),
    ("base64 of JSON", |s| STANDARD.encode(serde_json::json!({ "auth": s }).to_string())),
    ("basic authorization", |s| format!("Basic {}", STANDARD.encode(format!("shop:{s}")))),
    ("basic, second place", |s| STANDARD.encode(format!("a:{s}"))),
    ("basic, third place", |s| STANDARD.encode(format!("ab:{s}"))),
    ("basic, among others", |s| STANDARD.encode(format!("abcde:{s}@host"))),
    ("base64 in lines of 76", |s| {
        let text = STANDARD.encode(format!("user-with-a-long-name-of-its-own:{s}"));
        text.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join("\n")
    }),
    ("a shell's quotes", |s| format!("'{}'", s.replace('\'', r"'\''"))),
    ("dash's quotes", |s| {
        let mut out = String::new();
        let mut rest = s;
        while let Some(at) = rest.find('\'') {
            let quotes = rest[at..].chars().take_while(|c| *c == '\'').count();
            out.push_str(&format!("{}'\"{}\"'", &rest[..at], "'".repeat(quotes)));
            rest = &rest[at + quotes..];
        }
        out + rest
    }),
    ("printf %q", |s| {
        s.chars().map(|c| if c.is_alphanumeric() { c.to_string() } else { format!("\\{c}") }).collect()
    }),
    ("SQL and PowerShell", |s| s.replace('\'', "''")),
    ("PowerShell's backticks", |s| {
        s.chars().map(|c| if "\"$`'".contains(c) { format!("`{c}") } else { c.to_string() }).collect()
    }),
    ("a command line of docker", |s| s.replace('"', "\\\"")),
    ("cmd", |s| {
        s.chars().map(|c| if "^&<>|\"".contains(c) { format!("^{c}") } else { c.to_string() }).collect()
    }),
    ("make and compose", |s| s.replace('$', "$$")),
    ("what a shell leaves of backslashes", |s| s.replace('\\', "")),
    ("coloured letter by letter", |s| s.chars().map(|c| format!("\u{1b}[1;32m{c}\u{1b}[0m")).collect()),
    ("broken by lines", |s| {
        let chars: Vec<char> = s.chars().collect();
        chars.chunks(5).map(|line| line.iter().collect::<String>()).collect::<Vec<_>>().join("\r\n")
    }),
    ("octal, as git and shells quote", |s| s.bytes().map(|b| format!("\\{b:03o}")).collect()),
    ("base64 of base64 in JSON, as Kubernetes has Docker's configuration", |s| {
        let auth = STANDARD.encode(format!("shop:{s}"));
        STANDARD.encode(serde_json::json!({"auths": {"r.example": {"auth": auth}}}).to_string())
    }),
    ("base64 three times", |s| STANDARD.encode(STANDARD.encode(STANDARD.encode(format!("a {s} b"))))),
    ("PowerShell's -EncodedCommand", |s| {
        let units = format!("Connect -Password '{s}'");
        STANDARD.encode(units.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
    }),
    ("UTF-16 of the other order in base64", |s| {
        STANDARD.encode(format!("p={s}").encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>())
    }),
    ("quoted-printable", |s| {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'=';
        let coded: Vec<String> = s
            .bytes()
            .map(|b| if plain(b) { char::from(b).to_string() } else { format!("={b:02X}") })
            .collect();
        coded.chunks(7).map(<[String]>::concat).collect::<Vec<_>>().join("=\r\n")
    }),
    ("with zeros and soft hyphens", |s| s.chars().map(|c| format!("{c}\0\u{ad}")).collect()),
];

#[test]
fn a_secret_is_hidden_in_every_form_that_programs_print_it_in() {
    for secret in ODD {
        let known = known(&[secret]);
        for (form, write) in FORMS {
            let written = write(secret);
            for (before, after) in
                [("", ""), ("it said: ", " at the end"), ("x=\"", "\","), ("\u{e9}\n", "\nok")]
            {
                let text = format!("{before}{written}{after}");
                let shown = known.redact(&text);
                assert!(!shown.contains(&written), "{form} of {secret:?}: {shown:?}");
                // Nor the greater part of it, whatever was cut off at its ends.
                let letters: Vec<char> = written.chars().collect();
                for piece in letters.windows(8.min(letters.len())).map(|w| w.iter().collect::<String>()) {
                    let apart = before.contains(&piece) || after.contains(&piece);
                    assert!(
                        apart || !shown.contains(&piece),
                        "{form} of {secret:?}: {shown:?} shows {piece:?}"
                    );
                }
                assert!(shown.contains(HIDDEN), "{form}: {shown:?}");
                assert_eq!(known.redact(&shown), shown, "{form}: hidden twice is hidden once");
            }
        }
    }
}

/// What the tests of the GitHub runner's own masker hold of its encoders.
#[test]
fn hides_what_the_runner_hides() {
    let words = [
        "Passw0rd123!",
        "Pass\"w0rd\"123!",
        "Pass w0rd 123!",
        "Pass<w0rd>123!",
        "Pass'w0rd'123!",
        "\"Passw0rd123!!\"",
        "\"shrt\"",
    ];
    let known = known(&words);
    for (text, shown) in [
        ("123Passw0rd123!123", "123***123"),
        ("passw0rd123", "passw0rd123"),
        ("123Pass\\\"w0rd\\\"123!123", "123***123"),
        ("123Pass%20w0rd%20123%21123", "123***123"),
        ("123Pass&lt;w0rd&gt;123!123", "123***123"),
        ("123Pass''w0rd''123!123", "123***123"),
        ("123Passw0rd123!!123", "123***123"),
        // Too short to be hidden inside of a word without its quotes.
        ("123shrt123", "123shrt123"),
        ("123\"shrt\"123", "123***123"),
    ] {
        assert_eq!(known.redact(text), shown, "{text}");
    }
    for user in [":", "a:", "ab:", "abc:", "abcd:", "abcde:"] {
        let coded = STANDARD.encode(format!("{user}Passw0rd123!"));
        assert_eq!(known.redact(&coded), HIDDEN, "{user}");
    }
}

/// PowerShell colours the part of a command that it does not understand, and so parts a secret at its ampersands.
#[test]
fn hides_the_parts_that_powershell_shows() {
    for (secret, said) in [
        ("s3cret&s3cret&s3cret", "s3cret&s3cret&\x1b[96ms3cret\x1b[0m"),
        ("s3cret&s3cret+s3cret", "s3cret&\x1b[96ms3cret+s3cret\x1b[0m"),
        ("s3cret+s3cret&s3cret", "s3cret+s3cret&\x1b[96ms3cret\x1b[0m"),
        ("s3cret&s3cret&+s3crets3cret", "s3cret&s3cret&+\x1b[96ms\x1b[0m3crets3cret"),
        ("s3cret&+s3cret&s3cret", "s3cret&+\x1b[96ms\x1b[0m3cret&s3cret"),
        ("s3cret&+s3cret&s3cret&+s3cret", "s3cret&+\x1b[96ms\x1b[0m3cret&s3cret&+s3cret"),
    ] {
        let known = known(&[secret]);
        assert!(!known.redact(said).contains("3cret"), "{}", known.redact(said));
        // Where the colours were taken out before.
        let parts =
            said.split("\x1b[96m").map(|part| part.replace("\x1b[0m", "")).collect::<Vec<_>>().join(" ");
        assert!(!known.redact(&parts).contains("3cret&"), "{}", known.redact(&parts));
    }
}

/// How much of a short secret is hidden is a rule, not an accident.
#[test]
fn a_short_secret_is_hidden_where_it_stands_by_itself_and_blackens_nothing_else() {
    for (secret, hidden, stays) in [
        (
            "pass",
            &[
                "pass",
                "it is pass.",
                "u:pass@h",
                "\"pass\"",
                "a=pass;",
                "dXNlcjpwYXNz",
                "-p pass",
                "x\npass\n",
            ][..],
            &["passed", "password", "5 checks passed"][..],
        ),
        ("4711", &["4711", "pin=4711", "u:4711@h"], &["147119", "47110"]),
        ("ab1!", &["xab1!y", "-pab1!"], &[]),
        ("pw", &["pw", "u:pw@h", "password is pw", "user:pw", "dXNlcjpwdw=="], &["power", "spwan", "pwd"]),
        (
            "7",
            &["7", "pin=7", "\"7\"", "u:7@h", "said\n7\nok"],
            &["exit 7, expected 0", "17", "7 of 9", "line 1:7", "7 ms"],
        ),
    ] {
        let known = known(&[secret]);
        for text in hidden {
            let shown = known.redact(text);
            assert!(shown.contains(HIDDEN) && shown != *text, "{secret}: {text} is shown as {shown}");
        }
        for text in stays {
            assert_eq!(known.redact(text), *text, "{secret}");
        }
        for digest in [
            "d0b7f2a1c5e98f3344aa7b1200c0ffee5d41402abc4b2a76b9719d911017c592",
            "2026-11-30T12:40:47.123456789Z",
        ] {
            assert_eq!(known.redact(digest), digest, "{secret}");
        }
    }
}

#[test]
fn hides_what_is_a_secret_by_its_place() {
    for (text, shown) in [
        ("postgres://shop:p@ss:w@db:5432/x", "postgres://shop:***@db:5432/x"),
        ("postgres://shop@db/x", "postgres://shop@db/x"),
        ("ssh://git@github.com/x", "ssh://git@github.com/x"),
        ("https://ghp_0123456789abcdef@github.com/o/r.git", "https://***@github.com/o/r.git"),
        ("https://ghp_0123456789abcdef:x-oauth-basic@github.com/o/r", "https://***:***@github.com/o/r"),
        ("https://x-access-token:tok@github.com/o/r", "https://x-access-token:***@github.com/o/r"),
        ("https://tok3n:@h/x and http://h:80/@x", "https://***:@h/x and http://h:80/@x"),
        ("redis://:pa55@h/0", "redis://:***@h/0"),
        ("https://shop.example.com:8080/a@b", "https://shop.example.com:8080/a@b"),
        ("host=db password='a b' user=x", "host=db password=*** user=x"),
        ("host=db password = ab user=x", "host=db password = *** user=x"),
        ("sslpassword=ab sslmode=require", "sslpassword=*** sslmode=require"),
        (r"password='a \' b' x", "password=*** x"),
        ("GET /x?token=abc&page=2", "GET /x?token=***&page=2"),
        ("http://h/?a=1&amp;api_key=abc", "http://h/?a=1&amp;api_key=***"),
        ("http://h/#access_token=abc", "http://h/#access_token=***"),
        (
            "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=abc==;x=1",
            "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=***;x=1",
        ),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer ***"),
        ("proxy says Basic dXNlcjpwYXNzd29yZA==", "proxy says Basic ***"),
        ("basic authentication", "basic authentication"),
        ("DB_PASSWORD=hunter2 ./run", "DB_PASSWORD=*** ./run"),
        ("write DB_PASSWORD=… or TOKEN=$X", "write DB_PASSWORD=… or TOKEN=$X"),
        ("key=3 and pages=4", "key=3 and pages=4"),
    ] {
        assert_eq!(Known::default().redact(text), shown, "{text}");
    }
}

/// What the tests of GitLab's runner hold of its URL sanitizer.
#[test]
fn hides_the_parameters_that_gitlab_hides() {
    for (text, shown) in [
        (
            "no escaping at all http://example.org/?test=foobar",
            "no escaping at all http://example.org/?test=foobar",
        ),
        (
            "multiple: &private_token=hello &?x-amz-security-token=hello ?x-amz-security?x-amz-security-token=hello",
            "multiple: &private_token=*** &?x-amz-security-token=*** ?x-amz-security?x-amz-security-token=***",
        ),
        ("http://example.com/?authenticity_token=deadbeef", "http://example.com/?authenticity_token=***"),
        (
            "http://example.com/?X-AMZ-sigNATure=deadbeef mixed",
            "http://example.com/?X-AMZ-sigNATure=*** mixed",
        ),
        (
            "http://example.com/?rss_token=hide&x-amz-credential=deadbeef both",
            "http://example.com/?rss_token=***&x-amz-credential=*** both",
        ),
        (
            "a\nhttp://example.com/?x-amz-credential=abc\nhttp://e.com/?x-amz-credential=abc",
            "a\nhttp://example.com/?x-amz-credential=***\nhttp://e.com/?x-amz-credential=***",
        ),
        (
            "http://example.com/?x-amz-credential=abc&&private_token=gitlab",
            "http://example.com/?x-amz-credential=***&&private_token=***",
        ),
        ("terminated before mask: ?x", "terminated before mask: ?x"),
    ] {
        assert_eq!(Known::default().redact(text), shown, "{text}");
    }
}

#[test]
fn what_overlaps_is_hidden_as_one() {
    let known = known(&["this is the end", "en foobar", "prefix_mask", "mask-word"]);
    assert_eq!(shows(&known, "overlap: this is the en foobar"), "overlap: this is the ***");
    assert_eq!(shows(&known, "prefix_mask-word"), "***");
    assert_eq!(shows(&known, "a prefix_mask b"), "a *** b");
}

#[test]
fn learns_from_variables_what_is_secret_in_them() {
    for (name, value, said) in [
        (
            "SLACK_WEBHOOK",
            "https://hooks.example/T000/B000/xyzzy",
            "sent to https://hooks.example/T000/B000/xyzzy",
        ),
        ("ORDERS_URL", "postgres://shop:h%40lf%2Fh%C3%A9lf%zz@db/x", "no user with h@lf/hélf%zz"),
        ("ORDERS2_URL", "postgres://shop:kr0k/n1l:pf4rd@db/x", "no user with kr0k/n1l:pf4rd"),
        ("REPO", "https://ghp_zebra0123456789abc@github.com/o/r", "used ghp_zebra0123456789abc"),
        ("FEED", "https://h/feed?page=1&feed_token=fl4mingo-77", "asked with fl4mingo-77"),
        ("PG", "host=db sslpassword='0celot 77' x=1", "key: 0celot 77"),
        ("NPM_AUTH", "Bearer 0kapi-bear-77", "given 0kapi-bear-77"),
        (
            "GCP_CREDENTIALS",
            r#"{"type": "x", "private_key": "-----BEGIN KEY-----\nMIItapir77tapir\n-----END KEY-----\n"}"#,
            "line MIItapir77tapir",
        ),
        ("DOCKER_AUTH_CONFIG", r#"{"auths": {"h": {"auth": "dXNlcjpsNHB3aW5nLTc3"}}}"#, "login l4pwing-77"),
        (
            "SIGN_KEY",
            "-----BEGIN KEY-----\nAAECAwQFBgcICQoLDA0ODw\nshort\n-----END KEY-----\n",
            "AAECAwQFBgcICQoLDA0ODw",
        ),
    ] {
        learn_variable(name, value);
        let shown = redact(said);
        assert!(
            shown.contains(HIDDEN) && shown.split("***").all(|part| !part.contains("77")),
            "{name}: {shown}"
        );
    }
    learn_variable("VERSION", "1.4.2-plain");
    for (name, value) in
        [("PWD", "an-ordinary-word"), ("MONKEY", "an-ordinary-word"), ("USE_TOKEN", "false"), ("AUTH", "1")]
    {
        learn_variable(name, value);
    }
    assert_eq!(
        redact("release 1.4.2-plain: an-ordinary-word is false"),
        "release 1.4.2-plain: an-ordinary-word is false"
    );
}

#[test]
fn what_the_plan_calls_secret_is_one() {
    assert!(!names_a_secret("GREETING_OF_THE_GNU"));
    mark(["GREETING_OF_THE_GNU".to_owned()]);
    assert!(names_a_secret("GREETING_OF_THE_GNU") && is_secret("GREETING_OF_THE_GNU", "x"));
    learn_variable("GREETING_OF_THE_GNU", "gr33ting-gnu");
    assert_eq!(redact("gr33ting-gnu"), HIDDEN);
}

#[test]
fn what_may_be_written_down_is_no_secret() {
    learn_variable("VAULT_TOKEN", "tok-rhin0ceros");
    learn_variable("SERVICE_PASSWORD", "wildebeest");
    for (name, value) in [
        ("ROUTER_TOKEN", "x"),
        ("ROUTER", "http://admin:hunter2@router:2019"),
        ("DATABASE_URL", "host=db password=hunter2"),
        ("HEADER", "Bearer tok-rhin0ceros"),
        ("ASK", "http://h/?token=abc"),
    ] {
        assert!(is_secret(name, value), "{name}={value}");
    }
    for (name, value) in [
        ("VERSION", "1.4.2"),
        ("ROUTER", "http://router:2019"),
        ("SOCK", "/run/haproxy.sock"),
        // Somebody's password is the name of a service: that says nothing of the service.
        ("SERVICE", "wildebeest"),
        ("USE_TOKEN", "false"),
    ] {
        assert!(!is_secret(name, value), "{name}={value}");
    }
}

#[test]
fn half_a_secret_at_a_cut_is_not_shown() {
    learn("0ryx-with a blank-88");
    learn("0ryx-straddling-88");
    let text = "said 0ryx-with a blank-88 and 0ryx-straddling-88";
    for at in (1..=text.len()).filter(|at| text.is_char_boundary(*at)) {
        let shown = redact_cut(&text[..at]);
        assert!(!shown.contains("0ry"), "{at}: {shown}");
    }
    assert_eq!(redact_cut("a whole line\n"), "a whole line\n");
}

#[test]
fn only_free_text_of_a_document_is_redacted() {
    learn("qu0kka-77");
    let words = ["wombat", "numbat"];
    for word in words {
        learn(word);
    }
    let document = serde_json::json!({
        "schema": "wombat", "tool": {"name": "wombat"}, "verdict": "wombat", "summary": "the wombat and qu0kka-77",
        "release": {"service": "wombat", "version": "numbat", "artifacts": [{"name": "wombat", "sha256": "wombat"}]},
        "run": {"started_at": "wombat", "ci": {"url": "http://wombat/"}},
        "findings": [{
            "name": "wombat", "kind": "wombat", "severity": "wombat", "message": "saw numbat",
            "evidence": {"attempts": [{"verdict": "pass", "said": "wombat"}], "of qu0kka-77": 1, "with qu0kka-77": 2, "verdict": "wombat"},
        }],
        "state": {"phase": "wombat", "reason": "wombat!"},
        "kept": {"variables": {"X": "wombat"}},
    });
    let mut shown = document.clone();
    redact_json(&mut shown);
    let expected = serde_json::json!({
        "schema": "wombat", "tool": {"name": "wombat"}, "verdict": "wombat", "summary": "the *** and ***",
        "release": {"service": "wombat", "version": "numbat", "artifacts": [{"name": "wombat", "sha256": "wombat"}]},
        "run": {"started_at": "wombat", "ci": {"url": "http://***/"}},
        "findings": [{
            "name": "wombat", "kind": "wombat", "severity": "wombat", "message": "saw ***",
            "evidence": {"attempts": [{"verdict": "pass", "said": "***"}], "of ***": 1, "with ***": 2, "verdict": "***"},
        }],
        "state": {"phase": "wombat", "reason": "***!"},
        "kept": {"variables": {"X": "wombat"}},
    });
    assert_eq!(shown, expected);
}

#[test]
fn what_a_file_holds_that_a_variable_names_is_a_secret() {
    for name in ["PASSWORD_FILE", "MYSQL_ROOT_PASSWORD_FILE", "TOKEN_PATH", "key_file"] {
        assert!(names::is_the_file_of_a_secret(name), "{name}");
    }
    for name in ["PATH", "FILE", "CONFIG_FILE", "GITHUB_PATH", "LOG_PATH"] {
        assert!(!names::is_the_file_of_a_secret(name), "{name}");
    }
}

#[test]
fn a_line_of_a_plan_hides_its_secrets_before_it_is_cut_and_keeps_its_caret() {
    for (line, column, shown, at) in [
        ("  with: {password: hunter2-x, port: 1}", 34, "  with: {password: ***, port: 1}", 28),
        ("  token: 'a b'", 3, "  token: ***", 3),
        ("  token: ${X}", 10, "  token: ${X}", 10),
        ("  password: hunter2", 15, "  password: ***", 13),
        ("  target: postgres://u:pw-1@h/d x: y", 34, "  target: postgres://u:***@h/d x: y", 33),
        ("  key: id, secret: [A_NAME], token: true", 8, "  key: id, secret: [A_NAME], token: true", 8),
        ("\u{e9}: x", 99, "\u{e9}: x", 5),
    ] {
        assert_eq!(source_line(line, column), (shown.to_owned(), at), "{line}");
    }
}

#[test]
fn a_very_long_secret_is_hidden_as_far_as_it_stands_there() {
    for secret in ["a".repeat(200_000), "\u{e9}long-".repeat(20_000), format!("x\n{}", "y".repeat(60_000))] {
        let known = known(&[&secret]);
        for part in [secret.len(), 5_000, 1_001] {
            let part = (0..=part).rev().find(|at| secret.is_char_boundary(*at)).unwrap();
            assert_eq!(known.redact(&format!("it is {}.", &secret[..part])), "it is ***.", "{part}");
        }
    }
}

#[test]
fn of_two_that_begin_alike_the_longer_one_is_hidden_whole_whichever_comes_first() {
    let token = "eyJ".repeat(200);
    let cookie = format!("{token}; csrf=Zq81LmXwP0aa");
    for secrets in [[token.as_str(), cookie.as_str()], [cookie.as_str(), token.as_str()]] {
        assert_eq!(shows(&known(&secrets), &format!("Cookie: {cookie}.")), "Cookie: ***.");
    }
}

/// Many secrets that lie in one another: the work is bound by the text, not by their number.
#[test]
fn of_many_secrets_in_one_another_each_place_is_looked_at_once() {
    let longest = "abcdefgh".repeat(64);
    let nested: Vec<&str> = (8..500).map(|end| &longest[..end]).collect();
    let suffixes: Vec<&str> = (1..490).map(|begin| &longest[begin..500]).collect();
    for secrets in [nested, suffixes] {
        let known = known(&secrets);
        let text = "abcdefgh".repeat(8000) + "abcd";
        let mut places = 0;
        known.places(&text, &mut |_| places += 1);
        assert!(places <= text.len(), "{places} places in {} bytes", text.len());
        assert_eq!(known.redact(&format!("is {text} there")), format!("is {HIDDEN} there"));
    }
    // Overlapping ones are hidden as one, and short words beside long ones as well.
    let known = known(&["abcdefghij", "hijklmnopq", "shop", "ab1!"]);
    assert_eq!(shows(&known, "abcdefghijklmnopq shop ab1!x workshop"), "*** *** ***x workshop");
}

/// A password that is a word of the plan: a command comes out as it must be run, and shows no other secret.
#[test]
fn a_command_can_be_run_whatever_words_somebody_has_for_a_password() {
    let known = known(&["shop", "green", "server", "haproxy-main", "hunter2-hunter2", "4711", "map"]);
    let open = ["shop", "green", "blue", "haproxy-main", "shop.map", "4711"];
    let shown = |text: &str| known.redact_command(text, &|word| open.contains(&word));
    for stays in [
        "echo 'set server shop/green weight 0; set server shop/blue state ready' | socat stdio unix-connect:/run/haproxy-main/4711",
        "printf '%s\\n' 'green 0' > /etc/haproxy-main/shop.map",
        "curl -X PUT http://blue:4711/config -d '{\"server\": \"shop\"}'",
    ] {
        assert_eq!(shown(stays), stays);
    }
    for (text, expected) in [
        ("curl http://shop:hunter2-hunter2@blue:4711/map", "curl http://shop:***@blue:4711/map"),
        ("curl http://u:shop@blue/", "curl http://u:***@blue/"),
        ("curl 'http://blue/?token=green'", "curl 'http://blue/?token=***'"),
        ("psql 'host=blue password=shop'", "psql 'host=blue password=***'"),
        ("run hunter2-hunter2", "run ***"),
        // A word that only begins like one of the plan's is another one.
        ("set server xhaproxy-main/green", "set server x***/green"),
    ] {
        assert_eq!(shown(text), expected);
    }
    let texts: Vec<&str> = words_of("a/b-c.d e:é_1").map(|word| &"a/b-c.d e:é_1"[word]).collect();
    assert_eq!(texts, ["a", "b-c.d", "e", "é_1"]);
}
