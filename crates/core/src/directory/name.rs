//! Names: what they may be, how they are compared with patterns, and the number that a name has.
//!
//! A name is parts joined by `/`, as `viewer/42`. It is never part of a path: in the file system a name
//! stands inside of files, and in their names only its number.

use std::fmt;

/// The longest name, in bytes of UTF-8.
pub const MOST_BYTES: usize = 200;

/// A name that keeps the rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

/// The rule that a name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It is empty, or one of its parts is.
    Empty,
    /// A part is `.` or `..`.
    Dots,
    /// It is longer than [`MOST_BYTES`].
    Long(usize),
    /// It has a control character in it, at this byte.
    Control(usize),
    /// It has an `@`, which sets a name apart from its owner in `name@user`.
    At,
}

impl fmt::Display for BadName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadName::Empty => {
                write!(
                    to,
                    "a name, and each part between slashes, has at least one character; it neither \
                     begins nor ends with a slash"
                )
            }
            BadName::Dots => write!(to, "no part of a name is . or .."),
            BadName::Long(bytes) => {
                write!(to, "a name has at most {MOST_BYTES} bytes of UTF-8, this one has {bytes}")
            }
            BadName::Control(at) => {
                write!(to, "a name has no control characters, this one has one at byte {at}")
            }
            BadName::At => {
                write!(
                    to,
                    "a name has no @; in the scope machine one stands before the owner, in name@user"
                )
            }
        }
    }
}

impl Name {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Name, BadName> {
        if name.len() > MOST_BYTES {
            return Err(BadName::Long(name.len()));
        }
        if let Some((at, _)) = name.char_indices().find(|(_, letter)| letter.is_control()) {
            return Err(BadName::Control(at));
        }
        for part in name.split('/') {
            match part {
                "" => return Err(BadName::Empty),
                "." | ".." => return Err(BadName::Dots),
                _ => {}
            }
        }
        if name.contains('@') { Err(BadName::At) } else { Ok(Name(name.to_owned())) }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number that is the same for everybody, and nearly always another for another name: FNV-1a of 64
    /// bits, <https://www.isthe.com/chongo/tech/comp/fnv/>.
    pub fn number(&self) -> u64 {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        self.0.bytes().fold(OFFSET, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Which names are meant: `*` stands for any text, slashes included, `?` for one character, and
/// everything else for itself.
#[derive(Clone, Debug)]
pub struct Pattern(Vec<char>);

impl Pattern {
    /// Any text is a pattern.
    pub fn new(pattern: &str) -> Pattern {
        Pattern(pattern.chars().collect())
    }

    /// Whether a name is meant. Takes time in proportion to both lengths at the worst.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut from) = (0, 0);
        // Where to go on if what follows the last star does not fit: one character later in the name.
        let mut retry: Option<(usize, usize)> = None;
        while from < name.len() {
            match self.0.get(at) {
                Some('*') => {
                    at += 1;
                    retry = Some((at, from));
                }
                Some(wanted) if *wanted == '?' || *wanted == name[from] => {
                    at += 1;
                    from += 1;
                }
                _ => match retry {
                    Some((after_star, begin)) => {
                        at = after_star;
                        from = begin + 1;
                        retry = Some((after_star, from));
                    }
                    None => return false,
                },
            }
        }
        self.0[at..].iter().all(|wanted| *wanted == '*')
    }
}

/// How many single changes of a character make one text of the other (Levenshtein), as far as `most`.
pub fn distance(one: &str, other: &str, most: usize) -> Option<usize> {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, wanted) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != wanted);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    let found = row[other.len()];
    (found <= most).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rules() {
        for good in
            ["a", "viewer/42", "a b", "Ärger/äpfel.txt", "...", "a/.b", "*", &"x".repeat(200)]
        {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for (bad, rule) in [
            ("", BadName::Empty),
            ("/a", BadName::Empty),
            ("a//b", BadName::Empty),
            ("a/", BadName::Empty),
            (".", BadName::Dots),
            ("a/../b", BadName::Dots),
            ("a\nb", BadName::Control(1)),
            ("a\u{7f}", BadName::Control(1)),
            ("\u{85}", BadName::Control(0)),
            ("a@b", BadName::At),
            (&"ä".repeat(101), BadName::Long(202)),
        ] {
            assert_eq!(Name::new(bad), Err(rule), "{bad:?}");
        }
    }

    #[test]
    fn a_number_is_the_one_that_the_spec_has() {
        assert_eq!(Name::new("a").unwrap().number(), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Name::new("foobar").unwrap().number(), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn patterns_cross_slashes() {
        for (pattern, name, is_meant) in [
            ("*", "viewer/42", true),
            ("viewer/*", "viewer/42", true),
            ("viewer/*", "viewer", false),
            ("*/42", "a/b/42", true),
            ("v?ewer/*2", "viewer/442", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "a", false),
            ("**", "a", true),
            ("[a]", "a", false),
            ("a", "ab", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), is_meant, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_more_than_its_time() {
        let name = "a".repeat(200);
        assert!(!Pattern::new(&format!("{}b", "*a".repeat(90))).matches(&name));
    }

    #[test]
    fn near_misses_are_found() {
        assert_eq!(distance("viewer", "viewer", 2), Some(0));
        assert_eq!(distance("viewer", "veiwer", 2), Some(2));
        assert_eq!(distance("viewer", "views", 2), Some(2));
        assert_eq!(distance("viewer", "editor", 2), None);
        assert_eq!(distance("", "ab", 2), Some(2));
    }
}
