//! Envoy: its hosts, its counters, and what else stands in a route.

use std::io::Read;
use std::net::TcpListener;

use serde_json::json;

use super::*;
use crate::support::envoy::Envoy;

/// Starts one, and again with another configuration.
fn start(sides: &Sides, change: impl FnOnce(&mut Value)) -> Envoy {
    let mut envoy = Envoy::start(sides.path(), sides.blue.port, sides.green.port);
    let path = sides.path().join("envoy.json");
    let mut config = json(&path);
    change(&mut config["static_resources"]["clusters"]);
    std::fs::write(&path, config.to_string()).unwrap();
    envoy.restart();
    envoy
}

/// Health checks of green by another port; below `panic` percent of healthy hosts Envoy uses all.
fn check_green(clusters: &mut Value, port: u16, panic: u32) {
    let green = &mut clusters[1];
    green["health_checks"] = json!([{"timeout": "60s", "interval": "0.1s", "no_traffic_interval": "0.1s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/health"}}]);
    green["common_lb_config"] = json!({"healthy_panic_threshold": {"value": panic}});
    let host = &mut green["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    host["health_check_config"] = json!({ "port_value": port });
}

fn edit(envoy: &Envoy, sides: &Sides, change: impl FnOnce(&mut Value)) {
    let mut file = json(&envoy.routes);
    change(&mut file);
    let beside = sides.path().join("edited.json");
    std::fs::write(&beside, file.to_string()).unwrap();
    std::fs::rename(&beside, &envoy.routes).unwrap();
}

#[test]
fn a_cluster_that_fails_its_health_check_is_given_no_more_than_a_try() {
    // Whether Envoy answers with 503 itself or, in panic, sends users to it all the same.
    for panic in [0, 50] {
        let sides = Sides::new();
        let envoy = start(&sides, |clusters| check_green(clusters, 1, panic));
        let mut router = sides.open(&envoy.router(0, 0));
        let live = wait_for("the check", || {
            Some(router.read().unwrap()).filter(|live| serving(live, Half::Green) == (0, 1))
        });
        assert_eq!((live.green, live.effective), (0.0, Some(0.0)), "known before anybody is sent there");
        let why = live.side(Half::Green).unwrap().cannot_serve(0.1).unwrap();
        assert!(why.contains("it fails its health check"), "{why}");
        assert_eq!(serving(&live, Half::Blue), (1, 1));
        sides.write(&envoy.router(0, 0), SHORT, "  healthy_within: 1s\n");
        let ended = call("promote", sides.path(), &["run"]);
        assert_eq!(ended.code, 1, "{panic}: {}", ended.stderr);
        let promotion = sides.promotion();
        assert_eq!(promotion["outcome"], "rolled_back");
        let reason = promotion["reason"].as_str().unwrap();
        assert!(reason.contains("the router itself"), "{reason}");
        assert!(same_share(router.read().unwrap().green, 0.0));
    }
}

#[test]
fn every_failure_that_a_user_of_envoy_sees_is_counted_on_its_side() {
    let sides = Sides::new();
    let retry = json!({"retry_policy": {"retry_on": "5xx,reset,connect-failure", "num_retries": 1,
        "retry_back_off": {"base_interval": "0.001s"}}});
    let mut envoy = Envoy::splitting(
        sides.path(),
        sides.blue.port,
        sides.green.port,
        "{by: requests}",
        &[json!({"prefix": "/retried"}), json!({"prefix": "/"})],
        &retry,
    );
    let path = sides.path().join("envoy.json");
    let with_green_at = |port: u16, envoy: &mut Envoy| {
        let mut config = json(&path);
        config["static_resources"]["clusters"][1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            ["address"]["socket_address"]["port_value"] = port.into();
        std::fs::write(&path, config.to_string()).unwrap();
        envoy.restart();
    };
    // Counters under another name.
    let mut config = json(&path);
    config["static_resources"]["clusters"][1]["alt_stat_name"] = "green:counted".into();
    std::fs::write(&path, config.to_string()).unwrap();
    envoy.restart();
    let mut router = sides.open(&envoy.router(0, 0));
    router.set(split(1.0)).unwrap();

    // 500 of the server's own, every second one; where Envoy tries again, users see fewer than there are.
    sides.green.answers.fail_every.store(2, Ordering::SeqCst);
    let met = meet(&envoy.url(), 10);
    let seen = count(&met, |status, _| status >= 500);
    let counted = router.counters().unwrap().unwrap();
    assert_eq!((counted.green.requests, counted.green.errors), (10, seen as u64), "{met:?}");
    let retried = meet(&format!("{}/retried", envoy.url()), 10);
    assert_eq!(count(&retried, |status, _| status >= 500), 0, "{retried:?}");
    let counted = router.counters().unwrap().unwrap();
    let attempts = sides.green.served();
    assert_eq!((counted.green.requests, counted.green.errors), (attempts, attempts / 2), "{counted:?}");
    assert_eq!((counted.blue.requests, counted.blue.errors, counted.nobody), (0, 0, 0));

    // Nobody listens.
    with_green_at(1, &mut envoy);
    let met = meet(&envoy.url(), 5);
    assert_eq!(count(&met, |status, _| status == 503), 5);
    let again = router.counters().unwrap().unwrap();
    assert_ne!(again.instance, counted.instance);
    assert_eq!((again.green.requests, again.green.errors, again.blue.errors), (5, 5, 0), "{again:?}");

    // One that hangs up before it answers.
    with_green_at(hangs_up(), &mut envoy);
    let met = meet(&envoy.url(), 5);
    assert_eq!(count(&met, |status, _| status == 503), 5);
    let counted = router.counters().unwrap().unwrap();
    assert_eq!((counted.green.requests, counted.green.errors), (5, 5));

    // A route of the same listener that leads to a cluster which is not there: nobody's.
    edit(&envoy, &sides, |file| {
        let routes = file["resources"][0]["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
        routes.insert(0, json!({"match": {"prefix": "/lost"}, "route": {"cluster": "nowhere"}}));
    });
    let lost = format!("{}/lost", envoy.url());
    // Until Envoy has it, the server that hangs up answers there as well.
    let counted = wait_for("the route", || {
        assert_eq!(meet(&lost, 1)[0].0, 503);
        router.counters().unwrap().filter(|counted| counted.nobody >= 1)
    });
    assert_eq!(meet(&lost, 1)[0].0, 503);
    let again = router.counters().unwrap().unwrap();
    assert_eq!((again.nobody, again.green.errors), (counted.nobody + 1, counted.green.errors));
}

/// A server that reads a request and hangs up.
fn hangs_up() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    port
}

#[test]
fn a_third_cluster_is_told_keeps_its_share_and_does_not_hold_up_the_way_back() {
    let sides = Sides::new();
    let stranger = Side::start("0.9");
    let envoy = start(&sides, |clusters| {
        let mut other = clusters[0].clone();
        other["name"] = "canary".into();
        other["load_assignment"]["cluster_name"] = "canary".into();
        other["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
            ["port_value"] = stranger.port.into();
        clusters.as_array_mut().unwrap().push(other);
    });
    let mut router = sides.open(&envoy.router(0, 0));
    router.check().unwrap();
    router.set(split(0.5)).unwrap();
    edit(&envoy, &sides, |file| {
        let routes = &mut file["resources"][0]["virtual_hosts"][0]["routes"];
        let clusters = &mut routes[1]["route"]["weighted_clusters"]["clusters"];
        clusters.as_array_mut().unwrap().push(json!({"name": "canary", "weight": 10_000}));
    });
    let live = wait_for("the stranger", || router.read().ok().filter(|live| !live.strangers.is_empty()));
    assert!(same_share(live.green, 0.5), "of both sides: {live:?}");
    assert_eq!(live.strangers, ["the cluster `canary` gets 50 % of a route"]);
    let fault = router.check().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert!(fault.to_string().contains("a route splits between others"), "{fault}");
    router.set(split(0.0)).unwrap();
    let live = router.read().unwrap();
    assert!(same_share(live.green, 0.0) && live.strangers.len() == 1, "{live:?}");
    let met = meet(&envoy.url(), 200);
    let others = count(&met, |_, release| release == "0.9");
    assert!((40..=160).contains(&others), "about half: {others}");
    assert_eq!(count(&met, |_, release| release == "1.1"), 0);
}

#[test]
fn hosts_that_are_draining_are_told_and_unequal_weights_of_hosts_stay() {
    let sides = Sides::new();
    let endpoints = sides.path().join("eds.json");
    let port = sides.green.port;
    let assign = |second: &str| {
        let host = |address: &str, weight: u32, health: &str| {
            json!({"health_status": health, "load_balancing_weight": weight,
                "endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
        };
        let all = json!({"resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "shop-green",
            "endpoints": [{"lb_endpoints": [host("127.0.0.1", 3, "HEALTHY"), host("127.0.0.2", 1, second)]}]}]});
        swap(&endpoints, &all.to_string());
    };
    assign("HEALTHY");
    let envoy = start(&sides, |clusters| {
        clusters[1] = json!({"name": "shop-green", "connect_timeout": "60s", "type": "EDS", "eds_cluster_config": {
            "eds_config": {"resource_api_version": "V3", "path_config_source": {"path": endpoints.display().to_string()}}}});
    });
    let mut router = sides.open(&envoy.router(0, 0));
    router.check().unwrap();
    router.set(split(0.5)).unwrap();
    let live = router.read().unwrap();
    assert_eq!((serving(&live, Half::Green), live.effective), ((2, 2), Some(0.5)));
    assign("DRAINING");
    let view = wait_for("the host to drain", || {
        let view = router.read().unwrap().side(Half::Green).cloned().unwrap();
        Some(view).filter(|view| !view.taken_out.is_empty())
    });
    assert_eq!((view.serving, view.of), (1, 1));
    assert_eq!(view.taken_out, [format!("127.0.0.2:{port}: DRAINING")]);
    assert_eq!(view.cannot_serve(1.0), None);
    assign("UNHEALTHY");
    let view = wait_for("the host to be down", || {
        let view = router.read().unwrap().side(Half::Green).cloned().unwrap();
        Some(view).filter(|view| !view.down.is_empty())
    });
    assert_eq!((view.serving, view.of), (1, 2));
    let before = std::fs::read_to_string(&endpoints).unwrap();
    router.set(split(0.25)).unwrap();
    assert_eq!(std::fs::read_to_string(&endpoints).unwrap(), before, "the weights of hosts are the user's");
    let clusters: Value = serde_json::from_str(&envoy.ask("/clusters?format=json")).unwrap();
    let green = clusters["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "shop-green");
    let mut weights: Vec<u64> = green.unwrap()["host_statuses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h["weight"].as_u64().unwrap())
        .collect();
    weights.sort_unstable();
    assert_eq!(weights, [1, 3]);
    // Removed altogether: nobody is left to be sent to.
    swap(&endpoints, &before.replace("\"127.0.0.1\"", "\"127.0.0.2\"").replace("HEALTHY", "DRAINING"));
    wait_until("no host", || router.read().unwrap().side(Half::Green).unwrap().cannot_serve(0.01).is_some());
}

#[test]
fn a_cluster_that_leads_to_others_has_no_view_and_one_without_hosts_cannot_serve() {
    let sides = Sides::new();
    let envoy = start(&sides, |clusters| {
        let mut own = clusters[1].clone();
        own["name"] = "own".into();
        clusters[1] = json!({"name": "shop-green", "connect_timeout": "60s", "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["own"]}}});
        clusters.as_array_mut().unwrap().push(own);
    });
    let mut router = sides.open(&envoy.router(0, 0));
    router.check().unwrap();
    router.set(split(1.0)).unwrap();
    let live = router.read().unwrap();
    assert_eq!((live.green, live.sides, live.effective), (1.0, None, None));
    assert_eq!(count(&meet(&envoy.url(), 10), |_, release| release == "1.1"), 10);

    let sides = Sides::new();
    let envoy = start(&sides, |clusters| clusters[1]["load_assignment"]["endpoints"] = json!([]));
    let mut router = sides.open(&envoy.router(0, 0));
    let live = router.read().unwrap();
    let why = live.side(Half::Green).unwrap().cannot_serve(0.01).unwrap();
    assert!(why.contains("shop-green: it has no hosts"), "{why}");
    let fault =
        sides.open(&envoy.router(0, 0).replace("green: shop-green", "green: none")).check().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage, "{fault}");
}

#[test]
fn a_route_file_of_envoy_that_is_a_link_stays_one() {
    let sides = Sides::new();
    let envoy = Envoy::start(sides.path(), sides.blue.port, sides.green.port);
    let real = behind_a_link(&envoy.routes, &sides.path().join("elsewhere"));
    let leads_to = std::fs::read_link(&envoy.routes).unwrap();
    let mut router = sides.open(&envoy.router(0, 0));
    for share in [0.25, 0.5, 0.0] {
        router.set(split(share)).unwrap();
        assert!(same_share(router.read().unwrap().green, share));
        assert_eq!(std::fs::read_link(&envoy.routes).unwrap(), leads_to);
    }
    router.set(split(0.5)).unwrap();
    by_hand(router.as_ref(), Half::Blue);
    wait_until("the way back by hand", || same_share(router.read().unwrap().green, 0.0));
    assert_eq!(std::fs::read_link(&envoy.routes).unwrap(), leads_to);
    router.set(split(1.0)).unwrap();
    router.set(split(0.0)).unwrap();
    let green = json(&real)["resources"][0]["metadata"]["filter_metadata"]["trapkey"]["green"].clone();
    assert_eq!(green, json!(0.0));
    assert_eq!(std::fs::read_dir(real.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
}
