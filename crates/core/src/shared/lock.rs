//! A lock with a name, which its owner's death frees.
//!
//! What excludes is the kernel's lock of the whole file (`flock`), which ends with the process. Beside it the
//! file has a record of who has it:
//!
//! | | |
//! |---|---|
//! | word | odd while somebody has the lock; grows by one when it is taken and when it is given back |
//! | process | its number, and when it began |
//!
//! The word is also what those sleep on who wait. Who gives the lock back adds one to it and wakes one of
//! them; who is killed does not, so a word that is odd when the lock is free says *abandoned*, and who waits
//! looks every few milliseconds.
//!
//! # Invariants
//! * **L1** the record is written only by who has the file's lock.
//! * **L2** the word is odd from before the owner's program goes on until it begins to give the lock back.
//! * **L3** who sleeps has seen the word, and sleeps only if it still has that value: so giving back is not
//!   missed.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use alongside_sys::file;
use alongside_sys::lock::{PerProcess, TimedLock};
use alongside_sys::word::Words;
use alongside_sys::{Errno, Fd, WaitEnd, coarse_clock_ns, own_pid, process, random};

use crate::deadline::Deadline;
use crate::directory::scope::Scope;
use crate::directory::seeking::checked;
use crate::error::Error;
use crate::shared::gate::Attention;
use crate::shared::held::{Content, Held, Kind, Once, Wanted, is_held_by, living};
use crate::shared::{InTheWay, rwlock};

/// Where the record is: the file's number, the word, the process and when it began.
const RECORD_AT: u64 = 248;
pub(crate) const WORD_AT: usize = 256;
const RECORD_BYTES: usize = 24;
const FILE_BYTES: usize = 512;
const VERSION: u32 = 1;
/// So long it sleeps at most while the lock is being given back, or taken.
const A_MOMENT: Duration = Duration::from_micros(200);
/// So long who waits sleeps at most: nobody wakes it if the owner is killed.
pub(crate) const IS_IT_ALIVE: Duration = Duration::from_millis(4);

fn magic(kind: Kind) -> [u8; 8] {
    match kind {
        Kind::RwLock => *b"ALONGSR\x01",
        _ => *b"ALONGSL\x01",
    }
}

/// What a file of locks begins with.
pub(crate) struct Form(pub(crate) Kind);

impl Content for Form {
    fn new_bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; FILE_BYTES];
        bytes[..8].copy_from_slice(&magic(self.0));
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[32..32 + name.len()].copy_from_slice(name.as_bytes());
        let number = random().map_err(Error::os("making a lock's number"))?;
        bytes[248..256].copy_from_slice(&number.to_le_bytes());
        Ok(bytes)
    }

    fn check(&self, file: &Fd, path: &dyn Fn() -> PathBuf, name: &str) -> Result<(), Error> {
        let mut found = [0; FILE_BYTES];
        let count = file::read_at(file, &mut found, 0);
        let count = count.map_err(|errno| Error::File(path(), errno))?;
        let mut expected = self.new_bytes(name)?;
        expected.truncate(RECORD_AT as usize);
        if count < FILE_BYTES || found[..RECORD_AT as usize] != expected[..] {
            return Err(Error::Corrupt(format!(
                "{} is no lock of the name {name:?}, or of another version",
                path().display()
            )));
        }
        Ok(())
    }
}

/// Who has a lock, as the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) word: u32,
    pid: u32,
    begun: u64,
}

impl Record {
    pub(crate) fn read(file: impl AsFd) -> Result<Record, Errno> {
        let mut bytes = [0; RECORD_BYTES];
        if file::read_at(file, &mut bytes, RECORD_AT)? < RECORD_BYTES {
            return Err(Errno::NODATA);
        }
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(half)
        };
        let whole = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        Ok(Record { number: whole(0), word: half(8), pid: half(12), begun: whole(16) })
    }

    /// That of a file that is held, which may be opened once more, and has this number.
    #[inline]
    pub(crate) fn of(held: &Held, file: &Fd, number: u64) -> Result<Record, Error> {
        let record = match Record::read(file) {
            Err(Errno::NODATA) => {
                let path = held.path();
                return Err(Error::Corrupt(format!("{} was cut short", path.display())));
            }
            record => record.map_err(|errno| held.failed(errno))?,
        };
        // Somebody has closed the descriptor, and another file has got its number.
        if record.number == number { Ok(record) } else { Err(Error::HandleLost(Errno::BADF)) }
    }

    /// All but the file's number, which stays.
    pub(crate) fn write(&self, file: impl AsFd) -> Result<(), Errno> {
        let mut bytes = [0; RECORD_BYTES - 8];
        bytes[..4].copy_from_slice(&self.word.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pid.to_le_bytes());
        bytes[8..].copy_from_slice(&self.begun.to_le_bytes());
        file::write_at(file, &bytes, RECORD_AT + 8)
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.word % 2 == 1
    }

    /// Whether both are of one process.
    #[inline]
    fn is_owner(&self, other: &Record) -> bool {
        (self.pid, self.begun) == (other.pid, other.begun)
    }

    /// The record of this process as the next owner: the next odd number.
    pub(crate) fn sign(self) -> Record {
        let word = self.word.wrapping_add(1 + u32::from(self.is_taken()));
        Record { word, pid: own_pid(), begun: process::own_begun(), ..self }
    }
}

/// Says that nobody has it, and leaves the word odd.
pub(crate) fn leave_to_nobody(file: &Fd) -> Result<(), Errno> {
    let record = Record::read(file)?;
    Record { pid: 0, begun: 0, ..record }.write(file)
}

/// Whether who had it has ended with it, of a lock that nobody holds.
pub(crate) fn is_abandoned(file: &Fd) -> bool {
    Record::read(file).is_ok_and(|record| record.is_taken())
}

/// A lock's file, open in this process.
#[derive(Debug)]
struct Shared {
    held: Held,
    number: u64,
    words: Words,
    /// Whose turn it is among this process's threads: the kernel tells open files apart, not threads.
    turn: TimedLock,
    /// Who of this process has it; zero for nobody.
    taker: AtomicUsize,
    /// In which of its threads: another than the taker if that is a task.
    thread: AtomicUsize,
    /// Nobody wants to hear that this process has ended in order with it.
    is_plain: AtomicBool,
    /// When its name was looked for last.
    looked_ns: AtomicU64,
}

impl AsRef<Held> for Shared {
    fn as_ref(&self) -> &Held {
        &self.held
    }
}

static LOCKS: Once<Shared> = Once::new();
/// Locks that are taken though nobody has a handle any more.
static KEPT: PerProcess<Vec<Arc<Shared>>> = PerProcess::new();

/// A lock with a name.
#[derive(Debug)]
pub struct Lock {
    shared: Arc<Shared>,
}

impl Lock {
    /// Opens a lock, or makes one if nobody has it open.
    pub fn open(name: &str, scope: &Scope, until: Deadline) -> Result<Lock, Error> {
        let wanted = Wanted { kind: Kind::Lock, scope: scope.clone(), name: checked(name)? };
        let held = wanted.open_or_make(&Form(Kind::Lock), until)?;
        let words = Words::map(&held.file).map_err(|errno| held.failed(errno))?;
        let record = Record::read(&held.file).map_err(|errno| held.failed(errno))?;
        let number = record.number;
        let (turn, taker, thread, is_plain, looked_ns) = Default::default();
        let shared = Shared { held, number, words, turn, taker, thread, is_plain, looked_ns };
        let shared = LOCKS.share(shared);
        shared.disown().map_err(|errno| shared.held.failed(errno))?;
        Ok(Lock { shared })
    }

    /// Whether it was opened by this process, not by the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.shared.held.is_ours()
    }

    /// Who of this process has it, as that was said; zero for nobody.
    #[inline]
    pub fn taker(&self) -> usize {
        self.shared.taker.load(Ordering::Relaxed)
    }

    /// Makes it another's of this process, in that thread, if it is this one's.
    pub fn pass_on(&self, from: usize, to: usize, thread: usize) {
        let taker = &self.shared.taker;
        if taker.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.shared.thread.store(thread, Ordering::Relaxed);
        }
    }

    /// Has it given back when this process ends in order, so that nothing of it is left. It protects nothing
    /// but a role of the process.
    pub fn give_back_at_the_end(&self, does: bool) {
        self.shared.is_plain.store(does, Ordering::Relaxed);
    }

    /// Whether somebody has it who can go on only if this thread does not wait.
    pub fn is_taken_in(&self, thread: usize) -> bool {
        self.taker() != 0 && self.shared.thread.load(Ordering::Relaxed) == thread
    }

    /// Takes it for a task of this process, which is no zero, or else for a thread, in that thread, or says
    /// why not; gives whether its last owner ended with it.
    #[inline]
    pub fn acquire(&self, taker: usize, thread: usize, until: Deadline) -> Result<bool, Error> {
        let shared = &*self.shared;
        if shared.held.is_left() {
            return Err(shared.held.left("lock"));
        }
        if !shared.turn.try_lock() {
            shared.turn.lock(until.left())?;
        }
        let taken = self.acquire_among_processes(until);
        match taken {
            Ok(_) => {
                shared.thread.store(thread, Ordering::Relaxed);
                shared.taker.store(taker, Ordering::Relaxed);
            }
            Err(_) => shared.turn.unlock(),
        }
        taken
    }

    fn acquire_among_processes(&self, until: Deadline) -> Result<bool, Error> {
        let shared = &*self.shared;
        let mut attention = None;
        loop {
            if file::lock_whole(&shared.held.file).map_err(|errno| shared.held.failed(errno))? {
                let taken = shared.check_place().and_then(|()| self.sign());
                if taken.is_err() {
                    let _ = file::unlock_whole(&shared.held.file);
                }
                return taken;
            }
            let record = shared.record()?;
            if until.is_over() {
                return Err(Error::TimedOut);
            }
            if shared.held.is_left() {
                return Err(shared.held.left("lock"));
            }
            // L3. If it is even, it is being given back, or taken: that takes a moment, and may be told.
            let most = if record.is_taken() { IS_IT_ALIVE } else { A_MOMENT };
            match shared.words.wait(WORD_AT, record.word, until.at_most(most).left()) {
                Err(WaitEnd::Interrupted) => return Err(Error::Interrupted),
                Ok(()) | Err(WaitEnd::TimedOut) => {
                    attention.get_or_insert_with(Attention::new).look()?;
                }
            }
        }
    }

    /// Says in the file whose it is; gives whether its last owner ended with it.
    fn sign(&self) -> Result<bool, Error> {
        let shared = &*self.shared;
        let record = shared.record()?;
        let abandoned = record.is_taken();
        // L2
        let (file, signed) = (&shared.held.file, record.sign());
        let written = if record.is_owner(&signed) && !abandoned {
            // All but the word stands there already.
            shared.words.add(WORD_AT, 1)
        } else {
            signed.write(file)
        };
        written.map_err(|errno| shared.held.failed(errno))?;
        Ok(abandoned)
    }

    /// Gives it back.
    #[inline]
    pub fn release(&self) -> Result<(), Error> {
        self.end(Shared::give_back)
    }

    /// Gives it back as who ends with it: the next one is told the same.
    pub fn abandon(&self) -> Result<(), Error> {
        self.end(Shared::leave_odd)
    }

    #[inline]
    fn end(&self, give_back: impl FnOnce(&Shared) -> Result<(), Errno>) -> Result<(), Error> {
        let shared = &*self.shared;
        let given = give_back(shared);
        shared.turn.unlock();
        if Arc::strong_count(&self.shared) > 1 {
            KEPT.with(|kept| kept.retain(|kept| !Arc::ptr_eq(kept, &self.shared)));
        }
        given.map_err(|errno| shared.held.failed(errno))
    }

    /// The process that has it: its number, and when it began, in clock ticks since boot.
    pub fn owner(&self) -> Result<Option<(u32, u64)>, Error> {
        let shared = &*self.shared;
        let record = shared.record()?;
        let lives = || match process::Process::open(record.pid) {
            Err(Errno::SRCH | Errno::INVAL) => Ok(false),
            Err(errno) => Err(Error::os("asking for a lock's owner")(errno)),
            Ok(it) => {
                Ok(it.mark().begun.is_none_or(|begun| begun == record.begun) && !it.is_over())
            }
        };
        // A process that has run another program since is the same, and has nothing any more.
        let has_it = || match record.pid == own_pid() {
            true => Ok(self.taker() != 0),
            false => {
                is_held_by(&shared.held.file, record.pid).map_err(|errno| shared.held.failed(errno))
            }
        };
        let is_owned = record.is_taken() && lives()? && has_it()?;
        Ok(is_owned.then_some((record.pid, record.begun)))
    }

    /// Who is in the way of those that wait, if that can be told. If that has ended, others have inherited its
    /// open file: then it is theirs until the last of them ends.
    pub fn in_the_way(&self) -> Option<InTheWay> {
        let shared = &*self.shared;
        let record = shared.record().ok()?;
        let is_held = || is_held_by(&shared.held.file, record.pid) == Ok(true);
        let is_taken = record.is_taken() && (record.pid == own_pid() || is_held());
        is_taken.then(|| InTheWay::new(record.pid, false))
    }

    /// Keeps it taken, if it is, though nobody has this handle any more: it is the process's.
    pub fn keep_if_taken(&self) {
        if self.is_ours() && self.taker() != 0 {
            KEPT.with(|kept| {
                if !kept.iter().any(|kept| Arc::ptr_eq(kept, &self.shared)) {
                    kept.push(Arc::clone(&self.shared));
                }
            });
        }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.shared.held.path()
    }
}

impl Shared {
    /// Whether the file still has its name; not asked again in the same few milliseconds.
    #[inline]
    fn check_place(&self) -> Result<(), Error> {
        if self.held.is_left() {
            return Err(self.held.left("lock"));
        }
        let now = coarse_clock_ns();
        if self.looked_ns.swap(now, Ordering::Relaxed) == now {
            return Ok(());
        }
        self.held.check_place("lock")
    }

    /// Wakes who is next, and gives the file's lock back. Who is woken on another processor needs longer to
    /// come than that; on this one it may come at once, finds the file locked, and is woken once more.
    #[inline]
    fn give_back(&self) -> Result<(), Errno> {
        self.taker.store(0, Ordering::Relaxed);
        let woken = self.words.add_and_wake(WORD_AT, 1, 1);
        file::unlock_whole(&self.held.file)?;
        if woken? > 0 {
            self.words.wake(WORD_AT, 1);
        }
        Ok(())
    }

    /// If the file says that this process has it, and it has not, it ran another program then: that has ended
    /// with it.
    fn disown(&self) -> Result<(), Errno> {
        let record = Record::read(&self.held.file)?;
        if !record.is_taken() || !record.is_owner(&record.sign()) || !self.turn.try_lock() {
            return Ok(());
        }
        let is_free = file::lock_whole(&self.held.file);
        let disowned = if let Ok(true) = is_free { self.leave_odd() } else { is_free.map(drop) };
        self.turn.unlock();
        disowned
    }

    /// Gives the file's lock back, and leaves the word as it is. Who waits looks by itself.
    fn leave_odd(&self) -> Result<(), Errno> {
        self.taker.store(0, Ordering::Relaxed);
        let nobody = leave_to_nobody(&self.held.file);
        file::unlock_whole(&self.held.file)?;
        nobody
    }

    #[inline]
    fn record(&self) -> Result<Record, Error> {
        Record::of(&self.held, &self.held.file, self.number)
    }
}

/// The locks that somebody has, and which process; rwlocks that somebody has, or stands at the door of, of which it
/// is said that they are.
pub fn owners(scope: &Scope) -> Result<Vec<(String, u32, bool)>, Error> {
    let mut found = Vec::new();
    for kind in [Kind::Lock, Kind::RwLock] {
        living(scope, kind, &mut |file| {
            let mut head = [0; RECORD_AT as usize];
            let name = match file::read_at(file, &mut head, 0) {
                Ok(count) if count == head.len() => name_in(&head),
                _ => None,
            };
            let Some(name) = name else { return };
            let is_rw = kind == Kind::RwLock;
            let pids = if is_rw { rwlock::pids_in_the_way(file) } else { owner_in(file) };
            found.extend(pids.into_iter().map(|pid| (name.clone(), pid, is_rw)));
        })?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The process that has a lock, of whose file nothing else is known.
fn owner_in(file: &Fd) -> Vec<u32> {
    let record = Record::read(file).ok().filter(Record::is_taken);
    let pid = record.map(|record| record.pid);
    pid.filter(|pid| is_held_by(file, *pid) == Ok(true)).into_iter().collect()
}

fn name_in(head: &[u8; RECORD_AT as usize]) -> Option<String> {
    let length = u32::from_le_bytes(head[12..16].try_into().ok()?) as usize;
    Some(std::str::from_utf8(head[32..].get(..length)?).ok()?.to_owned())
}

pub(crate) fn leave_all() {
    // One that is held stays so to the very end, and is abandoned then. Threads that wait see that they are
    // too late, and no other takes it from here on: its turn is not given back.
    for shared in LOCKS.all() {
        shared.held.will_end();
        let mut is_held = shared.taker.load(Ordering::Relaxed) != 0;
        if is_held && shared.is_plain.load(Ordering::Relaxed) {
            is_held = shared.give_back().is_err();
            shared.turn.unlock();
        }
        if !is_held && shared.turn.lock(Some(5 * IS_IT_ALIVE)).is_ok() {
            shared.held.leave();
        }
    }
}
