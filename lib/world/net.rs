//! A connection to a name and a port within a time limit, resolving included.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Connects to the first of a host's addresses that answers. While there are others each has its part
/// of the time, so that one that swallows packets does not hide them.
///
/// Errors: the name is not known, nobody answers in time, or the last refusal; the kind says which.
pub fn connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let addresses = resolve(host, port, until)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("the name `{host}` has no address"));
    for (index, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        let others = u32::try_from(addresses.len() - index).unwrap_or(1);
        match TcpStream::connect_timeout(address, (left / others).max(Duration::from_millis(1))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = in_words(error, *address),
        }
    }
    Err(last)
}

/// The addresses of a host.
///
/// Errors: the name is not known, or not in time.
pub fn resolve(host: &str, port: u16, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(number) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(number, port)]);
    }
    // As RFC 6761 has it and curl does it: what is below `localhost` is this machine, whatever the resolver knows.
    if bare.trim_end_matches('.').to_ascii_lowercase().ends_with(".localhost") {
        return Ok(vec![
            SocketAddr::from(([127, 0, 0, 1], port)),
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port),
        ]);
    }
    // The system's resolver has no time limit of its own.
    let (tell, told) = sync_channel(1);
    let name = bare.to_owned();
    std::thread::spawn(move || tell.send((name.as_str(), port).to_socket_addrs().map(Vec::from_iter)));
    match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            let said = error.to_string();
            let why = said.rsplit(": ").next().unwrap_or(&said);
            Err(io::Error::new(io::ErrorKind::NotFound, format!("host not found: {bare}: {why}")))
        }
        Err(RecvTimeoutError::Timeout) => Err(late()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the resolver ended")),
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection in time")
}

fn in_words(error: io::Error, address: SocketAddr) -> io::Error {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!("no connection to {address} in time"),
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_refused_and_what_is_not_known() {
        let until = Instant::now() + Duration::from_secs(20);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let refused = connect("127.0.0.1", port, until).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(refused.to_string(), format!("connection refused by 127.0.0.1:{port}"));
        let unknown = connect("no-such-host.invalid", 1, until).unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
        assert!(unknown.to_string().starts_with("host not found: no-such-host.invalid"), "{unknown}");
        assert_eq!(connect("127.0.0.1", port, Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
