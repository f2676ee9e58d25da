//! Before the old side is taken down for good: nobody needs it any more, and a reload of the router would not send
//! users to it.

use super::super::record::{Quiet, millis};
use super::Driver;
use crate::evidence::{AfterReloadRecord, OtherWayRecord};
use crate::fault::Fault;
use crate::routers::{AfterReload, Counters, OtherWay, Side, same_share};
use crate::units::{show_duration, show_share};
use crate::world;
use crate::world::talk::Mark;

impl Driver<'_> {
    /// Whether the retire hook waits. Why is on record.
    pub(super) fn blue_must_stay(&mut self) -> Result<bool, Fault> {
        let why = match self.blue_is_needed()? {
            Some(why) => Some(why),
            None => match self.a_reload_needs_blue()? {
                Some(why) => Some(why),
                None => self.others_need_blue()?,
            },
        };
        if let Some(why) = &why
            && self.blue_stays.as_ref() != Some(why)
        {
            self.job.talk().line(Mark::Warn, why);
            if self.record.promotion.decisions.iter().all(|d| d.what != *why) {
                self.record.decided(world::now(), "trapkey", why.clone());
            }
        }
        self.blue_stays.clone_from(&why);
        Ok(why.is_some())
    }

    /// Why a reload of the router would bring users to the side that is to be taken down.
    fn a_reload_needs_blue(&mut self) -> Result<Option<String>, Fault> {
        let Some(after) = self.router.after_reload()? else { return Ok(None) };
        if same_share(after.green, 1.0) {
            return Ok(None);
        }
        let kind = &self.record.promotion.router.kind;
        let would = format!(
            "a reload or a restart of {kind} would give blue {} again: {}",
            show_share(1.0 - after.green),
            after.change.join("; ")
        );
        if self.plan.retire_needs_durable {
            return Ok(Some(format!("blue is not taken down: {would}")));
        }
        let what = format!("blue is taken down although {would}");
        self.job.talk().line(Mark::Warn, &what);
        self.record.decided(world::now(), "trapkey", what);
        Ok(None)
    }

    /// Why users of other ways than the split would lose their side.
    fn others_need_blue(&mut self) -> Result<Option<String>, Fault> {
        let ways = self.router.other_ways()?.unwrap_or_default();
        let ways: Vec<String> =
            ways.iter().filter(|way| way.side == Side::Blue).map(OtherWay::line).collect();
        if ways.is_empty() {
            return Ok(None);
        }
        let lead = format!("other ways of the router lead to it: {}", ways.join(", "));
        if self.plan.retire_needs_durable {
            return Ok(Some(format!("blue is not taken down: {lead}")));
        }
        let what = format!("blue is taken down although {lead}; whoever comes by them is cut");
        self.job.talk().line(Mark::Warn, &what);
        self.record.decided(world::now(), "trapkey", what);
        Ok(None)
    }

    /// Puts on record what else leads to the side that is to be taken down.
    pub(super) fn note_other_ways(&mut self) {
        self.record.promotion.other_ways = Vec::new();
        if !self.record.state.serves() {
            return;
        }
        // The end stands, whether or not the router can show them.
        let Ok(Some(ways)) = self.router.other_ways() else { return };
        let ways: Vec<OtherWay> = ways.into_iter().filter(|way| way.side == Side::Blue).collect();
        if ways.is_empty() {
            return;
        }
        // Before the retire hook they are told by themselves.
        if self.plan.hooks.retire.is_empty() {
            let lines: Vec<String> = ways.iter().map(OtherWay::line).collect();
            let what = format!("before blue is taken down, lead these elsewhere: {}", lines.join(", "));
            self.job.talk().line(Mark::Warn, &what);
        }
        let record = |way: OtherWay| OtherWayRecord { name: way.name, place: way.place };
        self.record.promotion.other_ways = ways.into_iter().map(record).collect();
    }

    /// Why the old side still has too many requests to be taken down.
    fn blue_is_needed(&mut self) -> Result<Option<String>, Fault> {
        let Some(spec) = self.plan.retire_when else { return Ok(None) };
        let Some(counters) = self.router.counters()? else {
            return Ok(Some(format!(
                "blue is not taken down: {} does not count its requests, and `retire_when` goes by them",
                self.record.promotion.router.kind
            )));
        };
        let now_ms = self.clock.ms();
        let quiet = quiet_since(self.record.quiet.take(), &counters, spec.requests, now_ms);
        let lasts_ms = now_ms - quiet.since_ms;
        self.record.quiet = Some(quiet);
        if lasts_ms >= millis(spec.lasting.0) {
            return Ok(None);
        }
        // Written down, so that the next call goes on from here.
        self.write_record()?;
        Ok(Some(format!(
            "blue is not taken down before it has had at most {} requests for {}",
            spec.requests,
            show_duration(spec.lasting.0.as_secs_f64())
        )))
    }

    /// Puts on record what a reload of the router would make of the end, where that is something else.
    pub(super) fn note_after_reload(&mut self) {
        self.record.promotion.after_reload = None;
        if !self.record.state.serves() {
            return;
        }
        // The end stands, whatever the router says of its next start.
        let Ok(Some(AfterReload { green, change })) = self.router.after_reload() else { return };
        if same_share(green, 1.0) {
            return;
        }
        let kind = self.record.promotion.router.kind.clone();
        self.job.talk().line(
            Mark::Warn,
            &format!(
                "before the next reload or restart of {kind}, change its configuration: {}",
                change.join("; ")
            ),
        );
        self.record.promotion.after_reload = Some(AfterReloadRecord { green, change });
    }
}

/// Since when blue is quiet, now that it has counted this much.
fn quiet_since(before: Option<Quiet>, counters: &Counters, may: u64, now_ms: i64) -> Quiet {
    let now =
        Quiet { since_ms: now_ms, requests: counters.blue.requests, instance: counters.instance.clone() };
    match before {
        Some(before)
            if before.instance == now.instance
                && before.since_ms <= now_ms
                && now.requests.checked_sub(before.requests).is_some_and(|more| more <= may) =>
        {
            before
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routers::SideCount;

    #[test]
    fn a_side_is_quiet_only_as_long_as_the_same_router_counts_no_more() {
        let counted = |requests, instance: &str| Counters {
            blue: SideCount { requests, ..SideCount::default() },
            instance: instance.into(),
            ..Counters::default()
        };
        let first = quiet_since(None, &counted(10, "a"), 2, 100);
        assert_eq!(first.since_ms, 100);
        let same = quiet_since(Some(first.clone()), &counted(12, "a"), 2, 200);
        assert_eq!(same, first);
        assert_eq!(quiet_since(Some(same.clone()), &counted(13, "a"), 2, 300).since_ms, 300);
        assert_eq!(quiet_since(Some(same.clone()), &counted(12, "b"), 2, 300).since_ms, 300, "it began anew");
        assert_eq!(quiet_since(Some(same.clone()), &counted(1, "a"), 2, 300).since_ms, 300, "it was cleared");
        assert_eq!(quiet_since(Some(same), &counted(12, "a"), 2, 50).since_ms, 50, "the clock was set back");
    }
}
