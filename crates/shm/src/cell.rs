//! A value that many read and any may replace: two slots in a file, one of them the current one.
//!
//! ```text
//! 0      what this is, its version, its name, the most that a value may have
//! 256    the cell's number, then the two slots: 40 bytes of head each, and short values themselves
//! 4096   the long values of the first slot, then those of the second
//! ```
//! A writer, of which a lock admits one at a time, puts the value into the slot that is not current, with
//! the next sequence number. Readers lock nothing. They read all between 256 and 4096 at once; the slot
//! with the higher number is the current one, if its checksums are right. If they are not, a writer is at
//! it, or was killed at it, and the other slot is current.
//!
//! # Invariants
//! * **C1** a slot's head is written by one write, after a long value and together with a short one. So a
//!   slot whose checksums are right is complete.
//! * **C2** the current slot is never written. So whoever is killed while writing leaves the old value.
//! * **C3** numbers grow by one with each value, and alternate between the slots.
//! * **C4** a reader gives the old slot only if it has seen it unchanged in two readings, the newer one being
//!   incomplete in the first: C3 says that no value was completed meanwhile which it could have missed.
//!
//! The whole text is `spec/files-v1.md`.

use std::ops::Range;

/// Version of the layout.
const CELL_VERSION: u32 = 1;
/// Bytes before the long values.
pub const CELL_HEAD_BYTES: usize = 4096;
/// The most that a value may have, whatever a cell says.
pub const MOST_CELL_BYTES: u64 = 1 << 40;

const MAGIC: [u8; 8] = *b"ALONGSC\x01";
const NAME: Range<usize> = 32..232;
/// What is read at once: the cell's number, and the slots. (The models look at small ones.)
const SLOTS: Range<usize> = 256..256 + 16 + 2 * SLOT_BYTES;
const SLOT_BYTES: usize = if cfg!(loom) { 48 } else { 1912 };
const SLOT_HEAD_BYTES: usize = 40;
/// Values up to this length lie in the slot itself.
pub const SHORT_VALUE: usize = SLOT_BYTES - SLOT_HEAD_BYTES;
/// So often a reading is begun again before somebody has to keep writers out.
const TRIES: usize = if cfg!(loom) { 6 } else { 64 };

/// A file, as far as a cell needs one. What it gives may be anything: whoever shares it can write it.
pub trait Pages {
    /// What can go wrong with it.
    type Error;

    /// Whether so many bytes are there.
    fn check(&self, at: u64, bytes: u64) -> Result<(), Self::Error>;

    /// Reads all of this.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes all of this.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// Why there is nothing to be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread<E> {
    /// The file.
    Pages(E),
    /// Somebody wrote all the time. With writers kept out, it is not a cell's file.
    Torn,
    /// The file is another one by now.
    Foreign,
    /// There is no memory for a value of so many bytes.
    TooLong(u64),
}

impl<E> From<E> for Unread<E> {
    fn from(error: E) -> Unread<E> {
        Unread::Pages(error)
    }
}

/// Where the parts of one cell lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLayout {
    /// The most that a value may have, in bytes.
    pub most: u64,
    /// Tells this file from all others.
    pub number: u64,
}

/// A value, as a writer or a reader has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// How its bytes are to be read; means nothing here.
    pub codec: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many values there were up to this one.
    pub sequence: u64,
}

/// What has become of a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The number of the value that is current then.
    pub sequence: u64,
    /// The word that has changed with it; none if the value is not the new one.
    pub word_at: Option<usize>,
}

/// A word of the file that changes when the next value comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Where it is.
    pub word_at: usize,
    /// What it was.
    pub seen: u32,
    /// Whether it can be slept on: a writer that is at it changes it no more.
    pub is_settled: bool,
}

/// A byte that nobody looks at, behind the cell's number.
pub const PADDING_AT: u64 = SLOTS.start as u64 + 8;

/// The word that changes when a slot is written: the lower half of its number.
pub fn word_of(which: usize) -> usize {
    SLOTS.start + 16 + which * SLOT_BYTES
}

/// The head of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    sequence: u64,
    bytes: u64,
    codec: u8,
    sum: u64,
}

impl Head {
    fn to_bytes(self) -> [u8; SLOT_HEAD_BYTES] {
        let words = [self.sequence, self.bytes, u64::from(self.codec), self.sum, self.seal()];
        let mut all = [0; SLOT_HEAD_BYTES];
        for (to, word) in all.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        all
    }

    /// None if it is torn, or nobody has written it yet.
    fn from_bytes(slot: &[u8]) -> Option<Head> {
        let word = |n: usize| word_at(slot, n * 8);
        let codec = u8::try_from(word(2)).ok()?;
        let head = Head { sequence: word(0), bytes: word(1), codec, sum: word(3) };
        (head.sequence != 0 && head.seal() == word(4)).then_some(head)
    }

    fn seal(&self) -> u64 {
        let words = [self.sequence, self.bytes, u64::from(self.codec), self.sum];
        words.into_iter().fold(SEED, mix)
    }

    fn is_short(&self) -> bool {
        self.bytes <= SHORT_VALUE as u64
    }
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Folds a word into a sum: the two halves of a product, as in wyhash
/// (<https://github.com/wangyi-fudan/wyhash>).
#[inline]
fn mix(sum: u64, word: u64) -> u64 {
    const ODD: u128 = 0xa076_1d64_78bd_642f;
    let product = u128::from(sum ^ word) * ODD;
    (product as u64) ^ ((product >> 64) as u64) ^ sum.rotate_left(23)
}

/// The checksum of a value. It tells a value from a mixture of two, not from a forgery.
fn checksum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let sum = words.fold(SEED ^ bytes.len() as u64, |sum, word| mix(sum, word_at(word, 0)));
    mix(sum, u64::from_le_bytes(last))
}

/// The slots, read at once.
struct Snapshot([u8; SLOTS.end - SLOTS.start]);

/// Which slot is current, as far as one reading tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Current {
    /// There is no value yet.
    None,
    /// This one.
    Is(usize, Head),
    /// The other one is incomplete, and newer: this one, unless it changes.
    Maybe(usize, Head),
    /// Neither can be read.
    Neither,
}

impl Snapshot {
    fn new() -> Snapshot {
        Snapshot([0; SLOTS.end - SLOTS.start])
    }

    fn slot(&self, which: usize) -> &[u8] {
        let start = 16 + which * SLOT_BYTES;
        &self.0[start..start + SLOT_BYTES]
    }

    fn inline(&self, which: usize, head: &Head) -> &[u8] {
        &self.slot(which)[SLOT_HEAD_BYTES..SLOT_HEAD_BYTES + head.bytes as usize]
    }

    /// A slot's head, if what can be checked here is right.
    fn head(&self, which: usize, most: u64) -> Option<Head> {
        let head = Head::from_bytes(self.slot(which)).filter(|head| head.bytes <= most)?;
        if head.is_short() && checksum(self.inline(which, &head)) != head.sum {
            return None;
        }
        Some(head)
    }

    /// Where the value after the one with this number will be seen, which stands in this slot.
    fn next(&self, which: usize, sequence: u64) -> Next {
        let seen = word_at(self.slot(1 - which), 0);
        // C3: else somebody is writing it, and what is to change may have changed; or was killed.
        let is_settled = seen == sequence.saturating_sub(1);
        Next { word_at: word_of(1 - which), seen: seen as u32, is_settled }
    }

    fn is_empty(&self, which: usize) -> bool {
        self.slot(which)[..SLOT_HEAD_BYTES].iter().all(|byte| *byte == 0)
    }

    fn current(&self, most: u64) -> Current {
        // The sequence as it stands there, whole or not, says which slot to look at first.
        let sequence = |which: usize| word_at(self.slot(which), 0);
        let newer = usize::from(sequence(1) > sequence(0));
        let older = 1 - newer;
        if let Some(head) = self.head(newer, most) {
            // C3: next to a complete current slot stands the one before.
            if sequence(older) == head.sequence - 1 {
                return Current::Is(newer, head);
            }
            return Current::Maybe(newer, head);
        }
        match self.head(older, most) {
            Some(head) => Current::Maybe(older, head),
            None if self.is_empty(0) && self.is_empty(1) => Current::None,
            // The first value, under way.
            None if self.is_empty(1) || self.is_empty(0) => Current::None,
            None => Current::Neither,
        }
    }
}

impl CellLayout {
    /// The head of a new file.
    pub fn head(&self, name: &str) -> Vec<u8> {
        let mut head = vec![0; CELL_HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&CELL_VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(name.len() as u32).to_le_bytes());
        head[16..24].copy_from_slice(&self.most.to_le_bytes());
        head[NAME.start..NAME.start + name.len()].copy_from_slice(name.as_bytes());
        head[SLOTS.start..SLOTS.start + 8].copy_from_slice(&self.number.to_le_bytes());
        head
    }

    /// What a file's head says, and the name; `Err` has what is wrong with it.
    pub fn parse(head: &[u8; CELL_HEAD_BYTES]) -> Result<(CellLayout, &str), String> {
        if head[..8] != MAGIC {
            return Err(format!("it begins with {:?}", &head[..8]));
        }
        let half = |at: usize| word_at(head, at & !7) >> ((at & 4) * 8) & 0xffff_ffff;
        if half(8) != u64::from(CELL_VERSION) {
            return Err(format!("its version is {}, this program knows {CELL_VERSION}", half(8)));
        }
        let name = usize::try_from(half(12)).ok().and_then(|length| {
            let bytes = head[NAME].get(..length)?;
            std::str::from_utf8(bytes).ok()
        });
        let Some(name) = name else { return Err("it has no name".into()) };
        let layout = CellLayout { most: word_at(head, 16), number: word_at(head, SLOTS.start) };
        if layout.most > MOST_CELL_BYTES {
            return Err(format!("its values may have {} bytes", layout.most));
        }
        Ok((layout, name))
    }

    /// Where the long values of a slot lie.
    fn long_at(&self, which: usize) -> u64 {
        CELL_HEAD_BYTES as u64 + which as u64 * self.most.next_multiple_of(4096)
    }

    fn current<P: Pages>(
        &self,
        pages: &P,
        snapshot: &mut Snapshot,
    ) -> Result<Current, Unread<P::Error>> {
        pages.read(SLOTS.start as u64, &mut snapshot.0)?;
        if word_at(&snapshot.0, 0) != self.number {
            return Err(Unread::Foreign);
        }
        Ok(snapshot.current(self.most))
    }

    /// The current value; none if there is none yet. Never waits for a writer.
    pub fn read<P: Pages>(&self, pages: &P) -> Result<Option<Value>, Unread<P::Error>> {
        Ok(self.look(pages, Some(0))?.0)
    }

    /// The number of the current value, zero if there is none yet, and where the next one will be seen.
    /// Never waits for a writer.
    pub fn sequence<P: Pages>(&self, pages: &P) -> Result<(u64, Next), Unread<P::Error>> {
        let (_, sequence, next) = self.look(pages, None)?;
        Ok((sequence, next))
    }

    /// The current value if its number is higher than this one; the number; and where the next one will be
    /// seen. Never waits for a writer.
    pub fn look<P: Pages>(
        &self,
        pages: &P,
        newer_than: Option<u64>,
    ) -> Result<(Option<Value>, u64, Next), Unread<P::Error>> {
        let mut snapshot = Snapshot::new();
        let mut doubtful = None;
        for _ in 0..TRIES {
            let (which, head) = match self.current(pages, &mut snapshot)? {
                Current::None => return Ok((None, 0, snapshot.next(1, 0))),
                Current::Is(which, head) => (which, head),
                // C4
                Current::Maybe(which, head) if doubtful == Some(head) => (which, head),
                Current::Maybe(_, head) => {
                    doubtful = Some(head);
                    continue;
                }
                Current::Neither => continue,
            };
            let next = snapshot.next(which, head.sequence);
            if newer_than.is_none_or(|number| head.sequence <= number) {
                return Ok((None, head.sequence, next));
            }
            let bytes = if head.is_short() {
                snapshot.inline(which, &head).to_vec()
            } else {
                // What a head says may be anything; there may not be as much.
                let mut bytes = Vec::new();
                let length =
                    usize::try_from(head.bytes).map_err(|_| Unread::TooLong(head.bytes))?;
                pages.check(self.long_at(which), head.bytes)?;
                bytes.try_reserve_exact(length).map_err(|_| Unread::TooLong(head.bytes))?;
                bytes.resize(length, 0);
                pages.read(self.long_at(which), &mut bytes)?;
                if checksum(&bytes) != head.sum {
                    // Two values later.
                    continue;
                }
                bytes
            };
            let value = Value { codec: head.codec, bytes, sequence: head.sequence };
            return Ok((Some(value), head.sequence, next));
        }
        Err(Unread::Torn)
    }

    /// Puts a value in the current one's place, if that has the expected number. The caller keeps other writers out, and the value
    /// is not too long.
    pub fn write<P: Pages>(
        &self,
        pages: &P,
        codec: u8,
        bytes: &[u8],
        expected: Option<u64>,
    ) -> Result<Written, Unread<P::Error>> {
        let (sequence, which) = match self.current(pages, &mut Snapshot::new())? {
            Current::None => (0, 1),
            Current::Is(which, head) | Current::Maybe(which, head) => (head.sequence, which),
            Current::Neither => return Err(Unread::Torn),
        };
        if expected.is_some_and(|expected| expected != sequence) {
            return Ok(Written { sequence, word_at: None });
        }
        // What no honest program has counted to.
        let next = sequence.checked_add(1).ok_or(Unread::Torn)?;
        let slot = 1 - which;
        let head = Head { sequence: next, bytes: bytes.len() as u64, codec, sum: checksum(bytes) };
        let slot_at = word_of(slot) as u64;
        if head.is_short() {
            let mut whole = [0; SLOT_BYTES];
            let end = SLOT_HEAD_BYTES + bytes.len();
            whole[..SLOT_HEAD_BYTES].copy_from_slice(&head.to_bytes());
            whole[SLOT_HEAD_BYTES..end].copy_from_slice(bytes);
            pages.write(slot_at, &whole[..end])?;
        } else {
            // C1: the head is the last.
            pages.write(self.long_at(slot), bytes)?;
            pages.write(slot_at, &head.to_bytes())?;
        }
        Ok(Written { sequence: next, word_at: Some(word_of(slot)) })
    }
}

#[cfg(all(test, loom))]
mod models;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::*;

    const LAYOUT: CellLayout = CellLayout { most: 10_000, number: 77 };

    /// A file in memory, whose writer is killed after so many bytes.
    struct Memory {
        bytes: RefCell<Vec<u8>>,
        left: Cell<usize>,
    }

    #[derive(Debug, PartialEq)]
    struct Killed;

    impl Memory {
        fn new() -> Memory {
            let mut bytes = LAYOUT.head("a/name");
            bytes.resize(40_000, 0);
            Memory { bytes: RefCell::new(bytes), left: Cell::new(usize::MAX) }
        }
    }

    impl Pages for Memory {
        type Error = Killed;

        fn check(&self, _at: u64, _bytes: u64) -> Result<(), Killed> {
            Ok(())
        }

        fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Killed> {
            let at = at as usize;
            into.copy_from_slice(&self.bytes.borrow()[at..at + into.len()]);
            Ok(())
        }

        fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Killed> {
            let count = bytes.len().min(self.left.get());
            self.left.set(self.left.get() - count);
            let at = at as usize;
            self.bytes.borrow_mut()[at..at + count].copy_from_slice(&bytes[..count]);
            if count < bytes.len() { Err(Killed) } else { Ok(()) }
        }
    }

    fn set(memory: &Memory, bytes: &[u8]) -> Result<(u64, bool), Unread<Killed>> {
        write(memory, 3, bytes, None)
    }

    fn write(
        memory: &Memory,
        codec: u8,
        bytes: &[u8],
        expected: Option<u64>,
    ) -> Result<(u64, bool), Unread<Killed>> {
        let before = LAYOUT.sequence(memory).ok();
        let written = LAYOUT.write(memory, codec, bytes, expected)?;
        if let (Some((_, next)), Some(word_at)) = (before, written.word_at) {
            assert_eq!(next.word_at, word_at, "where the next value was to be seen");
        }
        Ok((written.sequence, written.word_at.is_some()))
    }

    fn number(memory: &Memory) -> u64 {
        LAYOUT.sequence(memory).map_or(u64::MAX, |(number, _)| number)
    }

    #[test]
    fn a_head_says_what_it_was_made_from() {
        let head: [u8; CELL_HEAD_BYTES] = LAYOUT.head("über/😀").try_into().unwrap();
        assert_eq!(CellLayout::parse(&head), Ok((LAYOUT, "über/😀")));
        for (at, byte) in [(0, 0), (8, 2), (12, 255), (32, 0xff), (23, 1)] {
            let mut wrong = head;
            wrong[at] = byte;
            assert!(CellLayout::parse(&wrong).is_err(), "{at}");
        }
    }

    #[test]
    fn a_value_is_the_last_that_was_written() {
        let memory = Memory::new();
        assert_eq!(LAYOUT.read(&memory), Ok(None));
        assert_eq!(number(&memory), 0);
        for (count, length) in (1..).zip([0, 1, 1872, 1873, 10_000, 5, 9_999, 10_000]) {
            let bytes = vec![count as u8; length];
            assert_eq!(set(&memory, &bytes), Ok((count, true)));
            assert_eq!(LAYOUT.read(&memory), Ok(Some(Value { codec: 3, bytes, sequence: count })));
            assert_eq!(number(&memory), count);
        }
        assert_eq!(write(&memory, 1, b"x", Some(7)), Ok((8, false)));
        assert_eq!(write(&memory, 1, b"xy", Some(8)), Ok((9, true)));
        assert_eq!(LAYOUT.read(&memory).unwrap().unwrap().bytes, b"xy");
    }

    #[test]
    fn another_file_is_neither_read_nor_written() {
        let memory = Memory::new();
        memory.bytes.borrow_mut()[256] += 1;
        assert_eq!(LAYOUT.read(&memory), Err(Unread::Foreign));
        assert_eq!(set(&memory, b"x"), Err(Unread::Foreign));
    }

    proptest! {
        /// Whatever a writer had written when it was killed, the old value stands, or the new one.
        #[test]
        fn a_killed_writer_leaves_one_of_both(
            lengths in prop::collection::vec(0usize..10_000, 1..6),
            after in 0usize..12_000,
            last in 0usize..10_000,
        ) {
            let memory = Memory::new();
            let mut old = None;
            for (count, length) in (1..).zip(&lengths) {
                let bytes = vec![count as u8; *length];
                set(&memory, &bytes).unwrap();
                old = Some(Value { codec: 3, bytes, sequence: count });
            }
            let sequence = lengths.len() as u64 + 1;
            let new = Value { codec: 3, bytes: vec![0xee; last], sequence };
            memory.left.set(after);
            let done = set(&memory, &new.bytes).is_ok();
            memory.left.set(usize::MAX);
            let found = LAYOUT.read(&memory).unwrap();
            if done {
                prop_assert_eq!(&found, &Some(new.clone()));
            } else {
                prop_assert!(found == old || found == Some(new.clone()), "{:?}", found.map(|it| it.sequence));
            }
            prop_assert_eq!(number(&memory), found.as_ref().map_or(0, |it| it.sequence));
            // And the next writer goes on from there.
            let (next, _) = set(&memory, b"next").unwrap();
            prop_assert_eq!(next, found.map_or(0, |it| it.sequence) + 1);
            prop_assert_eq!(LAYOUT.read(&memory).unwrap().unwrap().bytes, b"next");
        }

        /// A mixture of two values has another sum than either, whichever bytes come from which.
        #[test]
        fn a_mixture_is_told(a in prop::collection::vec(any::<u8>(), 1..100), flips in prop::collection::vec((0usize..100, 1u8..), 1..4)) {
            let mut b = a.clone();
            for (at, flip) in flips {
                let at = at % b.len();
                b[at] ^= flip;
            }
            prop_assume!(a != b);
            prop_assert_ne!(checksum(&a), checksum(&b));
        }

        #[test]
        fn whatever_stands_there_is_read_without_a_panic(noise in prop::collection::vec(any::<u8>(), 3_824)) {
            let memory = Memory::new();
            memory.bytes.borrow_mut()[272..4096].copy_from_slice(&noise);
            let _ = LAYOUT.read(&memory);
            let _ = LAYOUT.sequence(&memory);
            let _ = set(&memory, b"x");
        }
    }
}
