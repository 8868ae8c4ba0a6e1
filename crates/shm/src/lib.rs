//! What two processes agree on inside a piece of memory that both have mapped.
//!
//! This room knows rings, the flags that say who sleeps, the table in which leases are given back, and
//! the layout of a session's memory. It
//! borrows the memory; somebody else made it, mapped it and will unmap it. Everything the other
//! process can write is read once, into a local copy, and that copy is checked before use.
//!
//! Things it doesn't do: no I/O, no clock, no system calls, no allocation, no waiting.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p alongside-shm` runs the models instead of the tests.

mod cell;
mod layout;
mod record;
mod region;
mod returns;
mod ring;
mod sync;

pub use cell::{
    CELL_HEAD_BYTES, CellLayout, MOST_CELL_BYTES, Next, PADDING_AT, Pages, SHORT_VALUE, Unread,
    Value, Written, word_of,
};
pub use layout::{
    FINGERPRINT, HEADER_BYTES, Header, Lane, LayoutError, Presence, SessionLayout, VERSION,
};
pub use record::{Kind, RECORD_BYTES, Record};
pub use region::Region;
pub use returns::{RETURNS_BYTES, Returns, SLOTS};
pub use ring::{Consumer, Corrupt, Producer, Ring, Storage};
