//! What must hold of flags for all users, shares and moments.

use super::*;

fn some(share: f64) -> Flag {
    Flag { share, ..Flag::new() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn on(flag: &Flag, user: &str) -> bool {
    evaluate("checkout", flag, Some(user), &[], at("2026-01-02T03:04:05Z")).on
}

fn users() -> impl Iterator<Item = String> {
    (0..10_000).map(|n| format!("user-{n}@example.com"))
}

#[test]
fn whoever_has_it_at_a_share_has_it_at_every_larger_one() {
    let shares = [0.0, 0.0001, 0.01, 0.1, 0.2, 0.333, 0.5, 0.9, 0.9999, 1.0];
    for user in users() {
        let answers: Vec<bool> = shares.iter().map(|share| on(&some(*share), &user)).collect();
        assert!(answers.is_sorted(), "{user}: {answers:?}");
        assert!(!answers[0] && answers[shares.len() - 1], "{user}");
    }
}

#[test]
fn the_share_is_kept_within_what_chance_allows() {
    for share in [0.01, 0.1, 0.25, 0.5, 0.9] {
        let have = users().filter(|user| on(&some(share), user)).count() as f64;
        // Five standard deviations of a binomial count.
        let limit = 5.0 * (10_000.0 * share * (1.0 - share)).sqrt();
        assert!((have - 10_000.0 * share).abs() < limit, "{share}: {have} of 10,000");
    }
}

#[test]
fn two_flags_share_users_out_independently() {
    let both = users()
        .filter(|user| bucket("checkout", user) < 5_000 && bucket("search", user) < 5_000)
        .count() as f64;
    // A quarter has both; with the same buckets it would be a half.
    assert!((both - 2_500.0).abs() < 5.0 * (10_000.0 * 0.25 * 0.75_f64).sqrt(), "{both}");
}

#[test]
fn a_bucket_stays_what_it_is_for_ever() {
    // printf 'checkout\0user-1' | sha256sum: the first 16 digits, modulo 10,000.
    assert_eq!(bucket("checkout", "user-1"), 593);
    assert_eq!(bucket("", ""), 3192);
    // The zero byte keeps name and user apart.
    assert_ne!(bucket("a", "bc"), bucket("ab", "c"));
}

#[test]
fn groups_come_before_the_share_and_off_and_the_window_before_both() {
    let now = at("2026-01-02T03:04:05Z");
    let mut flag = Flag { groups: ["beta".to_owned()].into(), ..some(0.0) };
    let ask = |flag: &Flag, groups: &[&str]| {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        evaluate("checkout", flag, None, &groups, now).on
    };
    assert!(ask(&flag, &["staff", "beta"]));
    assert!(!ask(&flag, &["staff"]) && !ask(&flag, &[]));
    flag.serves = Serves::Nobody;
    assert!(!ask(&flag, &["beta"]));
    flag.serves = Serves::Everybody;
    assert!(ask(&flag, &[]));
    // The window is half open: it begins at `from` and is over at `until`.
    for (from, until, expected) in [
        (Some("2026-01-02T03:04:05Z"), None, true),
        (Some("2026-01-02T03:04:06Z"), None, false),
        (None, Some("2026-01-02T03:04:05Z"), false),
        (None, Some("2026-01-02T03:04:06Z"), true),
    ] {
        let flag = Flag { from: from.map(at), until: until.map(at), ..flag.clone() };
        assert_eq!(ask(&flag, &["beta"]), expected, "{from:?} {until:?}");
    }
}

#[test]
fn nobody_in_particular_is_in_no_share_but_the_whole() {
    let ask = |share| evaluate("checkout", &some(share), None, &[], at("2026-01-02T03:04:05Z")).on;
    assert!(!ask(0.9999) && ask(1.0));
}

#[test]
fn a_change_touches_only_what_it_names_and_is_on_record() {
    let (now, mut flags) = (at("2026-01-02T03:04:05Z"), Flags::default());
    let groups = Change { groups: Some(vec!["beta".into()]), ..Change::default() };
    flags.change("checkout", &groups, "alice", now).unwrap();
    let share = Change { serves: Some(Serves::Some), share: Some(0.1), ..Change::default() };
    flags.change("checkout", &share, "bob", now).unwrap();
    let flag = flags.get("checkout").unwrap();
    assert_eq!((flag.share, flag.groups.contains("beta")), (0.1, true));
    assert_eq!(flags.version, 2);
    let last = flags.history.back().unwrap();
    assert_eq!((last.who.as_str(), last.after.as_str()), ("bob", "10 % of users and beta"));
    assert_eq!(last.before.as_deref(), Some("0 % of users and beta"));
    for n in 0..300 {
        flags.change(&format!("f{}", n % 3), &share, "ci", now).unwrap();
    }
    assert_eq!((flags.history.len(), flags.version), (100, 302));
}

#[test]
fn a_change_that_makes_no_sense_changes_nothing() {
    let now = at("2026-01-02T03:04:05Z");
    let mut flags = Flags::default();
    let on = Change { serves: Some(Serves::Everybody), until: Some(Some(now)), ..Change::default() };
    flags.change("checkout", &on, "alice", now).unwrap();
    let before = flags.clone();
    let late = Change { from: Some(Some(now)), ..Change::default() };
    assert_eq!(flags.change("checkout", &late, "alice", now).unwrap_err().exit, Exit::Usage);
    assert_eq!(flags.change("search", &Change::default(), "alice", now).unwrap_err().exit, Exit::Usage);
    assert_eq!(flags, before);
    let unknown = flags.get("chekout").unwrap_err();
    assert!(unknown.help.unwrap().contains("did you mean `checkout`?"));
}
