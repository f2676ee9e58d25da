//! What the bakes of a plan can see, told before anything moves: how many samples each has, which
//! difference they show, and how often chance alone brings a good release back.

use super::machine::Course;
use crate::judge::{Spending, condition, power, window_ms};
use crate::metrics::DEFAULT_STEP;
use crate::plan::{JudgeKind, MetricSpec, Promote, Trigger};
use crate::units::{parse_operand, show_duration, show_number, show_share};

/// How surely a difference is to be seen, where the plan does not say.
const POWER: f64 = 0.8;
/// The same for false alarms.
const FALSE_ALARMS: f64 = 0.01;
/// The error rates of a blue side that the differences are told for.
const BASES: [f64; 2] = [0.001, 0.01];
/// So often a comparison is tested in a bake, at most.
const MOST_LOOKS: i64 = 50;
/// A bake should have this many steps of a series.
const FEWEST_STEPS: f64 = 3.0;
/// How often the triggers are looked at where the plan does not say, in ms.
const INTERVAL_MS: i64 = 5_000;
/// Fewest requests a side where the plan does not say.
const MIN_SAMPLES: u64 = 50;

/// What a plan's comparisons can see.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sight {
    /// Lines for people: each distinct bake, and below it each comparison.
    pub(super) lines: Vec<String>,
    /// What is too short to see anything.
    pub(super) warnings: Vec<String>,
}

/// What the comparisons of a plan see in its bakes. Nothing where the plan compares nothing.
pub(super) fn in_sight(plan: &Promote, course: &Course) -> Sight {
    let compared: Vec<&Trigger> =
        plan.rollback_when.iter().filter(|t| t.worse_than_baseline_by.is_some()).collect();
    let mut sight = Sight::default();
    let mut bakes: Vec<(i64, Vec<usize>)> = Vec::new();
    for (number, step) in course.steps.iter().enumerate().filter(|(_, step)| step.bake_ms > 0) {
        match bakes.iter_mut().find(|(bake_ms, _)| *bake_ms == step.bake_ms) {
            Some((_, steps)) => steps.push(number + 1),
            None => bakes.push((step.bake_ms, vec![number + 1])),
        }
    }
    for (bake_ms, steps) in &bakes {
        let bake = Bake::of(plan, *bake_ms);
        bake.look_at_probes(&mut sight);
        if compared.is_empty() {
            continue;
        }
        sight.lines.push(format!("in {} ({}):", show(bake.seconds), steps_word(steps)));
        for trigger in &compared {
            bake.look_at(trigger, &mut sight);
        }
    }
    let watched = course.steps.iter().filter(|step| step.bake_ms > 0).count();
    sight.lines.extend(by_chance(plan, &compared, watched));
    sight
}

/// How many good releases chance brings back, all comparisons and bakes together.
fn by_chance(plan: &Promote, compared: &[&Trigger], bakes: usize) -> Option<String> {
    if compared.is_empty() || bakes == 0 {
        return None;
    }
    if plan.judge.kind == JudgeKind::Kayenta {
        return Some("Kayenta's rules state no rate of false alarms, and look without a limit to it".into());
    }
    let tests: usize = compared.iter().map(|trigger| sources(plan, trigger)).sum();
    let share = false_alarms(plan) * (tests * bakes) as f64;
    let untested = compared.iter().find(|trigger| trigger.metric == "latency_max");
    let apart = untested.map_or(String::new(), |t| format!(", {} apart, which cannot be tested", t.metric));
    Some(format!(
        "of 100 good releases at most {:.0} go back by chance: {} in each of {}{apart}",
        (share * 100.0).ceil().min(100.0),
        many(tests, "comparison"),
        many(bakes, "bake")
    ))
}

/// At how many sources a comparison is made, at most.
fn sources(plan: &Promote, trigger: &Trigger) -> usize {
    if series(plan, trigger).is_some() || trigger.source.is_some() {
        return usize::from(trigger.metric != "latency_max");
    }
    let logs = plan.metrics.iter().filter(|spec| plan.rollback_when.iter().all(|t| t.metric != spec.name));
    match trigger.metric.as_str() {
        "latency_max" => 0,
        "error_rate" | "latency_mean" => 2 + logs.count(),
        _ => 1 + logs.count(),
    }
}

fn series<'a>(plan: &'a Promote, trigger: &Trigger) -> Option<&'a MetricSpec> {
    plan.metrics.iter().find(|spec| spec.name == trigger.metric)
}

fn false_alarms(plan: &Promote) -> f64 {
    plan.judge.false_alarms.map_or(FALSE_ALARMS, |share| share.0)
}

/// One length of a bake.
struct Bake<'a> {
    plan: &'a Promote,
    seconds: f64,
    /// Requests of the probe a side.
    requests: f64,
    /// Windows of time a side, and how long one is, in seconds.
    windows: f64,
    window: f64,
    looks: u32,
}

impl<'a> Bake<'a> {
    fn of(plan: &'a Promote, bake_ms: i64) -> Self {
        let interval = plan.interval.map_or(INTERVAL_MS, |span| super::record::millis(span.0)).max(1);
        let window = window_ms(plan, bake_ms);
        let seconds = bake_ms as f64 / 1e3;
        Self {
            plan,
            seconds,
            requests: (seconds * plan.probe.rate.0).floor(),
            windows: (bake_ms / window) as f64,
            window: window as f64 / 1e3,
            looks: u32::try_from((bake_ms / interval).clamp(1, MOST_LOOKS)).unwrap_or(1),
        }
    }

    fn look_at_probes(&self, sight: &mut Sight) {
        let least = self.plan.min_samples.unwrap_or(MIN_SAMPLES).max(1) as f64;
        if self.requests < least {
            sight.warnings.push(format!(
                "in {} the probe sends {} requests a side, and `min_samples` asks for {}: a bake cannot pass by it at its end",
                show(self.seconds),
                show_number(self.requests),
                show_number(least)
            ));
        }
    }

    fn look_at(&self, trigger: &Trigger, sight: &mut Sight) {
        let name = format!("{} {}", trigger.metric, condition(trigger));
        if self.plan.judge.kind == JudgeKind::Kayenta {
            let said = match series(self.plan, trigger) {
                Some(spec) => format!("{} a side", many_of(self.values(spec).0, "value")),
                None => self.samples(),
            };
            sight.lines.push(format!("  {name}: {said}, classified as Kayenta does"));
            return;
        }
        let said = match (series(self.plan, trigger), trigger.metric.as_str(), trigger.source.as_deref()) {
            (Some(spec), ..) => self.of_series(spec, sight),
            (None, "latency_max", _) => "one figure a side, which nothing can be tested by".into(),
            (None, _, Some(source)) if source != "probe" => {
                format!("as much as users' requests at {source} show; how many come is not known beforehand")
            }
            (None, "error_rate", _) => self.of_rates(trigger),
            _ => self.of_latencies(&trigger.metric, sight),
        };
        sight.lines.push(format!("  {name}: {said}"));
    }

    fn samples(&self) -> String {
        format!(
            "{} probes and {} windows of {} a side",
            show_number(self.requests),
            show_number(self.windows),
            show(self.window)
        )
    }

    fn power(&self) -> f64 {
        self.plan.judge.power.map_or(POWER, |share| share.0)
    }

    /// The level of the last test of a bake, when a part of the stated rate was spent at each before.
    fn level(&self, part: f64) -> f64 {
        let mut spending = Spending::new(false_alarms(self.plan) * part);
        let looks = f64::from(self.looks);
        let at = |look: u32| f64::from(look) / looks;
        (1..=self.looks).map(|look| spending.level(at(look), at(look))).last().unwrap_or_default()
    }

    fn of_rates(&self, trigger: &Trigger) -> String {
        let (level, power) = (self.level(1.0), self.power());
        let share = trigger.worse_than_baseline_by.map_or(0.0, |share| share.0);
        let least =
            trigger.at_least.as_ref().and_then(|text| parse_operand(text, crate::units::Unit::Share).ok());
        let seen = BASES.map(|base| {
            let allowed = base + (base * share).max(least.unwrap_or(0.001));
            let found = power::rate_in_sight(base, self.requests, level, power)
                .map_or_else(|| "none".into(), |rate| show_share(round(rate.max(allowed))));
            format!("{found} where blue has {}", show_share(base))
        });
        format!(
            "{} probes a side; seen in {} of 100 bakes: {}",
            show_number(self.requests),
            show_number((power * 100.0).round()),
            seen.join(", "),
        )
    }

    fn of_latencies(&self, metric: &str, sight: &mut Sight) -> String {
        let needed = power::fewest_windows(false_alarms(self.plan), power::Of::Requests) as f64;
        if self.windows < needed {
            sight.warnings.push(format!(
                "{metric}: {} has {} windows of time, and {} are needed: it cannot pass at the end of the bake",
                show(self.seconds),
                show_number(self.windows),
                show_number(needed)
            ));
        }
        let level = self.level(power::Of::Requests.share());
        self.shift(self.windows, level, &self.samples())
    }

    /// Values a side, and how many of them do not overlap.
    fn values(&self, spec: &MetricSpec) -> (f64, f64) {
        let step = spec.step.map_or(DEFAULT_STEP, |span| span.0).as_secs_f64().max(1e-3);
        let delay = spec.delay.map_or(step, |span| span.0.as_secs_f64());
        let covers = spec.window.map_or(step, |span| span.0.as_secs_f64()).max(step);
        let time = (self.seconds - delay).max(0.0);
        ((time / step).floor(), (time / covers).floor())
    }

    fn of_series(&self, spec: &MetricSpec, sight: &mut Sight) -> String {
        let step = spec.step.map_or(DEFAULT_STEP, |span| span.0).as_secs_f64();
        let (values, apart) = self.values(spec);
        let needed = power::fewest_windows(false_alarms(self.plan), power::Of::Series) as f64;
        if self.seconds < FEWEST_STEPS * step {
            sight.warnings.push(format!(
                "{}: {} is shorter than three steps of {}",
                spec.name,
                show(self.seconds),
                show(step)
            ));
        } else if values < needed {
            sight.warnings.push(format!(
                "{}: {} has {}, and {} are needed: it cannot pass at the end of the bake",
                spec.name,
                show(self.seconds),
                many_of(values, "value"),
                show_number(needed)
            ));
        }
        let level = self.level(power::Of::Series.share());
        let mut what = format!("{} a side", many_of(values, "value"));
        if apart < values {
            what.push_str(&format!(", {} of them without an overlap", show_number(apart)));
        }
        self.shift(apart, level, &what)
    }

    fn shift(&self, values: f64, level: f64, what: &str) -> String {
        match power::deviations_in_sight(values, level, self.power()) {
            Some(deviations) => format!(
                "{what}; seen in {} of 100 bakes: a shift of {deviations:.1} standard deviations of a window",
                show_number((self.power() * 100.0).round())
            ),
            None => format!("{what}; too few to be sure of any shift"),
        }
    }
}

/// Two digits are enough.
fn round(share: f64) -> f64 {
    if share <= 0.0 {
        return 0.0;
    }
    let digit = 10_f64.powf(share.log10().floor() - 1.0);
    (share / digit).round() * digit
}

fn show(seconds: f64) -> String {
    show_duration(seconds)
}

fn many(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn many_of(number: f64, what: &str) -> String {
    format!("{} {what}{}", show_number(number), if (number - 1.0).abs() < f64::EPSILON { "" } else { "s" })
}

fn steps_word(steps: &[usize]) -> String {
    let numbers = steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("step{} {numbers}", if steps.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
mod tests {
    use super::super::record::course_of;
    use super::*;
    use crate::yaml;

    fn seen(steps: &str, rules: &str) -> Sight {
        let text = format!(
            "router: {{kind: haproxy, target: s}}\nsides: {{blue: {{url: \"http://b\"}}, green: {{url: \"http://g\"}}}}\n\
             probe: {{rate: 20/s}}\ninterval: 5s\nsteps: {steps}\n{rules}\n"
        );
        let plan: Promote = yaml::parse(&text).unwrap().read(&|_: &str| None::<String>).unwrap();
        in_sight(&plan, &course_of(&plan))
    }

    const STEPS: &str =
        "[{weight: 5%, bake: 10m}, {weight: 25%, bake: 1h}, {weight: 50%, bake: 10m}, {weight: 100%}]";

    #[test]
    fn each_comparison_has_a_line_for_each_distinct_bake() {
        let sight = seen(
            STEPS,
            "rollback_when: [{metric: error_rate, worse_than_baseline_by: 50%}, {metric: latency_p95, worse_than_baseline_by: 20%}, {metric: error_rate, is: '> 1%'}]",
        );
        let lines: Vec<&str> = sight.lines.iter().map(String::as_str).collect();
        assert_eq!(lines.len(), 7, "{lines:#?}");
        assert_eq!((lines[0], lines[3]), ("in 10 min (steps 1, 3):", "in 1 h (step 2):"));
        assert!(lines[1].contains("12000 probes a side; seen in 80 of 100 bakes: 0."), "{}", lines[1]);
        assert!(lines[2].contains("20 windows of 30 s a side"), "{}", lines[2]);
        // error_rate at the probe and at the router, latency at the probe; three bakes.
        assert!(lines[6].starts_with("of 100 good releases at most 9 go back by chance"), "{}", lines[6]);
        assert_eq!(sight.warnings, [] as [String; 0]);
    }

    #[test]
    fn longer_bakes_and_more_power_change_what_is_seen() {
        let rate = |steps: &str, judge: &str| {
            let rules = format!(
                "judge: {{{judge}}}\nrollback_when: [{{metric: error_rate, worse_than_baseline_by: 10%, source: probe}}]"
            );
            let line = seen(steps, &rules).lines[1].clone();
            let rate = line.split("bakes: ").nth(1).unwrap().split(" %").next().unwrap();
            rate.parse::<f64>().unwrap()
        };
        let short = rate("[{weight: 5%, bake: 2m}, {weight: 100%}]", "");
        let long = rate("[{weight: 5%, bake: 2h}, {weight: 100%}]", "");
        let sure = rate("[{weight: 5%, bake: 2m}, {weight: 100%}]", "power: 99%");
        let strict = rate("[{weight: 5%, bake: 2m}, {weight: 100%}]", "false_alarms: 0.01%");
        assert!(long < short && short < sure && short < strict, "{long} {short} {sure} {strict}");
        // What the trigger allows is never an alarm, however many requests there are.
        assert!(rate("[{weight: 5%, bake: 1000h}, {weight: 100%}]", "") >= 0.2);
    }

    #[test]
    fn what_is_too_short_is_told() {
        let orders = "metrics: [{name: orders, kind: file, target: x, step: 15s}]\nrollback_when: [{metric: orders, worse_than_baseline_by: 5%}]";
        let of = |bake: &str, rules: &str| {
            seen(&format!("[{{weight: 5%, bake: {bake}}}, {{weight: 100%}}]"), rules).warnings
        };
        assert_eq!(of("10m", orders), [] as [String; 0]);
        assert_eq!(of("40s", orders), ["orders: 40 s is shorter than three steps of 15 s"]);
        let few = of("80s", orders);
        assert!(few.len() == 1 && few[0].contains("has 4 values, and 6 are needed"), "{few:?}");
        let few = of("2s", "rollback_when: [{metric: error_rate, is: '> 1%'}]");
        assert!(few.len() == 1 && few[0].contains("`min_samples` asks for 50"), "{few:?}");
        let strict = "judge: {false_alarms: 0.0001%}\nmin_samples: 1\nrollback_when: [{metric: latency_p95, worse_than_baseline_by: 5%}]";
        let few = of("1s", strict);
        assert!(few.len() == 1 && few[0].contains("6 windows of time, and 13 are needed"), "{few:?}");
    }

    #[test]
    fn values_that_overlap_are_told_apart() {
        let rules = |window: &str| {
            format!(
                "metrics: [{{name: orders, kind: file, target: x, step: 15s, window: {window}}}]\nrollback_when: [{{metric: orders, worse_than_baseline_by: 5%}}]"
            )
        };
        let of = |window: &str| seen(STEPS, &rules(window)).lines[1].clone();
        assert!(of("15s").contains("39 values a side; seen in"), "{}", of("15s"));
        assert!(of("1m").contains("39 values a side, 9 of them without an overlap; "), "{}", of("1m"));
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let users =
            seen(STEPS, "rollback_when: [{metric: error_rate, worse_than_baseline_by: 5%, source: haproxy}]");
        assert!(users.lines[1].contains("users' requests at haproxy"), "{:?}", users.lines);
        let max = seen(STEPS, "rollback_when: [{metric: latency_max, worse_than_baseline_by: 5%}]");
        assert!(max.lines.last().unwrap().contains("at most 0 go back by chance"), "{:?}", max.lines);
        assert!(max.lines.last().unwrap().contains("latency_max apart, which cannot be tested"));
        let kayenta = seen(
            STEPS,
            "judge: {kind: kayenta, score: {pass: 95, marginal: 75}}\nrollback_when: [{metric: latency_p95, worse_than_baseline_by: 5%}]",
        );
        assert!(kayenta.lines[1].contains("as Kayenta does"), "{:?}", kayenta.lines);
        assert!(kayenta.lines.last().unwrap().contains("no rate of false alarms"));
        assert_eq!(seen(STEPS, "rollback_when: [{metric: error_rate, is: '> 1%'}]"), Sight::default());
    }
}
