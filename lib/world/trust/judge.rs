//! Whether a server's certificate leads to one that counts, and for whom it is.

use std::sync::Arc;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{old, provider, store};

/// The certificates that count.
#[derive(Clone, Debug)]
pub struct Judge {
    roots: Arc<Vec<Root>>,
    /// The same as they were given: a server may show one of them itself.
    given: Arc<Vec<CertificateDer<'static>>>,
    /// Whether somebody named them, and no system did.
    named: bool,
}

/// One of them as the end of a chain.
#[derive(Clone, Debug)]
struct Root {
    store: RootCertStore,
    certificate: CertificateDer<'static>,
    /// How many certificates may stand between it and a server's; any number when none.
    between: Option<usize>,
}

impl Root {
    /// None of what cannot be read.
    fn of(certificate: &CertificateDer<'static>) -> Option<Self> {
        let store = store(std::slice::from_ref(certificate)).ok().filter(|store| !store.is_empty())?;
        let between = X509Certificate::from_der(certificate).ok().and_then(|(_, parsed)| {
            let constraint = parsed.basic_constraints().ok()??.value.path_len_constraint?;
            usize::try_from(constraint).ok()
        });
        Some(Self { store, certificate: certificate.clone(), between })
    }

    /// Why nothing leads to it, whatever it has signed: webpki takes a root for what it is, and looks at no date, nor
    /// at what it may do, as OpenSSL does.
    fn unfit(&self, now: UnixTime) -> Option<Error> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        if !may_sign(&parsed) {
            return Some(Error::General("the certificate that is trusted may not sign others".into()));
        }
        in_force(&parsed, now).err()
    }
}

impl Judge {
    /// Certificates that count; `named` where somebody gave them by name.
    ///
    /// Errors: none of them can be read.
    pub(super) fn new(given: Vec<CertificateDer<'static>>, named: bool) -> Result<Self, String> {
        let roots: Vec<Root> = given.iter().filter_map(Root::of).collect();
        if roots.is_empty() && !given.is_empty() {
            return Err("no certificate in it can be read".into());
        }
        Ok(Self { roots: Arc::new(roots), given: Arc::new(given), named })
    }

    /// Whether a chain leads to one of them and all of it is in force.
    ///
    /// A certificate that was itself given counts, as with curl and psql: a self-signed one is its own
    /// root. So does one of X.509's first version that one of those that were named has signed, which
    /// is what PostgreSQL's manual makes.
    ///
    /// Errors: it does not.
    pub fn chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.roots.is_empty() {
            return Err(Error::General("no root certificate is trusted here".into()));
        }
        let judged = ParsedCertificate::try_from(certificate)
            .and_then(|parsed| self.leads_to_a_root(&parsed, intermediates, now));
        judged.or_else(|error| self.by_hand(certificate, now).unwrap_or(Err(error)))
    }

    /// Whether a chain leads to a root that is in force and may sign; where it leads to another one alone, why that does
    /// not count.
    fn leads_to_a_root(
        &self,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = provider().signature_verification_algorithms;
        let between: Vec<CertificateDer<'_>> =
            intermediates.iter().filter(|certificate| may_sign_others(certificate)).cloned().collect();
        let leads = |root: &Root| {
            let most = root.between.unwrap_or(between.len()).min(between.len());
            let (store, between) = (&root.store, &between[..most]);
            verify_server_cert_signed_by_trust_anchor(parsed, store, between, now, algorithms.all)
        };
        let (fit, unfit): (Vec<&Root>, Vec<&Root>) =
            self.roots.iter().partition(|root| root.unfit(now).is_none());
        let mut why = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for root in fit {
            match leads(root) {
                Ok(()) => return Ok(()),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(error) => why = error,
            }
        }
        let led = unfit.into_iter().find(|root| leads(root).is_ok());
        Err(led.and_then(|root| root.unfit(now)).unwrap_or(why))
    }

    /// The two cases that webpki refuses; none where it is neither of them.
    fn by_hand(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Result<(), Error>> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        if self.given.iter().any(|given| given.as_ref() == certificate.as_ref()) {
            return Some(in_force(&parsed, now).and_then(|()| for_servers(&parsed)));
        }
        if parsed.version() != X509Version::V1 || !self.named {
            return None;
        }
        let issuer = self.given.iter().find_map(|given| {
            let (_, issuer) = X509Certificate::from_der(given).ok()?;
            let fits = issuer.subject() == parsed.issuer() && may_sign(&issuer);
            (fits && old::signed_by(certificate, issuer.public_key().raw)).then_some(issuer)
        })?;
        Some(in_force(&parsed, now).and_then(|()| in_force(&issuer, now)))
    }
}

/// Whether a certificate may sign others: it says so, or is too old to say and signed itself.
fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    let signs = issuer.key_usage().ok().flatten().map(|usage| usage.value.key_cert_sign());
    if signs == Some(false) {
        return false;
    }
    match issuer.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => {
            signs == Some(true) || issuer.version() == X509Version::V1 && issuer.subject() == issuer.issuer()
        }
        Err(_) => false,
    }
}

/// Whether what it may be used for lets a certificate stand between; webpki looks at the rest.
fn may_sign_others(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return true };
    parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign())
}

fn in_force(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// A certificate that says what it is for must be for servers.
fn for_servers(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if !(usage.value.server_auth || usage.value.any) => {
            Err(CertificateError::InvalidPurpose.into())
        }
        _ => Ok(()),
    }
}

/// Whether a certificate is for that name. As with curl and psql the common name counts where there
/// is no list of names.
pub fn name_fits(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let listed = ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok());
    listed || common_name(certificate).is_some_and(|common| same_name(&common, &name.to_str()))
}

/// The common name of a certificate without a list of names.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    if parsed.subject_alternative_name().ok()?.is_some() {
        return None;
    }
    let common = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    Some(common.to_owned())
}

/// Whether a certificate's name is a host's; a star stands for its first part.
fn same_name(own: &str, host: &str) -> bool {
    let (own, host) = (own.trim_end_matches('.'), host.trim_end_matches('.'));
    if own.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(own), Some((first, rest))) = (own.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    let number = host.parse::<std::net::IpAddr>().is_ok();
    !number && !first.is_empty() && own.contains('.') && own.eq_ignore_ascii_case(rest)
}

/// The names that a certificate is for, as they are shown in an error.
pub(super) fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    if let Some(common) = common_name(certificate) {
        return vec![common];
    }
    let Ok(Some(listed)) = parsed.subject_alternative_name() else { return Vec::new() };
    let shown = listed.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    shown.collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::IpAddr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::IpAddr::from(sixteen).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_counts_as_curl_reads_it() {
        for (own, host, fits) in [
            ("db.corp.example", "DB.corp.example", true),
            ("db.corp.example", "db.corp.example.", true),
            ("*.corp.example", "db.corp.example", true),
            ("*.corp.example", "a.db.corp.example", false),
            ("*.corp.example", "corp.example", false),
            ("*.example", "corp.example", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("*.0.0.1", "10.0.0.1", false),
            ("*", "db", false),
        ] {
            assert_eq!(same_name(own, host), fits, "{own} {host}");
        }
    }
}
