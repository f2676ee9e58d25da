//! What every source that gives requests, or that asks nobody over the network, has to do.

use std::os::unix::fs::symlink;
use std::path::Path;

use trapkey::metrics::{ALL, Gives, Kind, Source, Trouble, TroubleKind};

use super::{open, points, requests, sides};
use crate::support::folder;

const START: i64 = 1_795_248_000_000;
const END: i64 = START + 60_000;

/// The kinds that this contract is for.
fn kinds() -> Vec<&'static Kind> {
    let found: Vec<_> = ALL
        .iter()
        .copied()
        .filter(|kind| kind.gives == Gives::Requests || ["file", "command"].contains(&kind.name))
        .collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// The kind at a path. One without a line here fails.
fn metric(kind: &Kind, path: &str) -> String {
    let name = kind.name;
    match name {
        "file" => {
            format!("{{name: x, kind: {name}, target: {path}, with: {{format: csv, blue: b, green: g}}}}")
        }
        "command" => format!("{{name: x, kind: {name}, target: [cat, {path}, \"-{{{{ side }}}}\"]}}"),
        "nginx_log" => {
            format!(
                "{{name: x, kind: {name}, target: {path}, with: {{format: \"$msec $status $upstream_addr\"}}}}"
            )
        }
        "json_log" => {
            format!("{{name: x, kind: {name}, target: {path}, with: {{time: t, status: s, side: u}}}}")
        }
        "haproxy_log" => format!("{{name: x, kind: {name}, target: {path}}}"),
        "text_log" => format!("{{name: x, kind: {name}, target: {path}, with: {{format: alb}}}}"),
        other => panic!("the kind `{other}` has no fixture in this contract"),
    }
}

/// How many figures a source has for the window.
fn ask(kind: &Kind, source: &mut dyn Source) -> Result<usize, Trouble> {
    match kind.gives {
        Gives::Requests => {
            requests(source, &sides("10.0.0.1:80", "10.0.0.2:80"), START, END).map(|found| found.len())
        }
        Gives::Points => points(source, "blue", START, END).map(|found| found.len()),
    }
}

fn trouble(kind: &Kind, folder: &Path, path: &str) -> Trouble {
    let mut source = open(folder, &metric(kind, path)).unwrap();
    let trouble = ask(kind, source.as_mut()).unwrap_err();
    assert!(!trouble.message.is_empty() && !trouble.message.contains('\n'), "{trouble:?}");
    trouble
}

#[test]
fn every_example_is_a_source_that_opens() {
    let place = folder();
    for kind in kinds() {
        open(place.path(), kind.example).unwrap_or_else(|fault| panic!("{}: {fault:?}", kind.name));
        assert!(kind.example.contains(&format!("kind: {}", kind.name)), "{}", kind.name);
        assert!(!kind.about.is_empty() && !kind.target.is_empty());
    }
}

#[test]
fn every_source_in_the_guide_opens() {
    let place = folder();
    let guide = include_str!("../../docs/access-logs.md");
    let metrics: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("- {name: ")).collect();
    for rest in &metrics {
        let metric = format!("{{name: {rest}");
        open(place.path(), &metric).unwrap_or_else(|fault| panic!("{metric}: {fault:?}"));
    }
    assert_eq!(metrics.len(), 16);
    for kind in kinds() {
        assert!(guide.contains(&format!("kind: {}", kind.name)), "{}", kind.name);
    }
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_trouble_that_names_it() {
    let place = folder();
    let folder = place.path();
    std::fs::create_dir(folder.join("a-folder")).unwrap();
    std::fs::write(folder.join("plain"), "x").unwrap();
    symlink("loop", folder.join("loop")).unwrap();
    symlink("/dev/zero", folder.join("device")).unwrap();
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for kind in kinds().into_iter().filter(|kind| kind.name != "command") {
        let missing = trouble(kind, folder, "missing.log");
        assert_eq!(missing.what, TroubleKind::Unreachable, "{}: {missing:?}", kind.name);
        for (path, said) in [
            ("a-folder", "is a folder"),
            ("plain/below", "Not a directory"),
            ("loop", "symbolic link"),
            ("device", "not a regular file"),
            ("pipe", "not a regular file"),
        ] {
            let found = trouble(kind, folder, path);
            assert_eq!(found.what, TroubleKind::Refused, "{}: {found:?}", kind.name);
            assert!(found.message.contains(path) && found.message.contains(said), "{}: {found:?}", kind.name);
        }
    }
}

#[test]
fn rubbish_is_babble_and_no_success_and_no_panic() {
    let place = folder();
    let mut dice = 7_u64;
    let mut random = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        dice >> 33
    };
    let noise: Vec<u8> = (0..50_000).map(|_| u8::try_from(random() % 256).unwrap()).collect();
    let mut rubbish = vec![noise, b"\0\n".repeat(50), b"\"\n,\n{\n[\n".repeat(20), vec![b'['; 200_000]];
    for text in &mut rubbish {
        text.push(b'\n');
    }
    rubbish.push("1795248000 200\n".repeat(10).into_bytes());
    rubbish.push("{\"t\":1795248000,\"s\":-1,\"u\":\"10.0.0.1:80\"}\n".repeat(10).into_bytes());
    for kind in kinds() {
        for (number, text) in rubbish.iter().enumerate() {
            std::fs::write(place.path().join("rubbish.log"), text).unwrap();
            let found = trouble(kind, place.path(), "rubbish.log");
            // `cat` refuses the word that names the side, which is as good.
            let babble = found.what == TroubleKind::Babble || kind.name == "command";
            assert!(babble, "{} of rubbish {number}: {found:?}", kind.name);
            assert!(found.message.chars().all(|c| !c.is_control()), "{found:?}");
            assert!(found.message.len() < 1000, "{}", found.message.len());
        }
    }
}

#[test]
fn no_secret_is_in_a_query_or_in_an_error() {
    let place = folder();
    trapkey::redact::learn("contract-secret-99");
    std::fs::write(place.path().join("bad-contract-secret-99"), "GET /?token=abcdef contract-secret-99\n")
        .unwrap();
    let side = &sides("10.0.0.1:80", "10.0.0.2:80")[0];
    for kind in kinds() {
        for path in ["missing-contract-secret-99", "bad-contract-secret-99"] {
            let mut source = open(place.path(), &metric(kind, path)).unwrap();
            let query = source.query(&super::window(side, START, END));
            let message = ask(kind, source.as_mut()).unwrap_err().message;
            for text in [query, message] {
                assert!(
                    !text.contains("contract-secret-99") && !text.contains("abcdef"),
                    "{}: {text}",
                    kind.name
                );
            }
        }
    }
}

#[test]
fn a_source_gives_what_its_kind_says_and_refuses_the_other() {
    let place = folder();
    for kind in kinds() {
        let mut source = open(place.path(), &metric(kind, "missing.log")).unwrap();
        let both = sides("10.0.0.1:80", "10.0.0.2:80");
        let other = match kind.gives {
            Gives::Requests => points(source.as_mut(), "blue", START, END).map(drop),
            Gives::Points => requests(source.as_mut(), &both, START, END).map(drop),
        };
        assert_eq!(other.unwrap_err().what, TroubleKind::Refused, "{}", kind.name);
    }
}
