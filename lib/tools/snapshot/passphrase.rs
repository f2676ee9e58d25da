//! Where the passphrase of a store comes from: the environment, a file or a command, never an argument.

use std::path::Path;
use std::time::Duration;

use crate::fault::Fault;
use crate::redact;
pub use crate::repository::restic::Passphrase;
use crate::world::files;
use crate::world::shell::{self, NEW_PASSPHRASE, Order, PASSPHRASE};

/// What opens a store that needs no passphrase of its own. restic has no stores without one.
pub const NONE_NEEDED: &str = "none-needed";

/// No passphrase is longer than this.
const MAX_FILE: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// The passphrase that the environment gives; none when it gives none.
///
/// Errors: 2 when it is given twice, or empty; 4 when its file cannot be read or its command fails.
pub fn given() -> Result<Option<Passphrase>, Fault> {
    read(PASSPHRASE)
}

/// The passphrase that is to come: `TRAPKEY_NEW_PASSPHRASE`, `…_FILE` or `…_COMMAND`.
///
/// Errors: 2 when there is none, or as [`given`].
pub fn new() -> Result<Passphrase, Fault> {
    read(NEW_PASSPHRASE)?.ok_or_else(|| {
        Fault::usage("there is no new passphrase")
            .help(format!("set {NEW_PASSPHRASE}, {NEW_PASSPHRASE}_FILE or {NEW_PASSPHRASE}_COMMAND"))
    })
}

/// The passphrase of stores that need none.
pub fn none_needed() -> Result<Passphrase, Fault> {
    Passphrase::new(NONE_NEEDED)
}

fn read(name: &str) -> Result<Option<Passphrase>, Fault> {
    let (file, command) = (format!("{name}_FILE"), format!("{name}_COMMAND"));
    let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let set: Vec<&str> = [name, &file, &command].into_iter().filter(|name| value(name).is_some()).collect();
    if let [first, second, ..] = set[..] {
        return Err(Fault::usage(format!("the passphrase is given twice, by {first} and by {second}"))
            .help("leave one of them out"));
    }
    let text = if let Some(text) = value(name) {
        text.into_string()
            .map_err(|_| Fault::usage(format!("{name} is not UTF-8")).help("give a passphrase of text"))?
    } else if let Some(path) = value(&file) {
        of_file(Path::new(&path), &file)?
    } else if let Some(line) = value(&command) {
        of_command(&line.to_string_lossy(), &command)?
    } else {
        return Ok(None);
    };
    redact::learn(&text);
    Passphrase::new(text).map(Some)
}

fn of_file(path: &Path, variable: &str) -> Result<String, Fault> {
    let unreadable = |cause: &dyn std::fmt::Display| {
        Fault::infrastructure("the file with the passphrase cannot be read")
            .place(path.display().to_string())
            .cause(cause)
            .help(format!("correct {variable}, or give the job's user the right to read it"))
    };
    let bytes = files::read_bounded(path, MAX_FILE).map_err(|e| unreadable(&e))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8"))?;
    // The same bytes as restic takes them from RESTIC_PASSWORD_FILE.
    Ok(text.trim().to_owned())
}

fn of_command(line: &str, variable: &str) -> Result<String, Fault> {
    let words = shlex::split(line).filter(|words| !words.is_empty()).ok_or_else(|| {
        Fault::usage(format!("{variable} is no command"))
            .help("write words parted by spaces, with quotes where a word has spaces; there is no shell")
    })?;
    let program = words[0].clone();
    let failed = |cause: String| {
        Fault::infrastructure("the command that gives the passphrase failed")
            .place(&program)
            .cause(cause)
            .help(format!("run the command of {variable} by hand"))
    };
    let mut order = Order::new(words, Path::new("."));
    order.timeout = PATIENCE;
    let mut ran: shell::Ran = order.run().map_err(|e| failed(e.to_string()))?;
    // It may be the passphrase, also where the command failed after it, or says on stderr what it does.
    let printed = std::mem::take(&mut ran.stdout);
    String::from_utf8_lossy(&printed).lines().for_each(redact::learn);
    if ran.exit != Some(0) {
        return Err(failed(format!("{}: {}", ran.how(), ran.last_words())));
    }
    let text = String::from_utf8(printed).map_err(|_| failed("it printed no UTF-8".into()))?;
    Ok(text.trim().to_owned())
}
