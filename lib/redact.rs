//! Keeps secrets out of everything that leaves the program.
//!
//! A value becomes a secret when it stands in an environment variable or a `--set` whose name says so
//! (`…TOKEN`, `…PASSWORD`, `…KEY`, …) and when it is the password part of a URL. All of the environment
//! is looked at, for hooks and commands inherit it and may print what the plan never names.

use std::borrow::Cow;
use std::sync::{LazyLock, RwLock};

use regex::Regex;

const HIDDEN: &str = "***";

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

static URL_PASSWORD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*):(?P<secret>[^\s/@]*(?:@[^\s/@]*)*)@").ok()
});

static KEYWORD_PASSWORD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)\b(?P<head>password\s*=\s*)(?P<secret>'[^']*'|[^\s&']+)").ok());

static SECRET_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)(secret|token|passw|passphrase|_pwd$|^pwd_|credential|webhook|private|api_?key|_key$|^key$|dsn|auth(_|$|ori[sz]ation|entication))",
    )
    .ok()
});

/// Remembers a value that must never be shown. Values of fewer than four bytes are left out, for
/// hiding them would blacken ordinary words.
pub fn learn(secret: &str) {
    let secret = secret.trim();
    if secret.len() < 4 {
        return;
    }
    let Ok(mut known) = SECRETS.write() else { return };
    // The lines of a private key are printed one by one.
    let lines = secret.lines().map(str::trim).filter(|line| secret.contains('\n') && line.len() >= 16);
    for part in lines.chain([secret]) {
        if !known.iter().any(|k| k == part) {
            known.push(part.to_owned());
        }
    }
    // Longest first, so that a secret inside another one does not leave the rest standing.
    known.sort_by_key(|k| std::cmp::Reverse(k.len()));
}

/// Remembers what is secret in the environment of this process.
///
/// Here a name is only a hint: paths that are there and values of fewer than eight bytes (`false`,
/// `enabled`) are left out.
pub fn learn_environment() {
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if value.len() >= 8 && !std::path::Path::new(value).exists() {
            learn_variable(name, value);
        }
    }
}

/// Remembers what is secret in the variable `name`: all of it when its name says so, otherwise
/// the password of a URL.
pub fn learn_variable(name: &str, value: &str) {
    if names_a_secret(name) {
        learn(value);
        // Of a key in PEM form, a log shows single lines.
        for line in value.trim().lines().map(str::trim).filter(|l| l.len() >= 16 && !l.starts_with("-----")) {
            learn(line);
        }
    }
    for pattern in [&*URL_PASSWORD, &*KEYWORD_PASSWORD].into_iter().flatten() {
        for found in pattern.captures_iter(value) {
            let secret = found["secret"].trim_matches('\'');
            learn(secret);
            // Servers and drivers speak of it as it is, not as a URL writes it.
            learn(&decoded(secret));
        }
    }
}

/// Whether a variable of that name holds a secret, by its name alone.
pub fn names_a_secret(name: &str) -> bool {
    SECRET_NAME.as_ref().is_some_and(|r| r.is_match(name))
}

/// Whether the value of a variable must not be written down: its name says so, it has a password in it, or it holds
/// what is known as a secret.
pub fn is_secret(name: &str, value: &str) -> bool {
    names_a_secret(name) || redact(value) != value
}

/// The text with `%40` and the like read as what they stand for.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%')
        {
            bytes.push(byte);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text without any known secret and without passwords in URLs.
pub fn redact(text: &str) -> String {
    let mut out = Cow::Borrowed(text);
    if let Ok(known) = SECRETS.read() {
        for secret in known.iter().filter(|s| text.contains(s.as_str())) {
            out = Cow::Owned(out.replace(secret.as_str(), HIDDEN));
        }
    }
    if out.contains("://")
        && let Some(pattern) = &*URL_PASSWORD
    {
        out = Cow::Owned(pattern.replace_all(&out, format!("${{head}}:{HIDDEN}@")).into_owned());
    }
    if let Some(pattern) = &*KEYWORD_PASSWORD
        && pattern.is_match(&out)
    {
        out = Cow::Owned(pattern.replace_all(&out, format!("${{head}}{HIDDEN}")).into_owned());
    }
    out.into_owned()
}

/// Redacts every text inside a JSON value, keys included.
pub fn redact_json(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = redact(text),
        Value::Array(items) => items.iter_mut().for_each(redact_json),
        Value::Object(map) => {
            let entries = std::mem::take(map);
            for (key, mut item) in entries {
                redact_json(&mut item);
                map.insert(redact(&key), item);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_passwords_of_urls_and_keyword_strings() {
        assert_eq!(redact("postgres://shop:p@ss:w@db:5432/x"), "postgres://shop:***@db:5432/x");
        assert_eq!(redact("host=db password='a b' user=x"), "host=db password=*** user=x");
        assert_eq!(redact("https://shop.example.com:8080/a@b"), "https://shop.example.com:8080/a@b");
    }

    #[test]
    fn hides_variables_that_are_named_like_secrets() {
        learn_variable("SLACK_WEBHOOK", "https://hooks.example/T000/B000/xyzzy");
        assert_eq!(redact("sent to https://hooks.example/T000/B000/xyzzy!"), "sent to ***!");
        learn_variable("SIGN_KEY", "-----BEGIN KEY-----\nMIIBABCDEFGHIJKLMN\nshort\n-----END KEY-----\n");
        assert_eq!(redact("it says MIIBABCDEFGHIJKLMN and short"), "it says *** and short");
        learn_variable("VERSION", "1.4.2-plain");
        assert_eq!(redact("release 1.4.2-plain"), "release 1.4.2-plain");
        for name in ["PWD", "OLDPWD", "GIT_AUTHOR_NAME", "MONKEY"] {
            learn_variable(name, "an-ordinary-word");
        }
        assert_eq!(redact("an-ordinary-word"), "an-ordinary-word");
    }

    #[test]
    fn what_may_be_written_down_is_no_secret() {
        learn_variable("VAULT_TOKEN", "tok-rhinoceros");
        for (name, value) in [
            ("ROUTER_TOKEN", "x"),
            ("ROUTER", "http://admin:hunter2@router:2019"),
            ("DATABASE_URL", "host=db password=hunter2"),
            ("HEADER", "Bearer tok-rhinoceros"),
        ] {
            assert!(is_secret(name, value), "{name}={value}");
        }
        for (name, value) in
            [("VERSION", "1.4.2"), ("ROUTER", "http://router:2019"), ("SOCK", "/run/haproxy.sock")]
        {
            assert!(!is_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn hides_a_password_as_it_is_and_as_a_url_writes_it() {
        learn_variable("ORDERS_URL", "postgres://shop:h%40lf%2Fh%C3%A9lf%zz@db/x");
        assert_eq!(redact("no user with h%40lf%2Fh%C3%A9lf%zz"), "no user with ***");
        assert_eq!(redact("no user with h@lf/hélf%zz"), "no user with ***");
    }

    #[test]
    fn hides_each_line_of_a_key() {
        learn_variable(
            "SIGNING_KEY",
            "-----BEGIN KEY-----\nAAECAwQFBgcICQoLDA0ODw\nshort\n-----END KEY-----\n",
        );
        assert_eq!(redact("line 2: AAECAwQFBgcICQoLDA0ODw, short"), "line 2: ***, short");
    }

    #[test]
    fn hides_a_whole_secret_that_begins_like_another() {
        learn_variable("SHORT_TOKEN", "tok-elephant");
        learn_variable("LONG_TOKEN", "tok-elephant-and-the-rest");
        assert_eq!(redact("it was tok-elephant-and-the-rest"), "it was ***");
    }

    #[test]
    fn hides_secrets_in_keys_and_values_of_json() {
        learn_variable("JSON_TOKEN", "tok-giraffe");
        let mut value = serde_json::json!({"of tok-giraffe": [{"deep": "is tok-giraffe"}], "number": 1});
        redact_json(&mut value);
        assert_eq!(value, serde_json::json!({"of ***": [{"deep": "is ***"}], "number": 1}));
    }
}
