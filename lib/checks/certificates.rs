//! A verifier that lets every certificate through, records what it sees, and judges afterwards.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error};

use crate::world::trust::{Judge, Looks, Trust, Verifying, name_fits};

/// What a server showed, and what is to be thought of it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// The server's own certificate and those that it sent along, DER.
    pub(super) chain: Vec<Vec<u8>>,
    /// Whether the chain leads to a root and every link is in force; if not, why.
    pub(super) valid: Result<(), String>,
    /// Whether the certificate is for the name that was asked for.
    pub(super) name_matches: bool,
}

impl Shown {
    /// Judges a chain.
    pub(super) fn new(
        chain: &[CertificateDer<'_>],
        judge: &Judge,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Self> {
        let (first, rest) = chain.split_first()?;
        Some(Self {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            valid: judge.chain(first, rest, now).map_err(|error| error.to_string()),
            name_matches: name_fits(first, name),
        })
    }
}

/// Lets every certificate through and keeps what it saw, so that a bad one can be described.
#[derive(Debug)]
pub(super) struct Witness {
    judge: Judge,
    shown: Mutex<Option<Shown>>,
}

impl Witness {
    pub(super) fn new(judge: Judge) -> Arc<Self> {
        Arc::new(Self { judge, shown: Mutex::new(None) })
    }

    /// A client that shows this witness what it meets.
    pub(super) fn client(self: &Arc<Self>, trust: &Trust) -> Result<ClientConfig, String> {
        trust.client_with(Arc::new(Verifying(Arc::clone(self))), rustls::DEFAULT_VERSIONS)
    }

    /// What the server showed, once there was a handshake.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who judges.
    pub(super) fn judge(&self) -> &Judge {
        &self.judge
    }
}

impl Looks for Arc<Witness> {
    fn look(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(certificate).chain(intermediates).cloned().collect();
        let shown = Shown::new(&chain, &self.judge, name, now);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }
}
