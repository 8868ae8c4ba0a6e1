//! What goes over the sockets: a few messages, each one packet, little-endian.
//!
//! ```text
//! 0  magic u32   4  wire version u16   6  kind u16   8  a u32   12  b u32   16  c u64
//! ```
//! | kind | from → to | a, b, c | descriptors |
//! |---|---|---|---|
//! | adopt | adopter → starter, on the inherited socket | layout version | its own socket, data ear, space ear |
//! | offer | starter → adopter, on the adopter's socket | layout version, flags | memory, data ear, space ear, fate if flagged |
//! | refuse | either → other | layout version, reason | |
//! | arena | sender → receiver | number, blocks, bytes of a block | memory |
//! | lease arena | lender → borrower | number, , bytes | memory |
//! | returns | lender → borrower | , , bytes | the table of returns |
//! | connect | caller → owner | layout version, flags, instance | memory, data ear, space ear |
//! | accept | owner → caller | layout version | data ear, space ear |
//!
//! The text of the protocol is `spec/wire-v1.md`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use alongside_sys::{Errno, socket};

use crate::error::Error;

/// Version of these messages, and of the environment variable.
pub(crate) const VERSION: u16 = 1;
/// In `b` of an offer: the adopter shall end with the starter.
pub(crate) const SHARES_FATE: u32 = 1;

/// In `b` of a refusal: the layout is another.
pub(crate) const REFUSED_LAYOUT: u32 = 0;
/// The caller's user may not connect.
pub(crate) const REFUSED_USER: u32 = 1;
/// The name was revoked, or is another's by now.
pub(crate) const REFUSED_INSTANCE: u32 = 2;
/// The caller wants to be told how messages were handled, and there is nobody who handles any.
pub(crate) const REFUSED_REPORTS: u32 = 3;

/// In `b` of a call: the caller wants to be told how the handling of each message ended.
pub(crate) const WANTS_REPORTS: u32 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"ALWR");
const BYTES: usize = 24;

/// The kinds of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Adopt = 1,
    Offer = 2,
    Refuse = 3,
    Arena = 4,
    LeaseArena = 5,
    Returns = 6,
    Connect = 7,
    Accept = 8,
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u64,
}

/// What came of looking for a packet.
pub(crate) enum Found {
    Packet(Packet, Vec<OwnedFd>),
    Nothing,
    HungUp,
}

impl Packet {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.a.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.b.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.c.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Result<Packet, Error> {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (magic, version) = (number(0..4), number(4..6));
        if magic != u64::from(MAGIC) {
            return Err(Error::Corrupt(format!(
                "the other program sent a packet that begins with {magic:#x} instead of {MAGIC:#x}"
            )));
        }
        if version != u64::from(VERSION) {
            return Err(Error::Incompatible(format!(
                "the other program speaks wire version {version}, this program speaks {VERSION}"
            )));
        }
        let kind = match number(6..8) {
            1 => Kind::Adopt,
            2 => Kind::Offer,
            3 => Kind::Refuse,
            4 => Kind::Arena,
            5 => Kind::LeaseArena,
            6 => Kind::Returns,
            7 => Kind::Connect,
            8 => Kind::Accept,
            kind => {
                return Err(Error::Corrupt(format!(
                    "the other program sent a packet of kind {kind}, the last known one is 8"
                )));
            }
        };
        Ok(Packet { kind, a: number(8..12) as u32, b: number(12..16) as u32, c: number(16..24) })
    }

    /// Sends it with descriptors.
    pub(crate) fn send(self, socket: impl AsFd, with: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        socket::send(socket, &self.to_bytes(), with)
    }

    /// Takes the next packet off a socket; never waits.
    pub(crate) fn receive(socket: impl AsFd) -> Result<Found, Error> {
        let mut bytes = [0; BYTES];
        let mut received = socket::receive(&socket, &mut bytes);
        // Told once when the other side closed with something unread; what it had sent itself still
        // queues behind, down to the end.
        if matches!(received, Err(Errno::CONNRESET)) {
            received = socket::receive(&socket, &mut bytes);
        }
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Found::Nothing),
            Err(Errno::CONNRESET) => return Ok(Found::HungUp),
            Err(errno) => return Err(Error::os("reading the control socket")(errno)),
        };
        if received.bytes == 0 {
            return Ok(Found::HungUp);
        }
        let packet = match Packet::from_bytes(&bytes) {
            Ok(packet) if received.bytes == BYTES => packet,
            Ok(_) => {
                return Err(Error::Corrupt(format!(
                    "the other program sent a packet of {} bytes instead of {BYTES}",
                    received.bytes
                )));
            }
            Err(error) => return Err(error),
        };
        if received.truncated {
            // The kernel drops descriptors that find no free number here.
            return Err(Error::Lost("taking the other program's descriptors", Errno::MFILE));
        }
        Ok(Found::Packet(packet, received.descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_comes_back_as_it_was_and_nothing_else_does() {
        let packet = Packet { kind: Kind::Arena, a: 1, b: 2, c: 3 << 40 };
        let bytes = packet.to_bytes();
        assert_eq!(Packet::from_bytes(&bytes), Ok(packet));
        for (at, matches) in [(0, "Corrupt"), (4, "Incompatible"), (7, "Corrupt")] {
            let mut bytes = bytes;
            bytes[at] ^= 0x40;
            let error = format!("{:?}", Packet::from_bytes(&bytes).unwrap_err());
            assert!(error.starts_with(matches), "{error}");
        }
    }
}
