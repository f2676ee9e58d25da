//! One entry of a folder, with everything that is known of it.

use std::borrow::Cow;
use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::{Pieces, PiecesOffset};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::id::Id;
use super::quoting::{json_string, quote, unquote};

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A regular file.
    #[default]
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Device,
    /// A character device.
    CharDevice,
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NodeKind {
    const WORDS: [(Self, &'static str); 7] = [
        (Self::File, "file"),
        (Self::Dir, "dir"),
        (Self::Symlink, "symlink"),
        (Self::Device, "dev"),
        (Self::CharDevice, "chardev"),
        (Self::Fifo, "fifo"),
        (Self::Socket, "socket"),
    ];

    /// restic's word for it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(kind, _)| *kind == self).map_or("file", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }
}

/// A moment in seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// What is above them, less than a second.
    pub nanoseconds: u32,
}

impl Moment {
    /// The same as a timestamp, brought into the years 0 to 9999 that JSON can say.
    fn timestamp(self) -> Timestamp {
        const FIRST: i64 = -62_167_219_200;
        const LAST: i64 = 253_402_207_200;
        let nanoseconds = i32::try_from(self.nanoseconds).unwrap_or_default();
        Timestamp::new(self.seconds.clamp(FIRST, LAST), nanoseconds).unwrap_or_default()
    }
}

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Self {
        let all = time.as_nanosecond();
        let seconds = i64::try_from(all.div_euclid(1_000_000_000)).unwrap_or_default();
        Self { seconds, nanoseconds: u32::try_from(all.rem_euclid(1_000_000_000)).unwrap_or_default() }
    }
}

/// Permission bits and kind as Go's `os.FileMode` has them.
pub mod mode {
    use super::NodeKind;

    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const STICKY: u32 = 1 << 20;

    /// From the kind and the twelve lower bits of `st_mode`.
    pub fn from_unix(kind: NodeKind, bits: u32) -> u32 {
        let kind = match kind {
            NodeKind::File => 0,
            NodeKind::Dir => 1 << 31,
            NodeKind::Symlink => 1 << 27,
            NodeKind::Device => 1 << 26,
            NodeKind::CharDevice => 1 << 26 | 1 << 21,
            NodeKind::Fifo => 1 << 25,
            NodeKind::Socket => 1 << 24,
        };
        let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
        special
            .iter()
            .filter(|(unix, _)| bits & unix != 0)
            .fold(kind | bits & 0o777, |mode, (_, go)| mode | go)
    }

    /// The twelve lower bits of `st_mode`.
    pub fn to_unix(mode: u32) -> u32 {
        let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
        special.iter().filter(|(_, go)| mode & go != 0).fold(mode & 0o777, |bits, (unix, _)| bits | unix)
    }
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// `user.comment`, say.
    pub name: String,
    /// Any bytes.
    pub value: Vec<u8>,
}

/// One entry of a folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its name: never empty, `.` or `..`, without `/` and NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// See [`mode`].
    pub mode: u32,
    /// When its content changed.
    pub mtime: Moment,
    /// When it was read; restic says `mtime` here unless asked, and so do we.
    pub atime: Moment,
    /// When its inode changed.
    pub ctime: Moment,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The owner's name, empty when there is none.
    pub user: String,
    /// The group's name, empty when there is none.
    pub group: String,
    /// The inode's number.
    pub inode: u64,
    /// The device that the inode lies on.
    pub device_id: u64,
    /// Bytes of a file.
    pub size: u64,
    /// How many names a file has.
    pub links: u64,
    /// Where a symbolic link leads.
    pub linktarget: Vec<u8>,
    /// Extended attributes, access lists among them.
    pub attributes: Vec<Attribute>,
    /// The number of a device.
    pub device: u64,
    /// The pieces of a file, in order; none for everything else.
    pub content: Option<Vec<Id>>,
    /// What is in a folder.
    pub subtree: Option<Id>,
    /// What was wrong when it was backed up; restic writes this.
    pub error: String,
    /// Fields that are not known here, as they were read: `,"key":value` each. As text they take no more
    /// memory than they have bytes.
    pub more: String,
}

impl Node {
    /// Appends its JSON, as restic writes it.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str("{\"name\":");
        json_string(&quote(&self.name), out);
        // Writing to a string cannot fail.
        let _ = write!(out, ",\"type\":\"{}\"", self.kind.word());
        number("mode", self.mode.into(), out);
        for (key, time) in [("mtime", self.mtime), ("atime", self.atime), ("ctime", self.ctime)] {
            let _ = write!(out, ",\"{key}\":\"{}\"", time.timestamp());
        }
        let _ = write!(out, ",\"uid\":{},\"gid\":{}", self.uid, self.gid);
        text("user", &self.user, out);
        text("group", &self.group, out);
        number("inode", self.inode, out);
        number("device_id", self.device_id, out);
        number("size", self.size, out);
        number("links", self.links, out);
        text("linktarget", &String::from_utf8_lossy(&self.linktarget), out);
        if std::str::from_utf8(&self.linktarget).is_err() {
            text("linktarget_raw", &STANDARD.encode(&self.linktarget), out);
        }
        self.write_attributes(out);
        number("device", self.device, out);
        self.write_content(out);
        if let Some(subtree) = self.subtree {
            let _ = write!(out, ",\"subtree\":\"{subtree}\"");
        }
        text("error", &self.error, out);
        out.push_str(&self.more);
        out.push('}');
    }

    fn write_attributes(&self, out: &mut String) {
        for (at, attribute) in self.attributes.iter().enumerate() {
            out.push_str(if at == 0 { ",\"extended_attributes\":[{\"name\":" } else { ",{\"name\":" });
            json_string(&attribute.name, out);
            let _ = write!(out, ",\"value\":\"{}\"}}", STANDARD.encode(&attribute.value));
        }
        if !self.attributes.is_empty() {
            out.push(']');
        }
    }

    fn write_content(&self, out: &mut String) {
        let Some(content) = &self.content else {
            out.push_str(",\"content\":null");
            return;
        };
        out.push_str(",\"content\":[");
        for (at, id) in content.iter().enumerate() {
            let _ = write!(out, "{}\"{id}\"", if at == 0 { "" } else { "," });
        }
        out.push(']');
    }

    /// Whether a name is that of an entry and leads nowhere else.
    pub(super) fn name_is_sane(name: &[u8]) -> bool {
        !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
    }
}

fn number(key: &str, value: u64, out: &mut String) {
    if value != 0 {
        let _ = write!(out, ",\"{key}\":{value}");
    }
}

fn text(key: &str, value: &str, out: &mut String) {
    if !value.is_empty() {
        let _ = write!(out, ",\"{key}\":");
        json_string(value, out);
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct RawAttribute {
    name: String,
    // Go writes an empty value as null.
    value: Option<String>,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Node;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry of a folder")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut node = Node::default();
                let mut kind = None;
                while let Some(Text(key)) = map.next_key()? {
                    field(&mut node, &mut kind, &key, &mut map)?;
                }
                node.kind = kind.ok_or_else(|| A::Error::missing_field("type"))?;
                if !Node::name_is_sane(&node.name) {
                    return Err(A::Error::custom(format!("the name `{}` is none", quote(&node.name))));
                }
                Ok(node)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Reads one field, the ones that every entry has first.
fn field<'de, A: MapAccess<'de>>(
    node: &mut Node,
    kind: &mut Option<NodeKind>,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    match key {
        "name" => {
            let Text(quoted) = map.next_value()?;
            node.name = unquote(&quoted).ok_or_else(|| A::Error::custom("a name is not quoted well"))?;
        }
        "type" => {
            let Text(word) = map.next_value()?;
            let known = NodeKind::parse(&word);
            *kind = Some(known.ok_or_else(|| A::Error::custom(format!("an entry of the kind `{word}`")))?);
        }
        "mode" => node.mode = map.next_value()?,
        "mtime" => node.mtime = moment(map)?,
        "atime" => node.atime = moment(map)?,
        "ctime" => node.ctime = moment(map)?,
        "uid" => node.uid = map.next_value()?,
        "gid" => node.gid = map.next_value()?,
        "user" => node.user = map.next_value()?,
        "group" => node.group = map.next_value()?,
        "inode" => node.inode = map.next_value()?,
        "device_id" => node.device_id = map.next_value()?,
        "size" => node.size = map.next_value()?,
        "links" => node.links = map.next_value()?,
        "linktarget" => {
            let Text(target) = map.next_value()?;
            if node.linktarget.is_empty() {
                node.linktarget = target.as_bytes().to_vec();
            }
        }
        "linktarget_raw" => {
            let Text(target) = map.next_value()?;
            node.linktarget = STANDARD.decode(target.as_bytes()).map_err(A::Error::custom)?;
        }
        "extended_attributes" => node.attributes = attributes(map)?,
        "device" => node.device = map.next_value()?,
        "content" => node.content = map.next_value()?,
        "subtree" => node.subtree = map.next_value()?,
        "error" => node.error = map.next_value()?,
        _ => {
            let value: &RawValue = map.next_value()?;
            node.more.push(',');
            json_string(key, &mut node.more);
            node.more.push(':');
            node.more.push_str(value.get());
        }
    }
    Ok(())
}

fn moment<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Moment, A::Error> {
    let Text(time) = map.next_value()?;
    let read: Result<Timestamp, _> = time.parse();
    read.map(Moment::from).or_else(|e| on_the_last_day(&time).ok_or(e)).map_err(A::Error::custom)
}

/// restic brings times that make no sense into the year 9999, whose last day a timestamp cannot say.
fn on_the_last_day(time: &str) -> Option<Moment> {
    let pieces = Pieces::parse(time).ok()?;
    let PiecesOffset::Numeric(offset) = pieces.offset()? else {
        return on_the_last_day(&time.replace('Z', "+00:00"));
    };
    let since =
        pieces.date().to_datetime(pieces.time()?).duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    let seconds = since.as_secs() - i64::from(offset.offset().seconds());
    // After 1970, so that nothing is rounded.
    Some(Moment { seconds, nanoseconds: u32::try_from(since.subsec_nanos()).ok()? })
}

fn attributes<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<Attribute>, A::Error> {
    let raw: Option<Vec<RawAttribute>> = map.next_value()?;
    let decoded = raw.unwrap_or_default().into_iter().map(|raw| {
        let value = STANDARD.decode(raw.value.unwrap_or_default()).map_err(A::Error::custom)?;
        Ok(Attribute { name: raw.name, value })
    });
    decoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // As restic 0.14 wrote them.
    const FIFO: &str = r#"{"name":"fifo","type":"fifo","mode":33554852,"mtime":"2026-11-21T08:35:30.306833713Z","atime":"2026-11-21T08:35:30.306833713Z","ctime":"2026-11-21T08:35:30.306833713Z","uid":0,"gid":0,"user":"root","group":"root","inode":10028003,"device_id":65024,"content":null}"#;
    const DEVICE: &str = r#"{"name":"dev","type":"chardev","mode":69206436,"mtime":"2026-11-21T08:35:30.424155941Z","atime":"2026-11-21T08:35:30.424155941Z","ctime":"2026-11-21T08:35:30Z","uid":0,"gid":0,"user":"root","group":"root","inode":10028050,"device_id":65024,"links":1,"device":259,"content":null}"#;
    const ODD: &str = r#"{"name":"bad\\xff\\x01\\\"name\u0026","type":"file","mode":8389101,"mtime":"2026-11-21T08:35:30.44Z","atime":"2026-11-21T08:35:30.44Z","ctime":"2026-11-21T08:35:30.44Z","uid":0,"gid":0,"user":"root","group":"root","inode":10028066,"device_id":65024,"links":1,"extended_attributes":[{"name":"user.a","value":"YmFy"},{"name":"user.b","value":""}],"content":[],"later":{"x":[1,null]}}"#;

    #[test]
    fn an_entry_is_written_as_restic_writes_it() {
        for json in [FIFO, DEVICE, ODD] {
            let node: Node = serde_json::from_str(json).unwrap();
            let mut again = String::new();
            node.write(&mut again);
            assert_eq!(again, json);
        }
        let odd: Node = serde_json::from_str(ODD).unwrap();
        assert_eq!(odd.name, b"bad\xff\x01\"name&");
        assert_eq!(mode::to_unix(odd.mode), 0o4755);
    }

    #[test]
    fn modes_are_those_of_go() {
        for (kind, bits, go) in [
            (NodeKind::Dir, 0o1777, 2_148_532_735),
            (NodeKind::CharDevice, 0o644, 69_206_436),
            (NodeKind::Symlink, 0o777, 134_218_239),
            (NodeKind::File, 0o4755, 8_389_101),
        ] {
            assert_eq!(mode::from_unix(kind, bits), go);
            assert_eq!(mode::to_unix(go), bits);
        }
    }

    #[test]
    fn times_far_away_stay_in_the_years_that_can_be_said() {
        let far = |seconds| Moment { seconds, nanoseconds: 5 }.timestamp().to_string();
        assert_eq!(far(i64::MIN), "0000-01-01T00:00:00.000000005Z");
        assert!(far(i64::MAX).starts_with("9999-12-30T"));
        let before: Timestamp = "1969-12-31T23:59:59.25Z".parse().unwrap();
        assert_eq!(Moment::from(before), Moment { seconds: -1, nanoseconds: 250_000_000 });
        assert_eq!(Moment::from(before).timestamp(), before);
    }

    #[test]
    fn a_time_that_made_no_sense_to_restic_does_not_cost_its_folder() {
        for (time, seconds) in [
            ("9999-12-31T23:59:59.5Z", 253_402_300_799),
            ("9999-12-31T23:59:59.5+02:00", 253_402_293_599),
            ("9999-12-30T21:00:00.5Z", 253_402_203_600),
        ] {
            let json = FIFO.replacen("2026-11-21T08:35:30.306833713Z", time, 1);
            let node: Node = serde_json::from_str(&json).unwrap();
            assert_eq!(node.mtime, Moment { seconds, nanoseconds: 500_000_000 }, "{time}");
        }
        for time in ["9999-12-31", "9999-12-31T23:59:59", "10000-01-01T00:00:00Z", "9999-12-32T00:00:00Z"] {
            let json = FIFO.replacen("2026-11-21T08:35:30.306833713Z", time, 1);
            assert!(serde_json::from_str::<Node>(&json).is_err(), "{time}");
        }
    }

    #[test]
    fn links_that_are_no_text_come_back() {
        let node = Node {
            name: b"l".to_vec(),
            kind: NodeKind::Symlink,
            linktarget: b"a\xffb".to_vec(),
            ..Node::default()
        };
        let mut json = String::new();
        node.write(&mut json);
        assert!(json.contains("\"linktarget\":\"a\u{fffd}b\",\"linktarget_raw\":\"Yf9i\""), "{json}");
        assert_eq!(serde_json::from_str::<Node>(&json).unwrap().linktarget, b"a\xffb");
    }

    #[test]
    fn hostile_names_and_kinds_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a\\\\x00b", "../x"] {
            let json = FIFO.replace("\"name\":\"fifo\"", &format!("\"name\":\"{name}\""));
            assert!(serde_json::from_str::<Node>(&json).is_err(), "{name}");
        }
        assert!(
            serde_json::from_str::<Node>(&FIFO.replace("\"type\":\"fifo\"", "\"type\":\"door\"")).is_err()
        );
        assert!(serde_json::from_str::<Node>("{\"name\":\"x\"}").is_err());
    }
}
