//! `tls`: the certificate of a server, and which protocol versions it still accepts.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConnection, ProtocolVersion};
use schemars::JsonSchema;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::address::Address;
use super::certificates::{Shown, Witness};
use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Unit};
use crate::world;
use crate::world::trust::{self, Trust};
use crate::yaml::Problem;

mod hello;
mod lowest;
mod starttls;
use hello::{Heard, Old, Reply};
use lowest::Lowest;
use starttls::Before;

/// See `preflight explain tls`.
pub(super) static KIND: Kind = Kind {
    name: "tls",
    about: "Shakes hands with a TLS server and looks at its certificate and its versions.",
    target: "`host:port`; the port is 443 when absent, and that of `starttls` where there is one",
    example: "\
- name: certificate
  kind: tls
  target: shop.example.com:443
  expect: {expires_in: \">= 14d\", min_version: \">= 1.2\"}
",
    observes: &[
        Observable {
            name: "expires_in",
            unit: Unit::Duration,
            about: "how long the certificate lasts, and all that the server sends with it",
        },
        Observable { name: "chain_valid", unit: Unit::Flag, about: "whether it leads to a trusted root" },
        Observable { name: "name_matches", unit: Unit::Flag, about: "whether it is for this host name" },
        Observable { name: "issuer", unit: Unit::Text, about: "who issued it" },
        Observable { name: "version", unit: Unit::Version, about: "the agreed version, `1.3`" },
        Observable {
            name: "min_version",
            unit: Unit::Version,
            about: "the lowest version that the server still accepts, from `1.0` (SSL 3.0 is `0.3`); a bare `1.2` means at least",
        },
        Observable { name: "latency", unit: Unit::Duration, about: "connection and handshake together" },
    ],
    presumes: &[
        Presumed { name: "chain_valid", is: "true", unless: &["insecure"] },
        Presumed { name: "name_matches", is: "true", unless: &["insecure"] },
    ],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

settings_with_a_connection! {
    struct Settings {
        /// What is spoken before TLS: smtp, lmtp, imap, pop3, ftp, nntp, sieve, ldap, xmpp, postgres or mysql.
        #[serde(default)]
        starttls: Option<String>,
    }
}

struct Tls {
    address: Address,
    name: ServerName<'static>,
    before: Option<Before>,
    trust: Trust,
    min_version: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let before = settings.starttls.as_deref().map(Before::of).transpose();
    let before = before.map_err(|why| order.problem("with", why))?;
    let target = order.target()?;
    let address = Address::parse(&target.value, Some(before.map_or(443, Before::port)))
        .map_err(|why| order.problem("target", format!("`{target}` {why}")))?;
    let own = order.trust(&settings.connection())?;
    let trust = own.or(&trust::towards(&address.host, address.port));
    let name = trust.name(&address.host).map_err(|why| order.problem("target", why))?;
    Ok(Box::new(Tls { address, name, before, trust, min_version: order.asks("min_version") }))
}

impl Check for Tls {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let until = Instant::now() + within;
        // `insecure` says who may answer; what there is to be seen is seen all the same.
        let seen = Trust { insecure: None, ..self.trust.clone() };
        let witness = Witness::new(seen.judge().map_err(Trouble::broken)?);
        let started = Instant::now();
        let ended = self.shake_hands(&witness, until)?;
        let latency = started.elapsed();
        let (sight, agreed) = match (ended, witness.shown()) {
            (Ended::Agreed(version), Some(shown)) => (describe(&shown, now())?, Some(version)),
            // It has proven that the certificate is its own, and then wanted one from us.
            (Ended::Broken(version @ Some(_), why), Some(shown)) => {
                let sight = describe(&shown, now())?.note(format!(
                    "no handshake: {why}; a server that asks for a certificate gets one by `cert` and `key`"
                ));
                (sight, version)
            }
            (Ended::Broken(_, why), _) => return self.by_hand(&witness, &why, until),
            (Ended::Agreed(_), None) => return Err(Trouble::failed("the server showed no certificate")),
        };
        let sight = sight.number("latency", latency.as_secs_f64(), Unit::Duration);
        let Some(agreed) = agreed else { return Ok(sight) };
        let sight = sight.saw("version", Observed::Version(version_text(agreed).into()));
        if self.min_version { Ok(self.with_min_version(sight, agreed, until)) } else { Ok(sight) }
    }
}

/// How a handshake ended.
enum Ended {
    Agreed(ProtocolVersion),
    /// Why not, and the version where one was agreed on and the server had shown itself.
    Broken(Option<ProtocolVersion>, String),
}

fn now() -> i64 {
    world::now().as_second()
}

impl Tls {
    /// A connection on which the server waits for a ClientHello.
    fn connect(&self, until: Instant) -> Result<TcpStream, Trouble> {
        let refused = |error: io::Error| Trouble::failed(format!("no connection: {}", in_words(&error)));
        let mut stream = self.address.connect(left(until)).map_err(refused)?;
        stream.set_read_timeout(Some(left(until))).map_err(refused)?;
        stream.set_write_timeout(Some(left(until))).map_err(refused)?;
        if let Some(before) = self.before {
            let name = self.name.to_str();
            before.speak(&mut stream, &name).map_err(refused)?;
        }
        Ok(stream)
    }

    fn shake_hands(&self, witness: &Arc<Witness>, until: Instant) -> Result<Ended, Trouble> {
        let config = witness.client(&self.trust).map_err(Trouble::broken)?;
        let mut connection = ClientConnection::new(Arc::new(config), self.name.clone())
            .map_err(|error| Trouble::broken(error.to_string()))?;
        let mut stream = self.connect(until)?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut stream) {
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                    return Err(Trouble::failed("no handshake: the server did not answer in time"));
                }
                // Only once it has signed with its key is the certificate known to be its own.
                let proven = witness.shown().is_some() && connection.peer_certificates().is_some();
                let version = connection.protocol_version().filter(|_| proven);
                return Ok(Ended::Broken(version, error.to_string()));
            }
        }
        let version = connection.protocol_version();
        version.map(Ended::Agreed).ok_or_else(|| Trouble::failed("no handshake: no version agreed"))
    }

    fn ask(&self, version: Old, ciphers: &[u16], until: Instant) -> Result<Reply, String> {
        let mut stream = self.connect(until).map_err(|trouble| trouble.why)?;
        let (_, reply) =
            Heard::ask(&mut stream, version, ciphers, self.sent_name()).map_err(|error| in_words(&error))?;
        Ok(reply)
    }

    /// An address is never sent as a name (RFC 6066).
    fn sent_name(&self) -> Option<&str> {
        match &self.name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        }
    }

    /// rustls speaks neither the old versions nor their ciphers, so they are asked for by hand.
    fn with_min_version(&self, sight: Sight, agreed: ProtocolVersion, until: Instant) -> Sight {
        let unknown =
            |sight: Sight, why: &str| sight.note(format!("the lowest version cannot be known: {why}"));
        match lowest::lowest(&hello::lists(), |version, ciphers| self.ask(version, ciphers, until)) {
            Lowest::Is(version) => sight.saw("min_version", Observed::Version(version.text().into())),
            Lowest::None { wordless } => {
                // A server that has had enough of us turns away everybody.
                if wordless && !self.still_answers(until) {
                    return unknown(sight, "the server closes connections that are otherwise in order");
                }
                if agreed == ProtocolVersion::TLSv1_2 {
                    return unknown(sight, "the server refuses by hand the version that was agreed before");
                }
                sight.saw("min_version", Observed::Version(version_text(agreed).into()))
            }
            Lowest::Unknown(why) => unknown(sight, &why),
        }
    }

    fn still_answers(&self, until: Instant) -> bool {
        let Ok(judge) = Trust::default().judge() else { return false };
        match self.shake_hands(&Witness::new(judge), until) {
            Ok(Ended::Agreed(_) | Ended::Broken(Some(_), _)) => true,
            Ok(Ended::Broken(None, _)) | Err(_) => false,
        }
    }

    /// A server that rustls cannot talk to: what it shows by itself. Below TLS 1.3 the certificate comes in
    /// the clear, but without a handshake nobody has proven that it is theirs: chain and name are not said.
    fn by_hand(&self, witness: &Witness, why: &str, until: Instant) -> Result<Sight, Trouble> {
        let broken = || Trouble::failed(format!("no handshake: {why}"));
        for version in Old::ALL.into_iter().rev() {
            for ciphers in hello::lists() {
                // What is no TLS at all stays what it was.
                let mut stream = self.connect(until).map_err(|_| broken())?;
                let asked = Heard::ask(&mut stream, version, &ciphers, self.sent_name());
                let (heard, Reply::Hello(chosen)) = asked.map_err(|_| broken())? else { continue };
                let Some(chosen) = Old::of(chosen) else { continue };
                let Ok(chain) = heard.certificates() else { continue };
                // A server may have time for one connection only.
                drop(stream);
                let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
                let shown =
                    Shown::new(&chain, witness.judge(), &self.name, UnixTime::now()).ok_or_else(broken)?;
                let mut sight = describe(&shown, now())?;
                sight.seen.retain(|(name, _)| !["chain_valid", "name_matches"].contains(&name.as_str()));
                let sight = sight.saw("version", Observed::Version(chosen.text().into())).note(format!(
                    "no handshake: {why}; the server speaks only what is out of use, and has not proven its certificate"
                ));
                if !self.min_version {
                    return Ok(sight);
                }
                let all = |version, ciphers: &[u16]| self.ask(version, ciphers, until);
                return Ok(match lowest::lowest(&hello::lists(), all) {
                    Lowest::Is(lowest) => sight.saw("min_version", Observed::Version(lowest.text().into())),
                    Lowest::None { .. } | Lowest::Unknown(_) => sight,
                });
            }
        }
        Err(broken())
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the time was up".into(),
        _ => error.to_string(),
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn version_text(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "1.2",
        ProtocolVersion::TLSv1_3 => "1.3",
        _ => "unknown",
    }
}

/// What a chain says of itself. It ends with the first of its certificates that ends.
fn describe(shown: &Shown, now: i64) -> Result<Sight, Trouble> {
    let mut chain = Vec::new();
    for der in &shown.chain {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| {
            Trouble::failed(format!("a certificate of the server cannot be read: {error}"))
        })?;
        chain.push(certificate);
    }
    let end = |certificate: &X509Certificate<'_>| certificate.validity().not_after.timestamp();
    let (Some(own), Some(first)) = (chain.first(), chain.iter().min_by_key(|certificate| end(certificate)))
    else {
        return Err(Trouble::failed("the server showed no certificate"));
    };
    let sight = Sight::default()
        .number("expires_in", (end(first) - now) as f64, Unit::Duration)
        .saw("chain_valid", Observed::Flag(shown.valid.is_ok()))
        .saw("name_matches", Observed::Flag(shown.name_matches))
        .saw("issuer", Observed::Text(own.issuer().to_string()))
        .detail("subject", own.subject().to_string())
        .detail("serial", own.raw_serial_as_string())
        .detail("sha256", crate::evidence::sha256_hex(&shown.chain[0]))
        .detail("intermediates", chain.len() - 1)
        .detail("first_to_expire", first.subject().to_string());
    Ok(match &shown.valid {
        Err(why) => sight.note(why),
        Ok(()) if end(first) < end(own) => {
            sight.note(format!("`{}` of its chain ends before its own certificate", first.subject()))
        }
        Ok(()) => sight,
    })
}
