//! An SQL dump from the store into a live MySQL or MariaDB.

use super::server::{HELP, Server};
use super::{DUMP, tables};
use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact::redact;
use crate::sources::tables::difference;
use crate::sources::{ReadBack, not_empty};
use crate::units::Text;

/// Feeds the dump into the client program and compares what came of it.
pub(super) fn run(
    source: &Server,
    target: &Text,
    force: bool,
    back: &dyn ReadBack,
    recorded: &[TableRecord],
) -> Result<String, Fault> {
    let shown = redact(&target.shown);
    let mut programs = source.programs.clone();
    programs.shown.clone_from(&shown);
    let into = Server::read(&target.value, source.defaults(), programs).map_err(|why| {
        Fault::usage("the target is not a database's URL").place(&shown).cause(why).help(HELP)
    })?;
    let filled = holds(&into)?;
    if let Some(holds) = &filled
        && !force
    {
        return Err(not_empty(
            &shown,
            holds,
            "tables of the same names are replaced, and everything else stays",
        ));
    }
    let (program, flavour) = into.program(&["mariadb", "mysql"])?;
    let mut argv = vec![program];
    argv.extend(into.arguments(flavour));
    // In binary mode nothing in the dump is a command for the client program itself.
    argv.extend(
        ["--batch", "--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--"]
            .map(str::to_owned),
    );
    argv.push(into.address.path.clone());
    let ran = into.programs.feed_any(back, DUMP, &into.programs.order(argv, into.environment()))?;
    if ran.exit != Some(0) {
        return Err(into
            .programs
            .fault(format!("the restore failed: {}", ran.how()))
            .cause(ran.last_words())
            .help("the database is half restored, for tables are made outside of transactions: correct the cause and run it again with --force"));
    }
    compare(&into, recorded)?;
    let place = if filled.is_some() { ", in place of the tables of the same names" } else { "" };
    let compared = match recorded.len() {
        0 => "no rows were recorded to compare with".to_owned(),
        count => format!("rows and sums of {count} tables are those of the snapshot"),
    };
    Ok(format!("restored into {shown}{place}; {compared}"))
}

/// What the database holds, in words; none when it is empty.
fn holds(into: &Server) -> Result<Option<String>, Fault> {
    let count = |what: &str| format!("(SELECT COUNT(*) FROM information_schema.{what}_schema = DATABASE())");
    let row = into
        .session()?
        .row(&[&count("tables WHERE table"), &count("routines WHERE routine"), &count("events WHERE event")])
        .map_err(|e| into.unanswered(&e))?;
    let counts: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    if counts.iter().all(|count| count == "0") {
        return Ok(None);
    }
    Ok(Some(format!(
        "the database has {} tables and views, {} routines, {} events",
        counts[0], counts[1], counts[2]
    )))
}

fn compare(into: &Server, recorded: &[TableRecord]) -> Result<(), Fault> {
    for table in recorded {
        let wrong = match tables::now(&mut into.session()?, table) {
            Ok(now) => difference(table, &now),
            Err(tables::Trouble::Gone(why) | tables::Trouble::Unanswered(why)) => Some(redact(&why)),
        };
        if let Some(wrong) = wrong {
            return Err(into
                .programs
                .fault("what was restored is not what was recorded")
                .cause(wrong)
                .help("does anybody write to it already? Otherwise do not use it"));
        }
    }
    Ok(())
}
