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

#[cfg(test)]
mod tests {
    use rustix::fs::StatVfsMountFlags;

    use super::*;
    use crate::units::Observed;

    fn vfs(blocks: u64, bfree: u64, bavail: u64, files: u64) -> StatVfs {
        StatVfs {
            f_bsize: 4096,
            f_frsize: 1024,
            f_blocks: blocks,
            f_bfree: bfree,
            f_bavail: bavail,
            f_files: files,
            f_ffree: 50,
            f_favail: 50,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::empty(),
            f_namemax: 255,
        }
    }

    #[test]
    fn counts_as_df_does() {
        // 100 blocks: 60 used, 10 for root alone, 30 free for others.
        let sight = sight(&vfs(100, 40, 30, 200));
        let numbers: Vec<Observed> = sight.seen.iter().map(|(_, observed)| observed.clone()).collect();
        assert_eq!(
            numbers,
            [
                Observed::Number(30.0 * 1024.0, Unit::Bytes),
                Observed::Number(30.0 / 90.0, Unit::Share),
                Observed::Number(60.0 / 90.0, Unit::Share),
                Observed::Number(0.25, Unit::Share),
            ]
        );
    }

    #[test]
    fn says_nothing_about_what_the_file_system_does_not_count() {
        let sight = sight(&vfs(0, 0, 0, 0));
        let names: Vec<&str> = sight.seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["free"]);
    }
}
