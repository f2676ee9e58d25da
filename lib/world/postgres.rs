//! Where a PostgreSQL database is and how it is spoken to, with the meaning that libpq gives to it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ::postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use ::postgres::tls::{MakeTlsConnect, TlsConnect};
use ::postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};

use super::trust::{self, Proof, Trust};
use crate::redact;

mod conninfo;
mod tls;

use conninfo::Said;

/// How an address is written, for those who wrote it otherwise.
pub const HELP: &str = "write postgres://user@host:5432/database?sslmode=require, or host=… dbname=…, as for \
                        psql; the password in it, in PGPASSWORD or in a password file; sslmode is disable, \
                        allow, prefer, require, verify-ca or verify-full";

/// A database's address. It has no `Debug`: it holds the password.
pub struct Address {
    said: Said,
    servers: Vec<Server>,
    session: Session,
    mode: Mode,
    trust: Trust,
    /// Where the passwords are, where the address has none.
    passfile: Option<PathBuf>,
}

/// One of the servers that an address names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    /// A name, a number, or the folder of a unix socket.
    host: String,
    /// Its address, where it is not to be looked up.
    number: Option<IpAddr>,
    port: u16,
}

/// What a session must be like (`target_session_attrs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// What is tried, and what the server has to prove (`sslmode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    /// Whether it may do without encryption, and when.
    plain: Plain,
    proof: Proof,
}

/// Whether a connection may be plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Only,
    First,
    Last,
    Never,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unreachable {
    /// It is on this side: the certificates cannot be used.
    Here(String),
    /// The server or the way to it.
    There(::postgres::Error),
    /// None of several servers, or one that is not what was asked for.
    Nobody(String),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(why) | Self::Nobody(why) => f.write_str(&redact::redact(why)),
            Self::There(error) => f.write_str(&chain(error)),
        }
    }
}

impl Address {
    /// Reads a URL or a keyword string. What is left out comes from the service file, from the
    /// environment (`PGHOST`, `PGSSLMODE`, …) and from the password file, as everywhere with PostgreSQL. The
    /// password is never shown from now on.
    ///
    /// Errors: half a sentence that goes on after "is not a connection URL: ".
    pub fn read(text: &str) -> Result<Self, String> {
        Self::read_trusting(text, &Trust::default())
    }

    /// The same with what a check says of trust. A `ca` asks for a certificate that leads to it and is of the
    /// server's name, unless the address says `sslmode=disable` or `verify-ca`.
    ///
    /// Errors: also where the address asks for a proof, and the check for none.
    pub fn read_trusting(text: &str, own: &Trust) -> Result<Self, String> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = Self::with(text, &var, own)?;
        if let Some(password) = address.password() {
            redact::learn(&password);
        }
        Ok(address)
    }

    fn with(text: &str, var: &dyn Fn(&str) -> Option<String>, trust: &Trust) -> Result<Self, String> {
        let mut said = conninfo::read(text, var)?;
        refuse(&said)?;
        if let (false, Some(user)) = (said.contains_key("user"), var("USER")) {
            said.insert("user", user);
        }
        if !said.contains_key("host") && !said.contains_key("hostaddr") {
            said.insert("host", FOLDER.into());
        }
        let servers = servers(&said)?;
        let session = session(said.get("target_session_attrs").map(String::as_str))?;
        let home = var("HOME").map(PathBuf::from);
        let own = |name: &str| {
            home.as_ref().map(|home| home.join(".postgresql").join(name)).filter(|p| p.is_file())
        };
        let plan = servers.first().map(|first| trust::towards(&first.host, first.port)).unwrap_or_default();
        let roots = said.get("sslrootcert").map(|path| absolute(path)).transpose()?;
        let roots = roots.or_else(|| plan.ca.clone()).or_else(|| own("root.crt"));
        let system = said.get("sslrootcert").is_some_and(|path| path == "system");
        let (mode, roots) = if system {
            (mode(said.get("sslmode").map(String::as_str), Roots::System)?, None)
        } else {
            let known = if roots.is_some() || trust.ca.is_some() { Roots::File } else { Roots::None };
            (mode(said.get("sslmode").map(String::as_str), known)?, roots)
        };
        let cert = match said.get("sslcert") {
            _ if said.get("sslcertmode").is_some_and(|mode| mode == "disable") => None,
            Some(path) => Some(absolute(path)?),
            None => plan.cert.clone().or_else(|| own("postgresql.crt")),
        };
        let key = match said.get("sslkey") {
            Some(path) => Some(absolute(path)?),
            None if said.contains_key("sslcert") || plan.cert.is_none() => own("postgresql.key"),
            None => plan.key.clone(),
        };
        let found = Trust {
            ca: roots,
            key: key.filter(|_| cert.is_some()),
            cert,
            insecure: None,
            server_name: plan.server_name,
        };
        let passfile = passfile(&said, home.as_deref())?;
        Self { said, servers, session, mode, trust: found, passfile }.trusting(trust)
    }

    fn trusting(mut self, own: &Trust) -> Result<Self, String> {
        if own.anybody() {
            if self.said.get("sslmode").is_some_and(|mode| mode.starts_with("verify")) {
                return Err("it asks for a verified certificate, and `insecure` for none".into());
            }
            self.mode.proof = Proof::Nothing;
        }
        if own.ca.is_some() && self.mode.plain != Plain::Only {
            let chain = self.said.get("sslmode").is_some_and(|mode| mode == "verify-ca");
            let proof = if chain { Proof::Chain } else { Proof::Name };
            self.mode = Mode { plain: Plain::Never, proof };
        }
        self.trust = own.or(&self.trust);
        Ok(self)
    }

    /// The same server, user and password with another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut said = self.said.clone();
        said.insert("dbname", name.to_owned());
        Self {
            said,
            servers: self.servers.clone(),
            session: self.session,
            mode: self.mode,
            trust: self.trust.clone(),
            passfile: self.passfile.clone(),
        }
    }

    /// The database's name; that of the user where the address names none.
    pub fn database(&self) -> Option<&str> {
        self.said.get("dbname").or_else(|| self.said.get("user")).map(String::as_str)
    }

    /// The password, where one is known.
    pub fn password(&self) -> Option<String> {
        self.said.get("password").cloned().or_else(|| self.password_of(self.servers.first()?))
    }

    /// The address as a keyword string without the password, for a command line.
    pub fn without_password(&self) -> String {
        let mut said = self.said.clone();
        said.retain(|key, _| !["password", "sslrootcert", "sslcert", "sslkey", "sslmode"].contains(key));
        let system = self.said.get("sslrootcert").is_some_and(|roots| roots == "system");
        let files =
            [("sslrootcert", &self.trust.ca), ("sslcert", &self.trust.cert), ("sslkey", &self.trust.key)];
        for (key, path) in files {
            if let Some(path) = path {
                said.insert(key, path.display().to_string());
            }
        }
        if system {
            said.insert("sslrootcert", "system".into());
        }
        let mode = match (self.mode.plain, self.mode.proof) {
            (Plain::Never, Proof::Name) => Some("verify-full"),
            (Plain::Never, Proof::Chain) => Some("verify-ca"),
            _ => self.said.get("sslmode").map(String::as_str),
        };
        if let Some(mode) = mode {
            said.insert("sslmode", mode.to_owned());
        }
        let first = ["host", "hostaddr", "port", "user", "dbname"];
        let rest = said.keys().copied().filter(|key| !first.contains(key));
        let words = first.into_iter().chain(rest).filter_map(|key| {
            let value = said.get(key)?.replace('\\', "\\\\").replace('\'', "\\'");
            Some(format!("{key}='{value}'"))
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Connects to the first server that answers and is what the address asks for. The address's own
    /// `connect_timeout` counts for each; `otherwise` where it has none.
    ///
    /// Errors: unusable certificates, no server that can be reached, takes us in and is as asked for.
    pub fn connect(&self, otherwise: Duration) -> Result<Client, Unreachable> {
        let limit = match self.said.get("connect_timeout").and_then(|seconds| seconds.trim().parse().ok()) {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => otherwise,
        };
        let mut servers: Vec<&Server> = self.servers.iter().collect();
        if self.said.get("load_balance_hosts").is_some_and(|how| how == "random") {
            servers.sort_by_cached_key(|_| super::unique());
        }
        let rounds: &[Session] = match self.session {
            Session::PreferStandby => &[Session::Standby, Session::Any],
            ref other => std::slice::from_ref(other),
        };
        let until = Instant::now() + otherwise.max(limit);
        let mut failed = Vec::new();
        for wanted in rounds {
            failed.clear();
            for server in &servers {
                if !failed.is_empty() && Instant::now() >= until {
                    break;
                }
                match self.connect_to(server, limit).and_then(|client| wanted.of(client)) {
                    Ok(client) => return Ok(client),
                    Err(here @ Unreachable::Here(_)) => return Err(here),
                    Err(error) => failed.push((*server, error)),
                }
            }
        }
        if failed.len() > 1 {
            let all =
                failed.iter().map(|(server, error)| format!("{}:{}: {error}", server.host, server.port));
            return Err(Unreachable::Nobody(all.collect::<Vec<_>>().join("; ")));
        }
        Err(failed.pop().map_or_else(|| Unreachable::Nobody("it names no server".into()), |(_, error)| error))
    }

    /// One server, plain or encrypted in the order that `sslmode` has.
    fn connect_to(&self, server: &Server, limit: Duration) -> Result<Client, Unreachable> {
        let mut config = self.config(server, limit)?;
        let mut plain = || {
            config.ssl_mode(SslMode::Disable);
            within(limit, &config, NoTls)
        };
        // A unix socket is never encrypted, whatever `sslmode` says.
        if server.is_local() || self.mode.plain == Plain::Only {
            return plain();
        }
        if self.mode.plain == Plain::First
            && let Ok(client) = plain()
        {
            return Ok(client);
        }
        let said = |key: &str| self.said.get(key).map(String::as_str);
        let versions: &[&rustls::SupportedProtocolVersion] =
            match (said("ssl_min_protocol_version"), said("ssl_max_protocol_version")) {
                (Some("TLSv1.3"), _) => &[&rustls::version::TLS13],
                (_, Some("TLSv1.2")) => &[&rustls::version::TLS12],
                _ => rustls::DEFAULT_VERSIONS,
            };
        let client = self.trust.client_speaking(self.mode.proof, versions);
        let mut client = client.map_err(Unreachable::Here)?;
        client.alpn_protocols = vec![b"postgresql".to_vec()];
        let named = tls::Named::new(client, self.trust.server_name.clone());
        let last = self.mode.plain == Plain::Last;
        config.ssl_mode(if last { SslMode::Prefer } else { SslMode::Require });
        match within(limit, &config, named) {
            // As libpq: a server that wants no encryption from us may say so only afterwards.
            Err(Unreachable::There(first)) if last && !is_refusal(&first) => {
                config.ssl_mode(SslMode::Disable);
                within(limit, &config, NoTls).map_err(|_| Unreachable::There(first))
            }
            other => other,
        }
    }

    fn config(&self, server: &Server, limit: Duration) -> Result<Config, Unreachable> {
        let mut config = Config::new();
        let said = |key: &str| self.said.get(key).map(String::as_str);
        let number = |key: &str| said(key).and_then(|text| text.trim().parse::<u32>().ok());
        config.host(&server.host).port(server.port).connect_timeout(limit);
        if let Some(number) = server.number {
            config.hostaddr(number);
        }
        if let Some(user) = said("user") {
            config.user(user);
        }
        if let Some(name) = said("dbname") {
            config.dbname(name);
        }
        if let Some(options) = said("options") {
            config.options(options);
        }
        let name = said("application_name").or(said("fallback_application_name")).unwrap_or("trapkey");
        config.application_name(name);
        if let Some(password) = said("password").map(str::to_owned).or_else(|| self.password_of(server)) {
            config.password(password);
        }
        if number("keepalives") == Some(0) {
            config.keepalives(false);
        }
        if let Some(seconds) = number("keepalives_idle").filter(|seconds| *seconds > 0) {
            config.keepalives_idle(Duration::from_secs(seconds.into()));
        }
        if let Some(ms) = number("tcp_user_timeout").filter(|ms| *ms > 0) {
            config.tcp_user_timeout(Duration::from_millis(ms.into()));
        }
        let here = |key: &str, value: &str| Unreachable::Here(format!("`{key}={value}` is not known"));
        match said("channel_binding") {
            None | Some("prefer") => {}
            Some("disable") => drop(config.channel_binding(ChannelBinding::Disable)),
            Some("require") => drop(config.channel_binding(ChannelBinding::Require)),
            Some(other) => return Err(here("channel_binding", other)),
        }
        match said("sslnegotiation") {
            None | Some("postgres") => {}
            Some("direct") => drop(config.ssl_negotiation(SslNegotiation::Direct)),
            Some(other) => return Err(here("sslnegotiation", other)),
        }
        Ok(config)
    }

    /// The password of the first line of the password file that fits.
    fn password_of(&self, server: &Server) -> Option<String> {
        let text = String::from_utf8(super::files::read_bounded(self.passfile.as_ref()?, MOST).ok()?).ok()?;
        let said = |key: &str| self.said.get(key).map(String::as_str);
        let user = said("user").unwrap_or_default();
        let port = server.port.to_string();
        let find = |host: &str| {
            let asked = [host, &port, said("dbname").unwrap_or(user), user];
            text.lines().find_map(|line| password_of(line, &asked))
        };
        let found = find(&server.host).or_else(|| find("localhost").filter(|_| server.is_local()))?;
        redact::learn(&found);
        Some(found)
    }
}

impl Server {
    fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }
}

impl Session {
    /// The connection, where it is of that sort.
    fn of(self, mut client: Client) -> Result<Client, Unreachable> {
        let (question, wanted, what) = match self {
            Self::Any | Self::PreferStandby => return Ok(client),
            Self::ReadWrite => ("SHOW transaction_read_only", "off", "read-write"),
            Self::ReadOnly => ("SHOW transaction_read_only", "on", "read-only"),
            Self::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f", "primary"),
            Self::Standby => ("SELECT pg_catalog.pg_is_in_recovery()", "t", "standby"),
        };
        let answer = client.simple_query(question).map_err(Unreachable::There)?;
        let is = answer.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => matches!(row.try_get(0), Ok(Some(value)) if value == wanted),
            _ => false,
        });
        if is { Ok(client) } else { Err(Unreachable::Nobody(format!("the server is not {what}"))) }
    }
}

/// Connects within a time. The client library limits only how long the socket takes; a server that accepts and then
/// says nothing would hide those after it.
fn within<T>(limit: Duration, config: &Config, tls: T) -> Result<Client, Unreachable>
where
    T: MakeTlsConnect<Socket> + Send + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (tell, told) = sync_channel(1);
    let config = config.clone();
    std::thread::spawn(move || {
        // Nobody listens any more where the time was up.
        let _ = tell.send(config.connect(tls));
    });
    match told.recv_timeout(limit) {
        Ok(connected) => connected.map_err(Unreachable::There),
        Err(RecvTimeoutError::Timeout) => Err(Unreachable::Nobody("the server says nothing in time".into())),
        Err(RecvTimeoutError::Disconnected) => Err(Unreachable::Nobody("the connection broke".into())),
    }
}

/// No password file or service file is larger.
const MOST: u64 = 1024 * 1024;

/// The folder of the server's unix socket, where the address names no host.
const FOLDER: &str = "/var/run/postgresql";

/// What libpq knows and is not spoken here: where it would make a connection safer, nothing else will do.
fn refuse(said: &Said) -> Result<(), String> {
    let is = |key: &str, values: &[&str]| said.get(key).is_none_or(|value| values.contains(&value.as_str()));
    for (key, values) in [
        ("gssencmode", &["disable", "prefer", "allow"][..]),
        ("replication", &["false", "off", "no", "0"]),
        ("sslcertmode", &["allow", "disable"]),
        ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]),
        ("ssl_max_protocol_version", &["TLSv1.2", "TLSv1.3"]),
        ("min_protocol_version", &["3.0"]),
        ("requirepeer", &[]),
        ("require_auth", &[]),
        ("sslcrl", &[]),
        ("sslcrldir", &[]),
        ("sslpassword", &[]),
    ] {
        if !is(key, values) {
            let only = if values.is_empty() { "leave it out" } else { "it may be left out" };
            return Err(format!("its `{key}` asks for what is not spoken here; {only}"));
        }
    }
    Ok(())
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

fn servers(said: &Said) -> Result<Vec<Server>, String> {
    let list =
        |key: &str| -> Vec<&str> { said.get(key).map(|all| all.split(',').collect()).unwrap_or_default() };
    let (hosts, numbers, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(numbers.len());
    for (key, given) in [("host", hosts.len()), ("hostaddr", numbers.len())] {
        if given != 0 && given != count {
            return Err(format!("it names {count} servers, and {given} of `{key}`"));
        }
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("it names {count} servers, and {} ports", ports.len()));
    }
    let mut servers = Vec::new();
    for index in 0..count {
        let number = match numbers.get(index).copied().unwrap_or_default() {
            "" => None,
            text => Some(text.parse().map_err(|_| "its `hostaddr` is not an address".to_owned())?),
        };
        let host = match hosts.get(index).copied().unwrap_or_default() {
            "" => number.map_or_else(|| FOLDER.to_owned(), |number: IpAddr| number.to_string()),
            host if host.starts_with('@') => {
                return Err("abstract unix sockets are not spoken to here".into());
            }
            host => host.to_owned(),
        };
        let port = ports.get(index).or_else(|| ports.first().filter(|_| ports.len() == 1)).copied();
        let port = match port.unwrap_or_default().trim() {
            "" => 5432,
            text => {
                text.parse().ok().filter(|port| *port > 0).ok_or("its port is not a number up to 65535")?
            }
        };
        servers.push(Server { host, number, port });
    }
    Ok(servers)
}

fn session(attributes: Option<&str>) -> Result<Session, String> {
    Ok(match attributes {
        None | Some("any") => Session::Any,
        Some("read-write") => Session::ReadWrite,
        Some("read-only") => Session::ReadOnly,
        Some("primary") => Session::Primary,
        Some("standby") => Session::Standby,
        Some("prefer-standby") => Session::PreferStandby,
        Some(other) => return Err(format!("`target_session_attrs={other}` is not known")),
    })
}

/// Which root certificates there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Roots {
    None,
    System,
    File,
}

/// What libpq does for an `sslmode` with and without root certificates.
fn mode(mode: Option<&str>, roots: Roots) -> Result<Mode, String> {
    let looked_at = if roots == Roots::File { Proof::Chain } else { Proof::Nothing };
    let (plain, proof) = match (mode, roots) {
        // The system's roots vouch for everybody's certificate: it must be of that name.
        (None | Some("verify-full"), Roots::System) => (Plain::Never, Proof::Name),
        (Some(_), Roots::System) => return Err("`sslrootcert=system` needs `sslmode=verify-full`".into()),
        (Some("disable"), _) => (Plain::Only, Proof::Nothing),
        (Some("allow"), _) => (Plain::First, looked_at),
        (None | Some("prefer"), _) => (Plain::Last, looked_at),
        (Some("require"), _) => (Plain::Never, looked_at),
        (Some("verify-ca"), Roots::None) => {
            return Err("`sslmode=verify-ca` needs `sslrootcert`, the file with the authority".into());
        }
        (Some("verify-ca"), Roots::File) => (Plain::Never, Proof::Chain),
        // psql has no roots then; the system's, with the server's name, are as safe.
        (Some("verify-full"), _) => (Plain::Never, Proof::Name),
        (Some(other), _) => return Err(format!("`sslmode={other}` is not known")),
    };
    Ok(Mode { plain, proof })
}

/// The password file, where one is there. As libpq has it, nobody else may read it.
fn passfile(said: &Said, home: Option<&Path>) -> Result<Option<PathBuf>, String> {
    use std::os::unix::fs::PermissionsExt;
    let given = said.get("passfile").map(PathBuf::from);
    let named = given.is_some() && !said.contains_key("password");
    let Some(path) = given.or_else(|| home.map(|home| home.join(".pgpass"))) else { return Ok(None) };
    let Ok(meta) = std::fs::metadata(&path) else { return Ok(None) };
    if !meta.is_file() {
        return Ok(None);
    }
    if meta.permissions().mode() & 0o077 == 0 {
        return Ok(Some(path));
    }
    if named {
        return Err(format!(
            "others may read its password file {}, so it is left out: chmod 600",
            path.display()
        ));
    }
    Ok(None)
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

/// Whether a server has looked at us and said no; another try would only ask it the same.
fn is_refusal(error: &::postgres::Error) -> bool {
    // 28000 is what a line of pg_hba.conf for plain connections only gives.
    let code = error.as_db_error().map(|said| said.code().code().to_owned());
    match code {
        Some(code) => code != "28000",
        // Nobody is there at all.
        None => std::error::Error::source(error)
            .and_then(|inner| inner.downcast_ref::<std::io::Error>())
            .is_some_and(|inner| inner.kind() == std::io::ErrorKind::ConnectionRefused),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Address, String> {
        read_trusting(text, variables, &Trust::default())
    }

    fn read_trusting(text: &str, variables: &[(&str, &str)], trust: &Trust) -> Result<Address, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Address::with(text, &variable, trust)
    }

    #[test]
    fn what_cannot_be_meant_or_made_is_refused() {
        for (text, variables, words) in [
            ("postgres://u@h/d?sslmode=maybe", &[][..], "`sslmode=maybe` is not known"),
            ("postgres://u@h:no/d", &[], "port"),
            ("postgres://u@h:0/d", &[], "port"),
            ("host=h sslmode=require sslrootcert=system", &[], "needs `sslmode=verify-full`"),
            ("host=h sslmode=verify-ca", &[], "needs `sslrootcert`"),
            ("host=h", &[("PGPORT", "many")], "port"),
            ("host=h", &[("PGSSLMODE", "never")], "`sslmode=never` is not known"),
            ("host=h target_session_attrs=leader", &[], "`target_session_attrs=leader`"),
            ("host=h gssencmode=require", &[], "gssencmode"),
            ("host=h requirepeer=postgres", &[], "requirepeer"),
            ("host=h sslcrl=x.pem", &[], "sslcrl"),
            ("host=h ssl_max_protocol_version=TLSv1.1", &[], "ssl_max_protocol_version"),
            ("host=a,b port=1,2,3", &[], "3 ports"),
            ("host=a,b hostaddr=127.0.0.1", &[], "1 of `hostaddr`"),
            ("hostaddr=localhost", &[], "hostaddr"),
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
        let own = read("postgres://me:mine@here:1/it?sslmode=disable&sslrootcert=", &variables[..4]).unwrap();
        assert_eq!(own.without_password(), "host='here' port='1' user='me' dbname='it' sslmode='disable'");
        assert_eq!(own.password().as_deref(), Some("mine"));
        assert!(read("dbname=d", &[]).unwrap().without_password().starts_with("host='/var/run/postgresql'"));
        let rest =
            "postgres://h1,h2:7/it's?target_session_attrs=primary&gssencmode=disable&sslcert=/c&sslkey=/k";
        assert_eq!(
            read(rest, &[]).unwrap().without_password(),
            "host='h1,h2' port=',7' dbname='it\\'s' gssencmode='disable' sslcert='/c' sslkey='/k' \
             target_session_attrs='primary'"
        );
    }

    #[test]
    fn several_servers_have_their_own_ports() {
        let named = |text: &str| -> Vec<String> {
            let servers = read(text, &[]).unwrap().servers;
            servers.iter().map(|s| format!("{} {:?} {}", s.host, s.number, s.port)).collect()
        };
        assert_eq!(named("postgres://a:1,b,[::1]:3/d"), ["a None 1", "b None 5432", "::1 None 3"]);
        assert_eq!(named("host=a,b port=7"), ["a None 7", "b None 7"]);
        assert_eq!(named("host=a hostaddr=127.0.0.1"), ["a Some(127.0.0.1) 5432"]);
        assert_eq!(named("hostaddr=127.0.0.1"), ["127.0.0.1 Some(127.0.0.1) 5432"]);
        assert_eq!(named("postgres:///d?host=/run/a,/run/b"), ["/run/a None 5432", "/run/b None 5432"]);
    }

    #[test]
    fn certificates_are_looked_at_as_far_as_sslmode_says() {
        for (said, roots, plain, proof) in [
            (None, Roots::None, Plain::Last, Proof::Nothing),
            (None, Roots::System, Plain::Never, Proof::Name),
            (Some("disable"), Roots::File, Plain::Only, Proof::Nothing),
            (Some("allow"), Roots::None, Plain::First, Proof::Nothing),
            (Some("prefer"), Roots::File, Plain::Last, Proof::Chain),
            (Some("require"), Roots::None, Plain::Never, Proof::Nothing),
            (Some("require"), Roots::File, Plain::Never, Proof::Chain),
            (Some("verify-ca"), Roots::File, Plain::Never, Proof::Chain),
            (Some("verify-full"), Roots::None, Plain::Never, Proof::Name),
            (Some("verify-full"), Roots::File, Plain::Never, Proof::Name),
        ] {
            assert_eq!(mode(said, roots), Ok(Mode { plain, proof }), "{said:?} {roots:?}");
        }
    }

    #[test]
    fn roots_from_elsewhere_are_never_left_unused() {
        let own = Trust { ca: Some("/ca.pem".into()), ..Trust::default() };
        for (said, plain, proof) in [
            ("", Plain::Never, Proof::Name),
            ("?sslmode=prefer", Plain::Never, Proof::Name),
            ("?sslmode=verify-ca", Plain::Never, Proof::Chain),
            ("?sslmode=disable", Plain::Only, Proof::Nothing),
        ] {
            let address = read_trusting(&format!("postgres://u@h/d{said}"), &[], &own).unwrap();
            assert_eq!(address.mode, Mode { plain, proof }, "{said}");
        }
        let anybody = Trust { insecure: Some(true), ..Trust::default() };
        assert!(read_trusting("host=h sslmode=verify-full", &[], &anybody).is_err());
        let require = read_trusting("host=h sslmode=require sslrootcert=/x", &[], &anybody).unwrap();
        assert_eq!(require.mode, Mode { plain: Plain::Never, proof: Proof::Nothing });
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
