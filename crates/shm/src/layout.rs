#![allow(unsafe_code)]
//! Where things lie in a session's memory file, and how one tells that a file is such a memory.
//!
//! ```text
//! 0      Header      what this is, of which version, how large
//! 128    Presence    of the creator        256  of the joiner
//! 384    Lane        creator → joiner      896  joiner → creator
//! 4096   bytes of the first ring, then bytes of the second
//! ```
//! The header is written first and its `state` last, with Release; a reader that sees `READY` sees
//! the rest. The layout has a version number of its own and a fingerprint over its offsets and
//! sizes, so that a build which disagrees about a single field is told so.
//!
//! States of `state`: 0 absent → 1 being made → 2 ready. The whole text is `spec/memory-v1.md`.

use crate::region::Region;
use crate::ring::Ring;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Version of the layout.
pub const VERSION: u32 = 1;
/// Bytes before the first ring.
pub const HEADER_BYTES: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"ALONGSD\x01");
const BEING_MADE: u32 = 1;
const READY: u32 = 2;
const PRESENCE_AT: [usize; 2] = [128, 256];
const LANE_AT: [usize; 2] = [384, 896];
const SMALLEST_RING: u64 = 4096;
const LARGEST_RING: u64 = 1 << 30;

/// What the memory is. Written once by its creator.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Header {
    magic: AtomicU64,
    state: AtomicU32,
    version: AtomicU32,
    fingerprint: AtomicU64,
    total_bytes: AtomicU64,
    ring_bytes: [AtomicU64; 2],
    max_message_bytes: AtomicU64,
    creator_pid: AtomicU32,
}

/// What one side tells about itself, for the other's decisions: whether to spin, how to send.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Presence {
    /// The processor it last ran on, plus one; 0 as long as it has not said.
    cpu: AtomicU32,
    /// 1 once it has asked to look at bytes where they lie.
    wants_views: AtomicU32,
}

impl Presence {
    /// Says that this side looks at bytes where they lie, so that long ones had better be lent.
    pub fn tell_wants_views(&self) {
        self.wants_views.store(1, Ordering::Relaxed);
    }

    /// Whether the other side does.
    pub fn wants_views(&self) -> bool {
        self.wants_views.load(Ordering::Relaxed) != 0
    }

    /// Says where this side runs.
    pub fn tell_cpu(&self, cpu: u32) {
        self.cpu.store(cpu.wrapping_add(1), Ordering::Relaxed);
    }

    /// Where the other side last ran.
    pub fn cpu(&self) -> Option<u32> {
        self.cpu.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Written by the producer of a lane only.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct ProducerLine {
    pub(crate) head: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) finished: AtomicU32,
}

/// Written by the consumer of a lane only.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct ConsumerLine {
    pub(crate) tail: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) blocks_returned: AtomicU64,
}

/// "Ring me": see the states in `ring.rs`.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Flag {
    pub(crate) armed: AtomicU32,
}

/// The positions and flags of one direction. Each part has cache lines of its own: two, because
/// processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Lane {
    pub(crate) producer: ProducerLine,
    pub(crate) consumer: ConsumerLine,
    pub(crate) data_flag: Flag,
    pub(crate) space_flag: Flag,
}

/// FNV-1a over every offset and size that both sides must agree on.
pub const FINGERPRINT: u64 = {
    use core::mem::offset_of;
    let facts = [
        size_of::<Header>(),
        offset_of!(Header, fingerprint),
        offset_of!(Header, creator_pid),
        size_of::<Presence>(),
        offset_of!(Presence, wants_views),
        size_of::<Lane>(),
        offset_of!(Lane, consumer),
        offset_of!(Lane, data_flag),
        offset_of!(Lane, space_flag),
        offset_of!(ProducerLine, finished),
        offset_of!(ConsumerLine, blocks_returned),
        PRESENCE_AT[0],
        PRESENCE_AT[1],
        LANE_AT[0],
        LANE_AT[1],
        HEADER_BYTES,
        crate::record::RECORD_BYTES as usize,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < facts.len() {
        hash = (hash ^ facts[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
};

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() == 128 && size_of::<Presence>() == 128 && size_of::<Lane>() == 512);
    assert!(LANE_AT[1] + size_of::<Lane>() <= HEADER_BYTES);
};

/// Why a piece of memory is not a session's memory for this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Nothing was written there.
    Absent,
    /// Its creator has not finished it.
    Unfinished,
    /// Something else: the first word.
    Foreign(u64),
    /// Another version of the layout.
    OtherVersion(u32),
    /// The same version, yet other offsets or sizes: the fingerprint.
    OtherFingerprint(u64),
    /// A field contradicts the file.
    Torn {
        /// The field.
        what: &'static str,
        /// What it says.
        found: u64,
        /// What it would have to be, or may be at most.
        expected: u64,
    },
}

/// The sizes of a session's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLayout {
    /// Bytes of the rings, creator → joiner and joiner → creator.
    pub ring_bytes: [u64; 2],
    /// The longest message that either side sends.
    pub max_message_bytes: u64,
}

impl SessionLayout {
    /// Bytes of the whole memory file.
    pub const fn total_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.ring_bytes[0] + self.ring_bytes[1]
    }

    /// Writes the header into fresh memory, `state` last.
    ///
    /// # Panics
    /// If `memory` is not as long as [`SessionLayout::total_bytes`].
    pub fn create(&self, memory: Region<'_>, creator_pid: u32) {
        assert_eq!(memory.len() as u64, self.total_bytes());
        let header = header(&memory);
        header.state.store(BEING_MADE, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        header.fingerprint.store(FINGERPRINT, Ordering::Relaxed);
        header.total_bytes.store(self.total_bytes(), Ordering::Relaxed);
        header.ring_bytes[0].store(self.ring_bytes[0], Ordering::Relaxed);
        header.ring_bytes[1].store(self.ring_bytes[1], Ordering::Relaxed);
        header.max_message_bytes.store(self.max_message_bytes, Ordering::Relaxed);
        header.creator_pid.store(creator_pid, Ordering::Relaxed);
        // SYNC create → verify.
        header.state.store(READY, Ordering::Release);
    }

    /// Reads and checks the header of memory that another process made.
    pub fn verify(memory: Region<'_>) -> Result<SessionLayout, LayoutError> {
        if memory.len() < HEADER_BYTES {
            let found = memory.len() as u64;
            return Err(LayoutError::Torn {
                what: "file size",
                found,
                expected: HEADER_BYTES as u64,
            });
        }
        let header = header(&memory);
        // SYNC create → verify.
        let state = header.state.load(Ordering::Acquire);
        let magic = header.magic.load(Ordering::Relaxed);
        match (magic, state) {
            (0, 0) => return Err(LayoutError::Absent),
            (MAGIC, READY) => {}
            (0 | MAGIC, BEING_MADE) => return Err(LayoutError::Unfinished),
            (MAGIC, found) => {
                return Err(LayoutError::Torn {
                    what: "state",
                    found: found.into(),
                    expected: READY.into(),
                });
            }
            (found, _) => return Err(LayoutError::Foreign(found)),
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(LayoutError::OtherVersion(version));
        }
        let fingerprint = header.fingerprint.load(Ordering::Relaxed);
        if fingerprint != FINGERPRINT {
            return Err(LayoutError::OtherFingerprint(fingerprint));
        }
        let layout = SessionLayout {
            ring_bytes: [
                ring_size(header.ring_bytes[0].load(Ordering::Relaxed))?,
                ring_size(header.ring_bytes[1].load(Ordering::Relaxed))?,
            ],
            max_message_bytes: header.max_message_bytes.load(Ordering::Relaxed),
        };
        let said = header.total_bytes.load(Ordering::Relaxed);
        for found in [said, memory.len() as u64] {
            if found != layout.total_bytes() {
                let expected = layout.total_bytes();
                return Err(LayoutError::Torn { what: "total length", found, expected });
            }
        }
        Ok(layout)
    }

    /// The ring of one direction: 0 creator → joiner, 1 joiner → creator.
    ///
    /// # Panics
    /// If `memory` is shorter than this layout says.
    pub fn ring<'m>(&self, memory: Region<'m>, direction: usize) -> Ring<'m, Region<'m>> {
        let at = HEADER_BYTES as u64 + if direction == 0 { 0 } else { self.ring_bytes[0] };
        let data = part(&memory, at as usize, self.ring_bytes[direction] as usize);
        // SAFETY: a Lane is made of atomics only.
        let lane = unsafe { part(&memory, LANE_AT[direction], size_of::<Lane>()).of_atomics() };
        Ring::new(within(lane), data)
    }

    /// What one side tells about itself: 0 the creator, 1 the joiner.
    ///
    /// # Panics
    /// If `memory` is shorter than a header.
    pub fn presence<'m>(&self, memory: Region<'m>, side: usize) -> &'m Presence {
        // SAFETY: a Presence is made of atomics only.
        within(unsafe { part(&memory, PRESENCE_AT[side], size_of::<Presence>()).of_atomics() })
    }
}

fn ring_size(found: u64) -> Result<u64, LayoutError> {
    let what = "ring size";
    if !found.is_power_of_two() || found < SMALLEST_RING {
        return Err(LayoutError::Torn { what, found, expected: SMALLEST_RING });
    }
    if found > LARGEST_RING {
        return Err(LayoutError::Torn { what, found, expected: LARGEST_RING });
    }
    Ok(found)
}

fn header<'m>(memory: &Region<'m>) -> &'m Header {
    // SAFETY: a Header is made of atomics only.
    within(unsafe { memory.of_atomics() })
}

fn part<'m>(memory: &Region<'m>, at: usize, bytes: usize) -> Region<'m> {
    within(memory.part(at, bytes))
}

/// The sizes were checked when the memory was made or verified, and a mapping does not shrink.
fn within<T>(found: Option<T>) -> T {
    match found {
        Some(found) => found,
        None => unreachable!("the memory is shorter than its own layout"),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    const LAYOUT: SessionLayout =
        SessionLayout { ring_bytes: [4096, 8192], max_message_bytes: 1 << 20 };

    #[repr(align(4096))]
    struct Memory([u8; 4096 * 4]);

    fn region(memory: &mut Memory) -> Region<'_> {
        let start = NonNull::from(&mut memory.0).cast();
        // SAFETY: R1, borrowed as long as the region lives.
        unsafe { Region::new(start, 4096 * 4) }
    }

    fn made() -> Box<Memory> {
        let mut memory = Box::new(Memory([0; 4096 * 4]));
        LAYOUT.create(region(&mut memory), 7);
        memory
    }

    #[test]
    fn what_was_created_is_verified() {
        assert_eq!(SessionLayout::verify(region(&mut made())), Ok(LAYOUT));
    }

    #[test]
    fn each_way_of_not_being_a_session_has_its_name() {
        let mut empty = Box::new(Memory([0; 4096 * 4]));
        assert_eq!(SessionLayout::verify(region(&mut empty)), Err(LayoutError::Absent));

        let mut memory = made();
        memory.0[8] = 1;
        assert_eq!(SessionLayout::verify(region(&mut memory)), Err(LayoutError::Unfinished));

        let mut memory = made();
        memory.0[0] ^= 0xff;
        assert!(matches!(SessionLayout::verify(region(&mut memory)), Err(LayoutError::Foreign(_))));

        let mut memory = made();
        memory.0[12] = 9;
        assert_eq!(SessionLayout::verify(region(&mut memory)), Err(LayoutError::OtherVersion(9)));

        let mut memory = made();
        memory.0[16] ^= 1;
        let found = FINGERPRINT ^ 1;
        assert_eq!(
            SessionLayout::verify(region(&mut memory)),
            Err(LayoutError::OtherFingerprint(found))
        );
    }

    #[test]
    fn a_flipped_bit_of_any_size_is_torn() {
        for byte in (24..48).chain([8]) {
            for bit in 0..8 {
                let mut memory = made();
                memory.0[byte] ^= 1 << bit;
                let found = SessionLayout::verify(region(&mut memory));
                assert!(found.is_err(), "byte {byte} bit {bit}: {found:?}");
            }
        }
    }
}
