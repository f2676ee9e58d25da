//! What is wrong on purpose, one at a time: each is found, by the rule that it breaks.

use stateright::{Checker, Model};

use super::world::Rule;
use trapkey::tools::promote::machine::Hook;

use super::{
    ALL_HOOKS, FULL, HANDS, KILLS, LOSSES, NO_FAULTS, Promotion, RETIRES, ROUTERS, WISHES, WRITES, figure,
};

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    None,
    /// The router is touched without a look at the lease.
    TouchesWithoutLooking,
    /// A step is put on record after the router was told.
    SavesAfterTheSet,
    /// A rollback that an abort has begun turns round.
    AbortIsNotTheEnd,
    /// A hook that has begun is begun again, where its job was killed or an abort came between.
    BegunHookRunsAgain,
    /// A hook begins before others can see that it may.
    HookBeginsUnseen,
    /// A hook begins whose beginning could not be put on record.
    HookBeginsUnwritten,
    /// A side is closed after its drain without another look at the lease.
    ClosesWithoutLooking,
    /// A hook that outlived its job is not waited for.
    OrphanIsNotSeen,
    /// The router is never held against the record, nor a side looked at before it is closed.
    NeverReconciles,
    /// A lease that is renewed is taken.
    TakesWithoutWatching,
    /// Who comes late leaves what it has done.
    LeavesALateSet,
    /// Who comes late puts the newest record in force, whosever it is.
    PutsRightWhatIsNotItsOwn,
    /// A step is looked at again with the weight of the next one in force.
    LooksAgainWithTheWeightOn,
    /// A shift is done and not put on record.
    ForgetsTheShift,
    /// A lease that could not be written counts as held.
    UnwrittenIsHeld,
    /// A way back that is not confirmed is taken off the router's disk.
    WayBackIsTakenBack,
    /// An abort names a number that another promotion can have as well.
    AbortByNumber,
    /// A skip takes the next step without a look at its gate.
    SkipPassesTheGate,
    /// What was accepted is closed without a last look.
    AcceptsUnseen,
    /// Nobody listens for an abort once something is accepted.
    AcceptsWithoutListening,
    /// The retire hook does not wait until nobody needs the old side.
    RetiresAtOnce,
    /// The retire hook runs without another look at the router.
    RetiresWithoutLooking,
    /// An undo is forgotten once the old side is to be taken down.
    UndoIsLost,
    /// What people have rearranged counts as taken off green.
    RearrangedIsTakenOff,
    /// A blue that is back after it was out is nothing to speak of.
    ReturnedIsNothing,
    /// Users on neither side are nothing to speak of.
    AstrayIsNothing,
}

#[test]
fn the_model_finds_every_defect_that_is_put_in() {
    let rule = Rule::word;
    let no_more = "green never has more than the record allows";
    let as_recorded = "when all have left, the router is as the record says";
    let cases = [
        (Defect::TouchesWithoutLooking, 1, KILLS, &[][..], 1, rule(Rule::Rogue)),
        (Defect::SavesAfterTheSet, 0, NO_FAULTS, &[], 1, no_more),
        (Defect::AbortIsNotTheEnd, 0, NO_FAULTS, &[], 1, "an abort is the end of its promotion"),
        (Defect::BegunHookRunsAgain, 1, KILLS, ALL_HOOKS, 1, rule(Rule::HookTwice)),
        (Defect::HookBeginsUnseen, 1, KILLS, ALL_HOOKS, 1, rule(Rule::TwoHooks)),
        (Defect::HookBeginsUnwritten, 1, FULL, ALL_HOOKS, 1, rule(Rule::HookTwice)),
        (Defect::ClosesWithoutLooking, 1, KILLS, &[], 1, rule(Rule::Rogue)),
        (Defect::OrphanIsNotSeen, 1, KILLS, ALL_HOOKS, 1, rule(Rule::TwoHooks)),
        (Defect::NeverReconciles, 1, ROUTERS, &[], 1, "users always have a side"),
        (Defect::TakesWithoutWatching, 0, NO_FAULTS, &[], 1, rule(Rule::Robbed)),
        (Defect::LeavesALateSet, 1, KILLS, &[], 1, as_recorded),
        (Defect::PutsRightWhatIsNotItsOwn, 1, KILLS, &[], 2, rule(Rule::NotItsOwn)),
        (Defect::LooksAgainWithTheWeightOn, 1, KILLS, ALL_HOOKS, 1, no_more),
        (Defect::ForgetsTheShift, 0, NO_FAULTS, &[], 1, rule(Rule::StepTwice)),
        (Defect::UnwrittenIsHeld, 1, WRITES, &[], 1, rule(Rule::Rogue)),
        (Defect::WayBackIsTakenBack, 1, ROUTERS, &[], 1, rule(Rule::WayBackLost)),
        (Defect::AbortByNumber, 1, LOSSES, &[], 2, rule(Rule::AbortOfAnother)),
        (Defect::SkipPassesTheGate, 0, WISHES, &[], 1, rule(Rule::GatePassed)),
        (Defect::AcceptsUnseen, 0, WISHES, &[], 1, rule(Rule::Unwell)),
        (Defect::AcceptsWithoutListening, 0, WISHES, &[], 1, rule(Rule::AbortUnheard)),
        (Defect::RetiresAtOnce, 0, RETIRES, &[Hook::Retire], 1, rule(Rule::RetireEarly)),
        (Defect::RetiresWithoutLooking, 0, RETIRES, &[Hook::Retire], 1, rule(Rule::RetireWithUsers)),
        (Defect::UndoIsLost, 0, RETIRES, &[Hook::Retire], 1, rule(Rule::RetireAfterUndo)),
        (Defect::RearrangedIsTakenOff, 1, HANDS, &[], 1, rule(Rule::HandsAreNoReason)),
        (Defect::ReturnedIsNothing, 1, HANDS, &[], 1, rule(Rule::OldBake)),
        (Defect::AstrayIsNothing, 1, HANDS, &[], 1, rule(Rule::Astray)),
    ];
    for (defect, faults, kinds, hooks, promotions, rule) in cases {
        // With people there are far more orders, and jobs alone come to this as well.
        let people = defect != Defect::PutsRightWhatIsNotItsOwn;
        let model = Promotion { promotions, people, kinds, defect, ..Promotion::new(hooks, faults) };
        let wanted = stateright::HasDiscoveries::AnyOf([rule].into());
        let checker = model.checker().threads(2).finish_when(wanted).spawn_bfs().join();
        let states = checker.unique_state_count();
        let path = checker.discovery(rule);
        let path = path.unwrap_or_else(|| panic!("{defect:?} is not found in {states} states"));
        figure(&format!(
            "model: {defect:?} is found by `{rule}` in {} moves ({states} states)",
            path.into_actions().len()
        ));
    }
}
