//! What programs share as long as one of them holds it: values, and locks.
//!
//! ```text
//! gates/XX        one byte of them is locked while the file of a name is opened or closed
//! cells/NUMBER    a value, and who holds it
//! locks/NUMBER    a lock
//! rwlocks/NUMBER  a lock for many readers or one writer
//! ```
//! NUMBER is the name's (`directory/name.rs`). Whoever holds such a file has a read lock on a byte of its own
//! in it, which ends with the process, however that ends; where no byte is locked, the value is dead.
//!
//! # Invariants
//! * **H1** a file has its name only when it is complete, and its maker holds it by then.
//! * **H2** names are given and taken away only with the name's gate locked (`gate.rs`), in all places of the
//!   scope that there are.
//! * **H3** somebody begins to hold a file either before it has a name, or with the gate locked, while the
//!   name leads to it.
//! * **H4** a name is taken away only if, with the gate locked, nobody else holds the file.
//! * **H5** a guest opens a file that somebody holds, with the gate locked, and locks no byte of those; so it
//!   keeps nothing alive, and asks whether somebody still does.
//!
//! Two living files of one name would need a name taken away while somebody holds the file, which H4 forbids,
//! or somebody who began to hold it between the look and that, which H3 forbids.

pub mod cell;
mod gate;
mod hearing;
mod held;
pub mod lock;
pub mod rwlock;

use std::time::Duration;

use alongside_sys::file::{self, Hold};
use alongside_sys::process::{Process, is_stopped};
use alongside_sys::{Errno, Fd, own_pid};

pub use hearing::Hearing;
pub use held::leave_all;

/// So long somebody may be in the middle of something that takes microseconds. Who is stopped there is told.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A stretch of bytes whose length says which process has locked it.
pub(crate) fn signed(at: u64) -> (u64, u64) {
    (at, u64::from(own_pid()))
}

/// Who is in the way of one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTheWay {
    /// The process.
    pub pid: u32,
    /// Whether it waits itself, and keeps its place.
    pub waits: bool,
    /// How it is.
    pub life: Life,
}

/// How a process is that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It goes on.
    Runs,
    /// It is stopped.
    Stopped,
    /// It has ended; what has inherited its open files has what it had.
    Ended,
}

impl InTheWay {
    pub(crate) fn new(pid: u32, waits: bool) -> InTheWay {
        InTheWay { pid, waits, life: Life::of(pid) }
    }

    /// The process that has locked a signed stretch, in a way that shuts this one out.
    pub(crate) fn of(file: &Fd, against: Hold, at: u64, waits: bool) -> Option<InTheWay> {
        let (_, bytes) = file::holder(file, against, at, 1).ok()??;
        Some(InTheWay::new(bytes as u32, waits))
    }
}

impl Life {
    fn of(pid: u32) -> Life {
        match Process::open(pid) {
            Err(Errno::SRCH | Errno::INVAL) => Life::Ended,
            Ok(process) if process.is_over() => Life::Ended,
            _ if is_stopped(pid) => Life::Stopped,
            _ => Life::Runs,
        }
    }
}
