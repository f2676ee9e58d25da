//! What is kept of a plan beside a promotion, so that whoever takes it back needs neither its variables nor its
//! file; and how much of a plan a call goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Loaded, Plan, PlanRef, PlanVariables, check_text, check_whole, folder_of, read_text};
use crate::evidence::sha256_hex;
use crate::fault::Fault;
use crate::redact;
use crate::units::with_variables;
use crate::yaml::{self, Node, Place, Problem, Value, Variables};

/// The sections that a promotion goes by once it has begun.
const SECTIONS: [&str; 8] =
    ["version", "service", "environments", "release", "defaults", "connections", "promote", "may_differ"];
/// What of `promote` is asked on the way forward alone.
const FORWARD: [&str; 8] =
    ["metrics", "rollback_when", "judge", "preview", "calendar", "approvers", "distinct", "steps"];
/// What of `promote` a way back cannot do without.
const BACK: [&str; 6] = ["router", "sides", "probe", "hooks", "drain", "strategy"];
/// What of `promote` is run.
const COMMANDS: &str = "hooks";
/// What of `promote` judges nothing: addresses, commands, settings of those who are asked.
const UNJUDGED: [&str; 6] = ["router", "sides", "probe", "hooks", "metrics", "preview"];
/// The deepest nesting that is kept; state files are read with a limit of their own.
const DEEPEST: usize = 20;

/// How much of a plan a call goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// What a promotion goes on with: all of `promote`.
    Promote,
    /// What takes users back: the router, the sides, the probe, the hooks, the times.
    WayBack,
    /// What judges: a value that judges nothing may be missing.
    Judging,
}

/// What a promotion keeps of the plan that it began with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The values of the variables that its sections name; null for one that was not set. Secret ones are not here.
    #[serde(default)]
    pub variables: BTreeMap<String, Option<String>>,
    /// The names of those whose value is secret.
    #[serde(default)]
    pub secret: BTreeSet<String>,
    /// The names of those that say where users go, and what is run.
    #[serde(default)]
    steering: BTreeSet<String>,
    /// What the way back needs of its text, variables by name. No commands: whoever may write the state must not have one
    /// run by those who go back.
    #[serde(default)]
    sections: Option<Text>,
}

/// A part of the plan's text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Text {
    /// A scalar without quotes.
    Plain(String),
    /// One in quotes.
    Quoted(String),
    List(Vec<Text>),
    Block(Vec<(String, Text)>),
    /// A secret that stands in the plan itself.
    Withheld,
}

/// What of a release is known from elsewhere, where the plan's variables do not say it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The service.
    pub service: Option<&'a str>,
    /// The version.
    pub version: &'a str,
}

/// What of a way back cannot be seen or run from here: each with the variable that it needs and that is not set.
/// Traffic gets home without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Where requests enter, or what is asked there.
    pub door: Option<String>,
    /// Blue's own address, or the path of its health.
    pub blue: Option<String>,
    /// Green's.
    pub green: Option<String>,
    /// A word of the `on_rollback` hook.
    pub hook: Option<String>,
}

/// A plan's text, its variables not yet filled in.
#[derive(Clone, Debug)]
pub struct Sketch {
    path: PathBuf,
    source: String,
    reference: PlanRef,
    node: Node,
}

impl Kept {
    /// What is to be kept of a plan with these values of its variables.
    pub(super) fn of(source: &str, values: &PlanVariables) -> Self {
        let Ok(mut node) = yaml::parse(source) else { return Self::default() };
        node.retain(|key, _| SECTIONS.contains(&key));
        let (mut variables, mut secret) = (BTreeMap::new(), BTreeSet::new());
        node.each_text(&mut |text| {
            for (name, _) in yaml::variables_in(text) {
                match values.get(name) {
                    Some(value) if redact::is_secret(name, &value) => {
                        secret.insert(name.to_owned());
                    }
                    value => {
                        variables.insert(name.to_owned(), value);
                    }
                }
            }
        });
        let mut steering = BTreeSet::new();
        if let Some(promote) = node.get_mut("promote") {
            promote.retain(|key, _| !FORWARD.contains(&key));
            promote.each_text(&mut |text| {
                steering.extend(yaml::variables_in(text).into_iter().map(|(name, _)| name.to_owned()));
            });
            promote.retain(|key, _| key != COMMANDS);
        }
        let sections = (depth(&node) <= DEEPEST).then(|| Text::of(&node, ""));
        Self { variables, secret, steering, sections }
    }

    /// The names of variables that have another value now than then, where that value counts: those of `promote`.
    pub fn changed(&self, now: &PlanVariables) -> Vec<String> {
        let differs = |name: &String| match (self.variables.get(name), now.get(name)) {
            (Some(then), Some(now)) => then.as_ref() != Some(&now),
            _ => false,
        };
        self.steering.iter().filter(|name| differs(name)).cloned().collect()
    }

    /// The text that is kept, as a plan at `path`.
    ///
    /// Errors: what is missing in it, in words.
    pub fn sketch(&self, path: &Path, reference: &PlanRef) -> Result<Sketch, String> {
        let sections = self.sections.as_ref().ok_or("the state keeps no text of the plan")?;
        redact::mark(self.secret.iter().cloned());
        let mut node = sections.node("").map_err(|place| {
            format!("the state does not keep what stands at `{place}` in the plan, for it is secret")
        })?;
        if let Some(promote) = node.get_mut("promote") {
            // Whoever has put them there: it was not this program.
            promote.retain(|key, _| key != COMMANDS);
        }
        Ok(Sketch { path: path.to_path_buf(), source: String::new(), reference: reference.clone(), node })
    }
}

fn depth(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::Sequence(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => entries.iter().map(|(_, value)| depth(value)).max().unwrap_or(0),
    }
}

impl Text {
    fn of(node: &Node, key: &str) -> Self {
        match &node.value {
            Value::Scalar { text, .. } if is_secret_text(key, text) => Self::Withheld,
            Value::Scalar { text, plain: true } => Self::Plain(text.clone()),
            Value::Scalar { text, plain: false } => Self::Quoted(text.clone()),
            Value::Sequence(items) => Self::List(items.iter().map(|item| Self::of(item, key)).collect()),
            Value::Mapping(_) => {
                let entries = node.entries().map(|(key, _, value)| (key.to_owned(), Self::of(value, key)));
                Self::Block(entries.collect())
            }
        }
    }

    /// Errors: the place of a secret that is not kept.
    fn node(&self, place: &str) -> Result<Node, String> {
        let value = match self {
            Self::Plain(text) => Value::Scalar { text: text.clone(), plain: true },
            Self::Quoted(text) => Value::Scalar { text: text.clone(), plain: false },
            Self::List(items) => {
                Value::Sequence(items.iter().map(|item| item.node(place)).collect::<Result<_, _>>()?)
            }
            Self::Block(entries) => {
                let entry = |(key, text): &(String, Self)| {
                    let below = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                    Ok((Node::text(key, Place::default()), text.node(&below)?))
                };
                Value::Mapping(entries.iter().map(entry).collect::<Result<_, String>>()?)
            }
            Self::Withheld => return Err(place.to_owned()),
        };
        Ok(Node { value, place: Place::default() })
    }
}

/// Whether a scalar of the plan holds a secret itself, rather than the name of a variable that does.
fn is_secret_text(key: &str, text: &str) -> bool {
    let variables = yaml::variables_in(text);
    let default = |(name, default): &(&str, Option<&str>)| {
        default.is_some_and(|value| !value.is_empty()) && redact::names_a_secret(name)
    };
    let word =
        !text.is_empty() && text.parse::<f64>().is_err() && !matches!(text, "true" | "false" | "null" | "~");
    // What happens to be somebody's password as well is no secret where the plan's text has it.
    redact::has_credentials(text)
        || variables.iter().any(default)
        || (variables.is_empty() && word && redact::names_a_secret(key))
}

impl Sketch {
    /// Reads the text of a plan, and learns what is secret in its variables. Touches nothing but the file.
    ///
    /// Errors (2): it cannot be read, or is no YAML.
    pub fn read(path: &Path, set: &BTreeMap<String, String>) -> Result<Self, Fault> {
        redact::learn_environment();
        for (name, value) in set {
            redact::learn_variable(name, value);
        }
        let source = read_text(path)?;
        let shown = path.display().to_string();
        let node = yaml::parse(&source).map_err(|p| p.into_fault(&shown, &source))?;
        super::commands::learn_marked(&node, &PlanVariables::new(set.clone()));
        let reference = PlanRef { path: shown, sha256: sha256_hex(source.as_bytes()) };
        Ok(Self { path: path.to_path_buf(), source, reference, node })
    }

    /// Its path and digest.
    pub fn reference(&self) -> &PlanRef {
        &self.reference
    }

    /// The names of its environments.
    pub fn environments(&self) -> Vec<String> {
        let section = self.node.get("environments");
        section.iter().flat_map(|node| node.entries()).map(|(name, ..)| name.to_owned()).collect()
    }

    /// Whether every variable that it names is set, or has a default.
    pub fn is_whole(&self, variables: &PlanVariables) -> bool {
        let mut node = self.node.clone();
        node.retain(|key, _| !key.starts_with("x-"));
        // The checks of a drill have variables of their own.
        if let Some(drill) = node.get_mut("snapshot").and_then(|snapshot| snapshot.get_mut("drill")) {
            drill.retain(|key, _| key != "checks");
        }
        node.unset(variables).is_none()
    }

    /// Reads as much of it as a call goes by. What other calls go by may be missing or wrong.
    ///
    /// Errors (2): what the call goes by does not validate; a variable that it needs is not set.
    pub fn part(
        &self,
        part: Part,
        environment: &str,
        known: Option<Known<'_>>,
        variables: PlanVariables,
    ) -> Result<Loaded, Fault> {
        let mut node = self.node.clone();
        let unseen = prune(&mut node, part, environment, known, &variables);
        let lookup = variables.clone();
        let names = ["service", "release"];
        let mut fit = names.iter().filter_map(|key| Some((*key, node.get(key)?)));
        let fit = fit.try_for_each(|(key, node)| super::commands::fit_names(node, key, &variables));
        let read = with_variables(Box::new(move |name| lookup.get(name)), || node.read::<Plan>(&variables));
        let plan = fit.and(read).and_then(|plan| {
            // A way back has no steps that could be wrong.
            if part == Part::WayBack { check_text(&plan, &node) } else { check_whole(&plan, &node) }
                .map(|()| plan)
        });
        let plan = plan.map_err(|problem| self.fault(problem))?;
        Ok(self.loaded(plan, variables, part, unseen))
    }

    /// The same without what moves traffic, for whoever cannot or need not read that: `why` is told to those who ask
    /// for it.
    ///
    /// Errors (2): it does not say which service it is about.
    pub fn names_only(
        &self,
        environment: &str,
        known: Option<Known<'_>>,
        variables: PlanVariables,
        why: Fault,
    ) -> Result<Loaded, Fault> {
        let mut bare = self.clone();
        bare.node.retain(|key, _| key != "promote");
        let loaded = bare.part(Part::WayBack, environment, known, variables)?;
        Ok(Loaded { without_promote: Some(Box::new(why)), ..loaded })
    }

    fn loaded(&self, plan: Plan, variables: PlanVariables, part: Part, unseen: Unseen) -> Loaded {
        Loaded {
            plan,
            path: self.path.clone(),
            folder: folder_of(&self.path),
            reference: self.reference.clone(),
            source: self.source.clone(),
            variables,
            part,
            without_promote: None,
            unseen,
        }
    }

    fn fault(&self, problem: Problem) -> Fault {
        problem.into_fault(&self.path.display().to_string(), &self.source)
    }
}

/// Takes out what a call does not go by, as far as it could keep the rest from being read. What a way back can do
/// without stands as it is written.
fn prune(
    node: &mut Node,
    part: Part,
    environment: &str,
    known: Option<Known<'_>>,
    variables: &PlanVariables,
) -> Unseen {
    let mut unseen = Unseen::default();
    let has_entry =
        node.get("promote").and_then(|p| p.get("router")).is_some_and(|router| router.get("entry").is_some());
    node.retain(|key, value| {
        SECTIONS.contains(&key) && (key != "defaults" || value.unset(variables).is_none())
    });
    // Another host's certificate keeps nobody from going back.
    if let Some(connections) = node.get_mut("connections") {
        connections.retain(|_, value| value.unset(variables).is_none());
    }
    if let Some(known) = known {
        if let (Some(service), Some(node)) = (known.service, node.get_mut("service"))
            && node.unset(variables).is_some()
        {
            *node = Node::text(service, node.place);
        }
        if let Some(release) = node.get_mut("release").filter(|release| release.unset(variables).is_some()) {
            let version = (Node::text("version", release.place), Node::text(known.version, release.place));
            release.value = Value::Mapping(vec![version]);
        }
    }
    if let Some(Node { value: Value::Mapping(environments), .. }) = node.get_mut("environments") {
        for (name, settings) in environments {
            let is_this = matches!(&name.value, Value::Scalar { text, .. } if text == environment);
            if (!is_this || has_entry) && settings.unset(variables).is_some() {
                settings.value = Value::Mapping(Vec::new());
            } else if part == Part::WayBack {
                unseen.door = left_unset(settings.get_mut("url"), variables);
            }
        }
    }
    let Some(promote) = node.get_mut("promote") else { return unseen };
    match part {
        Part::Whole | Part::Promote => {}
        Part::WayBack => {
            promote.retain(|key, value| {
                // A time has a default, and no text to stand in its place.
                let needed = BACK.contains(&key) && key != "drain";
                !FORWARD.contains(&key) && (needed || value.unset(variables).is_none())
            });
            if let Some(hooks) = promote.get_mut("hooks") {
                hooks.retain(|key, value| key == "on_rollback" || value.unset(variables).is_none());
                unseen.hook = left_unset(hooks.get_mut("on_rollback"), variables);
            }
            if let Some(router) = promote.get_mut("router") {
                // A number has a default, and no text to stand in its place.
                router.retain(|key, value| key != "timeout" || value.unset(variables).is_none());
                for key in ["entry", "split"] {
                    let missing = left_unset(router.get_mut(key), variables);
                    unseen.door = unseen.door.take().or(missing);
                }
            }
            if let Some(probe) = promote.get_mut("probe") {
                let texts = ["path", "header"];
                probe.retain(|key, value| texts.contains(&key) || value.unset(variables).is_none());
                let missing = left_unset(Some(probe), variables);
                unseen.door = unseen.door.take().or(missing);
            }
            if let Some(sides) = promote.get_mut("sides") {
                unseen.blue = left_unset(sides.get_mut("blue"), variables);
                unseen.green = left_unset(sides.get_mut("green"), variables);
            }
        }
        Part::Judging => {
            for key in UNJUDGED {
                if let Some(value) = promote.get_mut(key) {
                    leave_unset(value, variables);
                }
            }
        }
    }
    unseen
}

/// The same, and the variable that is not set.
fn left_unset(node: Option<&mut Node>, variables: &PlanVariables) -> Option<String> {
    let node = node?;
    let missing = node.unset(variables)?;
    leave_unset(node, variables);
    Some(missing)
}

/// Lets a text with a variable that is not set stand as it is written.
fn leave_unset(node: &mut Node, variables: &PlanVariables) {
    if let Value::Scalar { text, .. } = &mut node.value {
        if Node::text(text, Place::default()).unset(variables).is_some() {
            *text = text.replace("$${", "${").replace("${", "$${");
        }
        return;
    }
    match &mut node.value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| leave_unset(item, variables)),
        Value::Mapping(entries) => entries.iter_mut().for_each(|(_, value)| leave_unset(value, variables)),
        Value::Scalar { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "version: 1\nservice: shop\nenvironments: {production: {url: \"${ENTRY}\"}, test: {url: \"${NEVER}\"}}\n\
        release: {version: \"${VERSION}\"}\n\
        preflight: {checks: [{name: db, kind: postgres, target: \"${DATABASE_URL}\"}]}\n\
        promote:\n  router: {kind: haproxy, target: \"${SOCK}\", with: {backend: shop, blue: \"${BLUE:-blue}\", green: green}}\n\
        \x20 sides: {blue: {url: \"http://b\"}, green: {url: \"http://g\"}}\n\
        \x20 hooks: {deploy: [./deploy, \"${REGISTRY_TOKEN}\"], on_rollback: [./page]}\n\
        \x20 drain: 3s\n  metrics: [{name: m, kind: prometheus, target: \"${PROM_URL}\"}]\n\
        \x20 steps: [{weight: 5%, bake: 1m}, {weight: 100%}]\n  rollback_when: [{metric: m, is: \"> 1\"}]\n";

    fn kept(more: &[(&str, &str)]) -> Kept {
        let mut set: BTreeMap<String, String> = [
            ("ENTRY", "http://entry"),
            ("VERSION", "1.1"),
            ("SOCK", "a.sock"),
            ("REGISTRY_TOKEN", "tok-kept-secret"),
            ("PROM_URL", "http://u:pw-kept-secret@prom"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        set.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Kept::of(PLAN, &PlanVariables::new(set))
    }

    fn back(kept: &Kept) -> Result<Loaded, String> {
        let reference = PlanRef { path: "release.yaml".into(), sha256: String::new() };
        let sketch = kept.sketch(Path::new("x/release.yaml"), &reference)?;
        let variables = PlanVariables::default().keeping(kept, true);
        sketch.part(Part::WayBack, "production", None, variables).map_err(|fault| fault.to_string())
    }

    #[test]
    fn secrets_are_kept_by_name_alone() {
        let kept = kept(&[]);
        let text = serde_json::to_string(&kept).unwrap();
        assert!(!text.contains("kept-secret"), "{text}");
        assert_eq!(kept.secret.iter().collect::<Vec<_>>(), ["PROM_URL", "REGISTRY_TOKEN"]);
        assert_eq!(kept.variables["SOCK"].as_deref(), Some("a.sock"));
        assert_eq!(kept.variables["BLUE"], None, "its default counts, whatever is set later");
        assert!(!kept.variables.contains_key("DATABASE_URL"), "nobody who goes back needs it");
    }

    #[test]
    fn what_is_kept_is_a_plan_for_the_way_back() {
        let text = serde_json::to_string(&kept(&[])).unwrap();
        let loaded = back(&serde_json::from_str(&text).unwrap()).unwrap();
        let promote = loaded.plan.promote.as_ref().unwrap();
        assert_eq!(
            (promote.router.target.value.as_str(), promote.drain.map(|d| d.0.as_secs())),
            ("a.sock", Some(3))
        );
        assert!(promote.hooks.on_rollback.is_empty(), "no command is taken from the state");
        assert!(promote.metrics.is_empty() && promote.rollback_when.is_empty());
        assert_eq!(loaded.plan.environments["production"].url.as_ref().unwrap().value, "http://entry");
        assert_eq!((loaded.plan.release.version.as_str(), loaded.part), ("1.1", Part::WayBack));
    }

    #[test]
    fn a_command_that_somebody_wrote_into_the_state_is_not_run() {
        let text = serde_json::to_string(&kept(&[])).unwrap();
        let planted = text.replacen(
            "[\"drain\",",
            "[\"hooks\",{\"block\":[[\"on_rollback\",{\"list\":[{\"plain\":\"./evil\"}]}]]}],[\"drain\",",
            1,
        );
        assert_ne!(planted, text);
        let loaded = back(&serde_json::from_str(&planted).unwrap()).unwrap();
        assert!(loaded.plan.promote.unwrap().hooks.on_rollback.is_empty());
    }

    #[test]
    fn a_secret_that_stands_in_the_plan_is_not_kept_and_missed_by_its_place() {
        for (from, to) in [
            ("http://b", "http://u:hunter22@b"),
            ("green: green}", "green: green, token: hunter22}"),
            ("${SOCK}", "${SOCK_TOKEN:-hunter22}"),
        ] {
            let text = PLAN.replacen(from, to, 1);
            assert_ne!(text, PLAN);
            let kept = Kept::of(&text, &PlanVariables::default());
            assert!(!serde_json::to_string(&kept).unwrap().contains("hunter22"), "{to}");
            let missed = back(&kept).map(|_| ()).unwrap_err();
            assert!(missed.contains("`promote.") && missed.contains("secret"), "{missed}");
        }
    }

    #[test]
    fn what_was_set_then_counts_and_what_differs_now_is_named() {
        let kept = kept(&[("BLUE", "blue")]);
        let now = |set: &[(&str, &str)]| {
            PlanVariables::new(set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let other = now(&[("SOCK", "b.sock"), ("BLUE", "blue"), ("VERSION", "2.0")]);
        assert_eq!(kept.changed(&other), ["SOCK"], "a version says nothing of the way back");
        assert_eq!(other.keeping(&kept, true).get("SOCK").as_deref(), Some("a.sock"));
        assert_eq!(other.keeping(&kept, false).get("SOCK").as_deref(), Some("b.sock"));
        assert_eq!(now(&[]).keeping(&kept, false).get("SOCK").as_deref(), Some("a.sock"));
        assert_eq!(now(&[]).keeping(&kept, true).get("REGISTRY_TOKEN"), None);
    }

    #[test]
    fn a_way_back_does_without_what_it_cannot_see_and_names_it() {
        let missing = |is: bool| is.then(|| "X_TOKEN".to_owned());
        for (from, to, which) in [
            ("${ENTRY}", "${X_TOKEN}", "door"),
            ("with: {backend", "entry: \"http://u:${X_TOKEN}@e\", with: {backend", "door"),
            ("  drain: 3s", "  probe: {path: \"/?t=${X_TOKEN}\", rate: 7/s}\n  drain: 3s", "door"),
            ("  drain: 3s", "  probe: {header: \"${X_TOKEN}\"}\n  drain: 3s", "door"),
            ("  drain: 3s", "  probe: {rate: \"${X_TOKEN}\", timeout: \"${X_TOKEN}\"}\n  drain: 3s", ""),
            ("  drain: 3s", "  drain: \"${X_TOKEN}\"\n  lease: \"${X_TOKEN}\"", ""),
            ("\"http://b\"", "\"http://b\", health: \"/${X_TOKEN}\"", "blue"),
            ("\"http://g\"", "\"${X_TOKEN}\"", "green"),
            ("[./page]", "[./page, \"${X_TOKEN}\"]", "hook"),
            ("[./deploy,", "[./deploy, \"${X_TOKEN}\",", ""),
        ] {
            let text = PLAN.replacen(from, to, 1);
            assert_ne!(text, PLAN, "{from}");
            let reference = PlanRef { path: "release.yaml".into(), sha256: String::new() };
            let node = yaml::parse(&text).unwrap();
            let sketch = Sketch { path: "release.yaml".into(), source: text.clone(), reference, node };
            let variables = PlanVariables::default().keeping(&kept(&[]), true);
            let known = Known { service: None, version: "1.1" };
            let loaded = sketch.part(Part::WayBack, "production", Some(known), variables).unwrap();
            let expected = Unseen {
                door: missing(which == "door"),
                blue: missing(which == "blue"),
                green: missing(which == "green"),
                hook: missing(which == "hook"),
            };
            assert_eq!(loaded.unseen, expected, "{to}");
            assert_eq!(loaded.plan.promote.unwrap().router.target.value, "a.sock");
        }
        // Without the router's own address nobody goes anywhere.
        let text = PLAN.replace("${SOCK}", "${X_TOKEN}");
        let sketch = Sketch {
            path: "release.yaml".into(),
            source: text.clone(),
            reference: PlanRef { path: "release.yaml".into(), sha256: String::new() },
            node: yaml::parse(&text).unwrap(),
        };
        let variables = PlanVariables::default().keeping(&kept(&[]), true);
        let refused = sketch.part(Part::WayBack, "production", None, variables).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("X_TOKEN"), "{refused}");
    }

    #[test]
    fn a_call_that_judges_again_needs_no_address() {
        let sketch = Sketch {
            path: "release.yaml".into(),
            source: PLAN.into(),
            reference: PlanRef { path: "release.yaml".into(), sha256: String::new() },
            node: yaml::parse(PLAN).unwrap(),
        };
        let known = Known { service: None, version: "1.1" };
        let part = |part| sketch.part(part, "test", Some(known), PlanVariables::default());
        let missing = part(Part::Promote).map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("is not set"), "{missing}");
        let sketch_text = PLAN.replace("{url: \"${NEVER}\"}", "{}");
        let sketch = Sketch { node: yaml::parse(&sketch_text).unwrap(), ..sketch };
        let loaded = sketch.part(Part::Judging, "test", Some(known), PlanVariables::default()).unwrap();
        assert_eq!(loaded.plan.promote.as_ref().unwrap().router.target.value, "${SOCK}");
        assert!(!sketch.is_whole(&PlanVariables::default()));
    }
}
