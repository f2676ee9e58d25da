//! A real HAProxy on free loopback ports, with an admin socket in the test's folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::router::RealRouter;
use super::{free_port, wait_until};

/// A running HAProxy; it stops with the test.
pub(crate) struct Haproxy {
    pub port: u16,
    pub socket: PathBuf,
    config: PathBuf,
    /// The plan's `split`, and the map that it goes by.
    split: Option<(String, PathBuf)>,
    process: Child,
}

impl Haproxy {
    /// Starts one in front of two sides, all traffic on blue. `more` are further lines of the backend.
    pub(crate) fn start(folder: &Path, blue: u16, green: u16, more: &str) -> Self {
        let balance = if more.contains("balance ") { "" } else { "  balance roundrobin\n" };
        let backend = format!(
            "  option redispatch\n{balance}{more}\n  server blue 127.0.0.1:{blue} weight 100 cookie b\n  server green 127.0.0.1:{green} weight 0 cookie g\n"
        );
        Self::with_backend(folder, "in", "admin", &backend)
    }

    /// Starts one with these lines of the backend `shop`, behind a frontend of that name, and a socket of that level.
    pub(crate) fn with_backend(folder: &Path, frontend: &str, level: &str, backend: &str) -> Self {
        let port = free_port();
        let socket = folder.join("haproxy.sock");
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n  stats socket {} mode 600 level {level}\n  maxconn 2000\n\
             defaults\n  mode http\n  timeout connect 60s\n  timeout client 10s\n  timeout server 10s\n\
             frontend {frontend}\n  bind 127.0.0.1:{port}\n  default_backend shop\n\
             backend shop\n{backend}\n",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = Self::spawn(&config);
        let running = Self { port, socket, config, split: None, process };
        running.wait();
        running
    }

    /// Starts one whose servers are picked by rules that compare with a map. `key` fetches what tells
    /// requests apart, `taken` are the lines of an ACL `trapkey_taken`, and `split` is the plan's block.
    pub(crate) fn splitting(
        folder: &Path,
        blue: u16,
        green: u16,
        split: &str,
        key: &str,
        taken: &str,
    ) -> Self {
        let map = folder.join("split.map");
        std::fs::write(&map, "green 0\ngreen-rest 0\nshare 0\n").unwrap();
        let more = format!(
            "  http-request set-var(txn.tk_key) {key}\n\
             \x20 http-request set-var(txn.tk_keyed) str(green),map_str_int({0},0)\n\
             \x20 http-request set-var(txn.tk_rest) str(green-rest),map_str_int({0},0)\n{taken}\
             \x20 acl trapkey_rest var(txn.tk_rest) -m int gt 0\n\
             \x20 use-server green if trapkey_key trapkey_taken or !trapkey_key trapkey_rest\n\
             \x20 use-server blue unless trapkey_key trapkey_taken or !trapkey_key trapkey_rest",
            map.display()
        );
        let mut running = Self::start(folder, blue, green, &more);
        running.split = Some((split.to_owned(), map));
        running
    }

    fn spawn(config: &Path) -> Child {
        Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy must be installed: scripts/install-needs")
    }

    fn wait(&self) {
        let port = self.port;
        wait_until("HAProxy", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
                && std::os::unix::net::UnixStream::connect(&self.socket).is_ok()
        });
    }

    /// Puts another text in the place of one in its configuration; it takes effect at the next start.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Asks the runtime API.
    pub(crate) fn ask(&self, command: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    /// Weight and admin state of a server, as HAProxy has them now.
    pub(crate) fn server(&self, name: &str) -> (u32, u32) {
        let reply = self.ask("show servers state shop");
        let line = reply.lines().find(|l| l.split(' ').nth(3) == Some(name)).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        (words[7].parse().unwrap(), words[6].parse().unwrap())
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl RealRouter for Haproxy {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn router(&self, _: u16, _: u16) -> String {
        let (split, map) = match &self.split {
            Some((split, map)) => (format!("split: {split}, "), format!(", map: {}", map.display())),
            None => Default::default(),
        };
        format!(
            "{{kind: haproxy, target: {}, entry: \"{}\", {split}with: {{backend: shop, blue: blue, green: green{map}}}}}",
            self.socket.display(),
            self.url()
        )
    }

    /// Weights and admin states; the whole table would also tell how long ago they changed.
    fn held(&self) -> String {
        let map = self.split.as_ref().map(|(_, map)| self.ask(&format!("show map {}", map.display())));
        format!("{:?} {:?} {map:?}", self.server("blue"), self.server("green"))
    }

    /// Runtime weights are lost.
    fn halt(&mut self) {
        self.stop();
    }

    fn begin_again(&mut self) {
        self.process = Self::spawn(&self.config);
        self.wait();
    }

    fn lead_elsewhere(&self, port: u16) {
        let admin = format!("\nbackend admin\n  server a1 127.0.0.1:{port}\nbackend shop\n");
        self.edit("\nbackend shop\n", &admin);
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.stop();
    }
}
