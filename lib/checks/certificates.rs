//! Trust: which roots count, and a verifier that records what it sees and judges afterwards.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::bounds;

/// No file of certificates is larger.
const MOST: u64 = 16 * 1024 * 1024;

/// The certificates that count as roots: those of a PEM file, or those of the system.
pub(super) fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let place = path.display();
    let pem = bounds::whole(path, MOST).map_err(|error| format!("`ca` {place} cannot be read: {error}"))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("`ca` {place} cannot be read: {error}"))?;
    for certificate in certificates {
        store.add(certificate).map_err(|error| format!("`ca` {place}: {error}"))?;
    }
    if store.is_empty() {
        return Err(format!("`ca` {place} holds no certificate"));
    }
    Ok(store)
}

/// What a server showed, and what is to be thought of it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// The server's own certificate, DER.
    pub(super) certificate: Vec<u8>,
    /// How many more it sent.
    pub(super) intermediates: usize,
    /// Whether the chain leads to a root and every link is in force; if not, why.
    pub(super) chain: Result<(), String>,
    /// Whether the certificate is for the name that was asked for.
    pub(super) name_matches: bool,
}

/// Lets every certificate through and keeps what it saw, so that a bad one can be described.
#[derive(Debug)]
pub(super) struct Witness {
    provider: Arc<CryptoProvider>,
    judge: Option<Arc<WebPkiServerVerifier>>,
    shown: Mutex<Option<Shown>>,
}

impl Witness {
    pub(super) fn new(roots: RootCertStore) -> Result<Arc<Self>, String> {
        let provider = Arc::new(ring::default_provider());
        // Without a single root nothing can be judged, which is told with the chain.
        let judge = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        Ok(Arc::new(Self { provider, judge, shown: Mutex::new(None) }))
    }

    /// A client that shows this witness what it meets.
    pub(super) fn client(self: &Arc<Self>) -> Result<ClientConfig, String> {
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Self>::clone(self))
            .with_no_client_auth();
        Ok(config)
    }

    /// What the server showed, once there was a handshake.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = match &self.judge {
            Some(judge) => judge.verify_server_cert(certificate, intermediates, name, ocsp, now).map(drop),
            None => Err(Error::General("no root certificate is trusted here".into())),
        };
        // The name is looked at last: a wrong name means that the chain was fine.
        let chain = match judged {
            Err(error) if !is_about_the_name(&error) => Err(error.to_string()),
            _ => Ok(()),
        };
        let name_matches = rustls::server::ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok());
        let shown = Shown {
            certificate: certificate.to_vec(),
            intermediates: intermediates.len(),
            chain,
            name_matches,
        };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_about_the_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}
