//! One ClientHello by hand, to see whether a server still accepts an old version (RFC 2246, 4346, 5246).

use std::io::{self, ErrorKind, Read, Write};

/// A version that can be asked for by the version field alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// TLS 1.0.
    Tls10,
    /// TLS 1.1.
    Tls11,
    /// TLS 1.2.
    Tls12,
}

/// What the server makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A ServerHello of that version.
    Accepted,
    /// An alert, a closed connection, or another version.
    Refused,
}

impl Old {
    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Tls10 => [3, 1],
            Self::Tls11 => [3, 2],
            Self::Tls12 => [3, 3],
        }
    }

    /// `1.0`, `1.1`, `1.2`.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
        }
    }
}

/// Asks for one version and reads the beginning of the answer.
///
/// Errors: no answer in time, or one that is not TLS.
pub(super) fn ask(stream: &mut (impl Read + Write), version: Old, name: Option<&str>) -> io::Result<Answer> {
    stream.write_all(&client_hello(version, name))?;
    let mut head = [0_u8; 11];
    let mut read = 0;
    while read < head.len() {
        match stream.read(&mut head[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // An alert is shorter than the beginning of a ServerHello.
                if read >= 7 {
                    break;
                }
                return Err(ErrorKind::TimedOut.into());
            }
            // Some servers show the old versions the door without a word.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            Err(error) => return Err(error),
        }
        if read >= 7 && head[0] == ALERT {
            break;
        }
    }
    judge(&head[..read], version)
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;

fn judge(head: &[u8], version: Old) -> io::Result<Answer> {
    match head {
        [] | [ALERT, ..] => Ok(Answer::Refused),
        // Record head (5), message head (4), and the version that the server chose.
        [HANDSHAKE, 3, _, _, _, SERVER_HELLO, _, _, _, major, minor] => {
            let same = [*major, *minor] == version.bytes();
            Ok(if same { Answer::Accepted } else { Answer::Refused })
        }
        _ => Err(io::Error::new(ErrorKind::InvalidData, "the answer is not TLS")),
    }
}

/// What servers of the last twenty years have in common.
const CIPHERS: &[u16] = &[
    0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9, 0xc009, 0xc00a, 0xc013, 0xc014, 0x009c, 0x009d, 0x003c,
    0x003d, 0x0033, 0x0039, 0x002f, 0x0035, 0x000a,
];
const GROUPS: &[u16] = &[0x001d, 0x0017, 0x0018, 0x0019];
const SIGNATURES: &[u16] =
    &[0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201];

fn client_hello(version: Old, name: Option<&str>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let host = with_length(name.as_bytes());
        let entry = [&[0_u8][..], &host].concat();
        extensions.extend(extension(0x0000, &with_length(&entry)));
    }
    extensions.extend(extension(0x000a, &with_length(&numbers(GROUPS))));
    extensions.extend(extension(0x000b, &[1, 0]));
    if version == Old::Tls12 {
        extensions.extend(extension(0x000d, &with_length(&numbers(SIGNATURES))));
    }
    // Extended master secret and secure renegotiation, which strict servers ask for.
    extensions.extend(extension(0x0017, &[]));
    extensions.extend(extension(0xff01, &[0]));

    let mut body = version.bytes().to_vec();
    for _ in 0..4 {
        body.extend(crate::world::unique().to_be_bytes());
    }
    // No session, the ciphers, no compression.
    body.push(0);
    body.extend(with_length(&numbers(CIPHERS)));
    body.extend([1, 0]);
    body.extend(with_length(&extensions));

    let length = body.len().to_be_bytes();
    let message = [&[1_u8][..], &length[length.len() - 3..], &body].concat();
    // The record itself is 1.0 for all of them: old servers drop what they do not know.
    [&[HANDSHAKE, 3, 1][..], &with_length(&message)].concat()
}

fn numbers(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Two bytes of length in front; everything here is far below 64 KiB.
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - 2..], bytes].concat()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &with_length(content)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_acceptance_from_refusal_from_rubbish() {
        let hello = |minor| [22, 3, minor, 0, 80, 2, 0, 0, 76, 3, minor];
        assert_eq!(judge(&hello(1), Old::Tls10).unwrap(), Answer::Accepted);
        assert_eq!(judge(&hello(3), Old::Tls10).unwrap(), Answer::Refused);
        assert_eq!(judge(&[21, 3, 1, 0, 2, 2, 70], Old::Tls11).unwrap(), Answer::Refused);
        assert_eq!(judge(&[], Old::Tls11).unwrap(), Answer::Refused);
        assert!(judge(b"HTTP/1.1 40", Old::Tls12).is_err());
        assert!(judge(&[22, 3, 1], Old::Tls12).is_err());
    }

    #[test]
    fn lengths_of_the_hello_fit() {
        for version in [Old::Tls10, Old::Tls12] {
            let bytes = client_hello(version, Some("shop.example.com"));
            let record = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            assert_eq!(record, bytes.len() - 5);
            let message = usize::from(u16::from_be_bytes([bytes[7], bytes[8]]));
            assert_eq!(message, bytes.len() - 9);
            assert_eq!(&bytes[9..11], &version.bytes());
        }
    }
}
