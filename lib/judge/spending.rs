//! Repeated looks: how small a p-value must be at each of them, so that all together keep the stated
//! rate of false alarms.
//!
//! Alpha spending after Lan & DeMets (Biometrika 70, 1983): at each look a part of the stated rate is
//! spent, and the boundary follows from the joint distribution of all looks so far (Armitage, McPherson
//! & Rowe, Journal of the Royal Statistical Society A 132, 1969). Neither the number of the looks nor
//! their moments need to be known beforehand.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::normal::{quantile, upper_tail};

/// This part of the stated rate is spent in the planned bake, the rest on whatever time comes after.
const IN_THE_BAKE: f64 = 0.9;

/// The tests of one comparison so far, and what they have spent.
#[derive(Clone, Debug)]
pub struct Spending {
    alpha: f64,
    spent: f64,
    information: f64,
    law: Rc<Law>,
    history: Vec<(u64, u64)>,
}

/// The distribution of the statistic at the last test, where no boundary was crossed before: values of
/// a density at even distances.
#[derive(Clone, Debug, Default)]
struct Law {
    information: f64,
    low: f64,
    step: f64,
    density: Vec<f64>,
}

type Known = HashMap<Vec<(u64, u64)>, (f64, Rc<Law>)>;

thread_local! {
    // The same looks have the same boundaries: comparisons of one bake share them.
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// How many histories are kept in mind.
const KNOWN_AT_MOST: usize = 4096;

impl Spending {
    /// With a total rate of false alarms, in 0..1.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha: alpha.clamp(1e-12, 0.5),
            spent: 0.0,
            information: 0.0,
            law: Rc::default(),
            history: Vec::new(),
        }
    }

    /// The level of a one-sided test now: a p-value at or below it is an alarm. 0 when nothing is left
    /// to spend.
    pub fn level(&mut self, information: f64, progress: f64) -> f64 {
        let target = self.alpha * spent_until(progress);
        let increment = (target - self.spent).max(0.0);
        if increment < 1e-15 || information <= self.information {
            return 0.0;
        }
        self.history.push((information.to_bits(), increment.to_bits()));
        let known = KNOWN.with_borrow(|known| known.get(&self.history).cloned());
        let (boundary, law) = known.unwrap_or_else(|| {
            let found = self.law.next(information, increment);
            let found = (found.0, Rc::new(found.1));
            KNOWN.with_borrow_mut(|known| {
                if known.len() >= KNOWN_AT_MOST {
                    known.clear();
                }
                known.insert(self.history.clone(), found.clone());
            });
            found
        });
        self.law = law;
        self.spent += increment;
        self.information = information;
        upper_tail(boundary)
    }
}

/// Tests of which each is made on data of its own: the rate is spent piece by piece, and the sum of the
/// pieces bounds it whatever they have in common (Bonferroni).
#[derive(Clone, Debug)]
pub(super) struct Piecemeal {
    alpha: f64,
    progress: f64,
}

impl Piecemeal {
    /// With a total rate of false alarms, in 0..1.
    pub(super) fn new(alpha: f64) -> Self {
        Self { alpha: alpha.clamp(1e-12, 0.5), progress: 0.0 }
    }

    /// The level of the next tests together.
    pub(super) fn level(&mut self, progress: f64) -> f64 {
        let spent = spent_until(self.progress);
        self.progress = self.progress.max(progress);
        self.alpha * (spent_until(self.progress) - spent)
    }
}

/// The share of the rate that is spent when that share of the bake is over: evenly within it, the rest
/// ever more slowly.
fn spent_until(progress: f64) -> f64 {
    if progress <= 1.0 {
        IN_THE_BAKE * progress.max(0.0)
    } else {
        IN_THE_BAKE + (1.0 - IN_THE_BAKE) * (1.0 - 1.0 / progress)
    }
}

/// How far below 0 the density is followed, in standard deviations.
const FAR: f64 = 7.0;
/// How many values of it are kept.
const VALUES: usize = 241;

impl Law {
    /// The boundary (in standard deviations) that is crossed with probability `increment` at the next
    /// test and not before, and the law of what does not cross it.
    fn next(&self, information: f64, increment: f64) -> (f64, Self) {
        let deviation = information.sqrt();
        if self.density.is_empty() {
            let boundary = -quantile(increment);
            let law =
                Self::on_grid(information, boundary * deviation, |x| density(x / deviation) / deviation);
            return (boundary, law);
        }
        let spread = (information - self.information).sqrt();
        let beyond = |limit: f64| self.integral(|u| upper_tail((limit - u) / spread));
        let (mut low, mut high) = (-deviation, 40.0 * deviation);
        for _ in 0..60 {
            let middle = low.midpoint(high);
            if beyond(middle) > increment {
                low = middle;
            } else {
                high = middle;
            }
        }
        let limit = high;
        let law =
            Self::on_grid(information, limit, |x| self.integral(|u| density((x - u) / spread)) / spread);
        (limit / deviation, law)
    }

    fn on_grid(information: f64, limit: f64, value: impl Fn(f64) -> f64) -> Self {
        let low = -FAR * information.sqrt();
        let step = (limit - low) / (VALUES - 1) as f64;
        let density = (0..VALUES).map(|n| value(low + step * n as f64)).collect();
        Self { information, low, step, density }
    }

    /// Simpson's rule over density times weight.
    fn integral(&self, weight: impl Fn(f64) -> f64) -> f64 {
        let last = self.density.len() - 1;
        let sum: f64 = self
            .density
            .iter()
            .enumerate()
            .map(|(n, value)| {
                let times = match n {
                    0 => 1.0,
                    n if n == last => 1.0,
                    n if n % 2 == 1 => 4.0,
                    _ => 2.0,
                };
                times * value * weight(self.low + self.step * n as f64)
            })
            .sum();
        sum * self.step / 3.0
    }
}

fn density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(looks: u32, alpha: f64) -> Vec<f64> {
        let mut spending = Spending::new(alpha);
        (1..=looks)
            .map(|look| {
                let at = f64::from(look) / f64::from(looks);
                spending.level(at, at)
            })
            .collect()
    }

    #[test]
    fn one_look_spends_what_the_bake_may() {
        assert!((levels(1, 0.01)[0] - 0.009).abs() < 1e-9);
    }

    #[test]
    fn later_looks_may_be_less_strict_for_they_know_what_the_earlier_ones_have_seen() {
        let got: Vec<f64> = levels(5, 0.025 / IN_THE_BAKE).iter().map(|p| -quantile(*p)).collect();
        assert!((got[0] - 2.5758).abs() < 5e-4, "{got:?}");
        assert!(got.windows(2).all(|pair| pair[1] < pair[0]), "{got:?}");
    }

    #[test]
    fn a_walk_by_chance_crosses_them_as_often_as_stated() {
        let looks = 20_u32;
        let levels = levels(looks, 0.05);
        let bounds: Vec<f64> = levels.iter().map(|p| -quantile(*p)).collect();
        let mut state = 1_u64;
        let mut uniform = || {
            // splitmix64
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let runs = 20_000;
        let mut alarms = 0;
        for _ in 0..runs {
            let mut walk = 0.0;
            for (number, bound) in bounds.iter().enumerate() {
                walk += quantile(uniform().max(1e-300));
                if walk / ((number + 1) as f64).sqrt() >= *bound {
                    alarms += 1;
                    break;
                }
            }
        }
        let rate = f64::from(alarms) / f64::from(runs);
        assert!((0.041..0.049).contains(&rate), "{rate}");
    }

    #[test]
    fn nothing_new_spends_nothing_and_time_beyond_the_bake_has_a_rest() {
        let mut spending = Spending::new(0.01);
        assert!(spending.level(100.0, 0.5) > 0.0);
        assert!(spending.level(100.0, 0.9) == 0.0);
        assert!(spending.level(200.0, 1.0) > 0.0);
        assert!(spending.level(400.0, 2.0) > 0.0);
    }

    #[test]
    fn pieces_add_up_to_what_is_stated_however_long_it_takes() {
        let mut pieces = Piecemeal::new(0.01);
        let sum: f64 = (1..=100_000).map(|n| pieces.level(f64::from(n) / 1e3)).sum();
        assert!((0.0099..0.01).contains(&sum), "{sum}");
        assert!(pieces.level(100.0) == 0.0 && pieces.level(50.0) == 0.0);
    }
}
