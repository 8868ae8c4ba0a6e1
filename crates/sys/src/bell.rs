#![allow(unsafe_code)]
//! A bell: what wakes a sleeping side.
//!
//! A bell is a pipe. Its ringer made it, keeps the write end to itself and gives the read end away.
//! Ringing writes one byte and never blocks: a full pipe means that the bell has been rung already.
//! The sleeper watches its end edge-triggered and reads nothing back, except now and then so that the
//! pipe does not fill. (One core, a round trip in C: 4.8 µs; 4.5 with an eventfd, but that can be
//! switched to blocking and filled by the other side; 7.6 with a Unix socket.)
//!
//! Two traps. The read end came from the other process, which can switch *its* copy to blocking and
//! so ours, for both name one open file: reading uses RWF_NOWAIT, per call. And writing to a pipe
//! whose reader is gone raises SIGPIPE, which would end a program that does not ignore it: ringing
//! uses RWF_NOSIGNAL (Linux 6.18), before that it holds the signal back by hand.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::PipeFlags;

use crate::fork::Fd;
use crate::poll::is_ready;

/// `RWF_NOSIGNAL`, Linux 6.18.
const NO_SIGNAL: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x100);
/// "At the current position", for a pipe.
const NO_OFFSET: u64 = u64::MAX;

/// The end that rings.
#[derive(Debug)]
pub struct Ringer {
    write: Fd,
}

/// The end that is woken.
#[derive(Debug)]
pub struct Ear {
    read: Fd,
}

/// A new bell: the ringer, and the ear to be given away.
pub fn bell() -> Result<(Ringer, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Ringer { write: Fd::new(write)? }, read))
}

impl Ringer {
    /// Wakes whoever sleeps at the other end. A bell that nobody can hear any more is no error
    /// here: the death of its listener shows elsewhere.
    pub fn ring(&self) -> Result<(), Errno> {
        match self.write_byte() {
            Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn write_byte(&self) -> Result<usize, Errno> {
        static OLD_KERNEL: AtomicBool = AtomicBool::new(false);
        if !OLD_KERNEL.load(Ordering::Relaxed) {
            let byte = [IoSlice::new(&[1])];
            match rustix::io::pwritev2(&self.write, &byte, NO_OFFSET, NO_SIGNAL) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    OLD_KERNEL.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        without_sigpipe(|| rustix::io::write(&self.write, &[1]))
    }
}

/// Runs `write` with SIGPIPE held back, and takes away the one it raised.
fn without_sigpipe(write: impl FnOnce() -> Result<usize, Errno>) -> Result<usize, Errno> {
    // SAFETY: all zeroes is a valid signal set.
    let mut pipe_only: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of our own.
    unsafe { libc::sigemptyset(&mut pipe_only) };
    // SAFETY: a set of our own.
    unsafe { libc::sigaddset(&mut pipe_only, libc::SIGPIPE) };
    // SAFETY: both sets are our own; the mask is put back below.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &pipe_only, &mut before) };
    let result = write();
    // SAFETY: a set that pthread_sigmask filled.
    let was_blocked = unsafe { libc::sigismember(&before, libc::SIGPIPE) } == 1;
    if result == Err(Errno::PIPE) && !was_blocked {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: takes the pending SIGPIPE of this thread, if there is one, without waiting.
        unsafe { libc::sigtimedwait(&pipe_only, std::ptr::null_mut(), &now) };
    }
    // SAFETY: the mask that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    result
}

impl Ear {
    /// Takes the end that the ringer gave away. Whether it is a pipe at all is checked: reading
    /// something else could block or steal.
    pub fn new(read: OwnedFd) -> Result<Ear, Errno> {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&read)?.st_mode);
        if kind != rustix::fs::FileType::Fifo {
            return Err(Errno::INVAL);
        }
        Ok(Ear { read: Fd::new(read)? })
    }

    /// Throws away what is in the pipe: at most one buffer full, so that a ringer who does not
    /// stop cannot keep us here. Whether there was anything.
    pub fn drain(&self) -> bool {
        let mut sink = [0; 4096];
        let mut slices = [IoSliceMut::new(&mut sink)];
        let done = rustix::io::preadv2(&self.read, &mut slices, NO_OFFSET, ReadWriteFlags::NOWAIT);
        // Pipes know RWF_NOWAIT since Linux 6.4; before, look first.
        if done == Err(Errno::OPNOTSUPP) && is_ready(self.as_fd()) {
            return rustix::io::read(&self.read, &mut sink).is_ok_and(|bytes| bytes > 0);
        }
        done.is_ok_and(|bytes| bytes > 0)
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rung_without_end_neither_blocks_nor_fails() {
        let (ringer, ear) = bell().unwrap();
        let ear = Ear::new(ear).unwrap();
        for _ in 0..70_000 {
            ringer.ring().unwrap();
        }
        assert!(is_ready(ear.as_fd()));
        for _ in 0..40 {
            ear.drain();
        }
        assert!(!is_ready(ear.as_fd()));
    }

    #[test]
    fn a_bell_without_an_ear_is_silent_and_raises_no_signal() {
        let (ringer, ear) = bell().unwrap();
        drop(ear);
        // SAFETY: the test wants to be killed by SIGPIPE if one is raised; put back below.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        ringer.ring().unwrap();
        let broken = without_sigpipe(|| rustix::io::write(&ringer.write, &[1]));
        // SAFETY: as it was.
        unsafe { libc::signal(libc::SIGPIPE, before) };
        assert_eq!(broken, Err(Errno::PIPE));
    }

    #[test]
    fn an_ear_switched_to_blocking_does_not_block() {
        let (_ringer, ear) = bell().unwrap();
        rustix::fs::fcntl_setfl(&ear, rustix::fs::OFlags::empty()).unwrap();
        Ear::new(ear).unwrap().drain();
    }

    #[test]
    fn a_file_is_no_ear() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(Ear::new(file.into()).err(), Some(Errno::INVAL));
    }
}
