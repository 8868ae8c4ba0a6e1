//! A value that lives as long as some process holds it.
//!
//! The value and how it is replaced are `alongside-shm`'s (`cell.rs` there); the file is `held.rs`'s. Here one
//! writer after the other is let in, those that wait for a change are woken, and of those that want to make
//! the first value one at a time is let do so.
//!
//! Who waits for a change sleeps on the number of the slot that is written next. Who is killed between the
//! value and waking wakes nobody, so who waits looks every now and then.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alongside_shm::{
    CELL_HEAD_BYTES, CellLayout, MOST_CELL_BYTES, Next, PADDING_AT, Pages, Unread, word_of,
};
pub use alongside_shm::{Value, Written};
use alongside_sys::file::{self, Hold};
use alongside_sys::lock::{PerProcess, Timed};
use alongside_sys::poll::{PollSet, Watch};
use alongside_sys::process::Process;
use alongside_sys::word::Words;
use alongside_sys::{Errno, Fd, WaitEnd, coarse_clock_ns, fork, own_pid, random};

use crate::deadline::Deadline;
use crate::directory::name::Name;
use crate::directory::scope::Scope;
use crate::directory::seeking::checked;
use crate::error::Error;
use crate::shared::gate::{Attention, Patience};
use crate::shared::hearing::{Hearing, Listener};
use crate::shared::held::{Content, Held, Kind, Once, Wanted, living};
use crate::shared::{InTheWay, PATIENCE, signed};

/// Where who makes the first value locks bytes.
const FIRST_AT: u64 = 1 << 36;
/// So often who waits looks without having been woken.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same while somebody writes, or was killed at it.
const AMID_WRITING: Duration = Duration::from_millis(1);
/// So soon who waits for another one's first value looks whether that one still lives, and at last so often:
/// there may be hundreds that wait.
const IS_IT_ALIVE: Duration = Duration::from_millis(4);
const IS_IT_STILL_ALIVE: Duration = Duration::from_millis(64);

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
static OPEN: PerProcess<Vec<Arc<Shared>>> = PerProcess::new();

/// A value with holders, of which this process is one.
#[derive(Debug)]
pub struct Cell {
    name: Name,
    generation: u32,
    /// None once it is closed.
    shared: Timed<Option<Arc<Shared>>>,
    /// The same, for those who wait.
    is_closed: Arc<AtomicBool>,
}

/// The right to make the first value, until this is dropped, whether there is one then or not.
#[derive(Debug)]
pub struct First {
    shared: Arc<Shared>,
}

impl Drop for First {
    fn drop(&mut self) {
        let shared = &*self.shared;
        if !shared.held.is_ours() {
            return;
        }
        let (at, _) = signed(FIRST_AT);
        let _ = file::unlock(&shared.held.file, at, 1 << 32);
        shared.makes_first.store(false, Ordering::Release);
        if let (Ok(words), Ok((_, next))) = (shared.words(), shared.version()) {
            words.wake_all(next.word_at);
        }
    }
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

    fn check(&self, file: &Fd, path: &dyn Fn() -> PathBuf, name: &str) -> Result<(), Error> {
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

fn head(file: &Fd, path: &dyn Fn() -> PathBuf) -> Result<(CellLayout, String), Error> {
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

    fn check(&self, at: u64, bytes: u64) -> Result<(), Obstacle> {
        let facts = file::facts_of(&self.file).map_err(Obstacle::Kernel)?;
        if at.saturating_add(bytes) <= facts.bytes { Ok(()) } else { Err(Obstacle::Cut) }
    }

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
            return Err(Error::Rule(format!(
                "max_size is {most}, it can be {MOST_CELL_BYTES} at most"
            )));
        }
        let wanted = Wanted { kind: Kind::Cell, scope: scope.clone(), name: checked(name)? };
        Cell::of(wanted.open_or_make(&Shape { most }, until)?)
    }

    /// Opens a cell that somebody holds, whatever it has room for, as a guest, which does not keep it alive.
    /// None if nobody holds it.
    pub fn existing(name: &str, scope: &Scope, until: Deadline) -> Result<Option<Cell>, Error> {
        struct Any;
        impl Content for Any {
            fn new_bytes(&self, _: &str) -> Result<Vec<u8>, Error> {
                unreachable!("none is made")
            }

            fn check(
                &self,
                file: &Fd,
                path: &dyn Fn() -> PathBuf,
                name: &str,
            ) -> Result<(), Error> {
                let (layout, _) = head(file, path)?;
                Shape { most: layout.most }.check(file, path, name)
            }
        }
        let wanted = Wanted { kind: Kind::Cell, scope: scope.clone(), name: checked(name)? };
        wanted.open_existing(&Any, until)?.map(Cell::of).transpose()
    }

    fn of(held: Held) -> Result<Cell, Error> {
        let mut head = [0; CELL_HEAD_BYTES];
        let count = file::read_at(&held.file, &mut head, 0).map_err(|errno| held.failed(errno))?;
        let parsed = if count == head.len() { CellLayout::parse(&head) } else { Err("cut".into()) };
        let (layout, _) = parsed.map_err(|what| corrupt(&held, &what))?;
        let new = Shared {
            held,
            layout,
            writing: Timed::default(),
            words: OnceLock::new(),
            looked_ns: AtomicU64::new(0),
            makes_first: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
        };
        let shared = OPEN.with(|open| {
            let shared = CELLS.share(new);
            if shared.handles.fetch_add(1, Ordering::Relaxed) == 0 {
                open.push(Arc::clone(&shared));
            }
            shared
        });
        let name = shared.held.wanted.name.clone();
        let (generation, is_closed) = (fork::generation(), Arc::default());
        Ok(Cell { name, generation, shared: Timed::new(Some(shared)), is_closed })
    }

    #[inline]
    fn opened(&self) -> Result<Arc<Shared>, Error> {
        // Asked first: in a forked child somebody who is not there may have the lock for ever.
        if self.generation != fork::generation() {
            return Err(Error::Forked);
        }
        match &*self.shared.lock_for_sure() {
            // At the end of the process all are left, whatever handles there are.
            Some(open) if open.held.is_left() => Err(open.held.left("cell")),
            Some(open) => Ok(Arc::clone(open)),
            None => {
                let name = self.name.as_str();
                Err(Error::Rule(format!("the cell {name:?} is closed; open it again")))
            }
        }
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
        value: &[u8],
        expected: Option<u64>,
        until: Deadline,
    ) -> Result<Written, Error> {
        let shared = &*self.opened()?;
        let bytes = value.len() as u64;
        if bytes > shared.layout.most {
            return Err(Error::TooLarge { bytes, limit: shared.layout.most });
        }
        let words = shared.words()?;
        shared.alone(until, &mut |shared| {
            let written = shared.layout.write(&shared.held, codec, value, expected)?;
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
            shared.check_use(&self.is_closed)?;
        }
    }

    /// Waits until there is a value, which gives none, or until it is the caller's to make one.
    pub fn make_first(&self, until: Deadline) -> Result<Option<First>, Error> {
        let shared = &self.opened()?;
        let attention = Attention::new();
        // Not all at the same moment.
        let mut look_after = IS_IT_ALIVE + Duration::from_micros(u64::from(own_pid() % 64) * 64);
        let words = shared.words()?;
        loop {
            let (version, next) = shared.version()?;
            if version > 0 {
                return Ok(None);
            }
            if !shared.makes_first.swap(true, Ordering::Acquire) {
                match shared.try_first() {
                    Ok(true) => {
                        let first = First { shared: Arc::clone(shared) };
                        // Somebody may have made it, and let go, since the look.
                        return Ok(if shared.version()?.0 == 0 { Some(first) } else { None });
                    }
                    other => {
                        shared.makes_first.store(false, Ordering::Release);
                        other?;
                    }
                }
            }
            sleep(words, next, look_after, until)?;
            look_after = (look_after * 2).min(IS_IT_STILL_ALIVE);
            shared.check_use(&self.is_closed)?;
            attention.look()?;
        }
    }

    /// The process that makes the first value, if that is another one.
    pub fn first_maker(&self) -> Option<InTheWay> {
        let (at, _) = signed(FIRST_AT);
        InTheWay::of(&self.opened().ok()?.held.file, Hold::Alone, at, false)
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
        self.is_closed.store(true, Ordering::Release);
        let is_last = OPEN.with(|open| {
            let is_last = mine.handles.fetch_sub(1, Ordering::Relaxed) == 1;
            if is_last {
                mine.held.will_be_left();
                open.retain(|shared| !Arc::ptr_eq(shared, &mine));
            }
            is_last
        });
        // Some may wait by this very handle.
        mine.wake_those_here();
        if is_last {
            mine.held.leave();
        }
        // Who asks elsewhere whether anybody holds it has to ask after that.
        mine.tell_those_who_listen();
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

/// Tells when a cell may have changed; and when a process has ended that matters to it. Who waits for that
/// watches its [`Hearing`] as well, and has that handed out.
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    is_closed: Arc<AtomicBool>,
    set: PollSet,
    listener: Listener,
    followed: Timed<Option<Process>>,
}

const WRITTEN: u64 = 0;
const ENDED: u64 = 1;
const HEARD: u64 = 2;

impl Changes {
    /// From now on.
    pub fn new(cell: &Cell) -> Result<Changes, Error> {
        let shared = cell.opened()?;
        let os = Error::os("watching a cell");
        let set = PollSet::new().map_err(&os)?;
        let listener = Listener::new(&shared.held.file).map_err(&os)?;
        set.add(&listener, WRITTEN, Watch::Level).map_err(&os)?;
        let (is_closed, followed) = (Arc::clone(&cell.is_closed), Timed::default());
        Ok(Changes { shared, is_closed, set, listener, followed })
    }

    /// Where it hears of its cell, as others of this process hear of theirs.
    pub fn hearing(&self) -> &Arc<Hearing> {
        &self.listener.hearing
    }

    /// A descriptor for who watches nothing else: it is readable when there is something to take, or maybe.
    pub fn alone(&self) -> Result<BorrowedFd<'_>, Error> {
        self.check_ours()?;
        match self.set.add(&**self.hearing(), HEARD, Watch::Level) {
            Ok(()) | Err(Errno::EXIST) => Ok(self.set.as_fd()),
            Err(errno) => Err(Error::os("watching a cell")(errno)),
        }
    }

    /// Tells when this process has ended, too, and no other any more; gives whether it is there.
    pub fn follow(&self, pid: Option<u32>) -> Result<bool, Error> {
        self.check_ours()?;
        let os = Error::os("watching a process");
        let mut followed = self.followed.lock_for_sure();
        if let Some(process) = followed.take() {
            self.set.remove(&process);
        }
        let Some(pid) = pid else { return Ok(true) };
        match Process::open(pid) {
            Ok(process) => {
                // Told once: it stays so.
                self.set.add(&process, ENDED, Watch::Edge).map_err(&os)?;
                *followed = Some(process);
                Ok(true)
            }
            Err(Errno::SRCH | Errno::INVAL) => Ok(false),
            Err(errno) => Err(os(errno)),
        }
    }

    /// Whether anything has happened since the last time. Never waits.
    pub fn take(&self) -> Result<bool, Error> {
        self.check_ours()?;
        let os = Error::os("watching a cell");
        self.hearing().hand_out().map_err(&os)?;
        let Ok(ready) = self.set.wait(Some(Duration::ZERO)).map_err(&os)? else { return Ok(false) };
        let tokens = ready.tokens();
        if tokens.contains(&WRITTEN) {
            self.listener.put_out();
            self.shared.check_use(&self.is_closed)?;
        }
        Ok(tokens.iter().any(|token| *token != HEARD))
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.shared.held.is_ours()
    }

    /// Whether the cell was closed here, or this process has let go of all at its end.
    pub fn is_over(&self) -> bool {
        self.shared.held.is_left() || self.is_closed.load(Ordering::Acquire)
    }

    fn check_ours(&self) -> Result<(), Error> {
        if self.is_ours() { Ok(()) } else { Err(Error::Forked) }
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
        self.held.check_place("cell")
    }

    /// Whether it is of use to go on waiting.
    fn check_use(&self, is_closed: &AtomicBool) -> Result<(), Error> {
        if self.held.is_left() || is_closed.load(Ordering::Acquire) {
            return Err(self.held.left("cell"));
        }
        // Each time: several may be told of the same thing, and it is not told again.
        self.held.check_place("cell")
    }

    /// Has whoever waits here look again: a handle of this process is closed.
    fn wake_those_here(&self) {
        if let Some(words) = self.words.get() {
            for which in [0, 1] {
                words.wake_all(word_of(which));
            }
        }
    }

    /// Has whoever waits by descriptor look again, if ours is still the file's. Nobody reads what stands there.
    fn tell_those_who_listen(&self) {
        if self.held.is_own_file() {
            let _ = file::write_at(&self.held.file, &[0], PADDING_AT);
        }
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
            Unread::Pages(Obstacle::Cut) => match self.held.check_place("cell") {
                Err(Error::HandleLost(errno)) => Error::HandleLost(errno),
                _ => corrupt(&self.held, "it was cut short"),
            },
            Unread::Torn => corrupt(&self.held, "its checksums are wrong"),
            Unread::TooLong(bytes) => Error::NoMemory(bytes),
            // Somebody has closed the descriptor, and another file has got its number.
            Unread::Foreign => Error::HandleLost(Errno::BADF),
        }
    }
}

pub(crate) fn leave_all() {
    for shared in CELLS.all() {
        shared.held.will_end();
        shared.held.leave();
    }
}
