#![allow(unsafe_code)]
//! What a forked child must not inherit, and how it learns that it is one.
//!
//! A child shares its parent's open files. Were it to keep a session's sockets and pipes, the other
//! program would never see the parent die; were it to use them, two processes would write one ring.
//! So every descriptor of this library is an [`Fd`]: a `pthread_atfork` handler closes them all in
//! the child, and the child's copies of the handles know (by their *generation*) that they are empty.
//!
//! A child made by a bare `clone` runs no such handler. It still learns what it is: one page is wiped
//! by the kernel at every fork (`MADV_WIPEONFORK`, Linux 4.14), and a zero there means child.
//!
//! What a child does keep is memory, and it may go on looking at it. Who would use such memory again says
//! so with an [`Heirloom`]: as long as one lives, each fork leaves a pipe of which the parent has one end
//! and the child, unknown to anybody there, the other; it hangs up when the child, and the children that it
//! forks, have ended or run another program.
//!
//! # Invariants
//! * **F1** the table holds exactly the open descriptors of this generation's `Fd`s. It changes only
//!   under its lock, which the fork handlers hold across the fork.
//! * **F2** the generation changes only in a child, before any other thread of it exists.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::lock::TimedLock;
use crate::poll::is_ready;

/// Grows by one in each forked child.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Grows by one with each fork of this process.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// How many heirlooms there are.
static HEIRLOOMS: AtomicUsize = AtomicUsize::new(0);

/// A pipe's end that hangs up when the child of a fork is done; none, if there could be no pipe: then it
/// is never known to be.
struct Witness {
    fork: u32,
    end: Option<OwnedFd>,
}

struct State {
    open: Vec<RawFd>,
    witnesses: Vec<Witness>,
    /// The pipe of the fork that is under way.
    pipe: Option<(OwnedFd, OwnedFd)>,
}

struct Table {
    lock: TimedLock,
    state: std::cell::UnsafeCell<State>,
}

// SAFETY: `state` is touched only under `lock` (F1).
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    lock: TimedLock::new(),
    state: std::cell::UnsafeCell::new(State {
        open: Vec::new(),
        witnesses: Vec::new(),
        pipe: None,
    }),
};

impl Table {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.lock.lock_for_sure();
        // SAFETY: F1, the lock is held.
        let result = act(unsafe { self.state() });
        self.lock.unlock();
        result
    }

    /// # Safety
    /// The lock is held, by this thread or by the fork that it runs.
    #[allow(clippy::mut_from_ref, reason = "the lock admits one at a time")]
    unsafe fn state(&self) -> &mut State {
        // SAFETY: the caller's.
        unsafe { &mut *self.state.get() }
    }
}

/// A page that reads 1 in the process that made it, and 0 in a child that has not noticed yet. Once there is
/// one, it stays.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// The first word of that page; forks are watched from now on. There is no lock about it: a child that was
/// forked amid another thread's first call would wait for that thread for ever.
fn watch() -> Result<&'static AtomicU32, Errno> {
    let known = PAGE.load(Ordering::Acquire);
    // SAFETY: none, or a page that is never unmapped, of which any bits are an AtomicU32.
    match unsafe { known.as_ref() } {
        Some(word) => Ok(word),
        None => begin_to_watch(),
    }
}

/// Has forks watched, which is best done while there is one thread.
pub fn prepare() -> Result<(), Errno> {
    watch().map(drop)
}

#[cold]
fn begin_to_watch() -> Result<&'static AtomicU32, Errno> {
    let made = wiped_page()?;
    if PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // SAFETY: made just now, and nobody else knows it.
        unsafe { rustix::mm::munmap(made.cast(), rustix::param::page_size()) }?;
        return watch();
    }
    // SAFETY: the handlers are functions for the life of the process, and do only what is allowed between fork
    // and exec: atomics and close.
    let failed = unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_in_parent), Some(after_in_child))
    };
    if failed != 0 {
        // It stays mapped: another thread may have it.
        PAGE.store(ptr::null_mut(), Ordering::Release);
        return Err(Errno::from_raw_os_error(failed));
    }
    watch()
}

fn wiped_page() -> Result<*mut AtomicU32, Errno> {
    let page = rustix::param::page_size();
    // SAFETY: a fresh private page that nobody else knows.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            page,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: the page just mapped.
    unsafe { rustix::mm::madvise(start, page, Advice::LinuxWipeOnFork) }?;
    let word = start.cast::<AtomicU32>();
    // SAFETY: the page just mapped, aligned for everything.
    unsafe { &*word }.store(1, Ordering::Relaxed);
    Ok(word)
}

extern "C" fn before_fork() {
    TABLE.lock.lock_for_sure();
    // SAFETY: F1, the lock was taken just now, and is held across the fork.
    let state = unsafe { TABLE.state() };
    FORKS.fetch_add(1, Ordering::SeqCst);
    state.witnesses.retain(|witness| !witness.is_over());
    if HEIRLOOMS.load(Ordering::SeqCst) > 0 {
        state.pipe = pipe_with(PipeFlags::CLOEXEC).ok();
        state.witnesses.push(Witness { fork: FORKS.load(Ordering::Relaxed), end: None });
    }
}

extern "C" fn after_in_parent() {
    // SAFETY: F1, `before_fork` took the lock.
    let state = unsafe { TABLE.state() };
    if let (Some((end, _its_end)), Some(witness)) = (state.pipe.take(), state.witnesses.last_mut())
    {
        witness.end = Some(end);
    }
    TABLE.lock.unlock();
}

extern "C" fn after_in_child() {
    // SAFETY: F1, `before_fork` took the lock, and this child has no other thread.
    let state = unsafe { TABLE.state() };
    if let Some((_parents, end)) = state.pipe.take() {
        // Open until this process ends or runs another program.
        let _ = end.into_raw_fd();
    }
    close_all(state);
    TABLE.lock.unlock();
}

/// Closes the parent's descriptors in the child and begins a new generation.
fn close_all(state: &mut State) {
    for fd in state.open.drain(..) {
        // SAFETY: F1, it is the child's copy of a descriptor that only this library knows; the
        // handles that name it are of the old generation and will not close it again.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    state.witnesses.clear();
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if let Ok(word) = watch() {
        word.store(1, Ordering::Relaxed);
    }
}

impl Witness {
    fn is_over(&self) -> bool {
        self.end.as_ref().is_some_and(|end| is_ready(end.as_fd()))
    }
}

/// Memory that forked children may go on looking at, though the parent has done with it.
#[derive(Debug)]
pub struct Heirloom {
    forks: u32,
}

impl Heirloom {
    /// Something that is there from now on.
    #[allow(clippy::new_without_default, reason = "it counts")]
    pub fn new() -> Heirloom {
        HEIRLOOMS.fetch_add(1, Ordering::SeqCst);
        Heirloom { forks: FORKS.load(Ordering::SeqCst) }
    }

    /// Whether a child that was forked since may still look at it.
    pub fn has_heirs(&self) -> bool {
        if FORKS.load(Ordering::SeqCst) == self.forks {
            return false;
        }
        TABLE.with(|state| {
            state.witnesses.retain(|witness| !witness.is_over());
            state.witnesses.iter().any(|witness| witness.fork.wrapping_sub(self.forks) as i32 > 0)
        })
    }
}

impl Drop for Heirloom {
    fn drop(&mut self) {
        HEIRLOOMS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The generation of this process. A handle made in another one belongs to an ancestor.
#[inline]
pub fn generation() -> u32 {
    if let Ok(word) = watch()
        && word.load(Ordering::Relaxed) == 0
    {
        // A child of a bare clone: no handler ran, so its lock may be held by a thread that does
        // not exist here. F2: it has no other thread yet that knows this library.
        TABLE.lock.unlock();
        TABLE.with(close_all);
    }
    GENERATION.load(Ordering::Relaxed)
}

/// A descriptor that a forked child does not keep.
#[derive(Debug)]
pub struct Fd {
    raw: RawFd,
    generation: u32,
}

impl Fd {
    /// Takes charge of a descriptor.
    pub fn new(fd: OwnedFd) -> Result<Fd, Errno> {
        watch()?;
        let generation = generation();
        let raw = fd.into_raw_fd();
        TABLE.with(|state| state.open.push(raw));
        Ok(Fd { raw, generation })
    }

    /// Opens something whose locks are to end with this process. No fork comes between opening it and taking
    /// charge: a child that keeps it unknown to anybody would keep its locks, too, whenever they are taken.
    pub fn opened(open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Fd, Errno> {
        watch()?;
        let generation = generation();
        TABLE.with(|state| {
            let raw = open()?.into_raw_fd();
            state.open.push(raw);
            Ok(Fd { raw, generation })
        })
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        debug_assert!(self.is_ours(), "a descriptor of the parent");
        // SAFETY: open as long as `self` lives in its own generation; the core refuses every use
        // in another one before it comes here.
        unsafe { BorrowedFd::borrow_raw(self.raw) }
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.raw
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        TABLE.with(|state| {
            if let Some(at) = state.open.iter().rposition(|fd| *fd == self.raw) {
                state.open.swap_remove(at);
            }
            // No fork comes in between: its child would keep what nobody there knows, and its locks.
            // SAFETY: `self` owned it, and it is out of the table (F1).
            drop(unsafe { OwnedFd::from_raw_fd(self.raw) });
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// Tests that fork do so one after the other: some count what the children keep.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        static FORKING: Mutex<()> = Mutex::new(());
        FORKING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_descriptor_is_in_the_table_as_long_as_it_lives() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let raw = read.as_raw_fd();
        let fd = Fd::new(read).unwrap();
        assert!(TABLE.with(|state| state.open.contains(&raw)));
        drop(fd);
        assert!(!TABLE.with(|state| state.open.contains(&raw)));
    }

    #[test]
    fn a_child_forked_while_others_open_and_close_has_none_of_theirs() {
        let _alone = alone();
        let (is_over, mut keepers) = (AtomicBool::new(false), 0);
        let name = "opened-and-closed";
        let open = || rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
        let has_it = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut paths = all.filter_map(|each| std::fs::read_link(each.path()).ok());
            paths.any(|path| path.to_string_lossy().contains(name))
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(Fd::opened(open).unwrap());
                }
            });
            for _ in 0..500 {
                // SAFETY: the child only asks and leaves.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    let status = i32::from(has_it());
                    // SAFETY: ends the child at once.
                    unsafe { libc::_exit(status) };
                }
                let mut status = -1;
                // SAFETY: waits for the child just made.
                unsafe { libc::waitpid(pid, &mut status, 0) };
                keepers += i32::from(status != 0);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(keepers, 0);
    }

    #[test]
    fn a_forked_child_finds_it_closed_and_knows_why() {
        let _alone = alone();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let fd = Fd::new(read).unwrap();
        // SAFETY: the child only asks and leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let closed = rustix::io::fcntl_getfd(unsafe_borrow(fd.as_raw_fd())) == Err(Errno::BADF);
            let status = if closed && !fd.is_ours() { 0 } else { 1 };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!(status, 0);
        assert!(fd.is_ours());
    }

    #[test]
    fn an_heirloom_has_heirs_until_the_child_is_done() {
        let _alone = alone();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let _watched = Fd::new(read.try_clone().unwrap()).unwrap();
        let before = Heirloom::new();
        // SAFETY: the child only waits and leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(write);
            let _ = rustix::io::read(&read, &mut [0u8; 1]);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        let after = Heirloom::new();
        assert!(before.has_heirs());
        assert!(!after.has_heirs());
        drop(write);
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        assert!(!before.has_heirs());
    }

    fn unsafe_borrow<'a>(raw: RawFd) -> BorrowedFd<'a> {
        // SAFETY: only asked about, to learn that it is closed.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}
