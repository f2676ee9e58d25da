//! `tls`: the certificate of a server, and which protocol versions it still accepts.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ProtocolVersion};
use schemars::JsonSchema;
use serde::Deserialize;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::address::Address;
use super::certificates::{Shown, Witness, roots};
use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Text, Unit};
use crate::world;
use crate::yaml::Problem;

mod hello;
use hello::{Answer, Old};

/// See `preflight explain tls`.
pub(super) static KIND: Kind = Kind {
    name: "tls",
    about: "Shakes hands with a TLS server and looks at its certificate and its versions.",
    target: "`host:port`; the port is 443 when absent",
    example: "\
- name: certificate
  kind: tls
  target: shop.example.com:443
  expect: {expires_in: \">= 14d\", min_version: \">= 1.2\"}
",
    observes: &[
        Observable { name: "expires_in", unit: Unit::Duration, about: "how long the certificate lasts" },
        Observable { name: "chain_valid", unit: Unit::Flag, about: "whether it leads to a trusted root" },
        Observable { name: "name_matches", unit: Unit::Flag, about: "whether it is for this host name" },
        Observable { name: "issuer", unit: Unit::Text, about: "who issued it" },
        Observable { name: "version", unit: Unit::Version, about: "the agreed version, `1.3`" },
        Observable {
            name: "min_version",
            unit: Unit::Version,
            about: "the lowest version that the server still accepts, from `1.0`; a bare `1.2` means at least",
        },
        Observable { name: "latency", unit: Unit::Duration, about: "connection and handshake together" },
    ],
    presumes: &[Presumed::new("chain_valid", "true"), Presumed::new("name_matches", "true")],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// A PEM file with the roots that count, relative to the plan; the system's when absent.
    #[serde(default)]
    ca: Option<Text>,
    /// The name to ask for and to compare with, where it is not the host of `target`.
    #[serde(default)]
    server_name: Option<Text>,
}

struct Tls {
    address: Address,
    name: ServerName<'static>,
    ca: Option<PathBuf>,
    min_version: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let settings: Settings = order.settings()?;
    let target = order.target()?;
    let address = Address::parse(&target.value, Some(443))
        .map_err(|why| order.problem("target", format!("`{target}` {why}")))?;
    let name = settings.server_name.map_or_else(|| address.host.clone(), |text| text.value);
    let name = ServerName::try_from(name.clone())
        .map_err(|_| order.problem("target", format!("`{name}` is not a host name")))?;
    let ca = settings.ca.map(|text| order.loaded.at(&text.value));
    Ok(Box::new(Tls { address, name, ca, min_version: order.asks("min_version") }))
}

impl Check for Tls {
    fn look(&self, within: Duration) -> Result<Sight, Trouble> {
        let until = Instant::now() + within;
        let witness = roots(self.ca.as_deref()).and_then(Witness::new).map_err(Trouble::broken)?;
        let started = Instant::now();
        let version = self.shake_hands(&witness, until)?;
        let latency = started.elapsed();
        let Some(shown) = witness.shown() else {
            return Err(Trouble::failed("the server showed no certificate"));
        };
        let sight = describe(&shown, world::now().as_second())?
            .saw("version", Observed::Version(version_text(version).into()))
            .number("latency", latency.as_secs_f64(), Unit::Duration);
        if self.min_version { self.with_min_version(sight, version, until) } else { Ok(sight) }
    }
}

impl Tls {
    fn connect(&self, until: Instant) -> Result<TcpStream, Trouble> {
        let refused = |error: io::Error| Trouble::failed(format!("no connection: {error}"));
        let stream = self.address.connect(left(until)).map_err(refused)?;
        stream.set_read_timeout(Some(left(until))).map_err(refused)?;
        stream.set_write_timeout(Some(left(until))).map_err(refused)?;
        Ok(stream)
    }

    fn shake_hands(&self, witness: &Arc<Witness>, until: Instant) -> Result<ProtocolVersion, Trouble> {
        let config = witness.client().map_err(Trouble::broken)?;
        let mut connection = ClientConnection::new(Arc::new(config), self.name.clone())
            .map_err(|error| Trouble::broken(error.to_string()))?;
        let mut stream = self.connect(until)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Trouble::failed("no handshake: the server did not answer in time")
                }
                _ => Trouble::failed(format!("no handshake: {error}")),
            })?;
        }
        connection.protocol_version().ok_or_else(|| Trouble::failed("no handshake: no version agreed"))
    }

    /// rustls does not speak the old versions, so they are asked for by hand, the oldest first.
    fn with_min_version(
        &self,
        sight: Sight,
        agreed: ProtocolVersion,
        until: Instant,
    ) -> Result<Sight, Trouble> {
        let name = match &self.name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            // An address is never sent as a name (RFC 6066).
            _ => None,
        };
        for old in [Old::Tls10, Old::Tls11, Old::Tls12] {
            let mut stream = self.connect(until)?;
            match hello::ask(&mut stream, old, name) {
                Ok(Answer::Accepted) => {
                    return Ok(sight.saw("min_version", Observed::Version(old.text().into())));
                }
                Ok(Answer::Refused) => {}
                Err(error) => {
                    return Ok(sight.note(format!("no answer on version {}: {error}", old.text())));
                }
            }
        }
        Ok(sight.saw("min_version", Observed::Version(version_text(agreed).into())))
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

fn describe(shown: &Shown, now: i64) -> Result<Sight, Trouble> {
    let (_, certificate) = X509Certificate::from_der(&shown.certificate)
        .map_err(|error| Trouble::failed(format!("the certificate cannot be read: {error}")))?;
    let not_after = certificate.validity().not_after.timestamp();
    let sight = Sight::default()
        .number("expires_in", (not_after - now) as f64, Unit::Duration)
        .saw("chain_valid", Observed::Flag(shown.chain.is_ok()))
        .saw("name_matches", Observed::Flag(shown.name_matches))
        .saw("issuer", Observed::Text(certificate.issuer().to_string()))
        .detail("subject", certificate.subject().to_string())
        .detail("serial", certificate.raw_serial_as_string())
        .detail("sha256", crate::evidence::sha256_hex(&shown.certificate))
        .detail("intermediates", shown.intermediates);
    Ok(match &shown.chain {
        Err(why) => sight.note(why),
        Ok(()) => sight,
    })
}
