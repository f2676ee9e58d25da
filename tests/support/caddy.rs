//! A real Caddy on free loopback ports, its split in the configuration that it runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::router::RealRouter;
use super::{free_port, wait_until};

/// A running Caddy; it stops with the test.
pub(crate) struct Caddy {
    pub port: u16,
    pub admin: u16,
    folder: PathBuf,
    process: Child,
}

impl Caddy {
    /// Starts one that gives blue everything.
    pub(crate) fn start(folder: &Path, blue: u16) -> Self {
        let (port, admin) = (free_port(), free_port());
        let config = serde_json::json!({
            "admin": {"listen": format!("127.0.0.1:{admin}")},
            "apps": {"http": {"servers": {"srv0": {
                "listen": [format!("127.0.0.1:{port}")],
                "automatic_https": {"disable": true},
                "routes": [{"handle": [{
                    "@id": "shop",
                    "handler": "reverse_proxy",
                    "load_balancing": {"selection_policy": {"policy": "round_robin"}},
                    "upstreams": [{"dial": format!("127.0.0.1:{blue}")}],
                }]}],
            }}}},
        });
        std::fs::write(folder.join("caddy.json"), config.to_string()).unwrap();
        let process = spawn(folder);
        let running = Self { port, admin, folder: folder.to_path_buf(), process };
        running.wait();
        running
    }

    /// What its admin API answers.
    pub(crate) fn ask(&self, path: &str) -> String {
        let client = trapkey::world::http::Client::new(std::time::Duration::from_secs(60));
        let mut request =
            trapkey::world::http::Request::get(&format!("http://127.0.0.1:{}{path}", self.admin));
        // It ends its idle connections with every change.
        request.headers.push(("connection".into(), "close".into()));
        String::from_utf8(client.send(&request).unwrap().body).unwrap()
    }

    fn wait(&self) {
        let there = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("Caddy", || there(self.port) && there(self.admin));
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    Command::new("caddy")
        .args(["run", "--config"])
        .arg(folder.join("caddy.json"))
        // It keeps its own copy of every change there.
        .env("HOME", folder)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("caddy must be installed: scripts/install-needs")
}

impl RealRouter for Caddy {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn router(&self, blue: u16, green: u16) -> String {
        format!(
            "{{kind: caddy, target: \"http://127.0.0.1:{}\", entry: \"{}\", with: {{id: shop, blue: \"127.0.0.1:{blue}\", green: \"127.0.0.1:{green}\"}}}}",
            self.admin,
            self.url()
        )
    }

    fn held(&self) -> String {
        self.ask("/config/")
    }

    /// What came over the admin API is lost (without `--resume`).
    fn halt(&mut self) {
        self.stop();
    }

    fn begin_again(&mut self) {
        self.process = spawn(&self.folder);
        self.wait();
    }

    fn lead_elsewhere(&self, port: u16) {
        let path = self.folder.join("caddy.json");
        let mut config = super::json(&path);
        config["apps"]["http"]["servers"]["admin"] = serde_json::json!({
            "listen": [format!("127.0.0.1:{}", free_port())],
            "automatic_https": {"disable": true},
            "routes": [{"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": format!("localhost:{port}")}]}]}],
        });
        std::fs::write(path, config.to_string()).unwrap();
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.stop();
    }
}
