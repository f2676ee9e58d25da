//! A real Prometheus.

use super::*;
use crate::support::prometheus::{Exporter, Prometheus, SCRAPE};
use crate::support::wait_for;
use metrics::TroubleKind;

const STEP: Duration = SCRAPE;

/// Metrics of a name with their last value: a busy machine leaves gaps between scrapes.
fn last(labels: &str) -> String {
    format!("last_over_time(requests{{{labels}}}[10m])")
}

fn metric(url: &str, query: &str) -> String {
    format!("- name: m\n  kind: prometheus\n  target: {url}\n  with:\n    query: >-\n      {query}\n")
}

/// Counters of two sides, and of green's two instances.
fn counters(blue: u32, green: u32) -> String {
    format!(
        "# TYPE requests counter\nrequests{{side=\"blue\",code=\"200\"}} {blue}\n\
         requests{{side=\"green\",code=\"200\"}} {green}\nrequests{{side=\"green\",code=\"500\"}} 7\n"
    )
}

/// One Prometheus for all of it: it takes a second to start.
#[test]
fn a_real_prometheus_is_asked_for_each_side() {
    let exporter = Exporter::start(&counters(10, 20));
    let mut server = Prometheus::start(&[exporter.target()]);
    server.wait_for("requests{code=\"500\"}");
    let url = server.url();
    // It has been there for longer than the window.
    server.wait_for("last_over_time(requests{code=\"500\"}[10m] offset 4s)");
    let (from, to) = (ago(2000), ago(0));
    let at =
        |query: &str, word: &'static str| ask(&mut *open(&metric(&url, query)), &side(word), from, to, STEP);

    // One series for each side, at moments of the grid, each once.
    let query = &format!("sum({})", last("side=\"{{ side }}\", code=\"200\""));
    let (blue, green) = (at(query, "blue").unwrap(), at(query, "green").unwrap());
    assert_eq!((values(&blue), values(&green)), (vec![10.0; 4], vec![20.0; 4]));
    let moments: Vec<i64> = blue.iter().map(|point| point.at_ms).collect();
    assert!(moments.windows(2).all(|two| two[1] - two[0] == 500), "{moments:?}");
    assert!(moments.iter().all(|at| at % 500 == 0 && (from..to).contains(at)), "{moments:?}");

    // Several series, by their labels; the name of a metric is one of them.
    let trouble = at(&last("side=\"{{ side }}\""), "green").unwrap_err();
    assert_eq!(trouble.what, TroubleKind::SeveralSeries);
    assert!(trouble.message.contains("2 series") && trouble.message.contains("code=\"500\""), "{trouble:?}");
    assert!(trouble.message.contains("__name__=\"requests\""), "{trouble:?}");

    // None is no trouble.
    assert_eq!(at("requests{side=\"{{ side }}-new\"}", "green"), Ok(Vec::new()));

    // What no number says comes as it is.
    let zero = &format!("0 * sum({})", last("side=\"{{ side }}\""));
    assert!(values(&at(&format!("({zero}) / ({zero})"), "blue").unwrap()).iter().all(|v| v.is_nan()));
    let infinite = values(&at(&format!("1 / ({zero})"), "blue").unwrap());
    assert_eq!(infinite, vec![f64::INFINITY; 4]);
    assert_eq!(values(&at(&format!("-1 / ({zero})"), "blue").unwrap()), vec![f64::NEG_INFINITY; 4]);

    // Prometheus's own words.
    let trouble = at("sum(requests{side=\"{{ side }}\"}", "blue").unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused);
    assert!(trouble.message.contains("parse error: unclosed left parenthesis"), "{trouble:?}");

    // A query that is longer than any line.
    let long = format!("side=\"{{{{ side }}}}\", code=~\"200{}\"", "|x".repeat(5_000));
    let long = format!("sum({})", last(&long));
    assert_eq!(values(&at(&long, "green").unwrap()), [20.0; 4]);

    // What is not there yet comes with a later look, and what was there stays as it was.
    exporter.set(&counters(11, 22));
    server.wait_for("requests{side=\"green\"} == 22");
    let mut source = open(&metric(&url, query));
    let later = wait_for("the new value", || {
        let later = values(&ask(&mut *source, &side("green"), from, ago(0), STEP).unwrap());
        later.contains(&22.0).then_some(later)
    });
    assert_eq!((later[..4].to_vec(), later.last()), (vec![20.0; 4], Some(&22.0)), "{later:?}");

    // More values than Prometheus gives: it is said before it is asked.
    let second = Duration::from_millis(1);
    let now = ago(0);
    let trouble = ask(&mut *source, &side("green"), now - 20_000, now, second).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Refused);
    assert!(trouble.message.contains("a step of 1 ms makes 20000 values of 20 s"), "{trouble:?}");
    let most = ask(&mut *source, &side("green"), 0, 11_000 * 60_000, Duration::from_secs(60));
    assert_eq!(most, Ok(Vec::new()), "as many as Prometheus gives are asked for");

    server.kill();
    let trouble = ask(&mut *source, &side("green"), from, to, STEP).unwrap_err();
    assert_eq!(trouble.what, TroubleKind::Unreachable);
    assert!(trouble.message.starts_with(&format!("Prometheus at {url}: no answer")), "{trouble:?}");
}

#[test]
fn a_side_that_is_gone_has_no_values_and_no_old_ones() {
    let exporter = Exporter::start(&counters(10, 20));
    let server = Prometheus::start(&[exporter.target()]);
    server.wait_for("requests{side=\"green\"}");
    exporter.set("# TYPE requests counter\nrequests{side=\"blue\",code=\"200\"} 10\nnow_gone 1\n");
    // The scrape that brought this had green no more.
    server.wait_for("now_gone");
    let gone = ago(0);
    let mut source = open(&metric(&server.url(), "sum(requests{side=\"{{ side }}\"})"));
    wait_for("several values of blue", || {
        let blue = ask(&mut *source, &side("blue"), gone, ago(0), STEP).unwrap();
        (blue.len() >= 4).then_some(())
    });
    assert_eq!(ask(&mut *source, &side("green"), gone, ago(0), STEP), Ok(Vec::new()));
}
