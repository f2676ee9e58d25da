//! What a router itself says of a side, what it really gives, and what else gets users: by the real Traefik, Envoy
//! and Caddy, and by a command.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use trapkey::fault::Exit;
use trapkey::plan::Loaded;
use trapkey::routers::{self, Live, Router, Side as Half, Split, same_share};
use trapkey::world::http::{Client, Request};

use super::*;

mod caddy;
mod envoy;
mod traefik;

/// Two sides in a folder.
struct Sides {
    folder: tempfile::TempDir,
    blue: Side,
    green: Side,
}

impl Sides {
    fn new() -> Self {
        Self { folder: folder(), blue: Side::start("1.0"), green: Side::start("1.1") }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Opens a `router:` block.
    fn open(&self, router: &str) -> Box<dyn Router> {
        self.write(router, SHORT, "");
        let loaded = Loaded::read(&self.path().join("release.yaml"), BTreeMap::new()).unwrap();
        routers::open(&loaded.plan.promote.as_ref().unwrap().router, &loaded).unwrap()
    }

    fn write(&self, router: &str, steps: &str, more: &str) {
        let text = plan(router, &self.blue, &self.green, steps, more);
        std::fs::write(self.path().join("release.yaml"), text).unwrap();
    }

    fn promotion(&self) -> Value {
        json(&self.path().join("evidence/promote.json"))["promotion"].clone()
    }
}

fn split(green: f64) -> Split {
    Split { green, close_idle_side: green <= 0.0 }
}

/// The statuses of so many requests, and the releases that they met.
fn meet(url: &str, requests: usize) -> Vec<(u16, String)> {
    let client = Client::new(ANSWER);
    let one = |_| {
        let answer = client.send(&Request::get(url)).unwrap();
        (answer.status, answer.header("x-release").unwrap_or_default().to_owned())
    };
    (0..requests).map(one).collect()
}

fn count(met: &[(u16, String)], what: impl Fn(u16, &str) -> bool) -> usize {
    met.iter().filter(|(status, release)| what(*status, release)).count()
}

/// What users met while something else went on.
fn users_meanwhile<T>(url: &str, work: impl FnOnce() -> T) -> (T, Vec<(u16, String)>) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users = scope.spawn(|| {
            let mut met = Vec::new();
            while !done.load(Ordering::SeqCst) {
                met.extend(meet(url, 1));
                std::thread::sleep(Duration::from_millis(20));
            }
            met
        });
        let result = work();
        done.store(true, Ordering::SeqCst);
        (result, users.join().unwrap())
    })
}

fn serving(live: &Live, side: Half) -> (u32, u32) {
    live.side(side).map_or((u32::MAX, 0), |view| (view.serving, view.of))
}

/// Replaces a file as an editor does that cares for readers.
fn swap(file: &Path, text: &str) {
    let beside = file.with_extension("tmp");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file).unwrap();
}

/// Puts a link in a file's place; what it was lies in another folder. Returns where.
fn behind_a_link(file: &Path, elsewhere: &Path) -> std::path::PathBuf {
    std::fs::create_dir(elsewhere).unwrap();
    let real = elsewhere.join(file.file_name().unwrap());
    std::fs::copy(file, &real).unwrap();
    let link = file.with_extension("tmp");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    std::fs::rename(link, file).unwrap();
    real
}

/// The way back by hand.
fn by_hand(router: &dyn Router, side: Half) {
    for command in router.by_hand(side) {
        let ended = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(ended.status.success(), "{command}: {ended:?}");
    }
}

#[test]
fn what_a_command_says_of_the_sides_is_believed() {
    let sides = Sides::new();
    let get = |says: &str| {
        let script = format!("#!/bin/sh\ncat <<'END'\n{says}\nEND\n");
        std::fs::write(sides.path().join("get.sh"), script).unwrap();
    };
    let block = "{kind: command, target: edge, with: {set: [\"true\", \"{green}\"], get: [sh, get.sh]}}";
    let mut router = sides.open(block);
    get(r#"{"green": 0.2}"#);
    assert_eq!(router.read().unwrap().sides, None);
    get(r#"{"green": 0.2, "effective": 0, "strangers": ["edge-canary gets 1 %"],
        "sides": {"blue": {"serving": 2, "of": 2}, "green": {"serving": 0, "of": 2, "down": ["g1: timeout", "g2: 503"]}}}"#);
    let live = router.read().unwrap();
    assert_eq!((serving(&live, Half::Blue), serving(&live, Half::Green)), ((2, 2), (0, 2)));
    assert_eq!((live.effective, live.strangers.len()), (Some(0.0), 1));
    get(r#"{"green": 0.2, "sides": {"blue": {"serving": 2}}}"#);
    let fault = router.read().unwrap_err();
    assert_eq!(fault.exit, Exit::Infrastructure);
    assert!(fault.to_string().contains("what it says of the sides is not understood"), "{fault}");
}

#[test]
fn a_command_that_says_that_green_is_down_ends_no_promotion_with_success() {
    let sides = Sides::new();
    // A router of one's own in 20 lines: the blue side is the entry, whatever was set.
    let script = r#"#!/bin/sh
case $1 in
  set) echo "$2" > share ;;
  get) green=$(cat share)
    if [ "$green" = 0 ]; then effective=0; else effective=0.01; fi
    echo "{\"green\": \"$green%\", \"effective\": $effective, \"sides\": {\"blue\": {\"serving\": 1, \"of\": 1}, \"green\": {\"serving\": 0, \"of\": 1, \"down\": [\"g1: timeout\"]}}}" ;;
esac
"#;
    std::fs::write(sides.path().join("route.sh"), script).unwrap();
    std::fs::write(sides.path().join("share"), "0\n").unwrap();
    let block = format!(
        "{{kind: command, target: edge, entry: \"{}\", with: {{set: [sh, route.sh, set, \"{{green}}\"], get: [sh, route.sh, get]}}}}",
        sides.blue.url()
    );
    sides.write(&block, SHORT, "  healthy_within: 1s\n");
    let ended = call("promote", sides.path(), &["run"]);
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(sides.path().join("share")).unwrap(), "0\n");
    let reason = sides.promotion()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the router itself"), "{reason}");
}
