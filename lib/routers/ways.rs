//! Other ways to a side: whatever of a router's configuration, besides the split, leads to a side's servers.
//!
//! Two ways lead to one server where their addresses are one, whatever name they are given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{OtherWay, Side};
use crate::redact::redact;

/// How long all names together may take to be resolved.
const RESOLVES_WITHIN: Duration = Duration::from_secs(3);

/// Where an address leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    At(SocketAddr),
    /// A name that is not resolved here.
    Named(String),
    /// A socket of this machine.
    Socket(String),
}

/// The addresses of both sides' servers, and what they are held against.
pub(super) struct Addresses {
    sides: [BTreeSet<Place>; 2],
    known: BTreeMap<String, BTreeSet<Place>>,
    until: Instant,
}

impl Addresses {
    /// The servers of blue and of green, each `host:port`, a URL, or a socket.
    pub(super) fn of(blue: &[String], green: &[String], port: u16) -> Self {
        let mut all = Self {
            sides: <[_; 2]>::default(),
            known: BTreeMap::new(),
            until: Instant::now() + RESOLVES_WITHIN,
        };
        for (number, side) in [blue, green].into_iter().enumerate() {
            all.sides[number] = side.iter().flat_map(|address| all.places(address, port)).collect();
        }
        all
    }

    /// The side that an address leads to; `port` where it has none of its own.
    pub(super) fn side(&mut self, address: &str, port: u16) -> Option<Side> {
        let places = self.places(address, port);
        let leads = |number: usize| !self.sides[number].is_disjoint(&places);
        if leads(0) { Some(Side::Blue) } else { leads(1).then_some(Side::Green) }
    }

    fn places(&mut self, address: &str, port: u16) -> BTreeSet<Place> {
        let Some((host, port)) = parts(address, port) else {
            let path = socket(address).unwrap_or(address);
            return BTreeSet::from([Place::Socket(path.to_owned())]);
        };
        if let Ok(number) = host.parse::<IpAddr>() {
            return BTreeSet::from([Place::At(SocketAddr::new(number.to_canonical(), port))]);
        }
        let name = format!("{host}:{port}");
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        let left = self.until.saturating_duration_since(Instant::now());
        let is_name =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let found = if left.is_zero() || !is_name { None } else { resolve(&host, port, left) };
        let mut places: BTreeSet<Place> = found.unwrap_or_default().into_iter().map(Place::At).collect();
        places.insert(Place::Named(name.clone()));
        self.known.insert(name, places.clone());
        places
    }
}

/// The path of a socket in an address: `unix:/run/shop.sock`, `unix//run/shop.sock`, `unix@/run/shop.sock`.
fn socket(address: &str) -> Option<&str> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest).strip_prefix("unix")?;
    let path = rest.strip_prefix([':', '/', '@'])?;
    // nginx has the path of the request behind it.
    Some(path.split_once(':').map_or(path, |(path, _)| path))
}

/// Host, without brackets and in lowercase, and port; none of a socket.
fn parts(address: &str, port: u16) -> Option<(String, u16)> {
    if socket(address).is_some() || address.starts_with('/') {
        return None;
    }
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let port = match scheme.to_ascii_lowercase().as_str() {
        "https" | "grpcs" | "wss" => 443,
        "http" | "grpc" | "h2c" | "ws" => 80,
        _ => port,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let behind_host = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[behind_host..].rfind(':') {
        Some(at) => {
            let (host, number) = authority.split_at(behind_host + at);
            (host, number[1..].parse().ok()?)
        }
        None => (authority, port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    Some((host.to_ascii_lowercase(), port))
}

/// What a name is resolved to; none where that is not known in time.
pub(crate) fn resolve(name: &str, port: u16, within: Duration) -> Option<BTreeSet<SocketAddr>> {
    let (tell, told) = mpsc::channel();
    let name = name.to_owned();
    // The system's resolver has no time limit of its own: one that hangs is left behind.
    let work = move || {
        let found = (name.as_str(), port).to_socket_addrs();
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        // Nobody waits for it any more where it comes too late.
        let _ = tell.send(found.map(|all| all.map(plain).collect()).ok());
    };
    std::thread::Builder::new().name("resolve".into()).spawn(work).ok()?;
    told.recv_timeout(within).ok().flatten()
}

/// Ways, each once.
#[derive(Default)]
pub(super) struct Ways(Vec<OtherWay>);

impl Ways {
    pub(super) fn add(&mut self, side: Side, name: &str, place: &str) {
        let way = OtherWay { side, name: redact(name), place: redact(place) };
        if !self.0.contains(&way) {
            self.0.push(way);
        }
    }

    pub(super) fn all(self) -> Vec<OtherWay> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_a_side_however_it_is_written() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let blue = texts(&["10.0.0.11:8080", "[2001:db8::1]:80", "unix:/run/blue.sock", "localhost:8081"]);
        let green = texts(&["http://10.0.0.12", "no-such-host.invalid:8080"]);
        let mut all = Addresses::of(&blue, &green, 80);
        for (address, side) in [
            ("10.0.0.11:8080", Some(Side::Blue)),
            ("http://10.0.0.11:8080/", Some(Side::Blue)),
            ("https://ann:secret@10.0.0.11:8080/path?a=b", Some(Side::Blue)),
            ("[::ffff:10.0.0.11]:8080", Some(Side::Blue)),
            ("http://[2001:DB8:0:0::1]/", Some(Side::Blue)),
            ("http://unix:/run/blue.sock:/path", Some(Side::Blue)),
            ("unix//run/blue.sock", Some(Side::Blue)),
            ("127.0.0.1:8081", Some(Side::Blue)),
            ("LOCALHOST.:8081", Some(Side::Blue)),
            ("10.0.0.12", Some(Side::Green)),
            ("10.0.0.12:80", Some(Side::Green)),
            ("No-Such-Host.invalid:8080", Some(Side::Green)),
            ("https://10.0.0.12", None),
            ("10.0.0.11:8081", None),
            ("10.0.0.11", None),
            ("unix:/run/green.sock", None),
            ("no-such-host.invalid:8081", None),
            ("", None),
            ("$backend", None),
            ("host:port", None),
        ] {
            assert_eq!(all.side(address, 80), side, "{address}");
        }
    }
}
