//! What a scope's directory holds: lives, and the entries that belong to them.
//!
//! ```text
//! lives/LIFE              locked by its process as long as that lives
//! names/NUMBER-INSTANCE   an entry, which names its life
//! sockets/LIFE-INSTANCE   where those who connect to it come in, if anybody may
//! ```
//! Other users' directories can be read in the scope "machine", but their lives not: that one of their
//! processes lives is told by its pidfd, whose inode the entry names.
//!
//! # Invariants
//! * **D1** a file is complete before it has its name; a life is locked before it has its own.
//! * **D2** the numbers of lives and instances are random and never used again, so what was seen dead stays
//!   dead, and may be removed by anybody at any time.
//! * **D3** an entry counts only while its life is locked. Nothing else says that its process lives: a
//!   process's number, or a time, may be another's by now. (For other users' entries: only while the process
//!   with its number is the one that it marks.)
//!
//! Names need no lock here, for any number of programs may publish the same.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alongside_sys::file::{self, Directory, Facts, Hold};
use alongside_sys::lock::Timed;
use alongside_sys::process::Process;
use alongside_sys::{Errno, Fd, fork, is_shortage, own_uid, random, socket};

use crate::directory::entry::{self, Entry, FileName, NoEntry};
use crate::directory::scope::{ALL_MAY_READ, Home, Scope};
use crate::error::Error;

/// The bytes of a life file that its process has locked.
const LIFE: (u64, u64) = (0, 1);
/// So many dead entries are removed by who meets them; more are left to the next.
const SWEPT_AT_ONCE: usize = 64;

/// The permission bits of files.
const ONES_OWN: u32 = 0o600;
const ALL_READ: u32 = 0o644;

/// What the directories are called.
pub(crate) const NAMES: &str = "names";
pub(crate) const LIVES: &str = "lives";
pub(crate) const SOCKETS: &str = "sockets";

/// One user's directory in a scope.
#[derive(Debug)]
pub(crate) struct Store {
    scope: Scope,
    names: Directory,
    /// None if it is another user's: only the user's own programs may lock lives, or ask for locks.
    lives: Option<Directory>,
    /// The directory of the sockets is opened only by who needs it.
    home: Directory,
    owner: u32,
}

/// An entry that was found, and where.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it says.
    pub entry: Entry,
    /// Where that user's names, lives and sockets are.
    home: Arc<Path>,
    /// The scope in which it was found.
    pub scope: Arc<Scope>,
}

impl Found {
    /// Its file.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.join(NAMES).join(self.entry.file().unwrap_or_default())
    }

    /// Whether it is still there: neither revoked nor dead.
    pub(crate) fn is_there(&self) -> bool {
        self.path().exists() && Process::open(self.entry.pid).is_ok_and(|it| !it.is_over())
    }

    /// Connects to its socket.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Errno> {
        let socket = socket_name(&self.entry.life, &self.entry.instance);
        socket::connect(&Directory::open(&self.home.join(SOCKETS))?, &socket)
    }
}

/// A file in a scope's directory that is no entry, or a dead one.
#[derive(Clone, Debug, PartialEq)]
pub struct Flaw {
    /// The file.
    pub path: PathBuf,
    /// Why it does not count; none if its process is dead.
    pub why: Option<NoEntry>,
}

impl Store {
    pub(crate) fn new(scope: &Scope, home: Home) -> Result<Store, Error> {
        let is_own = home.owner == own_uid();
        let part = |name| part(scope, &home.directory, is_own, name);
        let lives = if is_own { Some(part(LIVES)?) } else { None };
        let names = part(NAMES)?;
        Ok(Store { scope: scope.clone(), names, lives, home: home.directory, owner: home.owner })
    }

    /// Does something with one store after the other, of those users who are meant. What cannot be opened
    /// is none, unless something is short.
    pub(crate) fn each(
        scope: &Scope,
        is_meant: &dyn Fn(u32) -> bool,
        act: &mut dyn FnMut(Store) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for home in scope.existing(is_meant)? {
            match Store::new(scope, home) {
                Ok(store) => act(store)?,
                Err(error) if error.is_shortage() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The store in which new things are made.
    pub(crate) fn first(scope: &Scope) -> Result<Store, Error> {
        Store::new(scope, scope.first()?)
    }

    /// Where the sockets are.
    fn sockets(&self) -> Result<Directory, Error> {
        part(&self.scope, &self.home, self.owner == own_uid(), SOCKETS)
    }

    /// Removes the lives and the sockets of dead processes: what belongs to no entry, or to none any more,
    /// is met by nobody else.
    fn sweep_remains(&self) {
        let Some(lives) = &self.lives else { return };
        let is_dead =
            |life: &str| entry::number(life).is_some() && is_alive(lives, life) == Ok(false);
        let sweep = |directory: &Directory, life_of: fn(&str) -> &str| {
            let names = directory.names().unwrap_or_default();
            for name in names.iter().filter_map(|name| name.to_str().ok()) {
                if is_dead(life_of(name)) {
                    let _ = directory.remove(name);
                }
            }
        };
        if let Ok(sockets) = self.sockets() {
            sweep(&sockets, |socket| socket.split('-').next().unwrap_or_default());
        }
        sweep(lives, |life| life);
    }

    /// Where all of it is.
    pub(crate) fn home(&self) -> &Directory {
        &self.home
    }

    /// Whether its entries are still where they were.
    pub(crate) fn is_in_its_place(&self) -> bool {
        let found = self.home.existing_part(NAMES).and_then(|names| names.facts());
        let mine = self.names.facts().map(|facts| facts.identity());
        mine.is_ok() && found.map(|facts| facts.identity()) == mine
    }

    /// Where its entries are.
    pub(crate) fn names(&self) -> &Directory {
        &self.names
    }

    /// The entry in this file, if there is one and its process lives.
    pub(crate) fn entry_of_living(
        &self,
        file: &str,
        parts: &FileName,
    ) -> Result<Option<Entry>, Error> {
        match self.read(file, parts) {
            Ok(entry) if self.is_living(&entry)? => Ok(Some(entry)),
            // Neither there nor not there: nobody knows.
            Err(NoEntry::Unreadable(errno)) if is_shortage(errno) => {
                Err(Error::File(self.names.path().join(file), errno))
            }
            _ => Ok(None),
        }
    }

    /// Removes what belongs to a dead process of this user.
    pub(crate) fn sweep(&self, file: &str, entry: &Entry) {
        let Some(lives) = &self.lives else { return };
        let _ = self.names.remove(file);
        let _ = lives.remove(&entry.life);
        if let Ok(sockets) = self.sockets() {
            let _ = sockets.remove(&socket_name(&entry.life, &entry.instance));
        }
    }

    /// Whether the process of an entry lives. An error says neither: nothing is removed for it.
    pub(crate) fn is_living(&self, entry: &Entry) -> Result<bool, Error> {
        if let Some(lives) = &self.lives {
            return is_alive(lives, &entry.life);
        }
        // Another user's locks are not to be asked for: who may open the file to ask could lock it, too,
        // and so make the dead seem alive.
        match Process::open(entry.pid) {
            Ok(process) => Ok(process.is_living(entry.mark())),
            Err(errno) if is_shortage(errno) => Err(Error::os("asking for a process")(errno)),
            // Whatever number another user has written there, none that lives has it.
            Err(_) => Ok(false),
        }
    }

    /// Reads the entry with this name, whether its process lives or not.
    fn read(&self, name: &str, parts: &FileName) -> Result<Entry, NoEntry> {
        let (file, facts) = self.names.file(name).map_err(NoEntry::Unreadable)?;
        if facts.uid != self.owner || facts.mode & 0o022 != 0 {
            return Err(NoEntry::Foreign { uid: facts.uid, mode: facts.mode });
        }
        let mut space = [0; entry::MOST_BYTES];
        let bytes = file::read(&file, facts.bytes, &mut space).map_err(NoEntry::Unreadable)?;
        match Entry::from_bytes(parts, bytes)? {
            entry if entry.uid == self.owner => Ok(entry),
            _ => Err(NoEntry::Garbage("it speaks for another user".into())),
        }
    }

    /// Looks at all files whose name's number is wanted; removes some of the dead.
    pub(crate) fn look(
        &self,
        number: Option<u64>,
        alive: &mut dyn FnMut(Found),
        flawed: &mut dyn FnMut(Flaw),
    ) -> Result<(), Error> {
        let names = match self.names.names() {
            // The whole place was removed since it was opened, at a logout perhaps.
            Err(Errno::NOENT) => return Ok(()),
            names => names.map_err(Error::file(self.names.path()))?,
        };
        let mut lives: HashMap<String, bool> = HashMap::new();
        let (home, scope) = (Arc::from(self.home.path()), Arc::new(self.scope.clone()));
        let mut swept = 0;
        for name in names.iter().filter_map(|name| name.to_str().ok()) {
            let path = || self.names.path().join(name);
            let Some(parts) = FileName::parse(name.trim_start_matches('.')) else {
                flawed(Flaw { path: path(), why: Some(NoEntry::Garbage("its name".into())) });
                continue;
            };
            if number.is_some_and(|number| number != parts.number) {
                continue;
            }
            let entry = match self.read(name, &parts) {
                Ok(entry) => entry,
                // Revoked between the listing and now.
                Err(NoEntry::Unreadable(Errno::NOENT)) => continue,
                Err(NoEntry::Unreadable(errno)) if is_shortage(errno) => {
                    return Err(Error::File(path(), errno));
                }
                Err(why) => {
                    flawed(Flaw { path: path(), why: Some(why) });
                    continue;
                }
            };
            let is_alive = match lives.get(&entry.life) {
                Some(known) => *known,
                None => {
                    let is_alive = self.is_living(&entry)?;
                    lives.insert(entry.life.clone(), is_alive);
                    is_alive
                }
            };
            // A name with a dot is a change under way: it counts when it has replaced the entry.
            match is_alive {
                true if name.starts_with('.') => {}
                true => alive(Found { entry, home: Arc::clone(&home), scope: Arc::clone(&scope) }),
                false => {
                    if swept < SWEPT_AT_ONCE {
                        swept += 1;
                        self.sweep(name, &entry);
                    }
                    flawed(Flaw { path: path(), why: None });
                }
            }
        }
        Ok(())
    }
}

/// A directory in a user's, made if it is this user's own and is missing.
fn part(scope: &Scope, home: &Directory, is_own: bool, name: &str) -> Result<Directory, Error> {
    let opened = match home.existing_part(name) {
        Err(Errno::NOENT) if is_own && scope.is_shared() && name != LIVES => {
            home.make(name, ALL_MAY_READ)
        }
        Err(Errno::NOENT) if is_own => home.part(name),
        opened => opened,
    };
    opened.map_err(Error::file(&home.path().join(name)))
}

/// What a socket is called: whose it is can be told though it has no entry yet.
fn socket_name(life: &str, instance: &str) -> String {
    format!("{life}-{instance}")
}

/// Whether the process with this life lives.
fn is_alive(lives: &Directory, life: &str) -> Result<bool, Error> {
    let failed = |errno| Error::File(lives.path().join(life), errno);
    match lives.file(life) {
        Ok((_, facts)) if facts.uid != own_uid() => Ok(false),
        Ok((file, _)) => file::is_held(&file, Hold::Shared, LIFE.0, LIFE.1).map_err(failed),
        // A link, a FIFO or a directory in its place is no life.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

/// This process's sign of life in one store: as long as it is locked, its entries count.
#[derive(Debug)]
pub(crate) struct Life {
    store: Store,
    number: String,
    /// Open, and so locked, as long as this process lives.
    lock: Fd,
    /// The files of the entries that belong to it.
    files: Mutex<BTreeSet<String>>,
    /// The names of their sockets.
    sockets: Mutex<BTreeSet<String>>,
}

/// Those of this process, and of which generation they are.
static OURS: Timed<Vec<(u32, Arc<Life>)>> = Timed::new(Vec::new());

/// Leaves all directories: the process is about to end.
pub(crate) fn leave_all() {
    let lives = std::mem::take(&mut *OURS.lock_for_sure());
    lives.iter().for_each(|(_, life)| life.leave());
}

impl Life {
    /// The one of this process in a scope, made if there is none.
    pub(crate) fn of_this_process(scope: &Scope) -> Result<Arc<Life>, Error> {
        let store = Store::first(scope)?;
        let mut lives = OURS.lock_for_sure();
        // Not the parent's, in a forked child; nor those of places that are not in use any more.
        lives.retain(|(generation, life)| {
            let is_here = life.store.names.path() == store.names.path();
            *generation == fork::generation() && (is_here || Arc::strong_count(life) > 1)
        });
        let is_here = |life: &Life| {
            life.store.names.path() == store.names.path() && life.is_in_its_place(&store)
        };
        if let Some((_, life)) = lives.iter().find(|(_, life)| is_here(life)) {
            return Ok(Arc::clone(life));
        }
        let life = Arc::new(Life::begin(store)?);
        lives.push((fork::generation(), Arc::clone(&life)));
        Ok(life)
    }

    fn begin(store: Store) -> Result<Life, Error> {
        store.sweep_remains();
        let Some(lives) = &store.lives else { unreachable!("the store is this user's own") };
        let path = lives.path().to_owned();
        let failed = Error::file(&path);
        let lock = lives.nameless_of_this_process(ONES_OWN).map_err(&failed)?;
        // D1: locked before it has a name.
        if !file::lock(&lock, Hold::Alone, LIFE.0, LIFE.1).map_err(&failed)? {
            return Err(failed(Errno::AGAIN));
        }
        let number = entry::hexadecimal(random().map_err(&failed)?);
        lives.name(&lock, &number).map_err(&failed)?;
        Ok(Life { store, number, lock, files: Mutex::default(), sockets: Mutex::default() })
    }

    /// Whether nobody has taken its file, or its directories, away.
    fn is_in_its_place(&self, store: &Store) -> bool {
        let identity = |facts: Result<Facts, Errno>| facts.ok().map(|facts| facts.identity());
        let found = store.lives.as_ref().map(|lives| lives.file(&self.number).map(|(_, it)| it));
        let pairs = [
            (identity(file::facts_of(&self.lock)), found.and_then(identity)),
            (identity(self.store.names.facts()), identity(store.names.facts())),
            (identity(self.store.home.facts()), identity(store.home.facts())),
        ];
        pairs.iter().all(|(mine, found)| mine.is_some() && mine == found)
    }

    /// Whether it is this process's, and not that of one that forked it.
    pub(crate) fn is_ours(&self) -> bool {
        self.lock.is_ours()
    }

    /// Its number, by which entries name it.
    pub(crate) fn number(&self) -> &str {
        &self.number
    }

    /// Makes an entry visible.
    pub(crate) fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = Error::file(self.store.names.path());
        let mode = if self.store.scope.is_shared() { ALL_READ } else { ONES_OWN };
        let file = self.store.names.nameless(mode).map_err(&failed)?;
        file::write(&file, bytes).map_err(&failed)?;
        self.files().insert(name.to_owned());
        self.store.names.name(&file, name).map_err(&failed)
    }

    fn files(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other bytes in an entry's place, in one step.
    pub(crate) fn update(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let next = format!(".{name}");
        self.store.names.remove(&next).map_err(Error::file(self.store.names.path()))?;
        self.publish(&next, bytes)?;
        let replaced = self.store.names.replace(&next, name);
        self.files().remove(&next);
        replaced.map_err(Error::file(self.store.names.path()))
    }

    /// Takes an entry away.
    pub(crate) fn revoke(&self, name: &str) -> Result<(), Error> {
        self.store.names.remove(name).map_err(Error::file(self.store.names.path()))?;
        self.files().remove(name);
        Ok(())
    }

    /// Makes a socket to which others connect.
    pub(crate) fn listen(&self, instance: &str, for_all: bool) -> Result<Fd, Error> {
        let sockets = self.store.sockets()?;
        let failed = Error::file(sockets.path());
        let name = socket_name(&self.number, instance);
        let socket = socket::listen(&sockets, &name, for_all).map_err(&failed)?;
        self.listening().insert(name);
        Fd::new(socket).map_err(failed)
    }

    /// Takes the socket's name away.
    pub(crate) fn stop_listening(&self, instance: &str) {
        let name = socket_name(&self.number, instance);
        if let Ok(sockets) = self.store.sockets() {
            let _ = sockets.remove(&name);
        }
        self.listening().remove(&name);
    }

    fn listening(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes everything away that belongs to this process.
    fn leave(&self) {
        if !self.lock.is_ours() {
            return;
        }
        for name in std::mem::take(&mut *self.files()) {
            let _ = self.store.names.remove(&name);
        }
        if let Ok(sockets) = self.store.sockets() {
            for name in std::mem::take(&mut *self.listening()) {
                let _ = sockets.remove(&name);
            }
        }
        if let Some(lives) = &self.store.lives {
            let _ = lives.remove(&self.number);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.leave();
    }
}
