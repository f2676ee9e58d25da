//! Whether blue and green are two: a promotion from a side to itself would pass every look.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::fault::Fault;
use crate::plan::{Loaded, Sides};
use crate::redact::redact;
use crate::routers::resolve;
use crate::world::address::Address;

/// How long a name may take to be resolved.
const RESOLVES_WITHIN: Duration = Duration::from_secs(5);

/// Refuses (2) sides that are certainly one and the same. Touches nothing.
pub(in crate::tools) fn apart(sides: &Sides, loaded: &Loaded) -> Result<(), Fault> {
    let refuse = |cause: String| {
        Err(Fault::usage("blue and green are one and the same side")
            .place(&loaded.reference.path)
            .cause(cause)
            .help("give each of `promote.sides` its own address: the old version's and the new one's"))
    };
    let (blue, green) = (&sides.blue, &sides.green);
    if let (Some(one), Some(other)) = (Door::of(&blue.url.value), Door::of(&green.url.value))
        && one.is(&other)
    {
        return refuse(format!(
            "{} and {} are the same address",
            redact(&blue.url.shown),
            redact(&green.url.shown)
        ));
    }
    match (&blue.release, &green.release) {
        (Some(one), Some(other)) if one == other => {
            refuse(format!("both have `release: \"{}\"`, so nobody could tell who answered", redact(one)))
        }
        _ => Ok(()),
    }
}

/// Refuses (2) two names of one address where the plan says what each side is: then nothing that is measured
/// would tell that they are one. Where the sides say it themselves, that is what tells them apart: one address
/// may serve many names.
pub(in crate::tools) fn apart_by_address(sides: &Sides, loaded: &Loaded) -> Result<(), Fault> {
    if sides.blue.release.is_none() || sides.green.release.is_none() {
        return Ok(());
    }
    let Lead::ToOne(shared) = lead(sides) else { return Ok(()) };
    Err(Fault::usage("blue and green are one and the same side")
        .place(&loaded.reference.path)
        .cause(format!(
            "{} and {} both lead to {shared}, and `release` is given for both, so nothing that is measured tells them apart",
            redact(&sides.blue.url.shown),
            redact(&sides.green.url.shown)
        ))
        .help("give each side its own address, or leave `release` out and let each answer say its release"))
}

/// Where two sides lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// To two addresses.
    ToTwo,
    /// To this one, by two names.
    ToOne(SocketAddr),
    /// That cannot be told here: a name is not resolved.
    Unknown,
}

/// Where two sides lead. Names are resolved.
pub(super) fn lead(sides: &Sides) -> Lead {
    let (Some(blue), Some(green)) = (Door::of(&sides.blue.url.value), Door::of(&sides.green.url.value))
    else {
        return Lead::Unknown;
    };
    if !blue.is_but_for_the_host(&green) {
        return Lead::ToTwo;
    }
    match (blue.addresses(), green.addresses()) {
        (Some(one), Some(other)) => {
            one.intersection(&other).next().map_or(Lead::ToTwo, |both| Lead::ToOne(*both))
        }
        _ => Lead::Unknown,
    }
}

/// An address as it is meant, whatever way it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Door {
    scheme: &'static str,
    host: Host,
    port: u16,
    /// Without slashes at its ends.
    path: String,
    options: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Number(IpAddr),
}

impl Door {
    fn of(url: &str) -> Option<Self> {
        let address = Address::read(url, &["http", "https"]).ok()?;
        let scheme = if address.scheme.eq_ignore_ascii_case("https") { "https" } else { "http" };
        let host = address.host?;
        let host = match host.parse::<IpAddr>() {
            Ok(number) => Host::Number(number.to_canonical()),
            Err(_) => Host::Name(host.trim_end_matches('.').to_ascii_lowercase()),
        };
        let port = address.port.unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some(Self {
            scheme,
            host,
            port,
            path: address.path.trim_matches('/').to_owned(),
            options: address.options,
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.is_but_for_the_host(other) && self.host.is(&other.host)
    }

    fn is_but_for_the_host(&self, other: &Self) -> bool {
        let rest = |door: &Self| (door.scheme, door.port, door.path.clone(), door.options.clone());
        rest(self) == rest(other)
    }

    /// Where it leads; none where that is not known in time.
    fn addresses(&self) -> Option<BTreeSet<SocketAddr>> {
        let port = self.port;
        let name = match &self.host {
            Host::Number(number) => return Some(BTreeSet::from([SocketAddr::new(*number, port)])),
            Host::Name(name) => name.clone(),
        };
        resolve(&name, port, RESOLVES_WITHIN)
    }
}

impl Host {
    fn is(&self, other: &Self) -> bool {
        let local = |name: &str, number: &IpAddr| name == "localhost" && number.is_loopback();
        match (self, other) {
            (Self::Name(name), Self::Number(number)) | (Self::Number(number), Self::Name(name)) => {
                local(name, number)
            }
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        let doors = (Door::of(one).unwrap(), Door::of(other).unwrap());
        assert_eq!(doors.0.is(&doors.1), doors.1.is(&doors.0));
        doors.0.is(&doors.1)
    }

    #[test]
    fn one_address_is_one_however_it_is_written() {
        for (one, other) in [
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080/"),
            ("http://Shop.example.com", "http://shop.example.com:80"),
            ("https://shop.example.com./app/", "HTTPS://shop.example.com:443/app"),
            ("http://localhost:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://localhost:8080/"),
            ("http://[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080"),
            ("http://[::ffff:10.0.0.1]", "http://10.0.0.1"),
            ("http://ann:secret@10.0.0.1", "http://10.0.0.1"),
        ] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("http://10.0.0.1:8080", "http://10.0.0.1:8081"),
            ("http://10.0.0.1:8080", "https://10.0.0.1:8080"),
            ("http://10.0.0.1/blue", "http://10.0.0.1/green"),
            ("http://10.0.0.1/app", "http://10.0.0.1/App"),
            ("http://blue.shop", "http://green.shop"),
            ("http://127.0.0.1:8080", "http://[::1]:8080"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_name_leads_where_its_number_does() {
        let numbers = Door::of("http://localhost:8080").unwrap().addresses().unwrap();
        assert!(numbers.iter().all(|a| a.ip().is_loopback() && a.port() == 8080), "{numbers:?}");
        assert!(Door::of("http://no-such-host.invalid").unwrap().addresses().is_none());
    }
}
