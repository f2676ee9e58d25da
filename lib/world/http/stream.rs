//! The way to a server: a socket that never blocks, the proxy before it, TLS on top.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::place::Place;
use super::proxy::{Kind, Proxy};
use crate::world::net;

/// Bytes in both directions that never wait.
pub(super) trait Stream: Read + Write + Send {
    /// What is waited on.
    fn fd(&self) -> BorrowedFd<'_>;

    /// Whether something is left to be written.
    fn wants_write(&self) -> bool {
        false
    }
}

impl Stream for TcpStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Stream for UnixStream {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Stream for StreamOwned<ClientConnection, Box<dyn Stream>> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.sock.fd()
    }

    fn wants_write(&self) -> bool {
        self.conn.wants_write() || self.sock.wants_write()
    }
}

/// How a host's TLS is set up; the first word is who is asked.
pub(super) type Secure<'a> =
    &'a dyn Fn(&str, u16) -> Result<(Arc<ClientConfig>, rustls::pki_types::ServerName<'static>), String>;

/// Makes the connection that a request goes over.
///
/// Errors: whoever is in the way of it; the kind says whether the time was up.
pub(super) fn open(
    place: &Place,
    proxy: Option<&Proxy>,
    secure: Secure<'_>,
    until: Instant,
) -> io::Result<Box<dyn Stream>> {
    let stream = match (&place.socket, proxy) {
        (Some(path), _) => unix(path, until)?,
        (None, None) => tcp(&place.host, place.port, until)?,
        (None, Some(proxy)) => through(place, proxy, secure, until)?,
    };
    if place.secure { wrap(stream, &place.host, place.port, secure, until) } else { Ok(stream) }
}

fn tcp(host: &str, port: u16, until: Instant) -> io::Result<Box<dyn Stream>> {
    let stream = net::connect(host, port, until)?;
    stream.set_nonblocking(true)?;
    Ok(Box::new(stream))
}

/// A server that has no time to accept makes a blocking call wait for ever.
fn unix(path: &Path, until: Instant) -> io::Result<Box<dyn Stream>> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let address = SocketAddrUnix::new(path).map_err(|error| named(error.into()))?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Ok(Box::new(UnixStream::from(socket))),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::AGAIN) => return Err(named(ErrorKind::TimedOut.into())),
            Err(error) => return Err(named(error.into())),
        }
    }
}

fn wrap(
    stream: Box<dyn Stream>,
    host: &str,
    port: u16,
    secure: Secure<'_>,
    until: Instant,
) -> io::Result<Box<dyn Stream>> {
    let (config, name) = secure(host, port).map_err(io::Error::other)?;
    let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        let mut patient = Patient { stream: &mut *stream.sock, until };
        stream.conn.complete_io(&mut patient)?;
    }
    Ok(Box::new(stream))
}

/// The way through a proxy. Plain HTTP over a proxy for HTTP needs no tunnel.
fn through(place: &Place, proxy: &Proxy, secure: Secure<'_>, until: Instant) -> io::Result<Box<dyn Stream>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("the proxy {}:{}: {error}", proxy.host, proxy.port))
    };
    let mut stream = tcp(&proxy.host, proxy.port, until).map_err(named)?;
    if proxy.kind == Kind::Https {
        stream = wrap(stream, &proxy.host, proxy.port, secure, until).map_err(named)?;
    }
    let mut patient = Patient { stream: &mut *stream, until };
    match proxy.kind {
        Kind::Http | Kind::Https if place.secure => tunnel(&mut patient, place, proxy),
        Kind::Http | Kind::Https => Ok(()),
        Kind::Socks5 | Kind::Socks5h => socks(&mut patient, place, proxy, until),
    }
    .map_err(named)?;
    Ok(stream)
}

/// The value of an `authorization` of that user.
pub(super) fn basic((user, password): &(String, String)) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    crate::redact::learn(&pair);
    format!("Basic {pair}")
}

const LONGEST_HEAD: usize = 64 * 1024;

/// Asks a proxy for a tunnel.
fn tunnel(stream: &mut Patient<'_>, place: &Place, proxy: &Proxy) -> io::Result<()> {
    let host = if place.host.contains(':') { format!("[{}]", place.host) } else { place.host.clone() };
    let target = format!("{host}:{}", place.port);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nuser-agent: {}\r\n", super::AGENT);
    if let Some(user) = &proxy.user {
        head.push_str(&format!("proxy-authorization: {}\r\n", basic(user)));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    let mut heard = Vec::new();
    // Byte by byte: what comes behind the head is the server's.
    while !heard.ends_with(b"\r\n\r\n") && !heard.ends_with(b"\n\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 || heard.len() >= LONGEST_HEAD {
            return Err(io::Error::other("it does not answer CONNECT"));
        }
        heard.push(byte[0]);
    }
    let first = String::from_utf8_lossy(heard.split(|byte| *byte == b'\n').next().unwrap_or_default());
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    match status.trim() {
        status if status.len() == 3 && status.starts_with('2') => Ok(()),
        "407" => Err(io::Error::other("it asks for user and password (407)")),
        status if status.len() == 3 => {
            Err(io::Error::other(format!("it answers {status} to CONNECT {target}")))
        }
        _ => Err(io::Error::other("its answer to CONNECT is not HTTP")),
    }
}

/// Asks a SOCKS proxy for a connection (RFC 1928, RFC 1929).
fn socks(stream: &mut Patient<'_>, place: &Place, proxy: &Proxy, until: Instant) -> io::Result<()> {
    let refused = |why: &str| io::Error::other(format!("SOCKS 5: {why}"));
    let hello: &[u8] = if proxy.user.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    stream.write_all(hello)?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    match (answer, &proxy.user) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let field = |text: &str| {
                let length = u8::try_from(text.len()).map_err(|_| refused("user or password is too long"))?;
                Ok::<_, io::Error>([&[length], text.as_bytes()].concat())
            };
            stream.write_all(&[&[1][..], &field(user)?, &field(password)?].concat())?;
            stream.read_exact(&mut answer)?;
            if answer[1] != 0 {
                return Err(refused("it refuses user and password"));
            }
        }
        ([5, _], _) => return Err(refused("it asks for user and password")),
        _ => return Err(refused("it does not speak it")),
    }
    let number = match place.host.parse::<IpAddr>() {
        Ok(number) => Some(number),
        Err(_) if proxy.kind == Kind::Socks5h => None,
        Err(_) => {
            let found = net::resolve(&place.host, place.port, until)?;
            Some(found.first().ok_or_else(|| refused("the name has no address"))?.ip())
        }
    };
    let address = match number {
        Some(IpAddr::V4(four)) => [&[1][..], &four.octets()].concat(),
        Some(IpAddr::V6(sixteen)) => [&[4][..], &sixteen.octets()].concat(),
        None => {
            let length = u8::try_from(place.host.len()).map_err(|_| refused("the name is too long"))?;
            [&[3, length][..], place.host.as_bytes()].concat()
        }
    };
    stream.write_all(&[&[5, 1, 0][..], &address, &place.port.to_be_bytes()].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let rest = match head {
        [5, 0, _, 1] => 4,
        [5, 0, _, 4] => 16,
        [5, 0, _, 3] => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            usize::from(length[0])
        }
        [5, code, ..] => {
            let why = match code {
                2 => "it does not allow this connection",
                3 => "the network cannot be reached",
                4 => "the host cannot be reached",
                5 => "connection refused by the host",
                _ => "it makes no connection",
            };
            return Err(refused(why));
        }
        _ => return Err(refused("its answer is not understood")),
    };
    let mut bound = vec![0; rest + 2];
    stream.read_exact(&mut bound)
}

/// Waits until something can be done with a socket.
///
/// Errors: the time is up.
pub(super) fn wait(fd: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let limit = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A stream that waits after all, up to a moment.
struct Patient<'a> {
    stream: &'a mut dyn Stream,
    until: Instant,
}

impl Patient<'_> {
    fn patiently<T>(
        &mut self,
        flags: PollFlags,
        mut what: impl FnMut(&mut dyn Stream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match what(self.stream) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let more = if self.stream.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
                    wait(self.stream.fd(), flags | more, self.until)?;
                }
                other => return other,
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, |stream| stream.read(buffer))
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::OUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.patiently(PollFlags::OUT, |stream| stream.flush())
    }
}
