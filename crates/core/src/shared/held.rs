//! A file that lives as long as some process holds it (H1 to H4 in `shared.rs`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use alongside_sys::file::{self, Directory, Hold};
use alongside_sys::lock::PerProcess;
use alongside_sys::{Errno, Fd, own_pid, own_uid, random};

use crate::deadline::Deadline;
use crate::directory::entry;
use crate::directory::name::Name;
use crate::directory::scope::{Home, Scope};
use crate::error::Error;
use crate::shared::gate::{self, Gates};
use crate::shared::{PATIENCE, cell, lock, rwlock};

/// Where the bytes are that holders lock: each that of its process's number.
const HOLDERS: (u64, u64) = (1 << 40, 1 << 32);
/// So many files are looked at by who makes one: those of the dead are removed.
const SWEPT_AT_ONCE: usize = 16;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cell,
    Lock,
    RwLock,
}

impl Kind {
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Kind::Cell => "cells",
            Kind::Lock => "locks",
            Kind::RwLock => "rwlocks",
        }
    }

    /// Whether a file that nobody holds has nothing to say any more. A lock still says that somebody was
    /// killed who had it.
    fn is_done(self, file: &Fd) -> bool {
        self == Kind::Cell || !lock::is_abandoned(file)
    }
}

/// Which file is meant.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    pub(crate) scope: Scope,
    pub(crate) name: Name,
}

/// What a file is made of and checked by.
pub(crate) trait Content {
    /// All that a new file has.
    fn new_bytes(&self, name: &str) -> Result<Vec<u8>, Error>;

    /// Whether a file that is there is one of these.
    fn check(&self, file: &Fd, path: &dyn Fn() -> PathBuf, name: &str) -> Result<(), Error>;
}

/// A file that this process holds, or is a guest of.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) file: Fd,
    pub(crate) wanted: Wanted,
    /// It was opened because others hold it, and does not keep it alive.
    is_guest: bool,
    identity: (u64, u64),
    home: Home,
    directory: Directory,
    is_left: AtomicBool,
    /// It was left because the process is about to end.
    is_ending: AtomicBool,
    is_gone: AtomicBool,
}

impl Wanted {
    fn file_name(&self) -> String {
        entry::hexadecimal(self.name.number())
    }

    /// Opens the file, or makes it if there is none that somebody holds.
    pub(crate) fn open_or_make(
        self,
        content: &dyn Content,
        until: Deadline,
    ) -> Result<Held, Error> {
        let name = self.name.clone();
        let none =
            || Error::ScopeLost(format!("there is no place for {:?} any more", name.as_str()));
        self.open(content, true, until)?.ok_or_else(none)
    }

    /// Opens the file if somebody holds it, as a guest (H5).
    pub(crate) fn open_existing(
        self,
        content: &dyn Content,
        until: Deadline,
    ) -> Result<Option<Held>, Error> {
        self.open(content, false, until)
    }

    fn open(
        self,
        content: &dyn Content,
        makes: bool,
        until: Deadline,
    ) -> Result<Option<Held>, Error> {
        let until = until.at_most(PATIENCE);
        let (name, number) = (self.name.as_str(), self.name.number());
        let gates = Gates::lock(&self.scope, name, number, makes, until)?;
        let Gates { mut homes, locked } = gates;
        // What lives in any place comes before what somebody has left in another.
        for wants_held in [true, false] {
            for at in 0..homes.len() {
                let found = self.join(&homes[at], content, wants_held, !makes)?;
                if let Some((file, directory)) = found {
                    let home = homes.swap_remove(at);
                    return Held::new(self, file, home, directory, !makes).map(Some);
                }
            }
        }
        if homes.is_empty() || !makes {
            return Ok(None);
        }
        let home = homes.swap_remove(0);
        let (file, directory) = self.make(&home, content)?;
        let held = Held::new(self, file, home, directory, false)?;
        drop(locked);
        held.sweep();
        Ok(Some(held))
    }

    /// The file that is there: if somebody holds it, or else if it is of use all the same; what is of no use
    /// is removed.
    fn join(
        &self,
        home: &Home,
        content: &dyn Content,
        wants_held: bool,
        as_guest: bool,
    ) -> Result<Option<(Fd, Directory)>, Error> {
        let kind = self.kind.directory();
        let directory = match home.directory.existing_part(kind) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::File(home.directory.path().join(kind), errno)),
        };
        let file_name = self.file_name();
        let path = || directory.path().join(&file_name);
        let failed = |errno| Error::File(path(), errno);
        let (file, facts) = match directory.shared_file(&file_name) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => {
                return Err(Error::Denied(format!(
                    "{} is no file, but a link, a FIFO or a directory that somebody put there\nremove it",
                    path().display()
                )));
            }
            Err(errno) => return Err(failed(errno)),
        };
        if facts.uid != own_uid() || facts.mode & 0o077 != 0 {
            return Err(gate::foreign(&path(), &facts));
        }
        // H3, and only then is it asked whether somebody else does.
        if !as_guest {
            hold(&file).map_err(failed)?;
        }
        let is_held = is_held(&file).map_err(failed)?;
        if wants_held && !is_held {
            return Ok(None);
        }
        if is_held {
            content.check(&file, &path, self.name.as_str())?;
            return Ok(Some((file, directory)));
        }
        if self.kind != Kind::Cell && content.check(&file, &path, self.name.as_str()).is_ok() {
            return Ok(Some((file, directory)));
        }
        directory.remove(&file_name).map_err(failed)?;
        Ok(None)
    }

    fn make(&self, home: &Home, content: &dyn Content) -> Result<(Fd, Directory), Error> {
        let kind = self.kind.directory();
        let at_home = Error::file(home.directory.path());
        let directory = home.directory.part(kind).map_err(at_home)?;
        let file_name = self.file_name();
        let failed = |errno| Error::File(directory.path().join(&file_name), errno);
        let file = directory.nameless_of_this_process(0o600).map_err(failed)?;
        file::write_at(&file, &content.new_bytes(self.name.as_str())?, 0).map_err(failed)?;
        hold(&file).map_err(failed)?;
        // H1
        directory.name(&file, &file_name).map_err(failed)?;
        Ok((file, directory))
    }
}

/// Begins to hold a file.
fn hold(file: &Fd) -> Result<(), Errno> {
    if file::lock(file, Hold::Shared, HOLDERS.0 + u64::from(own_pid()), 1)? {
        return Ok(());
    }
    // Only somebody who means ill locks these alone.
    Err(Errno::DEADLK)
}

/// Whether somebody else holds it.
fn is_held(file: &Fd) -> Result<bool, Errno> {
    file::is_held(file, Hold::Alone, HOLDERS.0, HOLDERS.1)
}

/// Whether that process holds it, by another open file than this one.
pub(crate) fn is_held_by(file: &Fd, pid: u32) -> Result<bool, Errno> {
    file::is_held(file, Hold::Alone, HOLDERS.0 + u64::from(pid), 1)
}

impl Held {
    fn new(
        wanted: Wanted,
        file: Fd,
        home: Home,
        directory: Directory,
        is_guest: bool,
    ) -> Result<Held, Error> {
        let failed = |errno| Error::File(directory.path().to_owned(), errno);
        let identity = file::facts_of(&file).map_err(failed)?.identity();
        let (is_left, is_ending, is_gone) = Default::default();
        Ok(Held { file, wanted, is_guest, identity, home, directory, is_left, is_ending, is_gone })
    }

    /// Whether this is the process that holds it.
    pub(crate) fn is_ours(&self) -> bool {
        self.file.is_ours()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(self.wanted.file_name())
    }

    /// Names the file with which the kernel refused something.
    pub(crate) fn failed(&self, errno: Errno) -> Error {
        match errno {
            Errno::BADF => Error::HandleLost(errno),
            Errno::FAULT => {
                Error::Corrupt(format!("{} was cut short by somebody", self.path().display()))
            }
            errno => Error::File(self.path(), errno),
        }
    }

    /// The processes that hold it.
    pub(crate) fn holders(&self) -> Result<Vec<u32>, Error> {
        let mut found = Vec::new();
        let another = file::open_again(&self.file).map_err(|errno| self.failed(errno))?;
        // Which of several is told is the kernel's choice, so what is left and right of it is asked too.
        let mut ranges = vec![(HOLDERS.0, HOLDERS.0 + HOLDERS.1)];
        while let Some((from, end)) = ranges.pop() {
            let lock = file::holder(&another, Hold::Alone, from, end - from);
            let Some((at, bytes)) = lock.map_err(|errno| self.failed(errno))? else { continue };
            let at = at.clamp(from, end - 1);
            // None is for all up to the end.
            let next = if bytes == 0 { end } else { at.saturating_add(bytes).clamp(at + 1, end) };
            // An honest one has a single byte.
            if bytes == 1 {
                found.push((at - HOLDERS.0) as u32);
            }
            ranges.extend([(from, at), (next, end)].into_iter().filter(|(from, end)| from < end));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes some of what the dead have left beside it.
    fn sweep(&self) {
        let Ok(names) = self.directory.names() else { return };
        let mine = self.wanted.file_name();
        let others =
            names.iter().filter_map(|name| name.to_str().ok()).filter(|name| *name != mine);
        // Beginning anywhere: the first ones may be alive for long.
        let first = random().unwrap_or(0) as usize % names.len().max(1);
        let others: Vec<&str> = others.collect();
        let turned = others.iter().cycle().skip(first).take(others.len());
        for name in turned.take(SWEPT_AT_ONCE) {
            sweep_one(self.wanted.kind, &self.home, &self.directory, name);
        }
    }

    /// Whether this process has let go of it.
    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    /// Whether the descriptor is still that of the file: another one may have its number, if somebody has
    /// closed it.
    pub(crate) fn is_own_file(&self) -> bool {
        file::facts_of(&self.file).is_ok_and(|facts| facts.identity() == self.identity)
    }

    /// The error if the file has no name any more: others have another one by now. A guest's has ended when
    /// nobody holds it any more, which is no fault.
    pub(crate) fn check_place(&self, what: &str) -> Result<(), Error> {
        let facts = file::facts_of(&self.file).map_err(|errno| self.failed(errno))?;
        // Another file may have the number of a descriptor that somebody has closed.
        if facts.identity() != self.identity {
            return Err(Error::HandleLost(Errno::BADF));
        }
        if self.is_guest && !is_held(&self.file).map_err(|errno| self.failed(errno))? {
            let name = self.wanted.name.as_str();
            return Err(Error::NotFound(format!("no program holds the {what} {name:?} any more")));
        }
        if facts.links > 0 {
            return Ok(());
        }
        Err(Error::ScopeLost(format!(
            "{} was removed by somebody: other programs have another {what} of that name by now\n\
             open it again",
            self.path().display()
        )))
    }

    /// It is about to be left: nobody in this process is to share it any more.
    pub(crate) fn will_be_left(&self) {
        self.is_left.store(true, Ordering::Release);
    }

    /// The same, because the process is about to end.
    pub(crate) fn will_end(&self) {
        self.is_ending.store(true, Ordering::Release);
        self.will_be_left();
    }

    /// The error of who asks for it when it is left.
    pub(crate) fn left(&self, what: &str) -> Error {
        let name = self.wanted.name.as_str();
        if self.is_ending.load(Ordering::Acquire) {
            return Error::Ending(format!(
                "the {what} {name:?} is asked for too late: this program has let go of all at its end"
            ));
        }
        Error::Rule(format!("the {what} {name:?} is closed; open it again"))
    }

    /// Lets go of it, and takes its name away if nobody else holds it. A second time does nothing. Who opens
    /// or closes it at the moment is not waited for long: then it is swept later.
    pub(crate) fn leave(&self) {
        self.will_be_left();
        if self.is_guest || !self.is_ours() || self.is_gone.swap(true, Ordering::AcqRel) {
            return;
        }
        let number = self.wanted.name.number();
        let mut patience = gate::Patience::new(Deadline::Never);
        let gate = loop {
            match gate::try_one(&self.home, number) {
                Ok(Ok(gate)) => break Some(gate),
                Ok(Err(_)) if patience.nap().is_ok() => {}
                _ => break None,
            }
        };
        // With the gate or without: the hold ends.
        let _ = file::unlock(&self.file, HOLDERS.0 + u64::from(own_pid()), 1);
        let file_name = self.wanted.file_name();
        let Ok((fresh, facts)) = self.directory.shared_file(&file_name) else { return };
        let is_mine = facts.identity() == self.identity;
        // H4
        if gate.is_some()
            && is_mine
            && is_held(&fresh) == Ok(false)
            && self.wanted.kind.is_done(&fresh)
        {
            let _ = self.directory.remove(&file_name);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Removes a file that nobody holds, if nobody is opening it.
fn sweep_one(kind: Kind, home: &Home, directory: &Directory, name: &str) {
    let Some(number) = entry::number(name) else { return };
    let Ok((file, facts)) = directory.shared_file(name) else { return };
    if facts.uid != own_uid() || is_held(&file) != Ok(false) || !kind.is_done(&file) {
        return;
    }
    // H2 and H4: once more, with the gate locked.
    let Ok(Ok(_gate)) = gate::try_one(home, number) else { return };
    let Ok((file, _)) = directory.shared_file(name) else { return };
    if is_held(&file) == Ok(false) && kind.is_done(&file) {
        let _ = directory.remove(name);
    }
}

// ---- what this process holds ---------------------------------------------------------------------

/// Files that are held once for the whole process, however often they are opened in it.
#[derive(Debug)]
pub(crate) struct Once<T> {
    all: PerProcess<Vec<Weak<T>>>,
}

impl<T: AsRef<Held>> Once<T> {
    pub(crate) const fn new() -> Once<T> {
        Once { all: PerProcess::new() }
    }

    /// The one that there is of the same file, in whose place the newly opened is closed; else that.
    pub(crate) fn share(&self, new: T) -> Arc<T> {
        let new = Arc::new(new);
        let mine = (*new).as_ref();
        let is_same = |known: &Held| {
            (known.identity, known.is_guest) == (mine.identity, mine.is_guest) && !known.is_left()
        };
        self.all.with(|all| {
            all.retain(|known| known.strong_count() > 0);
            let mut known = all.iter().filter_map(Weak::upgrade);
            if let Some(known) = known.find(|known| is_same((**known).as_ref())) {
                // What was opened just now ends with `new`; what the known one holds stays.
                return known;
            }
            all.push(Arc::downgrade(&new));
            Arc::clone(&new)
        })
    }

    /// All that there are.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.all.with(|all| all.iter().filter_map(Weak::upgrade).collect())
    }
}

/// Lets go of all: the process is about to end.
pub fn leave_all() {
    cell::leave_all();
    lock::leave_all();
    rwlock::leave_all();
}

/// Shows all files of a kind in a scope that somebody holds.
pub(crate) fn living(scope: &Scope, kind: Kind, each: &mut dyn FnMut(&Fd)) -> Result<(), Error> {
    for home in gate::own(scope)? {
        let Ok(directory) = home.directory.existing_part(kind.directory()) else { continue };
        for name in directory.names().unwrap_or_default() {
            let Ok(name) = name.to_str() else { continue };
            if entry::number(name).is_none() {
                continue;
            }
            if let Ok((file, facts)) = directory.shared_file(name)
                && facts.uid == own_uid()
                && is_held(&file) == Ok(true)
            {
                each(&file);
            }
        }
    }
    Ok(())
}
