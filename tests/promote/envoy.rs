//! Envoy: what is the user's stays, and what it rejects is a named fault.

use std::collections::BTreeMap;

use serde_json::json;
use trapkey::fault::Exit;
use trapkey::plan::Loaded;
use trapkey::routers::{self, Router, Split, same_share};

use super::*;
use crate::support::envoy::Envoy;

struct Case {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
    envoy: Envoy,
}

impl Case {
    fn new() -> Self {
        let folder = folder();
        let (blue, green) = (Side::start("1.0"), Side::start("1.1"));
        let envoy = Envoy::start(folder.path(), blue.port, green.port);
        Self { folder, blue, green, envoy }
    }

    /// Opens the router with one piece of its block changed.
    fn open(&self, from: &str, to: &str) -> Box<dyn Router> {
        self.open_within("60s", from, to)
    }

    /// The same with a time limit of its own.
    fn open_within(&self, limit: &str, from: &str, to: &str) -> Box<dyn Router> {
        let router = self.envoy.router(self.blue.port, self.green.port);
        assert!(router.contains(from), "{router}");
        let router = router.replacen(from, to, 1).replacen("{kind", &format!("{{timeout: {limit}, kind"), 1);
        let path = self.folder.path().join("release.yaml");
        std::fs::write(&path, plan(&router, &self.blue, &self.green, SHORT, "")).unwrap();
        let loaded = Loaded::read(&path, BTreeMap::new()).unwrap();
        routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut file = json(&self.envoy.routes);
        change(&mut file);
        let beside = self.folder.path().join("edited.json");
        std::fs::write(&beside, file.to_string()).unwrap();
        std::fs::rename(&beside, &self.envoy.routes).unwrap();
        file.to_string()
    }
}

fn half() -> Split {
    Split { green: 0.5, close_idle_side: false }
}

#[test]
fn what_else_the_route_file_says_stays_and_a_restart_keeps_the_split() {
    let mut case = Case::new();
    case.edit(|file| {
        let host = &mut file["resources"][0]["virtual_hosts"][0];
        // The other spelling of the same fields, and settings that Trapkey knows nothing of.
        let routes = host["routes"].take();
        host["routes"] =
            serde_json::from_str(&routes.to_string().replace("weighted_clusters", "weightedClusters"))
                .unwrap();
        host["request_headers_to_add"] = json!([{"header": {"key": "x-own", "value": "1"}}]);
        file["resources"][0]["metadata"] = json!({"filter_metadata": {"own": {"kept": true}}});
    });
    wait_until("the edit", || {
        case.envoy.ask("/config_dump?resource=dynamic_route_configs").contains("x-own")
    });
    let mut router = case.open("kind", "kind");
    router.check().unwrap();
    router.set(half()).unwrap();
    let file = json(&case.envoy.routes);
    let resource = &file["resources"][0];
    assert_eq!(resource["metadata"]["filter_metadata"]["own"]["kept"], true);
    assert_eq!(resource["virtual_hosts"][0]["request_headers_to_add"][0]["header"]["key"], "x-own");
    let client = trapkey::world::http::Client::new(ANSWER);
    assert_eq!(client.get(&format!("{}/own", case.envoy.url())).unwrap().status, 204);
    let before = router.counters().unwrap().unwrap().instance;
    assert!(!before.is_empty());
    case.envoy.restart();
    let after = router.counters().unwrap().unwrap();
    assert_ne!(after.instance, before, "a restart is seen");
    assert_eq!((after.blue.requests, after.green.requests), (0, 0));
    assert!(same_share(router.read().unwrap().green, 0.5), "the split lies on disk");
}

#[test]
fn a_rejected_route_file_is_a_fault_and_the_old_routes_go_on() {
    let case = Case::new();
    let mut router = case.open("kind", "kind");
    // Somebody else's mistake, which Envoy has rejected already.
    let broken = case.edit(|file| file["resources"][0]["virtual_hosts"][0]["domains"] = json!([]));
    wait_until("the rejection", || {
        case.envoy.ask("/stats?filter=update_rejected").contains("rds.shop.update_rejected: 1")
    });
    let fault = router.set(half()).unwrap_err();
    assert_eq!(fault.exit, Exit::Infrastructure);
    assert!(fault.to_string().contains("Envoy rejected the route file"), "{fault}");
    assert_eq!(std::fs::read_to_string(&case.envoy.routes).unwrap(), broken, "as it was found");
    assert!(same_share(router.read().unwrap().green, 0.0));
    assert_eq!(case.green.served(), 0);
}

#[test]
fn a_file_that_envoy_does_not_watch_is_a_fault_within_the_time_limit() {
    let case = Case::new();
    let elsewhere = case.folder.path().join("elsewhere.json");
    std::fs::copy(&case.envoy.routes, &elsewhere).unwrap();
    case.open("routes.json", "elsewhere.json").check().unwrap();
    let before = std::fs::read(&elsewhere).unwrap();
    let fault = case.open_within("3s", "routes.json", "elsewhere.json").set(half()).unwrap_err();
    assert!(fault.to_string().contains("does not take up the route file"), "{fault}");
    assert_eq!(std::fs::read(&elsewhere).unwrap(), before);
}

#[test]
fn what_cannot_be_split_is_said_before_anything_moves() {
    let case = Case::new();
    let says = |router: &mut dyn Router, exit: Exit, words: &str| {
        let fault = router.check().unwrap_err();
        assert_eq!(fault.exit, exit, "{fault}");
        assert!(fault.to_string().contains(words), "expected `{words}` in {fault}");
    };
    says(case.open("routes: shop,", "routes: other,").as_mut(), Exit::Usage, "it has no resource `other`");
    says(
        case.open("green: shop-green", "green: elsewhere").as_mut(),
        Exit::Usage,
        "a route splits between others",
    );
    says(case.open("routes.json", "nowhere.json").as_mut(), Exit::Usage, "the route file cannot be used");
    let gone = format!("127.0.0.1:{}", crate::support::free_port());
    let admin = format!("127.0.0.1:{}", case.envoy.admin);
    says(case.open(&admin, &gone).as_mut(), Exit::Infrastructure, "is Envoy running");
    // Takes connections and says nothing; then one that babbles.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut mute = case.open_within("300ms", &admin, &address);
    says(mute.as_mut(), Exit::Infrastructure, "does not answer as it should");
    let babbles = case.blue.url().replace("http://", "");
    says(case.open(&admin, &babbles).as_mut(), Exit::Infrastructure, "its answer is no JSON");
    std::fs::write(case.folder.path().join("routes.yaml"), "resources: []\n").unwrap();
    says(case.open("routes.json", "routes.yaml").as_mut(), Exit::Usage, "it is no JSON");
    case.edit(|file| {
        let routes = &mut file["resources"][0]["virtual_hosts"][0]["routes"];
        routes[1]["route"]["weighted_clusters"]["runtime_key_prefix"] = "own".into();
    });
    says(case.open("kind", "kind").as_mut(), Exit::Usage, "the runtime may overrule its weights");
}
