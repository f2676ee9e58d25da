//! A real Envoy on free loopback ports, its routes in a file that it watches.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::router::RealRouter;
use super::{free_port, wait_until};

/// A running Envoy; it stops with the test.
pub(crate) struct Envoy {
    pub port: u16,
    pub admin: u16,
    pub routes: PathBuf,
    config: PathBuf,
    split: String,
    process: Child,
}

impl Envoy {
    /// Starts one in front of two sides, all traffic on blue, each request by itself.
    pub(crate) fn start(folder: &Path, blue: u16, green: u16) -> Self {
        Self::splitting(folder, blue, green, "{by: requests}", &[json!({"prefix": "/"})], &json!({}))
    }

    /// Starts one whose routes match so, the first with further settings of its action. `split` is
    /// the plan's block.
    pub(crate) fn splitting(
        folder: &Path,
        blue: u16,
        green: u16,
        split: &str,
        matches: &[Value],
        first: &Value,
    ) -> Self {
        let (port, admin) = (free_port(), free_port());
        let routes = folder.join("routes.json");
        let config = folder.join("envoy.json");
        std::fs::write(&routes, route_file(matches, first).to_string()).unwrap();
        let text = bootstrap(port, admin, &routes, blue, green).to_string();
        std::fs::write(&config, text).unwrap();
        let process = spawn(&config);
        let running = Self { port, admin, routes, config, split: split.to_owned(), process };
        running.wait();
        running
    }

    /// What the admin address answers.
    pub(crate) fn ask(&self, path: &str) -> String {
        let client = trapkey::world::http::Client::new(std::time::Duration::from_secs(60));
        let answer = client.get(&format!("http://127.0.0.1:{}{path}", self.admin));
        answer.map(|a| String::from_utf8_lossy(&a.body).into_owned()).unwrap_or_default()
    }

    fn wait(&self) {
        let port = self.port;
        wait_until("Envoy", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
                && self.ask("/ready").starts_with("LIVE")
        });
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn route_file(matches: &[Value], first: &Value) -> Value {
    let mut routes: Vec<Value> = vec![
        // A route of the user's own, which must survive.
        json!({"match": {"path": "/own"}, "direct_response": {"status": 204}}),
    ];
    for (number, matching) in matches.iter().enumerate() {
        let mut action = json!({"weighted_clusters": {"clusters": [
            {"name": "shop-blue", "weight": 100}, {"name": "shop-green", "weight": 0}]}});
        if number == 0 {
            for (key, value) in first.as_object().unwrap() {
                if key == "use_hash_policy" {
                    action["weighted_clusters"][key] = value.clone();
                } else {
                    action[key] = value.clone();
                }
            }
        }
        routes.push(json!({"match": matching, "route": action}));
    }
    json!({"version_info": "first", "resources": [{
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "shop",
        "virtual_hosts": [{"name": "shop", "domains": ["*"], "routes": routes}]}]})
}

fn bootstrap(port: u16, admin: u16, routes: &Path, blue: u16, green: u16) -> Value {
    let at = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let cluster = |name: &str, port: u16| {
        json!({"name": name, "connect_timeout": "60s", "type": "STATIC", "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(port)}}]}]}})
    };
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "rds": {"route_config_name": "shop", "config_source": {"resource_api_version": "V3",
            "path_config_source": {"path": routes.display().to_string()}}},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]});
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": at(admin)},
        "static_resources": {
            "listeners": [{"name": "in", "address": at(port), "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
            "clusters": [cluster("shop-blue", blue), cluster("shop-green", green)]}})
}

fn spawn(config: &Path) -> Child {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.needs/bin/envoy"))
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "2",
            "--file-flush-interval-msec",
            "100",
            "-l",
            "off",
            "-c",
        ])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("envoy must be installed: scripts/install-needs")
}

impl RealRouter for Envoy {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn router(&self, _: u16, _: u16) -> String {
        format!(
            "{{kind: envoy, target: {}, entry: \"{}\", split: {}, with: {{admin: \"http://127.0.0.1:{}\", routes: shop, blue: shop-blue, green: shop-green}}}}",
            self.routes.display(),
            self.url(),
            self.split,
            self.admin
        )
    }

    fn held(&self) -> String {
        self.ask("/config_dump?resource=dynamic_route_configs")
            + &std::fs::read_to_string(&self.routes).unwrap()
    }

    fn halt(&mut self) {
        self.stop();
    }

    fn begin_again(&mut self) {
        self.process = spawn(&self.config);
        self.wait();
    }

    fn lead_elsewhere(&self, port: u16) {
        let mut config = super::json(&self.config);
        let clusters = config["static_resources"]["clusters"].as_array_mut().unwrap();
        let blue = json!({"address": "127.0.0.1", "port_value": port});
        clusters.push(
            json!({"name": "admin", "connect_timeout": "60s", "type": "STATIC", "load_assignment": {
            "cluster_name": "admin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": blue}}}]}]}}),
        );
        std::fs::write(&self.config, config.to_string()).unwrap();
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.stop();
    }
}
