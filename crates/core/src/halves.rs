//! What the two sides bring to a session: one the memory, and each two bells.
//!
//! Started or called, a session comes about in the same way: its *creator* makes the memory, its *joiner*
//! verifies and maps it, and each rings the bells of its own and listens to the other's. Only who says
//! what first differs (`start.rs` and `adopt.rs`; `directory/calling.rs` and `directory/listening.rs`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use alongside_shm::SessionLayout;
use alongside_sys::bell::{self, Ringer};
use alongside_sys::memory::{self, Access, Mapping};
use alongside_sys::process::Process;
use alongside_sys::{Errno, own_pid};

use crate::error::Error;
use crate::link::{Link, Parts, Side};

/// Bytes of each ring, where one program starts another.
pub(crate) const STARTED_RING_BYTES: u64 = 256 << 10;
/// And where one calls another, which may have a thousand callers: a quarter of the memory, made in a
/// quarter of the time.
pub(crate) const CALLED_RING_BYTES: u64 = 64 << 10;
/// What a whole session's memory may take: two of the largest rings, and the header.
const MOST_MEMORY_BYTES: usize = (2 << 30) + 4096;

/// The bells that one side rings, and the ears that the other side gets for them.
#[derive(Debug)]
pub(crate) struct Bells {
    data: (Ringer, OwnedFd),
    space: (Ringer, OwnedFd),
}

impl Bells {
    pub(crate) fn new() -> Result<Bells, Errno> {
        Ok(Bells { data: bell::bell()?, space: bell::bell()? })
    }

    /// What the other side gets: the data ear, the space ear.
    pub(crate) fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.data.1.as_fd(), self.space.1.as_fd()]
    }
}

/// Whom a link leads to, and what of it has arrived from there.
pub(crate) struct Other {
    pub(crate) control: OwnedFd,
    /// The data ear, the space ear.
    pub(crate) ears: [OwnedFd; 2],
    pub(crate) peer: Arc<Process>,
}

/// What the creator brings.
#[derive(Debug)]
pub(crate) struct Made {
    memory: Mapping,
    file: OwnedFd,
    layout: SessionLayout,
    bells: Bells,
}

impl Made {
    pub(crate) fn new(ring_bytes: u64, max_message_bytes: u64) -> Result<Made, Errno> {
        let layout = SessionLayout { ring_bytes: [ring_bytes; 2], max_message_bytes };
        let bytes = layout.total_bytes() as usize;
        let (memory, file) = memory::create("alongside-session", bytes, Access::ReadWrite)?;
        layout.create(memory.region(), own_pid());
        Ok(Made { memory, file, layout, bells: Bells::new()? })
    }

    /// What the joiner gets: the memory, the data ear, the space ear.
    pub(crate) fn files(&self) -> [BorrowedFd<'_>; 3] {
        let [data, space] = self.bells.files();
        [self.file.as_fd(), data, space]
    }

    pub(crate) fn link(self, other: Other) -> Result<Link, Errno> {
        link(self.memory, self.layout, Side::Creator, self.bells, other)
    }
}

/// What the joiner has got, verified.
#[derive(Debug)]
pub(crate) struct Joined {
    memory: Mapping,
    layout: SessionLayout,
}

impl Joined {
    pub(crate) fn verify(file: &OwnedFd) -> Result<Joined, Error> {
        let memory = memory::adopt(file, Access::ReadWrite, MOST_MEMORY_BYTES)?;
        let layout = SessionLayout::verify(memory.region())?;
        Ok(Joined { memory, layout })
    }

    pub(crate) fn link(self, bells: Bells, other: Other) -> Result<Link, Errno> {
        link(self.memory, self.layout, Side::Joiner, bells, other)
    }
}

fn link(
    memory: Mapping,
    layout: SessionLayout,
    side: Side,
    bells: Bells,
    other: Other,
) -> Result<Link, Errno> {
    let Other { control, ears: [data_ear, space_ear], peer } = other;
    let (data_bell, space_bell) = (bells.data.0, bells.space.0);
    Link::new(Parts {
        memory,
        layout,
        side,
        control,
        data_bell,
        space_bell,
        data_ear,
        space_ear,
        peer,
    })
}
