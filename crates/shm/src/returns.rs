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

/// Leases that may be out at once in one direction. (Two for the model, which knows every one.)
pub const SLOTS: u32 = if cfg!(loom) { 2 } else { 65_536 };

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

#[cfg(test)]
mod tests {
    #[cfg(loom)]
    use super::*;

    #[cfg(not(loom))]
    mod properties {
        use proptest::prelude::*;

        use super::super::*;

        fn with_table(act: impl FnOnce(Returns<'_>)) {
            let mut memory = vec![0u64; RETURNS_BYTES.div_ceil(8) + 8];
            let start = std::ptr::NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
            // SAFETY: the vector outlives the region and nobody else looks at it.
            act(Returns::new(unsafe { Region::new(start, RETURNS_BYTES) }).unwrap());
        }

        proptest! {
            /// Whatever is given back, in whatever order and however often a slot is used: a lease is
            /// back exactly from when it was given back until its slot is used again.
            #[test]
            fn a_lease_is_back_when_it_was_given_back(uses in prop::collection::vec((0u32..8, any::<bool>()), 0..200)) {
                with_table(|returns| {
                    let mut generations = [0u32; 8];
                    let mut is_back = [false; 8];
                    for (slot, gives_back) in uses {
                        let at = slot as usize;
                        if gives_back && generations[at] > 0 {
                            returns.give_back(slot, generations[at]);
                            is_back[at] = true;
                        } else if generations[at] == 0 || is_back[at] {
                            generations[at] += 1;
                            is_back[at] = false;
                        }
                        for (slot, generation) in (0u32..).zip(generations) {
                            let back = generation > 0 && returns.is_back(slot, generation);
                            assert_eq!(back, is_back[slot as usize]);
                        }
                    }
                });
            }
        }

        #[test]
        fn memory_too_short_for_a_table_is_none() {
            let mut memory = [0u64; 8];
            let start = std::ptr::NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
            // SAFETY: the array outlives the region.
            assert!(Returns::new(unsafe { Region::new(start, 64) }).is_none());
        }
    }

    /// T1, in every interleaving: the lender writes a block again only after the borrower's last look,
    /// and another lease in another slot is no matter of it. loom's cell panics on an overlap.
    #[cfg(loom)]
    fn model(give_back: fn(&Returns<'_>, u32, u32)) {
        use loom::cell::UnsafeCell;
        use loom::sync::Arc;
        use loom::thread;

        struct Lent {
            table: Table,
            block: UnsafeCell<u32>,
        }
        // SAFETY: the cell is what is being checked.
        unsafe impl Sync for Lent {}

        loom::model(move || {
            let lent = Arc::new(Lent {
                table: Table {
                    count: AtomicU32::new(0),
                    _line: std::array::from_fn(|_| AtomicU32::new(0)),
                    slots: std::array::from_fn(|_| AtomicU32::new(0)),
                },
                block: UnsafeCell::new(7),
            });
            let theirs = Arc::clone(&lent);
            let borrower = thread::spawn(move || {
                // SAFETY: as above.
                assert_eq!(theirs.block.with(|block| unsafe { *block }), 7);
                give_back(&Returns { table: &theirs.table }, 0, 1);
            });
            let returns = Returns { table: &lent.table };
            assert!(!returns.is_back(1, 1));
            if returns.is_back(0, 1) {
                // SAFETY: as above.
                lent.block.with_mut(|block| unsafe { *block = 8 });
            }
            borrower.join().unwrap();
            assert!(returns.is_back(0, 1));
        });
    }

    #[cfg(loom)]
    #[test]
    fn a_block_is_written_again_only_after_the_last_look() {
        model(|returns, slot, generation| returns.give_back(slot, generation));
    }

    /// The broken twin: given back without Release, the look may come after the next write.
    #[cfg(loom)]
    #[test]
    #[should_panic]
    fn without_release_it_is_written_under_the_readers_eyes() {
        model(|returns, slot, generation| {
            returns.table.slots[slot as usize].store(generation, Ordering::Relaxed);
        });
    }
}
