//! `disk`: room on the file system that holds a path.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::StatVfs;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::Unit;
use crate::yaml::Problem;

/// See `preflight explain disk`.
pub(super) static KIND: Kind = Kind {
    name: "disk",
    about: "Looks at the room on the file system that holds a path.",
    target: "a path on that file system, relative to the plan",
    example: "\
- name: room for the backup
  kind: disk
  target: /var/backups
  expect: {free: \">= 20GiB\", inodes_free_share: \">= 5%\"}
",
    observes: &[
        Observable { name: "free", unit: Unit::Bytes, about: "what an ordinary user may still write" },
        Observable { name: "free_share", unit: Unit::Share, about: "the same as a share, as `df` counts" },
        Observable { name: "used_share", unit: Unit::Share, about: "the used share, as `df` counts" },
        Observable { name: "inodes_free_share", unit: Unit::Share, about: "the share of inodes left" },
    ],
    presumes: &[Presumed { name: "free_share", is: ">= 10%", unless: &["free", "used_share"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct Disk {
    path: PathBuf,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    Ok(Box::new(Disk { path: order.path()? }))
}

impl Check for Disk {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let vfs = rustix::fs::statvfs(&self.path)
            .map_err(|error| Trouble::broken(format!("{}: {error}", self.path.display())))?;
        Ok(sight(&vfs))
    }
}

/// Blocks that only root may write are neither free nor used, as in `df`.
fn sight(vfs: &StatVfs) -> Sight {
    let used = vfs.f_blocks.saturating_sub(vfs.f_bfree) as f64;
    let free = vfs.f_bavail as f64;
    let mut sight = Sight::default().number("free", free * vfs.f_frsize as f64, Unit::Bytes);
    if used + free > 0.0 {
        sight = sight.number("free_share", free / (used + free), Unit::Share).number(
            "used_share",
            used / (used + free),
            Unit::Share,
        );
    }
    // Some file systems (btrfs) make inodes as they need them and count none.
    if vfs.f_files > 0 {
        let share = vfs.f_favail as f64 / vfs.f_files as f64;
        sight = sight.number("inodes_free_share", share, Unit::Share);
    }
    sight
}
