//! HAProxy by its runtime API: weights, states and counters over an admin socket.
//!
//! A weight that was not read back was not set: success is an empty reply, and `show servers state`
//! is what counts. Source of the column names: HAProxy management guide 2.6, sections 9.1 and 9.3.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{By, Counters, Kind, Live, Order, Router, Side, SideCount, Split};
use crate::fault::Fault;
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "haproxy",
    about: "HAProxy by its runtime API; splits by request, user or match; counts and times per side",
    target: "the admin socket: a path, or host:port",
    example: "{kind: haproxy, target: /run/haproxy/admin.sock, with: {backend: shop, blue: blue, green: green}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of an HAProxy router.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The backend.
    backend: String,
    /// The server, or the servers, of the old side.
    blue: Servers,
    /// The server, or the servers, of the new side.
    green: Servers,
    /// With `split` by user or match: the map file that the backend's rules pick a server by.
    #[serde(default)]
    map: Option<String>,
}

#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
enum Servers {
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Servers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> serde::de::Visitor<'de> for Names {
            type Value = Servers;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a server, or a list of names")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Servers, E> {
                Ok(Servers::One(name.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Servers, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Servers::Several(names))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

impl Servers {
    fn names(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Several(names) => names.clone(),
        }
    }
}

#[derive(Clone, Debug)]
enum Address {
    Path(PathBuf),
    Port(String),
}

struct Haproxy {
    address: Address,
    backend: String,
    blue: Vec<String>,
    green: Vec<String>,
    /// Where the split is by user or match.
    map: Option<String>,
    by: By,
    timeout: Duration,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let (blue, green) = (settings.blue.names(), settings.green.names());
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    let by_requests = *order.split == By::Requests;
    match &settings.map {
        None if !by_requests => {
            let why = "HAProxy splits by user or match only through a map: `with.map` is missing";
            return Err(Problem::at(place, why).help("docs/plan.md has the lines that HAProxy needs for it"));
        }
        Some(_) if by_requests => {
            return Err(Problem::at(place, "`with.map` is for a `split` by user or match"));
        }
        // Anything else could end the command and begin another one.
        Some(map) if !map.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c)) => {
            return Err(Problem::at(place, format!("`{map}` is no plain path of a map file")));
        }
        // A rule that picks a server picks one.
        Some(_) if blue.len() != 1 || green.len() != 1 => {
            return Err(Problem::at(place, "a `split` by user or match takes one server on each side"));
        }
        _ => {}
    }
    for name in blue.iter().chain(&green).chain([&settings.backend]) {
        // Anything else could end the command and begin another one.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c)) {
            return Err(Problem::at(place, format!("`{name}` is no name of a backend or server")));
        }
    }
    if blue.is_empty() || green.is_empty() || blue.iter().any(|name| green.contains(name)) {
        return Err(Problem::at(place, "blue and green need a server each, and none may be on both sides"));
    }
    let target = order.target.value.trim();
    let address = match target.strip_prefix("unix@") {
        Some(path) => Address::Path(path.into()),
        None if target.contains('/') || !target.contains(':') => Address::Path(order.folder.join(target)),
        None => Address::Port(target.to_owned()),
    };
    Ok(Box::new(Haproxy {
        address,
        backend: settings.backend,
        blue,
        green,
        map: settings.map,
        by: order.split.clone(),
        timeout: order.timeout,
    }))
}

/// The greatest reply that is read: `show stat` of some thousand servers is a few megabytes.
const MAX_REPLY: usize = 16 * 1024 * 1024;
const MAX_WEIGHT: u32 = 256;

impl Haproxy {
    fn shown(&self) -> String {
        match &self.address {
            Address::Path(path) => path.display().to_string(),
            Address::Port(port) => port.clone(),
        }
    }

    fn unreachable(&self, doing: &str, error: &io::Error) -> Fault {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "is HAProxy running, and does it have `stats socket … level admin`?",
            io::ErrorKind::PermissionDenied => "add the job's user to the group of the socket",
            io::ErrorKind::ConnectionRefused => "HAProxy does not listen there; is it running?",
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                "it took the connection but does not answer; is it HAProxy, and is it alive?"
            }
            _ => "look at the socket and at HAProxy's log",
        };
        let cause = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {}", crate::units::show_duration(self.timeout.as_secs_f64()))
            }
            _ => error.to_string(),
        };
        Fault::infrastructure(format!("HAProxy could not {doing}"))
            .place(self.shown())
            .cause(cause)
            .help(help)
    }

    fn ask(&self, command: &str) -> io::Result<String> {
        let until = Instant::now() + self.timeout;
        match &self.address {
            Address::Path(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(self.timeout))?;
                talk(&stream, &stream, command, until, |left| stream.set_read_timeout(Some(left)))
            }
            Address::Port(port) => {
                let address = port.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
                let stream = TcpStream::connect_timeout(&address, self.timeout)?;
                stream.set_write_timeout(Some(self.timeout))?;
                talk(&stream, &stream, command, until, |left| stream.set_read_timeout(Some(left)))
            }
        }
    }

    /// Sends commands whose success is an empty reply.
    fn order(&self, commands: &[String], doing: &str) -> Result<(), Fault> {
        if commands.is_empty() {
            return Ok(());
        }
        // A line must fit into HAProxy's buffer, 16 KiB by default.
        let mut reply = String::new();
        for some in commands.chunks(64) {
            reply = self.ask(&some.join("; ")).map_err(|e| self.unreachable(doing, &e))?;
            if !reply.trim().is_empty() {
                break;
            }
        }
        if reply.trim().is_empty() {
            return Ok(());
        }
        let said: String = reply.trim().chars().take(300).collect();
        Err(Fault::infrastructure(format!("HAProxy refused to {doing}"))
            .place(self.shown())
            .cause(said)
            .help("the socket needs `level admin`, and the backend a dynamic balance such as roundrobin or leastconn"))
    }

    fn table(&self, command: &str) -> Result<Vec<HashMap<String, String>>, Fault> {
        let reply = self.ask(command).map_err(|e| self.unreachable(&format!("answer `{command}`"), &e))?;
        let separator = if command.starts_with("show stat") { ',' } else { ' ' };
        parse_table(&reply, separator).ok_or_else(|| {
            let said: String = reply.trim().chars().take(120).collect();
            Fault::infrastructure(format!("HAProxy's answer to `{command}` is not understood"))
                .place(self.shown())
                .cause(format!("it said: {}", if said.is_empty() { "nothing" } else { &said }))
                .help(format!("is this HAProxy's socket, and is there a backend `{}`?", self.backend))
        })
    }

    fn states(&self) -> Result<Vec<Server>, Fault> {
        let command = format!("show servers state {}", self.backend);
        let servers: Vec<Server> = self.table(&command)?.iter().filter_map(Server::of).collect();
        for name in self.blue.iter().chain(&self.green) {
            if !servers.iter().any(|s| &s.name == name) {
                let known: Vec<&str> = servers.iter().map(|s| s.name.as_str()).collect();
                return Err(Fault::usage(format!("the backend `{}` has no server `{name}`", self.backend))
                    .place(self.shown())
                    .help(format!("its servers are: {}", known.join(", "))));
            }
        }
        Ok(servers)
    }

    /// The map's numbers, as HAProxy has them in force.
    fn steering(&self, map: &str) -> Result<Steering, Fault> {
        let command = format!("show map {map}");
        let reply = self.ask(&command).map_err(|e| self.unreachable(&format!("answer `{command}`"), &e))?;
        Steering::of(&reply, &self.blue[0], &self.green[0]).ok_or_else(|| {
            let said: String = reply.trim().chars().take(200).collect();
            Fault::usage(format!("HAProxy has not the lines in the map {map} that a split needs"))
                .place(self.shown())
                .cause(format!("it said: {}", if said.is_empty() { "nothing" } else { &said }))
                .help(format!(
                    "let the backend's rules use that map, and put the lines `{0} 0`, `{0}-rest 0` and `share 0` into the file; docs/plan.md has both",
                    self.green[0]
                ))
        })
    }

    /// Puts a split by user or match into force: the map says how much, the servers' states whether.
    fn set_parts(&self, map: &str, split: Split) -> Result<(), Fault> {
        let parts = parts(split.green);
        let servers = self.states()?;
        let named = |side: Side| servers.iter().filter(move |s| self.names(side).contains(&s.name));
        let backend = &self.backend;
        let mut commands = Vec::new();
        // What no rule takes aside goes by weight, and green has none of that.
        for (side, weight) in [(Side::Blue, 100), (Side::Green, 0)] {
            let other = named(side).filter(|s| s.weight != weight);
            commands.extend(other.map(|s| format!("set server {backend}/{} weight {weight}", s.name)));
        }
        let admit = |side: Side| {
            named(side)
                .filter(|s| !s.admitted)
                .map(|s| format!("set server {backend}/{} state ready", s.name))
        };
        // Somewhere to go first, then the requests.
        if parts < PARTS {
            commands.extend(admit(Side::Blue));
        }
        if parts > 0 {
            commands.extend(admit(Side::Green));
        }
        let now = self.steering(map)?;
        let wanted = Steering::wanted(&self.by, parts, now.picks);
        commands.extend(wanted.lines(&now, &self.blue[0], &self.green[0], map));
        if parts == 0 && split.close_idle_side {
            commands
                .extend(named(Side::Green).map(|s| format!("set server {backend}/{} state maint", s.name)));
        }
        self.order(&commands, &format!("give green {}", crate::units::show_share(split.green)))
    }

    /// The split by user or match that is in force.
    fn read_parts(&self, map: &str) -> Result<Live, Fault> {
        let (steering, servers) = (self.steering(map)?, self.states()?);
        let all = |side: Side, fits: fn(&Server) -> bool| {
            servers.iter().filter(|s| self.names(side).contains(&s.name)).all(fits)
        };
        let raw = servers.iter().map(|s| (s.name.clone(), json!({"admitted": s.admitted, "up": s.up})));
        let mut raw = serde_json::Value::Object(raw.collect());
        raw["map"] = json!({"keyed": steering.keyed, "rest": steering.rest, "share": steering.share});
        let odd = |what: &str, help: &str| {
            Fault::infrastructure(format!("{what} in `{}`", self.backend))
                .place(self.shown())
                .cause(&raw)
                .help(help.to_owned())
        };
        let Some(parts) = steering.green(&self.by) else {
            return Err(odd(
                "the map's numbers do not fit each other",
                "does something else steer this map as well?",
            ));
        };
        // Requests for a server that is closed go by weight, and only blue has any.
        let open = all(Side::Green, |s| s.admitted);
        let green = if open { f64::from(parts) / f64::from(PARTS) } else { 0.0 };
        if green < 1.0 && !all(Side::Blue, |s| s.admitted) {
            return Err(odd("blue is closed while it has a share", "somebody closed it: open it by hand"));
        }
        let effective = match (all(Side::Blue, |s| s.up), all(Side::Green, |s| s.up)) {
            (true, true) => Some(green),
            (true, false) => Some(0.0),
            // The rest has nowhere to go, for green has no weight.
            (false, true) => (green > 0.0).then_some(1.0),
            (false, false) => None,
        };
        Ok(Live { effective, ..Live::of(green, raw) })
    }

    fn names(&self, side: Side) -> &[String] {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// One command for each server of a side.
    fn each(&self, side: Side, what: &str) -> Vec<String> {
        let names = self.names(side).iter();
        names.map(|name| what.replace("{}", &format!("{}/{name}", self.backend))).collect()
    }

    /// Whether all servers of a side are so.
    fn all_are(&self, side: Side, what: impl Fn(&Server) -> bool) -> Result<bool, Fault> {
        Ok(self.states()?.iter().filter(|s| self.names(side).contains(&s.name)).all(what))
    }

    /// The weights of a single server of each side that come nearest to a share.
    fn weights(&self, green: f64) -> (u32, u32) {
        let (blues, greens) = (self.blue.len() as f64, self.green.len() as f64);
        if green <= 0.0 {
            return (100, 0);
        }
        if green >= 1.0 {
            return (0, 100);
        }
        let mut best = (f64::INFINITY, (1, 1));
        // Totals of a hundred first, so that 5 % is 95 and 5 and reads well.
        for total in (100..=100).chain(2..=MAX_WEIGHT + 1) {
            for g in guesses(green * blues * f64::from(total) / (greens * (1.0 - green) + green * blues)) {
                let b = total.saturating_sub(g);
                if g == 0 || b == 0 || g > MAX_WEIGHT || b > MAX_WEIGHT {
                    continue;
                }
                let share = f64::from(g) * greens / (f64::from(g) * greens + f64::from(b) * blues);
                let off = (share - green).abs();
                if off < best.0 - 1e-9 {
                    best = (off, (b, g));
                }
            }
        }
        best.1
    }
}

/// All of a split by user or match.
const PARTS: u32 = 10_000;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn parts(green: f64) -> u32 {
    (green.clamp(0.0, 1.0) * f64::from(PARTS)).round() as u32
}

/// What a map says to the rules that pick a server, in parts of [`PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steering {
    /// The side whose server the rules pick by the map; the sides change places from release to
    /// release, and the rules stay.
    picks: Side,
    /// How many of the requests with the key that server gets.
    keyed: u32,
    /// How many of the others: all or none.
    rest: u32,
    /// Green's share as it was asked.
    share: u32,
}

impl Steering {
    /// The answer to `show map`, in lines such as `0x55fe7bb2b0b0 green 500`.
    fn of(reply: &str, blue: &str, green: &str) -> Option<Self> {
        let number = |key: &str| {
            let mut found = reply.lines().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words.len() == 3 && words[1] == key).then(|| words[2].parse::<u32>().ok())
            });
            let parts = found.next()??;
            (found.next().is_none() && parts <= PARTS).then_some(parts)
        };
        let (picks, name) = match (number(green), number(blue)) {
            (Some(_), None) => (Side::Green, green),
            (None, Some(_)) => (Side::Blue, blue),
            _ => return None,
        };
        let (keyed, rest) = (number(name)?, number(&format!("{name}-rest"))?);
        Some(Self { picks, keyed, rest, share: number("share")? })
    }

    /// What green's parts ask of a map whose rules pick that side.
    fn wanted(by: &By, parts: u32, picks: Side) -> Self {
        let keyed = if matches!(by, By::Match(..)) { u32::from(parts > 0) * PARTS } else { parts };
        let rest = u32::from(parts == PARTS) * PARTS;
        let of = |green: u32| if picks == Side::Green { green } else { PARTS - green };
        Self { picks, keyed: of(keyed), rest: of(rest), share: parts }
    }

    /// Green's parts; nothing when the numbers come from no split.
    fn green(&self, by: &By) -> Option<u32> {
        let keyed = if self.picks == Side::Green { self.keyed } else { PARTS - self.keyed };
        let rest = if self.picks == Side::Green { self.rest } else { PARTS - self.rest };
        let parts = match by {
            // All that match are on green whatever the step is, and only the note knows it.
            By::Match(..) if keyed == PARTS && rest == 0 => self.share.clamp(1, PARTS - 1),
            _ => keyed,
        };
        let wanted = Self::wanted(by, parts, self.picks);
        (wanted.keyed == self.keyed && wanted.rest == self.rest).then_some(parts)
    }

    /// The commands that lead here from what is in force.
    fn lines(&self, now: &Self, blue: &str, green: &str, map: &str) -> Vec<String> {
        let name = if self.picks == Side::Green { green } else { blue };
        let numbers = [
            (name.to_owned(), self.keyed, now.keyed),
            (format!("{name}-rest"), self.rest, now.rest),
            ("share".to_owned(), self.share, now.share),
        ];
        let changed = numbers.iter().filter(|(_, wanted, is)| wanted != is);
        changed.map(|(key, wanted, _)| format!("set map {map} {key} {wanted}")).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 257")]
fn guesses(exact: f64) -> [u32; 2] {
    let low = exact.clamp(0.0, 300.0).floor() as u32;
    [low, low + 1]
}

fn talk(
    mut reader: impl Read,
    mut writer: impl Write,
    command: &str,
    until: Instant,
    limit: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<String> {
    writer.write_all(format!("{command}\n").as_bytes())?;
    let mut reply = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        limit(left)?;
        let read = match reader.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if read == 0 {
            return String::from_utf8(reply).map_err(|_| io::Error::other("the answer is not text"));
        }
        reply.extend_from_slice(&buffer[..read]);
        if reply.len() > MAX_REPLY {
            return Err(io::Error::other("the answer does not end"));
        }
    }
}

/// Rows of a table whose first line (behind `#`) names the columns.
fn parse_table(reply: &str, separator: char) -> Option<Vec<HashMap<String, String>>> {
    let mut lines = reply.lines().skip_while(|line| !line.starts_with("# "));
    let columns = fields(lines.next()?.trim_start_matches("# "), separator);
    let rows = lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| columns.iter().cloned().zip(fields(line, separator)).collect())
        .collect();
    Some(rows)
}

/// The fields of a line. A server's own words stand quoted among them (`last_chk`), and a separator
/// inside quotes ends no field.
fn fields(line: &str, separator: char) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c == separator && !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    all.push(field);
    all
}

/// A line of `show servers state`.
#[derive(Clone, Debug)]
struct Server {
    name: String,
    weight: u32,
    /// Neither in maintenance nor draining.
    admitted: bool,
    /// Not stopped by health checks.
    up: bool,
}

impl Server {
    fn of(row: &HashMap<String, String>) -> Option<Self> {
        let admin: u32 = row.get("srv_admin_state")?.parse().ok()?;
        // 0x01 0x02 0x04 0x20 0x40 are ways into maintenance, 0x08 0x10 of draining.
        let maintenance = admin & 0x67 != 0;
        Some(Self {
            name: row.get("srv_name")?.clone(),
            weight: row.get("srv_uweight")?.parse().ok()?,
            admitted: admin & 0x7f == 0,
            up: maintenance || row.get("srv_op_state")? != "0",
        })
    }

    fn share_weight(&self) -> u32 {
        if self.admitted { self.weight } else { 0 }
    }
}

fn share(green: u32, blue: u32) -> Option<f64> {
    (green + blue > 0).then(|| f64::from(green) / f64::from(green + blue))
}

impl Router for Haproxy {
    fn check(&mut self) -> Result<(), Fault> {
        let servers = self.states()?;
        let others: Vec<&str> = servers
            .iter()
            .filter(|s| !self.blue.contains(&s.name) && !self.green.contains(&s.name) && s.share_weight() > 0)
            .map(|s| s.name.as_str())
            .collect();
        if !others.is_empty() {
            return Err(Fault::usage(format!("the backend `{}` has servers on neither side", self.backend))
                .place(self.shown())
                .cause(format!("{} would get traffic that nobody judges", others.join(", ")))
                .help("name them in `with.blue` or `with.green`, or set them to maint"));
        }
        let stat = self.table(&format!("show stat {} -1 -1", self.backend))?;
        let backend = stat.iter().find(|row| row.get("svname").is_some_and(|n| n == "BACKEND"));
        let said = |column: &str| backend.and_then(|row| row.get(column)).map_or("", String::as_str);
        let algorithm = said("algo");
        if algorithm == "static-rr" || algorithm == "first" {
            return Err(Fault::usage(format!("the backend `{}` balances by `{algorithm}`", self.backend))
                .place(self.shown())
                .cause("its weights cannot be changed while it runs, or mean nothing")
                .help("use `balance roundrobin` or `balance leastconn`"));
        }
        if let Some(map) = &self.map {
            self.steering(map)?;
            if !said("cookie").is_empty() {
                return Err(Fault::usage(format!("the backend `{}` holds users by a cookie", self.backend))
                    .place(self.shown())
                    .cause(format!("its cookie `{}` would overrule the `split` of the plan", said("cookie")))
                    .help(
                        "take the `cookie` line out of the backend: the split keeps users where they are",
                    ));
            }
        }
        Ok(())
    }

    fn nearest(&self, green: f64) -> f64 {
        if self.map.is_some() {
            return f64::from(parts(green)) / f64::from(PARTS);
        }
        let (b, g) = self.weights(green);
        let (blues, greens) = (self.blue.len() as f64 * f64::from(b), self.green.len() as f64 * f64::from(g));
        greens / (greens + blues)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        if let Some(map) = &self.map {
            return self.set_parts(map, split);
        }
        let (blue, green) = self.weights(split.green);
        let servers = self.states()?;
        let now = |name: &String| servers.iter().find(|s| &s.name == name);
        let backend = &self.backend;
        let weigh = |side: Side, weight: u32| -> Vec<String> {
            self.names(side)
                .iter()
                .filter(|name| now(name).is_none_or(|s| s.weight != weight))
                .map(|name| format!("set server {backend}/{name} weight {weight}"))
                .collect()
        };
        let admit = |side: Side| -> Vec<String> {
            self.names(side)
                .iter()
                .filter(|name| now(name).is_none_or(|s| !s.admitted))
                .map(|name| format!("set server {backend}/{name} state ready"))
                .collect()
        };
        let close = |side: Side| -> Vec<String> {
            let names = self.names(side).iter();
            names.map(|name| format!("set server {backend}/{name} state maint")).collect()
        };
        let total =
            |side: Side| -> u32 { self.names(side).iter().filter_map(now).map(Server::share_weight).sum() };
        let mut commands = Vec::new();
        if green == 0 {
            // Somewhere to go first; then out at once, for a drained server keeps its sticky users.
            commands.extend(weigh(Side::Blue, blue));
            commands.extend(admit(Side::Blue));
            if split.close_idle_side {
                commands.extend(close(Side::Green));
            }
            commands.extend(weigh(Side::Green, 0));
        } else {
            // Two commands are not one: take the order whose middle never exceeds what was asked.
            let (greens, blues) = (self.green.len(), self.blue.len());
            let green_total = green * u32::try_from(greens).unwrap_or(1);
            let blue_total = blue * u32::try_from(blues).unwrap_or(1);
            let blue_first = share(total(Side::Green), blue_total).is_none_or(|s| s <= split.green + 1e-9);
            let green_first = share(green_total, total(Side::Blue)).is_none_or(|s| s <= split.green + 1e-9);
            let order = if blue_first || !green_first {
                [Side::Blue, Side::Green]
            } else {
                [Side::Green, Side::Blue]
            };
            for side in order {
                commands.extend(weigh(side, if side == Side::Blue { blue } else { green }));
            }
            // States last: a server that comes back must not come back with its old weight.
            commands.extend(admit(Side::Green));
            if blue > 0 {
                commands.extend(admit(Side::Blue));
            }
        }
        self.order(&commands, &format!("give green {}", crate::units::show_share(split.green)))
    }

    fn read(&mut self) -> Result<Live, Fault> {
        if let Some(map) = &self.map {
            return self.read_parts(map);
        }
        let servers = self.states()?;
        let sum = |side: Side, only_up: bool| -> u32 {
            let of_side = servers.iter().filter(|s| self.names(side).contains(&s.name));
            of_side.filter(|s| !only_up || s.up).map(Server::share_weight).sum()
        };
        let raw = servers
            .iter()
            .map(|s| (s.name.clone(), json!({"weight": s.weight, "admitted": s.admitted, "up": s.up})));
        let raw = serde_json::Value::Object(raw.collect());
        let Some(green) = share(sum(Side::Green, false), sum(Side::Blue, false)) else {
            return Err(Fault::infrastructure(format!("no server of `{}` has any weight", self.backend))
                .place(self.shown())
                .cause(raw)
                .help("somebody closed both sides: open one by hand"));
        };
        Ok(Live { effective: share(sum(Side::Green, true), sum(Side::Blue, true)), ..Live::of(green, raw) })
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        if !self.all_are(side, |s| !s.admitted && s.weight == 0)? {
            let drain = self.each(side, "set server {} state drain");
            self.order(&drain, &format!("drain {}", side.word()))?;
        }
        let until = Instant::now() + limit;
        loop {
            let counters = self.count()?;
            let left = match side {
                Side::Blue => counters.blue.current,
                Side::Green => counters.green.current,
            };
            if left == 0 || Instant::now() >= until {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn close(&mut self, side: Side, left: u64, _: Duration) -> Result<(), Fault> {
        if !self.all_are(side, |s| s.share_weight() == 0)? {
            return Err(Fault::infrastructure(format!("{} has users again", side.word()))
                .place(&self.backend)
                .cause("somebody gave it traffic while it was drained")
                .help("look at `promote status`; it stays as it is"));
        }
        let mut last = self.each(side, "set server {} state maint");
        if left > 0 {
            last.extend(self.each(side, "shutdown sessions server {}"));
        }
        self.order(&last, &format!("close {}", side.word()))
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        self.count().map(Some)
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let backend = &self.backend;
        let mut commands: Vec<String> = Vec::new();
        if let Some(map) = &self.map {
            // Whichever server the rules pick: a line that the map has not is an error, and no harm.
            for (of, name) in [(Side::Blue, &self.blue[0]), (Side::Green, &self.green[0])] {
                let parts = if of == side { PARTS } else { 0 };
                commands.push(format!("set map {map} {name} {parts}; set map {map} {name}-rest {parts}"));
            }
        }
        for name in self.names(side) {
            commands.push(format!("set server {backend}/{name} weight 100"));
            commands.push(format!("set server {backend}/{name} state ready"));
        }
        for name in self.names(side.other()) {
            commands.push(format!("set server {backend}/{name} state maint"));
        }
        let to = match &self.address {
            Address::Path(path) => format!("socat stdio {}", path.display()),
            Address::Port(port) => format!("socat stdio tcp:{port}"),
        };
        vec![
            format!("echo '{}' | {to}", commands.join("; ")),
            format!("echo 'show servers state {backend}' | {to}"),
        ]
    }
}

impl Haproxy {
    fn count(&self) -> Result<Counters, Fault> {
        let stat = self.table(&format!("show stat {} -1 -1", self.backend))?;
        let info = self.ask("show info").map_err(|e| self.unreachable("answer `show info`", &e))?;
        // In a container every start has the same Pid.
        let word =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let instance = format!("{} {}", word("Pid: "), word("Start_time_sec: "));
        let side = |names: &[String]| -> SideCount {
            let rows = stat.iter().filter(|row| row.get("svname").is_some_and(|n| names.contains(n)));
            rows.map(SideCount::of_row).fold(SideCount::default(), SideCount::plus)
        };
        Ok(Counters { blue: side(&self.blue), green: side(&self.green), instance, ..Counters::default() })
    }
}

impl SideCount {
    fn of_row(row: &HashMap<String, String>) -> Self {
        let number = |column: &str| row.get(column).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        let requests = number("req_tot").max(number("stot"));
        let time = |column: &str| (requests > 0).then(|| number(column) as f64);
        Self {
            requests,
            errors: number("hrsp_5xx") + number("eresp"),
            mean_ms: time("rtime"),
            max_ms: time("rtime_max"),
            current: number("scur"),
        }
    }

    fn plus(self, other: Self) -> Self {
        let greater = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        let mean = match (self.mean_ms, other.mean_ms) {
            (Some(a), Some(b)) => {
                let (n, m) = (self.requests as f64, other.requests as f64);
                Some((a * n + b * m) / (n + m))
            }
            (a, b) => a.or(b),
        };
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            mean_ms: mean,
            max_ms: greater(self.max_ms, other.max_ms),
            current: self.current + other.current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(blue: usize, green: usize) -> Haproxy {
        let names = |side: &str, n: usize| (0..n).map(|i| format!("{side}{i}")).collect();
        Haproxy {
            address: Address::Path("/nowhere".into()),
            backend: "shop".into(),
            blue: names("b", blue),
            green: names("g", green),
            map: None,
            by: By::Requests,
            timeout: Duration::from_millis(50),
        }
    }

    #[test]
    fn finds_weights_for_every_usual_share() {
        assert_eq!(router(1, 1).weights(0.05), (95, 5));
        assert_eq!(router(1, 1).weights(0.5), (50, 50));
        assert_eq!(router(1, 1).weights(0.0), (100, 0));
        assert_eq!(router(1, 1).weights(1.0), (0, 100));
        for (blue, green) in [(1, 1), (2, 2), (4, 1), (1, 3)] {
            for percent in 1..100 {
                let asked = f64::from(percent) / 100.0;
                let got = router(blue, green).nearest(asked);
                assert!((got - asked).abs() < 0.006, "{blue}/{green} {percent} %: {got}");
            }
        }
        // One in 1000 is more than its weights can do, and that must not go unnoticed.
        assert!(super::super::representable(&router(1, 1), 0.001).is_err());
    }

    #[test]
    fn a_server_cannot_shift_the_columns_by_what_it_says() {
        let reply = "# svname,last_chk,rtime\ngreen,\"no, \"\"later\"\", maybe\",7\n";
        let rows = parse_table(reply, ',').unwrap_or_default();
        assert_eq!(rows.first().and_then(|row| row.get("rtime")).map(String::as_str), Some("7"));
    }

    #[test]
    fn reads_a_map_and_nothing_else() {
        let of = |reply: &str, blue: &str, green: &str| Steering::of(reply, blue, green);
        let reply = "0x1 new 500\n0x2 new-rest 0\n0x3 share 500\n\n";
        let seen = Steering { picks: Side::Green, keyed: 500, rest: 0, share: 500 };
        assert_eq!(of(reply, "old", "new"), Some(seen));
        assert_eq!(of(reply, "new", "old").map(|s| s.picks), Some(Side::Blue));
        for reply in
            ["", "Unknown map identifier.\n", "0x1 new 5\n", "0x1 new x\n0x2 new-rest 0\n0x3 share 0\n"]
        {
            assert_eq!(of(reply, "old", "new"), None, "{reply:?}");
        }
        assert_eq!(of(&format!("{reply}0x4 new 7\n"), "old", "new"), None, "which of them counts?");
    }

    #[test]
    fn what_is_asked_of_a_map_is_what_is_read_from_it_whichever_side_its_rules_pick() {
        let key = crate::routers::Key::Cookie("uid".into());
        for by in [By::User(key.clone()), By::Match(key, "beta".into())] {
            for picks in [Side::Blue, Side::Green] {
                for parts in [0, 1, 500, 9_999, PARTS] {
                    assert_eq!(
                        Steering::wanted(&by, parts, picks).green(&by),
                        Some(parts),
                        "{by:?} {picks:?}"
                    );
                }
                let torn = Steering { picks, keyed: 500, rest: PARTS / 2, share: 0 };
                assert_eq!(torn.green(&by), None);
            }
        }
    }

    #[test]
    fn reads_states_as_the_runtime_api_prints_them() {
        let reply = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight\n\
                     3 shop 1 blue 127.0.0.1 2 0 95 100\n3 shop 2 green 127.0.0.1 0 1 5 0\n3 shop 3 dead 127.0.0.1 0 0 5 0\n\n";
        let rows = parse_table(reply, ' ').unwrap_or_default();
        let servers: Vec<Server> = rows.iter().filter_map(Server::of).collect();
        let told: Vec<_> = servers.iter().map(|s| (s.name.as_str(), s.share_weight(), s.up)).collect();
        assert_eq!(told, [("blue", 95, true), ("green", 0, true), ("dead", 5, false)]);
        assert!(parse_table("Can't find backend.\n", ' ').is_none());
    }
}
