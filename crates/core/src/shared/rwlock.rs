//! A lock with a name that many readers have, or one writer.
//!
//! Each hold opens the file anew and locks bytes of it, so threads of one process are told apart as processes
//! are. There are two places: the room, and the door to it. A writer locks the door, and keeps it locked until
//! the readers that are in the room have left; so those who come later wait behind it, and no stream of
//! readers keeps a writer out. The record of the writer, and the word on which is waited, are those of
//! `lock.rs`; readers that leave add two, which keeps the word odd or even.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alongside_sys::file::{self, Hold};
use alongside_sys::word::Words;
use alongside_sys::{Errno, Fd, WaitEnd};

use crate::deadline::Deadline;
use crate::directory::scope::Scope;
use crate::directory::seeking::checked;
use crate::error::Error;
use crate::shared::gate::Attention;
use crate::shared::held::{Held, Kind, Once, Wanted};
use crate::shared::lock::{Form, IS_IT_ALIVE, Record, WORD_AT};
use crate::shared::{InTheWay, lock, signed};

/// Where the bytes of the door and of the room are.
const DOOR_AT: u64 = 1 << 36;
const ROOM_AT: u64 = 1 << 37;

#[derive(Debug)]
struct Shared {
    held: Held,
    number: u64,
    words: Words,
    /// How many holds there are in this process.
    holds: AtomicUsize,
}

impl AsRef<Held> for Shared {
    fn as_ref(&self) -> &Held {
        &self.held
    }
}

static LOCKS: Once<Shared> = Once::new();

/// A lock for many readers or one writer.
#[derive(Clone, Debug)]
pub struct RwLock {
    shared: Arc<Shared>,
}

/// Somebody who waits, until this is dropped.
#[derive(Debug)]
pub struct RwEntry {
    lock: RwLock,
    way: Way,
    /// Opened when it begins to wait.
    file: Option<Fd>,
}

/// How somebody comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a reader, behind writers that wait.
    Reader,
    /// As a reader who is in the room already, and so need not pass writers that wait at the door.
    ReaderInside,
    /// As the writer.
    Writer,
}

/// What somebody has of it until this is dropped.
#[derive(Debug)]
pub struct RwHold {
    file: Fd,
    shared: Arc<Shared>,
    is_writer: bool,
    leaves_odd: bool,
    /// Whether the last writer was killed.
    pub abandoned: bool,
}

impl RwLock {
    /// Opens a lock, or makes one if nobody has it open.
    pub fn open(name: &str, scope: &Scope, until: Deadline) -> Result<RwLock, Error> {
        let wanted = Wanted { kind: Kind::RwLock, scope: scope.clone(), name: checked(name)? };
        let held = wanted.open_or_make(&Form(Kind::RwLock), until)?;
        let words = Words::map(&held.file).map_err(|errno| held.failed(errno))?;
        let record = Record::read(&held.file).map_err(|errno| held.failed(errno))?;
        let (number, holds) = (record.number, AtomicUsize::new(0));
        Ok(RwLock { shared: LOCKS.share(Shared { held, number, words, holds }) })
    }

    /// Whether it was opened by this process, not by the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.shared.held.is_ours()
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.shared.held.path()
    }

    /// Somebody who is about to come in.
    pub fn entry(&self, way: Way) -> RwEntry {
        RwEntry { lock: self.clone(), way, file: None }
    }

    fn enter(&self, file: Fd, is_writer: bool) -> Result<RwHold, Error> {
        self.shared.held.check_place("lock")?;
        let record = Record::of(&self.shared.held, &file, self.shared.number)?;
        let abandoned = record.is_taken();
        if is_writer {
            let signed = record.sign().write(&file);
            signed.map_err(|errno| self.shared.held.failed(errno))?;
        }
        self.shared.holds.fetch_add(1, Ordering::Relaxed);
        let (shared, leaves_odd) = (Arc::clone(&self.shared), false);
        Ok(RwHold { file, shared, is_writer, leaves_odd, abandoned })
    }
}

impl RwEntry {
    /// Takes the lock, or says why not. Who was interrupted, or has waited long enough for something else, may
    /// go on, and has kept its place: a writer the door.
    pub fn acquire(&mut self, until: Deadline) -> Result<RwHold, Error> {
        let shared = Arc::clone(&self.lock.shared);
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                file::open_again(&shared.held.file).map_err(|errno| shared.held.failed(errno))?
            }
        };
        match wait(&shared, &file, self.way, until) {
            Ok(()) => self.lock.enter(file, self.way == Way::Writer),
            Err(error) => {
                self.file = Some(file);
                Err(error)
            }
        }
    }

    /// Who is in its way, if that can be told: in the room, or at the door, which a writer may have itself.
    pub fn in_the_way(&self) -> Option<InTheWay> {
        let file = &self.lock.shared.held.file;
        let against = if self.way == Way::Writer { Hold::Alone } else { Hold::Shared };
        [(against, ROOM_AT), (Hold::Shared, DOOR_AT)]
            .into_iter()
            .find_map(|(against, at)| InTheWay::of(file, against, at, at == DOOR_AT))
    }

    /// Gives up its place.
    pub fn leave(&mut self) {
        self.file = None;
    }
}

/// Waits until it is in the room.
fn wait(shared: &Shared, file: &Fd, way: Way, until: Deadline) -> Result<(), Error> {
    let attention = Attention::new();
    loop {
        if shared.held.is_left() {
            return Err(shared.held.left("lock"));
        }
        let record = Record::of(&shared.held, file, shared.number)?;
        if try_enter(file, way).map_err(|errno| shared.held.failed(errno))? {
            return Ok(());
        }
        if until.is_over() {
            return Err(Error::TimedOut);
        }
        // Seen before the try: who leaves changes it after that.
        match shared.words.wait(WORD_AT, record.word, until.at_most(IS_IT_ALIVE).left()) {
            Err(WaitEnd::Interrupted) => return Err(Error::Interrupted),
            Ok(()) | Err(WaitEnd::TimedOut) => attention.look()?,
        }
    }
}

/// Goes through the door into the room, if nobody is in the way.
fn try_enter(file: &Fd, way: Way) -> Result<bool, Errno> {
    let is_writer = way == Way::Writer;
    let how = if is_writer { Hold::Alone } else { Hold::Shared };
    let (_, bytes) = signed(0);
    if way == Way::ReaderInside {
        return file::lock(file, how, ROOM_AT, bytes);
    }
    // A writer that has the door keeps it until it is in.
    if !file::lock(file, how, DOOR_AT, bytes)? {
        return Ok(false);
    }
    let is_in = file::lock(file, how, ROOM_AT, bytes)?;
    if is_in || !is_writer {
        file::unlock(file, DOOR_AT, bytes)?;
    }
    Ok(is_in)
}

impl RwHold {
    /// Whether it was taken by this process, not by the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.file.is_ours()
    }

    /// Leaves it as who ends with it: the next one is told what this one was.
    pub fn abandon(mut self) {
        self.leaves_odd = self.is_writer && self.abandoned;
    }
}

impl Drop for RwHold {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        self.shared.holds.fetch_sub(1, Ordering::Relaxed);
        let words = &self.shared.words;
        // L2 of `lock.rs`: the word is even before anybody else can come in.
        if self.leaves_odd {
            let _ = lock::leave_to_nobody(&self.file);
        } else {
            let _ = words.add_and_wake(WORD_AT, if self.is_writer { 1 } else { 2 }, 0);
        }
        let _ = file::unlock(&self.file, ROOM_AT, 1 << 32);
        words.wake_all(WORD_AT);
    }
}

/// The processes that are in the way of others at a lock's file: a writer, or one of the readers, and who has the
/// door.
pub(crate) fn pids_in_the_way(file: &Fd) -> Vec<u32> {
    let asked = [(Hold::Alone, ROOM_AT), (Hold::Shared, DOOR_AT)];
    let found =
        asked.into_iter().filter_map(|(against, at)| InTheWay::of(file, against, at, false));
    found.map(|it| it.pid).collect()
}

pub(crate) fn leave_all() {
    for shared in LOCKS.all() {
        shared.held.will_end();
        if shared.holds.load(Ordering::Relaxed) == 0 {
            shared.held.leave();
        }
    }
}
