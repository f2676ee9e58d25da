//! PostgreSQL's connection strings, taken apart as libpq takes them apart: URLs, keyword strings, the
//! service file, and what the environment has for what they leave out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::world::files;

/// What an address says, by libpq's keywords.
pub(super) type Said = BTreeMap<&'static str, String>;

/// Every keyword of libpq, and the variable that stands in for it.
const KEYWORDS: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("fallback_application_name", ""),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("gssencmode", "PGGSSENCMODE"),
    ("gsslib", "PGGSSLIB"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("keepalives", ""),
    ("keepalives_count", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("replication", ""),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("requiressl", "PGREQUIRESSL"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslpassword", ""),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("tcp_user_timeout", ""),
    ("user", "PGUSER"),
];

/// The keyword of that name.
fn keyword(name: &str) -> Option<&'static str> {
    KEYWORDS.iter().map(|(known, _)| *known).find(|known| *known == name)
}

fn unknown(name: &str) -> String {
    let known = KEYWORDS.iter().map(|(known, _)| *known);
    let near = known.min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or_default();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && name.len() <= 40;
    // What is no keyword may be a piece of a password.
    if plain && strsim::damerau_levenshtein(near, name) <= 3 {
        format!("it has an option that PostgreSQL does not know; did you mean `{near}`?")
    } else {
        "it has an option that PostgreSQL does not know".into()
    }
}

/// Reads an address with all that it leaves out: first the service, then the environment.
///
/// Errors: half a sentence without any part of the text but keywords, since the password may be in it.
pub(super) fn read(text: &str, var: &dyn Fn(&str) -> Option<String>) -> Result<Said, String> {
    let text = text.trim();
    let mut said = match ["postgres://", "postgresql://"].iter().find_map(|begin| text.strip_prefix(begin)) {
        Some(rest) => url(rest)?,
        None if text.contains('=') => words(text)?,
        None => return Err("it is neither a URL nor `key=value` pairs".into()),
    };
    said.retain(|_, value| !value.is_empty());
    if let Some(name) = said.get("service").cloned().or_else(|| var("PGSERVICE")) {
        for (key, value) in service(&name, &said, var)? {
            said.entry(key).or_insert(value);
        }
    }
    for (key, variable) in KEYWORDS.iter().filter(|(_, variable)| !variable.is_empty()) {
        if let (false, Some(value)) = (said.contains_key(key), var(variable)) {
            said.insert(key, value);
        }
    }
    said.retain(|key, value| !value.is_empty() && !key.starts_with("service"));
    Ok(said)
}

/// `[user[:password]@][host[:port][,…]][/database][?key=value&…]`
fn url(rest: &str) -> Result<Said, String> {
    let mut said = Said::new();
    let end = rest.find(['@', '/']).unwrap_or(rest.len());
    let rest = if rest[end..].starts_with('@') {
        let (user, password) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
        said.insert("user", decoded(user)?);
        said.insert("password", decoded(password)?);
        &rest[end + 1..]
    } else {
        rest
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (places, rest) = rest.split_at(end);
    if places.contains('@') || rest.split('?').next().is_some_and(|path| path.contains('@')) {
        return Err("a `/` or `@` in user or password must be written as %2F or %40".into());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in places.split(',') {
        let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, ""),
            Some(Some((host, port))) => {
                (host, port.strip_prefix(':').ok_or("behind `]` comes something else than a port")?)
            }
            Some(None) => return Err("`[` is not closed".into()),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        hosts.push(decoded(host)?);
        ports.push(decoded(port)?);
    }
    said.insert("host", joined(&hosts));
    said.insert("port", joined(&ports));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    said.insert("dbname", decoded(path.strip_prefix('/').unwrap_or(path))?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("an option has no `=`")?;
        if value.contains('=') {
            return Err("a `=` in the value of an option must be written as %3D".into());
        }
        let (key, value) = (decoded(key)?, decoded(value)?);
        // As JDBC has it.
        if (key.as_str(), value.as_str()) == ("ssl", "true") {
            said.insert("sslmode", "require".into());
            continue;
        }
        said.insert(keyword(&key).ok_or_else(|| unknown(&key))?, value);
    }
    Ok(said)
}

fn joined(parts: &[String]) -> String {
    if parts.iter().all(String::is_empty) { String::new() } else { parts.join(",") }
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let both = digit(rest.next()).zip(digit(rest.next()));
        let (high, low) = both.ok_or("a `%` must be written as %25")?;
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    if bytes.contains(&0) {
        return Err("it has a zero byte (%00)".into());
    }
    String::from_utf8(bytes).map_err(|_| "it has bytes that are not UTF-8".into())
}

/// `key=value key='it\'s'`
fn words(text: &str) -> Result<Said, String> {
    let mut said = Said::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return Ok(said);
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(letter);
        }
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        if letters.next_if_eq(&'=').is_none() {
            return Err("behind a keyword comes no `=`".into());
        }
        while letters.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                None if quoted => return Err("a `'` is not closed".into()),
                Some('\'') if quoted => break,
                None => break,
                Some(letter) if !quoted && letter.is_whitespace() => break,
                Some('\\') => value.extend(letters.next()),
                Some(letter) => value.push(letter),
            }
        }
        said.insert(keyword(&key).ok_or_else(|| unknown(&key))?, value);
    }
}

/// What the service file has under a name.
fn service(name: &str, said: &Said, var: &dyn Fn(&str) -> Option<String>) -> Result<Said, String> {
    let given = said.get("servicefile").cloned().or_else(|| var("PGSERVICEFILE")).map(PathBuf::from);
    let own = given.or_else(|| var("HOME").map(|home| Path::new(&home).join(".pg_service.conf")));
    let system = var("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".into());
    let files = own.into_iter().chain([Path::new(&system).join("pg_service.conf")]);
    for file in files {
        match files::read_bounded(&file, super::MOST) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                if let Some(found) =
                    section(&text, name).map_err(|why| format!("{}: {why}", file.display()))?
                {
                    return Ok(found);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("the service file {} cannot be read: {error}", file.display())),
        }
    }
    Err("its `service` is in no service file (PGSERVICEFILE, ~/.pg_service.conf)".into())
}

fn section(text: &str, name: &str) -> Result<Option<Said>, String> {
    let mut inside = false;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            if inside {
                break;
            }
            inside = head.strip_suffix(']') == Some(name);
            if inside {
                found = Some(Said::new());
            }
            continue;
        }
        let Some(found) = found.as_mut().filter(|_| inside) else { continue };
        let (key, value) = line.split_once('=').ok_or("a line has no `=`")?;
        let key =
            keyword(key.trim_end()).filter(|key| *key != "service").ok_or("it has an unknown keyword")?;
        found.entry(key).or_insert_with(|| value.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match read(text, &|_| None) {
            Ok(said) => {
                said.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
            }
            Err(why) => why,
        }
    }

    #[test]
    fn urls_and_words_are_read_as_psql_reads_them() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgresql://localhost", "host=localhost"),
            ("postgres://u:p@h:5433/d", "dbname=d host=h password=p port=5433 user=u"),
            ("postgres://u%40x:a%2F%3A%40%25@h/my%20db", "dbname=my db host=h password=a/:@% user=u@x"),
            ("postgres://u:a?b#c@h/d", "dbname=d host=h password=a?b#c user=u"),
            ("postgres://h1:1,h2,[::1]:3/d", "dbname=d host=h1,h2,::1 port=1,,3"),
            ("postgres:///d?host=/run/pg&port=5433", "dbname=d host=/run/pg port=5433"),
            ("postgres://%2Frun%2Fpg/d", "dbname=d host=/run/pg"),
            (
                "postgres://h/d?application_name=a+b&connect_timeout=3",
                "application_name=a+b connect_timeout=3 dbname=d host=h",
            ),
            (
                "postgres://h/d?ssl=true&gssencmode=disable",
                "dbname=d gssencmode=disable host=h sslmode=require",
            ),
            ("postgres://h/d?sslmode=&host=x", "dbname=d host=x"),
            ("postgres://h?dbname=d", "dbname=d host=h"),
            ("host=h  dbname = d password='a b\\'c' user=x\\ y", "dbname=d host=h password=a b'c user=x y"),
            ("host=h password=", "host=h"),
            ("host=h password=é", "host=h password=é"),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }

    #[test]
    fn what_psql_refuses_is_refused_without_showing_a_password() {
        for (text, word) in [
            ("shop", "neither"),
            ("mysql://h/d", "neither"),
            ("postgres://u:hid/den@h/d", "%2F"),
            ("postgres://u:hid@den@h/d", "%40"),
            ("postgres://u:hid%zzden@h/d", "%25"),
            ("postgres://u:hid%00den@h/d", "zero"),
            ("postgres://u:hid%ffden@h/d", "UTF-8"),
            ("postgres://[::1/d", "not closed"),
            ("postgres://[::1]x/d", "something else"),
            ("postgres://h/d?sslmod=require", "did you mean `sslmode`"),
            ("postgres://h/d?password", "no `=`"),
            ("postgres://h/d?options=a=b", "%3D"),
            ("host=h password=a hidden=word", "does not know"),
            ("host=h password='hidden", "not closed"),
            ("host=h hidden", "no `=`"),
        ] {
            let why = said(text);
            assert!(why.contains(word) && !why.contains("hid"), "{text}: {why}");
        }
    }

    #[test]
    fn the_environment_and_a_service_fill_in_what_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("services");
        std::fs::write(
            &file,
            "# mine\n[other]\nhost=x\n\n[shop]\nhost=db.example\nport=5444\nuser=them\n[more]\nhost=y\n",
        )
        .unwrap();
        let file = file.display().to_string();
        let variables =
            [("PGSERVICEFILE", file.as_str()), ("PGUSER", "me"), ("PGDATABASE", "d"), ("PGPORT", "1")];
        let var = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let found = read("postgresql://?service=shop&port=7", &var).unwrap();
        let found: Vec<_> = found.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(found, ["dbname=d", "host=db.example", "port=7", "user=them"]);
        assert!(read("service=none", &var).unwrap_err().contains("no service file"));
    }
}
