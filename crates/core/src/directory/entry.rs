//! An entry: what one registration says of itself, as a file of JSON.
//!
//! ```text
//! NUMBER-INSTANCE      the file's name: the name's number and the instance, 16 hexadecimal digits each
//! {"version": 1, "name": "viewer/42", "instance": "00f1…", "life": "9a3c…", "pid": 4711, …}
//! ```
//! Whatever in it does not fit makes it no entry: it is passed over, and `doctor` says why.

use std::fmt;

use alongside_sys::Errno;
use alongside_sys::process::Mark;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::directory::name::Name;

/// The version of these files.
pub const VERSION: u32 = 1;
/// The longest entry, in bytes.
pub const MOST_BYTES: usize = 4096;
/// Deeper than this nobody says anything, and some who read it would fall.
const MOST_DEPTH: usize = 100;
/// Times are from 1970 to some thousand years from now, so that every calendar has them.
const MOST_SECONDS: f64 = 1e11;
/// Digits of a number in a file's name.
const DIGITS: usize = 16;

/// What one registration says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// [`VERSION`].
    pub version: u32,
    /// The name, as it was published.
    pub name: String,
    /// Tells this registration from all others, also of the same name.
    pub instance: String,
    /// The life file of the process that it belongs to.
    pub life: String,
    /// That process.
    pub pid: u32,
    /// The inode of its pidfd, where the kernel gives each process one of its own.
    pub inode: Option<u64>,
    /// When it began, in clock ticks since boot.
    pub begun: Option<u64>,
    /// Its user.
    pub uid: u32,
    /// What it runs.
    pub executable: String,
    /// When it started, in seconds since the epoch; none if that is not known.
    pub started: Option<f64>,
    /// What the program says of it, in words.
    pub about: String,
    /// What the program says of it, as data: a JSON object.
    pub info: Box<RawValue>,
    /// Whether others may connect to it, at the socket with the instance's name.
    pub connects: bool,
    /// When it was published, in seconds since the epoch.
    pub since: f64,
    /// When it was changed last, in seconds since the epoch.
    pub changed: f64,
    /// When it was published by a clock that only goes forward, in nanoseconds since boot: the oldest
    /// comes first.
    pub order: u64,
}

/// Why a file is no entry.
#[derive(Clone, Debug, PartialEq)]
pub enum NoEntry {
    /// It cannot be read.
    Unreadable(Errno),
    /// It belongs to another user, or others may write it.
    Foreign {
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// It is of another version of this library.
    Version(u32),
    /// It does not mean what its name says, or nothing.
    Garbage(String),
}

impl fmt::Display for NoEntry {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoEntry::Unreadable(errno) => write!(to, "it cannot be read: {errno}"),
            NoEntry::Foreign { uid, mode } => {
                write!(to, "it belongs to user {uid} or others may write it (mode {mode:04o})")
            }
            NoEntry::Version(version) => {
                write!(to, "it is of version {version}, this program knows {VERSION}")
            }
            NoEntry::Garbage(what) => write!(to, "it is no entry: {what}"),
        }
    }
}

impl NoEntry {
    /// What is wrong with bytes that cannot be understood: what another version has in them is its own
    /// business.
    fn of_other_version(bytes: &[u8], error: &serde_json::Error) -> NoEntry {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        match serde_json::from_slice(bytes) {
            Ok(Version { version }) if version != VERSION => NoEntry::Version(version),
            _ => NoEntry::Garbage(error.to_string()),
        }
    }
}

impl Entry {
    /// The file's bytes; an error if there are too many.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, usize> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > MOST_BYTES { Err(bytes.len()) } else { Ok(bytes) }
    }

    /// Reads the bytes of the file with this name.
    pub(crate) fn from_bytes(file: &FileName, bytes: &[u8]) -> Result<Entry, NoEntry> {
        let entry: Entry = match serde_json::from_slice(bytes) {
            Ok(entry) => entry,
            Err(error) => return Err(NoEntry::of_other_version(bytes, &error)),
        };
        if entry.version != VERSION {
            return Err(NoEntry::Version(entry.version));
        }
        let refuse = |what: &str| Err(NoEntry::Garbage(what.into()));
        let Ok(name) = Name::new(&entry.name) else { return refuse("its name breaks a rule") };
        if name.number() != file.number || entry.instance != hexadecimal(file.instance) {
            return refuse("its file has another name's number, or another instance's");
        }
        if number(&entry.life).is_none() {
            return refuse("it names no life file");
        }
        if !entry.info.get().starts_with('{') || depth(entry.info.get()) > MOST_DEPTH {
            return refuse("its info is no object, or too deep");
        }
        let times = [Some(entry.since), Some(entry.changed), entry.started];
        if !times.into_iter().flatten().all(|seconds| (0.0..MOST_SECONDS).contains(&seconds)) {
            return refuse("it is of no time");
        }
        Ok(entry)
    }

    /// What tells its process from all others that have its number at another time.
    pub(crate) fn mark(&self) -> Mark {
        Mark { inode: self.inode, begun: self.begun }
    }

    /// What its file is called, unless its name breaks a rule.
    pub(crate) fn file(&self) -> Option<String> {
        let name = Name::new(&self.name).ok()?;
        Some(Entry::file_name(name.number(), number(&self.instance)?))
    }

    /// What the file is called.
    pub(crate) fn file_name(number: u64, instance: u64) -> String {
        format!("{number:016x}-{instance:016x}")
    }
}

/// How deep objects and lists stand in each other at most.
fn depth(json: &str) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// What an entry's file is called, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileName {
    pub(crate) number: u64,
    pub(crate) instance: u64,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Option<FileName> {
        let (first, second) = name.split_once('-')?;
        Some(FileName { number: number(first)?, instance: number(second)? })
    }
}

/// A number as it stands in names: sixteen lower-case hexadecimal digits.
pub(crate) fn hexadecimal(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that such digits are.
pub(crate) fn number(digits: &str) -> Option<u64> {
    let is_right = digits.len() == DIGITS
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if is_right { u64::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry(name: &str, instance: u64) -> Entry {
        Entry {
            version: VERSION,
            name: name.into(),
            instance: hexadecimal(instance),
            life: hexadecimal(7),
            pid: 1,
            inode: Some(5),
            begun: None,
            uid: 0,
            executable: "/bin/true".into(),
            started: Some(1.5),
            about: "what it is".into(),
            info: RawValue::from_string("{\"a\":[1]}".into()).unwrap(),
            connects: false,
            since: 2.5,
            changed: 2.5,
            order: 3,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let number = Name::new("viewer/42").unwrap().number();
        let sent = entry("viewer/42", 9);
        let file = FileName::parse(&Entry::file_name(number, 9)).unwrap();
        assert_eq!(file, FileName { number, instance: 9 });
        let found = Entry::from_bytes(&file, &sent.to_bytes().unwrap()).unwrap();
        assert_eq!(format!("{found:?}"), format!("{sent:?}"));
    }

    #[test]
    fn what_does_not_fit_is_none() {
        let number = Name::new("a").unwrap().number();
        let file = FileName { number, instance: 9 };
        let read = |entry: &Entry| Entry::from_bytes(&file, &entry.to_bytes().unwrap()).err();
        let good = entry("a", 9);
        assert_eq!(read(&good), None);
        assert_eq!(read(&Entry { version: 2, ..good.clone() }), Some(NoEntry::Version(2)));
        let info = RawValue::from_string("[]".into()).unwrap();
        for bad in [
            Entry { name: "b".into(), ..good.clone() },
            Entry { name: "a/../a".into(), ..good.clone() },
            Entry { instance: hexadecimal(8), ..good.clone() },
            Entry { life: "../../etc".into(), ..good.clone() },
            Entry { info, ..good.clone() },
        ] {
            assert!(matches!(read(&bad), Some(NoEntry::Garbage(_))), "{bad:?}");
        }
        for bad in [&b""[..], b"{", b"null", b"{\"version\": 1}", b"\xff", &[b'['; 4000]] {
            assert!(matches!(Entry::from_bytes(&file, bad), Err(NoEntry::Garbage(_))));
        }
    }

    #[test]
    fn names_of_files_are_taken_apart_only_if_they_are_right() {
        for bad in ["", "a-b", "0123456789abcdef", "0123456789ABCDEF-0123456789abcdef", ".x"] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_stands_in_texts_is_not_deep() {
        assert_eq!(depth(r#"{"a":[1,{"b":"]}[[[\"["}]}"#), 3);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        let number = Name::new("a").unwrap().number();
        let bad = Entry { info: RawValue::from_string(deep).unwrap(), ..entry("a", 9) };
        let file = FileName { number, instance: 9 };
        let read = |entry: &Entry| Entry::from_bytes(&file, &entry.to_bytes().unwrap()).is_err();
        assert!(read(&bad));
        for since in [-1.0, 1e300] {
            assert!(read(&Entry { since, ..entry("a", 9) }));
        }
    }

    #[test]
    fn too_much_is_said() {
        let long = Entry { about: "x".repeat(5000), ..entry("a", 1) };
        assert!(long.to_bytes().unwrap_err() > MOST_BYTES);
    }
}
