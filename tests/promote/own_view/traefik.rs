//! Traefik: its health checks, its own answers, and what else stands in the split.

use super::*;
use crate::support::traefik::Traefik;

/// A Traefik whose sides have these settings of their own beside `servers`, such as a health check.
fn start(sides: &Sides, blue: &str, green: &str) -> Traefik {
    let traefik = Traefik::start(sides.path(), sides.blue.port, sides.green.port);
    services(&traefik, &balancer(sides.blue.port, blue), &balancer(sides.green.port, green));
    traefik
}

fn balancer(port: u16, more: &str) -> String {
    format!("loadBalancer: {{{more} servers: [{{url: \"http://127.0.0.1:{port}\"}}]}}")
}

/// Gives the sides other services, and waits until Traefik has loaded them.
fn services(traefik: &Traefik, blue: &str, green: &str) {
    static STAMP: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let stamp = format!("loaded-{}", STAMP.fetch_add(1, Ordering::SeqCst));
    let text = format!(
        "http:\n  routers:\n    shop: {{rule: \"PathPrefix(`/`)\", entryPoints: [web], service: shop}}\n  services:\n    \
         shop-blue: {{{blue}}}\n    shop-green: {{{green}}}\n    {stamp}: {{loadBalancer: {{servers: []}}}}\n"
    );
    swap(&traefik.file.with_file_name("shop.yml"), &text);
    let url = format!("http://127.0.0.1:{}/api/http/services/{stamp}@file", traefik.api);
    let client = Client::new(ANSWER);
    wait_until("Traefik to load it", || client.get(&url).is_ok_and(|answer| answer.status == 200));
}

const CHECKED: &str = "healthCheck: {path: /health, interval: 300ms, timeout: 10s},";
/// It leads to a port where nobody is.
const LOST: &str = "healthCheck: {path: /health, interval: 300ms, timeout: 300ms, port: 1},";

#[test]
fn a_health_check_of_traefik_that_cannot_reach_green_gives_it_no_user() {
    let sides = Sides::new();
    let traefik = start(&sides, "", LOST);
    let first = traefik.held();
    sides.write(&traefik.router(0, 0), "[{weight: 20%, bake: 300ms}, {weight: 100%, bake: 300ms}]", "");
    let (ended, met) = users_meanwhile(&traefik.url(), || call("promote", sides.path(), &["run"]));
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(count(&met, |status, release| (status, release) != (200, "1.0")), 0, "{met:?}");
    let promotion = sides.promotion();
    assert_eq!(promotion["outcome"], "rolled_back");
    let reason = promotion["reason"].as_str().unwrap();
    // Seen while its first check was waited for, or right after: the same thing is said either way.
    let said = ["Traefik itself holds green for down", "the router itself has 0 of 1 servers up"];
    assert!(said.iter().any(|text| reason.contains(text)), "{reason}");
    assert_eq!(traefik.held(), first, "as it was found");
    assert_eq!(count(&meet(&traefik.url(), 20), |status, _| status != 200), 0);
}

#[test]
fn a_green_that_its_checks_reach_is_looked_at_first_and_then_gets_its_users() {
    let sides = Sides::new();
    let traefik = start(&sides, CHECKED, CHECKED);
    let mut router = sides.open(&traefik.router(0, 0));
    router.check().unwrap();
    let closed = router.read().unwrap();
    assert!(closed.side(Half::Green).is_none_or(|view| view.closed), "no router leads to it: {closed:?}");
    router.set(split(0.5)).unwrap();
    assert!(same_share(router.read().unwrap().green, 0.5));
    assert!(!traefik.held().contains("trapkey-look"), "{}", traefik.held());
    let met = meet(&traefik.url(), 40);
    assert_eq!(count(&met, |_, release| release == "1.1"), 20, "{met:?}");
    // Once the first check has ended, all up is a view.
    let view = wait_for("a view", || router.read().unwrap().sides);
    assert_eq!(view.map(|side| (side.serving, side.of, side.closed)), [(1, 1, false), (1, 1, false)]);

    sides.green.answers.health.store(503, Ordering::SeqCst);
    let live = wait_for("Traefik to see it", || {
        Some(router.read().unwrap()).filter(|live| serving(live, Half::Green) == (0, 1))
    });
    assert_eq!(live.effective, Some(0.0), "the share of green is 503, and not blue's");
    let why = live.side(Half::Green).unwrap().cannot_serve(0.5).unwrap();
    assert!(why.contains(&format!("http://127.0.0.1:{}: DOWN", sides.green.port)), "{why}");
    assert_eq!(live.side(Half::Blue).unwrap().cannot_serve(1.0), None);
    // What Traefik answers itself is no side's.
    let before = router.counters().unwrap().unwrap();
    let met = meet(&traefik.url(), 20);
    let after = router.counters().unwrap().unwrap();
    let own = count(&met, |status, _| status == 503);
    assert_eq!(own, 10, "{met:?}");
    assert_eq!(after.nobody - before.nobody, 10, "{after:?}");
    assert_eq!((after.green.errors, after.blue.errors), (before.green.errors, before.blue.errors));
    assert_eq!(after.instance, before.instance);
    // No more of it; and back it goes all the same.
    let held = traefik.held();
    let fault = router.set(split(1.0)).unwrap_err();
    assert!(fault.to_string().contains("Traefik itself holds green for down"), "{fault}");
    assert_eq!(traefik.held(), held);
    router.set(split(0.0)).unwrap();
    assert_eq!(count(&meet(&traefik.url(), 20), |status, _| status != 200), 0);
}

#[test]
fn that_all_are_up_right_after_a_load_is_no_view() {
    let sides = Sides::new();
    // Two minutes and more are not waited for before the first users.
    let traefik = start(&sides, "", "healthCheck: {path: /health, interval: 130s, timeout: 1s, port: 1},");
    let mut router = sides.open(&traefik.router(0, 0));
    router.set(split(0.5)).unwrap();
    let live = router.read().unwrap();
    assert!(same_share(live.green, 0.5));
    assert_eq!((live.sides, live.effective), (None, None));
    // Another process knows it by what Traefik says of its load, and where it takes no metrics by the file.
    assert_eq!(sides.open(&traefik.router(0, 0)).read().unwrap().sides, None);
    let (blind, _) = traefik
        .router(0, 0)
        .split_once(", metrics:")
        .map(|(a, b)| (format!("{a}}}}}"), b.to_owned()))
        .unwrap();
    assert_eq!(sides.open(&blind).read().unwrap().sides, None);
}

#[test]
fn servers_that_people_took_out_are_told_and_unequal_weights_stay() {
    let sides = Sides::new();
    let traefik = start(&sides, "", "");
    let mut router = sides.open(&traefik.router(0, 0));
    router.set(split(0.5)).unwrap();
    assert_eq!(router.read().unwrap().sides, None, "it looks after nobody");
    let (blue, green) = (sides.blue.port, sides.green.port);
    let two = |first: u32, second: u32| {
        format!(
            "loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{green}\", weight: {first}}}, {{url: \"http://localhost:{green}\", weight: {second}}}]}}"
        )
    };
    services(&traefik, &balancer(blue, ""), &two(3, 0));
    let live = router.read().unwrap();
    let view = live.side(Half::Green).unwrap();
    assert_eq!((view.serving, view.of, view.closed), (1, 1, false));
    assert_eq!(view.taken_out, [format!("http://localhost:{green}: weight 0")]);
    assert_eq!(live.effective, Some(0.5));
    services(&traefik, &balancer(blue, ""), &two(0, 0));
    let live = router.read().unwrap();
    assert!(live.side(Half::Green).unwrap().cannot_serve(0.1).unwrap().contains("weight 0"));
    assert_eq!(live.effective, Some(0.0));
    assert_eq!(count(&meet(&traefik.url(), 20), |status, _| status == 503), 10, "as it says");
    // The weights of servers are nobody's but the user's.
    services(&traefik, &balancer(blue, ""), &two(3, 1));
    let shop = traefik.file.with_file_name("shop.yml");
    let before = std::fs::read_to_string(&shop).unwrap();
    for share in [0.25, 1.0, 0.0] {
        router.set(split(share)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&shop).unwrap(), before);
}

#[test]
fn a_third_service_is_told_keeps_its_share_and_does_not_hold_up_the_way_back() {
    let sides = Sides::new();
    let traefik = start(&sides, "", "");
    let mut router = sides.open(&traefik.router(0, 0));
    router.set(split(0.5)).unwrap();
    let stranger = Side::start("0.9");
    let text = std::fs::read_to_string(traefik.file.with_file_name("shop.yml")).unwrap();
    let other = text + &format!("    canary: {{{}}}\n", balancer(stranger.port, ""));
    swap(&traefik.file.with_file_name("shop.yml"), &other);
    // By hand, into Trapkey's own file: one in three.
    swap(&traefik.file, &(traefik.held() + "          - {name: canary, weight: 1}\n"));
    let live = wait_for("the stranger", || router.read().ok().filter(|live| !live.strangers.is_empty()));
    assert!(same_share(live.green, 0.5), "of both sides: {live:?}");
    assert!(live.strangers[0].contains("`canary@file` gets 33.3"), "{:?}", live.strangers);
    let fault = router.check().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage);
    assert!(fault.to_string().contains("more than two sides"), "{fault}");
    router.set(split(0.0)).unwrap();
    let live = router.read().unwrap();
    assert!(same_share(live.green, 0.0) && live.strangers.len() == 1, "{live:?}");
    let met = meet(&traefik.url(), 30);
    assert_eq!(count(&met, |_, release| release == "0.9"), 10, "{met:?}");
    assert_eq!(count(&met, |_, release| release == "1.0"), 20, "{met:?}");
    // By hand as well.
    router.set(split(0.5)).unwrap();
    by_hand(router.as_ref(), Half::Blue);
    wait_until("the way back by hand", || same_share(router.read().unwrap().green, 0.0));
    assert!(traefik.held().contains("canary"), "{}", traefik.held());
}

#[test]
fn a_cookie_that_the_plan_does_not_name_is_refused_and_its_options_stay() {
    let sides = Sides::new();
    let traefik = start(&sides, "", "");
    let sticky = "      weighted:\n        sticky: {cookie: {name: side, secure: true, httpOnly: true}}\n";
    swap(&traefik.file, &traefik.held().replace("      weighted:\n", sticky));
    let mut router = sides.open(&traefik.router(0, 0));
    let fault = wait_for("the cookie", || router.check().err());
    assert_eq!(fault.exit, Exit::Usage);
    assert!(fault.to_string().contains("with: {sticky: side}"), "{fault}");
    let block = traefik.router(0, 0).replacen("service: shop,", "service: shop, sticky: side,", 1);
    let mut router = sides.open(&block);
    router.check().unwrap();
    router.set(split(0.5)).unwrap();
    let answer = Client::new(ANSWER).get(&traefik.url()).unwrap();
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("Secure") && cookie.contains("HttpOnly"), "{cookie}");
    assert!(router.counters().unwrap().unwrap().sticky);
    let held = traefik.held();
    router.set(split(0.5)).unwrap();
    assert_eq!(traefik.held(), held, "twice is once");
}

#[test]
fn a_file_of_traefik_that_is_a_link_stays_one() {
    let sides = Sides::new();
    let traefik = start(&sides, "", "");
    let real = behind_a_link(&traefik.file, &sides.path().join("elsewhere"));
    let leads_to = std::fs::read_link(&traefik.file).unwrap();
    let mut router = sides.open(&traefik.router(0, 0));
    for share in [0.25, 0.5, 0.0, 0.5] {
        router.set(split(share)).unwrap();
        assert!(same_share(router.read().unwrap().green, share));
        assert_eq!(std::fs::read_link(&traefik.file).unwrap(), leads_to);
    }
    assert!(std::fs::read_to_string(&real).unwrap().contains("trapkey-split 0.5"));
    by_hand(router.as_ref(), Half::Blue);
    wait_until("the way back by hand", || same_share(router.read().unwrap().green, 0.0));
    assert_eq!(std::fs::read_link(&traefik.file).unwrap(), leads_to);
    assert_eq!(std::fs::read_dir(real.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_split_that_passes_the_users_of_a_dead_side_on_says_so_and_keeps_doing_it() {
    let sides = Sides::new();
    let traefik = start(&sides, CHECKED, CHECKED);
    swap(
        &traefik.file,
        &traefik.held().replace("      weighted:\n", "      weighted:\n        healthCheck: {}\n"),
    );
    let mut router = sides.open(&traefik.router(0, 0));
    router.set(split(0.5)).unwrap();
    assert!(traefik.held().contains("healthCheck: {}"), "{}", traefik.held());
    sides.green.answers.health.store(503, Ordering::SeqCst);
    let live = wait_for("Traefik to see it", || {
        Some(router.read().unwrap()).filter(|live| serving(live, Half::Green) == (0, 1))
    });
    assert_eq!(live.effective, Some(0.0));
    let met = meet(&traefik.url(), 20);
    assert_eq!(count(&met, |status, release| (status, release) == (200, "1.0")), 20, "{met:?}");
}
