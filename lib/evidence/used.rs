//! Which values of the plan's variables a document was made with. The same plan with other values looks at other
//! files, other servers and other sides, so a later call with others is refused.
//!
//! What is written down are names, origins and digests. Of a secret there is neither its value nor a digest of it: a
//! short one could be guessed from that.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{sha256_hex, short};
use crate::fault::Fault;
use crate::redact;

/// Where a variable's value came from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `--set`.
    Set,
    /// `TRAPKEY_SET`.
    TrapkeySet,
    /// A variable of the environment.
    Environment,
    /// What the promotion that is under way was begun with.
    Promotion,
    /// The default in the plan.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set => "--set",
            Self::TrapkeySet => "TRAPKEY_SET",
            Self::Environment => "the environment",
            Self::Promotion => "the promotion that is under way",
            Self::Default => "the default in the plan",
        })
    }
}

/// What of a value is written down.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The SHA-256 of the value.
    Value,
    /// The SHA-256 of where an address leads: its scheme, host, port and path, and those of its parameters that choose a
    /// database, a schema or a server. User and password are not in it, nor any parameter of another name.
    Address,
    /// Nothing: it is secret.
    Secret,
}

/// One variable of the plan, as a document was made with it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct UsedVariable {
    /// Where its value came from.
    pub from: Origin,
    /// What of it is written down.
    pub form: Form,
    /// The digest in hexadecimal; none of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// The variables that a document was made with, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(transparent)]
pub struct Used(pub BTreeMap<String, UsedVariable>);

/// The values themselves, as a call has them. They are never written down nor shown.
#[derive(Clone, Default)]
pub struct Values(BTreeMap<String, (Origin, String)>);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A variable that has another value than a document was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs {
    /// Its name.
    pub name: String,
    /// Where its value came from then, and the beginning of its digest; none where the document does not say.
    pub then: Option<String>,
    /// The same now.
    pub now: String,
}

impl Values {
    /// Adds a variable.
    pub fn insert(&mut self, name: impl Into<String>, from: Origin, value: impl Into<String>) {
        self.0.insert(name.into(), (from, value.into()));
    }

    /// The same with another origin for those of some names.
    pub fn from_elsewhere(&mut self, from: Origin, names: impl Fn(&str) -> bool) {
        for (name, value) in &mut self.0 {
            if value.0 == Origin::Set && names(name) {
                value.0 = from;
            }
        }
    }

    /// What is written down of them.
    pub fn used(&self) -> Used {
        let used = |(name, (from, value)): (&String, &(Origin, String))| {
            let form = form_of(name, value);
            (name.clone(), UsedVariable { from: *from, form, sha256: digest(form, value) })
        };
        Used(self.0.iter().map(used).collect())
    }

    fn shown(&self, name: &str, form: Form) -> Option<(String, String)> {
        let (from, value) = self.0.get(name)?;
        let sha256 = digest(form, value)?;
        Some((told(*from, &sha256), sha256))
    }
}

impl Used {
    /// Those that have another value now. Secret ones cannot be compared.
    pub fn differ_from(&self, now: &Values) -> Vec<Differs> {
        let differs = |name: &String| {
            let Some(then) = self.0.get(name) else {
                let (from, value) = now.0.get(name)?;
                let form = form_of(name, value);
                let now = told(*from, &digest(form, value)?);
                return Some(Differs { name: name.clone(), then: None, now });
            };
            let then_sha256 = then.sha256.as_ref().filter(|_| then.form != Form::Secret)?;
            // In the form that was written down then: what is known as a secret may differ between two jobs.
            let (shown, sha256) = now.shown(name, then.form)?;
            (sha256 != *then_sha256).then(|| Differs {
                name: name.clone(),
                then: Some(told(then.from, then_sha256)),
                now: shown,
            })
        };
        now.0.keys().filter_map(differs).collect()
    }

    /// Those that another document was made with in another value.
    pub fn differ_from_those_of(&self, other: &Self) -> Vec<Differs> {
        let differs = |(name, then): (&String, &UsedVariable)| {
            let now = other.0.get(name)?;
            let (then_sha256, now_sha256) = (then.sha256.as_ref()?, now.sha256.as_ref()?);
            (then.form == now.form && then_sha256 != now_sha256).then(|| Differs {
                name: name.clone(),
                then: Some(told(then.from, then_sha256)),
                now: told(now.from, now_sha256),
            })
        };
        self.0.iter().filter_map(differs).collect()
    }
}

/// The refusal of what was made with other values: `what` was made, `then` and `now` say where each value was used, and
/// `again` how it comes right.
pub fn refuse_other_values(what: &str, differ: &[Differs], (then, now): (&str, &str), again: &str) -> Fault {
    let names: Vec<String> = differ.iter().map(|d| format!("`{}`", d.name)).collect();
    let each: Vec<String> = differ
        .iter()
        .map(|d| match &d.then {
            Some(value) => format!("{}: {then} from {value}, {now} from {}", d.name, d.now),
            None => format!("{}: {then} it is not named, {now} from {}", d.name, d.now),
        })
        .collect();
    let list: Vec<&str> = differ.iter().map(|d| d.name.as_str()).collect();
    Fault::refused(format!(
        "{what} with another value of the plan's variable{} {}",
        if names.len() == 1 { "" } else { "s" },
        names.join(", ")
    ))
    .cause(each.join("; "))
    .help(format!(
        "{again}; what may differ between jobs (a run id, a host, a port) is named in the plan: `may_differ: [{}]`",
        list.join(", ")
    ))
}

fn told(from: Origin, sha256: &str) -> String {
    format!("{from} (sha256 {})", short(sha256))
}

fn form_of(name: &str, value: &str) -> Form {
    if redact::names_a_secret(name) {
        return Form::Secret;
    }
    // A login in front of a host is one in any notation.
    let login = value.split_once('@').is_some_and(|(login, _)| {
        login.contains([':', '/']) && !login.contains(' ') && !login.contains("://")
    });
    if !redact::is_secret(name, value) && !login {
        return Form::Value;
    }
    if address(value).is_some() { Form::Address } else { Form::Secret }
}

fn digest(form: Form, value: &str) -> Option<String> {
    match form {
        Form::Value => Some(sha256_hex(value.as_bytes())),
        // A value that is none is another address than any.
        Form::Address => Some(sha256_hex(address(value).unwrap_or_default().as_bytes())),
        Form::Secret => None,
    }
}

/// Where an address leads, without what is or may be secret in it: a URL, or what libpq (`host=db dbname=shop`), ADO
/// (`Server=db;Database=shop`) and Go (`user:password@tcp(db:3306)/shop`) have in the place of one.
fn address(value: &str) -> Option<String> {
    let value = value.trim();
    if let Some((scheme, rest)) = value.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        return Some(url(scheme, rest));
    }
    if let Some(settings) = settings(value) {
        return Some(chosen(settings));
    }
    let (login, place) = value.rsplit_once('@')?;
    let is_login = !login.is_empty() && !login.contains(char::is_whitespace);
    is_login.then(|| url("", place))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+.-:".contains(c))
}

fn url(scheme: &str, rest: &str) -> String {
    let rest = behind_the_user(rest);
    // `jdbc:sqlserver://db;databaseName=shop` has them behind a semicolon.
    let (place, parameters) = rest.find(['?', '#', ';']).map_or((rest, ""), |at| rest.split_at(at));
    let (authority, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
    // A password may hold a `/` that was not encoded: what follows the last `@` is the host all the same.
    let place = match place.rsplit_once('@') {
        Some((_, after)) if !authority.contains('@') => after.to_owned(),
        _ => format!("{}{path}", authority.rsplit_once('@').map_or(authority, |(_, host)| host)),
    };
    let parameters = parameters.split('#').next().unwrap_or_default();
    let pairs = parameters.split(['?', '&', ';']).filter_map(|pair| pair.split_once('='));
    let chosen = chosen(pairs.map(|(name, value)| (name.to_owned(), redact::decoded(value))).collect());
    let parted = if chosen.is_empty() { "" } else { "?" };
    format!("{scheme}://{place}{parted}{chosen}")
}

/// What chooses the world that an address leads to, by the names that drivers have for it. A parameter of any other name
/// may be a password under a name that nobody knows, and a digest of a weak one could be guessed.
const CHOOSES: [&str; 22] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "db",
    "database",
    "databasename",
    "initialcatalog",
    "catalog",
    "schema",
    "currentschema",
    "searchpath",
    "options",
    "service",
    "servicename",
    "server",
    "datasource",
    "instance",
    "replicaset",
    "targetsessionattrs",
    "unixsocket",
    "sslmode",
];

/// Those of these settings that choose, in the order of their names.
fn chosen(settings: Vec<(String, String)>) -> String {
    let plain = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let mut chosen: Vec<String> = settings
        .into_iter()
        .map(|(name, value)| (plain(&name), value))
        .filter(|(name, value)| CHOOSES.contains(&name.as_str()) && !redact::holds_a_secret(value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    chosen.sort();
    chosen.join("&")
}

/// The settings of a connection string; none where it is none, or has words that are part of no setting: they may be what
/// is left of a password that should have been quoted.
fn settings(value: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()))
    };
    let by_semicolons = || value.split(';').filter(|pair| !pair.trim().is_empty()).map(pair).collect();
    libpq_settings(value).or_else(|| value.contains(';').then(by_semicolons)?)
}

fn libpq_settings(value: &str) -> Option<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut rest = value.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return None;
        }
        let (value, after) = libpq_value(after.trim_start())?;
        settings.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    (!settings.is_empty()).then_some(settings)
}

/// A value as libpq reads it: up to a blank, or in single quotes, with backslashes before what stands for itself.
fn libpq_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            // So other connection strings part their settings.
            ';' if !quoted => return None,
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// An address without its user: a password may hold any sign that was not encoded.
fn behind_the_user(rest: &str) -> &str {
    let Some((user, after)) = rest.split_once('@') else { return rest };
    let first = |signs: &[char]| user.find(signs).unwrap_or(usize::MAX);
    // A path comes before a query; who has it the other way round has a password.
    if first(&['/']) < first(&['?', '#']) {
        return rest;
    }
    match after.rsplit_once('@') {
        Some((more, host)) if !more.contains(['/', '?', '#']) => host,
        _ => after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(all: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        for (name, value) in all {
            values.insert(*name, Origin::Environment, *value);
        }
        values
    }

    #[test]
    fn an_address_loses_its_secrets_alone() {
        for (value, expected) in [
            ("postgres://shop:pw@db:5432/x?sslmode=require", "postgres://db:5432/x?sslmode=require"),
            ("https://TOKEN@host/a", "https://host/a"),
            ("https://host/a?token=1", "https://host/a"),
            ("https://u:p@ss@host", "https://host"),
            ("https://u:p/ss@host/a", "https://host/a"),
            ("postgres://u:p#w@prod/shop", "postgres://prod/shop"),
            ("postgres://u:p?w@prod/shop?sslmode=require", "postgres://prod/shop?sslmode=require"),
            ("postgres://u:p#w@x@prod:5432/shop", "postgres://prod:5432/shop"),
            ("postgres://u:p?w/x@prod/shop", "postgres://prod/shop"),
            ("https://host/a?mail=me@corp", "https://host/a"),
            ("https://u:pw@host/a?mail=me@corp", "https://host/a"),
            ("http://host", "http://host"),
            (
                "postgres://db/x?password=pw&options=-csearch_path%3Dtest&sslmode=require&foo=pw",
                "postgres://db/x?options=-csearch_path=test&sslmode=require",
            ),
            ("postgres://u:pw@/x?port=1&host=/run/pg", "postgres:///x?host=/run/pg&port=1"),
            ("host=db password='it''s' user=me dbname=shop", "-"),
            (r"host = db password='it\'s @ x;' user=me dbname=shop", "dbname=shop&host=db"),
            ("dbname=shop host=db password=other user=you", "dbname=shop&host=db"),
            ("Server=db;Database=shop;User Id=me;Password=pw;", "database=shop&server=db"),
            (
                "jdbc:sqlserver://db:1433;databaseName=shop;user=me;password=pw",
                "jdbc:sqlserver://db:1433?databasename=shop",
            ),
            ("me:pw@tcp(db:3306)/shop?parseTime=true", "://tcp(db:3306)/shop"),
            ("scott/tiger@//db:1521/shop", ":////db:1521/shop"),
        ] {
            let expected = Some(expected).filter(|expected| *expected != "-");
            assert_eq!(address(value).as_deref(), expected, "{value}");
        }
        for none in ["cfg/a", "host=db password=my own secret dbname=x", "host=db password='open", "a=b=c d"]
        {
            assert_eq!(address(none), None, "{none}");
        }
    }

    #[test]
    fn every_difference_is_seen_that_is_no_secret() {
        let then = values(&[
            ("CONFIG", "cfg/a"),
            ("DB_PASSWORD", "hunter22"),
            ("DATABASE_URL", "postgres://shop:hunter22@db/x"),
            ("ENTRY", "http://entry"),
        ])
        .used();
        let text = serde_json::to_string(&then).unwrap();
        assert_eq!(then.0["DB_PASSWORD"].sha256, None);
        for secret in ["hunter22", "postgres://shop:hunter22@db/x"] {
            assert!(!text.contains(secret) && !text.contains(&sha256_hex(secret.as_bytes())), "{text}");
        }
        let differ = |all: &[(&str, &str)]| -> Vec<String> {
            then.differ_from(&values(all)).into_iter().map(|d| d.name).collect()
        };
        assert_eq!(differ(&[("CONFIG", "cfg/a"), ("ENTRY", "http://entry")]), [""; 0]);
        assert_eq!(differ(&[("CONFIG", "/nowhere")]), ["CONFIG"]);
        assert_eq!(differ(&[("DB_PASSWORD", "another")]), [""; 0], "a secret cannot be compared");
        assert_eq!(differ(&[("DATABASE_URL", "postgres://admin:x@db/x")]), [""; 0], "who asks may differ");
        assert_eq!(differ(&[("DATABASE_URL", "postgres://shop:hunter22@evil/x")]), ["DATABASE_URL"]);
        assert_eq!(differ(&[("DATABASE_URL", "none")]), ["DATABASE_URL"]);
        assert_eq!(differ(&[("NEW", "1")]), ["NEW"], "nobody said what it was");
        assert_eq!(differ(&[("NEW_TOKEN", "1")]), [""; 0], "a secret cannot be compared");
        let other = values(&[("CONFIG", "cfg/b"), ("DB_PASSWORD", "x")]).used();
        assert_eq!(then.differ_from_those_of(&other).len(), 1);
    }

    /// Another world is seen in every notation; another password in none, and no digest is of anything that has one in it.
    #[test]
    fn in_every_notation_another_world_is_seen_and_no_password_is_in_a_digest() {
        for pattern in [
            "postgres://me:PW@HOST:5432/DB?sslmode=require",
            "postgres://HOST/DB?user=me&password=PW",
            "postgres://HOST/x?dbname=DB&password=PW&unheard_of=PW",
            "host=HOST user=me password=PW dbname=DB",
            "host='HOST' password = 'PW' dbname='DB'",
            "Server=HOST;Database=DB;User Id=me;Password=PW",
            "jdbc:sqlserver://HOST:1433;databaseName=DB;user=me;password=PW",
            "jdbc:postgresql://HOST/DB?user=me&password=PW",
            "me:PW@tcp(HOST:3306)/DB?parseTime=true",
            "me/PW@//HOST:1521/DB",
            "redis://:PW@HOST:6379/DB",
        ] {
            let made = |password: &str, host: &str, database: &str| {
                let value = pattern.replace("PW", password).replace("HOST", host).replace("DB", database);
                values(&[("DATABASE", &value)])
            };
            let then = made("hunter2", "prod", "shop").used();
            assert!(then.0["DATABASE"].sha256.is_some(), "{pattern}");
            assert_eq!(then.differ_from(&made("another", "prod", "shop")), [], "{pattern}");
            assert_eq!(then.0, made("another", "prod", "shop").used().0, "{pattern}");
            assert_eq!(then.differ_from(&made("hunter2", "test", "shop")).len(), 1, "{pattern}");
            assert_eq!(then.differ_from(&made("hunter2", "prod", "test")).len(), 1, "{pattern}");
        }
    }

    #[test]
    fn the_refusal_names_each_and_where_it_came_from_and_no_value() {
        let then = values(&[("CONFIG", "cfg/a")]).used();
        let mut now = Values::default();
        now.insert("CONFIG", Origin::Set, "/nowhere");
        let places = ("in it", "here");
        let told = refuse_other_values("it was made", &then.differ_from(&now), places, "run it again");
        let told = told.to_string();
        for words in
            ["`CONFIG`", "from the environment (sha256", "here from --set (sha256", "may_differ: [CONFIG]"]
        {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(!told.contains("/nowhere") && !told.contains("cfg/a"), "{told}");
    }
}
