//! `disk`: room on the file system that holds a path, as the file system itself says.
//!
//! What that is: blocks that only root may write are not free; a tmpfs is as large as its `size`; a folder with a
//! project quota (ext4, xfs) is as large as its quota, for the kernel answers so. What it is not: the quota of a
//! user or a group, which no file system tells here. Where the mount says that such quotas are on, the check is an
//! error unless the plan says `ignore_quotas: true`. Quota groups of btrfs and quotas of a server behind NFS are
//! not to be seen from here at all.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{StatVfs, StatVfsMountFlags};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::Unit;
use crate::world::mounts::{self, Mount};
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
        Observable {
            name: "free",
            unit: Unit::Bytes,
            about: "what an ordinary user may still write; quotas of users and groups are not seen",
        },
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
struct Settings {
    /// Whether the quotas of users and groups that are on here do not matter; false when absent.
    #[serde(default)]
    ignore_quotas: bool,
}

struct Disk {
    path: PathBuf,
    ignore_quotas: bool,
}

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings { ignore_quotas } = order.settings()?;
    Ok(Box::new(Disk { path: order.path()?, ignore_quotas }))
}

impl Check for Disk {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let broken = |error: std::io::Error| Trouble::broken(format!("{}: {error}", self.path.display()));
        let vfs = rustix::fs::statvfs(&self.path).map_err(|error| broken(error.into()))?;
        if vfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
            let place = self.path.display();
            return Err(Trouble::failed(format!(
                "{place} is on a file system that is read-only: none of it is free"
            )));
        }
        // Root may write beyond the quotas of users.
        if !self.ignore_quotas && !rustix::process::geteuid().is_root() {
            let path = std::fs::canonicalize(&self.path).map_err(broken)?;
            let mounts = mounts::all().map_err(broken)?;
            if let Some(why) = mounts::of(&mounts, &path).and_then(unseen_quota) {
                return Err(Trouble::broken(why));
            }
        }
        Ok(sight(&vfs))
    }
}

/// Why the room that the file system tells may not be this user's.
fn unseen_quota(mount: &Mount) -> Option<String> {
    let on = |option: &&String| {
        let name = option.split('=').next().unwrap_or_default();
        ["quota", "usrquota", "uquota", "usrjquota", "grpquota", "gquota", "grpjquota"].contains(&name)
    };
    let option = mount.options.iter().find(on)?;
    let place = mount.point.display();
    Some(format!(
        "{place} has quotas of users or groups ({option}), which cannot be seen from here; where they do not matter, say `with: {{ignore_quotas: true}}`"
    ))
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
    fn quotas_that_are_on_and_cannot_be_seen_are_told() {
        for (options, told) in [
            ("rw,relatime", None),
            ("rw,noquota", None),
            // Project quotas the file system counts itself.
            ("rw,prjquota", None),
            ("rw,usrquota", Some("usrquota")),
            ("rw,attr2,uquota,prjquota", Some("uquota")),
            ("rw,usrjquota=aquota.user,jqfmt=vfsv1", Some("usrjquota=aquota.user")),
            ("rw,grpquota", Some("grpquota")),
            ("rw,quota", Some("quota")),
        ] {
            let line = format!("22 1 254:0 / /srv rw - ext4 /dev/vda {options}");
            let why = unseen_quota(&mounts::read(&line)[0]);
            assert_eq!(why.is_some(), told.is_some(), "{options}");
            assert!(why.unwrap_or_default().contains(told.unwrap_or_default()), "{options}");
        }
    }

    #[test]
    fn says_nothing_about_what_the_file_system_does_not_count() {
        let sight = sight(&vfs(0, 0, 0, 0));
        let names: Vec<&str> = sight.seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["free"]);
    }
}
