//! Certificates of X.509's first version, which webpki does not read: `openssl x509 -req` makes them to
//! this day. Their signatures are checked with the same arithmetic as all others.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// Whether the signature of a handshake is that of the certificate's key.
///
/// Errors: it is not, or is of a make that is not known.
pub(super) fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let known = &provider().signature_verification_algorithms;
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls12_signature(message, certificate, signed, known);
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let (algorithm, key) = key_of(parsed.public_key().raw).ok_or(CertificateError::BadEncoding)?;
    let makes = known.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme).map(|(_, makes)| *makes);
    let proven = makes.unwrap_or_default().iter().any(|make| {
        make.public_key_alg_id().as_ref() == algorithm
            && make.verify_signature(key, message, signed.signature()).is_ok()
    });
    if proven { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}

/// The same for TLS 1.3.
///
/// Errors: those of [`verify_tls12`].
pub(super) fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let known = &provider().signature_verification_algorithms;
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls13_signature(message, certificate, signed, known);
    }
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, known)
}

/// Whether a certificate was signed with a key, given as SubjectPublicKeyInfo.
pub(super) fn signed_by(certificate: &CertificateDer<'_>, issuer: &[u8]) -> bool {
    let checked = || {
        let (sequence, _) = content(certificate, 0x30)?;
        let (_, after_body) = content(sequence, 0x30)?;
        let body = sequence.get(..sequence.len() - after_body.len())?;
        let (algorithm, rest) = content(after_body, 0x30)?;
        let (bits, _) = content(rest, 0x03)?;
        let signature = bits.strip_prefix(&[0])?;
        let (key_algorithm, key) = key_of(issuer)?;
        let known = provider().signature_verification_algorithms;
        known
            .all
            .iter()
            .any(|make| {
                make.signature_alg_id().as_ref() == algorithm
                    && make.public_key_alg_id().as_ref() == key_algorithm
                    && make.verify_signature(key, body, signature).is_ok()
            })
            .then_some(())
    };
    checked().is_some()
}

/// The algorithm and the bits of a SubjectPublicKeyInfo.
fn key_of(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let (inside, _) = content(info, 0x30)?;
    let (algorithm, rest) = content(inside, 0x30)?;
    let (bits, _) = content(rest, 0x03)?;
    Some((algorithm, bits.strip_prefix(&[0])?))
}

/// The content of a DER value with that tag, and what comes behind it.
fn content(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if first & 0x80 == 0 {
        (usize::from(*first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (digits, rest) = rest.split_at(count);
        (digits.iter().fold(0, |sum, digit| sum * 256 + usize::from(*digit)), rest)
    };
    (*found == tag && rest.len() >= length).then(|| rest.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_that_is_cut_or_lies_about_its_length_is_none() {
        assert_eq!(content(&[0x30, 2, 1, 2, 9], 0x30), Some((&[1, 2][..], &[9][..])));
        assert_eq!(content(&[0x30, 0x81, 1, 7], 0x30), Some((&[7][..], &[][..])));
        for wrong in
            [&[][..], &[0x30], &[0x30, 3, 1], &[0x31, 0], &[0x30, 0x80], &[0x30, 0x85, 1, 1, 1, 1, 1]]
        {
            assert_eq!(content(wrong, 0x30), None, "{wrong:?}");
        }
    }
}
