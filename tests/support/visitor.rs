//! A user's browser: keeps its connection, and asks once more where that was closed before an answer began.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection that may be kept.
#[derive(Default)]
pub(crate) struct Visitor {
    kept: Option<BufReader<TcpStream>>,
}

/// Why there was no whole answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Closed before the first byte of an answer.
    BeforeAnswer,
    /// Anything else.
    #[expect(dead_code, reason = "shown by Debug")]
    Failed(String),
}

impl Visitor {
    /// Whether the next request goes over a connection that an earlier one has left open.
    pub(crate) fn keeps_one(&self) -> bool {
        self.kept.is_some()
    }

    /// Asks once: the status, and what the release header says. The connection is kept where the answer allows it.
    pub(crate) fn ask(
        &mut self,
        port: u16,
        path: &str,
        patience: Duration,
    ) -> Result<(u16, Option<String>), Broken> {
        let failed = |e: std::io::Error| Broken::Failed(e.to_string());
        let mut reader = if let Some(reader) = self.kept.take() {
            reader
        } else {
            let stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            stream.set_read_timeout(Some(patience)).map_err(failed)?;
            BufReader::new(stream)
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
        if reader.get_mut().write_all(request.as_bytes()).is_err() {
            return Err(Broken::BeforeAnswer);
        }
        let mut first = String::new();
        match reader.read_line(&mut first) {
            Ok(0) => return Err(Broken::BeforeAnswer),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset && first.is_empty() => {
                return Err(Broken::BeforeAnswer);
            }
            Err(e) => return Err(failed(e)),
            Ok(_) => {}
        }
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let (mut length, mut close, mut release) = (0, false, None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).map_err(failed)? == 0 {
                return Err(Broken::Failed("cut in the middle of an answer".into()));
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            match line.split_once(": ") {
                Some(("content-length", n)) => length = n.parse().unwrap_or(0),
                Some(("x-release", version)) => release = Some(version.to_owned()),
                _ => close |= line == "connection: close",
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).map_err(failed)?;
        if !close {
            self.kept = Some(reader);
        }
        Ok((status, release))
    }
}
