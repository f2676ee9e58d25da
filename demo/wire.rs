//! HTTP/1.1 messages on a socket, as far as the shop and the traffic driver need them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Finds a whole head at the start of some bytes, and says how many of them it takes.
type Parse = fn(&[u8]) -> io::Result<Option<(Head, usize)>>;

const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 1024 * 1024;
const MAX_HEADERS: usize = 64;

/// One side of a connection, with the bytes that were read ahead.
pub(crate) struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
    patience: Duration,
}

/// The head of a message: its first line in parts, and the headers that matter here.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// `GET`; empty in an answer.
    pub(crate) method: String,
    /// `/order`; empty in an answer.
    pub(crate) path: String,
    /// 200; 0 in a request.
    pub(crate) status: u16,
    /// Whether the connection stays open after this message.
    pub(crate) keep_alive: bool,
    /// The value of `X-Release`.
    pub(crate) release: String,
    length: usize,
    chunked: bool,
    wants_continue: bool,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The other side closed, and not one byte of a message had come.
    Closed,
    /// Nothing came within the socket's read timeout, and not one byte of a message had come.
    Quiet,
    /// Anything else, half a message included.
    Failed(io::Error),
}

impl Wire {
    /// Wraps a connection; small messages go out at once.
    ///
    /// `patience` is how long the rest of a message that has begun may take, whatever the socket's own
    /// read timeout; that one alone decides how long nothing may come.
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::with_capacity(4096), patience })
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads a request with its body.
    #[allow(dead_code, reason = "each program uses one of the two directions")]
    pub(crate) fn request(&mut self) -> Result<(Head, Vec<u8>), Broken> {
        let head = self.head(parse_request)?;
        if head.wants_continue {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(Broken::Failed)?;
        }
        let body = self.body(&head)?;
        Ok((head, body))
    }

    /// Reads an answer with its body.
    #[allow(dead_code, reason = "each program uses one of the two directions")]
    pub(crate) fn answer(&mut self) -> Result<(Head, Vec<u8>), Broken> {
        let head = self.head(parse_answer)?;
        let body = self.body(&head)?;
        Ok((head, body))
    }

    fn head(&mut self, parse: Parse) -> Result<Head, Broken> {
        let mut begun = None;
        loop {
            if !self.ahead.is_empty() {
                begun.get_or_insert_with(Instant::now);
                if let Some((head, used)) = parse(&self.ahead).map_err(Broken::Failed)? {
                    self.ahead.drain(..used);
                    return Ok(head);
                }
                if self.ahead.len() > MAX_HEAD {
                    return Err(Broken::Failed(invalid("the head is longer than 16 KiB")));
                }
            }
            let nothing_yet = self.ahead.is_empty();
            match self.more() {
                Ok(0) if nothing_yet => return Err(Broken::Closed),
                Ok(0) => return Err(Broken::Failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(e) if nothing_yet && is_timeout(&e) => return Err(Broken::Quiet),
                Err(e) if nothing_yet && e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Broken::Closed);
                }
                Err(e) if is_timeout(&e) && begun.is_some_and(|b| b.elapsed() < self.patience) => {}
                Err(e) => return Err(Broken::Failed(e)),
            }
        }
    }

    fn body(&mut self, head: &Head) -> Result<Vec<u8>, Broken> {
        if head.chunked {
            return Err(Broken::Failed(invalid("chunked bodies are not spoken here")));
        }
        if head.length > MAX_BODY {
            return Err(Broken::Failed(invalid("the body is longer than 1 MiB")));
        }
        let begun = Instant::now();
        while self.ahead.len() < head.length {
            match self.more() {
                Ok(0) => return Err(Broken::Failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(e) if is_timeout(&e) && begun.elapsed() < self.patience => {}
                Err(e) => return Err(Broken::Failed(e)),
            }
        }
        Ok(self.ahead.drain(..head.length).collect())
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut chunk = [0_u8; 8192];
        loop {
            match self.stream.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    self.ahead.extend_from_slice(&chunk[..read]);
                    return Ok(read);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether an error is the socket's own time limit.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn parse_request(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(used) = request.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut head = read_headers(request.version, request.headers)?;
    request.method.unwrap_or_default().clone_into(&mut head.method);
    request.path.unwrap_or_default().clone_into(&mut head.path);
    Ok(Some((head, used)))
}

fn parse_answer(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(used) = answer.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let mut head = read_headers(answer.version, answer.headers)?;
    head.status = answer.code.unwrap_or_default();
    Ok(Some((head, used)))
}

fn read_headers(version: Option<u8>, headers: &[httparse::Header<'_>]) -> io::Result<Head> {
    let mut head = Head { keep_alive: version == Some(1), ..Head::default() };
    for header in headers {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => head.keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => head.keep_alive = true,
            "content-length" => {
                head.length = value.parse().map_err(|_| invalid("Content-Length is not a number"))?;
            }
            "transfer-encoding" => head.chunked = true,
            "expect" => head.wants_continue = value.eq_ignore_ascii_case("100-continue"),
            "x-release" => value.clone_into(&mut head.release),
            _ => {}
        }
    }
    Ok(head)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}
