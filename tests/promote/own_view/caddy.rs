//! Caddy: its checks, and what else stands among the upstreams.

use serde_json::json;

use super::*;
use crate::support::caddy::Caddy;

/// Puts something into the handler: what a list gets is added to it.
fn change(caddy: &Caddy, at: &str, to: &Value) {
    ask(caddy, "POST", at, to);
}

fn ask(caddy: &Caddy, method: &str, at: &str, to: &Value) {
    let mut request = Request::get(&format!("http://127.0.0.1:{}/id/shop/{at}", caddy.admin));
    request.method = method.into();
    request.body = Some(to.to_string().into_bytes());
    request.headers.push(("content-type".into(), "application/json".into()));
    request.headers.push(("connection".into(), "close".into()));
    let answer = Client::new(ANSWER).send(&request).unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

#[test]
fn an_upstream_that_caddy_skips_for_failures_of_users_does_not_serve() {
    let sides = Sides::new();
    let dead = crate::support::free_port();
    let caddy = Caddy::start(sides.path(), sides.blue.port);
    let block = caddy.router(sides.blue.port, dead);
    let mut router = sides.open(&block);
    router.set(split(0.5)).unwrap();
    assert_eq!(router.read().unwrap().sides, None, "it looks after nobody");
    change(&caddy, "health_checks", &json!({"passive": {"fail_duration": "1h", "max_fails": 2}}));
    let live = router.read().unwrap();
    assert_eq!((serving(&live, Half::Green), live.effective), ((1, 1), Some(0.5)));
    let met = meet(&caddy.url(), 20);
    assert_eq!(count(&met, |status, _| status == 502), 2, "{met:?}");
    assert_eq!(count(&met, |status, _| status == 200), 18, "blue gets the share of green: {met:?}");
    let live = router.read().unwrap();
    assert_eq!((serving(&live, Half::Blue), serving(&live, Half::Green)), ((1, 1), (0, 1)));
    assert_eq!(live.effective, Some(0.0));
    let why = live.side(Half::Green).unwrap().cannot_serve(1.0).unwrap();
    assert!(why.contains("2 requests of users failed"), "{why}");
    router.set(split(0.0)).unwrap();
    let live = router.read().unwrap();
    assert!(live.side(Half::Green).unwrap().closed, "{live:?}");
    assert_eq!((serving(&live, Half::Blue), live.effective), ((1, 1), Some(0.0)));
}

#[test]
fn an_upstream_that_fails_the_checks_of_caddy_does_not_serve() {
    let sides = Sides::new();
    let caddy = Caddy::start(sides.path(), sides.blue.port);
    let mut router = sides.open(&caddy.router(sides.blue.port, sides.green.port));
    sides.green.answers.health.store(503, Ordering::SeqCst);
    change(
        &caddy,
        "health_checks",
        &json!({"active": {"uri": "/health", "interval": "100ms", "timeout": "60s"}}),
    );
    router.set(split(0.5)).unwrap();
    let live = router.read().unwrap();
    assert!(live.side(Half::Green).is_none_or(|view| view.serving == 0), "up is no view yet: {live:?}");
    // Its metric is renewed every ten seconds.
    let live = wait_for("Caddy to say it", || {
        Some(router.read().unwrap()).filter(|live| serving(live, Half::Green) == (0, 1))
    });
    assert_eq!((serving(&live, Half::Blue), live.effective), ((1, 1), Some(0.0)));
    let met = meet(&caddy.url(), 20);
    assert_eq!(count(&met, |_, release| release == "1.0"), 20, "{met:?}");
}

#[test]
fn an_id_of_an_upstream_is_no_obstacle() {
    let sides = Sides::new();
    let (blue, green) = (sides.blue.port, sides.green.port);
    let caddy = Caddy::start(sides.path(), blue);
    let old = json!({"@id": "old", "dial": format!("127.0.0.1:{blue}"), "max_requests": 7});
    ask(&caddy, "PATCH", "upstreams", &json!([old]));
    let mut router = sides.open(&caddy.router(blue, green));
    for share in [0.25, 0.5, 0.0] {
        router.set(split(share)).unwrap();
        assert!(same_share(router.read().unwrap().green, share));
        assert!(caddy.ask("/id/old").contains(&format!(":{blue}\"")), "{}", caddy.ask("/id/shop"));
    }
}

#[test]
fn a_third_upstream_is_told_keeps_its_share_and_does_not_hold_up_the_way_back() {
    let sides = Sides::new();
    let stranger = Side::start("0.9");
    let (blue, green) = (sides.blue.port, sides.green.port);
    let caddy = Caddy::start(sides.path(), blue);
    let mut router = sides.open(&caddy.router(blue, green));
    router.set(split(0.5)).unwrap();
    let dial = |port: u16| format!("127.0.0.1:{port}");
    change(&caddy, "upstreams", &json!({"dial": dial(stranger.port), "max_requests": 7}));
    let live = router.read().unwrap();
    assert!(same_share(live.green, 0.5), "of both sides: {live:?}");
    assert_eq!(live.strangers, [format!("the upstream 127.0.0.1:{} gets 33.3 %", stranger.port)]);
    let fault = router.check().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert!(fault.to_string().contains("on neither side"), "{fault}");
    for (share, green_gets) in [(0.0, 0), (0.25, 15)] {
        router.set(split(share)).unwrap();
        let live = router.read().unwrap();
        assert!(same_share(live.green, share) && live.strangers.len() == 1, "{live:?}");
        let met = meet(&caddy.url(), 90);
        assert_eq!(count(&met, |_, release| release == "0.9"), 30, "{share}: {met:?}");
        assert_eq!(count(&met, |_, release| release == "1.1"), green_gets, "{share}: {met:?}");
    }
    let handler: Value = serde_json::from_str(&caddy.ask("/id/shop")).unwrap();
    let own: Vec<&Value> = handler["upstreams"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|u| u["dial"] == dial(stranger.port))
        .collect();
    assert!(own.iter().all(|upstream| upstream["max_requests"] == 7), "its settings stay: {own:?}");
}

#[test]
fn a_handler_that_has_become_somebody_elses_is_never_written_to() {
    let sides = Sides::new();
    let (blue, green) = (sides.blue.port, sides.green.port);
    let caddy = Caddy::start(sides.path(), blue);
    let mut router = sides.open(&caddy.router(blue, green));
    router.set(split(0.5)).unwrap();
    // As where a route was put in front and the path leads to another service.
    let other = json!([{"dial": format!("127.0.0.1:{}", crate::support::free_port())}]);
    ask(&caddy, "PATCH", "upstreams", &other);
    for refused in [router.set(split(0.0)).unwrap_err(), router.read().unwrap_err()] {
        assert!(refused.to_string().contains("neither side is among its upstreams"), "{refused}");
    }
    let mut request = Request::get(&format!("http://127.0.0.1:{}/id/shop/upstreams", caddy.admin));
    request.headers.push(("connection".into(), "close".into()));
    let answer = Client::new(ANSWER).send(&request).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap(), other);
}
