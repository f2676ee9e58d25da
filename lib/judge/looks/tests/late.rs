//! Gross defects that begin late in a long bake, with many good windows before them.

use super::super::super::Sorter;
use super::super::super::normal::quantile;
use super::*;

/// What green does from some moment on.
#[derive(Clone, Copy, Debug)]
enum Defect {
    None,
    /// Every request fails.
    Down,
    /// Every request is so many times slower.
    Slow(f64),
    /// One in so many is a hundred times slower.
    Rare(u64),
}

struct Chance(u64);

impl Chance {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long after its beginning a defect is found, in s; none when the bake is over before.
fn found_after(trigger: &str, defect: Defect, bake_s: i64, onset_s: i64, seed: u64) -> Option<i64> {
    let plan = plan(&format!("[{trigger}]"), "");
    let mut judge = Judge::begin(&plan, 0, bake_s * 1000);
    let mut chance = Chance(seed);
    let mut number = 0_u64;
    for look in 1..=bake_s / 5 {
        let mut sorters = [0, 1].map(|_| Sorter::new(0, judge.cut.bin_ms, 20_000));
        for request in 0..50 {
            for (side, sorter) in sorters.iter_mut().enumerate() {
                let at = (look - 1) * 5_000 + request * 100;
                let mut latency = 20.0 * (0.5 * quantile(chance.uniform().max(1e-12))).exp();
                let mut ok = true;
                if side == 1 && at >= onset_s * 1000 {
                    number += 1;
                    match defect {
                        Defect::Down => ok = false,
                        Defect::Slow(times) => latency *= times,
                        Defect::Rare(of) if number.is_multiple_of(of) => latency *= 100.0,
                        Defect::None | Defect::Rare(_) => {}
                    }
                }
                sorter.add(at, Some(latency), ok);
            }
        }
        let given =
            Given { source: "probe".into(), requests: Some(sorters.map(Sorter::finish)), ..Given::default() };
        let looked = judge.look(&Batch { at_ms: look * 5_000, given: vec![given] });
        if looked.decision == Decision::Fail {
            return Some(look * 5 - onset_s);
        }
    }
    None
}

#[test]
fn a_gross_defect_is_found_however_late_in_the_bake_it_begins() {
    let rate = "{metric: error_rate, worse_than_baseline_by: 50%}";
    let p95 = "{metric: latency_p95, worse_than_baseline_by: 10%}";
    let mean = "{metric: latency_mean, worse_than_baseline_by: 10%}";
    for (trigger, defect, onset, within) in [
        (rate, Defect::Down, 450, 15),
        (p95, Defect::Slow(10.0), 300, 45),
        (p95, Defect::Slow(10.0), 540, 45),
        (p95, Defect::Slow(1.5), 300, 160),
        (p95, Defect::Rare(20), 150, 60),
        (p95, Defect::Rare(20), 450, 60),
        (mean, Defect::Slow(10.0), 450, 45),
    ] {
        let found = found_after(trigger, defect, 600, onset, 1);
        assert!(
            found.is_some_and(|after| after <= within),
            "{trigger} {defect:?} from {onset} s on: {found:?}"
        );
    }
    assert_eq!(found_after(p95, Defect::None, 600, 0, 2), None);
}

#[test]
fn a_short_bake_with_few_probes_passes_in_the_end() {
    let mut plan = plan("[{metric: latency_p95, worse_than_baseline_by: 10%}]", "");
    for (every, bake_s) in [(1_000, 8), (1_000, 1), (200, 1), (2_000, 3), (10, 1)] {
        plan.probe.rate.0 = 1e3 / every as f64;
        let mut judge = Judge::begin(&plan, 0, bake_s * 1000);
        let mut passed = false;
        for look in 1..=60_i64 {
            let mut sorter = Sorter::new(0, judge.cut.bin_ms, 20_000);
            for n in 2 * look - 2..2 * look {
                sorter.add(n * every, Some(10.0 + (n % 7) as f64), true);
            }
            let requests = sorter.finish();
            let requests = Some([requests.clone(), requests]);
            let given = Given { source: "probe".into(), requests, ..Given::default() };
            let batch = Batch { at_ms: 2 * look * every, given: vec![given] };
            passed = judge.look(&batch).decision == Decision::Pass;
        }
        assert!(passed, "every {every} ms for {bake_s} s");
    }
}
