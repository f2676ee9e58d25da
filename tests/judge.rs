//! The judge's statistics against scipy's: `judge/table.py` prints what each must be.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use trapkey::judge::{
    Alternative, Method, error_rate_interval, error_rate_lower, error_rate_upper, fisher, mann_whitney_test,
    normal, quantile_difference, quantile_interval, quantile_ratio, rate_difference, shift,
};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.needs/bin/python");
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judge/table.py");

/// A kind of row, what is checked of it, and how many there are at least.
type Check = (&'static str, fn(&Value), usize);

const CHECKS: &[Check] = &[
    ("mann_whitney", check_mann_whitney, 3700),
    ("permutation", check_permutation, 100),
    ("hodges_lehmann", check_hodges_lehmann, 250),
    ("quantile", check_quantile, 250),
    ("quantile_difference", check_quantile_difference, 30),
    ("error_rate", check_error_rate, 200),
    ("fisher", check_fisher, 400),
    ("rate_difference", check_rate_difference, 300),
    ("normal", check_normal, 600),
];

#[test]
fn every_statistic_is_what_scipy_says() {
    let printed = Command::new(PYTHON).arg(TABLE).output().unwrap_or_else(|e| {
        panic!("{PYTHON} cannot be run ({e}): scripts/install-needs installs it, with scipy")
    });
    let stderr = String::from_utf8_lossy(&printed.stderr);
    assert!(printed.status.success(), "scripts/install-needs installs scipy; {TABLE} said:\n{stderr}");
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for line in String::from_utf8(printed.stdout).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let kind = row["is"].as_str().unwrap();
        let check = CHECKS.iter().find(|check| check.0 == kind);
        check.unwrap_or_else(|| panic!("nothing checks `{kind}`")).1(&row);
        *seen.entry(kind.into()).or_default() += 1;
    }
    for (kind, _, at_least) in CHECKS {
        let rows = seen.get(*kind).copied().unwrap_or_default();
        assert!(rows >= *at_least, "{rows} rows of `{kind}`, expected {at_least}");
    }
}

/// To nine digits; absolutely where nothing is expected, and where numbers themselves lose digits.
#[track_caller]
fn same(seen: f64, expected: &Value, what: &str, row: &Value) {
    within(seen, expected, 1e-9, what, row);
}

#[track_caller]
fn within(seen: f64, expected: &Value, error: f64, what: &str, row: &Value) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("no {what} in {row}"));
    let scale = match expected.abs() {
        0.0 => 1.0,
        // So near to the least number there are no nine digits.
        tiny if tiny < 1e-305 => 1e-305 / error,
        size => size,
    };
    assert!((seen - expected).abs() <= error * scale, "{what} is {seen}, expected {expected}: {row}");
}

/// Both there and the same, or both not there.
#[track_caller]
fn same_end(seen: Option<f64>, expected: &Value, what: &str, row: &Value) {
    match seen {
        Some(seen) => same(seen, expected, what, row),
        None => assert!(expected.is_null(), "no {what}, expected {expected}: {row}"),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

fn counts(value: &Value) -> (u64, u64) {
    (value[0].as_u64().unwrap(), value[1].as_u64().unwrap())
}

fn alternative(value: &Value) -> Alternative {
    match value.as_str().unwrap() {
        "greater" => Alternative::Greater,
        "less" => Alternative::Less,
        "two-sided" => Alternative::TwoSided,
        other => panic!("{other}"),
    }
}

fn check_mann_whitney(row: &Value) {
    let (a, b) = (numbers(&row["a"]), numbers(&row["b"]));
    for test in row["tests"].as_array().unwrap() {
        let method = match test["method"].as_str().unwrap() {
            "exact" => Method::Exact,
            "asymptotic" => Method::Asymptotic,
            _ => Method::Auto,
        };
        let seen = mann_whitney_test(&a, &b, alternative(&test["alternative"]), method).unwrap();
        same(seen.u, &test["u"], "U", row);
        same(seen.p_value, &test["p_value"], &format!("{test} p"), row);
        assert!(method == Method::Auto || seen.method == method, "{test}: {seen:?}");
        let effect = seen.u / (a.len() * b.len()) as f64;
        assert!((seen.effect - effect).abs() < 1e-12, "{test}: {seen:?}");
    }
}

fn check_permutation(row: &Value) {
    let (a, b) = (numbers(&row["a"]), numbers(&row["b"]));
    let seen = mann_whitney_test(&a, &b, alternative(&row["alternative"]), Method::ExactTies).unwrap();
    assert_eq!(seen.method, Method::ExactTies, "{row}");
    same(seen.p_value, &row["p_value"], "p", row);
}

fn check_hodges_lehmann(row: &Value) {
    let (a, b) = (numbers(&row["a"]), numbers(&row["b"]));
    let seen = shift(&a, &b, number(row, "confidence")).unwrap();
    same(seen.estimate, &row["estimate"], "shift", row);
    same_end(seen.interval.map(|i| i.low), &row["low"], "low", row);
    same_end(seen.interval.map(|i| i.high), &row["high"], "high", row);
}

fn check_quantile(row: &Value) {
    let sample: Vec<f64> = (0..row["n"].as_u64().unwrap()).map(|i| i as f64).collect();
    let seen = quantile_interval(&sample, number(row, "q"), number(row, "confidence")).unwrap();
    same(seen.value, &row["value"], "quantile", row);
    same_end(seen.low, &row["low"], "low", row);
    same_end(seen.high, &row["high"], "high", row);
}

fn check_quantile_difference(row: &Value) {
    let (a, b) = (numbers(&row["a"]), numbers(&row["b"]));
    let (q, confidence) = (number(row, "q"), number(row, "confidence"));
    for (key, seen) in [
        ("difference", quantile_difference(&a, &b, q, confidence).unwrap()),
        ("ratio", quantile_ratio(&a, &b, q, confidence).unwrap()),
    ] {
        same(seen.value, &row[key][0], key, row);
        same_end(seen.low, &row[key][1], key, row);
        same_end(seen.high, &row[key][2], key, row);
    }
}

fn check_error_rate(row: &Value) {
    let (errors, requests) = (row["errors"].as_u64().unwrap(), row["requests"].as_u64().unwrap());
    let confidence = number(row, "confidence");
    let lower = error_rate_lower(errors, requests, confidence).unwrap();
    let upper = error_rate_upper(errors, requests, confidence).unwrap();
    let both = error_rate_interval(errors, requests, confidence).unwrap();
    same(lower, &row["lower"], "lower bound", row);
    same(upper, &row["upper"], "upper bound", row);
    same(both.low, &row["low"], "low", row);
    same(both.high, &row["high"], "high", row);
    for (key, low, high) in [("less", 0.0, upper), ("greater", lower, 1.0), ("both", both.low, both.high)] {
        if let Some([expected_low, expected_high]) = row[key].as_array().map(Vec::as_slice) {
            // scipy searches for these to 2e-12 absolutely.
            let near = |seen: f64, expected: &Value| (seen - expected.as_f64().unwrap()).abs() < 1e-11;
            assert!(near(low, expected_low) && near(high, expected_high), "{key} {low} {high}: {row}");
        }
    }
}

fn check_fisher(row: &Value) {
    for key in ["greater", "less", "two-sided"] {
        let seen = fisher(counts(&row["a"]), counts(&row["b"]), alternative(&Value::from(key)));
        same(seen, &row[key], key, row);
        if let Some(counted) = row.get("counted") {
            same(seen, &counted[key], "counted", row);
        }
    }
}

fn check_rate_difference(row: &Value) {
    let seen = rate_difference(counts(&row["a"]), counts(&row["b"]), number(row, "confidence")).unwrap();
    same(seen.difference, &row["difference"], "difference", row);
    same(seen.interval.low, &row["low"], "low", row);
    same(seen.interval.high, &row["high"], "high", row);
}

fn check_normal(row: &Value) {
    if let Some(z) = row["z"].as_f64() {
        within(normal::upper_tail(z), &row["tail"], 1e-12, "tail", row);
    } else {
        let p = number(row, "p");
        within(normal::quantile(p), &row["below"], 1e-13, "below", row);
        within(-normal::quantile(p), &row["above"], 1e-13, "above", row);
    }
}
