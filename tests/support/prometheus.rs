//! A real Prometheus on a free loopback port, and something for it to scrape.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::answering::{Answering, Reply};
use super::{free_port, wait_until};

/// A running Prometheus; it ends with the test.
pub(crate) struct Prometheus {
    pub port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

/// How often it scrapes. A scrape has as long as that, and leaves a gap where it takes longer.
pub(crate) const SCRAPE: Duration = Duration::from_millis(500);

impl Prometheus {
    /// Starts one that scrapes targets (`host:port`, path `/metrics`) every half second.
    pub(crate) fn start(targets: &[String]) -> Self {
        let folder = super::folder();
        let port = free_port();
        let config = folder.path().join("prometheus.yml");
        let every = SCRAPE.as_millis();
        let text = format!(
            "global: {{scrape_interval: {every}ms, scrape_timeout: {every}ms}}\n\
             scrape_configs:\n  - job_name: shop\n    static_configs:\n      - targets: {targets:?}\n"
        );
        std::fs::write(&config, text).unwrap();
        let prometheus = Self { port, child: spawn(folder.path(), port), folder };
        prometheus.wait();
        prometheus
    }

    /// Ends it now, and starts it again on what it has kept.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.folder.path(), self.port);
        self.wait();
    }

    fn wait(&self) {
        wait_until("Prometheus", || self.get("/-/ready").is_some());
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits until a query has a result now.
    pub(crate) fn wait_for(&self, query: &str) {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let path = format!("/api/v1/query?query={query}");
        wait_until(&query, || {
            let answer: Value =
                self.get(&path).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            answer["data"]["result"].as_array().is_some_and(|all| !all.is_empty())
        });
    }

    /// Ends it now.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn get(&self, path: &str) -> Option<String> {
        let client = trapkey::world::http::Client::new(Duration::from_secs(60));
        let answer = client.get(&format!("{}{path}", self.url())).ok().filter(|a| a.status == 200)?;
        String::from_utf8(answer.body).ok()
    }
}

fn spawn(folder: &Path, port: u16) -> Child {
    Command::new("prometheus")
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Something with metrics, at `/metrics`; what they are may be changed while it runs.
pub(crate) struct Exporter {
    server: Answering,
    text: Arc<Mutex<String>>,
}

impl Exporter {
    /// Starts one with metrics in Prometheus's text format.
    pub(crate) fn start(text: &str) -> Self {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let shared = Arc::clone(&text);
        let server = Answering::start(move |_| {
            Reply::Says(200, "text/plain; version=0.0.4", shared.lock().unwrap().clone())
        });
        Self { server, text }
    }

    /// From now on these are the metrics.
    pub(crate) fn set(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }

    /// Its address for [`Prometheus::start`].
    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }
}
