//! The only door to the kernel: memory files, bells, sockets that carry descriptors, processes,
//! polling, locks that wait, and what must happen when a process forks.
//!
//! Each call here is one deed with a typed result; what a session *means* by it is decided in the
//! core. Errors are the kernel's own numbers ([`Errno`]).
//!
//! Things it doesn't do: it knows no messages and no Python, and never retries a
//! wait that a signal has ended, because the caller may want to run the signal's handler.

pub mod bell;
pub mod file;
pub mod fork;
pub mod inotify;
pub mod lock;
pub mod memory;
mod nap;
pub mod poll;
pub mod process;
pub mod socket;
pub mod spawn;
mod thread;
mod user;
pub mod word;

use std::sync::atomic::{AtomicU64, Ordering};

pub use fork::Fd;
pub use nap::{is_main_thread, look_again_later, look_again_soon};
pub use rustix::io::Errno;
pub use thread::spawn_quiet;
pub use user::user_id;

/// How a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The time is over.
    TimedOut,
    /// A signal arrived; its handler may have to run before the wait goes on.
    Interrupted,
}

/// Whether an error says that something is short, and not that something is not there.
pub fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// The processor that this thread runs on at the moment.
pub fn current_cpu() -> u32 {
    rustix::thread::sched_getcpu() as u32
}

/// Lets others run on this processor first.
pub fn yield_now() {
    rustix::thread::sched_yield();
}

/// This process. Asked of the kernel once.
#[inline]
pub fn own_pid() -> u32 {
    /// In which generation it was asked, and the answer.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    let generation = u64::from(fork::generation()) + 1;
    let known = KNOWN.load(Ordering::Relaxed);
    if known >> 32 == generation {
        return known as u32;
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    KNOWN.store(generation << 32 | u64::from(pid), Ordering::Relaxed);
    pid
}

/// A number that nobody can guess.
pub fn random() -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    let count = rustix::rand::getrandom(&mut bytes[..], flags)?;
    if count == bytes.len() { Ok(u64::from_ne_bytes(bytes)) } else { Err(Errno::IO) }
}

/// This process's effective user.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Nanoseconds since boot, by a clock that only goes forward.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Seconds since the epoch.
pub fn since_epoch_s() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// A clock that costs next to nothing and moves every few milliseconds, in nanoseconds.
pub fn coarse_clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
