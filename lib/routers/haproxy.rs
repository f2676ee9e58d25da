//! HAProxy by its runtime API: weights, states and counters over an admin socket.
//!
//! A weight that was not read back was not set: success is an empty reply, and `show servers state`
//! is what counts. Source of the column names: HAProxy management guide 2.6, sections 9.1 and 9.3.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::servers::{Cache, Servers};
use super::{
    AfterReload, Before, By, ByHand, Counters, Kind, Live, Order, OtherWay, Router, Side, SideCount,
    SideView, Split, same_share,
};
use crate::fault::Fault;
use crate::units::show_share;
use crate::yaml::Problem;

mod fit;
mod map;
mod people;
mod servers;
mod socket;
mod ways;
mod weights;

use map::{PARTS, Steering, parts};
use servers::Server;
use socket::{Address, Row, Socket};

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
    /// Whether a cache of HAProxy (`http-request cache-use`) may answer in front of both sides: `refused` when absent.
    #[serde(default)]
    cache: Cache,
}

struct Haproxy {
    socket: Socket,
    backend: String,
    blue: Vec<String>,
    green: Vec<String>,
    /// Where the split is by user or match.
    map: Option<String>,
    cache: Cache,
    by: By,
    /// What people have set, and get back.
    before: Before,
}

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let (blue, green) = (settings.blue.texts().to_vec(), settings.green.texts().to_vec());
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
        socket: Socket { address, timeout: order.timeout },
        backend: settings.backend,
        blue,
        green,
        map: settings.map,
        cache: settings.cache,
        by: order.split.clone(),
        before: Before::default(),
    }))
}

impl Haproxy {
    /// The backend's servers; all of both sides are among them.
    fn all_states(&self) -> Result<Vec<Server>, Fault> {
        let servers = self.states()?;
        self.has(&self.green, &servers)?;
        Ok(servers)
    }

    /// The backend's servers. Those of green may be missing: a deploy hook adds them.
    fn states(&self) -> Result<Vec<Server>, Fault> {
        let command = format!("show servers state {}", self.backend);
        let servers: Vec<Server> =
            self.socket.table(&command, &self.backend)?.iter().filter_map(Server::of).collect();
        self.has(&self.blue, &servers)?;
        Ok(servers)
    }

    fn has(&self, names: &[String], servers: &[Server]) -> Result<(), Fault> {
        for name in names {
            if !servers.iter().any(|s| &s.name == name) {
                let known: Vec<&str> = servers.iter().map(|s| s.name.as_str()).collect();
                return Err(Fault::usage(format!("the backend `{}` has no server `{name}`", self.backend))
                    .place(self.socket.shown())
                    .help(format!("its servers are: {}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// The counters of the backend and its servers. A frontend may have the same name, and then the name alone
    /// would give that one's.
    fn stat(&self, servers: &[Server]) -> Result<Vec<Row>, Fault> {
        const BACKEND_AND_SERVERS: u32 = 2 + 4;
        let number = servers.first().map_or("-1", |s| s.backend.as_str());
        let mut rows =
            self.socket.table(&format!("show stat {number} {BACKEND_AND_SERVERS} -1"), &self.backend)?;
        rows.retain(|row| row.get("pxname") == Some(&self.backend));
        Ok(rows)
    }

    /// The map's numbers, as HAProxy has them in force.
    fn steering(&self, map: &str) -> Result<Steering, Fault> {
        let command = format!("show map {map}");
        let reply = self.socket.ask(&command)?;
        Steering::of(&reply, &self.blue[0], &self.green[0]).ok_or_else(|| {
            let said = crate::units::clipped(&crate::redact::redact(reply.trim()), 200);
            Fault::usage(format!("HAProxy has not the lines in the map {map} that a split needs"))
                .place(self.socket.shown())
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
        let servers = if parts == 0 { self.states()? } else { self.all_states()? };
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
                .filter(|s| !s.admitted())
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
        self.socket.order(&commands, &format!("give green {}", crate::units::show_share(split.green)))
    }

    /// The split by user or match that is in force.
    fn read_parts(&self, map: &str) -> Result<Live, Fault> {
        let (steering, servers) = (self.steering(map)?, self.states()?);
        let all = |side: Side, fits: fn(&Server) -> bool| {
            servers.iter().filter(|s| self.names(side).contains(&s.name)).all(fits)
        };
        let raw =
            servers.iter().map(|s| (s.name.clone(), json!({"admitted": s.admitted(), "up": s.serving()})));
        let mut raw = serde_json::Value::Object(raw.collect());
        raw["map"] = json!({"keyed": steering.keyed, "rest": steering.rest, "share": steering.share});
        let odd = |what: &str, help: &str| {
            Fault::infrastructure(format!("{what} in `{}`", self.backend))
                .place(self.socket.shown())
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
        let open = all(Side::Green, Server::admitted);
        let green = if open { f64::from(parts) / f64::from(PARTS) } else { 0.0 };
        if green < 1.0 && !all(Side::Blue, Server::admitted) {
            return Err(odd("blue is closed while it has a share", "somebody closed it: open it by hand"));
        }
        let effective = match (all(Side::Blue, Server::serving), all(Side::Green, Server::serving)) {
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

    /// The servers of a side that are ours to steer: all but those that people had taken out.
    fn members(&self, side: Side) -> Vec<&String> {
        self.names(side).iter().filter(|name| !self.before.taken_out.contains(*name)).collect()
    }

    /// The same, as they are now.
    fn of_side<'a>(&self, side: Side, servers: &'a [Server]) -> Vec<&'a Server> {
        let members = self.members(side);
        servers.iter().filter(|s| members.contains(&&s.name)).collect()
    }

    /// One command for each server of a side that is there.
    fn each(&self, side: Side, servers: &[Server], what: &str) -> Vec<String> {
        let own = self.of_side(side, servers).into_iter();
        own.map(|s| what.replace("{}", &format!("{}/{}", self.backend, s.name))).collect()
    }

    /// Whether all servers of a side are so.
    fn all_are(&self, side: Side, what: impl Fn(&Server) -> bool) -> Result<bool, Fault> {
        Ok(self.of_side(side, &self.states()?).into_iter().all(what))
    }

    /// The weights of servers that were not there when the promotion began.
    fn learn_weights(&mut self, servers: &[Server]) {
        // One that has just been opened for the first time knows nothing of before.
        if self.before.weights.is_empty() {
            return;
        }
        for server in servers {
            let ours = self.blue.contains(&server.name) || self.green.contains(&server.name);
            if ours && !self.before.weights.contains_key(&server.name) && server.configured > 0 {
                self.before.weights.insert(server.name.clone(), server.configured);
            }
        }
    }

    /// The weight that a server has among those of its side.
    fn own_weight(&self, name: &String) -> u32 {
        self.before.weights.get(name).copied().filter(|w| *w > 0).unwrap_or(100)
    }

    /// The same of a side's servers.
    fn own_weights(&self, side: Side) -> Vec<u32> {
        self.members(side).into_iter().map(|name| self.own_weight(name)).collect()
    }

    /// The weights for a share, by server. Those that people have taken out are no part of the share, and have the
    /// weight that fits their side: they are brought back at any time.
    fn weights(&self, green: f64) -> ([Vec<u32>; 2], BTreeMap<&String, u32>) {
        let sides = weights::for_share(&self.own_weights(Side::Blue), &self.own_weights(Side::Green), green);
        let names = self.members(Side::Blue).into_iter().chain(self.members(Side::Green));
        let mut by_name: BTreeMap<&String, u32> = names.zip(sides.iter().flatten().copied()).collect();
        for (side, given) in [Side::Blue, Side::Green].into_iter().zip(&sides) {
            for name in self.names(side) {
                let fitting = || weights::fitting(self.own_weight(name), &self.own_weights(side), given);
                by_name.entry(name).or_insert_with(fitting);
            }
        }
        (sides, by_name)
    }

    /// What HAProxy says of a side.
    fn view(&self, side: Side, servers: &[Server]) -> SideView {
        let own = self.of_side(side, servers);
        // Whoever people bring back onto a side that we have closed does not open it.
        let by_us = own.iter().any(|s| !s.admitted() && self.before.has_closed(&s.name));
        let missing: Vec<String> = self
            .members(side)
            .into_iter()
            .filter(|name| !servers.iter().any(|s| &s.name == *name))
            .map(|name| format!("{name}: the backend has no such server"))
            .collect();
        let closed = by_us || (missing.is_empty() && own.iter().all(|s| !s.admitted()));
        let weighs = own.iter().any(|s| s.share_weight() > 0);
        let count = |what: fn(&Server) -> bool| {
            u32::try_from(own.iter().filter(|s| what(s)).count()).unwrap_or(u32::MAX)
        };
        let names = |what: &dyn Fn(&Server) -> bool| -> Vec<&Server> {
            own.iter().copied().filter(|s| what(s)).collect()
        };
        SideView {
            serving: count(Server::serving),
            of: u32::try_from(own.len() + missing.len()).unwrap_or(u32::MAX),
            down: names(&|s| s.admitted() && !s.serving())
                .iter()
                .map(|s| format!("{}: {}", s.name, s.why_not()))
                .chain(missing)
                .collect(),
            warming: names(&Server::warming).iter().map(|s| s.name.clone()).collect(),
            taken_out: names(&|s| !closed && is_out(s, weighs)).iter().map(|s| s.name.clone()).collect(),
            closed,
        }
    }

    /// Servers that get users and are on neither side. One that is only a `backup` gets none while others are up.
    fn strangers(&self, servers: &[Server]) -> Result<Vec<String>, Fault> {
        let named = |name: &String| self.blue.contains(name) || self.green.contains(name);
        let others: Vec<&Server> =
            servers.iter().filter(|s| !named(&s.name) && s.serving() && s.weight > 0).collect();
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.stat(servers)?;
        let is_backup = |name: &String| {
            rows.iter().any(|row| row.get("svname") == Some(name) && row.get("bck").is_some_and(|b| b == "1"))
        };
        Ok(others.iter().filter(|s| !is_backup(&s.name)).map(|s| s.name.clone()).collect())
    }

    /// Puts weights in force. Where HAProxy refuses one, those before it are taken back: a weight that is refused
    /// changes nothing.
    fn weigh(&self, commands: &[String], servers: &[Server], doing: &str) -> Result<(), Fault> {
        let done = self.socket.order(commands, doing);
        if done.is_err() {
            let named = |s: &&Server| commands.iter().any(|c| c.contains(&format!("/{} ", s.name)));
            let back = servers.iter().filter(named);
            let back = back.map(|s| format!("set server {}/{} weight {}", self.backend, s.name, s.weight));
            // What was refused is refused once more, and changes nothing either.
            for command in back.collect::<Vec<_>>() {
                let _ = self.socket.order(&[command], doing);
            }
        }
        done
    }

    /// The commands that give a side's servers these weights.
    fn to_weigh(&self, side: Side, wanted: &BTreeMap<&String, u32>, servers: &[Server]) -> Vec<String> {
        let own = servers.iter().filter(|s| self.names(side).contains(&s.name));
        own.filter_map(|s| {
            // A weight of 0 is a way of people's to take a server out.
            if self.before.taken_out.contains(&s.name) && s.admitted() && s.weight == 0 {
                return None;
            }
            let weight = *wanted.get(&s.name)?;
            (s.weight != weight).then(|| format!("set server {}/{} weight {weight}", self.backend, s.name))
        })
        .collect()
    }

    /// The commands that bring a closed side into service. Where some of it is in service, the others were taken
    /// out by people, unless it was us: they stay so.
    fn to_admit(&self, side: Side, servers: &[Server]) -> Vec<String> {
        let own = self.of_side(side, servers);
        let all = own.iter().all(|s| !s.admitted());
        // We close by maintenance: whoever drains beside those that are in it is people's.
        let maintenance = own.iter().any(|s| s.in_maintenance());
        own.into_iter()
            .filter(|s| !s.admitted() && (s.in_maintenance() || !maintenance))
            .filter(|s| all || self.before.has_closed(&s.name))
            .map(|s| format!("set server {}/{} state ready", self.backend, s.name))
            .collect()
    }

    /// Notes whom we are about to take out with their whole side, and who is out already while the others are not.
    fn note_closing(&mut self, side: Side, servers: &[Server]) {
        let open = self.of_side(side, servers).into_iter().any(Server::admitted);
        let names: Vec<(String, bool)> =
            self.of_side(side, servers).into_iter().map(|s| (s.name.clone(), s.admitted())).collect();
        for (name, admitted) in names {
            if admitted || !open || self.before.has_closed(&name) {
                self.before.closed.entry(side).or_default().insert(name);
            } else {
                self.before.taken_out.insert(name);
            }
        }
    }

    fn give_back(
        &self,
        wanted: &BTreeMap<&String, u32>,
        servers: &[Server],
        close: bool,
    ) -> Result<(), Fault> {
        let doing = "give green 0 %";
        // Somewhere to go first; then out at once, for a drained server keeps its sticky users.
        let weighed = self.weigh(&self.to_weigh(Side::Blue, wanted, servers), servers, doing);
        let mut states = self.to_admit(Side::Blue, servers);
        if close {
            states.extend(self.each(Side::Green, servers, "set server {} state maint"));
        }
        self.socket.order(&states, doing)?;
        let last = self.weigh(&self.to_weigh(Side::Green, wanted, servers), servers, doing);
        // A balancing that takes no weights any more: closed is closed.
        if close { Ok(()) } else { weighed.and(last) }
    }

    fn give(&self, green: f64, wanted: &BTreeMap<&String, u32>, servers: &[Server]) -> Result<(), Fault> {
        let doing = format!("give green {}", show_share(green));
        let total =
            |side: Side| -> u32 { self.of_side(side, servers).into_iter().map(Server::share_weight).sum() };
        let due = |side: Side| -> u32 { self.members(side).iter().filter_map(|name| wanted.get(name)).sum() };
        // Two commands are not one: take the order whose middle never exceeds what was asked.
        let fits = |g: u32, b: u32| share(g, b).is_none_or(|s| s <= green + 1e-9);
        let blue_first = fits(total(Side::Green), due(Side::Blue));
        let green_first = fits(due(Side::Green), total(Side::Blue));
        let order =
            if blue_first || !green_first { [Side::Blue, Side::Green] } else { [Side::Green, Side::Blue] };
        let commands: Vec<String> =
            order.iter().flat_map(|side| self.to_weigh(*side, wanted, servers)).collect();
        self.weigh(&commands, servers, &doing)?;
        // States last: a server that comes back must not come back with its old weight.
        let mut states = self.to_admit(Side::Green, servers);
        if due(Side::Blue) > 0 {
            states.extend(self.to_admit(Side::Blue, servers));
        }
        self.socket.order(&states, &doing)
    }
}

/// How long an agent may take to say something else: `drain` and `ready` look like a weight until it does.
const AGENT: Duration = Duration::from_secs(5);

/// Whether people have taken a server out: by its state, or by a weight of 0 while others of its side have one.
fn is_out(server: &Server, others_weigh: bool) -> bool {
    !server.admitted() || (others_weigh && server.weight == 0)
}

fn share(green: u32, blue: u32) -> Option<f64> {
    (green + blue > 0).then(|| f64::from(green) / f64::from(green + blue))
}

impl Router for Haproxy {
    fn identity(&self, old: Side) -> Vec<String> {
        let mut lines = vec![
            format!("haproxy at {}", self.socket.shown()),
            format!("backend {}", self.backend),
            format!("old side {}", self.names(old).join(", ")),
            format!("new side {}", self.names(old.other()).join(", ")),
        ];
        lines.extend(self.map.iter().map(|map| format!("map {map}")));
        lines
    }

    fn green_is_known(&mut self) -> Result<(), Fault> {
        self.all_states().map(drop)
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        self.servers_elsewhere()
    }

    fn by_people(&mut self) -> Result<ByHand, Fault> {
        // A map has no weights.
        if self.map.is_some() { Ok(ByHand::default()) } else { self.weighed_by_people() }
    }

    fn check(&mut self) -> Result<(), Fault> {
        self.is_no_master()?;
        self.may_steer()?;
        let servers = self.states()?;
        let others = self.strangers(&servers)?;
        if !others.is_empty() {
            return Err(Fault::usage(format!("the backend `{}` has servers on neither side", self.backend))
                .place(self.socket.shown())
                .cause(format!("{} would get traffic that nobody judges", others.join(", ")))
                .help("name them in `with.blue` or `with.green`, or set them to maint"));
        }
        let rows = self.stat(&servers)?;
        let backend = rows.iter().find(|row| row.get("svname").is_some_and(|n| n == "BACKEND"));
        if let Some(backend) = backend {
            self.balances_by_weight(backend)?;
        }
        self.no_cache_answers()?;
        let until = Instant::now() + AGENT;
        let mut looked = self.no_agent_weighs(&rows);
        while looked.is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
            looked = self.no_agent_weighs(&self.stat(&servers)?);
        }
        looked?;
        self.blue_is_open()?;
        let Some(map) = &self.map else { return self.keeps_nobody() };
        self.steering(map)?;
        let cookie = backend.and_then(|row| row.get("cookie")).map_or("", String::as_str);
        if cookie.is_empty() {
            return Ok(());
        }
        Err(Fault::usage(format!("the backend `{}` holds users by a cookie", self.backend))
            .place(self.socket.shown())
            .cause(format!("its cookie `{cookie}` would overrule the `split` of the plan"))
            .help("take the `cookie` line out of the backend: the split keeps users where they are"))
    }

    fn before(&mut self, known: &Before) -> Result<Before, Fault> {
        let servers = self.states()?;
        let mut taken_out = BTreeSet::new();
        // A reload has opened them: whoever of them is out now was taken out since.
        let shut = |name: &String| servers.iter().any(|s| &s.name == name && !s.admitted());
        let then: Vec<&String> = known.closed.values().flatten().collect();
        let then = if then.iter().all(|name| shut(name)) { then } else { Vec::new() };
        // The sides may have changed places since.
        let mut closed: BTreeMap<Side, BTreeSet<String>> = BTreeMap::new();
        for side in [Side::Blue, Side::Green] {
            let own = then.iter().filter(|name| self.names(side).contains(**name));
            let own: BTreeSet<String> = own.map(|name| (*name).clone()).collect();
            if !own.is_empty() {
                closed.insert(side, own);
            }
        }
        for side in [Side::Blue, Side::Green] {
            let own: Vec<&Server> = servers.iter().filter(|s| self.names(side).contains(&s.name)).collect();
            let open = own.iter().any(|s| s.admitted());
            let weighs = own.iter().any(|s| s.share_weight() > 0);
            let left: BTreeSet<String> = own
                .iter()
                // A side that is closed as a whole was closed by the release before, or waits for its first one.
                .filter(|s| is_out(s, weighs) && !then.contains(&&s.name))
                .filter(|s| open || known.taken_out.contains(&s.name))
                .map(|s| s.name.clone())
                .collect();
            if left.len() < own.len() {
                taken_out.extend(left);
            }
        }
        let mut weights = BTreeMap::new();
        for side in [Side::Blue, Side::Green] {
            let own = servers.iter().filter(|s| self.names(side).contains(&s.name));
            for server in own {
                let known = known.weights.get(&server.name).copied();
                let candidates = [Some(server.weight), known, Some(server.configured)];
                if let Some(weight) = candidates.into_iter().flatten().find(|w| *w > 0) {
                    weights.insert(server.name.clone(), weight);
                }
            }
        }
        Ok(Before { weights, taken_out, closed, set: BTreeMap::new() })
    }

    fn remember(&mut self, before: &Before) {
        self.before = before.clone();
    }

    fn known(&self) -> Option<Before> {
        Some(self.before.clone())
    }

    fn after_reload(&mut self) -> Result<Option<AfterReload>, Fault> {
        // A map lies in a file of its own, and what that says is not known here.
        if self.map.is_some() {
            return Ok(None);
        }
        let servers = self.states()?;
        let sum = |side: Side| -> u32 {
            self.names(side)
                .iter()
                .filter_map(|name| servers.iter().find(|s| &s.name == name))
                .map(|s| s.configured)
                .sum()
        };
        let Some(green) = share(sum(Side::Green), sum(Side::Blue)) else { return Ok(None) };
        let now = self.read()?.green;
        let named = |name: &String| self.blue.contains(name) || self.green.contains(name);
        let change = servers.iter().filter(|s| named(&s.name)).filter_map(|s| {
            let wanted = s.share_weight();
            let off = s.configured != wanted && !(same_share(green, now) && s.configured > 0 && wanted > 0);
            off.then(|| format!("server {} … weight {wanted}    # it says {} now", s.name, s.configured))
        });
        Ok(Some(AfterReload { green, change: change.collect() }))
    }

    fn nearest(&self, green: f64) -> f64 {
        if self.map.is_some() {
            return f64::from(parts(green)) / f64::from(PARTS);
        }
        weights::share_of(&self.weights(green).0)
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        if let Some(map) = &self.map {
            return self.set_parts(map, split);
        }
        // The way back needs no server of green.
        let servers = if split.is_way_back() { self.states()? } else { self.all_states()? };
        if split.green <= 0.0 && split.close_idle_side {
            self.note_closing(Side::Green, &servers);
        }
        let (_, wanted) = self.weights(split.green);
        if split.green <= 0.0 {
            self.give_back(&wanted, &servers, split.close_idle_side)?;
        } else {
            self.give(split.green, &wanted, &servers)?;
        }
        let set = wanted.iter().map(|(name, weight)| ((*name).clone(), *weight)).collect();
        self.before.set = set;
        Ok(())
    }

    fn read(&mut self) -> Result<Live, Fault> {
        let live = match &self.map {
            Some(map) => self.read_parts(map)?,
            None => self.read_weights()?,
        };
        let servers = self.states()?;
        self.learn_weights(&servers);
        // Whoever is in service is not closed, whoever has opened it.
        let mut closed = std::mem::take(&mut self.before.closed);
        closed.retain(|side, names| {
            names.retain(|name| servers.iter().any(|s| &s.name == name && !s.admitted()));
            !names.is_empty() || self.of_side(*side, &servers).iter().all(|s| !s.admitted())
        });
        self.before.closed = closed;
        Ok(Live {
            sides: Some([Side::Blue, Side::Green].map(|side| self.view(side, &servers))),
            strangers: self.strangers(&servers)?,
            ..live
        })
    }

    fn drain(&mut self, side: Side, limit: Duration) -> Result<u64, Fault> {
        let servers = self.states()?;
        self.note_closing(side, &servers);
        if !self.all_are(side, |s| !s.admitted() && s.weight == 0)? {
            let drain = self.each(side, &servers, "set server {} state drain");
            self.socket.order(&drain, &format!("drain {}", side.word()))?;
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
        let servers = self.states()?;
        if self.of_side(side, &servers).into_iter().any(|s| s.share_weight() > 0) {
            return Err(Fault::infrastructure(format!("{} has users again", side.word()))
                .place(&self.backend)
                .cause("somebody gave it traffic while it was drained")
                .help("look at `promote status`; it stays as it is"));
        }
        let mut last = self.each(side, &servers, "set server {} state maint");
        if left > 0 {
            last.extend(self.each(side, &servers, "shutdown sessions server {}"));
        }
        self.socket.order(&last, &format!("close {}", side.word()))
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
            commands.push(format!("set server {backend}/{name} weight {}", self.own_weight(name)));
        }
        for name in self.members(side) {
            commands.push(format!("set server {backend}/{name} state ready"));
        }
        for name in self.names(side.other()) {
            commands.push(format!("set server {backend}/{name} state maint"));
        }
        vec![
            self.socket.by_hand(&commands.join("; ")),
            self.socket.by_hand(&format!("show servers state {backend}")),
        ]
    }
}

impl Haproxy {
    /// The split by weights that is in force.
    fn read_weights(&self) -> Result<Live, Fault> {
        let servers = self.states()?;
        let sum = |side: Side, only_up: bool| -> u32 {
            let of_side = self.of_side(side, &servers).into_iter();
            of_side.filter(|s| !only_up || s.serving()).map(Server::share_weight).sum()
        };
        let raw = servers.iter().map(|s| {
            (s.name.clone(), json!({"weight": s.weight, "admitted": s.admitted(), "up": s.serving()}))
        });
        let raw = serde_json::Value::Object(raw.collect());
        let Some(green) = share(sum(Side::Green, false), sum(Side::Blue, false)) else {
            return Err(Fault::infrastructure(format!("no server of `{}` has any weight", self.backend))
                .place(self.socket.shown())
                .cause(raw)
                .help("somebody closed both sides: open one by hand"));
        };
        Ok(Live { effective: share(sum(Side::Green, true), sum(Side::Blue, true)), ..Live::of(green, raw) })
    }

    fn count(&self) -> Result<Counters, Fault> {
        let rows = self.stat(&self.states()?)?;
        let info = self.socket.ask("show info")?;
        // In a container every start has the same Pid.
        let word =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let instance = format!("{} {}", word("Pid: "), word("Start_time_sec: "));
        let side = |names: &[String]| -> SideCount {
            let rows = rows.iter().filter(|row| row.get("svname").is_some_and(|n| names.contains(n)));
            rows.map(side_count).fold(SideCount::default(), plus)
        };
        let backend = rows.iter().find(|row| row.get("svname").is_some_and(|n| n == "BACKEND"));
        let answered: u64 = rows
            .iter()
            .filter(|row| row.get("svname").is_some_and(|n| n != "BACKEND"))
            .map(|row| number(row, "hrsp_5xx") + number(row, "eresp") + number(row, "econ"))
            .sum();
        Ok(Counters {
            blue: side(&self.blue),
            green: side(&self.green),
            nobody: backend.map_or(0, |row| number(row, "hrsp_5xx").saturating_sub(answered)),
            sticky: backend.is_some_and(|row| row.get("cookie").is_some_and(|c| !c.is_empty())),
            instance,
        })
    }
}

fn number(row: &Row, column: &str) -> u64 {
    row.get(column).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0)
}

/// What one server counted. HAProxy books a request that it could not deliver on the server that it was for as a
/// connection error or a redispatch, and not among its requests (measured with 2.6).
fn side_count(row: &Row) -> SideCount {
    let of = |column: &str| number(row, column);
    let (delivered, requests) = if row.get("mode").is_some_and(|mode| mode == "tcp") {
        // Sessions, with each further try of one.
        let sessions = of("stot").saturating_sub(of("wretr"));
        (sessions.saturating_sub(of("econ") + of("wredis")), sessions)
    } else {
        (of("req_tot"), of("req_tot") + of("econ") + of("wredis"))
    };
    let time = |column: &str| (delivered > 0).then(|| of(column) as f64);
    let failed = of("hrsp_5xx") + of("eresp") + of("econ") + of("wredis") + of("wretr");
    SideCount {
        requests,
        assigned: Some(of("stot").saturating_sub(of("wretr"))),
        errors: failed.min(requests),
        mean_ms: time("rtime"),
        max_ms: time("rtime_max"),
        current: of("scur"),
    }
}

fn plus(one: SideCount, other: SideCount) -> SideCount {
    let greater = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    };
    let mean = match (one.mean_ms, other.mean_ms) {
        (Some(a), Some(b)) => {
            let (n, m) = (one.requests as f64, other.requests as f64);
            Some((a * n + b * m) / (n + m))
        }
        (a, b) => a.or(b),
    };
    SideCount {
        requests: one.requests + other.requests,
        assigned: Some(one.assigned.unwrap_or(0) + other.assigned.unwrap_or(0)),
        errors: one.errors + other.errors,
        mean_ms: mean,
        max_ms: greater(one.max_ms, other.max_ms),
        current: one.current + other.current,
    }
}
