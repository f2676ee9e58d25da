//! `file`: whether a file is there, and what it is like.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Observed, Unit};
use crate::world::files;
use crate::yaml::Problem;

/// See `preflight explain file`.
pub(super) static KIND: Kind = Kind {
    name: "file",
    about: "Looks at a file or folder.",
    target: "a path, relative to the plan",
    example: "\
- name: configuration is in place
  kind: file
  target: deploy/shop.toml
  expect: {exists: true, mode: \"0640\", age: \"<= 7d\"}
",
    observes: &[
        Observable { name: "exists", unit: Unit::Flag, about: "whether it is there" },
        Observable { name: "size", unit: Unit::Bytes, about: "its size" },
        Observable { name: "sha256", unit: Unit::Text, about: "its SHA-256 in hexadecimal" },
        Observable { name: "mode", unit: Unit::Text, about: "its permission bits in octal, `0640`" },
        Observable { name: "age", unit: Unit::Duration, about: "the time since its last change" },
    ],
    presumes: &[Presumed::new("exists", "true")],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct File {
    path: PathBuf,
    sha256: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    Ok(Box::new(File { path: order.path()?, sha256: order.asks("sha256") }))
}

impl Check for File {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let place = self.path.display();
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Sight::default()
                    .saw("exists", Observed::Flag(false))
                    .note(format!("{place}: {error}")));
            }
            Err(error) => return Err(Trouble::broken(format!("{place}: {error}"))),
        };
        let mut sight = Sight::default().saw("exists", Observed::Flag(true));
        // What the file system keeps of a folder is not the size of what is in it.
        if metadata.is_file() {
            sight = sight.number("size", metadata.len() as f64, Unit::Bytes);
        } else {
            sight = sight.note(format!("{place} is no file, so it has no size"));
        }
        sight = sight.saw("mode", Observed::Text(format!("{:04o}", metadata.permissions().mode() & 0o7777)));
        match metadata.modified().ok().map(seconds_since) {
            Some(age) if age >= -CLOCK_SKEW => sight = sight.number("age", age.max(0.0), Unit::Duration),
            Some(_) => {
                sight = sight.note(format!("{place} was changed in the future, so its age is not known"));
            }
            None => {}
        }
        if self.sha256 {
            let (sha256, _) = files::sha256_file(&self.path)
                .map_err(|error| Trouble::broken(format!("{place} cannot be read: {error}")))?;
            sight = sight.saw("sha256", Observed::Text(sha256));
        }
        Ok(sight)
    }
}

/// How far the clock of whoever wrote a file may be ahead, in seconds.
const CLOCK_SKEW: f64 = 60.0;

/// Below zero for a file from the future.
fn seconds_since(moment: SystemTime) -> f64 {
    match SystemTime::now().duration_since(moment) {
        Ok(age) => age.as_secs_f64(),
        Err(ahead) => -ahead.duration().as_secs_f64(),
    }
}
