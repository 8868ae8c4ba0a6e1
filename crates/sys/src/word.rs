#![allow(unsafe_code)]
//! A word in a file, on which processes wait for each other (futex).
//!
//! The word is mapped, and this process never reads or writes it: only the kernel does, when it is asked to
//! wait or to wake. Whoever shares the file could cut it short, and a load from what is cut off would be the
//! end of the process (SIGBUS); of the kernel it is an error ([`Errno::FAULT`]).

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::thread::futex::{self, Flags, WakeOp, WakeOpCmp};

use crate::WaitEnd;
use crate::fork::generation;
use crate::nap;
use crate::poll::timespec;

/// What all machines have of the first page.
const SMALLEST_PAGE: usize = 4096;

/// The words in the first page of a file.
#[derive(Debug)]
pub struct Words {
    page: NonNull<u8>,
    generation: u32,
}

// SAFETY: an address, which only the kernel looks at.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first page of a file.
    pub fn map(file: impl AsFd) -> Result<Words, Errno> {
        let bytes = rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)
        }?;
        let page = NonNull::new(page.cast()).ok_or(Errno::NOMEM)?;
        let words = Words { page, generation: generation() };
        // SAFETY: exactly the range just mapped.
        unsafe { rustix::mm::madvise(page.as_ptr().cast(), bytes, Advice::LinuxDontFork) }?;
        Ok(words)
    }

    fn word(&self, at: usize) -> Result<&AtomicU32, Errno> {
        if self.generation != generation() || at % 4 != 0 || at >= SMALLEST_PAGE {
            return Err(Errno::FAULT);
        }
        // SAFETY: `at` lies within the page.
        let word = unsafe { self.page.add(at) };
        // SAFETY: mapped as long as `self` lives, in the generation that mapped it, and aligned. It is
        // named to the kernel only; nothing here loads from it.
        Ok(unsafe { word.cast().as_ref() })
    }

    /// Sleeps until somebody wakes those that wait at this word, if it is as expected. It may return without
    /// a reason, so look again.
    pub fn wait(&self, at: usize, expected: u32, timeout: Option<Duration>) -> Result<(), WaitEnd> {
        let Ok(word) = self.word(at) else { return Ok(()) };
        let (left, is_nap) = nap::length(timeout);
        let left = left.map(timespec);
        match futex::wait(word, Flags::empty(), expected, left.as_ref()) {
            Err(Errno::INTR) => Err(WaitEnd::Interrupted),
            Err(Errno::TIMEDOUT) if is_nap => Err(WaitEnd::Interrupted),
            Err(Errno::TIMEDOUT) => Err(WaitEnd::TimedOut),
            _ => {
                nap::woken();
                Ok(())
            }
        }
    }

    /// Adds to a word, and wakes so many of those that wait there; gives how many did.
    #[inline]
    pub fn add_and_wake(&self, at: usize, number: u16, most: u32) -> Result<usize, Errno> {
        let word = self.word(at)?;
        let never = WakeOpCmp::Lt;
        futex::wake_op(word, Flags::empty(), most, 0, word, WakeOp::Add, never, number, 0)
    }

    /// Adds to a word, and wakes nobody. Half as dear as writing to the file: of a wait in one process alone,
    /// which this pretends to be about, the kernel need not know which page it is.
    #[inline]
    pub fn add(&self, at: usize, number: u16) -> Result<(), Errno> {
        let word = self.word(at)?;
        let (never, own) = (WakeOpCmp::Lt, Flags::PRIVATE);
        futex::wake_op(word, own, 0, 0, word, WakeOp::Add, never, number, 0).map(drop)
    }

    /// Wakes all that wait at a word.
    #[inline]
    pub fn wake_all(&self, at: usize) {
        self.wake(at, i32::MAX as u32);
    }

    /// Wakes so many of those that wait at a word.
    #[inline]
    pub fn wake(&self, at: usize, most: u32) {
        if let Ok(word) = self.word(at) {
            let _ = futex::wake(word, Flags::empty(), most);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // In a forked child it was never mapped, and may by now be somebody else's.
        if self.generation == generation() {
            let bytes = rustix::param::page_size();
            // SAFETY: mapped by us, and nobody else has the address.
            let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file;

    fn page() -> std::os::fd::OwnedFd {
        let file = rustix::fs::memfd_create("word", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        file::write_at(&file, &[0; 64], 0).unwrap();
        file
    }

    fn value(file: &std::os::fd::OwnedFd) -> u32 {
        let mut bytes = [0; 4];
        file::read_at(file, &mut bytes, 8).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn who_waits_is_woken_and_sees_the_word_changed() {
        let file = page();
        let (mine, theirs) = (Words::map(&file).unwrap(), Words::map(&file).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while value(&file) == 0 {
                    let _ = mine.wait(8, 0, None);
                }
            });
            theirs.add_and_wake(8, 3, 1).unwrap();
        });
        assert_eq!(value(&file), 3);
        mine.add(8, 4).unwrap();
        assert_eq!(value(&file), 7);
        file::write_at(&file, &3_u32.to_le_bytes(), 8).unwrap();
        mine.wait(8, 0, None).unwrap();
        let end = mine.wait(8, 3, Some(Duration::from_millis(1)));
        assert_eq!(end, Err(WaitEnd::TimedOut));
    }

    #[test]
    fn a_file_cut_short_is_no_end_of_the_process() {
        let file = page();
        let words = Words::map(&file).unwrap();
        rustix::fs::ftruncate(&file, 0).unwrap();
        assert_eq!(words.add_and_wake(8, 1, 1), Err(Errno::FAULT));
        assert_eq!(words.add(8, 1), Err(Errno::FAULT));
        words.wait(8, 0, None).unwrap();
        words.wake_all(8);
        assert_eq!(words.add_and_wake(6, 1, 1), Err(Errno::FAULT));
    }
}
