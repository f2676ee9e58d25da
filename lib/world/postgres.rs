//! Where a PostgreSQL database is and how it is spoken to, with the meaning that libpq gives to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use ::postgres::config::{Host, SslMode};
use ::postgres::{Client, Config, NoTls};
use regex::Regex;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::redact;

mod tls;

/// How an address is written, for those who wrote it otherwise.
pub const HELP: &str = "write postgres://user@host:5432/database?sslmode=require, or host=… dbname=…; the \
                        password in it or in PGPASSWORD; sslmode is disable, prefer, require, verify-ca or \
                        verify-full";

/// A database's address. It has no `Debug`: it holds the password.
pub struct Address {
    config: Config,
    ssl_mode: Option<String>,
    verify: Verify,
    roots: Option<Roots>,
}

/// How far a server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    /// Encryption without proof of who answers.
    Nothing,
    /// It leads to a root.
    Chain,
    /// It leads to a root, and it is for the server's name.
    Name,
}

/// The certificates that a server's certificate must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Roots {
    System,
    File(PathBuf),
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unreachable {
    /// It is on this side: the root certificates cannot be used.
    Here(String),
    /// The server or the way to it.
    There(::postgres::Error),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(why) => f.write_str(&redact::redact(why)),
            Self::There(error) => f.write_str(&chain(error)),
        }
    }
}

impl Address {
    /// Reads a URL or a keyword string. What is left out comes from `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGDATABASE`, `PGPASSWORD`, `PGSSLMODE`, `PGSSLROOTCERT` and the password file, as everywhere with
    /// PostgreSQL. The password is never shown from now on.
    ///
    /// Errors: half a sentence that goes on after "is not a connection URL: ".
    pub fn read(text: &str) -> Result<Self, String> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = Self::with(text, &var)?;
        if let Some(password) = address.password() {
            redact::learn(&password);
        }
        Ok(address)
    }

    fn with(text: &str, var: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let (text, own) = without_tls(text);
        let mut config: Config = text.parse().map_err(|error| unreadable(&error))?;
        let mut roots = match own.root_cert.or_else(|| var("PGSSLROOTCERT")) {
            Some(system) if system == "system" => Some(Roots::System),
            Some(path) => Some(Roots::File(std::path::absolute(&path).map_err(|error| error.to_string())?)),
            None => None,
        };
        let ssl_mode = own.mode.or_else(|| var("PGSSLMODE"));
        let (mode, verify) = meaning(ssl_mode.as_deref(), roots.as_ref())?;
        config.ssl_mode(mode);
        if verify == Verify::Nothing {
            roots = None;
        }
        fill(&mut config, var)?;
        let mut address = Self { config, ssl_mode, verify, roots };
        if address.config.get_password().is_none()
            && let Some(password) = var("PGPASSWORD").or_else(|| address.password_from_file(var))
        {
            address.config.password(password);
        }
        Ok(address)
    }

    /// The same with root certificates from elsewhere: nothing but a certificate that leads to them will
    /// do, unless the address says `sslmode=disable`.
    #[must_use]
    pub fn trusting(mut self, roots: PathBuf) -> Self {
        if self.config.get_ssl_mode() == SslMode::Disable {
            return self;
        }
        if self.ssl_mode.as_deref() != Some("verify-ca") {
            self.ssl_mode = Some("verify-full".into());
            self.verify = Verify::Name;
        }
        self.config.ssl_mode(SslMode::Require);
        self.roots = Some(Roots::File(roots));
        self
    }

    /// The same server, user and password with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self { config, ssl_mode: self.ssl_mode.clone(), verify: self.verify, roots: self.roots.clone() }
    }

    /// The database's name; that of the user where the address names none.
    pub fn database(&self) -> Option<&str> {
        self.config.get_dbname().or_else(|| self.config.get_user())
    }

    /// The password, where one is known.
    pub fn password(&self) -> Option<String> {
        self.config.get_password().map(|p| String::from_utf8_lossy(p).into_owned())
    }

    /// The address as a keyword string without the password, for a command line.
    pub fn without_password(&self) -> String {
        let (hosts, ports) = self.parts();
        let addresses: Vec<String> = self.config.get_hostaddrs().iter().map(ToString::to_string).collect();
        let roots = self.roots.as_ref().map(|roots| match roots {
            Roots::System => "system".to_owned(),
            Roots::File(path) => path.display().to_string(),
        });
        let pairs = [
            ("host", Some(hosts)),
            ("hostaddr", Some(addresses.join(","))),
            ("port", Some(ports)),
            ("user", self.config.get_user().map(Into::into)),
            ("dbname", self.config.get_dbname().map(Into::into)),
            ("options", self.config.get_options().map(Into::into)),
            ("sslmode", self.ssl_mode.clone()),
            ("sslrootcert", roots),
        ];
        let words: Vec<String> = pairs
            .into_iter()
            .filter_map(|(key, value)| value.filter(|v| !v.is_empty()).map(|v| (key, v)))
            .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
            .collect();
        words.join(" ")
    }

    /// Connects. The address's own `connect_timeout` counts; `otherwise` where it has none.
    ///
    /// Errors: unusable root certificates, a server that cannot be reached or refuses.
    pub fn connect(&self, otherwise: Duration) -> Result<Client, Unreachable> {
        let mut config = self.config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(otherwise);
        }
        if config.get_application_name().is_none() {
            config.application_name("trapkey");
        }
        let connected = if config.get_ssl_mode() == SslMode::Disable {
            config.connect(NoTls)
        } else {
            let roots = self.roots.as_ref().unwrap_or(&Roots::System);
            let client = tls::client(self.verify, roots).map_err(Unreachable::Here)?;
            config.connect(MakeRustlsConnect::new(client))
        };
        connected.map_err(Unreachable::There)
    }

    fn parts(&self) -> (String, String) {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let ports = self.config.get_ports().iter().map(u16::to_string);
        (hosts.collect::<Vec<_>>().join(","), ports.collect::<Vec<_>>().join(","))
    }

    /// The password of the first line of `PGPASSFILE` (or `~/.pgpass`) that fits.
    fn password_from_file(&self, var: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let path = var("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| var("HOME").map(|home| PathBuf::from(home).join(".pgpass")))?;
        let text = super::files::read_text(&path).ok()?;
        let (host, port) = self.parts();
        let host = if host.starts_with('/') { "localhost".to_owned() } else { host };
        let port = if port.is_empty() { "5432".to_owned() } else { port };
        let user = self.config.get_user().unwrap_or_default();
        let asked = [host.as_str(), port.as_str(), self.config.get_dbname().unwrap_or(user), user];
        text.lines().find_map(|line| password_of(line, &asked))
    }
}

/// An error with all that is behind it, in one line, without secrets.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        next = inner.source();
    }
    redact::redact(&text)
}

/// The parser's own words may hold pieces of the text, the password among them; those on a known option
/// hold no more than its name.
fn unreadable(error: &::postgres::Error) -> String {
    let inner = std::error::Error::source(error).map(ToString::to_string);
    inner
        .filter(|words| words.starts_with("invalid value for option"))
        .unwrap_or_else(|| "not readable".into())
}

/// What libpq does for an `sslmode` with and without root certificates.
fn meaning(mode: Option<&str>, roots: Option<&Roots>) -> Result<(SslMode, Verify), String> {
    // The system's roots vouch for everybody's certificate: it must be of that name.
    if roots == Some(&Roots::System) && mode.is_some_and(|mode| mode != "verify-full") {
        return Err("`sslrootcert=system` needs `sslmode=verify-full`".into());
    }
    match mode {
        None if roots == Some(&Roots::System) => Ok((SslMode::Require, Verify::Name)),
        Some("disable") => Ok((SslMode::Disable, Verify::Nothing)),
        None | Some("allow" | "prefer") => Ok((SslMode::Prefer, Verify::Nothing)),
        Some("require") if roots.is_some() => Ok((SslMode::Require, Verify::Chain)),
        Some("require") => Ok((SslMode::Require, Verify::Nothing)),
        Some("verify-ca") => Ok((SslMode::Require, Verify::Chain)),
        Some("verify-full") => Ok((SslMode::Require, Verify::Name)),
        Some(other) => Err(format!("`sslmode={other}` is not known")),
    }
}

fn fill(config: &mut Config, var: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(&var("PGHOST").unwrap_or_else(|| "/var/run/postgresql".into()));
    }
    if let (true, Some(port)) = (config.get_ports().is_empty(), var("PGPORT")) {
        config.port(port.parse().map_err(|_| format!("`PGPORT={port}` is not a port"))?);
    }
    if let (None, Some(user)) = (config.get_user(), var("PGUSER").or_else(|| var("USER"))) {
        config.user(&user);
    }
    if let (None, Some(name)) = (config.get_dbname(), var("PGDATABASE")) {
        config.dbname(&name);
    }
    Ok(())
}

fn password_of(line: &str, asked: &[&str; 4]) -> Option<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => fields.last_mut()?.extend(letters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            _ => fields.last_mut()?.push(letter),
        }
    }
    let fits = fields.len() == 5
        && !line.starts_with('#')
        && fields.iter().zip(asked).all(|(field, asked)| field == "*" || field == asked);
    fits.then(|| fields.pop())?
}

/// The two options that the client library does not know as libpq does.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tls {
    mode: Option<String>,
    root_cert: Option<String>,
}

impl Tls {
    /// Takes an option that is for it; of several the last counts.
    fn takes(&mut self, key: &str, value: impl FnOnce() -> String) -> bool {
        match key {
            "sslmode" => self.mode = Some(value()),
            "sslrootcert" => self.root_cert = Some(value()),
            _ => return false,
        }
        true
    }
}

/// The address without those two, and the two.
fn without_tls(text: &str) -> (String, Tls) {
    let mut tls = Tls::default();
    if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
        return (without_words(text, &mut tls), tls);
    }
    // A question mark may stand in the user's name or password.
    let credentials = text.find('@').unwrap_or(0);
    let Some(at) = text[credentials..].find('?').map(|at| credentials + at) else {
        return (text.to_owned(), tls);
    };
    let kept: Vec<&str> = text[at + 1..]
        .split('&')
        .filter(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            !tls.takes(key, || redact::decoded(value))
        })
        .collect();
    let sign = if kept.is_empty() { "" } else { "?" };
    (format!("{}{sign}{}", &text[..at], kept.join("&")), tls)
}

fn without_words(text: &str, tls: &mut Tls) -> String {
    static WORDS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?s)(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)").ok());
    static ESCAPED: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?s)\\(.)").ok());
    let (Some(words), Some(escaped)) = (&*WORDS, &*ESCAPED) else { return text.to_owned() };
    let kept = words.replace_all(text, |found: &regex::Captures<'_>| {
        let value = &found[2];
        let bare = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).unwrap_or(value);
        let taken = tls.takes(&found[1], || escaped.replace_all(bare, "$1").into_owned());
        if taken { String::new() } else { found[0].to_owned() }
    });
    kept.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Address, String> {
        Address::with(text, &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn takes_the_options_that_only_libpq_knows() {
        let tls = |mode: &str, root: Option<&str>| Tls {
            mode: Some(mode.to_owned()),
            root_cert: root.map(str::to_owned),
        };
        let cases = [
            (
                "postgres://u@h/d?sslmode=verify-full&application_name=x&sslrootcert=%2Fetc%2Fmy%20ca.pem",
                "postgres://u@h/d?application_name=x",
                tls("verify-full", Some("/etc/my ca.pem")),
            ),
            ("postgres://u@h/d?sslmode=require", "postgres://u@h/d", tls("require", None)),
            ("host=h sslmode='require' dbname=d", "host=h  dbname=d", tls("require", None)),
            (
                r"password='a sslmode=disable \' b' sslmode = verify-ca sslrootcert='/my ca/it\'s.pem'",
                r"password='a sslmode=disable \' b'  ",
                tls("verify-ca", Some("/my ca/it's.pem")),
            ),
            ("postgres://u:p?sslmode=disable@h/d", "postgres://u:p?sslmode=disable@h/d", Tls::default()),
        ];
        for (text, rest, found) in cases {
            assert_eq!(without_tls(text), (rest.to_owned(), found), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, variables, words) in [
            ("postgres://u@h/d?sslmode=maybe", &[][..], "`sslmode=maybe` is not known"),
            ("postgres://u@h:no/d", &[], "invalid value for option `port`"),
            ("host=h password=a secret=word", &[], "not readable"),
            ("host=h sslmode=require sslrootcert=system", &[], "needs `sslmode=verify-full`"),
            ("host=h", &[("PGPORT", "many")], "PGPORT"),
            ("host=h", &[("PGSSLMODE", "never")], "`sslmode=never` is not known"),
        ] {
            let why = read(text, variables).err().unwrap_or_default();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn what_the_address_leaves_out_comes_from_the_environment() {
        let variables = [
            ("PGHOST", "db"),
            ("PGPORT", "5433"),
            ("PGUSER", "shop"),
            ("PGDATABASE", "orders"),
            ("PGPASSWORD", "hidden"),
            ("PGSSLMODE", "verify-ca"),
            ("PGSSLROOTCERT", "/ca.pem"),
        ];
        let of_environment = read("postgres://", &variables).unwrap();
        let words =
            "host='db' port='5433' user='shop' dbname='orders' sslmode='verify-ca' sslrootcert='/ca.pem'";
        assert_eq!(of_environment.without_password(), words);
        assert_eq!(of_environment.password().as_deref(), Some("hidden"));
        let own = read("postgres://me:mine@here:1/it?sslmode=disable", &variables).unwrap();
        assert_eq!(own.without_password(), "host='here' port='1' user='me' dbname='it' sslmode='disable'");
        assert_eq!(own.password().as_deref(), Some("mine"));
        assert!(read("dbname=d", &[]).unwrap().without_password().starts_with("host='/var/run/postgresql'"));
    }

    #[test]
    fn certificates_are_looked_at_as_far_as_sslmode_says() {
        let file = Roots::File("/ca.pem".into());
        for (mode, roots, expected) in [
            (None, None, (SslMode::Prefer, Verify::Nothing)),
            (None, Some(&Roots::System), (SslMode::Require, Verify::Name)),
            (Some("disable"), Some(&file), (SslMode::Disable, Verify::Nothing)),
            (Some("prefer"), Some(&file), (SslMode::Prefer, Verify::Nothing)),
            (Some("require"), None, (SslMode::Require, Verify::Nothing)),
            (Some("require"), Some(&file), (SslMode::Require, Verify::Chain)),
            (Some("verify-ca"), None, (SslMode::Require, Verify::Chain)),
            (Some("verify-full"), Some(&file), (SslMode::Require, Verify::Name)),
        ] {
            assert_eq!(meaning(mode, roots), Ok(expected), "{mode:?} {roots:?}");
        }
    }

    #[test]
    fn roots_from_elsewhere_are_never_left_unused() {
        for (mode, verify, ssl) in [
            ("", Verify::Name, SslMode::Require),
            ("?sslmode=prefer", Verify::Name, SslMode::Require),
            ("?sslmode=verify-ca", Verify::Chain, SslMode::Require),
            ("?sslmode=disable", Verify::Nothing, SslMode::Disable),
        ] {
            let address = read(&format!("postgres://u@h/d{mode}"), &[]).unwrap().trusting("/ca.pem".into());
            assert_eq!((address.verify, address.config.get_ssl_mode()), (verify, ssl), "{mode}");
        }
    }

    #[test]
    fn finds_the_line_of_the_password_file() {
        let asked = ["db", "5432", "orders", "shop"];
        assert_eq!(password_of(r"db:5432:*:shop:a\:b\\c:d", &asked).as_deref(), Some(r"a:b\c:d"));
        assert_eq!(password_of("db:5433:*:shop:x", &asked), None);
        assert_eq!(password_of("#db:5432:*:shop:x", &asked), None);
        assert_eq!(password_of("db:5432", &asked), None);
    }
}
