//! A value that lives as long as some process holds it.
//!
//! The value and how it is replaced are `alongside-shm`'s (`cell.rs` there); the file is `held.rs`'s. Here one
//! writer after the other is let in, those that wait for a change are woken, and of those that want to make
//! the first value one at a time is let do so.
//!
//! Who waits for a change sleeps on the number of the slot that is written next. Who is killed between the
//! value and waking wakes nobody, so who waits looks every now and then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alongside_shm::{CELL_HEAD_BYTES, CellLayout, MOST_CELL_BYTES, Next, Pages, Unread};
pub use alongside_shm::{Value, Written};
use alongside_sys::file::{self, Hold};
use alongside_sys::inotify::Inotify;
use alongside_sys::lock::Timed;
use alongside_sys::poll::{PollSet, Watch};
use alongside_sys::process::Process;
use alongside_sys::word::Words;
use alongside_sys::{Errno, WaitEnd, coarse_clock_ns, fork, random};

use crate::deadline::Deadline;
use crate::directory::name::Name;
use crate::directory::scope::Scope;
use crate::directory::seeking::checked;
use crate::error::Error;
use crate::shared::gate::Patience;
use crate::shared::held::{Content, Held, Kind, Once, Wanted, living};
use crate::shared::{PATIENCE, signed};

/// Where who makes the first value locks bytes.
const FIRST_AT: u64 = 1 << 36;
/// So often who waits looks without having been woken.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same while somebody writes, or was killed at it.
const AMID_WRITING: Duration = Duration::from_millis(1);
/// So often who waits for another one's first value looks whether that one still lives.
const IS_IT_ALIVE: Duration = Duration::from_millis(5);

/// A cell's file, open in this process.
#[derive(Debug)]
struct Shared {
    held: Held,
    layout: CellLayout,
    /// One of this process's threads writes; a lock of the file's tells processes apart, not threads.
    writing: Timed<()>,
    words: OnceLock<Words>,
    /// When its name was looked for last.
    looked_ns: AtomicU64,
    /// One of this process's threads makes the first value.
    makes_first: AtomicBool,
    /// How many handles of it are open. Changes under the lock of `OPEN`.
    handles: AtomicUsize,
}

impl AsRef<Held> for Shared {
    fn as_ref(&self) -> &Held {
        &self.held
    }
}

static CELLS: Once<Shared> = Once::new();

/// Cells that this process holds until it closes them, or ends, though nobody has a handle any more.
static OPEN: Timed<Vec<(u32, Arc<Shared>)>> = Timed::new(Vec::new());

/// A value with holders, of which this process is one.
#[derive(Debug)]
pub struct Cell {
    name: Name,
    generation: u32,
    /// None once it is closed.
    shared: Timed<Option<Arc<Shared>>>,
}

/// What a cell is to be.
struct Shape {
    most: u64,
}

impl Content for Shape {
    fn new_bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let number = random().map_err(Error::os("making a cell's number"))?;
        Ok(CellLayout { most: self.most, number }.head(name))
    }

    fn check(&self, file: &OwnedFd, path: &dyn Fn() -> PathBuf, name: &str) -> Result<(), Error> {
        let (layout, found) = head(file, path)?;
        if found != name {
            return Err(Error::Corrupt(format!(
                "{} is the cell {found:?}, where {name:?} would be",
                path().display()
            )));
        }
        if layout.most != self.most {
            return Err(Error::Incompatible(format!(
                "the cell {name:?} is open with max_size={}, here it is asked for with {}\n\
                 all programs have to say the same",
                layout.most, self.most
            )));
        }
        Ok(())
    }
}

fn head(file: &OwnedFd, path: &dyn Fn() -> PathBuf) -> Result<(CellLayout, String), Error> {
    let mut head = [0; CELL_HEAD_BYTES];
    let count = file::read_at(file, &mut head, 0).map_err(|errno| Error::File(path(), errno))?;
    let parsed = if count == head.len() {
        CellLayout::parse(&head).map(|(layout, name)| (layout, name.to_owned()))
    } else {
        Err(format!("it has {count} bytes"))
    };
    parsed.map_err(|what| Error::Corrupt(format!("{} is no cell: {what}", path().display())))
}

/// What stands in the way of a file's pages.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Kernel(Errno),
    /// It ends too early.
    Cut,
}

impl Pages for Held {
    type Error = Obstacle;

    #[inline]
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Obstacle> {
        match file::read_at(&self.file, into, at) {
            Ok(count) if count == into.len() => Ok(()),
            Ok(_) => Err(Obstacle::Cut),
            Err(errno) => Err(Obstacle::Kernel(errno)),
        }
    }

    #[inline]
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Obstacle> {
        file::write_at(&self.file, bytes, at).map_err(Obstacle::Kernel)
    }
}

impl Cell {
    /// Opens a cell, or makes one without a value if nobody holds it.
    pub fn open(name: &str, scope: &Scope, most: u64, until: Deadline) -> Result<Cell, Error> {
        if most > MOST_CELL_BYTES {
            return Err(Error::Rule(format!("max_size is {most}, it can be {MOST_CELL_BYTES}")));
        }
        let wanted = Wanted { kind: Kind::Cell, scope: scope.clone(), name: checked(name)? };
        let Some(held) = wanted.open(&Shape { most }, true, until)? else {
            unreachable!("it is made if there is none")
        };
        Cell::of(held)
    }

    /// Opens a cell that somebody holds, whatever it has room for. None if nobody does.
    pub fn existing(name: &str, scope: &Scope, until: Deadline) -> Result<Option<Cell>, Error> {
        struct Any;
        impl Content for Any {
            fn new_bytes(&self, _: &str) -> Result<Vec<u8>, Error> {
                unreachable!("none is made")
            }

            fn check(
                &self,
                file: &OwnedFd,
                path: &dyn Fn() -> PathBuf,
                name: &str,
            ) -> Result<(), Error> {
                let (layout, _) = head(file, path)?;
                Shape { most: layout.most }.check(file, path, name)
            }
        }
        let wanted = Wanted { kind: Kind::Cell, scope: scope.clone(), name: checked(name)? };
        wanted.open(&Any, false, until)?.map(Cell::of).transpose()
    }

    fn of(held: Held) -> Result<Cell, Error> {
        let mut head = [0; CELL_HEAD_BYTES];
        let count = file::read_at(&held.file, &mut head, 0).map_err(|errno| held.failed(errno))?;
        let parsed = if count == head.len() { CellLayout::parse(&head) } else { Err("cut".into()) };
        let (layout, _) = parsed.map_err(|what| corrupt(&held, &what))?;
        let mut open = OPEN.lock_for_sure();
        let shared = CELLS.share(Shared {
            held,
            layout,
            writing: Timed::default(),
            words: OnceLock::new(),
            looked_ns: AtomicU64::new(0),
            makes_first: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
        });
        if shared.handles.fetch_add(1, Ordering::Relaxed) == 0 {
            let generation = fork::generation();
            open.retain(|(of, _)| *of == generation);
            open.push((generation, Arc::clone(&shared)));
        }
        let name = shared.held.wanted.name.clone();
        Ok(Cell { name, generation: fork::generation(), shared: Timed::new(Some(shared)) })
    }

    #[inline]
    fn opened(&self) -> Result<Arc<Shared>, Error> {
        // Asked first: in a forked child somebody who is not there may have the lock for ever.
        if self.generation != fork::generation() {
            return Err(Error::Forked);
        }
        self.shared.lock_for_sure().clone().ok_or_else(|| {
            Error::Rule(format!("the cell {:?} is closed; open it again", self.name.as_str()))
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The most that a value may have, in bytes.
    pub fn most(&self) -> Result<u64, Error> {
        Ok(self.opened()?.layout.most)
    }

    /// The current value, if there is one.
    #[inline]
    pub fn read(&self) -> Result<Option<Value>, Error> {
        Ok(self.opened()?.look(Some(0))?.0)
    }

    /// The number of the current value; zero if there is none.
    pub fn version(&self) -> Result<u64, Error> {
        Ok(self.opened()?.version()?.0)
    }

    /// Puts a value in the current one's place, if that has the expected number, and wakes all that wait for
    /// a change.
    pub fn write(
        &self,
        codec: u8,
        parts: &[&[u8]],
        expected: Option<u64>,
        until: Deadline,
    ) -> Result<Written, Error> {
        let shared = &*self.opened()?;
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        if bytes > shared.layout.most {
            return Err(Error::TooLarge { bytes, limit: shared.layout.most });
        }
        let words = shared.words()?;
        shared.alone(until, &mut |shared| {
            let written = shared.layout.write(&shared.held, codec, parts, expected)?;
            // At once: who is woken needs longer to come than the next writer to be let in.
            if let Some(word_at) = written.word_at {
                words.wake_all(word_at);
            }
            Ok(written)
        })
    }

    /// Waits until the current value's number is higher than this one; gives it.
    pub fn wait(&self, newer_than: u64, until: Deadline) -> Result<Value, Error> {
        let shared = &*self.opened()?;
        let words = shared.words()?;
        loop {
            let (found, _, next) = shared.look(Some(newer_than))?;
            if let Some(value) = found {
                return Ok(value);
            }
            sleep(words, next, LOOK_AGAIN, until)?;
        }
    }

    /// Waits until there is a value, which gives false, or until it is this thread's to make one, which gives
    /// true. Then [`Cell::leave_first`] has to follow.
    pub fn make_first(&self, until: Deadline) -> Result<bool, Error> {
        let shared = &*self.opened()?;
        let words = shared.words()?;
        loop {
            let (version, next) = shared.version()?;
            if version > 0 {
                return Ok(false);
            }
            if !shared.makes_first.swap(true, Ordering::Acquire) {
                match shared.try_first() {
                    // Somebody may have made it, and let go, since the look.
                    Ok(true) if shared.version().is_ok_and(|(version, _)| version == 0) => {
                        return Ok(true);
                    }
                    Ok(true) => self.leave_first(),
                    other => {
                        shared.makes_first.store(false, Ordering::Release);
                        other?;
                    }
                }
            }
            sleep(words, next, IS_IT_ALIVE, until)?;
        }
    }

    /// This thread makes the first value no more, whether it has or not.
    pub fn leave_first(&self) {
        let Ok(shared) = self.opened() else { return };
        let (at, _) = signed(FIRST_AT);
        let _ = file::unlock(&shared.held.file, at, 1 << 32);
        shared.makes_first.store(false, Ordering::Release);
        if let (Ok(words), Ok((_, next))) = (shared.words(), shared.version()) {
            words.wake_all(next.word_at);
        }
    }

    /// The processes that hold it.
    pub fn holders(&self) -> Result<Vec<u32>, Error> {
        self.opened()?.held.holders()
    }

    /// Lets go of it. The value is gone when nobody holds it any more. A second time does nothing.
    pub fn close(&self) {
        if self.generation != fork::generation() {
            return;
        }
        let Some(mine) = self.shared.lock_for_sure().take() else { return };
        let mut open = OPEN.lock_for_sure();
        let is_last = mine.handles.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_last {
            mine.held.will_be_left();
            open.retain(|(_, shared)| !Arc::ptr_eq(shared, &mine));
        }
        drop(open);
        if is_last {
            mine.held.leave();
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.generation != fork::generation() || self.shared.lock_for_sure().is_none()
    }

    /// Its file.
    pub fn path(&self) -> Result<PathBuf, Error> {
        Ok(self.opened()?.held.path())
    }
}

/// Tells when a cell may have changed, through a descriptor; and when a process has ended that matters to it.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    set: PollSet,
    inotify: Inotify,
    followed: Timed<Option<Process>>,
}

const WRITTEN: u64 = 0;
const ENDED: u64 = 1;

impl Changes {
    /// From now on.
    pub fn new(cell: &Cell) -> Result<Changes, Error> {
        let shared = cell.opened()?;
        let os = Error::os("watching a cell");
        let (set, inotify) = (PollSet::new().map_err(&os)?, Inotify::new().map_err(&os)?);
        inotify.watch_file(&shared.held.file).map_err(&os)?;
        set.add(&inotify, WRITTEN, Watch::Level).map_err(&os)?;
        Ok(Changes { shared, set, inotify, followed: Timed::default() })
    }

    /// Tells when this process has ended, too, and no other any more; at once if it has ended already.
    pub fn follow(&self, pid: Option<u32>) -> Result<(), Error> {
        let os = Error::os("watching a process");
        let mut followed = self.followed.lock_for_sure();
        if let Some(process) = followed.take() {
            self.set.remove(&process);
        }
        let Some(pid) = pid else { return Ok(()) };
        match Process::open(pid) {
            Ok(process) => {
                // Told once: it stays so.
                self.set.add(&process, ENDED, Watch::Edge).map_err(&os)?;
                *followed = Some(process);
                Ok(())
            }
            // Nothing to follow; who asked looks once more.
            Err(Errno::SRCH | Errno::INVAL) => Ok(()),
            Err(errno) => Err(os(errno)),
        }
    }

    /// Whether anything has happened since the last time. Never waits.
    pub fn take(&self) -> Result<bool, Error> {
        let os = Error::os("watching a cell");
        let Ok(ready) = self.set.wait(Some(Duration::ZERO)).map_err(&os)? else { return Ok(false) };
        let written = self.inotify.drain().map_err(&os)?;
        Ok(written || !ready.tokens().is_empty())
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.shared.held.is_ours()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// The names of the cells that somebody holds.
pub fn names(scope: &Scope) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    living(scope, Kind::Cell, &mut |file| {
        if let Ok((_, name)) = head(file, &PathBuf::new) {
            found.push(name);
        }
    })?;
    found.sort();
    Ok(found)
}

/// Sleeps until the next value comes, but no longer than this.
fn sleep(words: &Words, next: Next, most: Duration, until: Deadline) -> Result<(), Error> {
    if until.is_over() {
        return Err(Error::TimedOut);
    }
    let most = if next.is_settled { most } else { AMID_WRITING };
    match words.wait(next.word_at, next.seen, until.at_most(most).left()) {
        Err(WaitEnd::Interrupted) => Err(Error::Interrupted),
        // The deadline is looked at after one more look at what is waited for.
        Ok(()) | Err(WaitEnd::TimedOut) => Ok(()),
    }
}

fn corrupt(held: &Held, what: &str) -> Error {
    Error::Corrupt(format!("{} is no cell any more: {what}", held.path().display()))
}

impl Shared {
    fn words(&self) -> Result<&Words, Error> {
        if let Some(words) = self.words.get() {
            return Ok(words);
        }
        let mapped = Words::map(&self.held.file);
        let words = mapped.map_err(|errno| self.held.failed(errno))?;
        Ok(self.words.get_or_init(|| words))
    }

    fn version(&self) -> Result<(u64, Next), Error> {
        let (_, version, next) = self.look(None)?;
        Ok((version, next))
    }

    #[inline]
    fn look(&self, newer_than: Option<u64>) -> Result<(Option<Value>, u64, Next), Error> {
        match self.layout.look(&self.held, newer_than) {
            Ok(found) => Ok(found),
            Err(Unread::Torn) => self.alone(Deadline::after(Some(PATIENCE)), &mut |shared| {
                shared.layout.look(&shared.held, newer_than)
            }),
            Err(error) => Err(self.unread(error)),
        }
    }

    /// Does something while nobody else writes.
    fn alone<T>(
        &self,
        until: Deadline,
        act: &mut dyn FnMut(&Shared) -> Result<T, Unread<Obstacle>>,
    ) -> Result<T, Error> {
        let _thread = self.writing.lock(until.left())?;
        let file = &self.held.file;
        let mut patience = None;
        while !file::lock_whole(file).map_err(|errno| self.held.failed(errno))? {
            match patience.get_or_insert_with(|| Patience::new(until)).nap() {
                Err(Error::TimedOut) => return Err(self.stuck()),
                rested => rested?,
            }
        }
        let done = self.check_place().and_then(|()| act(self).map_err(|error| self.unread(error)));
        let _ = file::unlock_whole(file);
        done
    }

    /// Whether the file still has its name; not asked again in the same few milliseconds.
    fn check_place(&self) -> Result<(), Error> {
        let now = coarse_clock_ns();
        if self.looked_ns.swap(now, Ordering::Relaxed) == now {
            return Ok(());
        }
        let facts = file::facts_of(&self.held.file).map_err(|errno| self.held.failed(errno))?;
        if facts.links > 0 {
            return Ok(());
        }
        Err(Error::ScopeLost(format!(
            "{} was removed by somebody: other programs have another cell of that name by now\n\
             open it again",
            self.held.path().display()
        )))
    }

    fn try_first(&self) -> Result<bool, Error> {
        let (at, bytes) = signed(FIRST_AT);
        let locked = file::lock(&self.held.file, Hold::Alone, at, bytes);
        locked.map_err(|errno| self.held.failed(errno))
    }

    fn stuck(&self) -> Error {
        Error::Stuck(format!(
            "a process that is writing the cell {:?} does not go on\nalongside doctor says why",
            self.held.wanted.name.as_str()
        ))
    }

    fn unread(&self, error: Unread<Obstacle>) -> Error {
        match error {
            Unread::Pages(Obstacle::Kernel(errno)) => self.held.failed(errno),
            Unread::Pages(Obstacle::Cut) => corrupt(&self.held, "it was cut short"),
            Unread::Torn => corrupt(&self.held, "its checksums are wrong"),
            // Somebody has closed the descriptor, and another file has got its number.
            Unread::Foreign => Error::HandleLost(Errno::BADF),
        }
    }
}

pub(crate) fn leave_all() {
    CELLS.all().iter().for_each(|shared| shared.held.leave());
}
