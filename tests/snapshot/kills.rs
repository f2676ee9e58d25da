//! The binary killed with -9 at moments by chance, in the middle of `create`, `prune` and `restore`:
//! the store stays whole, older snapshots restore, the next run finishes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Place, noise, rounds, walk};
use crate::promote::figure;

/// So many rounds in a soak, each with a kill in all three commands.
const ROUNDS: u64 = 3;

type Content = BTreeMap<PathBuf, Vec<u8>>;

fn content(folder: &Path) -> Content {
    let inside = |path: PathBuf| path.strip_prefix(folder).unwrap().to_path_buf();
    walk(folder).into_iter().map(|path| (inside(path.clone()), std::fs::read(path).unwrap())).collect()
}

/// Runs a command, and kills it after a part of the time that it usually takes. Whether it was still at
/// work.
fn kill(place: &Place, arguments: &[&str], usual: Duration) -> bool {
    let mut command = place.command();
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(usual.mul_f64(share()));
    let over = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    !over
}

/// Another share of 1 each time.
fn share() -> f64 {
    (trapkey::world::unique() >> 11) as f64 / (1_u64 << 53) as f64
}

fn took(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

#[test]
fn killed_at_moments_by_chance_the_store_stays_whole_and_the_next_run_finishes() {
    let (mut kills, at_work) = (0, std::cell::Cell::new(0));
    let most = rounds(1, ROUNDS);
    // Where every kill came too late, that proves nothing: once more.
    for round in (0_u64..).take_while(|round| *round < most || at_work.get() == 0) {
        let place = Place::new("{name: config, kind: files, target: deploy}");
        let plan = std::fs::read_to_string(place.path("release.yaml")).unwrap();
        let kept = plan.replace("  store:", "  retention: {keep_last: 1}\n  store:");
        place.write("release.yaml", kept.as_bytes());
        for number in 0..6 {
            place.write(&format!("deploy/{number}"), &noise(40_000, round * 10 + number));
        }
        let mut killed = |arguments: &[&str], usual: Duration, place: &Place| {
            kills += 1;
            at_work.set(at_work.get() + usize::from(kill(place, arguments, usual)));
        };
        // The first one makes the store, too.
        killed(&["create"], Duration::from_millis(300), &place);
        let first = content(&place.path("deploy"));
        let usual = took(|| drop(place.create()));
        let id = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
        let restored = |id: &str, what: &Content| {
            place.good(&["check", "--read-data"]);
            place.good(&["restore", id, "--to", "back"]);
            assert_eq!(&content(&place.path("back/config")), what);
            std::fs::remove_dir_all(place.path("back")).unwrap();
        };
        place.write("deploy/2", &noise(50_000, 77));
        killed(&["create"], usual, &place);
        restored(&id, &first);
        place.create();
        let second = content(&place.path("deploy"));
        let newest = place.document()["snapshot"]["id"].as_str().unwrap().to_owned();
        // What a kill left of a restore is finished by the next one into the same folder.
        killed(&["restore", &newest, "--to", "slow"], usual, &place);
        place.good(&["restore", &newest, "--to", "slow2"]);
        let left = place.path("slow").exists() && !content(&place.path("slow")).is_empty();
        let again = place.call(&["restore", &newest, "--to", "slow"]);
        // Where it had finished, there is nothing to resume, and the folder is not written over.
        assert!(again.code == 0 || left && again.code == 2, "{}", again.stderr);
        assert_eq!(content(&place.path("slow/config")), second);
        killed(&["prune", "--max-unused", "0%"], usual, &place);
        restored(&newest, &second);
        place.good(&["prune", "--max-unused", "0%"]);
        assert_eq!(place.listed(), 1);
        restored(&newest, &second);
        place.create();
        assert_eq!(walk(&place.path("store/locks")), Vec::<PathBuf>::new());
    }
    figure(&format!(
        "snapshot: {} of {kills} kills met create, restore or prune at work; nothing was lost",
        at_work.get()
    ));
}
