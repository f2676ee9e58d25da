//! A router of your own: one command sets the split, another one tells it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Counters, Kind, Live, Order, OtherWay, Router, Side, SideView, Split, same_share};
use crate::evidence::{sha256_hex, short};
use crate::fault::Fault;
use crate::plan::commands;
use crate::redact::redact;
use crate::units::{self, Share, Text, show_number};
use crate::world::shell::{self, Ran};
use crate::yaml::Problem;

pub(super) static KIND: Kind = Kind {
    name: "command",
    about: "a router of your own: a command that sets the split, and one that tells it",
    target: "what the commands steer, in your words; for messages and the record",
    example: "{kind: command, target: edge, with: {set: [./route.sh, set, \"{green}\"], get: [./route.sh, get]}}",
    settings: |generator| generator.subschema_for::<Settings>(),
    open,
};

/// `with` of a router by commands. They are words, never given to a shell, and run in the plan's folder.
/// In each word `{green}` and `{blue}` stand for percentages without a sign (`5`, `97.5`), `{green_share}`
/// and `{blue_share}` for shares (`0.05`), and `{idle}` for `close` when a side without share must be out
/// of reach for sticky users too (a rollback), otherwise for `keep`. In `retire`, `{side}` stands for
/// `blue` or `green` and `{drain}` for seconds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Puts a split into force and ends with 0 when it is. It must be able to run twice.
    set: Vec<Text>,
    /// Prints green's share as it runs: `5%`, `0.05`, or `{"green": 0.05}`. Ask the router, not a file. Where the
    /// router has health checks of its own, the object says what they say: `{"green": 0.05, "sides": {"blue":
    /// {"serving": 2, "of": 2}, "green": {"serving": 1, "of": 2, "down": ["green2: timeout"]}}}`, and with
    /// `"effective": 0` the share that green is really given.
    get: Vec<Text>,
    /// Ends the open requests of a side that has no share, once they had the time of `drain`; when absent,
    /// they are given that time and nothing is ended.
    #[serde(default)]
    retire: Vec<Text>,
    /// Variables added to their environment; the place for secrets.
    #[serde(default)]
    env: BTreeMap<String, Text>,
    /// The smallest step that the router can do; any share when absent.
    #[serde(default)]
    step: Option<Share>,
}

struct Command {
    name: String,
    /// The digest of what variables filled into the words, where they did.
    filled_in: Option<String>,
    set: Vec<String>,
    get: Vec<String>,
    retire: Vec<String>,
    env: Vec<(String, String)>,
    step: f64,
    folder: PathBuf,
    timeout: Duration,
}

/// What may stand in braces.
const HOLES: [&str; 7] =
    ["{green}", "{blue}", "{green_share}", "{blue_share}", "{idle}", "{side}", "{drain}"];
/// Shares that are told apart when no step is given.
const FINEST: f64 = 0.000_1;

fn open(order: &Order<'_>) -> Result<Box<dyn Router>, Problem> {
    let settings: Settings = order.with.read(order.variables)?;
    let place = order.with.0.as_ref().map(|n| n.place).unwrap_or_default();
    order.split.only_requests("a router by commands").map_err(|why| Problem::at(place, why))?;
    let words = |name: &str, words: Vec<Text>| -> Result<Vec<String>, Problem> {
        // What is filled in later is a number or a word of ours.
        let plain = |text: &Text| HOLES.iter().fold(text.shown.clone(), |text, hole| text.replace(hole, "0"));
        let shown: Vec<String> = words.iter().map(plain).collect();
        commands::fit(shown.iter().map(String::as_str), order.variables)
            .map_err(|unfit| unfit.at(Some(place)))?;
        if words.first().is_some_and(|word| word.value.trim().is_empty()) {
            return Err(Problem::at(place, format!("the command `{name}` is empty")));
        }
        Ok(words.into_iter().map(|word| word.value).collect())
    };
    let all = [&settings.set, &settings.get, &settings.retire].into_iter().flatten();
    let filled_in: Vec<&str> =
        all.filter(|word| word.value != word.shown).map(|word| word.value.as_str()).collect();
    let filled_in = (!filled_in.is_empty()).then(|| short(&sha256_hex(filled_in.join("\0").as_bytes())));
    let (set, get) = (words("set", settings.set)?, words("get", settings.get)?);
    if set.is_empty() || get.is_empty() {
        return Err(Problem::at(place, "`set` and `get` are commands: lists of words"));
    }
    if !set.iter().any(|word| HOLES[..4].iter().any(|hole| word.contains(hole))) {
        return Err(Problem::at(place, "no word of `set` says where the share goes")
            .help("write {green} for green's percentage, or {green_share}, {blue}, {blue_share}"));
    }
    let step = settings.step.map_or(FINEST, |s| s.0);
    if step <= 0.0 || step > 0.5 {
        return Err(Problem::at(place, "`step` must lie above 0% and not above 50%"));
    }
    Ok(Box::new(Command {
        name: order.target.shown.clone(),
        filled_in,
        set,
        get,
        retire: words("retire", settings.retire)?,
        env: settings.env.into_iter().map(|(name, text)| (name, text.value)).collect(),
        step,
        folder: order.folder.to_path_buf(),
        timeout: order.timeout,
    }))
}

/// The words of a command for a split.
fn filled(words: &[String], split: Split, side: Side, drain: Duration) -> Vec<String> {
    let percent = |share: f64| show_plain(share * 100.0);
    let values = [
        percent(split.green),
        percent(1.0 - split.green),
        show_plain(split.green),
        show_plain(1.0 - split.green),
        if split.close_idle_side { "close".into() } else { "keep".into() },
        side.word().to_owned(),
        show_plain(drain.as_secs_f64()),
    ];
    let fill = |word: &String| {
        HOLES.iter().zip(&values).fold(word.clone(), |word, (hole, value)| word.replace(hole, value))
    };
    words.iter().map(fill).collect()
}

/// A number without the noise of binary fractions.
fn show_plain(number: f64) -> String {
    let rounded = (number * 1e6).round() / 1e6;
    format!("{rounded}")
}

/// What `get` printed.
#[derive(Debug, Deserialize)]
struct Told {
    green: Value,
    /// What the router itself says of the sides; other keys are the command's own.
    #[serde(default)]
    sides: Option<BothTold>,
    /// Green's share where servers that are down are left out.
    #[serde(default)]
    effective: Option<Value>,
    /// What gets users and is on neither side.
    #[serde(default)]
    strangers: Vec<String>,
    /// What else leads to the servers of a side.
    #[serde(default)]
    other_ways: Option<WaysTold>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WaysTold {
    #[serde(default)]
    blue: Vec<String>,
    #[serde(default)]
    green: Vec<String>,
}

impl WaysTold {
    fn ways(&self, place: &str) -> Vec<OtherWay> {
        let of = |side: Side, names: &[String]| -> Vec<OtherWay> {
            let way = |name: &String| OtherWay { side, name: redact(name), place: place.to_owned() };
            names.iter().map(way).collect()
        };
        [of(Side::Blue, &self.blue), of(Side::Green, &self.green)].concat()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BothTold {
    blue: SideTold,
    green: SideTold,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SideTold {
    serving: u32,
    of: u32,
    #[serde(default)]
    down: Vec<String>,
    #[serde(default)]
    taken_out: Vec<String>,
    #[serde(default)]
    closed: bool,
}

impl SideTold {
    fn view(self, side: Side) -> Result<SideView, String> {
        let Self { serving, of, down, taken_out, closed } = self;
        if serving > of {
            return Err(format!("of {of} servers of {} {serving} cannot be serving", side.word()));
        }
        let plain = |words: Vec<String>| words.iter().map(|word| redact(word)).collect();
        Ok(SideView {
            serving,
            of,
            down: plain(down),
            taken_out: plain(taken_out),
            closed,
            ..SideView::default()
        })
    }
}

/// What `get` printed: green's share, what the router says of the sides, and what else leads to them, where it says
/// that.
fn told(text: &str) -> Result<(Live, Option<WaysTold>), String> {
    let text = text.trim();
    let odd = || {
        let start = units::clipped(&redact(text), 80);
        format!("it printed `{start}`; one share is expected: 5%, 0.05 or {{\"green\": 0.05}}")
    };
    let said = || json!({"said": redact(text)});
    let Ok(Value::Object(object)) = serde_json::from_str::<Value>(text) else {
        return units::parse_share(text).map(|green| (Live::of(green, said()), None)).map_err(|_| odd());
    };
    let share = |value: &Value| match value {
        Value::Number(number) => units::parse_share(&number.to_string()),
        Value::String(text) => units::parse_share(text),
        _ => Err(odd()),
    };
    share(object.get("green").unwrap_or(&Value::Null))?;
    let told: Told = serde_json::from_value(Value::Object(object))
        .map_err(|e| format!("what it says of the sides is not understood: {e}"))?;
    let mut live = Live::of(share(&told.green)?, said());
    live.effective = told.effective.as_ref().filter(|value| !value.is_null()).map(share).transpose()?;
    live.strangers = told.strangers.iter().map(|word| redact(word)).collect();
    if let Some(sides) = told.sides {
        live.sides = Some([sides.blue.view(Side::Blue)?, sides.green.view(Side::Green)?]);
    }
    Ok((live, told.other_ways))
}

impl Command {
    fn run(
        &self,
        what: &str,
        argv: Vec<String>,
        timeout: Duration,
        through_signals: bool,
    ) -> Result<Ran, Fault> {
        let shown = argv.join(" ");
        let failed = |cause: String| {
            Fault::infrastructure(format!("the command that {what} of `{}` failed", self.name))
                .place(shown.clone())
                .cause(cause)
                .help("run it by hand in the plan's folder; `router.timeout` is its time")
        };
        let mut order = shell::Order::new(argv, &self.folder);
        order.env.clone_from(&self.env);
        order.timeout = timeout;
        order.through_signals = through_signals;
        let ran = order.run().map_err(|e| failed(e.to_string()))?;
        match (ran.exit, ran.last_words()) {
            (Some(0), _) => Ok(ran),
            (_, words) if words.is_empty() => Err(failed(ran.how())),
            (_, words) => Err(failed(format!("{}: {words}", ran.how()))),
        }
    }

    fn get(&self) -> Result<Live, Fault> {
        self.get_with_ways().map(|(live, _)| live)
    }

    fn get_with_ways(&self) -> Result<(Live, Option<WaysTold>), Fault> {
        let ran = self.run("tells the split", self.get.clone(), self.timeout, true)?;
        let text = String::from_utf8_lossy(&ran.stdout);
        told(&text).map_err(|why| {
            Fault::infrastructure(format!(
                "the command that tells the split of `{}` is not understood",
                self.name
            ))
            .place(self.get.join(" "))
            .cause(why)
        })
    }
}

impl Router for Command {
    /// What the words of the commands take from variables says where they lead; the words themselves may be mended.
    fn identity(&self, old: Side) -> Vec<String> {
        let mut lines = vec![format!("{} by commands", self.name), format!("old side {}", old.word())];
        lines.extend(self.filled_in.iter().map(|digest| format!("values of its commands {digest}")));
        lines
    }

    fn other_ways(&mut self) -> Result<Option<Vec<OtherWay>>, Fault> {
        let (_, told) = self.get_with_ways()?;
        Ok(told.map(|told| told.ways(&self.name)))
    }

    fn check(&mut self) -> Result<(), Fault> {
        self.get().map(drop)
    }

    fn nearest(&self, green: f64) -> f64 {
        let steps = (green.clamp(0.0, 1.0) / self.step).round();
        (steps * self.step * 1e6).round().min(1e6) / 1e6
    }

    fn set(&mut self, split: Split) -> Result<(), Fault> {
        let split = Split { green: self.nearest(split.green), ..split };
        // Whether a side is closed cannot be asked for, so closing is always said again.
        if !split.close_idle_side && self.get().is_ok_and(|live| same_share(live.green, split.green)) {
            return Ok(());
        }
        // Half a change is worse than a late end, and a way back must work after a signal too.
        let what = format!("gives green {} %", show_number(split.green * 100.0));
        self.run(&what, filled(&self.set, split, Side::Green, Duration::ZERO), self.timeout, true).map(drop)
    }

    fn read(&mut self) -> Result<Live, Fault> {
        self.get()
    }

    fn drain(&mut self, _: Side, limit: Duration) -> Result<u64, Fault> {
        if self.retire.is_empty() {
            // Nothing shows its open requests: they are given the time.
            std::thread::sleep(limit);
        }
        Ok(0)
    }

    /// The command that takes a side out drains it as well.
    fn close(&mut self, side: Side, _: u64, limit: Duration) -> Result<(), Fault> {
        if self.retire.is_empty() {
            return Ok(());
        }
        let green = if side == Side::Green { 0.0 } else { 1.0 };
        let words = filled(&self.retire, Split { green, close_idle_side: true }, side, limit);
        self.run("takes a side out", words, limit + self.timeout, false).map(drop)
    }

    fn sees_open_requests(&self) -> bool {
        false
    }

    fn counters(&mut self) -> Result<Option<Counters>, Fault> {
        Ok(None)
    }

    fn by_hand(&self, side: Side) -> Vec<String> {
        let green = if side == Side::Green { 1.0 } else { 0.0 };
        let line = |words: &[String]| {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            format!("cd {} && {}", quoted(&self.folder.display().to_string()), words.join(" "))
        };
        let set = filled(&self.set, Split { green, close_idle_side: true }, side, Duration::ZERO);
        vec![line(&set), line(&self.get)]
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_percentages_and_shares() {
        let words: Vec<String> =
            ["x", "{green}/{blue}", "{green_share}", "{blue_share}", "{idle}"].map(str::to_owned).to_vec();
        let split = |green| Split { green, close_idle_side: false };
        let fill = |words: &[String], split| filled(words, split, Side::Green, Duration::from_millis(2500));
        assert_eq!(fill(&words, split(0.05)), ["x", "5/95", "0.05", "0.95", "keep"]);
        assert_eq!(fill(&words, split(0.025)), ["x", "2.5/97.5", "0.025", "0.975", "keep"]);
        assert_eq!(fill(&words, split(1.0 / 3.0))[1], "33.333333/66.666667");
        let closed = Split { green: 0.0, close_idle_side: true };
        assert_eq!(fill(&words, closed), ["x", "0/100", "0", "1", "close"]);
        assert_eq!(fill(&["{side} {drain}".to_owned()], closed), ["green 2.5"]);
    }

    #[test]
    fn reads_one_share_and_nothing_else() {
        for text in ["5%", "0.05\n", "{\"green\": 0.05}", "{\"green\": \"5%\", \"blue\": \"95%\"}"] {
            assert_eq!(told(text).map(|(live, _)| (live.green, live.sides)), Ok((0.05, None)), "{text}");
        }
        assert_eq!(told("1").map(|(live, _)| live.green), Ok(1.0));
        for text in
            ["", "5", "-1%", "NaN", "ok", "5% 6%", "{}", "[0.05]", "{\"green\": 5}", "{\"green\": null}"]
        {
            assert!(told(text).is_err(), "{text}");
        }
    }
    #[test]
    fn reads_what_the_router_says_of_the_sides() {
        let text = r#"{"green": "20%", "effective": 0, "by": "edge", "strangers": ["edge-canary gets 1 %"], "sides": {
            "blue": {"serving": 2, "of": 2},
            "green": {"serving": 0, "of": 2, "down": ["g1: timeout", "g2: 503"], "taken_out": ["g3"], "closed": false}}}"#;
        let (live, _) = told(text).unwrap_or_else(|e| unreachable!("{e}"));
        let ways = |said: &str| {
            let text = format!(r#"{{"green": 0, "other_ways": {said}}}"#);
            told(&text).map(|(_, ways)| ways.map(|ways| ways.ways("edge")))
        };
        let admin = OtherWay { side: Side::Blue, name: "admin".into(), place: "edge".into() };
        assert_eq!(ways(r#"{"blue": ["admin"]}"#), Ok(Some(vec![admin])));
        assert_eq!((ways("{}"), ways("null")), (Ok(Some(Vec::new())), Ok(None)));
        assert!(ways(r#"{"red": []}"#).is_err());
        assert_eq!((live.green, live.effective), (0.2, Some(0.0)));
        assert_eq!(live.strangers, ["edge-canary gets 1 %"]);
        let green = live.side(Side::Green).and_then(|view| view.cannot_serve(0.5)).unwrap_or_default();
        assert!(green.contains("g1: timeout, g2: 503"), "{green}");
        assert_eq!(live.side(Side::Blue).and_then(|view| view.cannot_serve(1.0)), None);
        for (sides, why) in [
            (r#"{"blue": {"serving": 1, "of": 1}}"#, "missing field `green`"),
            (r#"{"blue": {"serving": 3, "of": 2}, "green": {"serving": 1, "of": 1}}"#, "cannot be serving"),
            (r#"{"blue": {"up": 1}, "green": {"serving": 1, "of": 1}}"#, "unknown field `up`"),
            (r#"{"blue": {"serving": -1, "of": 1}, "green": {"serving": 1, "of": 1}}"#, "not understood"),
        ] {
            let said = told(&format!(r#"{{"green": 0.2, "sides": {sides}}}"#)).err().unwrap_or_default();
            assert!(said.contains(why), "{sides}: {said}");
        }
    }
}
