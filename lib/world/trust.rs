//! Who is trusted behind TLS, and who this side says that it is: one mechanism for every connection.
//!
//! A plan says it for all connections to a host (`connections`), a check for its own (`with`). What
//! counts is what curl and libpq make of the same files, where that is safe.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files;
use crate::plan::{Connection, Loaded};

mod judge;
mod old;
pub use judge::{Judge, name_fits};
use old::{verify_tls12, verify_tls13};

/// How the other side of a connection proves itself, and how this one does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// A PEM file with the certificates that count, in place of the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate that this side shows, and those that lead to a root.
    pub cert: Option<PathBuf>,
    /// The key of `cert`; in the same file when absent.
    pub key: Option<PathBuf>,
    /// Whether anybody may answer.
    pub insecure: Option<bool>,
    /// The name to ask for and to compare with, where it is not the host of the address.
    pub server_name: Option<String>,
}

/// What a server has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: encryption without knowing who answers.
    Nothing,
    /// Its certificate leads to a root.
    Chain,
    /// That, and the certificate is for the server's name.
    Name,
}

impl Trust {
    /// What a plan says, its paths beginning at the plan's folder.
    pub fn of(said: &Connection, loaded: &Loaded) -> Self {
        let path = |text: &Option<crate::units::Text>| text.as_ref().map(|text| loaded.at(&text.value));
        Self {
            ca: path(&said.ca),
            cert: path(&said.cert),
            key: path(&said.key),
            insecure: said.insecure,
            server_name: said.server_name.as_ref().map(|text| text.value.clone()),
        }
    }

    /// What this one says, and the other where it says nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let own_cert = self.cert.is_some() || self.key.is_some();
        // A `ca` that was given takes the place of an `insecure` from further away.
        let insecure = if self.ca.is_some() { self.insecure } else { self.insecure.or(other.insecure) };
        Self {
            ca: self.ca.clone().or_else(|| other.ca.clone()),
            cert: if own_cert { self.cert.clone() } else { other.cert.clone() },
            key: if own_cert { self.key.clone() } else { other.key.clone() },
            insecure,
            server_name: self.server_name.clone().or_else(|| other.server_name.clone()),
        }
    }

    /// Whether anybody may answer.
    pub fn anybody(&self) -> bool {
        self.insecure == Some(true)
    }

    /// The certificates that count.
    ///
    /// Errors: the file cannot be used; one sentence.
    pub fn judge(&self) -> Result<Judge, String> {
        match &self.ca {
            Some(path) => Judge::new(certificates(path, "ca")?, true).map_err(|why| named("ca", path, &why)),
            None => system(),
        }
    }

    /// A client that asks servers for that proof; for none where anybody may answer.
    ///
    /// Errors: a file cannot be used; one sentence.
    pub fn client(&self, proof: Proof) -> Result<ClientConfig, String> {
        self.client_speaking(proof, rustls::DEFAULT_VERSIONS)
    }

    /// The same that speaks these versions only.
    ///
    /// Errors: those of [`Trust::client`].
    pub fn client_speaking(
        &self,
        proof: Proof,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ClientConfig, String> {
        let judge = if self.anybody() || proof == Proof::Nothing { None } else { Some(self.judge()?) };
        self.client_with(Arc::new(Verifying(Asks { judge, proof })), versions)
    }

    /// A client with a verifier of its own.
    ///
    /// Errors: the certificate or the key of this side cannot be used.
    pub fn client_with(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let shown = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), key) => Some(own(cert, key.as_deref().unwrap_or(cert))?),
            (None, Some(_)) => return Err("`key` is given without `cert`".into()),
        };
        Ok(match shown {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(Shown(Arc::new(shown)))),
            None => builder.with_no_client_auth(),
        })
    }

    /// The name that a server is asked for and compared with.
    ///
    /// Errors: it is not a host name.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, String> {
        let name = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(|_| format!("`{name}` is not a host name"))
    }
}

/// No file of certificates is larger.
const MOST: u64 = 16 * 1024 * 1024;

/// What the plan says of connections, by host.
static TABLE: RwLock<Vec<(String, Trust)>> = RwLock::new(Vec::new());

/// From now on connections are made as this plan says.
pub fn follow(loaded: &Loaded) {
    let said = loaded.plan.connections.iter();
    let table = said.map(|(host, said)| (host.clone(), Trust::of(said, loaded))).collect();
    *TABLE.write().unwrap_or_else(PoisonError::into_inner) = table;
}

/// What the plan says of connections to a host: the nearest pattern first, then the wider ones for
/// what it leaves out.
pub fn towards(host: &str, port: u16) -> Trust {
    let table = TABLE.read().unwrap_or_else(PoisonError::into_inner);
    let mut fitting: Vec<_> =
        table.iter().filter_map(|(pattern, trust)| Some((fit(pattern, host, port)?, trust))).collect();
    fitting.sort_by_key(|(nearness, _)| std::cmp::Reverse(*nearness));
    fitting.iter().fold(Trust::default(), |trust, (_, wider)| trust.or(wider))
}

/// How near a pattern is to a host; none where it is another's. `*` is anybody, `*.corp.example`
/// whoever is below it.
fn fit(pattern: &str, host: &str, port: u16) -> Option<usize> {
    let (name, wanted) = match pattern.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, Some(digits)),
        _ => (pattern, None),
    };
    if wanted.is_some_and(|digits| digits.parse() != Ok(port)) {
        return None;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let near = if name == host {
        1000
    } else if name == "*" {
        0
    } else {
        let below = name.strip_prefix('*').filter(|rest| rest.starts_with('.') && host.ends_with(rest))?;
        below.len()
    };
    Some(near * 2 + usize::from(wanted.is_some()))
}

/// What does the arithmetic.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// The signatures that can be checked.
fn schemes() -> Vec<SignatureScheme> {
    provider().signature_verification_algorithms.supported_schemes()
}

/// The certificates that the system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), read once.
fn system() -> Result<Judge, String> {
    static SYSTEM: OnceLock<Result<Judge, String>> = OnceLock::new();
    let found = SYSTEM.get_or_init(|| {
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
        let found = rustls_native_certs::load_native_certs();
        let judge = Judge::new(found.certs, named);
        match (judge, found.errors.first()) {
            (Err(_), Some(error)) => Err(format!("the system's certificates cannot be read: {error}")),
            (judge, _) => judge.map_err(|why| format!("the system's certificates: {why}")),
        }
    });
    found.clone()
}

fn named(what: &str, path: &Path, why: &str) -> String {
    format!("`{what}` {}: {why}", path.display())
}

/// The certificates of a PEM file, or the one of a DER file.
fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = files::read_bounded(path, MOST)
        .map_err(|error| named(what, path, &format!("cannot be read: {error}")))?;
    // A SEQUENCE with a long length: what is not PEM but one certificate as it is.
    if bytes.first() == Some(&0x30) && bytes.get(1).is_some_and(|length| length & 0x80 != 0) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(named(what, path, "holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(named(what, path, &format!("cannot be read: {error}"))),
    }
}

/// What this side shows of itself.
fn own(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let chain = certificates(cert, "cert")?;
    let bytes = files::read_bounded(key, MOST)
        .map_err(|error| named("key", key, &format!("cannot be read: {error}")))?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(named("key", key, "is encrypted; write it out with `openssl pkey -in KEY -out PLAIN`"));
    }
    let der = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| named("key", key, "holds no private key that can be read (PKCS#8, PKCS#1 or SEC1)"))?;
    let signing = provider()
        .key_provider
        .load_private_key(der)
        .map_err(|error| named("key", key, &format!("cannot be used: {error}")))?;
    let known = chain.first().and_then(|own| X509Certificate::from_der(own).ok());
    let known = known.map(|(_, own)| own.public_key().raw.to_vec());
    match (known, signing.public_key()) {
        (Some(known), Some(held)) if known != held.as_ref() => {
            Err(named("key", key, &format!("is not the key of the certificate in {}", cert.display())))
        }
        _ => Ok(CertifiedKey::new(chain, signing)),
    }
}

/// The one certificate that is shown to whoever asks.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Who looks at what a server shows of itself.
pub trait Looks: std::fmt::Debug + Send + Sync {
    /// Looks at a server's certificate and those that it sent along.
    ///
    /// Errors: the connection is not to be.
    fn look(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error>;
}

/// A verifier of rustls that leaves the certificates to somebody, and holds every server to the proof that the key of its
/// certificate is its own.
#[derive(Debug)]
pub struct Verifying<L>(pub L);

impl<L: Looks> ServerCertVerifier for Verifying<L> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.look(certificate, intermediates, name, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// Asks a server for the proof that is wanted.
#[derive(Debug)]
struct Asks {
    /// None where anybody may answer.
    judge: Option<Judge>,
    proof: Proof,
}

impl Looks for Asks {
    fn look(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(judge) = &self.judge else { return Ok(()) };
        judge.chain(certificate, intermediates, now)?;
        if self.proof == Proof::Name && !name_fits(certificate, name) {
            return Err(CertificateError::NotValidForNameContext {
                expected: name.to_owned(),
                presented: judge::names_of(certificate),
            }
            .into());
        }
        Ok(())
    }
}

/// A store of roots out of certificates; those that cannot be read as roots are left out, since a
/// system's folder has all kinds of them.
///
/// Errors: none is left.
fn store(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 && !certificates.is_empty() {
        return Err("no certificate in it can be read".into());
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_pattern_counts_first() {
        for (pattern, host, port, near) in [
            ("*", "a.corp.example", 443, Some(0)),
            ("*.corp.example", "a.corp.example", 443, Some(26)),
            ("*.corp.example", "corp.example", 443, None),
            ("*.corp.example", "a.notcorp.example", 443, None),
            ("A.corp.example.", "a.corp.example", 443, Some(2000)),
            ("a.corp.example:443", "a.corp.example", 443, Some(2001)),
            ("a.corp.example:444", "a.corp.example", 443, None),
            ("::1", "::1", 443, Some(2000)),
            ("[::1]:443", "::1", 443, Some(2001)),
            ("[::1]:444", "::1", 443, None),
            ("10.0.0.1", "10.0.0.10", 443, None),
        ] {
            assert_eq!(fit(pattern, host, port), near, "{pattern} {host}:{port}");
        }
    }

    #[test]
    fn what_is_said_nearer_wins_and_a_ca_ends_an_insecure() {
        let near = Trust { ca: Some("own.pem".into()), ..Trust::default() };
        let far = Trust {
            ca: Some("all.pem".into()),
            cert: Some("me.pem".into()),
            key: Some("me.key".into()),
            insecure: Some(true),
            ..Trust::default()
        };
        let both = near.or(&far);
        assert_eq!((both.ca, both.insecure), (Some("own.pem".into()), None));
        assert_eq!((both.cert, both.key), (Some("me.pem".into()), Some("me.key".into())));
        let combined = Trust { cert: Some("both.pem".into()), ..Trust::default() }.or(&far);
        assert!(combined.anybody());
        assert_eq!((combined.cert, combined.key), (Some("both.pem".into()), None));
        assert!(!Trust { insecure: Some(false), ..Trust::default() }.or(&far).anybody());
    }
}
