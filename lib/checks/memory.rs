//! `memory`: what this machine has left, and what the control groups of this job leave of it.
//!
//! A container's limit, a systemd unit's, a pod's: each is that of a control group, and the smallest of all of
//! them counts, from this process up to the top, version 1 and 2. What a group leaves is its limit less its usage,
//! where cache of files that was not used lately (`inactive_file`) is not usage: it goes as soon as somebody
//! needs the memory. Docker, containerd and the kubelet reckon alike.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Check, Kind, Observable, Order, Presumed, Sight, Trouble, no_open_names};
use crate::units::{Unit, show_size};
use crate::world::files::read_text;
use crate::world::mounts::{self, Mount};
use crate::yaml::Problem;

/// See `preflight explain memory`.
pub(super) static KIND: Kind = Kind {
    name: "memory",
    about: "Looks at the memory that this machine and the limits of this job (container, pod, unit) leave.",
    target: "",
    example: "\
- name: memory for the migration
  kind: memory
  expect: {available: \">= 2GiB\"}
",
    observes: &[
        Observable {
            name: "available",
            unit: Unit::Bytes,
            about: "what programs can get without swapping: the least of MemAvailable and of what every control group leaves",
        },
        Observable {
            name: "available_share",
            unit: Unit::Share,
            about: "the same as a share of all memory, or of the smallest limit",
        },
    ],
    presumes: &[Presumed { name: "available_share", is: ">= 10%", unless: &["available"] }],
    open_names: None,
    open_unit: no_open_names,
    settings: Settings::json_schema,
    prepare,
};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {}

struct Memory;

fn prepare(order: &Order<'_>) -> Result<Box<dyn Check>, Problem> {
    let Settings {} = order.settings()?;
    Ok(Box::new(Memory))
}

impl Check for Memory {
    fn look(&self, _: Duration) -> Result<Sight, Trouble> {
        let read = |path: &str| {
            read_text(Path::new(path)).map_err(|error| Trouble::broken(format!("{path}: {error}")))
        };
        let meminfo = read("/proc/meminfo")?;
        let groups = read("/proc/self/cgroup")?;
        let mounts = read("/proc/self/mountinfo")?;
        let file = |path: &Path| match read_text(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        // What a limit leaves and cannot be read is nothing to go by.
        let levels = levels(&groups, &mounts::read(&mounts), &file).map_err(Trouble::broken)?;
        Ok(sight(&meminfo, &levels))
    }
}

/// A control group that has a limit; in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    group: PathBuf,
    limit: u64,
    /// Without cache that goes when it is needed.
    used: u64,
}

impl Level {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// Reads a file; none where there is none.
type Files<'a> = &'a dyn Fn(&Path) -> Result<Option<String>, String>;

/// The names of a version's files.
struct Version {
    limits: &'static [&'static str],
    usage: &'static str,
    cache: &'static str,
}

/// Above `memory.high` a group is slowed down until it is below again: it is not to be had either.
const TWO: Version =
    Version { limits: &["memory.max", "memory.high"], usage: "memory.current", cache: "inactive_file" };
const ONE: Version = Version {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

/// Every control group of this process that has a limit, from the innermost to the top.
///
/// Errors: one whose usage cannot be read.
fn levels(groups: &str, mounts: &[Mount], file: Files<'_>) -> Result<Vec<Level>, String> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (version, kind) = match controllers {
            "" if number == "0" => (TWO, "cgroup2"),
            all if all.split(',').any(|one| one == "memory") => (ONE, "cgroup"),
            _ => continue,
        };
        let holds = |mount: &&Mount| mount.kind == kind && (kind == "cgroup2" || mount.has("memory"));
        // Any of several mounts shows the same.
        let Some(mount) = mounts.iter().rfind(holds) else { continue };
        let inside = below(Path::new(path), &mount.root);
        for above in inside.ancestors() {
            found.extend(level(&mount.point.join(above), &version, file)?);
        }
        found.extend(from_outside(&mount.point.join(inside), &version, file)?);
    }
    Ok(found)
}

/// Where a group lies below what is mounted: in a container only a part of the tree is, and the group's own path
/// may be that of the host, or lead out of the container's.
fn below(group: &Path, root: &Path) -> PathBuf {
    let inside = group.strip_prefix(root).or_else(|_| group.strip_prefix("/")).unwrap_or(group);
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain(inside) { inside.to_path_buf() } else { PathBuf::new() }
}

fn level(group: &Path, version: &Version, file: Files<'_>) -> Result<Option<Level>, String> {
    let mut least = None;
    for name in version.limits {
        let limit = file(&group.join(name))?.and_then(|text| limit(&text));
        least = least.into_iter().chain(limit).min();
    }
    match least {
        Some(limit) => {
            Ok(Some(Level { group: group.to_path_buf(), limit, used: used(group, version, file)? }))
        }
        None => Ok(None),
    }
}

/// Version 1 tells the smallest limit of all groups above, also of those that cannot be seen from here; how much is
/// used there it does not, so that this one's own usage counts, which is a part of it.
fn from_outside(group: &Path, version: &Version, file: Files<'_>) -> Result<Option<Level>, String> {
    let stat = file(&group.join("memory.stat"))?.unwrap_or_default();
    let limit = figure(&stat, "hierarchical_memory_limit").filter(|limit| *limit < UNLIMITED);
    limit
        .map(|limit| Ok(Level { group: group.to_path_buf(), limit, used: used(group, version, file)? }))
        .transpose()
}

fn used(group: &Path, version: &Version, file: Files<'_>) -> Result<u64, String> {
    let path = group.join(version.usage);
    let usage: Option<u64> = file(&path)?.and_then(|text| text.trim().parse().ok());
    let usage = usage.ok_or_else(|| format!("{}: there is a limit, and no usage", path.display()))?;
    let stat = file(&group.join("memory.stat"))?.unwrap_or_default();
    Ok(usage.saturating_sub(figure(&stat, version.cache).unwrap_or(0)))
}

/// Version 1 writes "no limit" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

fn figure(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn sight(meminfo: &str, levels: &[Level]) -> Sight {
    let bytes = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024.0)
    };
    let Some(machine) = bytes("MemAvailable") else { return Sight::default() };
    let tightest = levels.iter().min_by_key(|level| level.left());
    let available = tightest.map_or(machine, |level| machine.min(level.left() as f64));
    let mut sight = Sight::default().number("available", available, Unit::Bytes);
    let smallest = levels.iter().map(|level| level.limit as f64);
    let total = bytes("MemTotal").map(|total| smallest.fold(total, f64::min)).filter(|total| *total > 0.0);
    if let Some(total) = total {
        sight = sight.number("available_share", available / total, Unit::Share);
    }
    match tightest.filter(|level| level.left() as f64 <= machine) {
        Some(Level { group, limit, used }) => {
            let (group, limit, used) = (group.display(), show_size(*limit as f64), show_size(*used as f64));
            sight.note(format!("the limit of {group} is {limit}, and {used} of it are used"))
        }
        None => sight,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::units::Observed;

    const MEMINFO: &str = "MemTotal:        8000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n";

    #[test]
    fn reads_what_the_kernel_says() {
        let sight = sight(MEMINFO, &[]);
        assert_eq!(sight.seen[0].1, Observed::Number(2_048_000.0, Unit::Bytes));
        assert_eq!(sight.seen[1].1, Observed::Number(0.25, Unit::Share));
    }

    #[test]
    fn sees_nothing_where_the_kernel_says_nothing() {
        assert!(sight("", &[]).seen.is_empty());
        assert!(sight("MemTotal: 5 kB\nMemAvailable: many kB", &[]).seen.is_empty());
    }

    /// Limits and usages that a machine shows, and what is left of each.
    fn left(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Result<Vec<(String, u64)>, String> {
        let files: BTreeMap<&Path, &str> =
            files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        let file = |path: &Path| match files.get(path) {
            Some(&"denied") => Err("permission denied".to_owned()),
            found => Ok(found.map(|text| (*text).to_owned())),
        };
        let levels = levels(groups, &mounts::read(mounts), &file)?;
        Ok(levels.into_iter().map(|level| (level.group.display().to_string(), level.left())).collect())
    }

    const V2: &str = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn every_limit_above_this_process_counts_less_what_is_used_below_it() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.high", "900\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "500\n"),
            ("/sys/fs/cgroup/a/b/memory.stat", "anon 1\ninactive_file 100\nactive_file 300\n"),
            ("/sys/fs/cgroup/a/memory.max", "2000\n"),
            ("/sys/fs/cgroup/a/memory.high", "max\n"),
            ("/sys/fs/cgroup/a/memory.current", "1950\n"),
        ];
        let both = vec![("/sys/fs/cgroup/a/b".to_owned(), 500), ("/sys/fs/cgroup/a".to_owned(), 50)];
        assert_eq!(left("0::/a/b\n", V2, &files), Ok(both.clone()));
        // A slice that is not this one's does not.
        assert_eq!(left("0::/c\n", V2, &files), Ok(vec![]));
        assert_eq!(left("0::/\n", V2, &files), Ok(vec![]));
        // A container sees its own group as the top, and may be told the path of the host.
        let mount = "9 8 0:28 /host/pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for path in ["/host/pod/a/b", "/a/b"] {
            assert_eq!(left(&format!("0::{path}\n"), mount, &files), Ok(both.clone()), "{path}");
        }
        let own = [("/sys/fs/cgroup/memory.max", "100"), ("/sys/fs/cgroup/memory.current", "30")];
        for path in ["/", "/host/pod", "/../../other", "/host/pod/gone"] {
            let seen = left(&format!("0::{path}\n"), mount, &own).unwrap();
            assert_eq!(seen.len(), 1, "{path}");
            assert_eq!(seen[0].1, 70, "{path}");
        }
    }

    #[test]
    fn version_one_is_read_too_with_limits_that_lie_outside() {
        let none = "9223372036854771712\n";
        let groups = "12:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y\n0::/\n";
        let usage = ("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "600\n");
        let limit = |text| ("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", text);
        let stat = |text| ("/sys/fs/cgroup/memory/job/memory.stat", text);
        let seen = |files: &[(&str, &str)]| {
            left(groups, V1, files).map(|all| all.into_iter().map(|(_, left)| left).collect::<Vec<_>>())
        };
        assert_eq!(seen(&[usage, limit(none)]), Ok(vec![]));
        assert_eq!(seen(&[usage, limit("1000\n")]), Ok(vec![400]));
        let cache =
            "inactive_file 9\ntotal_inactive_file 200\nhierarchical_memory_limit 9223372036854771712\n";
        assert_eq!(seen(&[usage, limit("1000\n"), stat(cache)]), Ok(vec![600]));
        assert_eq!(seen(&[usage, limit(none), stat("hierarchical_memory_limit 700\n")]), Ok(vec![100]));
    }

    #[test]
    fn a_limit_whose_usage_cannot_be_read_is_an_error() {
        let max = ("/sys/fs/cgroup/a/memory.max", "100");
        assert!(left("0::/a\n", V2, &[max]).is_err());
        assert!(left("0::/a\n", V2, &[max, ("/sys/fs/cgroup/a/memory.current", "denied")]).is_err());
        assert!(left("0::/a\n", V2, &[("/sys/fs/cgroup/a/memory.max", "denied")]).is_err());
    }

    #[test]
    fn the_least_of_all_is_what_is_left() {
        let level = |limit, used| Level { group: "g".into(), limit, used };
        let numbers = |levels: &[Level]| {
            let sight = sight(MEMINFO, levels);
            let number = |at: usize| match sight.seen[at].1 {
                Observed::Number(number, _) => number,
                _ => panic!("a number"),
            };
            (number(0), number(1), sight.note.is_some())
        };
        assert_eq!(numbers(&[level(1_000_000, 0)]), (1_000_000.0, 1.0, true));
        assert_eq!(numbers(&[level(1_000_000, 750_000), level(1 << 40, 0)]), (250_000.0, 0.25, true));
        assert_eq!(numbers(&[level(1_000_000, 2_000_000)]), (0.0, 0.0, true));
        assert_eq!(numbers(&[level(4_096_000, 0)]), (2_048_000.0, 0.5, false), "the machine has less");
    }
}
