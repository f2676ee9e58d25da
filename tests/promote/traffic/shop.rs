//! HAProxy with three servers a side, and the operator who runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::servers::{Agents, Server};
use crate::support::{free_port, wait_for, wait_until};

/// The servers of each side, with the weights that they have among themselves.
pub(super) const SIDES: [[(&str, u32); 3]; 2] =
    [[("a1", 200), ("a2", 100), ("a3", 50)], [("b1", 100), ("b2", 100), ("b3", 100)]];

/// How a server was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Maint,
    Drain,
    /// Its agent said so.
    Agent,
}

/// A line of `show servers state`.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) weight: u32,
    /// Nobody has it in maintenance, and nobody drains it.
    pub(super) admitted: bool,
    /// Its checks find it well.
    pub(super) up: bool,
}

/// HAProxy and all servers behind it; they stop with the test.
pub(super) struct Shop {
    folder: PathBuf,
    pub(super) port: u16,
    /// Which release each side is.
    pub(super) releases: [Arc<AtomicU32>; 2],
    pub(super) servers: Vec<Server>,
    /// What each side says of itself as a whole: its own balancer, which leaves out servers that are down.
    pub(super) fronts: [Server; 2],
    pub(super) agents: Agents,
    /// The weights of the configuration, as the operator has written them last.
    pub(super) configured: BTreeMap<String, u32>,
    /// Who is out, and how.
    pub(super) held: BTreeMap<String, How>,
    /// The weights of the configuration that runs.
    pub(super) loaded: BTreeMap<String, u32>,
    /// Whom it calls `disabled`.
    pub(super) disabled: BTreeSet<String>,
    process: Child,
}

impl Shop {
    /// Everybody is on the first side.
    pub(super) fn start(folder: &Path) -> Self {
        let releases = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(u32::MAX))];
        let mut servers = Vec::new();
        let mut configured = BTreeMap::new();
        for (number, side) in SIDES.iter().enumerate() {
            for (name, weight) in side {
                servers.push(Server::start(name, &releases[number]));
                configured.insert((*name).to_owned(), if number == 0 { *weight } else { 0 });
            }
        }
        let fronts = [Server::start("a", &releases[0]), Server::start("b", &releases[1])];
        let (agents, port) = (Agents::start(), free_port());
        write(folder, port, agents.port, &servers, &configured, &BTreeSet::new());
        let process = spawn(folder, &[]);
        let folder = folder.to_path_buf();
        let shop = Self {
            folder,
            port,
            releases,
            servers,
            fronts,
            agents,
            loaded: configured.clone(),
            configured,
            held: BTreeMap::new(),
            disabled: BTreeSet::new(),
            process,
        };
        wait_until("HAProxy", || shop.try_ask("show info").is_ok());
        wait_until("the checks of HAProxy", || shop.states().iter().all(|server| server.up));
        shop
    }

    /// The `router:` block of a plan that goes from one side to the other.
    pub(super) fn router(&self, blue: usize) -> String {
        let names = |side: usize| SIDES[side].map(|(name, _)| name).join(", ");
        format!(
            "{{kind: haproxy, timeout: 60s, target: haproxy.sock, entry: \"http://127.0.0.1:{}\", with: {{backend: shop, blue: [{}], green: [{}]}}}}",
            self.port,
            names(blue),
            names(1 - blue)
        )
    }

    /// Asks the runtime API.
    pub(super) fn try_ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.folder.join("haproxy.sock"))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    }

    pub(super) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    pub(super) fn states(&self) -> Vec<State> {
        parse(&self.ask("show servers state shop"))
    }

    pub(super) fn server(&self, name: &str) -> &Server {
        self.servers.iter().find(|server| server.name == name).unwrap()
    }

    /// An operator, or an agent, takes a server out; false where its side was closed before, so that it was out.
    pub(super) fn hold(&mut self, name: &str, how: How) -> bool {
        let states = match how {
            // In one go: the answer tells what the others were when it went out.
            How::Maint => self.ask(&format!("set server shop/{name} state maint; show servers state shop")),
            How::Drain => self.ask(&format!("set server shop/{name} state drain; show servers state shop")),
            How::Agent => {
                self.agents.say(name, "drain");
                wait_for("a server to be out", || {
                    let states = self.ask("show servers state shop");
                    parse(&states).iter().any(|s| s.name == name && !s.admitted).then_some(states)
                })
            }
        };
        let side = SIDES.iter().find(|side| side.iter().any(|(own, _)| *own == name)).unwrap();
        let others = side.iter().filter(|(own, _)| *own != name && !self.held.contains_key(*own));
        let states = parse(&states);
        let open = |own: &str| states.iter().any(|s| s.name == own && s.admitted);
        if others.clone().count() > 0 && !others.clone().any(|(own, _)| open(own)) {
            self.agents.say(name, "up");
            return false;
        }
        self.held.insert(name.to_owned(), how);
        true
    }

    /// Whoever took it out brings it back.
    pub(super) fn bring_back(&mut self, name: &str) {
        let how = self.held.remove(name).unwrap();
        // An agent that went on to say `ready` would bring it back from anything.
        if how == How::Agent {
            self.agents.say(name, "up");
        }
        assert_eq!(self.ask(&format!("set server shop/{name} state ready")).trim(), "");
    }

    /// A reload as operators do it: the new process takes the sockets over, the old one ends what it has. Weights
    /// are lost; who is held is written as `disabled` first.
    pub(super) fn reload(&mut self) {
        let held: BTreeSet<String> = self.held.keys().cloned().collect();
        write(&self.folder, self.port, self.agents.port, &self.servers, &self.configured, &held);
        self.disabled = held;
        self.loaded = self.configured.clone();
        let old = self.process.id().to_string();
        let socket = self.folder.join("haproxy.sock").display().to_string();
        let fresh = spawn(&self.folder, &["-x", &socket, "-sf", &old]);
        let mut before = std::mem::replace(&mut self.process, fresh);
        let pid = format!("Pid: {}\n", self.process.id());
        wait_until("the new HAProxy", || self.try_ask("show info").is_ok_and(|info| info.contains(&pid)));
        wait_until("the end of the old HAProxy", || before.try_wait().unwrap().is_some());
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The answer to `show servers state`.
fn parse(reply: &str) -> Vec<State> {
    let rows = reply.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter(|words| words.len() > 8 && words[1] == "shop")
        .map(|words| State {
            name: words[3].to_owned(),
            up: words[5] == "2",
            admitted: words[6].parse::<u32>().unwrap() & 0x09 == 0,
            weight: words[7].parse().unwrap(),
        })
        .collect()
}

fn write(
    folder: &Path,
    port: u16,
    agents: u16,
    servers: &[Server],
    weights: &BTreeMap<String, u32>,
    disabled: &BTreeSet<String>,
) {
    let mut text = format!(
        "global\n  stats socket {}/haproxy.sock mode 600 level admin expose-fd listeners\n  maxconn 2000\n  hard-stop-after 10s\n\
         defaults\n  mode http\n  timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n  timeout check 60s\n\
         \x20 option redispatch 1\n  retries 3\n  retry-on conn-failure empty-response\n\
         frontend in\n  bind 127.0.0.1:{port}\n  default_backend shop\n\
         backend shop\n  balance roundrobin\n  option httpchk GET /check\n\
         \x20 default-server check inter 200ms fall 2 rise 1 agent-check agent-addr 127.0.0.1 agent-port {agents} agent-inter 200ms\n",
        folder.display()
    );
    for Server { name, port, .. } in servers {
        let weight = weights[name];
        let out = if disabled.contains(name) { " disabled" } else { "" };
        text += &format!("  server {name} 127.0.0.1:{port} weight {weight} agent-send \"{name}\\n\"{out}\n");
    }
    std::fs::write(folder.join("haproxy.cfg"), text).unwrap();
}

fn spawn(folder: &Path, more: &[&str]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("haproxy.log")).unwrap();
    Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(folder.join("haproxy.cfg"))
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("haproxy must be installed: scripts/install-needs")
}
