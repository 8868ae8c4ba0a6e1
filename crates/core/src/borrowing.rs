//! Borrowing: arrays that lie in the other program's memory.
//!
//! A [`Lease`] is a look at a place in an arena that the other side keeps; the arena stays mapped as long
//! as there is one, whatever becomes of the session and of the lender. What a message says of places is
//! checked against what is mapped; the bytes therein are the lender's business.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use alongside_shm::{RETURNS_BYTES, Region, Returns, SLOTS};
use alongside_sys::fork::Heirloom;
use alongside_sys::lock::Timed;
use alongside_sys::memory::{self, Access, Mapping};

use crate::error::Error;
use crate::lending::{self, Terms};
use crate::link::Link;

/// What a hostile lender may make us map, in files.
const MOST_ARENAS: usize = 2 * lending::MOST_ARENAS;
/// And in bytes.
const MOST_BYTES: u64 = 2 * lending::MOST_ARENA_BYTES;

/// Bytes of the other program's memory, to be read for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    memory: Arc<Mapping>,
    terms: Terms,
    link: Weak<Link>,
    /// A forked child has it, too; taken only when it is dropped.
    heirloom: Option<Heirloom>,
}

/// Leases that nobody here looks at any more, but forked children may.
pub(crate) type Inherited = Timed<Vec<(Heirloom, Terms)>>;

impl Lease {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.terms.bytes
    }

    /// The memory.
    pub fn region(&self) -> Region<'_> {
        match self.memory.region().part(self.terms.offset as usize, self.terms.bytes as usize) {
            Some(region) => region,
            None => unreachable!("checked when the lease began"),
        }
    }
}

impl Drop for Lease {
    /// Gives it back, if there is anybody to give it to. Any thread may do it, at any moment: nothing
    /// here waits, or takes a lock but for moments.
    fn drop(&mut self) {
        if !self.memory.is_ours() {
            return;
        }
        let Some(link) = self.link.upgrade() else { return };
        match self.heirloom.take() {
            Some(heirloom) if heirloom.has_heirs() => {
                link.inherited.lock_for_sure().push((heirloom, self.terms));
            }
            _ => give_back(&link, self.terms),
        }
    }
}

/// Gives back what forked children have looked at, and do so no more.
pub(crate) fn give_back_inherited(link: &Link) {
    let Some(mut inherited) = link.inherited.try_lock() else { return };
    inherited.retain(|(heirloom, terms)| {
        let is_kept = heirloom.has_heirs();
        if !is_kept {
            give_back(link, *terms);
        }
        is_kept
    });
}

fn give_back(link: &Link, terms: Terms) {
    let Some(table) = link.returns.get() else { return };
    if let Some(returns) = Returns::new(table.region()) {
        returns.give_back(terms.slot, terms.generation);
        if link.incoming().nudge_producer() {
            let _ = link.ring_space();
        }
    }
}

/// The other side's arenas, as far as they are mapped here.
#[derive(Debug, Default)]
pub(crate) struct Borrower {
    arenas: BTreeMap<u32, Arc<Mapping>>,
    bytes: u64,
}

impl Borrower {
    /// Maps an arena that was announced.
    pub(crate) fn add(&mut self, number: u32, bytes: u64, file: &OwnedFd) -> Result<(), Error> {
        if self.arenas.contains_key(&number) || self.arenas.len() >= MOST_ARENAS {
            return Err(Error::Corrupt(format!(
                "the other program announced lease arena {number} anew, or more than {MOST_ARENAS}"
            )));
        }
        if bytes > MOST_BYTES - self.bytes {
            return Err(Error::Corrupt(format!(
                "the other program announced a lease arena of {bytes} bytes beside {} others, the \
                 bound is {MOST_BYTES}",
                self.bytes
            )));
        }
        let mapping = memory::adopt(file, Access::Lease, usize::try_from(bytes).unwrap_or(0))?;
        if mapping.len() as u64 != bytes {
            return Err(memory::BadFile::Property("size", mapping.len() as u64, bytes).into());
        }
        self.bytes += bytes;
        self.arenas.insert(number, Arc::new(mapping));
        Ok(())
    }

    /// Lets an arena go of which the lender has nothing out.
    pub(crate) fn retire(&mut self, number: u64) -> Result<(), Error> {
        let arena = u32::try_from(number).ok().and_then(|number| self.arenas.remove(&number));
        match arena {
            Some(arena) => {
                self.bytes -= arena.len() as u64;
                Ok(())
            }
            None => Err(Error::Corrupt(format!(
                "the other program retired lease arena {number}, which it has not announced"
            ))),
        }
    }

    pub(crate) fn has_arenas(&self) -> bool {
        !self.arenas.is_empty()
    }

    pub(crate) fn knows(&self, arena: u32) -> bool {
        self.arenas.contains_key(&arena)
    }

    /// Begins a lease on the terms that a record names.
    pub(crate) fn lease(&self, terms: Terms, link: &Weak<Link>) -> Result<Lease, Error> {
        let arena = self.arenas.get(&terms.arena);
        let fits = arena.is_some_and(|arena| {
            terms.offset.checked_add(terms.bytes).is_some_and(|end| end <= arena.len() as u64)
                && terms.offset % 8 == 0
        });
        let (Some(arena), true, true) = (arena, fits, terms.slot < SLOTS) else {
            return Err(Error::Corrupt(format!(
                "the other program lent bytes {}..+{} of arena {} in slot {}; that arena has {} bytes",
                terms.offset,
                terms.bytes,
                terms.arena,
                terms.slot,
                arena.map_or(0, |arena| arena.len()),
            )));
        };
        let heirloom = Some(Heirloom::new());
        Ok(Lease { memory: Arc::clone(arena), terms, link: Weak::clone(link), heirloom })
    }
}

/// Maps the table in which leases are given back.
pub(crate) fn adopt_table(
    cell: &OnceLock<Mapping>,
    bytes: u64,
    file: &OwnedFd,
) -> Result<(), Error> {
    let wanted = RETURNS_BYTES.next_multiple_of(4096);
    let mapping = memory::adopt(file, Access::ReadWrite, wanted)?;
    if bytes != wanted as u64 || mapping.len() != wanted {
        return Err(memory::BadFile::Property("size", mapping.len() as u64, wanted as u64).into());
    }
    cell.set(mapping).map_err(|_| {
        Error::Corrupt("the other program announced its table of returns twice".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn borrower() -> (Borrower, Mapping) {
        let (mine, file) = memory::create("test", 8192, Access::Lease).unwrap();
        let mut borrower = Borrower::default();
        borrower.add(3, 8192, &file).unwrap();
        (borrower, mine)
    }

    #[test]
    fn a_lease_outlives_the_arena_it_was_made_from() {
        let (borrower, mine) = borrower();
        let terms = Terms { arena: 3, slot: 0, generation: 1, offset: 4096, bytes: 4 };
        let lease = borrower.lease(terms, &Weak::new()).unwrap();
        drop(borrower);
        drop(mine);
        assert_eq!(lease.region().len(), 4);
        assert_eq!(lease.bytes(), 4);
    }

    #[test]
    fn terms_outside_what_is_mapped_are_corrupt() {
        let (borrower, _mine) = borrower();
        let good = Terms { arena: 3, slot: 0, generation: 1, offset: 8, bytes: 8184 };
        assert!(borrower.lease(good, &Weak::new()).is_ok());
        for bad in [
            Terms { arena: 4, ..good },
            Terms { slot: SLOTS, ..good },
            Terms { offset: 16, ..good },
            Terms { offset: 4, bytes: 8, ..good },
            Terms { bytes: 8185, ..good },
            Terms { bytes: u64::MAX, ..good },
            Terms { offset: u64::MAX - 7, ..good },
        ] {
            let refused = borrower.lease(bad, &Weak::new());
            assert!(matches!(refused, Err(Error::Corrupt(_))), "{bad:?}");
        }
    }

    #[test]
    fn an_arena_is_announced_once_and_retired_once() {
        let (mut borrower, _mine) = borrower();
        let (_other, file) = memory::create("test", 4096, Access::Lease).unwrap();
        assert!(matches!(borrower.add(3, 4096, &file), Err(Error::Corrupt(_))));
        assert!(borrower.add(4, 8192, &file).is_err(), "another size than was said");
        assert!(matches!(borrower.add(4, MOST_BYTES, &file), Err(Error::Corrupt(_))));
        assert!(matches!(borrower.add(4, u64::MAX, &file), Err(Error::Corrupt(_))));
        assert!(borrower.retire(3).is_ok());
        assert!(matches!(borrower.retire(3), Err(Error::Corrupt(_))));
        assert!(matches!(borrower.retire(1 << 40), Err(Error::Corrupt(_))));
    }
}
