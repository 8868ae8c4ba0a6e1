#![allow(unsafe_code)]
//! A lock between the threads of one process whose wait has an end: a deadline, or a signal.
//!
//! The standard library's mutex waits without either, so a Ctrl-C could not end it. This is the
//! three-state futex lock of Ulrich Drepper's "Futexes Are Tricky" (mutex 2).
//!
//! | state | meaning |
//! |---|---|
//! | 0 | free |
//! | 1 | held |
//! | 2 | held, and somebody may sleep |

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::WaitEnd;
use crate::fork::generation;
use crate::nap;
use crate::poll::timespec;

/// The bare lock.
#[derive(Debug, Default)]
pub struct TimedLock {
    state: AtomicU32,
}

impl TimedLock {
    /// A free lock.
    pub const fn new() -> TimedLock {
        TimedLock { state: AtomicU32::new(0) }
    }

    /// Takes it if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes it, or says why not; `None` waits for ever.
    pub fn lock(&self, timeout: Option<Duration>) -> Result<(), WaitEnd> {
        if self.try_lock() {
            return Ok(());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        while self.state.swap(2, Ordering::Acquire) != 0 {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(WaitEnd::TimedOut);
            }
            let (left, is_nap) = nap::length(left);
            let left = left.map(timespec);
            let woken = futex::wait(&self.state, futex::Flags::PRIVATE, 2, left.as_ref());
            // In every other case (woken, no longer 2, the time over) look again.
            if woken == Err(Errno::INTR) || (is_nap && woken == Err(Errno::TIMEDOUT)) {
                return Err(WaitEnd::Interrupted);
            }
            nap::woken();
        }
        Ok(())
    }

    /// Takes it, however long that takes; for sections that are short for certain.
    pub fn lock_for_sure(&self) {
        while self.lock(None).is_err() {}
    }

    /// Gives it back. Only who holds it may.
    #[inline]
    pub fn unlock(&self) {
        if self.state.swap(0, Ordering::Release) == 2 {
            let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
        }
    }
}

/// A value behind a [`TimedLock`].
#[derive(Debug, Default)]
pub struct Timed<T> {
    lock: TimedLock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and the lock admits one at a time.
unsafe impl<T: Send> Sync for Timed<T> {}

impl<T> Timed<T> {
    /// Puts a value behind a lock.
    pub const fn new(value: T) -> Timed<T> {
        Timed { lock: TimedLock::new(), value: UnsafeCell::new(value) }
    }

    /// The value, if nobody else has it.
    #[inline]
    pub fn try_lock(&self) -> Option<TimedGuard<'_, T>> {
        self.lock.try_lock().then(|| TimedGuard { of: self })
    }

    /// The value, or why not; `None` waits for ever.
    pub fn lock(&self, timeout: Option<Duration>) -> Result<TimedGuard<'_, T>, WaitEnd> {
        self.lock.lock(timeout)?;
        Ok(TimedGuard { of: self })
    }

    /// The value, however long that takes.
    pub fn lock_for_sure(&self) -> TimedGuard<'_, T> {
        self.lock.lock_for_sure();
        TimedGuard { of: self }
    }
}

/// Exclusive use of the value, given back on drop.
#[derive(Debug)]
pub struct TimedGuard<'a, T> {
    of: &'a Timed<T>,
}

impl<T> Deref for TimedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held as long as the guard lives.
        unsafe { &*self.of.value.get() }
    }
}

impl<T> DerefMut for TimedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held as long as the guard lives, and the guard is borrowed alone.
        unsafe { &mut *self.of.value.get() }
    }
}

impl<T> Drop for TimedGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.of.lock.unlock();
    }
}

/// What a process has for itself, behind a lock. A forked child begins with nothing, whoever had the lock in its
/// parent.
#[derive(Debug)]
pub struct PerProcess<T> {
    /// Of which generation it is: twice its number plus two, or one more while it is being made anew.
    of: AtomicU64,
    lock: TimedLock,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is reached only with the lock held, which admits one at a time.
unsafe impl<T: Send> Sync for PerProcess<T> {}

impl<T: Default> PerProcess<T> {
    /// Nothing.
    pub const fn new() -> PerProcess<T> {
        PerProcess { of: AtomicU64::new(0), lock: TimedLock::new(), value: UnsafeCell::new(None) }
    }

    /// Does something with it, alone.
    pub fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        self.begin();
        self.lock.lock_for_sure();
        let guard = Unlock(&self.lock);
        // SAFETY: the lock is held until `guard` is dropped.
        let value = unsafe { &mut *self.value.get() };
        let done = act(value.get_or_insert_with(T::default));
        drop(guard);
        done
    }

    /// In a process that has not used it yet, makes it free and empty.
    fn begin(&self) {
        let mine = u64::from(generation()) * 2 + 2;
        loop {
            let of = self.of.load(Ordering::Acquire);
            if of == mine {
                return;
            }
            if of == mine + 1 {
                std::thread::yield_now();
            } else if self
                .of
                .compare_exchange(of, mine + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                self.lock.state.store(0, Ordering::Relaxed);
                // SAFETY: nobody else of this process gets past this loop meanwhile. What is there may be
                // half made, by a thread that does not exist here, so it is not dropped.
                unsafe { self.value.get().write(None) };
                self.of.store(mine, Ordering::Release);
            }
        }
    }
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> PerProcess<T> {
        PerProcess::new()
    }
}

/// Gives a lock back, whatever happens.
struct Unlock<'a>(&'a TimedLock);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_count_without_loss() {
        let total = Timed::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        *total.lock_for_sure() += 1;
                    }
                });
            }
        });
        assert_eq!(*total.lock_for_sure(), 200_000);
    }

    #[test]
    fn a_forked_child_begins_with_nothing_whoever_has_the_lock() {
        let _alone = crate::fork::tests::alone();
        static OURS: PerProcess<Vec<u32>> = PerProcess::new();
        OURS.with(|ours| ours.push(1));
        let status = OURS.with(|_| {
            // SAFETY: the child only asks and leaves.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let is_empty = OURS.with(|ours| ours.is_empty());
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!is_empty)) };
            }
            let mut status = -1;
            // SAFETY: waits for the child just made.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            status
        });
        assert_eq!(status, 0);
        assert_eq!(OURS.with(|ours| ours.clone()), [1]);
    }

    #[test]
    fn a_held_lock_lets_a_waiter_go_at_its_deadline() {
        let value = Timed::new(());
        let _held = value.try_lock().unwrap();
        assert!(value.try_lock().is_none());
        let end = value.lock(Some(Duration::from_millis(5))).err();
        assert_eq!(end, Some(WaitEnd::TimedOut));
    }
}
