//! Names of users and groups, from `/etc/passwd` and `/etc/group`.

use std::collections::HashMap;
use std::path::Path;

/// Names by number.
#[derive(Debug, Default)]
pub(super) struct People {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl People {
    /// What the system's files say; nothing where they cannot be read.
    pub(super) fn load() -> Self {
        Self { users: names(Path::new("/etc/passwd")), groups: names(Path::new("/etc/group")) }
    }

    pub(super) fn user(&self, uid: u32) -> &str {
        self.users.get(&uid).map_or("", String::as_str)
    }

    pub(super) fn group(&self, gid: u32) -> &str {
        self.groups.get(&gid).map_or("", String::as_str)
    }
}

fn names(file: &Path) -> HashMap<u32, String> {
    parse(&crate::world::files::read_text(file).unwrap_or_default())
}

fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1).and_then(|n| n.parse().ok())) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// The name of the user that runs this; the number where it has none.
pub(super) fn own_name() -> String {
    let uid = rustix::process::getuid().as_raw();
    match People::load().user(uid) {
        "" => uid.to_string(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts() {
        let names = parse(
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n# a word\nbroken:x:y\nshop:x:1000:1000::/:/bin/sh\n",
        );
        assert_eq!(names.get(&0).unwrap(), "root");
        assert_eq!(names.get(&1000).unwrap(), "shop");
        assert_eq!(names.len(), 2);
    }
}
