//! The servers of both sides as the plan names them, and what may stand beside them in the upstream.

pub(super) use super::super::servers::Servers;
use super::super::{By, Side};
use super::syntax::{self, Directive};

/// A server of a side: what stands behind `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: String,
    /// Its weight among those of its side.
    pub(super) weight: u64,
    /// Its further parameters, each `name=value`.
    pub(super) own: Vec<String>,
}

/// The greatest weight that a plan may name: products of these stay exact.
const MOST_WEIGHT: u64 = 1000;
/// The greatest number of servers of a side.
const MOST_SERVERS: usize = 1000;

impl Server {
    /// Reads `HOST:PORT weight=2 max_fails=3`.
    ///
    /// Errors: in words, what is no address, no known parameter, or out of bounds.
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().unwrap_or_default();
        if !is_address(address) {
            return Err(format!("`{line}` does not begin with the address of an nginx server"));
        }
        let mut server = Self { address: address.to_owned(), weight: 1, own: Vec::new() };
        let mut seen = Vec::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || -> Option<u64> {
                let digits =
                    !value.is_empty() && value.len() < 10 && value.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| value.parse().ok())?
            };
            if seen.contains(&name) {
                return Err(format!("`{name}` is given twice in `{line}`"));
            }
            let fits = match name {
                "weight" => match number() {
                    Some(weight) if (1..=MOST_WEIGHT).contains(&weight) => {
                        server.weight = weight;
                        true
                    }
                    _ => return Err(format!("`{word}`: a weight is a whole number from 1 to {MOST_WEIGHT}")),
                },
                "max_fails" | "max_conns" => number().is_some(),
                "fail_timeout" => is_time(value),
                "backup" => {
                    return Err(format!(
                        "`{line}`: a backup server is on neither side; put `server {address} backup;` into `with.lines`"
                    ));
                }
                _ => {
                    return Err(format!(
                        "`{word}` in `{line}` is not taken: weight, max_fails, fail_timeout and max_conns are"
                    ));
                }
            };
            if !fits {
                return Err(format!("`{word}` in `{line}` has no value that nginx takes"));
            }
            seen.push(name);
            if name != "weight" {
                server.own.push(word.to_owned());
            }
        }
        Ok(server)
    }
}

/// A host or a socket. Anything else could end the directive and begin another one.
pub(super) fn is_address(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:[]/".contains(c))
}

/// A time as `fail_timeout` takes it.
fn is_time(text: &str) -> bool {
    let digits = text.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or(text);
    (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
}

/// An address as nginx compares it: in lower case, with its port.
pub(super) fn normal(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    let behind_host = address.rfind(']').map_or(0, |at| at + 1);
    let has_port = address[behind_host..].contains(':');
    if has_port || address.starts_with("unix:") { address } else { format!("{address}:80") }
}

/// The servers of both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    pub(super) blue: Vec<Server>,
    pub(super) green: Vec<Server>,
}

impl Sides {
    /// Errors: in words; a side without a server, or a server that is named twice.
    pub(super) fn of(blue: &Servers, green: &Servers) -> Result<Self, String> {
        let read = |servers: &Servers| -> Result<Vec<Server>, String> {
            servers.texts().iter().map(|line| Server::parse(line)).collect()
        };
        let sides = Self { blue: read(blue)?, green: read(green)? };
        let mut seen: Vec<String> = Vec::new();
        for server in sides.blue.iter().chain(&sides.green) {
            let address = normal(&server.address);
            if seen.contains(&address) {
                return Err(format!("`{}` is named twice among the servers of both sides", server.address));
            }
            seen.push(address);
        }
        match [&sides.blue, &sides.green].iter().find(|side| side.is_empty() || side.len() > MOST_SERVERS) {
            Some(_) => Err(format!("blue and green need a server each, and at most {MOST_SERVERS}")),
            None => Ok(sides),
        }
    }

    /// The servers of a side.
    pub(super) fn side(&self, side: Side) -> &[Server] {
        if side == Side::Blue { &self.blue } else { &self.green }
    }

    /// Whole weights for each server, exactly in the proportion of the `parts` (blue, green) between the sides and in
    /// their own within each. A side that has no part has none, and the other one its own.
    pub(super) fn weights(&self, parts: (u32, u32)) -> (Vec<u64>, Vec<u64>) {
        let own = |side: &[Server]| -> Vec<u64> { side.iter().map(|server| server.weight).collect() };
        let (mut blue, mut green) = (own(&self.blue), own(&self.green));
        match parts {
            (_, 0) => return (blue, Vec::new()),
            (0, _) => return (Vec::new(), green),
            _ => {}
        }
        let (all_blue, all_green): (u64, u64) = (blue.iter().sum(), green.iter().sum());
        // At most 1000 servers of weight 1000 and 10000 parts: these products stay below 2^44.
        for (side, part) in
            [(&mut blue, u64::from(parts.0) * all_green), (&mut green, u64::from(parts.1) * all_blue)]
        {
            for weight in side.iter_mut() {
                *weight *= part;
            }
        }
        let divisor = blue.iter().chain(&green).copied().fold(0, gcd).max(1);
        for side in [&mut blue, &mut green] {
            for weight in side.iter_mut() {
                *weight /= divisor;
            }
        }
        (blue, green)
    }

    /// A server by its address.
    pub(super) fn find(&self, address: &str) -> Option<(Side, &Server)> {
        let address = normal(address);
        [Side::Blue, Side::Green].into_iter().find_map(|side| {
            let found = self.side(side).iter().find(|server| normal(&server.address) == address);
            found.map(|server| (side, server))
        })
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The lines of the plan, read.
///
/// Errors: in words; a line that is no whole directive, or one that cannot stand beside the servers.
pub(super) fn lines(lines: &[String], weighed: bool) -> Result<Vec<Directive>, String> {
    let mut all = Vec::new();
    for line in lines {
        let read = syntax::parse(line)
            .map_err(|broken| format!("`{line}` in `with.lines` is no whole directive: {}", broken.why))?;
        all.extend(read);
    }
    for directive in all.iter().filter(|directive| directive.name() == "server") {
        let has = |word: &str| directive.words.iter().any(|own| own == word);
        let why = if has("down") {
            "would make nginx take a lone server out of service at its first failure: leave it out"
        } else if has("backup") {
            continue;
        } else {
            "would get users of neither side: name it under `blue` or `green`, or make it a `backup`"
        };
        return Err(format!("`{}` in `with.lines` {why}", directive.shown()));
    }
    match misfit(&all, weighed) {
        Some((directive, why)) => Err(format!("`{}` in `with.lines` {why}", directive.shown())),
        None => Ok(all),
    }
}

/// Directives that choose a server by something else than its weight; some of them are of other modules than nginx's.
const OTHER_METHODS: [&str; 11] = [
    "least_conn",
    "ip_hash",
    "hash",
    "sticky",
    "sticky_cookie_insert",
    "least_time",
    "fair",
    "consistent_hash",
    "session_sticky",
    "balancer_by_lua_block",
    "balancer_by_lua_file",
];

/// What in an upstream cannot be there, and why. `weighed` where the weights of its servers are the split.
pub(super) fn misfit(upstream: &[Directive], weighed: bool) -> Option<(&Directive, &'static str)> {
    let random = |directive: &Directive| directive.name() == "random";
    let other = |directive: &Directive| OTHER_METHODS.contains(&directive.name());
    if let Some(directive) = upstream.iter().find(|directive| directive.name() == "state") {
        return Some((directive, "keeps the servers in a file of nginx's own: take it out"));
    }
    // `random` alone goes by the weights; `random two` takes the one of two with fewer connections.
    let chooses =
        |directive: &Directive| other(directive) || (random(directive) && directive.words.len() > 1);
    if let Some(directive) = upstream.iter().find(|directive| weighed && chooses(directive)) {
        let why = "chooses servers by something else than their weights, so no share could be kept: take it out, or \
                   say `apart: true` in `with`, which gives each side an upstream of its own";
        return Some((directive, why));
    }
    let kept = upstream.iter().position(|directive| directive.name() == "keepalive")?;
    let late = upstream[kept..].iter().find(|directive| random(directive) || other(directive))?;
    Some((late, "is behind `keepalive`, which nginx then forgets: put `keepalive` last"))
}

/// Whether the weights of servers are the split.
pub(super) fn weighed(by: &By, apart: bool) -> bool {
    *by == By::Requests && !apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn several(lines: &[&str]) -> Servers {
        Servers::Several(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn a_server_keeps_its_parameters_in_their_order() {
        let server =
            Server::parse("10.0.0.11:8080 max_fails=3 weight=2 fail_timeout=30s max_conns=100").unwrap();
        assert_eq!((server.address.as_str(), server.weight), ("10.0.0.11:8080", 2));
        assert_eq!(server.own, ["max_fails=3", "fail_timeout=30s", "max_conns=100"]);
        for address in ["unix:/run/shop.sock", "[::1]:8080", "shop.internal"] {
            assert_eq!(Server::parse(address).unwrap().address, address);
        }
    }

    #[test]
    fn what_could_break_out_or_means_nothing_is_refused() {
        for line in [
            "",
            "  ",
            "a;b",
            "a {",
            "a}",
            "a#b",
            "$backend",
            "\"a b\"",
            "a weight=0",
            "a weight=1001",
            "a weight=-1",
            "a weight=1.5",
            "a weight",
            "a weight=1 weight=2",
            "a max_fails=x",
            "a max_fails=3;server",
            "a fail_timeout=10ms",
            "a fail_timeout=",
            "a max_conns=99999999999999999999",
            "a down",
            "a backup",
            "a slow_start=30s",
            "a resolve",
            "a \u{e9}",
        ] {
            assert!(Server::parse(line).is_err(), "{line:?}");
        }
        assert!(Server::parse("a backup").unwrap_err().contains("`with.lines`"));
    }

    #[test]
    fn no_server_is_named_twice_and_no_side_is_empty() {
        let of = |blue: &[&str], green: &[&str]| Sides::of(&several(blue), &several(green));
        assert!(of(&["a:1", "b:1"], &["c:1"]).is_ok());
        for (blue, green) in [
            (vec!["a:1"], vec!["a:1"]),
            (vec!["a", "A:80"], vec!["b"]),
            (vec![], vec!["a"]),
            (vec!["a"], vec![]),
            (vec!["[::1]"], vec!["[::1]:80"]),
        ] {
            assert!(of(&blue, &green).is_err(), "{blue:?} {green:?}");
        }
    }

    #[test]
    fn lines_that_would_decide_the_split_are_refused_and_others_are_not() {
        let read = |line: &str, weighed| lines(&[line.to_owned()], weighed);
        for line in [
            "least_conn;",
            "ip_hash;",
            "hash $request_uri consistent;",
            "least_time header;",
            "sticky cookie srv;",
            "random two;",
            "random two least_conn;",
            "  # a comment\n least_conn ;",
            "zone shop 64k; least_conn;",
        ] {
            assert!(read(line, true).unwrap_err().contains("apart: true"), "{line}");
        }
        assert!(read("state /var/lib/nginx/shop.conf;", false).unwrap_err().contains("file of nginx's own"));
        for line in ["least_conn;", "ip_hash;", "random two least_conn;"] {
            assert!(read(line, false).is_ok(), "{line}");
        }
        for line in [
            "zone shop 64k;",
            "keepalive 32;",
            "random;",
            "random; keepalive 32;",
            "server 10.0.0.9 backup;",
            "# least_conn;",
            "keepalive_timeout 60s;",
        ] {
            assert!(read(line, true).is_ok(), "{line}: {:?}", read(line, true));
        }
        for (line, why) in [
            ("keepalive 32; random;", "put `keepalive` last"),
            ("server 10.0.0.9;", "of neither side"),
            ("server 10.0.0.9 down;", "leave it out"),
            ("server 10.0.0.9 down backup;", "leave it out"),
            ("keepalive 32", "is no whole directive"),
            ("} upstream other {", "is no whole directive"),
            ("keepalive \"32;", "is no whole directive"),
        ] {
            assert!(read(line, true).unwrap_err().contains(why), "{line}");
        }
    }
}
