//! The sixteen bytes that stand before every payload in a ring.
//!
//! ```text
//! word 0   bits 0..32  length of the payload in bytes
//!          bits 32..40 kind      bits 40..48 codec      bits 48..64 flags
//! word 1   id: what the kind makes of it
//! ```
//! Records begin at multiples of sixteen, so their two words never wrap around the end of a ring;
//! payloads do.

/// Bytes of a record's head, and the alignment of records.
pub const RECORD_BYTES: u64 = 16;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A whole message; `codec` says how the payload is to be read.
    Message = 1,
    /// The first data, given to `start`; once, before any message, to the side that was started.
    Hello = 2,
    /// A large message begins; id: its length in bytes. Its parts follow, with nothing but pings and
    /// pongs between them.
    Large = 3,
    /// The next part of a large message lies in a staging block; id: arena << 32 | block.
    Part = 4,
    /// The large message that was begun will not be finished: forget it.
    Abandoned = 5,
    /// Answer with a `Pong` of the same id.
    Ping = 6,
    /// The answer to a `Ping`.
    Pong = 7,
    /// As `Large`, and the message is the hello.
    LargeHello = 8,
    /// A whole message beside which memory is lent; the payload begins with the terms.
    Leased = 9,
    /// As `Leased`, and the message is the hello.
    LeasedHello = 10,
    /// The lender has given up a lease arena of which nothing is out; id: its number.
    Retired = 11,
}

impl Kind {
    /// Whether a record of this kind holds a message from its first byte to its last.
    pub const fn is_whole(self) -> bool {
        matches!(self, Kind::Message | Kind::Hello | Kind::Leased | Kind::LeasedHello)
    }

    const fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Message,
            2 => Kind::Hello,
            3 => Kind::Large,
            4 => Kind::Part,
            5 => Kind::Abandoned,
            6 => Kind::Ping,
            7 => Kind::Pong,
            8 => Kind::LargeHello,
            9 => Kind::Leased,
            10 => Kind::LeasedHello,
            11 => Kind::Retired,
            _ => return None,
        })
    }
}

/// The head of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// How the payload of a message is to be read; means nothing to this room.
    pub codec: u8,
    /// Length of the payload in bytes.
    pub length: u32,
    /// Belongs to the kind.
    pub id: u64,
}

impl Record {
    /// Bytes the record takes in the ring, its head and padding included.
    pub const fn footprint(&self) -> u64 {
        footprint(self.length as u64)
    }

    pub(crate) const fn words(&self) -> [u64; 2] {
        let head = self.length as u64 | (self.kind as u64) << 32 | (self.codec as u64) << 40;
        [head, self.id]
    }

    /// `None` for an unknown kind or a flag that this version does not have.
    pub(crate) const fn from_words(words: [u64; 2]) -> Option<Record> {
        let head = words[0];
        if head >> 48 != 0 {
            return None;
        }
        let Some(kind) = Kind::from_byte((head >> 32) as u8) else { return None };
        Some(Record { kind, codec: (head >> 40) as u8, length: head as u32, id: words[1] })
    }
}

/// Bytes that a payload of `length` bytes takes in a ring.
pub(crate) const fn footprint(length: u64) -> u64 {
    RECORD_BYTES + length.next_multiple_of(RECORD_BYTES)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_come_back_as_the_record_they_were(kind in 1u8..=11, codec: u8, length: u32, id: u64) {
            let kind = Kind::from_byte(kind).unwrap();
            let record = Record { kind, codec, length, id };
            prop_assert_eq!(Record::from_words(record.words()), Some(record));
        }

        #[test]
        fn any_two_words_are_a_record_or_refused(a: u64, b: u64) {
            if let Some(record) = Record::from_words([a, b]) {
                prop_assert_eq!(record.words(), [a, b]);
            }
        }
    }
}
