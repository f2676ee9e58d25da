//! What is mounted where, as the kernel tells this process.

use std::io;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is mounted: `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Its kind: `ext4`, `cgroup2`.
    pub kind: String,
    /// The options of the mount and of the file system.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether it has an option of that name.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|given| given == option)
    }
}

/// All of them, in the order in which they were mounted.
pub fn all() -> io::Result<Vec<Mount>> {
    super::files::read_text(Path::new("/proc/self/mountinfo")).map(|text| read(&text))
}

/// The mounts in the text of `/proc/self/mountinfo`; lines that are none are passed over.
///
/// <https://www.kernel.org/doc/html/latest/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts>
pub fn read(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    // Any number of optional fields lies before the dash.
    let (place, system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point, own) = (place.next()?, place.next()?, place.next()?);
    let mut system = system.split(' ');
    let (kind, _, theirs) = (system.next()?, system.next()?, system.next()?);
    let options = own.split(',').chain(theirs.split(',')).map(str::to_owned).collect();
    Some(Mount { root: plain(root), point: plain(point), kind: kind.into(), options })
}

/// A path whose blanks and backslashes are written as `\040`.
fn plain(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(path).into()
}

/// The mount that a path lies on; the path must be one without links.
pub fn of<'a>(all: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // Of two at the same place the later one is seen.
    all.iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,usrquota,errors=remount-ro
25 22 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
40 22 8:1 /sub /mnt/a\\040b\\134c rw - xfs /dev/sda1 rw,noquota
41 22 8:2 / /mnt rw - tmpfs none rw,size=5k
42 22 8:3 / /mnt rw - tmpfs none ro
no line
";

    #[test]
    fn mounts_are_read_and_found() {
        let all = read(TEXT);
        assert_eq!(all.len(), 5);
        assert!(all[0].has("usrquota") && all[0].has("relatime") && !all[0].has("quota"));
        assert_eq!((all[2].root.to_str(), all[2].point.to_str()), (Some("/sub"), Some("/mnt/a b\\c")));
        for (path, kind) in
            [("/", 0), ("/devil", 0), ("/dev/x", 1), ("/mnt/a b\\c/d", 2), ("/mnt", 4), ("/mnt/a", 4)]
        {
            assert_eq!(of(&all, Path::new(path)), Some(&all[kind]), "{path}");
        }
        assert!(!super::all().unwrap().is_empty());
    }
}
