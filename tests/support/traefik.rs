//! A real Traefik on free loopback ports, its split in a file of the watched directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::router::RealRouter;
use super::{free_port, wait_until};

/// A running Traefik; it stops with the test.
pub(crate) struct Traefik {
    pub port: u16,
    pub api: u16,
    pub file: PathBuf,
    config: PathBuf,
    process: Child,
}

const FIRST: &str = "# Written by Trapkey; the next shift overwrites it.\n# trapkey-split 0\nhttp:\n  services:\n    shop:\n      weighted:\n        services:\n          - {name: \"shop-blue\", weight: 1}\n";

impl Traefik {
    /// Starts one with a file that gives blue everything.
    pub(crate) fn start(folder: &Path, blue: u16, green: u16) -> Self {
        let (port, api) = (free_port(), free_port());
        let watched = folder.join("dynamic");
        std::fs::create_dir(&watched).unwrap();
        let file = watched.join("split.yml");
        std::fs::write(&file, FIRST).unwrap();
        let text = format!(
            "http:\n  routers:\n    shop: {{rule: \"PathPrefix(`/`)\", entryPoints: [web], service: shop}}\n  services:\n    \
             shop-blue: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{blue}\"}}]}}}}\n    \
             shop-green: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{green}\"}}]}}}}\n"
        );
        std::fs::write(watched.join("shop.yml"), text).unwrap();
        let config = folder.join("traefik.yml");
        let text = format!(
            "global: {{checkNewVersion: false, sendAnonymousUsage: false}}\n\
             entryPoints: {{web: {{address: \"127.0.0.1:{port}\"}}, traefik: {{address: \"127.0.0.1:{api}\"}}}}\n\
             api: {{insecure: true, dashboard: false}}\nmetrics: {{prometheus: {{addRoutersLabels: true}}}}\n\
             providers: {{providersThrottleDuration: 100ms, file: {{directory: {}, watch: true}}}}\n",
            watched.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = spawn(&config);
        let running = Self { port, api, file, config, process };
        running.wait();
        running
    }

    /// Waits until the split runs, whatever it is.
    fn wait(&self) {
        let client = trapkey::world::http::Client::new(std::time::Duration::from_secs(60));
        let service = format!("http://127.0.0.1:{}/api/http/services/shop@file", self.api);
        wait_until("Traefik", || {
            client.get(&service).is_ok_and(|a| a.status == 200)
                && client.get(&self.url()).is_ok_and(|a| a.status == 200)
        });
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(config: &Path) -> Child {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.needs/bin/traefik"))
        .arg(format!("--configFile={}", config.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("traefik must be installed: scripts/install-needs")
}

impl RealRouter for Traefik {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn router(&self, _: u16, _: u16) -> String {
        let api = self.api;
        format!(
            "{{kind: traefik, target: {}, entry: \"{}\", with: {{api: \"http://127.0.0.1:{api}\", service: shop, blue: shop-blue, green: shop-green, \
             router: shop, metrics: \"http://127.0.0.1:{api}/metrics\"}}}}",
            self.file.display(),
            self.url()
        )
    }

    fn held(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    /// The split lies in the file, so it is there again.
    fn halt(&mut self) {
        self.stop();
    }

    fn begin_again(&mut self) {
        self.process = spawn(&self.config);
        self.wait();
    }

    fn lead_elsewhere(&self, port: u16) {
        let text = format!(
            "http:\n  routers:\n    admin: {{rule: \"Host(`admin`)\", entryPoints: [web], service: admin}}\n  services:\n    \
             admin: {{loadBalancer: {{servers: [{{url: \"http://localhost:{port}/\"}}]}}}}\n"
        );
        // Traefik would read one that is half written.
        let file = self.file.with_file_name("admin.yml");
        std::fs::write(file.with_extension("tmp"), text).unwrap();
        std::fs::rename(file.with_extension("tmp"), &file).unwrap();
    }
}

impl Drop for Traefik {
    fn drop(&mut self) {
        self.stop();
    }
}
