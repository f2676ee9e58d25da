//! What runs where: who tells it, and what is no answer.

use serde_json::{Value, json};

use super::Place;
use crate::support::answering::{Answering, Reply};
use crate::support::run;

fn service(release: &'static str) -> Answering {
    Answering::start(move |asked| match asked.path.as_str() {
        "/" => Reply::SaysWith(
            404,
            "text/plain",
            Box::leak(format!("X-Release: {release}").into_boxed_str()),
            "no".into(),
        ),
        "/health" => Reply::json(json!({"build": {"version": release, "number": 7}, "list": []})),
        "/down" => Reply::SaysWith(503, "text/plain", "x-release: 0", "no".into()),
        "/long" => Reply::json(json!({"v": "1\n2"})),
        "/page" => Reply::Says(200, "text/html", "<html>".into()),
        _ => Reply::Says(204, "", String::new()),
    })
}

fn promote(blue: &str, green: &str, more: &str) -> String {
    format!(
        "promote: {{strategy: blue_green, router: {{kind: haproxy, target: /run/x.sock}}, sides: {{blue: {{url: '{blue}'}}, green: {{url: '{green}'}}}}{more}}}\n"
    )
}

fn versions(place: &Place) -> Value {
    let document = place.create();
    let details = document["snapshot"]["sources"][0]["details"]["versions"].clone();
    let _ = std::fs::remove_dir_all(place.path("restored"));
    place.good(&["restore", "--to", "restored"]);
    assert_eq!(crate::support::json(&place.path("restored/v/versions.json")), details);
    details
}

fn said(versions: &Value) -> Vec<(&str, Option<&str>)> {
    versions
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, told)| (name.as_str(), told["version"].as_str()))
        .collect()
}

#[test]
fn sides_services_and_commands_tell_their_versions() {
    let (blue, green) = (service("1.4.1"), service("1.4.2"));
    let place = Place::new("");
    place.script("schema", "echo '  42 '");
    let of = format!(
        "{{name: api, url: '{0}/health', pointer: /build/version}}, {{name: build, url: '{0}/health', pointer: /build/number}}, \
         {{name: edge, url: '{0}/', header: X-RELEASE}}, {{name: schema, command: [./schema]}}",
        blue.url()
    );
    let source = format!("{{name: v, kind: versions, with: {{of: [{of}]}}}}");
    place.plan(&source, &promote(&blue.url(), &green.url(), ""));
    let told = versions(&place);
    let all = [
        ("blue", "1.4.1"),
        ("green", "1.4.2"),
        ("api", "1.4.1"),
        ("build", "7"),
        ("edge", "1.4.1"),
        ("schema", "42"),
    ];
    assert_eq!(said(&told), all.map(|(name, version)| (name, Some(version))));
    assert_eq!(told["blue"]["from"], format!("{}/, header x-release", blue.url()));
    place.plan(&source.replace("{of:", "{sides: false, of:"), &promote(&blue.url(), &green.url(), ""));
    assert_eq!(said(&versions(&place)).len(), 4);
    // Where the plan says what a side answers, the side itself does not.
    let given = promote(&blue.url(), &green.url(), "").replace("green: {", "green: {release: 1.5, ");
    place.plan("{name: v, kind: versions}", &given);
    assert_eq!(versions(&place)["green"], json!({"version": "1.5", "from": "the plan"}));
}

#[test]
fn a_version_that_nobody_tells_stops_it_unless_that_is_fine() {
    let server = service("1.4.1");
    let place = Place::new("");
    let url = server.url();
    for (thing, words) in [
        (format!("url: '{url}/health', pointer: /nothing"), "nothing at `/nothing`"),
        (format!("url: '{url}/health', pointer: /list"), "no text or number"),
        (format!("url: '{url}/page', pointer: /v"), "not JSON"),
        (format!("url: '{url}/long', pointer: /v"), "more than one line"),
        (format!("url: '{url}/down', header: x-release"), "it answered 503"),
        (format!("url: '{url}/down', pointer: /v"), "it answered 503"),
        (format!("url: '{url}/health', header: x-release"), "has no header `x-release`"),
        ("url: 'http://127.0.0.1:1/', header: x-release".into(), "it did not answer"),
        ("command: ['false']".into(), "exit 1"),
        ("command: ['true']".into(), "an empty one"),
        ("command: [sh, -c, 'echo 1; echo 2']".into(), "more than one line"),
        ("command: [./not-there]".into(), "could not be run"),
        ("command: [sleep, '600']".into(), "did not end within its time"),
    ] {
        // Those that answer have all the time that they need.
        let time = if thing.contains("sleep") { "300ms" } else { "5m" };
        place.plan(
            &format!("{{name: v, kind: versions, with: {{timeout: {time}, of: [{{name: api, {thing}}}]}}}}"),
            "",
        );
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 4, "{thing}: {}", ended.stderr);
        assert!(ended.stderr.contains(words) && ended.stderr.contains("`api`"), "{thing}: {}", ended.stderr);
        place.assert_nothing_kept();
        place.plan(&format!("{{name: v, kind: versions, with: {{timeout: {time}, allow_missing: true, of: [{{name: api, {thing}}}]}}}}"), "");
        assert_eq!(said(&versions(&place)), [("api", None)], "{thing}");
        std::fs::remove_dir_all(place.path("store")).unwrap();
    }
}

#[test]
fn green_may_be_silent_only_while_it_is_still_to_be_deployed() {
    let blue = service("1.4.1");
    let place = Place::new("");
    place.plan("{name: v, kind: versions}", &promote(&blue.url(), "http://127.0.0.1:1", ""));
    assert_eq!(place.call(&["create"]).code, 4);
    let deploy = ", hooks: {deploy: [./deploy.sh]}";
    place.plan("{name: v, kind: versions}", &promote(&blue.url(), "http://127.0.0.1:1", deploy));
    assert_eq!(said(&versions(&place)), [("blue", Some("1.4.1")), ("green", None)]);
    place.plan("{name: v, kind: versions}", &promote("http://127.0.0.1:1", &blue.url(), deploy));
    assert_eq!(place.call(&["create"]).code, 4);
}

#[test]
fn passwords_of_addresses_are_not_shown() {
    let server = service("1.4.1");
    let place = Place::new("");
    let of = format!(
        "{{name: api, url: 'http://ci:${{API_PASSWORD}}@127.0.0.1:{}/health', pointer: /build/version}}",
        server.port
    );
    place.plan(&format!("{{name: v, kind: versions, with: {{of: [{of}]}}}}"), "");
    let ended = run(place.command().arg("create").env("API_PASSWORD", "pass-marmot-1"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!(ended.stderr + &place.document().to_string()).contains("marmot"));
}

#[test]
fn what_asks_for_nothing_or_for_two_things_is_a_mistake_in_the_plan() {
    for (with, words) in [
        ("", "nothing tells a version"),
        ("sides: true", "has no `promote`"),
        ("of: [{name: a}]", "needs either `url` or `command`"),
        ("of: [{name: a, url: 'http://x'}]", "needs `pointer` or `header`"),
        ("of: [{name: a, url: 'http://x', pointer: /a, header: b}]", "needs `pointer` or `header`"),
        ("of: [{name: a, url: 'http://x', pointer: a}]", "does not begin with `/`"),
        ("of: [{name: a, url: 'http://x', command: [a]}]", "needs either"),
        ("of: [{name: a, command: [a]}, {name: a, command: [b]}]", "no name of its own"),
    ] {
        let place = Place::new("");
        place.plan(&format!("{{name: v, kind: versions, with: {{{with}}}}}"), "");
        let ended = place.call(&["create"]);
        assert_eq!(ended.code, 2, "{with}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{with}: {}", ended.stderr);
    }
}
