//! What programs do with each other: sessions.
//!
//! The core puts the rings of `alongside-shm` and the kernel of `alongside-sys` together and gives
//! them a meaning. It is written for any language: the bytes of a message live in a [`Buffer`] that the
//! language brings along, waits come back when a signal wants to be handled, and nothing here calls
//! into an interpreter.
//!
//! Things it doesn't do: no unsafe code, no Python, no encoding of data, and no thread of its own but one,
//! as long as memory is lent that may have to be given back (`caretaker.rs`).
#![forbid(unsafe_code)]

mod adopt;
mod aside;
mod attend;
mod borrowing;
mod caretaker;
mod deadline;
pub mod directory;
mod ending;
mod error;
mod halves;
mod incoming;
mod leased;
mod lending;
mod link;
mod message;
mod outgoing;
mod receiving;
mod sending;
mod session;
pub mod shared;
mod spin;
mod staging;
mod start;
mod wire;

pub use adopt::{ENVIRONMENT_VARIABLE, NotAdopted, adopt};
pub use alongside_shm::Region;
pub use alongside_sys::process::{EndSignal, Identity};
pub use aside::{Armed, Aside};
pub use borrowing::Lease;
pub use deadline::Deadline;
pub use error::Error;
pub use incoming::Target;
pub use lending::Block;
pub use message::{Buffer, Message, NoMemory};
pub use receiving::Received;
pub use sending::Sent;
pub use session::{Session, Statistics};
pub use start::{Start, StartFailure, ready_environment, run, start};
