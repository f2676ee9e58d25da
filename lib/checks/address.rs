//! `host:port`: reading it, resolving it, connecting to it within a time limit.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
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
        if let Some((login, _)) = text.rsplit_once('@') {
            let login = login.rsplit_once("://").map_or(login, |(_, login)| login);
            // Whoever shows the target or the line of the plan shows this from now on no more.
            crate::redact::learn(login.split_once(':').map_or("", |(_, password)| password));
            return Err("has a user in front of the host, and a socket has none; write host:port".into());
        }
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

    /// Connects to the first of its addresses that answers, and says what the others mean where none does.
    pub(super) fn reach(&self, within: Duration) -> Reached {
        let until = Instant::now() + within;
        let mut addresses = match (self.host.as_str(), self.port).to_socket_addrs() {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => return Reached::Nowhere(format!("`{}` has no address: {error}", self.host)),
        };
        addresses.dedup();
        let mut tried = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            // Nobody has refused within no time.
            if left < within / 10 {
                return Reached::Unknown(format!("there was no time left to ask {address}"));
            }
            let share = left / u32::try_from(addresses.len() - number).unwrap_or(1);
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => return Reached::Open(stream),
                Err(error) => tried.push((*address, error)),
            }
        }
        said(&tried)
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

/// What became of a connection.
#[derive(Debug)]
pub(super) enum Reached {
    /// The port took it.
    Open(TcpStream),
    /// The port was asked and did not, and how.
    Closed(String),
    /// There is nothing of that name, which says nothing of the port.
    Nowhere(String),
    /// It could not be asked, which says nothing of the port either.
    Unknown(String),
}

/// What it means that none of these addresses took a connection.
///
/// A host that refuses, does not answer or cannot be found on its own network has no port that takes connections
/// from here. No way to its network, no sockets left, a call that is forbidden here: those are about this machine.
fn said(tried: &[(SocketAddr, io::Error)]) -> Reached {
    use io::ErrorKind as Is;
    let asked = |error: &io::Error| {
        matches!(
            error.kind(),
            Is::ConnectionRefused | Is::TimedOut | Is::HostUnreachable | Is::ConnectionReset
        )
    };
    // Most names have an address of a version that this machine has no way to.
    let no_way = |error: &io::Error| matches!(error.kind(), Is::NetworkUnreachable | Is::AddrNotAvailable);
    let told = |one: &(SocketAddr, io::Error)| format!("{}: {}", one.0, one.1);
    let all = tried.iter().map(told).collect::<Vec<_>>().join("; ");
    match tried.iter().find(|(_, error)| !asked(error) && !no_way(error)) {
        Some(one) => Reached::Unknown(told(one)),
        None if tried.iter().any(|(_, error)| asked(error)) => Reached::Closed(all),
        None if tried.is_empty() => Reached::Nowhere("the name has no address".into()),
        None => Reached::Unknown(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_is_only_what_was_asked_and_did_not_take_it() {
        use io::ErrorKind as Is;
        let told = |kinds: &[Is]| {
            let at = SocketAddr::from(([127, 0, 0, 1], 1));
            let tried: Vec<_> = kinds.iter().map(|kind| (at, io::Error::from(*kind))).collect();
            match said(&tried) {
                Reached::Open(_) => "open",
                Reached::Closed(_) => "closed",
                Reached::Nowhere(_) => "nowhere",
                Reached::Unknown(_) => "unknown",
            }
        };
        for kind in [Is::ConnectionRefused, Is::TimedOut, Is::HostUnreachable, Is::ConnectionReset] {
            assert_eq!(told(&[kind]), "closed");
            assert_eq!(told(&[Is::NetworkUnreachable, kind]), "closed", "no IPv6 here");
            assert_eq!(told(&[kind, Is::PermissionDenied]), "unknown");
        }
        let of_this_machine =
            [Is::NetworkUnreachable, Is::AddrNotAvailable, Is::PermissionDenied, Is::Other, Is::OutOfMemory];
        for kind in of_this_machine {
            assert_eq!(told(&[kind]), "unknown", "{kind}");
        }
        assert_eq!(told(&[]), "nowhere");
    }

    #[test]
    fn a_name_without_an_address_says_nothing_of_its_ports() {
        let reach = |host: &str| Address { host: host.into(), port: 1 }.reach(Duration::from_secs(30));
        // Reserved for this: it never resolves.
        assert!(matches!(reach("no-such-host.invalid"), Reached::Nowhere(_)));
        assert!(matches!(reach("127.0.0.1"), Reached::Closed(_)));
    }

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
