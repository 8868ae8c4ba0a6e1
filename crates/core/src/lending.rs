//! Lending: memory that the other program reads in place.
//!
//! The lender keeps *arenas*: memory files that only it can write, mapped by both sides. A message that
//! carries arrays names places in them; the receiver's arrays *are* those places. When the last of them
//! goes, the receiver notes so in the table of returns (`alongside_shm::Returns`), and the lender uses
//! the place again, the one that came back last first, for it is still in the cache. The first touch of
//! 64 MiB costs 25 to 30 ms, a copy into warm memory 5: reuse is most of the speed.
//!
//! # A block's states
//! | state | held by | next |
//! |---|---|---|
//! | free | its size's list | `lend` |
//! | being filled | a [`Block`] | sent, or free when the `Block` is dropped |
//! | out | a slot, and the `Block` as long as the program here keeps it | free when given back *and* let go here |

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use alongside_shm::{RETURNS_BYTES, Region, Returns, SLOTS};
use alongside_sys::memory::{self, Access, Mapping};
use alongside_sys::{Errno, coarse_clock_ns};

use crate::error::Error;
use crate::link::Link;
use crate::wire::{Kind, Packet};

/// The smallest block.
const SMALLEST: usize = 16 << 10;
/// Arenas of which nothing was lent for so long go back to the system.
const IDLE_NS: u64 = 2_000_000_000;
/// Blocks of one size that are out while the reader keeps up: small ones, and large ones.
const WINDOW_BLOCKS: [usize; 2] = [4, 3];
/// So many of the blocks that are out are looked at each time, however many there are.
const NEWEST: usize = 64;
/// Smaller blocks are filled before anybody could have given one back.
const WORTH_WAITING: usize = 128 << 10;
/// Up to this size blocks are powers of two, and share arenas.
const SHARED_UP_TO: usize = 1 << 20;
/// The first arena of shared blocks has so many blocks; the next as many as there are already.
const FIRST_SHARED: usize = 8;
/// But no more bytes than this.
const LARGEST_SHARED_ARENA: usize = 64 << 20;
/// The most arenas that a lender has at a time. A borrower takes twice as many, for it may hear of new ones
/// before it hears that old ones were given up.
pub(crate) const MOST_ARENAS: usize = 8192;
/// And the most bytes in them.
pub(crate) const MOST_ARENA_BYTES: u64 = 16 << 30;

/// Why there is no block now; later there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// As much is lent as the program allows.
    Limit,
    /// As much is lent as one side can.
    Pieces,
    /// The other side has yet to take note of earlier arenas.
    Unnoted,
}

impl Lack {
    pub(crate) fn busy(self) -> Error {
        Error::Busy(match self {
            Lack::Limit => {
                "as many bytes are lent as session.lend_limit allows\n\
                 the other program has to let arrays go, or send() waits until it does"
            }
            Lack::Pieces => {
                "8,192 pieces of memory are lent, or 16 GiB\n\
                 the other program has to let arrays go, or send() waits until it does"
            }
            Lack::Unnoted => {
                "the other program has yet to take note of memory that it was lent before\n\
                 it does when it receives; send() waits until it does"
            }
        })
    }
}

/// A place in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) arena: u32,
    pub(crate) offset: usize,
    /// Of the whole block.
    pub(crate) bytes: usize,
}

/// Memory that was lent to the program here, to be filled and sent.
#[derive(Clone, Debug)]
pub struct Block {
    memory: Arc<Mapping>,
    place: Place,
    bytes: usize,
    /// Shared with the lender, who sees by it whether the program here has let go.
    held: Arc<()>,
}

impl Block {
    /// Its length in bytes, as was asked for.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it was asked for no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its memory, as long as was asked for.
    pub fn region(&self) -> Region<'_> {
        match self.memory.region().part(self.place.offset, self.bytes) {
            Some(region) => region,
            None => unreachable!("a block lies within its arena"),
        }
    }
}

/// A block that is not free.
#[derive(Debug)]
struct Out {
    place: Place,
    /// As was asked for.
    bytes: usize,
    held: Arc<()>,
    /// Slot and generation, once it was sent.
    sent: Option<(u32, u32)>,
}

/// The slots of the table, and which generation each is at.
#[derive(Debug, Default)]
struct Slots {
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Slots {
    fn take(&mut self) -> Option<(u32, u32)> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.generations.len() < SLOTS as usize => {
                self.generations.push(0);
                self.generations.len() as u32 - 1
            }
            None => return None,
        };
        let generation = &mut self.generations[slot as usize];
        // Zero is what a fresh table holds.
        *generation = generation.wrapping_add(1).max(1);
        Some((slot, *generation))
    }
}

/// Memory that was made for lending, and when it last was lent.
#[derive(Debug)]
struct Arena {
    memory: Arc<Mapping>,
    used_ns: u64,
}

/// One side's arenas, and what of them is out.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    table: Option<Mapping>,
    arenas: BTreeMap<u32, Arena>,
    next_arena: u32,
    /// How many leases had been given back when it was last looked.
    returned: u32,
    arena_bytes: usize,
    /// How many blocks of each size there are.
    made: BTreeMap<usize, usize>,
    free: BTreeMap<usize, Vec<Place>>,
    out: Vec<Out>,
    /// The sum of the bytes that were asked for.
    out_bytes: u64,
    slots: Slots,
    /// The reader was last seen to keep what it is lent: waiting for it does not pay.
    pub(crate) reader_keeps: bool,
    /// Given up, by number and size, and the other side not told yet.
    pub(crate) retired: Vec<(u32, usize)>,
}

/// The size of the block that holds so many bytes: steps of an eighth above 1 MiB.
fn block_bytes(bytes: usize) -> Option<usize> {
    if bytes <= SHARED_UP_TO {
        return Some(bytes.max(SMALLEST).next_power_of_two());
    }
    let step = (1 << bytes.ilog2()) / 8;
    bytes.checked_next_multiple_of(step)
}

impl Lender {
    /// Bytes that are out, or being filled.
    pub(crate) fn lent_bytes(&self) -> u64 {
        self.out_bytes
    }

    /// Whether a block for so many bytes would be a new one, though as many of its size are out as a
    /// reader who keeps up needs.
    pub(crate) fn is_ahead(&self, bytes: usize) -> bool {
        let Some(whole) = block_bytes(bytes).filter(|whole| *whole >= WORTH_WAITING) else {
            return false;
        };
        self.free.get(&whole).is_none_or(Vec::is_empty)
            && self.out.iter().filter(|out| out.place.bytes == whole).count()
                >= WINDOW_BLOCKS[usize::from(whole > SHARED_UP_TO)]
    }

    /// A block of at least so many bytes, or why there is none until something changes.
    pub(crate) fn lend(
        &mut self,
        link: &Link,
        bytes: usize,
        limit: u64,
    ) -> Result<Result<Block, Lack>, Error> {
        let whole = block_bytes(bytes).filter(|_| bytes as u64 <= limit);
        let Some(whole) = whole else {
            return Err(Error::BeyondLimit { bytes: bytes as u64, limit });
        };
        self.reclaim_newest();
        let is_beyond = |lender: &Lender| lender.out_bytes + bytes as u64 > limit;
        if self.free.get(&whole).is_none_or(Vec::is_empty) || is_beyond(self) {
            self.reclaim();
        }
        if is_beyond(self) {
            return Ok(Err(Lack::Limit));
        }
        if self.free.get(&whole).is_none_or(Vec::is_empty) {
            if (self.arena_bytes + whole) as u64 > limit {
                self.retire_idle(0);
            }
            if let Some(lack) = self.grow(link, whole)? {
                return Ok(Err(lack));
            }
        }
        let place = self.free.get_mut(&whole).and_then(Vec::pop);
        let arena = place.and_then(|place| self.arenas.get_mut(&place.arena));
        let (Some(place), Some(arena)) = (place, arena) else {
            unreachable!("a free place lies in an arena that there is")
        };
        arena.used_ns = coarse_clock_ns();
        let memory = Arc::clone(&arena.memory);
        let held = Arc::new(());
        self.out_bytes += bytes as u64;
        self.out.push(Out { place, bytes, held: Arc::clone(&held), sent: None });
        Ok(Ok(Block { memory, place, bytes, held }))
    }

    /// Gives a block a slot: it is about to be sent. `None` if all slots are out; an error if it
    /// was sent before.
    pub(crate) fn assign(&mut self, block: &Block) -> Result<Option<Terms>, Error> {
        // Most were lent a moment ago.
        let mut newest_first = self.out.iter_mut().rev();
        let Some(out) = newest_first.find(|out| Arc::ptr_eq(&out.held, &block.held)) else {
            return Err(Error::NotLendable("this memory was lent by another session"));
        };
        if out.sent.is_some() {
            return Err(Error::NotLendable("this memory was sent before"));
        }
        let Some((slot, generation)) = self.slots.take() else { return Ok(None) };
        out.sent = Some((slot, generation));
        let Place { arena, offset, .. } = block.place;
        Ok(Some(Terms {
            arena,
            slot,
            generation,
            offset: offset as u64,
            bytes: block.bytes as u64,
        }))
    }

    /// Takes back a slot whose record was not written after all.
    pub(crate) fn revoke(&mut self, terms: &Terms) {
        let sent = Some((terms.slot, terms.generation));
        for out in self.out.iter_mut().filter(|out| out.sent == sent) {
            out.sent = None;
        }
        self.slots.free.push(terms.slot);
    }

    /// Finds what came back, or was never sent and let go.
    pub(crate) fn reclaim(&mut self) -> bool {
        self.reclaim_from(0)
    }

    /// The same, among those that were lent last: they are the ones that are in the cache.
    fn reclaim_newest(&mut self) {
        let Some(returns) = self.table.as_ref().and_then(|table| Returns::new(table.region()))
        else {
            return;
        };
        let count = returns.count();
        if count != self.returned {
            self.returned = count;
            self.reclaim_from(self.out.len().saturating_sub(NEWEST));
        }
    }

    fn reclaim_from(&mut self, first: usize) -> bool {
        let Some(returns) = self.table.as_ref().and_then(|table| Returns::new(table.region()))
        else {
            return false;
        };
        let before = self.out.len();
        let (free, slots) = (&mut self.free, &mut self.slots);
        let out_bytes = &mut self.out_bytes;
        let mut newest = self.out.split_off(first);
        newest.retain(|out| {
            let is_back =
                out.sent.is_none_or(|(slot, generation)| returns.is_back(slot, generation));
            if !is_back || Arc::strong_count(&out.held) > 1 {
                return true;
            }
            *out_bytes -= out.bytes as u64;
            slots.free.extend(out.sent.map(|(slot, _)| slot));
            free.entry(out.place.bytes).or_default().push(out.place);
            false
        });
        self.out.append(&mut newest);
        let some_came = self.out.len() < before;
        self.reader_keeps &= !some_came;
        some_came
    }

    /// Makes an arena of blocks of this size, or says why there can be none now.
    fn grow(&mut self, link: &Link, whole: usize) -> Result<Option<Lack>, Error> {
        if !self.make_table(link)? {
            return Ok(Some(Lack::Unnoted));
        }
        let made = self.made.entry(whole).or_default();
        let blocks = match whole {
            ..=SHARED_UP_TO => (*made).clamp(FIRST_SHARED, LARGEST_SHARED_ARENA / whole),
            _ => 1,
        };
        let bytes = blocks * whole;
        let retired_bytes: usize = self.retired.iter().map(|(_, bytes)| bytes).sum();
        if self.arenas.len() + self.retired.len() >= MOST_ARENAS
            || (self.arena_bytes + retired_bytes + bytes) as u64 > MOST_ARENA_BYTES
        {
            return Ok(Some(Lack::Pieces));
        }
        let (memory, file) = memory::create("alongside-lease", bytes, Access::Lease)
            .map_err(Error::os("reserving memory to lend"))?;
        let number = self.next_arena;
        if !announce(link, Kind::LeaseArena, number, bytes as u64, &file)? {
            return Ok(Some(Lack::Unnoted));
        }
        *made += blocks;
        self.next_arena += 1;
        self.arena_bytes += bytes;
        let arena = Arena { memory: Arc::new(memory), used_ns: coarse_clock_ns() };
        self.arenas.insert(number, arena);
        // The lowest is taken first.
        let places = (0..blocks).rev();
        self.free.entry(whole).or_default().extend(places.map(|i| Place {
            arena: number,
            offset: i * whole,
            bytes: whole,
        }));
        Ok(None)
    }

    /// Gives back what has lain idle; everything, if nobody is there any more who would read it.
    pub(crate) fn give_up_idle(&mut self, is_peer_over: bool) {
        if is_peer_over {
            *self = Lender::default();
        } else {
            self.reclaim();
            self.retire_idle(IDLE_NS);
        }
    }

    pub(crate) fn has_arenas(&self) -> bool {
        !self.arenas.is_empty() || !self.retired.is_empty()
    }

    /// Gives up arenas of which nothing is out, nor was for `age_ns`; the other side has yet to be told
    /// of their numbers.
    fn retire_idle(&mut self, age_ns: u64) {
        let now = coarse_clock_ns();
        let out: BTreeSet<u32> = self.out.iter().map(|out| out.place.arena).collect();
        let is_idle = |(number, arena): (&u32, &Arena)| {
            (!out.contains(number) && now - arena.used_ns >= age_ns).then_some(*number)
        };
        let idle: Vec<u32> = self.arenas.iter().filter_map(is_idle).collect();
        for number in idle {
            for (whole, places) in &mut self.free {
                let before = places.len();
                places.retain(|place| place.arena != number);
                *self.made.entry(*whole).or_default() -= before - places.len();
            }
            if let Some(arena) = self.arenas.remove(&number) {
                self.arena_bytes -= arena.memory.len();
                self.retired.push((number, arena.memory.len()));
            }
        }
    }

    fn make_table(&mut self, link: &Link) -> Result<bool, Error> {
        if self.table.is_some() {
            return Ok(true);
        }
        let bytes = RETURNS_BYTES.next_multiple_of(4096);
        let (table, file) = memory::create("alongside-returns", bytes, Access::ReadWrite)
            .map_err(Error::os("reserving the table of returns"))?;
        let is_told = announce(link, Kind::Returns, 0, bytes as u64, &file)?;
        if is_told {
            self.table = Some(table);
        }
        Ok(is_told)
    }
}

/// What a record says of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) arena: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Pieces of sixteen bytes that terms take in a record.
pub(crate) const TERMS_WORDS: u64 = 2;

impl Terms {
    fn words(&self) -> [u64; 4] {
        let slot = u64::from(self.generation) << 32 | u64::from(self.slot);
        [self.arena.into(), slot, self.offset, self.bytes]
    }

    pub(crate) fn from_words(words: [[u64; 2]; 2]) -> Terms {
        let [[arena, slot], [offset, bytes]] = words;
        // An arena beyond u32 is none that was announced.
        let arena = u32::try_from(arena).unwrap_or(u32::MAX);
        Terms { arena, slot: slot as u32, generation: (slot >> 32) as u32, offset, bytes }
    }
}

/// Bytes of such a payload.
pub(crate) fn payload_bytes(leases: usize, body: usize) -> usize {
    16 + 32 * leases + body
}

/// A leased message's payload: how many leases, their terms, the message itself.
pub(crate) fn payload(all: &[Terms], body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(payload_bytes(all.len(), body.len()));
    payload.extend((all.len() as u64).to_le_bytes());
    payload.extend([0; 8]);
    payload.extend(all.iter().flat_map(|terms| terms.words()).flat_map(u64::to_le_bytes));
    payload.extend(body);
    payload
}

/// Sends memory to the other side; false if that cannot be done now.
fn announce(link: &Link, kind: Kind, a: u32, c: u64, file: &OwnedFd) -> Result<bool, Error> {
    let packet = Packet { kind, a, b: 0, c };
    match packet.send(&link.control, &[file.as_fd()]) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(Errno::PIPE | Errno::CONNRESET) => {
            link.set_peer_over();
            Ok(false)
        }
        Err(errno) => Err(Error::os("sending a descriptor to the other program")(errno)),
    }
}
