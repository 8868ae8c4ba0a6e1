//! What holds two processes together: the memory, the bells, the control socket, the handle on the
//! other process, and the set in which a sleeper watches them all.
//!
//! A link is shared by whoever uses the session at the moment and goes when the last of them lets go,
//! so a session can be closed under a sleeping thread without pulling anything away from it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use alongside_shm::{Presence, Region, Ring, SessionLayout};
use alongside_sys::bell::{Ear, Ringer};
use alongside_sys::memory::Mapping;
use alongside_sys::poll::{Beacon, PollSet, Watch};
use alongside_sys::process::Process;
use alongside_sys::{Errno, Fd};

use crate::borrowing::Inherited;
use crate::error::Error;

/// Which of the two processes made the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Creator = 0,
    Joiner = 1,
}

/// What a poll set reports.
pub(crate) mod token {
    pub(crate) const BELL: u64 = 1;
    pub(crate) const CONTROL: u64 = 2;
    pub(crate) const PEER: u64 = 3;
    pub(crate) const BEACON: u64 = 4;
}

/// The parts of a link, as the handshake gathers them.
pub(crate) struct Parts {
    pub(crate) memory: Mapping,
    pub(crate) layout: SessionLayout,
    pub(crate) side: Side,
    pub(crate) control: OwnedFd,
    pub(crate) data_bell: Ringer,
    pub(crate) space_bell: Ringer,
    pub(crate) data_ear: OwnedFd,
    pub(crate) space_ear: OwnedFd,
    pub(crate) peer: Arc<Process>,
}

/// The connection of a session.
#[derive(Debug)]
pub(crate) struct Link {
    memory: Mapping,
    pub(crate) layout: SessionLayout,
    side: Side,
    pub(crate) control: Fd,
    data_bell: Ringer,
    space_bell: Ringer,
    pub(crate) data_ear: Ear,
    pub(crate) space_ear: Ear,
    pub(crate) set: PollSet,
    pub(crate) peer: Arc<Process>,
    peer_over: AtomicBool,
    ears_over: AtomicBool,
    finish_seen: AtomicBool,
    beacon: OnceLock<Beacon>,
    /// Where this side gives back what the other lends it.
    pub(crate) returns: OnceLock<Mapping>,
    /// What is not given back yet, for forked children may look at it.
    pub(crate) inherited: Inherited,
    /// Whether the first ring of the data bell is followed by a yield.
    is_new: AtomicBool,
}

impl Link {
    pub(crate) fn new(parts: Parts) -> Result<Link, Errno> {
        let set = PollSet::new()?;
        let (data_ear, space_ear) = (Ear::new(parts.data_ear)?, Ear::new(parts.space_ear)?);
        let control = Fd::new(parts.control)?;
        set.add(&data_ear, token::BELL, Watch::Edge)?;
        set.add(&control, token::CONTROL, Watch::Level)?;
        set.add(&*parts.peer, token::PEER, Watch::Level)?;
        Ok(Link {
            memory: parts.memory,
            layout: parts.layout,
            side: parts.side,
            control,
            data_bell: parts.data_bell,
            space_bell: parts.space_bell,
            data_ear,
            space_ear,
            set,
            peer: parts.peer,
            peer_over: AtomicBool::new(false),
            ears_over: AtomicBool::new(false),
            finish_seen: AtomicBool::new(false),
            beacon: OnceLock::new(),
            returns: OnceLock::new(),
            inherited: Inherited::new(Vec::new()),
            is_new: AtomicBool::new(parts.side == Side::Joiner),
        })
    }

    /// Whether this side joined what the other made.
    pub(crate) fn is_joiner(&self) -> bool {
        self.side == Side::Joiner
    }

    /// The ring that this side writes.
    #[inline]
    pub(crate) fn outgoing(&self) -> Ring<'_, Region<'_>> {
        self.layout.ring(self.memory.region(), self.side as usize)
    }

    /// The ring that this side reads.
    #[inline]
    pub(crate) fn incoming(&self) -> Ring<'_, Region<'_>> {
        self.layout.ring(self.memory.region(), 1 - self.side as usize)
    }

    pub(crate) fn own_presence(&self) -> &Presence {
        self.layout.presence(self.memory.region(), self.side as usize)
    }

    pub(crate) fn peer_presence(&self) -> &Presence {
        self.layout.presence(self.memory.region(), 1 - self.side as usize)
    }

    /// Wakes the other side's reader.
    pub(crate) fn ring_data(&self) -> Result<(), Error> {
        let rung = self.data_bell.ring().map_err(Error::os("ringing the other program"));
        // A starter that waits for a program's first word sits on that program's processor and is not
        // let in there by being woken: without the yield it waits 0.6 to 1.4 ms, with it 0.02.
        if self.is_new.load(Ordering::Relaxed) && self.is_new.swap(false, Ordering::Relaxed) {
            alongside_sys::yield_now();
        }
        rung
    }

    /// Wakes the other side's writer.
    pub(crate) fn ring_space(&self) -> Result<(), Error> {
        self.space_bell.ring().map_err(Error::os("ringing the other program"))
    }

    /// Whether the other process was seen to be gone, or to have let go of the session.
    pub(crate) fn is_peer_over(&self) -> bool {
        self.peer_over.load(Ordering::Acquire)
    }

    /// Remembers that it is, and stops watching it.
    ///
    /// Whoever sleeps in the set or watches it is told by the beacon from then on. Where none can be
    /// made, the two stay in the set, which is then readable for ever, too.
    pub(crate) fn set_peer_over(&self) {
        if self.peer_over.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Ok(beacon) = self.beacon() {
            beacon.light();
            self.set.remove(&self.control);
            self.set.remove(&*self.peer);
        }
    }

    /// Whether the other side has closed its bells: the ears are hung up, and will never wake again.
    pub(crate) fn are_ears_over(&self) -> bool {
        self.ears_over.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ears_over(&self) {
        self.ears_over.store(true, Ordering::Relaxed);
    }

    /// True once: for the first who sees that the other side has finished.
    pub(crate) fn is_finish_news(&self) -> bool {
        !self.finish_seen.swap(true, Ordering::Relaxed)
    }

    /// Asks the kernel whether the other process has ended.
    pub(crate) fn look_for_peer(&self) -> bool {
        if !self.is_peer_over() && self.peer.is_over() {
            self.set_peer_over();
        }
        self.is_peer_over()
    }

    /// The beacon that makes the set readable at our own wish, if there is one already.
    pub(crate) fn made_beacon(&self) -> Option<&Beacon> {
        self.beacon.get()
    }

    /// The beacon; made when first needed, so that a session without need costs a descriptor less.
    pub(crate) fn beacon(&self) -> Result<&Beacon, Errno> {
        if let Some(beacon) = self.beacon.get() {
            return Ok(beacon);
        }
        let beacon = Beacon::new()?;
        // Two threads may both have made one; the set gets only the one that is kept.
        if self.beacon.set(beacon).is_ok()
            && let Some(beacon) = self.beacon.get()
        {
            self.set.add(beacon, token::BEACON, Watch::Level)?;
        }
        self.beacon.get().ok_or(Errno::MFILE)
    }
}
