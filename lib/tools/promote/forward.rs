//! `promote accept` and `promote skip`: what people decide in the place of a judge, each with its reason, on record,
//! behind the approvals of the plan, and never onto a side that is not well.

use super::drive::{Driver, Mode, word_of_wish};
use super::record::phase;
use super::{begin, orders, say, store, take};
use crate::evidence::name_release;
use crate::fault::{Exit, Fault};
use crate::job::Job;
use crate::state::{Ask, Held};
use crate::world::talk::Mark;

/// Closes a promotion as it stands: everything to green, whatever became of blue.
///
/// Exit 0: green serves everything. Errors (5): green is not well, an approval is missing, or there is nothing to
/// accept.
pub fn accept(job: &Job, why: String) -> Result<Exit, Fault> {
    wish(job, Ask::Accept, why)
}

/// Ends the bake that is under way; the next step is taken where no gate stands before it.
///
/// Exit 0: it goes on. Errors (5): no step is watched, green is not well, or an approval is missing.
pub fn skip(job: &Job, why: String) -> Result<Exit, Fault> {
    wish(job, Ask::Skip, why)
}

fn wish(job: &Job, ask: Ask, why: String) -> Result<Exit, Fault> {
    let record = orders::running(job)?.record;
    if record.state.finished() || record.state.serves() {
        return Err(orders::finished(job, &record));
    }
    orders::same_router(job, &record)?;
    orders::same_values(job, &record)?;
    let asked = orders::asked(&record, Some(why));
    let store = store(job)?;
    let job = &record.job(job);
    match take(job, &store) {
        Ok(Held { lease, saved }) => {
            let Some(saved) = saved.filter(|saved| orders::is_the_same(&saved.record, &record)) else {
                return Err(orders::another_has_begun());
            };
            let mode = if ask == Ask::Skip { Mode::Once } else { Mode::Hold };
            let mut driver = Driver::new(job, mode, begin::router(job)?, lease, saved.record)?;
            if ask == Ask::Skip {
                // What the router and the record say of each other comes first.
                driver.come_back()?;
            }
            if let Err(why) = driver.grant(ask, &asked)? {
                return Err(Fault::refused(format!("`promote {}` is refused", word_of_wish(ask)))
                    .place(name_release(&record.release))
                    .cause(why)
                    .help(format!(
                        "it stays as it is: {}; what can be done: {}",
                        phase(&record.state, &record.course),
                        say::command(job, "status")
                    )));
            }
            driver.conclude()
        }
        Err(held) if held.exit == Exit::Refused => {
            orders::leave(&store, ask, &asked, &record)?;
            let working = held.cause.unwrap_or_default();
            job.talk().line(
                Mark::Step,
                &format!(
                    "`promote {}` is left for the job that works ({working}): it heeds it at its next look; `promote status` tells",
                    word_of_wish(ask)
                ),
            );
            Ok(Exit::Pass)
        }
        Err(fault) => Err(fault),
    }
}
