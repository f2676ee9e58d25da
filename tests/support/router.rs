//! What the contract suite of the routers needs of a real one, and one for each kind.

use std::path::Path;

use super::caddy::Caddy;
use super::command_router::CommandRouter;
use super::envoy::Envoy;
use super::haproxy::Haproxy;
use super::nginx::Nginx;
use super::traefik::Traefik;

/// A real router in front of two sides; it stops with the test.
pub(crate) trait RealRouter {
    /// Where users' requests enter.
    fn url(&self) -> String;
    /// The `router:` block of a plan for it, `entry` included.
    fn router(&self, blue: u16, green: u16) -> String;
    /// The split as the router itself holds it (a file, or what its control plane answers): it must
    /// not change when a split is set that is in force already.
    fn held(&self) -> String;
    /// Ends it hard, as a crash does.
    fn halt(&mut self);
    /// Starts it again on the configuration that lies on disk.
    fn begin_again(&mut self);
    /// Puts one more way to a port into that configuration, called `admin`: it counts from the next start on.
    fn lead_elsewhere(&self, port: u16);
    /// One after the other.
    fn restart(&mut self) {
        self.halt();
        self.begin_again();
    }
}

/// Starts a router of a kind, all traffic on blue.
pub(crate) fn start(kind: &str, folder: &Path, blue: u16, green: u16) -> Box<dyn RealRouter> {
    match kind {
        "haproxy" => Box::new(Haproxy::start(folder, blue, green, "")),
        "envoy" => Box::new(Envoy::start(folder, blue, green)),
        "nginx" => Box::new(Nginx::start(folder, blue, green)),
        "traefik" => Box::new(Traefik::start(folder, blue, green)),
        "caddy" => Box::new(Caddy::start(folder, blue)),
        "command" => Box::new(CommandRouter::start(folder, blue, green)),
        other => panic!("the router `{other}` has no fixture in this suite"),
    }
}
