//! A real nginx on a free loopback port, its split in an include file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::router::RealRouter;
use super::{free_port, wait_until};

/// The plan's `split` of a router that splits requests, each by itself.
pub(crate) const REQUESTS: &str = "{by: requests}";

/// A running nginx; it stops with the test.
pub(crate) struct Nginx {
    pub port: u16,
    pub include: PathBuf,
    pub config: PathBuf,
    split: String,
    process: Child,
}

impl Nginx {
    /// Starts one with an include file that gives blue everything.
    pub(crate) fn start(folder: &Path, blue: u16, _green: u16) -> Self {
        Self::with(folder, &format!("upstream shop {{\n    server 127.0.0.1:{blue};\n}}\n"), "shop", REQUESTS)
    }

    /// Starts one that takes the upstream of each request from `$trapkey_upstream`; `split` is the
    /// plan's block.
    pub(crate) fn splitting(folder: &Path, blue: u16, green: u16, split: &str) -> Self {
        let named = format!(
            "upstream shop_blue {{ server 127.0.0.1:{blue}; }}\nupstream shop_green {{ server 127.0.0.1:{green}; }}\n\
             map \"\" $trapkey_upstream {{ default shop_blue; }}\n"
        );
        Self::with(folder, &named, "$trapkey_upstream", split)
    }

    /// Starts one with these upstreams in its include file, and everything passed on to `pass`.
    pub(crate) fn with(folder: &Path, upstreams: &str, pass: &str, split: &str) -> Self {
        let port = free_port();
        let include = folder.join("split.conf");
        let config = folder.join("nginx.conf");
        let text = format!("{upstreams}map \"\" $trapkey_split {{ default \"trapkey first 0\"; }}\n");
        std::fs::write(&include, text).unwrap();
        let at = folder.display();
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "{user} daemon off; worker_processes 2; pid {at}/nginx.pid; error_log {at}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3;\n\
             uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;\n\
             include {};\n\
             server {{ listen 127.0.0.1:{port};\n\
             location = /trapkey-split {{ return 200 $trapkey_split; }}\n\
             location / {{ proxy_pass http://{pass}; }} }} }}\n",
            include.display()
        );
        std::fs::write(&config, text).unwrap();
        Self::foreign_splitting(&config, &include, port, split)
    }

    /// Starts one on a configuration that is there.
    pub(crate) fn foreign(config: &Path, include: &Path, port: u16) -> Self {
        Self::foreign_splitting(config, include, port, REQUESTS)
    }

    fn foreign_splitting(config: &Path, include: &Path, port: u16, split: &str) -> Self {
        let (process, split) = (spawn(config), split.to_owned());
        wait(port);
        let nginx = Self { port, include: include.to_owned(), config: config.to_owned(), split, process };
        nginx.wait_for_workers();
        nginx
    }

    /// The `router:` block of a plan with these sides, and `more` among its settings.
    pub(crate) fn block(&self, blue: &str, green: &str, more: &str) -> String {
        let (config, port) = (self.config.display(), self.port);
        format!(
            "{{kind: nginx, target: {}, entry: \"{}\", split: {}, with: {{upstream: shop, blue: {blue}, green: {green}, \
             status: \"http://127.0.0.1:{port}/trapkey-split\", test: [nginx, -t, -c, {config}], reload: [nginx, -s, reload, -c, {config}]{more}}}}}",
            self.include.display(),
            self.url(),
            self.split
        )
    }

    /// Whether the include file names this one server and no other.
    pub(crate) fn names_only(&self, port: u16) -> bool {
        let text = self.held();
        let servers: Vec<&str> = text.lines().filter(|line| line.trim().starts_with("server ")).collect();
        servers == [format!("    server 127.0.0.1:{port};")]
    }

    /// The processes that take users' connections, those that are about to end among them.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let id = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let named = |id: &u32| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("worker process")
        };
        children.split_whitespace().filter_map(|id| id.parse().ok()).filter(named).collect()
    }

    /// Waits until it has all the workers of its configuration.
    fn wait_for_workers(&self) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let asked = text.split_once("worker_processes").map_or("1", |(_, rest)| rest.trim_start());
        let asked: String = asked.chars().take_while(char::is_ascii_digit).collect();
        let asked: usize = asked.parse().expect("so many worker_processes");
        wait_until("the workers of nginx", || self.workers().len() >= asked);
    }

    /// Starts it on the configuration that lies in its folder.
    fn spawn(&mut self) {
        self.process = spawn(&self.config);
        wait(self.port);
        self.wait_for_workers();
    }

    /// Ends it with all its workers.
    fn stop(&mut self) {
        // The master ends its workers; a kill would leave them behind.
        let _ = Command::new("kill").arg("-TERM").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

fn spawn(config: &Path) -> Child {
    Command::new("nginx")
        .arg("-c")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx must be installed: scripts/install-needs")
}

fn wait(port: u16) {
    wait_until("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

impl RealRouter for Nginx {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn router(&self, blue: u16, green: u16) -> String {
        self.block(&format!("\"127.0.0.1:{blue}\""), &format!("\"127.0.0.1:{green}\""), "")
    }

    fn held(&self) -> String {
        std::fs::read_to_string(&self.include).unwrap()
    }

    fn halt(&mut self) {
        self.stop();
    }

    fn begin_again(&mut self) {
        self.spawn();
    }

    fn lead_elsewhere(&self, port: u16) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let admin = format!("upstream admin {{ server localhost:{port}; }}\nserver {{ listen");
        std::fs::write(&self.config, text.replacen("server { listen", &admin, 1)).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}
