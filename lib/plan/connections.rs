//! `connections`: who is trusted behind TLS, and who this side says that it is, by host.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Plan;
use crate::units::Text;
use crate::yaml::{Node, Problem, Value};

/// How connections to a host are trusted. The same keys stand in `with` of the checks `http`, `tls` and
/// `postgres`, and count there before these.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// A PEM file with the certificates that count in place of the system's, relative to the plan: those
    /// of a certificate authority, or the server's own.
    #[serde(default)]
    pub ca: Option<Text>,
    /// A PEM file with the certificate that this side shows, relative to the plan.
    #[serde(default)]
    pub cert: Option<Text>,
    /// A PEM file with the key of `cert`, relative to the plan; in the same file when absent.
    #[serde(default)]
    pub key: Option<Text>,
    /// Whether anybody may answer, whatever the certificate; false when absent.
    #[serde(default)]
    pub insecure: Option<bool>,
    /// The name to ask for and to compare with, where it is not the host.
    #[serde(default)]
    pub server_name: Option<Text>,
}

impl Connection {
    /// What of it cannot be meant: the key at fault, and why.
    ///
    /// Errors: a key without its certificate, or an authority that nobody asks.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.key.is_some() && self.cert.is_none() {
            return Err(("key", "`key` is given without `cert`, the certificate that it belongs to".into()));
        }
        if self.insecure == Some(true) && self.ca.is_some() {
            return Err((
                "insecure",
                "`insecure` and `ca` are both given; with one the other has no use".into(),
            ));
        }
        let texts =
            [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key), ("server_name", &self.server_name)];
        match texts
            .into_iter()
            .find(|(_, text)| text.as_ref().is_some_and(|text| text.value.trim().is_empty()))
        {
            Some((key, _)) => Err((key, format!("`{key}` is empty"))),
            None => Ok(()),
        }
    }
}

/// Whether every pattern is one, and its keys fit together.
pub(super) fn check(plan: &Plan, root: &Node) -> Result<(), Problem> {
    let section = root.get("connections");
    for (host, connection) in &plan.connections {
        let entry = section.and_then(|section| key_of(section, host));
        let place = entry.map_or(root.place, |(key, _)| key.place);
        let wrong = host.trim().is_empty()
            || host.contains("://")
            || host.contains(|c: char| c.is_whitespace() || "/,@".contains(c))
            || host.trim_start_matches("*.").trim_start_matches('*').contains('*');
        if wrong {
            let help = "write a host as it stands in addresses: db.corp.example, 10.0.0.11:8443, *.corp.example or *";
            return Err(Problem::at(place, format!("`{host}` is not a host")).help(help));
        }
        connection.check().map_err(|(key, why)| {
            let at = entry.and_then(|(_, node)| node.get(key)).map_or(place, |node| node.place);
            Problem::at(at, why)
        })?;
    }
    Ok(())
}

fn key_of<'a>(section: &'a Node, host: &str) -> Option<(&'a Node, &'a Node)> {
    let Value::Mapping(entries) = &section.value else { return None };
    let is = |key: &Node| matches!(&key.value, Value::Scalar { text, .. } if text == host);
    entries.iter().find(|(key, _)| is(key)).map(|(key, value)| (key, value))
}
