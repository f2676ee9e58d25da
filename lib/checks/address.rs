//! `host:port`: reading it, resolving it, connecting to it within a time limit.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    /// The port, 1 to 65535.
    pub(super) port: u16,
}

impl Address {
    /// Reads `host:port` or `[::1]:port`; the port may be missing where there is a usual one.
    pub(super) fn parse(text: &str, usual: Option<u16>) -> Result<Self, String> {
        let wrong = || "is not host:port".to_owned();
        let text = text.trim();
        if text.contains("://") {
            return Err("is a URL; write host:port".into());
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
                (host, rest.strip_prefix(':'))
            }
            None if text.matches(':').count() > 1 => return Err("needs brackets: [::1]:443".into()),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
            None => usual.ok_or_else(wrong)?,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(wrong());
        }
        Ok(Self { host: host.into(), port })
    }

    /// Connects to the first of its addresses that answers.
    pub(super) fn connect(&self, within: Duration) -> io::Result<TcpStream> {
        let until = Instant::now() + within;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (self.host.as_str(), self.port).to_socket_addrs()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_ports() {
        let read = |text: &str| Address::parse(text, None).map(|a| (a.host, a.port));
        assert_eq!(read("shop.example.com:443"), Ok(("shop.example.com".into(), 443)));
        assert_eq!(read("[::1]:5432"), Ok(("::1".into(), 5432)));
        assert_eq!(Address::parse("shop", Some(443)).map(|a| a.port), Ok(443));
        for wrong in ["shop", ":80", "shop:0", "shop:99999", "https://shop:443", "::1:80", "[::1", "a b:1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
