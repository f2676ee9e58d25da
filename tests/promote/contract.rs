//! The contract of a router: what is asked of every kind, and which kind cannot answer what, and why.
//!
//! A kind without an answer to each question fails. Most questions are asked of one real router a kind; what needs one
//! that is set up otherwise is asked in a test of its own, and this names it.

use std::fmt::Write as _;

use trapkey::fault::Exit;
use trapkey::routers::{self, Router, Side as Half, Split, same_share};

use self::Answer::{Cannot, Elsewhere, Here};
use self::Question::{
    AfterReload, CannotSplit, Ends, GreenLater, Hand, Identity, OtherWays, ReadBack, Refused, Restart,
    Strangers, Twice, Unreachable, View,
};
use super::routers::{Case, split};
use super::*;

/// What is asked of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    ReadBack,
    Twice,
    Ends,
    Refused,
    View,
    Hand,
    Strangers,
    CannotSplit,
    Identity,
    GreenLater,
    Unreachable,
    Restart,
    AfterReload,
    OtherWays,
}

impl Question {
    /// In the order in which they are asked: a restart comes last.
    const ALL: [Self; 14] = [
        ReadBack,
        Twice,
        Ends,
        Refused,
        View,
        Hand,
        Strangers,
        CannotSplit,
        Identity,
        GreenLater,
        Unreachable,
        Restart,
        AfterReload,
        OtherWays,
    ];

    /// As the table of the documentation calls it.
    fn words(self) -> &'static str {
        match self {
            ReadBack => "a split that is set is read back and met by requests",
            Twice => "setting it twice is setting it once",
            Ends => "at 0% and 100% nobody meets the other side",
            Refused => "a split that is refused changes nothing",
            View => "which servers it holds for down itself",
            Hand => "what people have set on single servers",
            Strangers => "who gets users and is on neither side",
            CannotSplit => "what cannot be split is refused beforehand",
            Identity => "which router it is, whatever commands steer it",
            GreenLater => "a green that only the deploy hook brings",
            Unreachable => "that it cannot be reached",
            Restart => "what a restart has left of the split",
            AfterReload => "what a reload would make of the split",
            OtherWays => "other ways to the servers of a side",
        }
    }
}

/// How a kind answers a question.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// By this, on the router that the kind's questions share.
    Here(fn(&mut Case)),
    /// By a test of its own: the file below `tests` or `lib`, and its name.
    Elsewhere(&'static str, &'static str),
    /// It cannot, and why.
    Cannot(&'static str),
}

const HAND: &str = "tests/promote/own_hand.rs";

/// The answers of a kind to the questions that not all kinds answer alike.
fn own(kind: &str, question: Question) -> Option<Answer> {
    Some(match (kind, question) {
        ("haproxy", View) => Here(says_whom_it_holds_for_down),
        ("traefik", View) => Elsewhere(
            "tests/promote/own_view/traefik.rs",
            "a_health_check_of_traefik_that_cannot_reach_green_gives_it_no_user",
        ),
        ("envoy", View) => Elsewhere(
            "tests/promote/own_view/envoy.rs",
            "a_cluster_that_fails_its_health_check_is_given_no_more_than_a_try",
        ),
        ("caddy", View) => Elsewhere(
            "tests/promote/own_view/caddy.rs",
            "an_upstream_that_caddy_skips_for_failures_of_users_does_not_serve",
        ),
        ("command", View | Hand | Strangers) => {
            Elsewhere("tests/promote/own_view.rs", "what_a_command_says_of_the_sides_is_believed")
        }
        ("nginx", View) => Cannot("it has no checks of its own"),

        ("haproxy", Hand) => Here(says_what_people_have_weighed),
        ("nginx", Hand) => Cannot("its weights are those of the file"),
        ("traefik", Hand) => Elsewhere(
            "tests/promote/own_view/traefik.rs",
            "servers_that_people_took_out_are_told_and_unequal_weights_stay",
        ),
        ("envoy", Hand) => Elsewhere(
            "tests/promote/own_view/envoy.rs",
            "hosts_that_are_draining_are_told_and_unequal_weights_of_hosts_stay",
        ),
        ("caddy", Hand) => Cannot("a side is one upstream"),

        ("haproxy", Strangers) => {
            Elsewhere(HAND, "a_server_of_neither_side_that_comes_in_the_middle_ends_the_release")
        }
        ("nginx", Strangers) => Elsewhere(
            "tests/promote/nginx/written.rs",
            "a_server_on_neither_side_that_gets_users_is_told_and_a_backup_is_not",
        ),
        ("traefik", Strangers) => Elsewhere(
            "tests/promote/own_view/traefik.rs",
            "a_third_service_is_told_keeps_its_share_and_does_not_hold_up_the_way_back",
        ),
        ("envoy", Strangers) => Elsewhere(
            "tests/promote/own_view/envoy.rs",
            "a_third_cluster_is_told_keeps_its_share_and_does_not_hold_up_the_way_back",
        ),
        ("caddy", Strangers) => Elsewhere(
            "tests/promote/own_view/caddy.rs",
            "a_third_upstream_is_told_keeps_its_share_and_does_not_hold_up_the_way_back",
        ),

        ("haproxy", CannotSplit) => {
            Elsewhere(HAND, "a_backend_that_cannot_be_split_is_refused_before_the_deploy_hook")
        }
        ("nginx", CannotSplit) => Elsewhere(
            "tests/promote/nginx/refused.rs",
            "a_balancing_method_that_keeps_no_share_is_refused_in_the_file_however_it_is_written",
        ),
        ("traefik", CannotSplit) => Elsewhere(
            "tests/promote/own_view/traefik.rs",
            "a_cookie_that_the_plan_does_not_name_is_refused_and_its_options_stay",
        ),
        ("caddy", Refused) => Elsewhere(
            "tests/promote/routers_http.rs",
            "a_split_that_somebody_else_sets_in_caddy_meanwhile_is_not_overwritten",
        ),
        ("envoy", Refused) => {
            Elsewhere("tests/promote/envoy.rs", "a_rejected_route_file_is_a_fault_and_the_old_routes_go_on")
        }
        ("envoy", CannotSplit) => {
            Elsewhere("tests/promote/envoy.rs", "what_cannot_be_split_is_said_before_anything_moves")
        }
        ("caddy", CannotSplit) => {
            Elsewhere("lib/routers/caddy.rs", "what_does_not_go_by_the_list_is_refused_in_a_fallback_too")
        }
        ("command", CannotSplit) => Cannot("its commands must refuse it"),

        ("haproxy" | "traefik" | "envoy", GreenLater) => Here(knows_no_green_that_is_not_there),
        ("nginx" | "caddy", GreenLater) => Cannot("green is an address of the plan"),
        ("command", GreenLater) => Cannot("its commands must say so"),

        ("haproxy", AfterReload) => Here(says_what_a_reload_would_do),
        ("nginx" | "traefik" | "envoy", AfterReload) => Here(keeps_its_split_in_its_configuration),
        ("caddy", AfterReload) => Cannot("whether it runs with --resume is not seen"),
        ("command", AfterReload) => Cannot("it is not asked"),

        ("haproxy" | "nginx" | "traefik" | "envoy" | "caddy", OtherWays) => {
            Here(says_what_else_leads_to_blue)
        }
        ("command", OtherWays) => Cannot("only if `get` says it"),
        _ => return None,
    })
}

/// The answer of a kind. A kind or a question that has none is no kind of ours.
fn answer(kind: &str, question: Question) -> Answer {
    let same = match question {
        ReadBack => Here(reads_back_what_was_set),
        Twice => Here(sets_twice_as_once),
        Ends => Here(gives_nobody_at_the_ends),
        Refused => Here(changes_nothing_where_it_is_refused),
        Identity => Here(says_which_router_it_is),
        Unreachable => Here(names_that_it_cannot_be_reached),
        Restart => Here(tells_truly_what_a_restart_has_left),
        View | Hand | Strangers | CannotSplit | GreenLater | AfterReload | OtherWays => {
            return own(kind, question).unwrap_or_else(|| panic!("{kind}: {}?", question.words()));
        }
    };
    own(kind, question).unwrap_or(same)
}

#[test]
fn every_kind_answers_every_question_and_the_documentation_says_which_cannot() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kinds: Vec<&str> = routers::ALL.iter().map(|kind| kind.name).collect();
    let mut table = format!("| asked | {} |\n|{}\n", kinds.join(" | "), " --- |".repeat(kinds.len() + 1));
    for question in Question::ALL {
        write!(table, "| {} |", question.words()).unwrap();
        for kind in &kinds {
            let word = match answer(kind, question) {
                Here(_) => "yes",
                Elsewhere(file, test) => {
                    let text = std::fs::read_to_string(root.join(file)).unwrap();
                    assert!(
                        text.contains(&format!("#[test]\nfn {test}("))
                            || text.contains(&format!("    #[test]\n    fn {test}(")),
                        "{file} has no test {test}"
                    );
                    "yes"
                }
                Cannot(why) => why,
            };
            write!(table, " {word} |").unwrap();
        }
        table.push('\n');
    }
    let page = std::fs::read_to_string(root.join("docs/routers.md")).unwrap();
    assert!(page.contains(&table), "docs/routers.md needs this table:\n{table}");
}

#[test]
fn every_kind_keeps_the_contract() {
    std::thread::scope(|scope| {
        for kind in routers::ALL {
            let work = || {
                let mut case = Case::new(kind.name);
                let mut router = case.open();
                router.check().unwrap();
                router.green_is_known().unwrap();
                for question in Question::ALL {
                    match answer(kind.name, question) {
                        Here(show) => show(&mut case),
                        Elsewhere(..) => {}
                        Cannot(_) => is_silent(&mut case, question),
                    }
                }
            };
            // A failed assertion names its thread.
            std::thread::Builder::new().name(kind.name.into()).spawn_scoped(scope, work).unwrap();
        }
    });
}

/// What cannot be shown is not made up.
fn is_silent(case: &mut Case, question: Question) {
    let mut router = case.open();
    match question {
        View => assert_eq!(router.read().unwrap().sides, None),
        Hand => {
            assert_eq!(router.by_people().unwrap(), routers::ByHand::default());
            let taken =
                |live: routers::Live| live.sides.iter().flatten().any(|side| !side.taken_out.is_empty());
            assert!(!taken(router.read().unwrap()));
        }
        GreenLater => router.green_is_known().unwrap(),
        AfterReload => assert_eq!(router.after_reload().unwrap(), None),
        OtherWays => assert_eq!(router.other_ways().unwrap(), None),
        CannotSplit => router.check().unwrap(),
        other => panic!("every router can answer {other:?}"),
    }
}

fn kind() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// Says something to the runtime API of the HAProxy of a case.
fn ask_haproxy(case: &Case, command: &str) {
    use std::io::{Read, Write};
    let path = case.folder.path().join("haproxy.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
}

fn reads_back_what_was_set(case: &mut Case) {
    let mut router = case.open();
    for green in [0.05, 0.25, 0.5] {
        router.set(split(green)).unwrap();
        let live = router.read().unwrap();
        assert!(same_share(live.green, router.nearest(green)), "{green}: {live:?}");
        // Five standard deviations of a binomial: sqrt(200 · 0.5 · 0.5) is 7.1.
        let met = case.met_green(200);
        let off = (f64::from(met) / 200.0 - green).abs();
        assert!(off < 0.18, "{green}: {met} of 200");
    }
}

fn sets_twice_as_once(case: &mut Case) {
    let mut router = case.open();
    router.set(split(0.25)).unwrap();
    let before = router.read().unwrap();
    let held = case.server.held();
    router.set(split(0.25)).unwrap();
    assert_eq!(router.read().unwrap(), before);
    assert_eq!(case.server.held(), held, "an unchanged split changes nothing");
}

fn gives_nobody_at_the_ends(case: &mut Case) {
    let mut router = case.open();
    router.set(split(1.0)).unwrap();
    assert!(same_share(router.read().unwrap().green, 1.0));
    case.everybody_meets("1.1");
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    assert!(same_share(router.read().unwrap().green, 0.0));
    case.everybody_meets("1.0");
}

fn changes_nothing_where_it_is_refused(case: &mut Case) {
    // One that is looked at before it gets users: it has none to begin with.
    let share = if kind() == "traefik" { 0.0 } else { 0.25 };
    case.open().set(split(share)).unwrap();
    let (held, block) = (case.server.held(), case.block());
    // What each of them refuses.
    let refused = match kind().as_str() {
        "haproxy" => block.replace("green: green", "green: gren"),
        "nginx" => block.replace("reload: [nginx, -s, reload,", "reload: [\"false\","),
        "traefik" => block.replace("green: shop-green", "green: nowhere"),
        "command" => block.replace("with: {set: [", "with: {set: [\"false\", "),
        other => panic!("what does {other} refuse?"),
    };
    assert_ne!(refused, block);
    case.open_as(&refused).set(split(0.5)).unwrap_err();
    assert_eq!(case.server.held(), held);
    assert!(same_share(case.open().read().unwrap().green, share));
}

fn says_whom_it_holds_for_down(case: &mut Case) {
    let mut router = case.open();
    router.set(split(0.25)).unwrap();
    let up = |router: &mut dyn Router| {
        let live = router.read().unwrap();
        let serves = |side| live.side(side).unwrap().cannot_serve(1.0).is_none();
        (serves(Half::Blue), serves(Half::Green), live.effective.map(|share| (share * 100.0).round()))
    };
    assert_eq!(up(router.as_mut()), (true, true, Some(25.0)));
    let haproxy = |command: &str| ask_haproxy(case, command);
    haproxy("set server shop/green health down");
    assert_eq!(up(router.as_mut()), (true, false, Some(0.0)));
    haproxy("set server shop/green health up; set server shop/blue health down");
    assert_eq!(up(router.as_mut()), (false, true, Some(100.0)));
    haproxy("set server shop/blue health up");
    assert_eq!(up(router.as_mut()), (true, true, Some(25.0)));
}

fn says_what_people_have_weighed(case: &mut Case) {
    let mut router = case.open();
    router.set(split(0.25)).unwrap();
    assert_eq!(router.by_people().unwrap(), routers::ByHand::default());
    let weight = |server: &str, weight: u32| {
        ask_haproxy(case, &format!("set server shop/{server} weight {weight}"));
    };
    weight("blue", 8);
    let by_hand = router.by_people().unwrap();
    assert_eq!((by_hand.within, by_hand.blue.as_deref()), (Vec::new(), Some("blue: 8 where 75 was set")));
    weight("blue", 75);
    // More on green is nobody's wish to spare it, and both by the same part are the same split.
    weight("green", 90);
    assert_eq!(router.by_people().unwrap(), routers::ByHand::default());
    router.set(split(0.5)).unwrap();
    assert_eq!(router.by_people().unwrap(), routers::ByHand::default());
}

fn says_which_router_it_is(case: &mut Case) {
    let (block, own) = (case.block(), case.open().identity(Half::Blue));
    assert!(own.len() > 1, "{own:?}");
    // What steers it, and how, may be mended.
    for (from, to) in [
        ("{kind:", "{timeout: 7s, kind:"),
        ("reload: [nginx, -s, reload,", "reload: [sudo, nginx, -s, reload,"),
        ("test: [nginx, -t,", "test: [sudo, nginx, -t,"),
        ("set: [", "set: [\"sudo\", "),
        ("get: [", "get: [\"sudo\", "),
    ] {
        if !block.contains(from) {
            continue;
        }
        let mended = case.open_as(&block.replacen(from, to, 1));
        assert_eq!(mended.identity(Half::Blue), own, "{from}");
    }
    // Another place, or another side, is another one.
    let another = match kind().as_str() {
        "haproxy" => [("haproxy.sock", "other.sock"), ("backend: shop", "backend: other")],
        "nginx" => [("/split.conf", "/other.conf"), ("upstream: shop", "upstream: other")],
        "traefik" => [("/split.yml", "/other.yml"), ("service: shop,", "service: other,")],
        "envoy" => [("/routes.json", "/other.json"), ("routes: shop", "routes: other")],
        "caddy" => [("id: shop", "id: other"), ("127.0.0.1", "127.0.0.9")],
        "command" => [("target: edge", "target: other"), ("set: [", "set: [\"${HOME}\", ")],
        other => panic!("what makes another {other}?"),
    };
    for (from, to) in another {
        assert!(block.contains(from), "{block}");
        assert_ne!(case.open_as(&block.replacen(from, to, 1)).identity(Half::Blue), own, "{from}");
    }
    assert_ne!(case.open().identity(Half::Green), own, "the sides have changed places");
    let said = own.join(" ");
    for word in ["reload", "socat", "curl", "printf", "route.sh", "/bin/"] {
        assert!(!said.contains(word), "no commands: {said}");
    }
}

fn knows_no_green_that_is_not_there(case: &mut Case) {
    let block = case.block();
    let (from, to) = if kind() == "haproxy" {
        ("green: green", "green: later")
    } else {
        ("green: shop-green", "green: later")
    };
    let mut router = case.open_as(&block.replace(from, to));
    let fault = router.green_is_known().unwrap_err();
    assert_eq!(fault.exit, Exit::Usage, "{fault}");
    case.open().set(Split { green: 0.0, close_idle_side: false }).unwrap();
    match kind().as_str() {
        "haproxy" => {
            router.check().unwrap();
            let live = router.read().unwrap();
            let why = live.side(Half::Green).unwrap().cannot_serve(0.01).unwrap();
            assert!(why.contains("later: the backend has no such server"), "{why}");
            router.set(split(0.5)).unwrap_err();
            ask_haproxy(case, &format!("add server shop/later 127.0.0.1:{}", case.green.port));
        }
        "traefik" => {
            router.check().unwrap();
            let live = router.read().unwrap();
            let why = live.side(Half::Green).unwrap().cannot_serve(0.01).unwrap();
            assert!(why.contains("there is no such service"), "{why}");
            router.set(split(0.5)).unwrap_err();
            let text = format!(
                "http:\n  services:\n    later: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{}\"}}]}}}}\n",
                case.green.port
            );
            let file = case.folder.path().join("dynamic/later.yml");
            std::fs::write(file.with_extension("tmp"), text).unwrap();
            std::fs::rename(file.with_extension("tmp"), &file).unwrap();
        }
        // It takes a cluster only with the next start: see the last question.
        "envoy" => return,
        other => panic!("what brings green to {other}?"),
    }
    wait_until("green", || router.green_is_known().is_ok());
    router.set(split(0.5)).unwrap();
    assert!(case.met_green(40) > 0);
    router.set(Split { green: 0.0, close_idle_side: true }).unwrap();
    case.everybody_meets("1.0");
}

fn names_that_it_cannot_be_reached(case: &mut Case) {
    case.open().set(split(0.25)).unwrap();
    // From the next start on.
    case.server.lead_elsewhere(case.blue.port);
    let ways = case.open().other_ways().unwrap();
    if kind() != "traefik" && kind() != "nginx" {
        assert!(ways.is_none_or(|ways| ways.is_empty()), "what runs has none yet");
    }
    case.server.halt();
    let settle =
        if matches!(kind().as_str(), "nginx" | "traefik") { "with: {settle: 1s, " } else { "with: {" };
    let soon = case.block().replacen("{kind:", "{timeout: 2s, kind:", 1).replacen("with: {", settle, 1);
    let mut router = case.open_as(&soon);
    let mut faults = vec![router.read().unwrap_err(), router.check().unwrap_err()];
    // The commands of this suite tell the share alone: that one is not in force, reading it back shows.
    if kind() != "command" {
        faults.push(router.set(split(0.75)).unwrap_err());
    }
    for fault in faults {
        assert_eq!(fault.exit, Exit::Infrastructure, "{fault}");
    }
    case.server.begin_again();
}

/// It has just been started again.
fn tells_truly_what_a_restart_has_left(case: &mut Case) {
    let mut router = case.open();
    let live = wait_for("the router", || router.read().ok()).green;
    assert!(same_share(live, 0.0) || same_share(live, 0.25), "neither lost nor kept: {live}");
    let met = case.met_green(40);
    assert_eq!(met > 0, live > 0.0, "{live} was read, {met} of 40 requests met green");
    router.set(split(0.25)).unwrap();
    assert!(same_share(router.read().unwrap().green, 0.25));
    // Five standard deviations of a binomial: sqrt(200 · 0.25 · 0.75) is 6.1.
    let met = case.met_green(200);
    assert!((19..=81).contains(&met), "{met} of 200");
}

fn says_what_a_reload_would_do(case: &mut Case) {
    let mut router = case.open();
    router.set(split(0.25)).unwrap();
    let after = router.after_reload().unwrap().unwrap();
    assert!(!after.change.is_empty(), "{after:?}");
    case.server.restart();
    assert!(same_share(router.read().unwrap().green, after.green), "{after:?}");
}

fn keeps_its_split_in_its_configuration(case: &mut Case) {
    let mut router = case.open();
    router.set(split(0.25)).unwrap();
    assert_eq!(router.after_reload().unwrap(), None);
    case.server.restart();
    assert!(same_share(wait_for("the router", || router.read().ok()).green, 0.25));
}

/// The way was put into its configuration before it was started again.
fn says_what_else_leads_to_blue(case: &mut Case) {
    let mut router = case.open();
    let ways = wait_for("the other way", || router.other_ways().unwrap().filter(|ways| !ways.is_empty()));
    assert_eq!(ways.len(), 1, "{ways:?}");
    let way = &ways[0];
    assert_eq!(way.side, Half::Blue);
    assert!(way.line().contains("admin"), "{way:?}");
    if kind() == "envoy" {
        case.open_as(&case.block().replace("green: shop-green", "green: admin")).green_is_known().unwrap();
    }
}
