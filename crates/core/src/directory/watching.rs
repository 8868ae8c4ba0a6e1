//! Watching names come and go, without asking again and again.
//!
//! The kernel tells of files that are linked, renamed and removed (`inotify`), and of processes that end
//! (a pidfd for each that has names here). What it tells is only where to look: whether an entry is alive
//! is asked as ever, so a picture is true whatever was missed. When more happened than was kept, all is
//! looked at anew, and what has changed meanwhile is told as if it had been seen.
//!
//! A scope's directories may appear while the watch is open: the user's runtime directory at a login, another
//! user's directory when that one first publishes. So the directories in which that can happen are listened
//! to as well, if there are any.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alongside_sys::Errno;
use alongside_sys::inotify::{Inotify, Told};
use alongside_sys::poll::{Beacon, PollSet, Watch as Readiness};
use alongside_sys::process::Process;

use crate::deadline::Deadline;
use crate::directory::entry::{Entry, FileName};
use crate::directory::name::Pattern;
use crate::directory::scope::Scope;
use crate::directory::store::Store;
use crate::error::Error;

const DIRECTORIES: u64 = 0;
const BEACON: u64 = 1;
const FIRST_OWNER: u64 = 2;

/// What has become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is there now.
    Appeared,
    /// It says something else now.
    Changed,
    /// It was revoked, or its process is gone.
    Vanished,
}

/// Something that happened to an entry.
#[derive(Clone, Debug)]
pub struct Change {
    /// What.
    pub kind: Kind,
    /// The entry, as it is; of one that vanished, as it was last.
    pub entry: Entry,
    /// It was there when the watch began.
    pub initial: bool,
}

/// A process that has entries here.
#[derive(Debug)]
struct Owner {
    token: u64,
    process: Process,
    /// The files of its entries.
    files: BTreeSet<String>,
}

/// A store that is listened to.
#[derive(Debug)]
struct Place {
    store: Store,
    /// Its number at the inotify.
    number: i32,
    /// The number of its directory of names; another one of the same path has another one.
    inode: u64,
}

#[derive(Debug, Default)]
struct Picture {
    /// Those that there are, and those that there were.
    places: Vec<Place>,
    /// The directories in which further ones may appear, by their number at the inotify.
    cradles: BTreeSet<i32>,
    /// By file: which store it is in, and what it says.
    known: BTreeMap<String, (usize, Entry)>,
    /// By user and life: one user's word about a life is not another's.
    owners: BTreeMap<(u32, String), Owner>,
    owners_ever: u64,
    changes: VecDeque<Change>,
    is_closed: bool,
}

/// A picture of the names that fit, kept up with what happens to them.
#[derive(Debug)]
pub struct Watch {
    scope: Scope,
    pattern: Pattern,
    inotify: Inotify,
    set: PollSet,
    beacon: Beacon,
    picture: Mutex<Picture>,
}

impl Watch {
    /// Watches the names of a scope that fit; those that are there are its first changes.
    pub fn new(pattern: &str, scope: &Scope) -> Result<Watch, Error> {
        let os = Error::os("watching names");
        // There has to be a directory in which something could appear.
        scope.check()?;
        let (inotify, set) = (Inotify::new().map_err(&os)?, PollSet::new().map_err(&os)?);
        let beacon = Beacon::new().map_err(&os)?;
        set.add(&inotify, DIRECTORIES, Readiness::Level).map_err(&os)?;
        set.add(&beacon, BEACON, Readiness::Level).map_err(&os)?;
        let (scope, pattern) = (scope.clone(), Pattern::new(pattern));
        let watch = Watch { scope, pattern, inotify, set, beacon, picture: Mutex::default() };
        {
            let mut picture = watch.picture();
            watch.settle(&mut picture)?;
            watch.look_at_all(&mut picture, true)?;
            watch.show(&picture);
        }
        Ok(watch)
    }

    /// Listens to all directories that there are; true if there are new ones. What is in them has to be
    /// looked at after the kernel has begun to tell: so nothing falls between.
    fn settle(&self, picture: &mut Picture) -> Result<bool, Error> {
        // Before it is looked what there is: what appears later is told.
        for cradle in self.scope.cradles() {
            match self.inotify.watch_arrivals(&cradle) {
                Ok(number) => drop(picture.cradles.insert(number)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::File(cradle, errno)),
            }
        }
        let before = picture.places.len();
        for store in Store::existing(&self.scope) {
            let path = store.names().path().to_owned();
            let failed = Error::file(&path);
            let inode = store.names().facts().map_err(&failed)?.inode;
            if !picture.places.iter().any(|place| place.inode == inode) {
                let number = self.inotify.watch(store.names()).map_err(&failed)?;
                picture.places.push(Place { store, number, inode });
            }
        }
        Ok(picture.places.len() > before)
    }

    /// Whose names they are.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    fn picture(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable as long as there is something to take.
    fn show(&self, picture: &Picture) {
        if picture.changes.is_empty() && !picture.is_closed {
            self.beacon.put_out();
        } else {
            self.beacon.light();
        }
    }

    /// The next change if there is one; never waits.
    pub fn take(&self) -> Result<Option<Change>, Error> {
        let mut picture = self.picture();
        if picture.changes.is_empty() && !picture.is_closed {
            self.step(&mut picture)?;
        }
        let change = picture.changes.pop_front();
        self.show(&picture);
        match change {
            None if picture.is_closed => Err(Error::Closed { by_me: true }),
            change => Ok(change),
        }
    }

    /// The next change, waiting for it.
    pub fn next(&self, deadline: Deadline) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.take()? {
                return Ok(change);
            }
            self.set.wait(deadline.left()).map_err(Error::os("watching names"))?.map(drop)?;
        }
    }

    /// Ends the watch for whoever waits.
    pub fn close(&self) {
        let mut picture = self.picture();
        picture.is_closed = true;
        picture.changes.clear();
        self.show(&picture);
    }

    fn step(&self, picture: &mut Picture) -> Result<(), Error> {
        let os = Error::os("watching names");
        let Ok(ready) = self.set.wait(Some(Duration::ZERO)).map_err(&os)? else { return Ok(()) };
        for token in ready.tokens() {
            match *token {
                BEACON => {}
                DIRECTORIES => {
                    for told in self.inotify.read().map_err(&os)? {
                        match told {
                            Told::Name(number, _) if picture.cradles.contains(&number) => {
                                // There may be a better place for new things now.
                                self.scope.check()?;
                                if self.settle(picture)? {
                                    self.look_at_all(picture, false)?;
                                }
                            }
                            Told::Name(number, name) => self.hear(picture, number, &name)?,
                            Told::Lost => self.look_at_all(picture, false)?,
                        }
                    }
                }
                owner => self.bury(picture, owner)?,
            }
        }
        Ok(())
    }

    fn hear(&self, picture: &mut Picture, number: i32, name: &CStr) -> Result<(), Error> {
        let place = picture.places.iter().position(|place| place.number == number);
        match (place, name.to_str()) {
            (Some(place), Ok(name)) => self.look_at(picture, place, name, false),
            _ => Ok(()),
        }
    }

    /// Looks at every entry that there is, and at every one that was there.
    fn look_at_all(&self, picture: &mut Picture, initial: bool) -> Result<(), Error> {
        let mut files: Vec<(u64, usize, String)> = Vec::new();
        for (place, Place { store, .. }) in picture.places.iter().enumerate() {
            let file_of = |entry: &Entry| entry.file().unwrap_or_default();
            let mut alive = |found: crate::directory::store::Found| {
                files.push((found.entry.order, place, file_of(&found.entry)));
            };
            store.look(None, &mut alive, &mut |_| {})?;
        }
        files.sort();
        let known: Vec<(usize, String)> =
            picture.known.iter().map(|(file, (place, _))| (*place, file.clone())).collect();
        let found = files.into_iter().map(|(_, place, file)| (place, file));
        for (place, file) in known.into_iter().chain(found) {
            self.look_at(picture, place, &file, initial)?;
        }
        Ok(())
    }

    /// Compares one entry with what is known of it.
    fn look_at(
        &self,
        picture: &mut Picture,
        place: usize,
        file: &str,
        initial: bool,
    ) -> Result<(), Error> {
        let Some(parts) = FileName::parse(file) else { return Ok(()) };
        let entry = picture.places[place].store.entry_of_living(file, &parts)?;
        let known = picture.known.get(file).map(|(_, known)| known.changed);
        match (entry, known) {
            (Some(entry), None)
                if self.pattern.matches(&entry.name)
                    && self.meet(picture, place, file, &entry)? =>
            {
                picture.known.insert(file.to_owned(), (place, entry.clone()));
                picture.changes.push_back(Change { kind: Kind::Appeared, entry, initial });
            }
            (Some(entry), Some(changed)) if entry.changed != changed => {
                picture.known.insert(file.to_owned(), (place, entry.clone()));
                picture.changes.push_back(Change { kind: Kind::Changed, entry, initial: false });
            }
            (None, Some(_)) => self.lose(picture, file),
            _ => {}
        }
        Ok(())
    }

    /// Has the end of an entry's process be told; false if it has ended already.
    fn meet(
        &self,
        picture: &mut Picture,
        place: usize,
        file: &str,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let os = Error::os("watching a process");
        if let Some(owner) = picture.owners.get_mut(&key(entry)) {
            owner.files.insert(file.to_owned());
            return Ok(true);
        }
        let process = match Process::open(entry.pid) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(os(errno)),
        };
        // Asked after the process was taken hold of: so the handle is on the one that lives.
        if !picture.places[place].store.is_living(entry)? {
            return Ok(false);
        }
        let token = FIRST_OWNER + picture.owners_ever;
        picture.owners_ever += 1;
        self.set.add(&process, token, Readiness::Level).map_err(os)?;
        let files = BTreeSet::from([file.to_owned()]);
        picture.owners.insert(key(entry), Owner { token, process, files });
        Ok(true)
    }

    /// A process has ended: its entries are looked at once more, and are gone.
    fn bury(&self, picture: &mut Picture, token: u64) -> Result<(), Error> {
        let life = picture.owners.iter().find(|(_, owner)| owner.token == token);
        let Some(life) = life.map(|(life, _)| life.clone()) else { return Ok(()) };
        let Some(owner) = picture.owners.remove(&life) else { return Ok(()) };
        self.set.remove(&owner.process);
        for file in owner.files {
            let Some((place, entry)) = picture.known.get(&file).cloned() else { continue };
            // A child that it made by a bare clone may hold its life; then so it is.
            let store = &picture.places[place].store;
            if !store.is_living(&entry)? {
                store.sweep(&file, &entry);
                self.lose(picture, &file);
            }
        }
        Ok(())
    }

    fn lose(&self, picture: &mut Picture, file: &str) {
        let Some((_, entry)) = picture.known.remove(file) else { return };
        if let Some(owner) = picture.owners.get_mut(&key(&entry)) {
            owner.files.remove(file);
            if owner.files.is_empty()
                && let Some(owner) = picture.owners.remove(&key(&entry))
            {
                self.set.remove(&owner.process);
            }
        }
        picture.changes.push_back(Change { kind: Kind::Vanished, entry, initial: false });
    }
}

fn key(entry: &Entry) -> (u32, String) {
    (entry.uid, entry.life.clone())
}

impl AsFd for Watch {
    /// Readable while there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
