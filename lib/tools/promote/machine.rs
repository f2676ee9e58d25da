//! PURE: `(state, event) → (state, action)`. What a promotion does next, and why.
//!
//! The state *is* the journal's intent: it is on disk before its action is carried out, and the
//! action's outcome comes back as an event. A crash in between finds the state again and carries the
//! same action out once more; weights are absolute and read first, so that is no second step. Hooks
//! are not like that: one that may have begun is never begun again (see [`Event::HookLost`]).
//!
//! An abort is terminal for its epoch: from any state but a finished one it leads to the old side.

use serde::{Deserialize, Serialize};

use crate::routers::Side;

/// One step of the way: a share in 0..=1 and how long it is watched, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Green's share.
    pub weight: f64,
    /// How long it is watched, in ms.
    pub bake_ms: i64,
    /// Whether a gate stands before it: an approval, or the calendar.
    #[serde(default)]
    pub gated: bool,
}

/// What does not change during a promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The steps, rising to 1.
    pub steps: Vec<Step>,
    /// How long a bake may stay undecided beyond its end, in ms.
    pub undecided_ms: i64,
    /// How long the old side is kept after the last step, in ms.
    #[serde(default)]
    pub keep_ms: i64,
    /// Which hooks the plan has.
    pub hooks: Vec<Hook>,
}

/// A command at a turn of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Brings green up.
    Deploy,
    /// After green has all traffic.
    After,
    /// After traffic is back on blue.
    OnRollback,
    /// When the old side is not kept any longer.
    Retire,
}

impl Hook {
    /// Its key in the plan.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::After => "after",
            Self::OnRollback => "on_rollback",
            Self::Retire => "retire",
        }
    }
}

/// Why everything stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stuck {
    /// The old side is sick too: moving traffic there would be no help.
    OldSideSick,
    /// The router cannot be reached, or does not do what it is told.
    RouterLost,
}

/// Where a promotion stands. Each state but the last four names the action that is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum State {
    /// The deploy hook is due; `begun` once it may have started.
    Deploying {
        /// Whether it may have started.
        begun: bool,
    },
    /// A gate stands before the first step; green has nothing yet.
    Holding,
    /// Green's health is due.
    CheckingGreen,
    /// The weight of a step (from 0) is due.
    Shifting {
        /// The step.
        step: usize,
    },
    /// A step is watched.
    Baking {
        /// The step.
        step: usize,
        /// Since when, in ms of the wall clock.
        since_ms: i64,
    },
    /// Green has everything; the old side's open requests may end.
    RetiringBlue,
    /// The after hook is due; `begun` once it may have started.
    RunningAfter {
        /// Whether it may have started.
        begun: bool,
    },
    /// Green serves everything, and blue is kept for a while: from here one can still go back.
    KeepingBlue {
        /// Until when, in ms of the wall clock; not known before its beginning is on record.
        until_ms: Option<i64>,
    },
    /// The retire hook is due, which takes the old side down; `begun` once it may have started.
    RunningRetire {
        /// Whether it may have started.
        begun: bool,
    },
    /// A rollback was decided; the old side's health is due first.
    CheckingBlue {
        /// Why.
        reason: String,
    },
    /// Somebody has accepted it as it stands: all traffic to the new side is due.
    Accepting {
        /// Who, and why.
        reason: String,
    },
    /// All traffic to the old side is due.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// Traffic is back; the new side's open requests may end.
    RetiringGreen {
        /// Why.
        reason: String,
    },
    /// The rollback hook is due; `begun` once it may have started.
    RunningOnRollback {
        /// Why.
        reason: String,
        /// Whether it may have started.
        begun: bool,
    },
    /// Finished: green has everything.
    Promoted,
    /// Finished: blue has everything again.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// Stands still until somebody acts; nothing moves by itself.
    Frozen {
        /// Why it was to be rolled back.
        reason: String,
        /// Why that was not possible.
        stuck: Stuck,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Run a hook.
    Run(Hook),
    /// Wait for the gate before the first step.
    Wait,
    /// Keep the old side, until then where it is known.
    Keep {
        /// Until when, in ms.
        until_ms: Option<i64>,
    },
    /// Look whether a side is healthy.
    CheckHealth(Side),
    /// Give green this share; in a rollback close green at once.
    Shift {
        /// Green's share.
        weight: f64,
        /// Whether this is a rollback.
        rollback: bool,
    },
    /// Watch a step.
    Bake {
        /// The step.
        step: usize,
        /// Since when, in ms.
        since_ms: i64,
        /// Until when at least, in ms.
        until_ms: i64,
        /// Until when at most, in ms, while nothing can be decided.
        give_up_ms: i64,
    },
    /// Let a side's open requests end, and take it out of service.
    Retire(Side),
}

/// What came of a bake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Look {
    /// Every trigger was looked at and none fired.
    Good,
    /// A trigger fired.
    Bad,
    /// No data, too few samples, or an error: nothing can be said.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A hook is about to start.
    HookBegins,
    /// It ended.
    HookEnded {
        /// Whether with 0.
        ok: bool,
        /// How, in words.
        how: String,
    },
    /// It may have begun before a crash, and how it ended is not known.
    HookLost,
    /// A side was looked at.
    Health {
        /// Whether it is healthy.
        ok: bool,
        /// What was seen.
        seen: String,
    },
    /// The gate before the first step is open.
    GateOpened,
    /// What was judged before the shift that is due does not hold any more: a gate has closed, or too
    /// much time has passed.
    LookAgain {
        /// The moment, in ms.
        at_ms: i64,
    },
    /// A weight is in force, read back and probed.
    Shifted {
        /// When, in ms.
        at_ms: i64,
        /// Whether a gate stands before the next step, or somebody asked to hold.
        held: bool,
    },
    /// A weight is not in force.
    ShiftFailed {
        /// Why.
        why: String,
    },
    /// A step was looked at.
    Looked {
        /// What came of it.
        look: Look,
        /// The same in one sentence.
        sentence: String,
        /// When, in ms.
        at_ms: i64,
        /// Whether a gate stands before the next step, or somebody asked to hold.
        held: bool,
    },
    /// A side is out of service.
    Retired,
    /// A side could not be taken out of service.
    RetireFailed {
        /// Why.
        why: String,
    },
    /// Somebody called it off.
    Aborted {
        /// Who, and why.
        reason: String,
    },
    /// Somebody ends the bake of a step early.
    Skipped {
        /// Who, and why.
        reason: String,
    },
    /// Somebody closes it as it stands: the new side serves, whatever became of the old one.
    Accepted {
        /// Who, and why.
        reason: String,
    },
    /// The weight of a step was not in force since some moment, and is again: only time with it is a bake.
    PutBack {
        /// Since when it is, in ms.
        at_ms: i64,
    },
    /// The way has taken longer than the plan allows.
    TooLong {
        /// How long, in words.
        why: String,
    },
    /// Keeping the old side begins.
    KeepBegins {
        /// The moment, in ms.
        at_ms: i64,
    },
    /// The old side was kept for as long as the plan says.
    KeepOver,
    /// Somebody goes back after the promotion, while the old side is kept.
    Undone {
        /// Who, and why.
        reason: String,
    },
    /// Somebody asks a frozen promotion to look again.
    Woken,
    /// The wall clock stands before the beginning of the bake: it was set back in between.
    ClockWentBack {
        /// The moment, in ms.
        at_ms: i64,
    },
    /// The wall clock was set while nobody watched: forward by so much, or back where it is negative.
    ClockWasSet {
        /// By how much, in ms.
        by_ms: i64,
    },
}

impl State {
    /// The first state of a promotion.
    pub fn first(course: &Course) -> Self {
        if course.hooks.contains(&Hook::Deploy) {
            Self::Deploying { begun: false }
        } else {
            before_first(course)
        }
    }

    /// Whether green serves everything for good, as far as the release is concerned; what is left is
    /// how long the old side is kept.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Promoted | Self::KeepingBlue { .. } | Self::RunningRetire { .. })
    }

    /// Whether it may still be undone: the old side is there and nothing is taking it down.
    pub fn can_be_undone(&self) -> bool {
        matches!(self, Self::KeepingBlue { .. } | Self::RunningRetire { begun: false })
    }

    /// Whether its hook may have started: then it is never started again.
    pub fn hook_may_have_begun(&self) -> bool {
        matches!(
            self,
            Self::Deploying { begun: true }
                | Self::RunningAfter { begun: true }
                | Self::RunningRetire { begun: true }
                | Self::RunningOnRollback { begun: true, .. }
        )
    }

    /// Whether nothing is left to do, ever.
    pub fn finished(&self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack { .. })
    }

    /// What is to be done now; nothing when finished or frozen.
    pub fn action(&self, course: &Course) -> Option<Action> {
        Some(match self {
            Self::Deploying { .. } => Action::Run(Hook::Deploy),
            Self::Holding => Action::Wait,
            Self::CheckingGreen => Action::CheckHealth(Side::Green),
            Self::Shifting { step } => Action::Shift { weight: course.weight(*step), rollback: false },
            Self::Baking { step, since_ms } => {
                let until_ms = since_ms.saturating_add(course.bake_ms(*step));
                Action::Bake {
                    step: *step,
                    since_ms: *since_ms,
                    until_ms,
                    give_up_ms: until_ms.saturating_add(course.undecided_ms),
                }
            }
            Self::RetiringBlue => Action::Retire(Side::Blue),
            Self::RunningAfter { .. } => Action::Run(Hook::After),
            Self::KeepingBlue { until_ms } => Action::Keep { until_ms: *until_ms },
            Self::RunningRetire { .. } => Action::Run(Hook::Retire),
            Self::Accepting { .. } => Action::Shift { weight: 1.0, rollback: false },
            Self::CheckingBlue { .. } => Action::CheckHealth(Side::Blue),
            Self::RollingBack { .. } => Action::Shift { weight: 0.0, rollback: true },
            Self::RetiringGreen { .. } => Action::Retire(Side::Green),
            Self::RunningOnRollback { .. } => Action::Run(Hook::OnRollback),
            Self::Promoted | Self::RolledBack { .. } | Self::Frozen { .. } => return None,
        })
    }

    /// The greatest share that green may have in this state; what the live router is held against.
    pub fn allowed(&self, course: &Course) -> f64 {
        match self {
            Self::Deploying { .. }
            | Self::Holding
            | Self::CheckingGreen
            | Self::RetiringGreen { .. }
            | Self::RunningOnRollback { .. }
            | Self::RolledBack { .. } => 0.0,
            Self::Shifting { step } | Self::Baking { step, .. } => course.weight(*step),
            Self::CheckingBlue { .. }
            | Self::Accepting { .. }
            | Self::RollingBack { .. }
            | Self::Frozen { .. }
            | Self::RetiringBlue
            | Self::RunningAfter { .. }
            | Self::KeepingBlue { .. }
            | Self::RunningRetire { .. }
            | Self::Promoted => 1.0,
        }
    }

    /// Green's share that must be in force while this state lasts; none while it is on the way.
    pub fn settled(&self, course: &Course) -> Option<f64> {
        match self {
            Self::Deploying { .. }
            | Self::Holding
            | Self::CheckingGreen
            | Self::RetiringGreen { .. }
            | Self::RunningOnRollback { .. } => Some(0.0),
            Self::Baking { step, .. } => Some(course.weight(*step)),
            Self::RetiringBlue
            | Self::RunningAfter { .. }
            | Self::KeepingBlue { .. }
            | Self::RunningRetire { begun: false } => Some(1.0),
            _ => None,
        }
    }

    /// Green's share that must be in force at last, whatever was in force before: also where a way is
    /// over or all traffic is on its way back. None while that is not decided.
    pub fn due(&self, course: &Course) -> Option<f64> {
        match self {
            Self::RollingBack { .. } | Self::RolledBack { .. } => Some(0.0),
            Self::RunningRetire { .. } | Self::Promoted => Some(1.0),
            _ => self.settled(course),
        }
    }
}

impl Course {
    fn weight(&self, step: usize) -> f64 {
        self.steps.get(step).map_or(0.0, |s| s.weight)
    }

    pub(super) fn bake_ms(&self, step: usize) -> i64 {
        self.steps.get(step).map_or(0, |s| s.bake_ms)
    }
}

/// The next state. An event that does not belong to a state changes nothing: it is late.
#[must_use]
#[expect(clippy::match_same_arms, reason = "each line is one rule; their order is the meaning")]
#[expect(clippy::too_many_lines, reason = "one table, to be read as one")]
pub fn next(state: &State, event: &Event, course: &Course) -> State {
    use State as S;
    match (state, event) {
        (S::Promoted | S::RolledBack { .. }, _) => state.clone(),
        // An abort wins every race, except against a rollback that is already under way.
        (S::CheckingBlue { .. } | S::RollingBack { .. } | S::RetiringGreen { .. }, Event::Aborted { .. })
        | (S::RunningOnRollback { .. }, Event::Aborted { .. }) => state.clone(),
        // The old side is being taken down already: there is nothing to go back to.
        (S::RunningRetire { begun: true }, Event::Aborted { .. }) => state.clone(),
        (_, Event::Aborted { reason }) => S::CheckingBlue { reason: reason.clone() },

        (S::Deploying { .. }, Event::HookBegins) => S::Deploying { begun: true },
        (S::Deploying { .. }, Event::HookEnded { ok: true, .. }) => before_first(course),
        (S::Deploying { .. }, Event::HookEnded { how, .. }) => back(format!("the deploy hook failed: {how}")),
        (S::Deploying { begun: true }, Event::HookLost) => {
            back("the job was ended while the deploy hook ran, and how the hook ended is not known".into())
        }

        (
            S::Deploying { .. } | S::Holding | S::CheckingGreen | S::Shifting { .. } | S::Baking { .. },
            Event::TooLong { why },
        ) => back(why.clone()),

        (S::Holding, Event::GateOpened) => S::CheckingGreen,
        (S::CheckingGreen, Event::Health { ok: true, .. }) => S::Shifting { step: 0 },
        (S::CheckingGreen, Event::Health { seen, .. }) => back(format!("green is not healthy: {seen}")),

        // Also where the plan has no gate there: somebody paused it while green was brought up.
        (S::Shifting { step: 0 }, Event::LookAgain { .. }) => S::Holding,
        // Its bake is over, so that one good look at the time up to now is enough.
        (S::Shifting { step }, Event::LookAgain { at_ms }) => {
            S::Baking { step: step - 1, since_ms: at_ms.saturating_sub(course.bake_ms(step - 1)) }
        }
        (S::Shifting { step }, Event::Shifted { at_ms, held }) => settled(*step, *at_ms, *held, course),
        (S::Shifting { step }, Event::ShiftFailed { why }) => {
            back(format!("the weight of step {} could not be put in force: {why}", step + 1))
        }

        (S::Baking { step, since_ms }, Event::Looked { look, sentence, at_ms, held }) => {
            let until = since_ms.saturating_add(course.bake_ms(*step));
            match look {
                Look::Bad => back(format!("step {}: {sentence}", step + 1)),
                Look::Good if *at_ms >= until && !*held => after_bake(*step, course),
                Look::Unknown if *at_ms >= until.saturating_add(course.undecided_ms) => {
                    back(format!("step {} stayed undecided: {sentence}", step + 1))
                }
                Look::Good | Look::Unknown => state.clone(),
            }
        }
        (S::Baking { step, .. }, Event::ShiftFailed { why }) => {
            back(format!("the weight of step {} did not stay in force: {why}", step + 1))
        }
        (S::Baking { step, .. }, Event::Skipped { .. }) => after_bake(*step, course),
        (S::Baking { step, .. }, Event::PutBack { at_ms }) => S::Baking { step: *step, since_ms: *at_ms },
        (S::Shifting { step: step @ 1.. }, Event::PutBack { at_ms }) => {
            S::Baking { step: step - 1, since_ms: *at_ms }
        }
        (S::Baking { .. } | S::Shifting { .. } | S::Frozen { .. }, Event::Accepted { reason }) => {
            S::Accepting { reason: reason.clone() }
        }
        (S::Accepting { .. }, Event::Shifted { .. }) => S::RetiringBlue,
        (S::Accepting { reason }, Event::ShiftFailed { why }) => {
            back(format!("{reason}, and green could not be given everything: {why}"))
        }
        // How long it was watched is not known any more, so it is watched anew.
        (S::Baking { step, since_ms }, Event::ClockWentBack { at_ms }) if at_ms < since_ms => {
            S::Baking { step: *step, since_ms: *at_ms }
        }
        // Only time that has really passed counts.
        (S::Baking { step, since_ms }, Event::ClockWasSet { by_ms }) => {
            S::Baking { step: *step, since_ms: since_ms.saturating_add(*by_ms) }
        }
        (S::KeepingBlue { until_ms: Some(until) }, Event::ClockWasSet { by_ms }) => {
            S::KeepingBlue { until_ms: Some(until.saturating_add(*by_ms)) }
        }

        // A job that came back found another split than it had left, and could not repair it.
        (S::Deploying { .. } | S::Holding | S::CheckingGreen, Event::ShiftFailed { why }) => {
            back(format!("blue did not keep all the traffic: {why}"))
        }
        (
            S::RetiringBlue
            | S::RunningAfter { .. }
            | S::KeepingBlue { .. }
            | S::RunningRetire { begun: false },
            Event::ShiftFailed { why },
        ) => back(format!("green did not keep all the traffic: {why}")),
        // People are called again once it is back for good: that is better than not at all.
        (S::RetiringGreen { reason } | S::RunningOnRollback { reason, .. }, Event::ShiftFailed { .. }) => {
            S::Frozen { reason: reason.clone(), stuck: Stuck::RouterLost }
        }

        // Users are already on green; a side that does not close is shown, not a reason to go back.
        (S::RetiringBlue, Event::Retired | Event::RetireFailed { .. }) => {
            if course.hooks.contains(&Hook::After) {
                S::RunningAfter { begun: false }
            } else {
                after_all(course)
            }
        }
        (S::RunningAfter { .. }, Event::HookBegins) => S::RunningAfter { begun: true },
        (S::RunningAfter { .. }, Event::HookEnded { .. })
        | (S::RunningAfter { begun: true }, Event::HookLost) => after_all(course),

        (S::KeepingBlue { until_ms: None }, Event::KeepBegins { at_ms }) => {
            S::KeepingBlue { until_ms: Some(at_ms.saturating_add(course.keep_ms)) }
        }
        (S::KeepingBlue { .. }, Event::KeepOver) => without_blue(course),
        (S::KeepingBlue { .. } | S::RunningRetire { begun: false }, Event::Undone { reason }) => {
            back(reason.clone())
        }
        (S::RunningRetire { .. }, Event::HookBegins) => S::RunningRetire { begun: true },
        (S::RunningRetire { .. }, Event::HookEnded { .. })
        | (S::RunningRetire { begun: true }, Event::HookLost) => S::Promoted,

        (S::CheckingBlue { reason }, Event::Health { ok: true, .. }) => {
            S::RollingBack { reason: reason.clone() }
        }
        (S::CheckingBlue { reason }, Event::Health { .. }) => {
            S::Frozen { reason: reason.clone(), stuck: Stuck::OldSideSick }
        }
        (S::RollingBack { reason }, Event::Shifted { .. }) => S::RetiringGreen { reason: reason.clone() },
        (S::RollingBack { reason }, Event::ShiftFailed { .. }) => {
            S::Frozen { reason: reason.clone(), stuck: Stuck::RouterLost }
        }
        (S::RetiringGreen { reason }, Event::Retired | Event::RetireFailed { .. }) => {
            if course.hooks.contains(&Hook::OnRollback) {
                S::RunningOnRollback { reason: reason.clone(), begun: false }
            } else {
                S::RolledBack { reason: reason.clone() }
            }
        }
        (S::RunningOnRollback { reason, .. }, Event::HookBegins) => {
            S::RunningOnRollback { reason: reason.clone(), begun: true }
        }
        (S::RunningOnRollback { reason, .. }, Event::HookEnded { .. })
        | (S::RunningOnRollback { reason, begun: true }, Event::HookLost) => {
            S::RolledBack { reason: reason.clone() }
        }

        (S::Frozen { reason, .. }, Event::Woken) => S::CheckingBlue { reason: reason.clone() },
        _ => state.clone(),
    }
}

fn back(reason: String) -> State {
    State::CheckingBlue { reason }
}

fn before_first(course: &Course) -> State {
    if course.steps.first().is_some_and(|step| step.gated) { State::Holding } else { State::CheckingGreen }
}

/// The weight is in force: watch it, or go on at once where the step has no bake and nothing holds.
fn settled(step: usize, at_ms: i64, held: bool, course: &Course) -> State {
    let more = step + 1 < course.steps.len();
    if course.bake_ms(step) > 0 || (held && more) {
        State::Baking { step, since_ms: at_ms }
    } else {
        after_bake(step, course)
    }
}

fn after_bake(step: usize, course: &Course) -> State {
    if step + 1 < course.steps.len() { State::Shifting { step: step + 1 } } else { State::RetiringBlue }
}

/// Green has everything and the after hook has run.
fn after_all(course: &Course) -> State {
    if course.keep_ms > 0 { State::KeepingBlue { until_ms: None } } else { without_blue(course) }
}

fn without_blue(course: &Course) -> State {
    if course.hooks.contains(&Hook::Retire) { State::RunningRetire { begun: false } } else { State::Promoted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn course(hooks: &[Hook]) -> Course {
        let step = |weight, bake_ms| Step { weight, bake_ms, gated: !hooks.is_empty() };
        Course {
            steps: vec![step(0.05, 10), step(0.2, 0), step(0.5, 10), step(1.0, 0)],
            undecided_ms: 20,
            keep_ms: if hooks.is_empty() { 0 } else { 50 },
            hooks: hooks.to_vec(),
        }
    }

    const ALL_HOOKS: &[Hook] = &[Hook::Deploy, Hook::After, Hook::OnRollback, Hook::Retire];

    /// What the world may answer to an action, a crash and an abort always among it.
    fn answers(state: &State, course: &Course) -> Vec<Event> {
        let mut events = vec![Event::Aborted { reason: "called off".into() }];
        let text = || "seen".to_owned();
        match state.action(course) {
            Some(Action::Run(_)) => {
                let begun = matches!(
                    state,
                    State::Deploying { begun: true }
                        | State::RunningAfter { begun: true }
                        | State::RunningRetire { begun: true }
                        | State::RunningOnRollback { begun: true, .. }
                );
                if begun {
                    events.extend([true, false].map(|ok| Event::HookEnded { ok, how: text() }));
                    events.push(Event::HookLost);
                } else {
                    events.push(Event::HookBegins);
                }
            }
            Some(Action::CheckHealth(_)) => {
                events.extend([true, false].map(|ok| Event::Health { ok, seen: text() }));
            }
            Some(Action::Shift { .. }) => {
                events.extend([true, false].map(|held| Event::Shifted { at_ms: 0, held }));
                events.extend([Event::LookAgain { at_ms: 7 }, Event::ShiftFailed { why: text() }]);
            }
            Some(Action::Wait) => events.push(Event::GateOpened),
            Some(Action::Keep { until_ms: None }) => events.push(Event::KeepBegins { at_ms: 0 }),
            Some(Action::Keep { .. }) => {
                events.extend([Event::KeepOver, Event::Undone { reason: "undone".into() }]);
            }
            Some(Action::Bake { .. }) => {
                for look in [Look::Good, Look::Bad, Look::Unknown] {
                    for at_ms in [5, 10, 30] {
                        for held in [false, true] {
                            events.push(Event::Looked { look, sentence: text(), at_ms, held });
                        }
                    }
                }
                events.push(Event::ClockWentBack { at_ms: -5 });
                events.push(Event::PutBack { at_ms: 3 });
                events.push(Event::Skipped { reason: text() });
                events.push(Event::Accepted { reason: text() });
            }
            Some(Action::Retire(_)) => events.extend([Event::Retired, Event::RetireFailed { why: text() }]),
            None => events.extend([Event::Woken, Event::Accepted { reason: text() }]),
        }
        if state.settled(course).is_some() {
            events.push(Event::ShiftFailed { why: text() });
        }
        events.push(Event::TooLong { why: "took too long".into() });
        events
    }

    fn key(state: &State) -> String {
        serde_json::to_string(state).unwrap_or_default()
    }

    /// Every state that can be reached, with all answers that it can get.
    fn explore(course: &Course) -> Vec<(State, Event, State)> {
        let mut seen = BTreeSet::new();
        let mut open = vec![State::first(course)];
        let mut edges = Vec::new();
        while let Some(state) = open.pop() {
            if !seen.insert(key(&state)) {
                continue;
            }
            for event in answers(&state, course) {
                let to = next(&state, &event, course);
                open.push(to.clone());
                edges.push((state.clone(), event, to));
            }
        }
        edges
    }

    #[test]
    fn a_finished_release_is_never_reopened_and_nothing_wedges() {
        for hooks in [&[][..], ALL_HOOKS] {
            let course = course(hooks);
            let edges = explore(&course);
            assert!(edges.len() > 40);
            for (from, event, to) in &edges {
                if from.finished() {
                    assert_eq!(from, to, "{event:?}");
                }
            }
            // From every state some end can be reached.
            let mut good: BTreeSet<String> =
                edges.iter().filter(|(f, _, _)| f.finished()).map(|(f, _, _)| key(f)).collect();
            loop {
                let before = good.len();
                for (from, _, to) in &edges {
                    if good.contains(&key(to)) {
                        good.insert(key(from));
                    }
                }
                if good.len() == before {
                    break;
                }
            }
            for (from, _, _) in &edges {
                assert!(good.contains(&key(from)), "{from:?} wedges");
            }
        }
    }

    #[test]
    fn more_weight_comes_only_after_a_good_look_at_the_end_of_a_bake() {
        let course = course(ALL_HOOKS);
        for (from, event, to) in explore(&course) {
            let (State::Baking { step, since_ms }, State::Shifting { step: after }) = (&from, &to) else {
                continue;
            };
            assert_eq!(*after, step + 1);
            let bake_ms = course.steps[*step].bake_ms;
            // A person may end it early; that is on record.
            if matches!(event, Event::Skipped { .. }) {
                continue;
            }
            assert!(
                matches!(event, Event::Looked { look: Look::Good, at_ms, held: false, .. } if at_ms - since_ms >= bake_ms),
                "{event:?}"
            );
        }
    }

    #[test]
    fn an_abort_ends_with_the_old_side_or_stands_still_for_a_named_reason() {
        let course = course(ALL_HOOKS);
        for (from, event, to) in explore(&course) {
            let no_way_back = from == (State::RunningRetire { begun: true });
            if matches!(event, Event::Aborted { .. }) && !from.finished() && !no_way_back {
                let on_the_way_back = matches!(
                    to,
                    State::CheckingBlue { .. }
                        | State::RollingBack { .. }
                        | State::RetiringGreen { .. }
                        | State::RunningOnRollback { .. }
                );
                assert!(on_the_way_back, "{from:?} -> {to:?}");
            }
            // Once on the way back, nothing leads forward again.
            if matches!(
                from,
                State::CheckingBlue { .. } | State::RollingBack { .. } | State::RetiringGreen { .. }
            ) {
                assert!(
                    !matches!(to, State::Shifting { .. } | State::Baking { .. } | State::Promoted),
                    "{event:?}"
                );
            }
        }
    }

    #[test]
    fn a_split_that_is_not_in_force_is_never_the_end_of_a_release() {
        let course = course(ALL_HOOKS);
        for (from, event, to) in explore(&course) {
            if matches!(event, Event::ShiftFailed { .. }) {
                assert_ne!(from, to);
                assert!(
                    from.finished() || matches!(to, State::CheckingBlue { .. } | State::Frozen { .. }),
                    "{from:?} -> {to:?}"
                );
            }
        }
    }

    #[test]
    fn a_clock_set_back_makes_a_bake_longer_and_never_shorter() {
        let course = course(&[]);
        let baking = |since_ms| State::Baking { step: 0, since_ms };
        assert_eq!(next(&baking(100), &Event::ClockWentBack { at_ms: 40 }, &course), baking(40));
        assert_eq!(next(&baking(100), &Event::ClockWentBack { at_ms: 140 }, &course), baking(100));
    }

    #[test]
    fn a_hook_that_may_have_begun_never_begins_again() {
        let course = course(ALL_HOOKS);
        for (from, event, to) in explore(&course) {
            if event == Event::HookLost {
                assert_ne!(from, to);
                assert!(
                    !matches!(to, State::Deploying { .. } | State::RunningAfter { .. }),
                    "{from:?} -> {to:?}"
                );
            }
        }
    }
}
