//! One direction of a session: a ring of records with a single producer and a single consumer.
//!
//! Each side keeps its own position to itself, publishes a copy of it, and takes the other side's
//! published position only after checking it on a local copy. Positions are byte counts that only
//! grow; a place in the ring is the position modulo the capacity, a power of two.
//!
//! ```text
//!        tail (consumer's)             head (producer's)
//!   ......|=== records to read =========|.......free.......|
//! ```
//!
//! # Invariants
//! * **N1** `head - tail <= capacity`, and both are multiples of 16.
//! * **N2** bytes in `tail..head` were written before `head` was stored with Release, and are read
//!   after it was loaded with Acquire. (SYNC publish → observe)
//! * **N3** bytes outside `tail..head` are the producer's: it writes them after it loaded `tail`
//!   with Acquire, which the consumer stored with Release after its last read. (SYNC release → reuse)
//! * **N4** nobody sleeps through a change: a sleeper stores its flag, fences, then looks again; the
//!   other side stores its position, fences, then looks at the flag. Of two SeqCst fences one comes
//!   first, so at least one of the two sees the other's store. (SYNC arm ↔ publish, arm ↔ release)
//!
//! # States of a flag
//! | flag | meaning | who may change it |
//! |---|---|---|
//! | 0 | nobody sleeps, or the bell was rung already | the sleeper, to 1 |
//! | 1 | armed: ring the bell after the next change | either side, to 0; who takes it rings |
//!
//! A position that breaks N1, or runs backwards, can only come from a scribbling peer: [`Corrupt`].

use core::mem::MaybeUninit;

use crate::layout::Lane;
use crate::record::{RECORD_BYTES, Record, footprint};
use crate::sync::{AtomicU32, Ordering, fence};

/// Where a ring's bytes lie. The other process may write them at any moment.
pub trait Storage {
    /// Bytes, a power of two.
    fn capacity(&self) -> u64;
    /// Copies in; `offset + from.len()` is at most the capacity.
    fn write(&self, offset: usize, from: &[u8]);
    /// Copies out and fills `into`; `offset + into.len()` is at most the capacity.
    fn read(&self, offset: usize, into: &mut [MaybeUninit<u8>]);
    /// Copies two words in; `offset` is a multiple of 16.
    fn write_words(&self, offset: usize, words: [u64; 2]);
    /// Copies two words out; `offset` is a multiple of 16.
    fn read_words(&self, offset: usize) -> [u64; 2];
}

/// Something the other process wrote that no honest one would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// What it is.
    pub what: &'static str,
    /// The value that was found.
    pub found: u64,
    /// The value, or the bound, that it had to keep to.
    pub expected: u64,
}

/// A ring's two halves in shared memory: its positions and flags, and its bytes.
#[derive(Clone, Copy)]
pub struct Ring<'m, S> {
    lane: &'m Lane,
    data: S,
}

impl<'m, S: Storage> Ring<'m, S> {
    /// Puts a ring together; `data` has a power of two of bytes, at least 64.
    pub fn new(lane: &'m Lane, data: S) -> Ring<'m, S> {
        debug_assert!(data.capacity().is_power_of_two() && data.capacity() >= 64);
        Ring { lane, data }
    }

    /// The longest payload that one record of this ring carries: a quarter of the ring, so that
    /// one message never has to wait for the ring to be empty.
    pub fn longest_payload(&self) -> u64 {
        self.data.capacity() / 4
    }

    /// Rings a producer that sleeps, for a change that comes without a release: true if it must be rung.
    #[must_use = "a producer that sleeps must be rung"]
    pub fn nudge_producer(&self) -> bool {
        take(&self.lane.space_flag.armed)
    }

    fn place(&self, position: u64) -> usize {
        (position & (self.data.capacity() - 1)) as usize
    }

    fn write_at(&self, position: u64, bytes: &[u8]) {
        let place = self.place(position);
        let until_end = self.data.capacity() as usize - place;
        if bytes.len() <= until_end {
            return self.data.write(place, bytes);
        }
        let (first, rest) = bytes.split_at(until_end);
        self.data.write(place, first);
        self.data.write(0, rest);
    }

    fn read_at(&self, position: u64, into: &mut [MaybeUninit<u8>]) {
        let place = self.place(position);
        let until_end = self.data.capacity() as usize - place;
        if into.len() <= until_end {
            return self.data.read(place, into);
        }
        let (first, rest) = into.split_at_mut(until_end);
        self.data.read(place, first);
        self.data.read(0, rest);
    }
}

/// Takes an armed flag; true for the one who must ring.
fn take(flag: &AtomicU32) -> bool {
    // SYNC arm ↔ publish/release (N4): this fence stands between the position that was just stored
    // and the look at the flag.
    fence(Ordering::SeqCst);
    // The plain load keeps the line shared while nobody sleeps; the swap lets one taker win.
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
}

/// Changes of a flag are exchanges, never plain stores: each then stands directly behind the one it
/// replaced. (A sleeper goes to sleep at leisure; and loom, which orders plain stores of two threads
/// only as far as it must, reports a lost bell that the language forbids.)
fn disarm(flag: &AtomicU32) {
    flag.swap(0, Ordering::Relaxed);
}

fn arm(flag: &AtomicU32) {
    flag.swap(1, Ordering::Relaxed);
    // SYNC arm ↔ publish/release (N4): the look that the caller takes next may not move before this.
    fence(Ordering::SeqCst);
}

/// Bounds a position that the other side published: at least what it said before, at most `limit`.
fn checked(what: &'static str, found: u64, before: u64, limit: u64) -> Result<u64, Corrupt> {
    if found < before || found % RECORD_BYTES != 0 {
        return Err(Corrupt { what, found, expected: before });
    }
    if found > limit {
        return Err(Corrupt { what, found, expected: limit });
    }
    Ok(found)
}

/// The writing side of a ring.
#[derive(Debug, Default)]
pub struct Producer {
    head: u64,
    tail_seen: u64,
    sent: u64,
}

impl Producer {
    /// Whether `bytes` of ring space are free now.
    pub fn has_space<S: Storage>(
        &mut self,
        ring: &Ring<'_, S>,
        bytes: u64,
    ) -> Result<bool, Corrupt> {
        if ring.data.capacity() - (self.head - self.tail_seen) >= bytes {
            return Ok(true);
        }
        self.observe_tail(ring)?;
        Ok(ring.data.capacity() - (self.head - self.tail_seen) >= bytes)
    }

    fn observe_tail<S>(&mut self, ring: &Ring<'_, S>) -> Result<(), Corrupt> {
        // SYNC release → reuse (N3).
        let tail = ring.lane.consumer.tail.load(Ordering::Acquire);
        self.tail_seen = checked("read position", tail, self.tail_seen, self.head)?;
        Ok(())
    }

    /// Writes a record behind the others; invisible until [`Producer::publish`]. The caller has
    /// seen [`Producer::has_space`] for its footprint.
    #[inline]
    pub fn write<S: Storage>(&mut self, ring: &Ring<'_, S>, record: &Record, payload: &[u8]) {
        debug_assert_eq!(record.length as usize, payload.len());
        debug_assert!(
            ring.data.capacity() - (self.head - self.tail_seen) >= record.footprint(),
            "no space was reserved"
        );
        ring.data.write_words(ring.place(self.head), record.words());
        ring.write_at(self.head + RECORD_BYTES, payload);
        self.head += footprint(payload.len() as u64);
    }

    /// Counts one more message as sent; published with the next [`Producer::publish`].
    pub fn count_message(&mut self) {
        self.sent += 1;
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Lets the consumer see what was written; true if it sleeps and must be rung.
    #[inline]
    #[must_use = "a consumer that sleeps must be rung"]
    pub fn publish<S>(&mut self, ring: &Ring<'_, S>) -> bool {
        ring.lane.producer.sent.store(self.sent, Ordering::Relaxed);
        // SYNC publish → observe (N2).
        ring.lane.producer.head.store(self.head, Ordering::Release);
        take(&ring.lane.data_flag.armed)
    }

    /// Says that nothing will follow; true if the consumer sleeps and must be rung.
    #[must_use = "a consumer that sleeps must be rung"]
    pub fn finish<S>(&mut self, ring: &Ring<'_, S>) -> bool {
        // SYNC finish → is_finished: everything published stands before it.
        ring.lane.producer.finished.store(1, Ordering::Release);
        take(&ring.lane.data_flag.armed)
    }

    /// Asks to be rung when space comes free. Look again before sleeping.
    pub fn arm<S>(&self, ring: &Ring<'_, S>) {
        arm(&ring.lane.space_flag.armed);
    }

    /// No longer wants to be rung.
    pub fn disarm<S>(&self, ring: &Ring<'_, S>) {
        disarm(&ring.lane.space_flag.armed);
    }

    /// Messages that the other program has taken, as its side says.
    pub fn delivered<S>(&self, ring: &Ring<'_, S>) -> Result<u64, Corrupt> {
        let found = ring.lane.consumer.delivered.load(Ordering::Acquire);
        if found > self.sent {
            return Err(Corrupt { what: "delivered count", found, expected: self.sent });
        }
        Ok(found)
    }

    /// Staging blocks that the consumer has given back so far, in the order they were sent.
    pub fn blocks_returned<S>(&self, ring: &Ring<'_, S>) -> u64 {
        // SYNC return_blocks → blocks_returned: its copies out came before.
        ring.lane.consumer.blocks_returned.load(Ordering::Acquire)
    }
}

/// The reading side of a ring.
#[derive(Debug, Default)]
pub struct Consumer {
    tail: u64,
    head_seen: u64,
}

impl Consumer {
    /// Whether a record waits that was seen at an earlier look.
    #[inline]
    pub fn knows_of_record(&self) -> bool {
        self.head_seen != self.tail
    }

    /// Whether a published record waits. One load; may be called without end.
    #[inline]
    pub fn has_record<S>(&self, ring: &Ring<'_, S>) -> bool {
        self.knows_of_record() || ring.lane.producer.head.load(Ordering::Relaxed) != self.head_seen
    }

    /// The record that comes next; it stays in the ring until [`Consumer::release`].
    #[inline]
    pub fn peek<S: Storage>(&mut self, ring: &Ring<'_, S>) -> Result<Option<Record>, Corrupt> {
        if self.head_seen == self.tail {
            // SYNC publish → observe (N2).
            let head = ring.lane.producer.head.load(Ordering::Acquire);
            let limit = self.tail.saturating_add(ring.data.capacity());
            self.head_seen = checked("write position", head, self.head_seen, limit)?;
            if self.head_seen == self.tail {
                return Ok(None);
            }
        }
        let words = ring.data.read_words(ring.place(self.tail));
        let Some(record) = Record::from_words(words) else {
            return Err(Corrupt {
                what: "record kind and flags",
                found: words[0] >> 32,
                expected: 8,
            });
        };
        let length = u64::from(record.length);
        let waiting = self.head_seen - self.tail;
        if length > ring.longest_payload() {
            let expected = ring.longest_payload();
            return Err(Corrupt { what: "record length", found: length, expected });
        }
        if record.footprint() > waiting {
            return Err(Corrupt {
                what: "record end",
                found: record.footprint(),
                expected: waiting,
            });
        }
        Ok(Some(record))
    }

    /// The `index`-th sixteen bytes of the peeked `record`'s payload; `None` if it has not that many.
    pub fn words<S: Storage>(
        &self,
        ring: &Ring<'_, S>,
        record: &Record,
        index: u64,
    ) -> Option<[u64; 2]> {
        let end = index.checked_add(1)?.checked_mul(RECORD_BYTES)?;
        // Payloads begin at a multiple of sixteen, so no such piece wraps.
        (end <= record.length.into()).then(|| ring.data.read_words(ring.place(self.tail + end)))
    }

    /// Copies the end of the peeked `record`'s payload out, as much as `into` holds.
    pub fn read_end<S: Storage>(
        &self,
        ring: &Ring<'_, S>,
        record: &Record,
        into: &mut [MaybeUninit<u8>],
    ) {
        debug_assert!(into.len() <= record.length as usize);
        let from = u64::from(record.length) - into.len() as u64;
        ring.read_at(self.tail + RECORD_BYTES + from, into);
    }

    /// Copies the payload of the peeked `record` out; `into` is as long as the record says, or
    /// shorter.
    #[inline]
    pub fn read<S: Storage>(
        &self,
        ring: &Ring<'_, S>,
        record: &Record,
        into: &mut [MaybeUninit<u8>],
    ) {
        debug_assert!(into.len() <= record.length as usize);
        ring.read_at(self.tail + RECORD_BYTES, into);
    }

    /// Gives the peeked record's space back; true if the producer sleeps and must be rung.
    #[inline]
    #[must_use = "a producer that sleeps must be rung"]
    pub fn release<S>(&mut self, ring: &Ring<'_, S>, record: &Record) -> bool {
        self.tail += record.footprint();
        // SYNC release → reuse (N3).
        ring.lane.consumer.tail.store(self.tail, Ordering::Release);
        take(&ring.lane.space_flag.armed)
    }

    /// Asks to be rung at the next record, or at the end. Look again before sleeping.
    pub fn arm<S>(&self, ring: &Ring<'_, S>) {
        arm(&ring.lane.data_flag.armed);
    }

    /// Whether the producer said that nothing will follow. What it sent before may still wait:
    /// peek once more after this.
    pub fn is_finished<S>(&self, ring: &Ring<'_, S>) -> bool {
        ring.lane.producer.finished.load(Ordering::Acquire) != 0
    }

    /// Tells the producer how many messages the program here has taken.
    #[inline]
    pub fn tell_delivered<S>(&self, ring: &Ring<'_, S>, messages: u64) {
        ring.lane.consumer.delivered.store(messages, Ordering::Release);
    }

    /// Tells the producer how many staging blocks have been copied out in all; true if it sleeps
    /// and must be rung.
    #[must_use = "a producer that sleeps must be rung"]
    pub fn return_blocks<S>(&self, ring: &Ring<'_, S>, blocks: u64) -> bool {
        ring.lane.consumer.blocks_returned.store(blocks, Ordering::Release);
        take(&ring.lane.space_flag.armed)
    }

    /// Whether the producer sleeps until space comes free.
    pub fn producer_sleeps<S>(&self, ring: &Ring<'_, S>) -> bool {
        ring.lane.space_flag.armed.load(Ordering::Relaxed) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;
