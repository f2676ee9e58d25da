//! One ClientHello by hand, to see whether a server still accepts an old version (RFC 6101, 2246, 4346, 5246).

use std::io::{self, ErrorKind, Read, Write};

/// A version that can be asked for by the version field alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Old {
    /// SSL 3.0.
    Ssl30,
    /// TLS 1.0.
    Tls10,
    /// TLS 1.1.
    Tls11,
    /// TLS 1.2.
    Tls12,
}

/// What a server says to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A ServerHello of a version.
    Hello([u8; 2]),
    /// A fatal alert with its number.
    Alert(u8),
    /// It closed the connection.
    Closed,
}

/// The alert of a server that does not speak the version.
pub(super) const PROTOCOL_VERSION: u8 = 70;

impl Old {
    /// All of them, the oldest first.
    pub(super) const ALL: [Self; 4] = [Self::Ssl30, Self::Tls10, Self::Tls11, Self::Tls12];

    /// The version of the protocol's field.
    pub(super) fn of(bytes: [u8; 2]) -> Option<Self> {
        Self::ALL.into_iter().find(|old| old.bytes() == bytes)
    }

    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Ssl30 => [3, 0],
            Self::Tls10 => [3, 1],
            Self::Tls11 => [3, 2],
            Self::Tls12 => [3, 3],
        }
    }

    /// `1.0`, `1.1`, `1.2`; SSL 3.0, which came before TLS 1.0, is `0.3`.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Ssl30 => "0.3",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
        }
    }
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
/// No server's hello and certificates are longer.
const LONGEST: usize = 256 * 1024;

/// The messages of a handshake as they come in.
pub(super) struct Heard<'a, S> {
    stream: &'a mut S,
    bytes: Vec<u8>,
}

impl<'a, S: Read + Write> Heard<'a, S> {
    /// Asks for one version with some ciphers and reads the beginning of the answer.
    ///
    /// Errors: no answer in time, or one that is not TLS.
    pub(super) fn ask(
        stream: &'a mut S,
        version: Old,
        ciphers: &[u16],
        name: Option<&str>,
    ) -> io::Result<(Self, Reply)> {
        stream.write_all(&client_hello(version, ciphers, name))?;
        stream.flush()?;
        let mut heard = Self { stream, bytes: Vec::new() };
        let reply = heard.first()?;
        Ok((heard, reply))
    }

    fn first(&mut self) -> io::Result<Reply> {
        loop {
            match self.more() {
                Ok(None) => {}
                Ok(Some(alert)) => return Ok(alert),
                // Some servers show the old versions the door without a word.
                Err(error) if is_closed(&error) && self.bytes.is_empty() => return Ok(Reply::Closed),
                Err(error) => return Err(error),
            }
            // Type (1), length (3), and the version that the server chose.
            match self.bytes.as_slice() {
                [SERVER_HELLO, _, _, _, major, minor, ..] => return Ok(Reply::Hello([*major, *minor])),
                [SERVER_HELLO, ..] | [] => {}
                _ => return Err(not_tls()),
            }
        }
    }

    /// The certificates of a server that has said its hello.
    ///
    /// Errors: it shows none, or what it sends is not to be understood.
    pub(super) fn certificates(mut self) -> io::Result<Vec<Vec<u8>>> {
        loop {
            while let Some((kind, message, length)) = message(&self.bytes) {
                if kind == CERTIFICATE {
                    return list(message).ok_or_else(not_tls);
                }
                if kind != SERVER_HELLO {
                    return Err(io::Error::other("the server shows no certificate"));
                }
                self.bytes.drain(..length);
            }
            if self.bytes.len() > LONGEST || self.more()?.is_some() {
                return Err(not_tls());
            }
        }
    }

    /// Takes one record in. An alert is told; one that only warns is passed over.
    fn more(&mut self) -> io::Result<Option<Reply>> {
        let mut head = [0; 5];
        self.fill(&mut head)?;
        let [kind, 3, _, high, low] = head else { return Err(not_tls()) };
        let mut body = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        if body.len() > (1 << 14) + 2048 || body.is_empty() {
            return Err(not_tls());
        }
        self.fill(&mut body)?;
        match (kind, body.as_slice()) {
            // A name that the server does not know is such a warning.
            (ALERT, [1, code]) if *code != 0 => Ok(None),
            (ALERT, [_, code]) => Ok(Some(Reply::Alert(*code))),
            (HANDSHAKE, _) => {
                self.bytes.extend(body);
                Ok(None)
            }
            _ => Err(not_tls()),
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(buffer).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

fn is_closed(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn not_tls() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the answer is not TLS")
}

/// The first whole message: its kind, its content, and the length of both.
fn message(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    Some((head[0], rest.get(..length)?, length + 4))
}

/// The certificates of a Certificate message.
fn list(message: &[u8]) -> Option<Vec<Vec<u8>>> {
    let part = |bytes: &mut &[u8]| -> Option<Vec<u8>> {
        let (head, rest) = bytes.split_at_checked(3)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (part, rest) = rest.split_at_checked(length)?;
        *bytes = rest;
        Some(part.to_vec())
    };
    let whole = part(&mut &*message)?;
    let mut rest = whole.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(part(&mut rest)?);
    }
    Some(found)
}

/// What servers of the last twenty years have in common.
const USUAL: &[u16] = &[
    0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9, 0xccaa, 0xc023, 0xc024, 0xc027, 0xc028, 0xc009, 0xc00a,
    0xc013, 0xc014, 0x009e, 0x009f, 0x0067, 0x006b, 0x0033, 0x0039, 0x0016, 0x0032, 0x0038, 0x0013, 0x009c,
    0x009d, 0x003c, 0x003d, 0x002f, 0x0035, 0x000a, 0x0005, 0x0004, 0x0041, 0x0084, 0x0045, 0x0088, 0xc012,
    0xc008, 0xc011, 0xc007,
];

/// Everything else that was ever given a number below TLS 1.3: Camellia, ARIA, SEED, IDEA, CCM, DSS, DES, export,
/// no authentication, no encryption, Kerberos, PSK, SRP, GOST, and drafts of some of them.
const ALL: &[(u16, u16)] = &[
    (0x0001, 0x001b),
    (0x001c, 0x0046),
    (0x0047, 0x006d),
    (0x0080, 0x00c5),
    (0xc001, 0xc0b3),
    (0xc100, 0xc106),
    (0xcc13, 0xcc15),
    (0xcca8, 0xccae),
    (0xd001, 0xd005),
    (0xe000, 0xe01f),
    (0xfefe, 0xfeff),
    (0xff80, 0xff85),
    (0xffe0, 0xffe3),
];
/// Old servers do not read longer lists.
const AT_ONCE: usize = 120;

/// The ciphers that are offered one list after the other, the usual ones first.
pub(super) fn lists() -> Vec<Vec<u16>> {
    let rest: Vec<u16> =
        ALL.iter().flat_map(|(from, to)| *from..=*to).filter(|cipher| !USUAL.contains(cipher)).collect();
    std::iter::once(USUAL.to_vec()).chain(rest.chunks(AT_ONCE).map(<[u16]>::to_vec)).collect()
}

/// Curves, the usual ones first. No finite fields: a server that is offered some may use no others (RFC 7919).
const GROUPS: &[u16] = &[
    0x001d, 0x0017, 0x0018, 0x0019, 0x001e, 0x001a, 0x001b, 0x001c, 0x0016, 0x0013, 0x0015, 0x0014, 0x0012,
    0x0010, 0x0011, 0x000f, 0x000b, 0x000c, 0x000d, 0x000e, 0x0009, 0x000a, 0x0001, 0x0002, 0x0003, 0x0004,
    0x0005, 0x0006, 0x0007, 0x0008,
];
/// ECDSA, EdDSA, RSA-PSS, RSA, DSA, Brainpool, SM2 and GOST, down to SHA-1 and MD5.
const SIGNATURES: &[u16] = &[
    0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0809, 0x080a, 0x080b, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501,
    0x0601, 0x0303, 0x0301, 0x0302, 0x0402, 0x0502, 0x0602, 0x0203, 0x0201, 0x0202, 0x081a, 0x081b, 0x081c,
    0x0708, 0x0840, 0x0841, 0xeded, 0xeeee, 0xefef, 0x0101,
];

fn client_hello(version: Old, ciphers: &[u16], name: Option<&str>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let host = with_length(name.as_bytes());
        let entry = [&[0_u8][..], &host].concat();
        extensions.extend(extension(0x0000, &with_length(&entry)));
    }
    extensions.extend(extension(0x000a, &with_length(&numbers(GROUPS))));
    extensions.extend(extension(0x000b, &[3, 0, 1, 2]));
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
    body.extend(with_length(&numbers(ciphers)));
    body.extend([1, 0]);
    // SSL 3.0 knows none.
    if version != Old::Ssl30 {
        body.extend(with_length(&extensions));
    }

    let length = body.len().to_be_bytes();
    let message = [&[1_u8][..], &length[length.len() - 3..], &body].concat();
    // The record itself is as old as can be: old servers drop what they do not know.
    let record = if version == Old::Ssl30 { [HANDSHAKE, 3, 0] } else { [HANDSHAKE, 3, 1] };
    [&record[..], &with_length(&message)].concat()
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

    /// A server that says what it was told to, whatever it hears.
    struct Says(io::Cursor<Vec<u8>>);

    impl Read for Says {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Says {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reply(says: &[u8]) -> io::Result<Reply> {
        let mut server = Says(io::Cursor::new(says.to_vec()));
        Heard::ask(&mut server, Old::Tls10, USUAL, None).map(|(_, reply)| reply)
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 1][..], &with_length(body)].concat()
    }

    #[test]
    fn tells_a_hello_from_an_alert_from_rubbish() {
        let hello = record(22, &[2, 0, 0, 4, 3, 1, 9, 9]);
        assert_eq!(reply(&hello).unwrap(), Reply::Hello([3, 1]));
        assert_eq!(reply(&[record(21, &[1, 112]), hello.clone()].concat()).unwrap(), Reply::Hello([3, 1]));
        let in_pieces = [record(22, &[2, 0, 0]), record(22, &[4, 3]), record(22, &[1, 9, 9])].concat();
        assert_eq!(reply(&in_pieces).unwrap(), Reply::Hello([3, 1]));
        assert_eq!(reply(&record(21, &[2, 70])).unwrap(), Reply::Alert(70));
        assert_eq!(reply(&record(21, &[1, 0])).unwrap(), Reply::Alert(0));
        assert_eq!(reply(&[]).unwrap(), Reply::Closed);
        for rubbish in [&b"HTTP/1.1 400 Bad Request\r\n"[..], &record(22, &[11, 0, 0, 0]), &record(23, &[1])]
        {
            assert!(reply(rubbish).is_err(), "{rubbish:?}");
        }
    }

    #[test]
    fn certificates_are_taken_out_of_any_records() {
        let message = [&[11, 0, 0, 12, 0, 0, 9][..], &[0, 0, 2, 7, 8], &[0, 0, 1, 9]].concat();
        let flight = [&[2, 0, 0, 2, 3, 1][..], &message, &[14, 0, 0, 0]].concat();
        for cut in 1..flight.len() {
            let says = [record(22, &flight[..cut]), record(22, &flight[cut..])].concat();
            let mut server = Says(io::Cursor::new(says));
            let (heard, _) = Heard::ask(&mut server, Old::Tls10, USUAL, None).unwrap();
            assert_eq!(heard.certificates().unwrap(), [vec![7, 8], vec![9]], "{cut}");
        }
        let anonymous = record(22, &[2, 0, 0, 2, 3, 1, 12, 0, 0, 0]);
        let mut server = Says(io::Cursor::new(anonymous));
        let (heard, _) = Heard::ask(&mut server, Old::Tls10, USUAL, None).unwrap();
        assert!(heard.certificates().unwrap_err().to_string().contains("no certificate"));
    }

    #[test]
    fn lengths_of_the_hello_fit_and_every_cipher_is_offered_once() {
        for version in Old::ALL {
            for list in lists() {
                let bytes = client_hello(version, &list, Some("shop.example.com"));
                let record = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
                assert_eq!(record, bytes.len() - 5);
                let message = usize::from(u16::from_be_bytes([bytes[7], bytes[8]]));
                assert_eq!(message, bytes.len() - 9);
                assert_eq!(&bytes[9..11], &version.bytes());
            }
        }
        let mut all = lists().concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        // Camellia, DHE with GCM, Ed25519's, anonymous, ARIA, CCM, PSK, SRP, DES.
        for cipher in [0x0041, 0x009e, 0xc02b, 0x0034, 0xc050, 0xc09e, 0x008c, 0xc01d, 0x0009] {
            assert!(all.contains(&cipher), "{cipher:04x}");
        }
    }
}
