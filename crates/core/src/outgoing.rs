//! The writing side of a session: messages become records.
//!
//! A message is either in the ring, whole, or it was never there. A small one is one record. A large
//! one is begun only when nothing but the reader's own pace, or a shortage of memory, can hold it up;
//! if it is held up beyond the deadline it is abandoned, for which sixteen bytes of the ring are always
//! kept free, and the reader forgets what it has of it.

use alongside_shm::{Kind, Producer, Record, Region, Ring};

use crate::error::Error;
use crate::lending::Lender;
use crate::link::Link;
use crate::staging::Stage;

/// The footprint of a record without payload.
pub(crate) const BARE_BYTES: u64 = 16;

/// The writing side.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) producer: Producer,
    pub(crate) stage: Stage,
    pub(crate) lender: Lender,
    pub(crate) sent_bytes: u64,
    /// The reader was not seen giving blocks back when it was last waited for.
    pub(crate) reader_is_away: bool,
    peer_checked_ns: u64,
}

impl Outgoing {
    /// Whether a record with so many bytes of payload fits, and the reserve remains.
    pub(crate) fn has_space(
        &mut self,
        ring: &Ring<'_, Region<'_>>,
        payload_bytes: u64,
    ) -> Result<bool, Error> {
        let record = bare(Kind::Message, 0, payload_bytes as u32, 0);
        Ok(self.producer.has_space(ring, record.footprint() + BARE_BYTES)?)
    }

    /// Writes one record, for which there is space, and wakes the reader if it sleeps.
    #[inline]
    pub(crate) fn push(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
        payload: &[u8],
    ) -> Result<(), Error> {
        self.producer.write(ring, record, payload);
        if self.producer.publish(ring) { link.ring_data() } else { Ok(()) }
    }

    /// Whether the other process lives, asked of the kernel at most every few milliseconds: a sender
    /// whose messages nobody takes shall hear of it at once, but not pay a system call for each.
    #[inline]
    pub(crate) fn peer_is_over(&mut self, link: &Link) -> bool {
        let now = alongside_sys::coarse_clock_ns();
        if now != self.peer_checked_ns {
            self.peer_checked_ns = now;
            return link.look_for_peer();
        }
        link.is_peer_over()
    }

    /// Makes a staging arena and tells the other side of it. False if there may be no more.
    pub(crate) fn grow_stage(&mut self, link: &Link) -> Result<bool, Error> {
        use std::os::fd::AsFd;
        let limit = link.layout.max_message_bytes;
        let made = self.stage.grow(limit).map_err(Error::os("reserving memory for a message"))?;
        let Some(arena) = made else { return Ok(false) };
        let packet = crate::wire::Packet {
            kind: crate::wire::Kind::Arena,
            a: arena.number,
            b: arena.blocks,
            c: crate::staging::BLOCK_BYTES as u64,
        };
        match packet.send(&link.control, &[arena.file.as_fd()]) {
            Ok(()) => Ok(true),
            Err(errno) => {
                self.stage.shrink();
                if errno == alongside_sys::Errno::AGAIN {
                    return Ok(false);
                }
                if matches!(errno, alongside_sys::Errno::PIPE | alongside_sys::Errno::CONNRESET) {
                    link.set_peer_over();
                    return Ok(false);
                }
                Err(Error::os("sending a descriptor to the other program")(errno))
            }
        }
    }
}

/// A record's head.
pub(crate) fn bare(kind: Kind, codec: u8, length: u32, id: u64) -> Record {
    Record { kind, codec, length, id }
}
