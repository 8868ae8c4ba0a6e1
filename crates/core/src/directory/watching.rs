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

use alongside_sys::inotify::{Inotify, Told};
use alongside_sys::poll::{Beacon, PollSet, Watch as Readiness};
use alongside_sys::process::Process;
use alongside_sys::{Errno, is_shortage};

use crate::deadline::Deadline;
use crate::directory::entry::{Entry, FileName};
use crate::directory::name::Pattern;
use crate::directory::scope::Scope;
use crate::directory::store::{Found, NAMES, Store};
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
    /// Its entries.
    files: BTreeSet<Key>,
}

/// A store that is listened to.
#[derive(Debug)]
struct Place {
    store: Store,
    /// The number of its entries' directory at the inotify.
    names: i32,
    /// The number of the directory that has that one in it: there it is told when that one goes.
    home: i32,
    /// What tells its directory of entries from another one with the same path.
    identity: (u64, u64),
}

/// An entry's file, and in which place: in another place the same name is another's.
type Key = (u64, String);

#[derive(Debug, Default)]
struct Picture {
    /// Those that there are, each with a number of its own.
    places: BTreeMap<u64, Place>,
    places_ever: u64,
    /// The directories in which further ones may appear, by their number at the inotify.
    cradles: BTreeSet<i32>,
    known: BTreeMap<Key, Entry>,
    /// By user and life: one user's word about a life is not another's.
    owners: BTreeMap<(u32, String), Owner>,
    owners_ever: u64,
    changes: VecDeque<Change>,
    /// Something was short when it was looked at what has been told: all has to be looked at.
    is_stale: bool,
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

    // ---- what is told --------------------------------------------------------------------------

    fn step(&self, picture: &mut Picture) -> Result<(), Error> {
        let ready = self.set.wait(Some(Duration::ZERO)).map_err(Error::os("watching names"))?;
        let Ok(ready) = ready else {
            return if picture.is_stale { self.look_anew(picture) } else { Ok(()) };
        };
        let tokens: Vec<u64> = ready.tokens().to_vec();
        let heard = tokens.into_iter().try_for_each(|token| match token {
            BEACON => Ok(()),
            DIRECTORIES => self.hear(picture),
            owner => self.bury(picture, owner),
        });
        // What was told is told once: if it could not be looked at, everything has to be.
        picture.is_stale |= heard.is_err();
        if picture.is_stale { self.look_anew(picture) } else { Ok(()) }
    }

    fn look_anew(&self, picture: &mut Picture) -> Result<(), Error> {
        picture.is_stale = true;
        // There may be a better place for new things now.
        self.scope.check()?;
        self.settle(picture)?;
        self.look_at_all(picture, false)?;
        picture.is_stale = false;
        Ok(())
    }

    /// Takes what is told of the directories.
    fn hear(&self, picture: &mut Picture) -> Result<(), Error> {
        for told in self.inotify.read().map_err(Error::os("watching names"))? {
            let Told::Name(number, name) = told else {
                picture.is_stale = true;
                continue;
            };
            let place = picture.places.iter().find(|(_, place)| place.names == number);
            match (place.map(|(id, _)| *id), name.to_str()) {
                (Some(id), Ok(name)) => self.look_at(picture, &(id, name.to_owned()), false)?,
                (Some(_), Err(_)) => {}
                // A place has come, or gone, or something else has happened around it. Once for all
                // that is told: there may be much of it.
                (None, _) => picture.is_stale |= self.may_matter(picture, number, &name),
            }
        }
        Ok(())
    }

    /// Whether something that happened beside the entries may have to do with places.
    fn may_matter(&self, picture: &Picture, number: i32, name: &CStr) -> bool {
        let is_home = picture.places.values().any(|place| place.home == number);
        picture.cradles.contains(&number) || is_home && name.to_bytes() == NAMES.as_bytes()
    }

    // ---- places --------------------------------------------------------------------------------

    /// Listens to all directories that there are, and to those no longer that are gone. What is in them
    /// has to be looked at after the kernel has begun to tell: so nothing falls between.
    fn settle(&self, picture: &mut Picture) -> Result<(), Error> {
        let gone: Vec<u64> = picture
            .places
            .iter()
            .filter(|(_, place)| !place.store.is_in_its_place())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.leave(picture, id);
        }
        // Before it is looked what there is: what appears later is told.
        for cradle in self.scope.cradles() {
            match self.inotify.watch_arrivals(&cradle) {
                Ok(number) => drop(picture.cradles.insert(number)),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::File(cradle, errno)),
            }
        }
        Store::each(&self.scope, &|_| true, &mut |store| {
            let path = store.names().path().to_owned();
            let failed = Error::file(&path);
            let identity = store.names().facts().map_err(&failed)?.identity();
            if picture.places.values().any(|place| place.identity == identity) {
                return Ok(());
            }
            let home = self.inotify.watch(store.home()).map_err(&failed)?;
            let names = self.inotify.watch(store.names()).map_err(&failed)?;
            picture.places_ever += 1;
            picture.places.insert(picture.places_ever, Place { store, names, home, identity });
            Ok(())
        })
    }

    /// A place is gone, and with it all that was in it.
    fn leave(&self, picture: &mut Picture, id: u64) {
        let Some(place) = picture.places.remove(&id) else { return };
        self.inotify.forget(place.names);
        self.inotify.forget(place.home);
        let files: Vec<Key> = picture.known.keys().filter(|key| key.0 == id).cloned().collect();
        for key in files {
            self.lose(picture, &key);
        }
    }

    // ---- entries -------------------------------------------------------------------------------

    /// Looks at every entry that there is, and at every one that was there.
    fn look_at_all(&self, picture: &mut Picture, initial: bool) -> Result<(), Error> {
        let mut found: Vec<(u64, Key)> = Vec::new();
        for (id, Place { store, .. }) in &picture.places {
            let mut alive = |it: Found| {
                found.push((it.entry.order, (*id, it.entry.file().unwrap_or_default())));
            };
            store.look(None, &mut alive, &mut |_| {})?;
        }
        found.sort();
        let known: Vec<Key> = picture.known.keys().cloned().collect();
        for key in known.into_iter().chain(found.into_iter().map(|(_, key)| key)) {
            self.look_at(picture, &key, initial)?;
        }
        // Of those who have no name left nobody needs to hear; of others it may have been missed.
        let ended = picture.owners.values().filter(|owner| owner.process.is_over());
        let tokens: Vec<u64> = ended.map(|owner| owner.token).collect();
        tokens.into_iter().try_for_each(|token| self.bury(picture, token))
    }

    /// Compares one entry with what is known of it.
    fn look_at(&self, picture: &mut Picture, key: &Key, initial: bool) -> Result<(), Error> {
        let Some(parts) = FileName::parse(&key.1) else { return Ok(()) };
        let Some(place) = picture.places.get(&key.0) else { return Ok(()) };
        let entry = place.store.entry_of_living(&key.1, &parts)?;
        let known = picture.known.get(key).map(|known| known.changed);
        match (entry, known) {
            (Some(entry), None)
                if self.pattern.matches(&entry.name) && self.meet(picture, key, &entry)? =>
            {
                picture.known.insert(key.clone(), entry.clone());
                picture.changes.push_back(Change { kind: Kind::Appeared, entry, initial });
            }
            (Some(entry), Some(changed)) if entry.changed != changed => {
                picture.known.insert(key.clone(), entry.clone());
                picture.changes.push_back(Change { kind: Kind::Changed, entry, initial: false });
            }
            (None, Some(_)) => self.lose(picture, key),
            _ => {}
        }
        Ok(())
    }

    /// Has the end of an entry's process be told; false if it has ended already.
    fn meet(&self, picture: &mut Picture, key: &Key, entry: &Entry) -> Result<bool, Error> {
        let os = Error::os("watching a process");
        if let Some(owner) = picture.owners.get_mut(&owner_of(entry)) {
            owner.files.insert(key.clone());
            return Ok(true);
        }
        let process = match Process::open(entry.pid) {
            Ok(process) => Some(process),
            Err(errno) if is_shortage(errno) => return Err(os(errno)),
            // Then nobody tells of its end. It is there all the same if its life is held, as by a child
            // that was made by a bare clone.
            Err(_) => None,
        };
        // Asked after the process was taken hold of: so the handle is on the one that lives.
        let Some(place) = picture.places.get(&key.0) else { return Ok(false) };
        if !place.store.is_living(entry)? {
            return Ok(false);
        }
        let Some(process) = process else { return Ok(true) };
        let token = FIRST_OWNER + picture.owners_ever;
        picture.owners_ever += 1;
        self.set.add(&process, token, Readiness::Level).map_err(os)?;
        let files = BTreeSet::from([key.clone()]);
        picture.owners.insert(owner_of(entry), Owner { token, process, files });
        Ok(true)
    }

    /// A process has ended: its entries are looked at once more, and are gone.
    fn bury(&self, picture: &mut Picture, token: u64) -> Result<(), Error> {
        let owner = picture.owners.iter().find(|(_, owner)| owner.token == token);
        let Some((life, owner)) = owner else { return Ok(()) };
        let (life, files) = (life.clone(), owner.files.clone());
        let mut dead = Vec::new();
        for key in files {
            let (Some(entry), Some(place)) = (picture.known.get(&key), picture.places.get(&key.0))
            else {
                continue;
            };
            // A child that it made by a bare clone may hold its life; then so it is.
            if !place.store.is_living(entry)? {
                place.store.sweep(&key.1, entry);
                dead.push(key);
            }
        }
        // Nothing can fail any more: none is left behind without anybody who tells of its end.
        if let Some(owner) = picture.owners.remove(&life) {
            self.set.remove(&owner.process);
        }
        dead.iter().for_each(|key| self.lose(picture, key));
        Ok(())
    }

    fn lose(&self, picture: &mut Picture, key: &Key) {
        let Some(entry) = picture.known.remove(key) else { return };
        if let Some(owner) = picture.owners.get_mut(&owner_of(&entry)) {
            owner.files.remove(key);
            if owner.files.is_empty()
                && let Some(owner) = picture.owners.remove(&owner_of(&entry))
            {
                self.set.remove(&owner.process);
            }
        }
        picture.changes.push_back(Change { kind: Kind::Vanished, entry, initial: false });
    }
}

fn owner_of(entry: &Entry) -> (u32, String) {
    (entry.uid, entry.life.clone())
}

impl AsFd for Watch {
    /// Readable while there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
