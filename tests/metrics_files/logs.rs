//! Logs that grow, are rotated, lie, and are very long.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use trapkey::metrics::{SideOf, Source, TroubleKind, UserRequest};

use super::{now_ms, open, requests, sides, window};
use crate::support::folder;

const NGINX: &str = "{name: n, kind: nginx_log, target: access.log, with: {format: '$msec $status \"$upstream_addr\" $request_time \"$request\"'}}";

const NOBODY: [i64; 0] = [];

fn both() -> [SideOf; 2] {
    sides("10.0.0.1:80", "10.0.0.2:80")
}

/// A line of blue's.
fn line(at_ms: i64) -> String {
    format!("{}.{:03} 200 \"10.0.0.1:80\" 0.001 \"GET / HTTP/1.1\"\n", at_ms / 1000, at_ms % 1000)
}

fn lines(moments: impl IntoIterator<Item = i64>) -> String {
    moments.into_iter().map(line).collect()
}

fn append(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

/// Makes a file look as if it was last written to then.
fn touch(folder: &Path, name: &str, at_ms: i64) {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap());
    let file = OpenOptions::new().append(true).open(folder.join(name)).unwrap();
    file.set_modified(moment).unwrap();
}

/// The moments of all requests in a window.
fn moments(source: &mut dyn Source, from: i64, to: i64) -> Vec<i64> {
    requests(source, &both(), from, to).unwrap().into_iter().map(|request| request.at_ms).collect()
}

/// The same by a source that was opened just now.
fn afresh(folder: &Path, from: i64, to: i64) -> Vec<i64> {
    moments(open(folder, NGINX).unwrap().as_mut(), from, to)
}

fn refused(source: &mut dyn Source, from: i64, to: i64) -> String {
    let trouble = requests(source, &both(), from, to).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused, "{}", trouble.message);
    trouble.message
}

#[test]
fn adjacent_windows_of_a_growing_log_have_every_request_once() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines([begin - 60_000]));
    let mut source = open(place.path(), NGINX).unwrap();
    let mut found = Vec::new();
    let mut written = Vec::new();
    for round in 0..50 {
        let from = begin + round * 1000;
        // A little out of order, and beyond the window that is asked for.
        let new = [from + 400, from + 10, from + 1700, from + 999];
        let new = new.map(|moment| moment + i64::from(round % 7 == 0));
        append(place.path(), "access.log", lines(new));
        written.extend(new);
        found.extend(moments(source.as_mut(), from, from + 1000));
    }
    found.extend(moments(source.as_mut(), begin + 50_000, begin + 60_000));
    let in_order = {
        let mut sorted = written.clone();
        sorted.sort_unstable();
        sorted
    };
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, in_order);
    let whole: Vec<i64> = afresh(place.path(), begin, begin + 60_000);
    assert_eq!(whole, written, "in the order in which they stand");
}

#[test]
fn an_unfinished_line_waits_for_its_end() {
    let place = folder();
    let begin = now_ms() - 60_000;
    let text = line(begin + 500);
    append(place.path(), "access.log", line(begin - 9000) + &text[..20]);
    let mut source = open(place.path(), NGINX).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 1000), NOBODY);
    append(place.path(), "access.log", &text[20..]);
    assert_eq!(moments(source.as_mut(), begin, begin + 1000), [begin + 500]);
    // What was cut off by the end of one window belongs to the next one that has its moment.
    append(place.path(), "access.log", &line(begin + 1500)[..9]);
    assert_eq!(moments(source.as_mut(), begin, begin + 1000), [begin + 500]);
    append(place.path(), "access.log", &line(begin + 1500)[9..]);
    assert_eq!(moments(source.as_mut(), begin + 1000, begin + 2000), [begin + 1500]);
}

#[test]
fn a_fresh_process_finds_any_window_of_a_long_log_in_disorder() {
    let place = folder();
    let begin = now_ms() - 4_000_000;
    let mut dice = 11_u64;
    let mut random = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((dice >> 33) % below).unwrap()
    };
    let mut text = String::new();
    let mut written = Vec::new();
    for number in 0..60_000 {
        // Up to four seconds of disorder, clocks that are wrong by hours, and rubbish.
        let at = match number % 5000 {
            17 => begin + number * 50 + 7_200_000,
            18 => begin + number * 50 - 7_200_000,
            _ => begin + number * 50 + random(4000),
        };
        text += &line(at);
        written.push(at);
        if number % 100 == 0 {
            text += "\u{0}rubbish\n\n";
        }
    }
    std::fs::write(place.path().join("access.log"), &text).unwrap();
    assert!(text.len() > 3_000_000);
    // The first line must be older than the windows, or the log would not reach back.
    for _ in 0..60 {
        let from = begin + 5000 + random(2_990_000);
        let long = random(2) == 0;
        let to = from + 1 + random(if long { 200_000 } else { 1000 });
        let expected: Vec<i64> = written.iter().copied().filter(|at| (from..to).contains(at)).collect();
        assert_eq!(afresh(place.path(), from, to), expected, "{from} to {to}");
    }
}

#[test]
fn a_rotation_by_rename_loses_nothing_and_counts_nothing_twice() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let path = place.path().join("access.log");
    append(place.path(), "access.log", lines([begin - 20_000, begin + 100, begin + 200]));
    let mut source = open(place.path(), NGINX).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 1000), [begin + 100, begin + 200]);
    std::fs::rename(&path, place.path().join("access.log.1")).unwrap();
    let gone = requests(source.as_mut(), &both(), begin + 1000, begin + 2000).unwrap_err();
    assert_eq!(gone.what, TroubleKind::Unreachable, "until the server has opened it again");
    // The server goes on in the old file until it has opened the new one.
    append(place.path(), "access.log.1", lines([begin + 1100]));
    append(place.path(), "access.log", lines([begin + 1050, begin + 1300, begin + 2100]));
    let expected = [begin + 1100, begin + 1050, begin + 1300];
    assert_eq!(moments(source.as_mut(), begin + 1000, begin + 2000), expected);
    assert_eq!(moments(source.as_mut(), begin + 2000, begin + 3000), [begin + 2100]);
    assert_eq!(afresh(place.path(), begin + 1000, begin + 2000), expected);
    assert_eq!(afresh(place.path(), begin, begin + 5000).len(), 6);
    // Once more, so that the window stands in three files.
    std::fs::rename(place.path().join("access.log.1"), place.path().join("access.log.2")).unwrap();
    std::fs::rename(&path, place.path().join("access.log.1")).unwrap();
    append(place.path(), "access.log", lines([begin + 9000]));
    assert_eq!(afresh(place.path(), begin, begin + 10_000).len(), 7);
    assert_eq!(moments(source.as_mut(), begin + 3000, begin + 10_000), [begin + 9000]);
}

#[test]
fn a_log_that_is_copied_and_cut_short_is_followed_into_its_copy() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let path = place.path().join("access.log");
    append(place.path(), "access.log", lines([begin - 20_000, begin + 100]));
    let mut source = open(place.path(), NGINX).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 1000), [begin + 100]);
    append(place.path(), "access.log", lines([begin + 1100]));
    std::fs::copy(&path, place.path().join("access.log.1")).unwrap();
    // Copied and not yet cut short: nothing counts twice.
    assert_eq!(
        afresh(place.path(), begin - 20_000, begin + 2000),
        [begin - 20_000, begin + 100, begin + 1100]
    );
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    append(place.path(), "access.log", lines((0..50).map(|n| begin + 1200 + n)));
    let expected: Vec<i64> = std::iter::once(begin + 1100).chain((0..50).map(|n| begin + 1200 + n)).collect();
    assert_eq!(moments(source.as_mut(), begin + 1000, begin + 2000), expected);
    assert_eq!(afresh(place.path(), begin + 1000, begin + 2000), expected);
}

#[test]
fn what_was_cut_off_without_a_copy_is_not_taken_for_silence() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines([begin - 20_000, begin + 100, begin + 200]));
    let mut source = open(place.path(), NGINX).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 1000).len(), 2);
    let file = OpenOptions::new().write(true).open(place.path().join("access.log")).unwrap();
    file.set_len(0).unwrap();
    assert!(refused(source.as_mut(), begin + 1000, begin + 2000).contains("reaches back to"));
    append(place.path(), "access.log", lines([begin + 1500]));
    assert!(refused(source.as_mut(), begin + 1000, begin + 2000).contains("reaches back to"));
    assert_eq!(moments(source.as_mut(), begin + 1500, begin + 2000), [begin + 1500]);
}

#[test]
fn a_window_that_reaches_into_packed_files_is_refused_with_the_moment_from_which_there_is_a_log() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines([begin + 5000, begin + 6000]));
    append(place.path(), "access.log.1.gz", b"\x1f\x8b packed");
    touch(place.path(), "access.log.1.gz", begin + 4000);
    let mut source = open(place.path(), NGINX).unwrap();
    let message = refused(source.as_mut(), begin, begin + 10_000);
    let since = jiff::Timestamp::from_millisecond(begin + 5000).unwrap().to_string();
    assert!(message.contains(&since) && message.contains("delaycompress"), "{message}");
    // What was packed before the window began holds nothing of it.
    assert_eq!(moments(source.as_mut(), begin + 4500, begin + 10_000), [begin + 5000, begin + 6000]);
    // A file that is not packed reaches further, unless one was packed between.
    append(place.path(), "access.log.2", lines([begin - 50_000, begin - 40_000]));
    touch(place.path(), "access.log.2", begin - 40_000);
    assert!(refused(source.as_mut(), begin, begin + 10_000).contains("packed"));
    std::fs::remove_file(place.path().join("access.log.1.gz")).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 10_000), [begin + 5000, begin + 6000]);
}

#[test]
fn a_service_without_traffic_is_told_from_a_log_that_is_too_young() {
    let place = folder();
    let now = now_ms();
    append(place.path(), "access.log", "");
    let mut source = open(place.path(), NGINX).unwrap();
    assert!(refused(source.as_mut(), now - 60_000, now).contains("reaches back to"));
    // It was there all the while, and nobody came.
    assert_eq!(moments(source.as_mut(), now + 60_000, now + 120_000), NOBODY);
    append(place.path(), "access.log", lines([now + 90_000]));
    assert_eq!(moments(source.as_mut(), now + 60_000, now + 120_000), [now + 90_000]);
    assert!(refused(source.as_mut(), now - 60_000, now).contains("reaches back to"));
    // The file before it decides, whether somebody came in the window or not.
    append(place.path(), "access.log.1", lines([now - 100_000]));
    assert_eq!(moments(source.as_mut(), now - 60_000, now), NOBODY);
    append(place.path(), "access.log.1", lines([now - 50_000]));
    assert_eq!(moments(source.as_mut(), now - 60_000, now), [now - 50_000]);
    std::fs::write(place.path().join("access.log"), "").unwrap();
    assert_eq!(afresh(place.path(), now - 60_000, now), [now - 50_000]);
}

#[test]
fn rotated_files_are_known_by_their_names() {
    let begin = now_ms() - 600_000;
    for (name, rotated) in [
        ("access.log.1", true),
        ("access.log-20261121", true),
        ("access.log.2026-11-21-08", true),
        ("access-2026-11-21T08-00-00.000.log", true),
        ("access.log.bak", false),
        ("access-admin.log", false),
        ("xaccess.log.1", false),
        ("access.log1", false),
    ] {
        let place = folder();
        append(place.path(), name, lines([begin - 10_000, begin + 1000]));
        append(place.path(), "access.log", lines([begin + 5000]));
        let found = requests(open(place.path(), NGINX).unwrap().as_mut(), &both(), begin, begin + 10_000);
        assert_eq!(found.is_ok_and(|found| found.len() == 2), rotated, "{name}");
    }
}

#[test]
fn hostile_lines_between_good_ones_cost_nothing_but_themselves() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let mut text = line(begin - 9000).into_bytes();
    let huge = "x".repeat(3_000_000);
    let hostile: [&[u8]; 8] = [
        b"\xff\xfe\x00\x01\n",
        b"\n",
        b"-1.000 200 \"10.0.0.1:80\" 0.001 \"GET / HTTP/1.1\"\n",
        b"1e99 200 \"10.0.0.1:80\" 0.001 \"GET / HTTP/1.1\"\n",
        b"99999999999999999999999.0 200 \"10.0.0.1:80\" 0.001 \"\"\n",
        b"1795248000.1 200 \"10.0.0.1:80\n",
        huge.as_bytes(),
        b"\n",
    ];
    for (number, bad) in hostile.iter().enumerate() {
        text.extend_from_slice(bad);
        if !bad.ends_with(b"x") {
            text.extend_from_slice(line(begin + i64::try_from(number).unwrap()).as_bytes());
        }
    }
    let quoted = line(begin + 100).replace("GET /", r"GET /\x22 500 \x2210.0.0.2:80\x22");
    text.extend_from_slice(quoted.as_bytes());
    std::fs::write(place.path().join("access.log"), text).unwrap();
    let found = requests(open(place.path(), NGINX).unwrap().as_mut(), &both(), begin, begin + 1000).unwrap();
    assert_eq!(found.len(), 8);
    let all_blue = |request: &UserRequest| request.side == 0 && request.ok && request.latency_ms == Some(1.0);
    assert!(found.iter().all(all_blue), "{found:?}");
}

#[test]
fn a_log_that_for_the_greater_part_is_not_understood_is_babble_without_its_query_strings() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines([begin - 9000, begin + 100]));
    append(place.path(), "access.log", "10.9.9.9 \"GET /pay?card=4711 HTTP/1.1\" 200\n".repeat(3));
    let mut source = open(place.path(), NGINX).unwrap();
    let trouble = requests(source.as_mut(), &both(), begin, begin + 1000).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Babble);
    assert!(
        trouble.message.contains("3 of 5 lines are not understood, the first: `10.9.9.9 \"GET /pay?…\" 200`")
            || trouble.message.contains(
                "3 of 5 lines are not understood, the first: `10.9.9.9 \"GET /pay?… HTTP/1.1\" 200`"
            ),
        "{}",
        trouble.message
    );
    assert!(!trouble.message.contains("4711"));
}

#[test]
fn a_log_in_which_no_line_names_a_side_is_refused_until_one_did() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let foreign = |at| line(at).replace("10.0.0.1:80", "10.7.7.7:80");
    append(place.path(), "access.log", line(begin - 9000) + &foreign(begin + 100));
    let mut source = open(place.path(), NGINX).unwrap();
    let message = refused(source.as_mut(), begin, begin + 1000);
    assert!(
        message.contains("it names 10.7.7.7:80") && message.contains("blue (10.0.0.1:80, blue)"),
        "{message}"
    );
    append(place.path(), "access.log", line(begin + 1100) + &foreign(begin + 2100));
    assert_eq!(moments(source.as_mut(), begin + 1000, begin + 2000), [begin + 1100]);
    assert_eq!(moments(source.as_mut(), begin + 2000, begin + 3000), NOBODY, "others' requests only");
    let named = NGINX.replace("with: {", "with: {blue: [10.7.7.7, \"10.0.0.1:80\"], ");
    let mut source = open(place.path(), &named).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 3000).len(), 3);
}

#[test]
fn reading_ends_at_its_time_limit() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", line(begin - 9000) + &lines((0..20_000).map(|n| begin + n)));
    let mut source = open(place.path(), NGINX).unwrap();
    let both = both();
    let mut ask = window(&both[0], begin, begin + 60_000);
    ask.limit = Duration::ZERO;
    let trouble = source.requests(&both, &ask, &mut |_| ()).unwrap_err();
    assert!(trouble.what == TroubleKind::Unreachable && trouble.message.contains("`timeout`"), "{trouble:?}");
    assert_eq!(moments(source.as_mut(), begin, begin + 60_000).len(), 20_000, "the next attempt has it all");
}

#[test]
fn an_empty_list_of_requests_for_a_quiet_window_of_a_busy_log() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines((0..3000).map(|n| begin + n)));
    append(place.path(), "access.log", lines((0..3000).map(|n| begin + 300_000 + n)));
    assert_eq!(afresh(place.path(), begin + 60_000, begin + 120_000), NOBODY);
    assert_eq!(afresh(place.path(), begin + 400_000, begin + 420_000), NOBODY);
}

#[test]
fn damaged_logs_give_fewer_requests_or_babble_and_nothing_else() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let json =
        "{name: j, kind: json_log, target: access.log, with: {time: t, status: s, side: /u/0, latency: l}}";
    let json_line = |at: i64| {
        format!("{{\"t\":{at},\"s\":200,\"u\":[\"10.0.0.1:80\"],\"l\":1.5,\"x\":{{\"y\":[1,\"é\"]}}}}\n")
    };
    let mut dice = 5_u64;
    let mut random = |below: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(dice >> 33).unwrap() % below
    };
    let (mut read, mut babble) = (0, 0);
    for round in 0..400 {
        let moments = (0..30).map(|n| begin - 9000 + n * 1000);
        let metric = if round % 2 == 0 { NGINX } else { json };
        let mut text: Vec<u8> = match round % 2 {
            0 => lines(moments).into_bytes(),
            _ => moments.map(json_line).collect::<String>().into_bytes(),
        };
        for _ in 0..random(60) {
            let at = random(text.len());
            match random(3) {
                0 => text[at] = u8::try_from(random(256)).unwrap(),
                1 => drop(text.remove(at)),
                _ => text.insert(at, b"\"\\\n\0 {[,:-"[random(10)]),
            }
        }
        std::fs::write(place.path().join("access.log"), &text).unwrap();
        match requests(open(place.path(), metric).unwrap().as_mut(), &both(), begin, begin + 30_000) {
            Ok(found) => {
                assert!(found.len() <= 21 + 20, "{}", found.len());
                assert!(found.iter().all(|r| (begin..begin + 30_000).contains(&r.at_ms)));
                read += 1;
            }
            Err(trouble) => {
                assert!(!trouble.message.contains(char::is_control), "{}", trouble.message);
                babble += usize::from(trouble.what == TroubleKind::Babble);
            }
        }
    }
    assert!(read > 100 && babble > 10, "{read} {babble}");
}

/// Lines that a server keeps in memory and writes every five seconds, each with its own moment.
#[test]
fn lines_that_come_late_are_counted_once_and_waited_for() {
    for rotation in ["none", "rename", "copy"] {
        let place = folder();
        let begin = now_ms() - 600_000;
        let path = place.path().join("access.log");
        append(place.path(), "access.log", lines((0..20).map(|n| begin - 60_000 + n)));
        let mut source = open(place.path(), NGINX).unwrap();
        let (mut written, mut kept, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for second in 0..60 {
            let from = begin + second * 1000;
            kept.extend((0..10).map(|n| from + n * 100));
            if second % 5 == 4 {
                append(place.path(), "access.log", lines(kept.iter().copied()));
                written.append(&mut kept);
            }
            if second == 32 && rotation == "rename" {
                std::fs::rename(&path, place.path().join("access.log.1")).unwrap();
                append(place.path(), "access.log", "");
            }
            if second == 32 && rotation == "copy" {
                std::fs::copy(&path, place.path().join("access.log.1")).unwrap();
                OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
            }
            found.extend(moments(source.as_mut(), from, from + 1000));
        }
        found.sort_unstable();
        assert_eq!(found, written, "{rotation}");
        assert_eq!(source.late(), Duration::from_secs(4), "{rotation}");
        assert_eq!(source.doubt(), None);
    }
}

#[test]
fn what_comes_later_than_a_minute_is_counted_and_proves_nothing_good() {
    let place = folder();
    let begin = now_ms() - 600_000;
    append(place.path(), "access.log", lines([begin - 9000, begin + 100]));
    let mut source = open(place.path(), NGINX).unwrap();
    assert_eq!(moments(source.as_mut(), begin, begin + 300_000), [begin + 100]);
    append(place.path(), "access.log", lines([begin + 200, begin + 300, begin + 400, begin + 300_100]));
    let found = moments(source.as_mut(), begin + 300_000, begin + 301_000);
    assert_eq!(found, [begin + 200, begin + 300, begin + 400, begin + 300_100]);
    assert_eq!(source.late(), Duration::ZERO, "nobody waits for so long");
    let doubt = source.doubt().unwrap();
    assert!(doubt.contains(" late, so its end is not known: set `delay`"), "{doubt}");
}

#[test]
fn requests_of_neither_side_are_counted_and_prove_nothing_good_beyond_a_share() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let foreign = |at| line(at).replace("10.0.0.1:80", "10.0.0.3:80");
    let own = |at| line(at).replace("10.0.0.1:80", "-");
    append(place.path(), "access.log", line(begin - 9000));
    for n in 0..100 {
        append(place.path(), "access.log", line(begin + n));
        // The proxy's own answers are nobody's.
        append(place.path(), "access.log", own(begin + n) + &own(begin + n));
        if n % 3 == 0 {
            append(place.path(), "access.log", foreign(begin + n));
        }
    }
    let doubt = |with: &str| {
        let mut source = open(place.path(), &NGINX.replace("with: {", &format!("with: {{{with}"))).unwrap();
        assert_eq!(
            moments(source.as_mut(), begin, begin + 1000).len(),
            100 + if with.contains("blue") { 34 } else { 0 }
        );
        source.doubt()
    };
    let said = doubt("").unwrap();
    assert!(said.contains("34 of 134 requests are neither blue's nor green's, more than 20 %"), "{said}");
    assert!(said.contains("it names 10.0.0.3:80") && said.contains("`others:`"), "{said}");
    assert_eq!(doubt("others: 50%, "), None);
    assert_eq!(doubt("blue: [\"10.0.0.1:80\", \"10.0.0.3:80\"], "), None);
}

#[test]
fn attempts_in_json_are_read_as_in_text() {
    let place = folder();
    let begin = now_ms() - 600_000;
    let at = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let text = |ms: i64, upstream: &str, status: &str, times: &str| {
        format!("{} 200 \"{upstream}\" \"{status}\" \"{times}\"\n", at(ms))
    };
    let mut plain = text(begin - 9000, "10.0.0.1:80", "200", "0.001");
    let older =
        format!("{{\"msec\":{},\"upstream_addr\":\"10.0.0.1:80\",\"status\":200}}\n", at(begin - 9000));
    // As nginx writes it with quotes and without, without `escape=json`, and as a pipeline makes lists of it.
    let mut shapes = vec![older; 5];
    for n in 0..40 {
        let ms = begin + n * 10;
        let (tried, status) =
            if n % 4 == 0 { (true, if n % 8 == 0 { "502" } else { "-" }) } else { (false, "200") };
        let [upstream, statuses, times] = if tried {
            ["10.0.0.2:80, 10.0.0.1:80".to_owned(), format!("{status}, 200"), "0.001, 0.012".to_owned()]
        } else {
            ["10.0.0.1:80", "200", "0.012"].map(str::to_owned)
        };
        plain += &text(ms, &upstream, &statuses, &times);
        let list = |text: &str| {
            let entries: Vec<&str> = text.split(", ").collect();
            serde_json::to_string(&entries).unwrap()
        };
        let line = |agent: &str, upstream: String, statuses: String, times: String| {
            format!(
                "{{\"msec\":{},\"agent\":\"{agent}\",\"upstream_addr\":{upstream},\"status\":200,\"upstream_status\":{statuses},\"upstream_response_time\":{times}}}\n",
                at(ms)
            )
        };
        let quoted = |text: &str| format!("\"{text}\"");
        shapes[0] += &line("a", quoted(&upstream), quoted(&statuses), quoted(&times));
        shapes[1] += &line("\\x22 \\xE4", quoted(&upstream), statuses.clone(), times.clone());
        shapes[2] += &line("a", list(&upstream), list(&statuses), list(&times));
        shapes[3] += &line(
            "a",
            quoted(&upstream.replace(", ", ",")),
            quoted(&statuses.replace(", ", ",")),
            quoted(&times),
        );
        // Without the servers' own statuses, a comma still says that there was a failure before it.
        shapes[4] += &line("a", quoted(&upstream), "\"\"".into(), quoted(&times));
    }
    let seen = |metric: &str, text: &str, name: &str| {
        std::fs::write(place.path().join(name), text).unwrap();
        let found =
            requests(open(place.path(), metric).unwrap().as_mut(), &both(), begin, begin + 1000).unwrap();
        found.iter().map(|r| (r.side, r.at_ms, r.ok, r.latency_ms)).collect::<Vec<_>>()
    };
    let nginx = "{name: n, kind: nginx_log, target: text.log, with: {format: '$msec $status \"$upstream_addr\" \"$upstream_status\" \"$upstream_response_time\"'}}";
    let expected = seen(nginx, &plain, "text.log");
    let failed = expected.iter().filter(|(side, _, ok, _)| *side == 1 && !ok).count();
    assert_eq!((expected.len(), failed), (50, 10));
    for (number, text) in shapes.iter().enumerate() {
        let json = "{name: j, kind: json_log, target: json.log, with: {preset: nginx}}";
        assert_eq!(seen(json, text, "json.log"), expected, "shape {number}");
        let last = json.replace("nginx}", "nginx, attempts: last}");
        assert_eq!(seen(&last, text, "json.log").len(), 40, "shape {number}");
    }
}

#[test]
fn a_log_that_goes_by_other_clocks_is_an_error_that_says_so() {
    let place = folder();
    let now = now_ms();
    let metric =
        |zone: &str| format!("{{name: h, kind: haproxy_log, target: access.log, with: {{zone: {zone}}}}}");
    let both = sides("127.0.0.1:1", "127.0.0.1:2");
    let line = |ms: i64| {
        let moment = jiff::Timestamp::from_millisecond(ms).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let moment = moment.strftime("%d/%b/%Y:%H:%M:%S.%3f");
        format!(
            "192.0.2.7:4 [{moment}] in shop/blue 0/0/0/1/1 200 9 - - ---- 1/1/0/0/0 0/0 \"GET / HTTP/1.1\"\n"
        )
    };
    append(place.path(), "access.log", (0..30).map(|n| line(now - 9000 + n * 100)).collect::<String>());
    let ask =
        |zone: &str| requests(open(place.path(), &metric(zone)).unwrap().as_mut(), &both, now - 8000, now);
    assert_eq!(ask("UTC").unwrap().len(), 20);
    for zone in ["America/New_York", "Asia/Kolkata"] {
        let trouble = ask(zone).unwrap_err();
        assert_eq!(trouble.what, TroubleKind::Refused, "{zone}");
        assert!(trouble.message.contains(zone) && trouble.message.contains("`zone:`"), "{}", trouble.message);
    }
}

/// What stands around a line may not hide it, nor may lines of other programs in the same file.
#[test]
fn a_log_that_syslog_wrote_down_is_read_like_the_servers_own() {
    let place = folder();
    let begin = 1_795_248_000_000;
    let both = sides("127.0.0.1:1", "127.0.0.1:2");
    let lines: Vec<String> = (0..40)
        .map(|n| {
            let (server, status) = if n % 2 == 0 { ("blue", 200) } else { ("green", 503) };
            let second = 10 + n;
            format!("192.0.2.7:4 [21/Nov/2026:08:00:{second}.000] in shop/{server} 0/0/0/1/1 {status} 9 - - ---- 1/1/0/0/0 0/0 \"GET /: HTTP/1.1\"")
        })
        .collect();
    for frame in 0..4 {
        let mut text = String::new();
        for line in &lines {
            text += &match frame {
                0 => format!("{line}\n"),
                1 => format!(
                    "Nov 21 08:00:00 lb haproxy[9]: {line}\nNov 21 08:00:00 lb sshd[7]: Connection from 192.0.2.9 [preauth]\nNov 21 08:00:00 lb haproxy[9]: Server shop/blue is UP.\n"
                ),
                2 => format!("{}\n", serde_json::json!({"MESSAGE": line, "_PID": "9"})),
                _ => format!("<134>1 2026-11-21T08:00:00Z lb haproxy 9 - - {line}\n"),
            };
        }
        std::fs::write(place.path().join("access.log"), text).unwrap();
        let metric = "{name: h, kind: haproxy_log, target: access.log, with: {zone: UTC}}";
        let found =
            requests(open(place.path(), metric).unwrap().as_mut(), &both, begin + 11_000, begin + 70_000)
                .unwrap();
        let count = |side: usize, ok: bool| found.iter().filter(|r| r.side == side && r.ok == ok).count();
        assert_eq!(
            [count(0, true), count(0, false), count(1, true), count(1, false)],
            [19, 0, 0, 20],
            "frame {frame}"
        );
    }
}
