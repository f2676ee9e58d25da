//! What is said before TLS where a server speaks plainly first (STARTTLS).

use std::io::{self, Read, Write};

/// A protocol that begins without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// RFC 3207.
    Smtp,
    /// RFC 2033.
    Lmtp,
    /// RFC 9051.
    Imap,
    /// RFC 2595.
    Pop3,
    /// RFC 4217.
    Ftp,
    /// RFC 4642.
    Nntp,
    /// RFC 5804.
    Sieve,
    /// RFC 4511.
    Ldap,
    /// RFC 6120.
    Xmpp,
    /// PostgreSQL's SSLRequest.
    Postgres,
    /// MySQL's and MariaDB's SSLRequest.
    Mysql,
}

/// Their names in the plan, and their usual ports.
const ALL: &[(&str, Before, u16)] = &[
    ("smtp", Before::Smtp, 25),
    ("lmtp", Before::Lmtp, 24),
    ("imap", Before::Imap, 143),
    ("pop3", Before::Pop3, 110),
    ("ftp", Before::Ftp, 21),
    ("nntp", Before::Nntp, 119),
    ("sieve", Before::Sieve, 4190),
    ("ldap", Before::Ldap, 389),
    ("xmpp", Before::Xmpp, 5222),
    ("postgres", Before::Postgres, 5432),
    ("mysql", Before::Mysql, 3306),
];
const LONGEST: usize = 64 * 1024;

impl Before {
    /// The protocol of that name.
    ///
    /// Errors: there is none; names all.
    pub(super) fn of(name: &str) -> Result<Self, String> {
        ALL.iter().find(|(known, ..)| *known == name).map(|(_, before, _)| *before).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|(known, ..)| *known).collect();
            format!("`starttls: {name}` is not known; it is one of {}", known.join(", "))
        })
    }

    /// Its usual port.
    pub(super) fn port(self) -> u16 {
        ALL.iter().find(|(_, before, _)| *before == self).map_or(443, |(.., port)| *port)
    }

    /// Speaks until the server waits for a ClientHello. Not one byte more is read: what came behind would be
    /// taken for encrypted.
    ///
    /// Errors: the server does not offer TLS, or speaks something else.
    pub(super) fn speak(self, stream: &mut (impl Read + Write), name: &str) -> io::Result<()> {
        match self {
            Self::Smtp => mail(stream, "EHLO"),
            Self::Lmtp => mail(stream, "LHLO"),
            Self::Imap => {
                starts(&line(stream)?, "* OK")?;
                stream.write_all(b"a STARTTLS\r\n")?;
                starts(&until(stream, |line| line.starts_with("a "))?, "a OK")
            }
            Self::Pop3 => {
                starts(&line(stream)?, "+OK")?;
                stream.write_all(b"STLS\r\n")?;
                starts(&line(stream)?, "+OK")
            }
            Self::Ftp => {
                starts(&reply(stream)?, "220")?;
                stream.write_all(b"AUTH TLS\r\n")?;
                starts(&reply(stream)?, "234")
            }
            Self::Nntp => {
                starts(&line(stream)?, "20")?;
                stream.write_all(b"STARTTLS\r\n")?;
                starts(&line(stream)?, "382")
            }
            Self::Sieve => {
                starts(&until(stream, is_last_of_sieve)?, "OK")?;
                stream.write_all(b"STARTTLS\r\n")?;
                starts(&until(stream, is_last_of_sieve)?, "OK")
            }
            Self::Ldap => ldap(stream),
            Self::Xmpp => xmpp(stream, name),
            Self::Postgres => {
                stream.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])?;
                let mut answer = [0];
                stream.read_exact(&mut answer)?;
                if answer == *b"S" {
                    Ok(())
                } else {
                    Err(no_tls("PostgreSQL says that it does not speak TLS"))
                }
            }
            Self::Mysql => mysql(stream),
        }
    }
}

fn no_tls(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

fn starts(answer: &str, wanted: &str) -> io::Result<()> {
    let begins = answer.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
    if begins {
        return Ok(());
    }
    let shown: String =
        answer.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
    Err(no_tls(format!("before TLS the server says `{shown}`, not {wanted}")))
}

/// One line, byte by byte.
fn line(stream: &mut impl Read) -> io::Result<String> {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        heard.push(byte[0]);
        if heard.len() > LONGEST {
            return Err(no_tls("the server's line does not end"));
        }
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

/// The first line that is the last one.
fn until(stream: &mut impl Read, last: impl Fn(&str) -> bool) -> io::Result<String> {
    for _ in 0..1000 {
        let line = line(stream)?;
        if last(&line) {
            return Ok(line);
        }
    }
    Err(no_tls("the server's answer does not end"))
}

fn is_last_of_sieve(line: &str) -> bool {
    ["OK", "NO", "BYE"].iter().any(|word| line.starts_with(word))
}

/// An answer of SMTP and FTP: the last line has a blank behind its number.
fn reply(stream: &mut impl Read) -> io::Result<String> {
    until(stream, |line| {
        line.as_bytes().get(3) != Some(&b'-') && line.starts_with(|c: char| c.is_ascii_digit())
    })
}

fn mail(stream: &mut (impl Read + Write), greeting: &str) -> io::Result<()> {
    starts(&reply(stream)?, "220")?;
    stream.write_all(format!("{greeting} trapkey.invalid\r\n").as_bytes())?;
    starts(&reply(stream)?, "250")?;
    stream.write_all(b"STARTTLS\r\n")?;
    starts(&reply(stream)?, "220")
}

/// An extended request with the name of StartTLS; the answer's result must be success.
fn ldap(stream: &mut (impl Read + Write)) -> io::Result<()> {
    const OID: &[u8] = b"1.3.6.1.4.1.1466.20037";
    let length = |more: usize| u8::try_from(OID.len() + more).unwrap_or_default();
    let request = [&[0x30, length(7), 2, 1, 1, 0x77, length(2), 0x80, length(0)][..], OID].concat();
    stream.write_all(&request)?;
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head {
        [0x30, short] if short < 0x80 => usize::from(short),
        [0x30, long @ 0x81..=0x84] => {
            let mut digits = vec![0; usize::from(long & 0x7f)];
            stream.read_exact(&mut digits)?;
            digits.iter().fold(0, |sum, digit| sum * 256 + usize::from(*digit))
        }
        _ => return Err(no_tls("before TLS the server does not speak LDAP")),
    };
    if length > LONGEST {
        return Err(no_tls("the server's answer does not end"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    // The message's number, an ExtendedResponse (0x78), and in it the result: ENUMERATED, one byte.
    let inside = answer.strip_prefix(&[2, 1, 1, 0x78]).unwrap_or_default();
    let skip = match inside.first() {
        Some(short) if *short < 0x80 => 1,
        Some(long) => 1 + usize::from(long & 0x7f),
        None => 0,
    };
    match inside.get(skip..).unwrap_or_default() {
        [0x0a, 1, 0, ..] => Ok(()),
        [0x0a, 1, code, ..] => Err(no_tls(format!("LDAP refuses TLS with result {code}"))),
        _ => Err(no_tls("before TLS the server does not speak LDAP")),
    }
}

fn xmpp(stream: &mut (impl Read + Write), name: &str) -> io::Result<()> {
    let safe = name.replace(['\'', '<', '>', '&'], "");
    let opening = format!(
        "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
         to='{safe}' version='1.0'>"
    );
    stream.write_all(opening.as_bytes())?;
    let features = elements(stream, |heard| {
        heard.contains("</stream:features>") || heard.contains("<stream:features/>")
    })?;
    if !features.contains("urn:ietf:params:xml:ns:xmpp-tls") {
        return Err(no_tls("XMPP offers no TLS"));
    }
    stream.write_all(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")?;
    let answer = elements(stream, |heard| heard.ends_with('>'))?;
    if answer.contains("<proceed") { Ok(()) } else { Err(no_tls("XMPP refuses TLS")) }
}

fn elements(stream: &mut impl Read, whole: impl Fn(&str) -> bool) -> io::Result<String> {
    let mut heard = String::new();
    while !whole(&heard) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        heard.push(char::from(byte[0]));
        if heard.len() > LONGEST {
            return Err(no_tls("the server's answer does not end"));
        }
    }
    Ok(heard)
}

fn mysql(stream: &mut (impl Read + Write)) -> io::Result<()> {
    const SSL: u32 = 0x0800;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
    if length > LONGEST {
        return Err(no_tls("before TLS the server does not speak MySQL"));
    }
    let mut greeting = vec![0; length];
    stream.read_exact(&mut greeting)?;
    if greeting.first() == Some(&0xff) {
        let why = String::from_utf8_lossy(greeting.get(3..).unwrap_or_default()).into_owned();
        let shown: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect();
        return Err(no_tls(format!("MySQL refuses the connection: {shown}")));
    }
    // Protocol 10, the version as text, connection (4), salt (8), filler (1), the lower capabilities (2).
    let after = greeting.iter().position(|byte| *byte == 0).filter(|_| greeting.first() == Some(&10));
    let flags = after.and_then(|end| greeting.get(end + 14..end + 16));
    let Some([low, high]) = flags else { return Err(no_tls("before TLS the server does not speak MySQL")) };
    if u32::from(u16::from_le_bytes([*low, *high])) & SSL == 0 {
        return Err(no_tls("MySQL says that it does not speak TLS"));
    }
    // Long passwords, protocol 4.1, SSL, secure connection; packets of 16 MiB; utf8.
    let capabilities: u32 = 0x0001 | 0x0200 | SSL | 0x8000;
    let mut request = vec![32, 0, 0, head[3].wrapping_add(1)];
    request.extend(capabilities.to_le_bytes());
    request.extend(0x0100_0000_u32.to_le_bytes());
    request.push(33);
    request.extend([0; 23]);
    stream.write_all(&request)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says its part, whatever it hears, and remembers what it heard.
    struct Says {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Says {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Says {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LDAP: &[u8] = &[0x30, 12, 2, 1, 1, 0x78, 7, 0x0a, 1, 0, 4, 0, 4, 0];

    fn mysql(flags: [u8; 2]) -> Vec<u8> {
        let greeting = [&b"\x0a8.0.36\0"[..], &[1, 0, 0, 0], b"saltsalt", &[0], &flags, &[33, 2, 0]].concat();
        [&[u8::try_from(greeting.len()).unwrap(), 0, 0, 0][..], &greeting].concat()
    }

    #[test]
    fn each_protocol_gets_to_tls_and_takes_nothing_of_it() {
        let sieve = "\"IMPLEMENTATION\" \"x\"\r\n\"STARTTLS\"\r\nOK\r\nOK \"begin\"\r\n";
        let xmpp = "<stream:stream id='1'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
                    </stream:features><proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
        for (name, says) in [
            ("smtp", "220-mail\r\n220 ready\r\n250-mail\r\n250 STARTTLS\r\n220 go ahead\r\n".into()),
            ("lmtp", "220 ready\r\n250 STARTTLS\r\n220 go\r\n".into()),
            ("imap", "* OK ready\r\n* CAPABILITY X\r\na OK begin\r\n".into()),
            ("pop3", "+OK ready\r\n+OK begin\r\n".into()),
            ("ftp", "220-a\r\n not the last 234 \r\n220 b\r\n234 AUTH TLS\r\n".into()),
            ("nntp", "200 ready\r\n382 continue\r\n".into()),
            ("sieve", sieve.as_bytes().to_vec()),
            ("ldap", LDAP.to_vec()),
            ("xmpp", xmpp.as_bytes().to_vec()),
            ("postgres", b"S".to_vec()),
            ("mysql", mysql([0, 0x08])),
        ] as [(&str, Vec<u8>); 11]
        {
            let before = Before::of(name).unwrap();
            let mut server = Says { says: io::Cursor::new([&says[..], b"TLS"].concat()), heard: Vec::new() };
            before.speak(&mut server, "host").unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"TLS", "{name}");
            assert!(!server.heard.is_empty());
            // Cut anywhere it is an error, never a wait or a success.
            for cut in 0..says.len() {
                let mut server = Says { says: io::Cursor::new(says[..cut].to_vec()), heard: Vec::new() };
                assert!(before.speak(&mut server, "host").is_err(), "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_server_that_refuses_says_why() {
        let ldap: &[u8] = &[0x30, 12, 2, 1, 1, 0x78, 7, 0x0a, 1, 52, 4, 0, 4, 0];
        for (name, says, words) in [
            ("smtp", &b"220 a\r\n250 a\r\n454 TLS not available\r\n"[..], "454 TLS not available"),
            ("smtp", b"554 no\r\n", "554"),
            ("imap", b"* OK a\r\na BAD no\r\n", "a BAD"),
            ("ftp", b"220 a\r\n530 no\r\n", "530"),
            ("ldap", ldap, "result 52"),
            ("postgres", b"N", "does not speak TLS"),
            ("mysql", &mysql([0, 0])[..], "does not speak TLS"),
            ("mysql", b"\x17\0\0\0\xff\x6a\x04Host is not allowed\0", "not allowed"),
        ] {
            let mut server = Says { says: io::Cursor::new(says.to_vec()), heard: Vec::new() };
            let error = Before::of(name).unwrap().speak(&mut server, "host").unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        assert!(Before::of("gopher").unwrap_err().contains("smtp, lmtp"));
    }
}
