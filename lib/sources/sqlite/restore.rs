//! A stored database in place of a live file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::script::Asked;
use super::{COPY, Database};
use crate::evidence::TableRecord;
use crate::fault::Fault;
use crate::redact::redact;
use crate::sources::{ReadBack, not_empty};
use crate::units::Text;
use crate::world::files::{parent, sync_folder, unwritable};
use crate::world::scratch::Scratch;

const FORCE: &str = "everything in it is replaced by what the snapshot has, in one transaction";

/// Makes the file, or replaces what is in it; others may have it open.
pub(super) fn run(
    source: &Database,
    target: &Text,
    force: bool,
    back: &dyn ReadBack,
    recorded: &[TableRecord],
) -> Result<String, Fault> {
    let shown = redact(&target.shown);
    let path = place(&target.value)
        .map_err(|why| Fault::usage("the target is not a file").place(&shown).cause(why))?;
    let there = fs::symlink_metadata(&path).is_ok();
    if there {
        refuse_filled(source, &path, &shown, force)?;
    }
    // Beside the target, so that the finished file only has to be linked there.
    let folder = parent(&path);
    let scratch = Scratch::inside(&folder).map_err(|e| unwritable(&folder, &e))?;
    let copy = source.read_back(back, &scratch)?;
    source.whole(&copy, recorded)?;
    if there {
        replace(source, &scratch, &path, &shown)?;
        source.whole(&path, recorded)?;
    } else {
        // A link and not a rename, which would overwrite what came meanwhile.
        fs::hard_link(&copy, &path).and_then(|()| sync_folder(&folder)).map_err(|e| unwritable(&path, &e))?;
    }
    let how = if there { "in place of what was in it" } else { "as a new file for its owner alone" };
    let compared = match recorded.len() {
        0 => "no rows were recorded to compare with".to_owned(),
        count => format!("rows and sums of {count} tables are those of the snapshot"),
    };
    Ok(format!("restored into {shown}, {how}; it passes SQLite's integrity check; {compared}"))
}

fn place(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("sqlite://").unwrap_or(text);
    if path.is_empty() || path.contains("://") || path.starts_with(':') {
        return Err("write the path of a file, /srv/shop.db or sqlite:///srv/shop.db".into());
    }
    let path = std::path::absolute(path).map_err(|e| e.to_string())?;
    // SQLite would follow a link by itself, and its journal belongs beside the file.
    match fs::canonicalize(&path) {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path),
        Err(e) => Err(e.to_string()),
    }
}

fn refuse_filled(source: &Database, path: &Path, shown: &str, force: bool) -> Result<(), Fault> {
    let mut asked = Asked::at(&parent(path));
    asked.question(&["count(*)"], "FROM sqlite_master");
    let answers = asked.run(&source.programs, Some(path)).map_err(|r| source.unreadable(&r).place(shown))?;
    let objects = answers[0].first().cloned().unwrap_or_default();
    if objects == "0" || force {
        return Ok(());
    }
    Err(not_empty(shown, &format!("the file has {objects} tables, indices, views and triggers"), FORCE))
}

/// SQLite's own way: it takes the locks that keep others out, and whoever has the file open sees the new data.
fn replace(source: &Database, scratch: &Scratch, path: &Path, shown: &str) -> Result<(), Fault> {
    let mut asked = Asked::at(scratch.folder());
    asked.line(&format!(".restore main {COPY}"));
    asked.run(&source.programs, Some(path)).map(drop).map_err(|refused| {
        source
            .unreadable(&refused)
            .place(shown)
            .help("nothing was changed; stop whoever uses the database, and run it again")
    })
}
