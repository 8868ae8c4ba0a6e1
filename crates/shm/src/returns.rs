#![allow(unsafe_code)]
//! The table in which a borrower gives back what it was lent: one word for each lease.
//!
//! A lease has a *slot* while it is out, and the slot a generation that the lender counts up each time
//! it uses the slot again. To give a lease back is to store its generation into its slot: no record, no
//! lock, no wait, so whatever collects garbage may do it, on any thread.
//!
//! # Invariants
//! * **T1** the borrower stores a slot's generation after its last look at the lease's bytes; the lender
//!   writes those bytes again only after it has loaded that generation. (SYNC give_back → is_back)
//! * **T2** any other value means "still out". A borrower that scribbles gets back early, or never, what
//!   it was lent itself; nobody else's bytes are in the same blocks.

use crate::region::Region;
use crate::sync::{AtomicU32, Ordering};

/// Leases that may be out at once in one direction.
pub const SLOTS: u32 = 65_536;

#[repr(C)]
struct Table {
    /// How many were given back, wrapping: a lender that sees it unchanged need not look further.
    count: AtomicU32,
    _line: [AtomicU32; 15],
    slots: [AtomicU32; SLOTS as usize],
}

/// Bytes of the table.
pub const RETURNS_BYTES: usize = size_of::<Table>();

/// The table, in shared memory.
#[derive(Clone, Copy)]
pub struct Returns<'m> {
    table: &'m Table,
}

impl<'m> Returns<'m> {
    /// Sees memory as a table; `None` if it is too short for one.
    pub fn new(memory: Region<'m>) -> Option<Returns<'m>> {
        // SAFETY: a Table is made of atomics only.
        unsafe { memory.of_atomics() }.map(|table| Returns { table })
    }

    /// Gives back the lease in `slot`, which is less than [`SLOTS`].
    pub fn give_back(&self, slot: u32, generation: u32) {
        // SYNC give_back → is_back (T1).
        self.table.slots[slot as usize].store(generation, Ordering::Release);
        self.table.count.fetch_add(1, Ordering::Release);
    }

    /// How many were given back so far.
    pub fn count(&self) -> u32 {
        self.table.count.load(Ordering::Acquire)
    }

    /// Whether the lease that had this generation in `slot` has been given back.
    pub fn is_back(&self, slot: u32, generation: u32) -> bool {
        // SYNC give_back → is_back (T1).
        self.table.slots[slot as usize].load(Ordering::Acquire) == generation
    }
}
