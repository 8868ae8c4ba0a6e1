//! What a scope's directory holds: lives, and the entries that belong to them.
//!
//! ```text
//! lives/LIFE              locked by its process as long as that lives
//! names/NUMBER-INSTANCE   an entry, which names its life
//! sockets/INSTANCE        where those who connect to it come in, if anybody may
//! ```
//! # Invariants
//! * **D1** a file is complete before it has its name; a life is locked before it has its own.
//! * **D2** the numbers of lives and instances are random and never used again, so what was seen dead stays
//!   dead, and may be removed by anybody at any time.
//! * **D3** an entry counts only while its life is locked. Nothing else says that its process lives: a
//!   process's number, or a time, may be another's by now.
//!
//! Names need no lock here, for any number of programs may publish the same.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alongside_sys::file::{self, Directory, Hold};
use alongside_sys::lock::Timed;
use alongside_sys::{Errno, Fd, fork, own_uid, random, socket};

use crate::directory::entry::{self, Entry, FileName, NoEntry};
use crate::directory::scope::Scope;
use crate::error::Error;

/// The bytes of a life file that its process has locked.
const LIFE: (u64, u64) = (0, 1);
/// So many dead entries are removed by who meets them; more are left to the next.
const SWEPT_AT_ONCE: usize = 64;

/// A scope's directory.
#[derive(Debug)]
pub(crate) struct Store {
    names: Directory,
    lives: Directory,
    sockets: Directory,
}

/// An entry that was found, and where.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it says.
    pub entry: Entry,
    /// Its file.
    pub path: PathBuf,
}

impl Found {
    /// Connects to its socket.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Errno> {
        let store = self.path.parent().and_then(Path::parent).ok_or(Errno::NOENT)?;
        socket::connect(&Directory::open(&store.join("sockets"))?, &self.entry.instance)
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
    fn new(scope: &Directory) -> Result<Store, Error> {
        let part = |name| scope.part(name).map_err(Error::file(&scope.path().join(name)));
        Ok(Store { names: part("names")?, lives: part("lives")?, sockets: part("sockets")? })
    }

    /// The stores that there are. One that cannot be opened is none.
    pub(crate) fn existing(scope: &Scope) -> Vec<Store> {
        scope.existing().iter().filter_map(|directory| Store::new(directory).ok()).collect()
    }

    /// The store in which new things are made.
    pub(crate) fn first(scope: &Scope) -> Result<Store, Error> {
        Store::new(&scope.first()?)
    }

    /// Removes the lives of dead processes: those whose entries were all revoked are met by nobody else.
    fn sweep_lives(&self) {
        let names = self.lives.names().unwrap_or_default();
        for name in names.iter().filter_map(|name| name.to_str().ok()) {
            if entry::number(name).is_some() && self.is_alive(name) == Ok(false) {
                let _ = self.lives.remove(name);
            }
        }
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
            Ok(entry) if self.is_alive(&entry.life)? => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// Removes what belongs to a dead process.
    pub(crate) fn sweep(&self, file: &str, entry: &Entry) {
        let _ = self.names.remove(file);
        let _ = self.lives.remove(&entry.life);
        let _ = self.sockets.remove(&entry.instance);
    }

    /// Whether the process with this life lives. An error says neither: nothing is removed for it.
    pub(crate) fn is_alive(&self, life: &str) -> Result<bool, Error> {
        let failed = |errno| Error::File(self.lives.path().join(life), errno);
        match self.lives.file(life) {
            Ok((_, facts)) if facts.uid != own_uid() => Ok(false),
            Ok((file, _)) => file::is_held(&file, Hold::Shared, LIFE.0, LIFE.1).map_err(failed),
            // A link, a FIFO or a directory in its place is no life.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Reads the entry with this name, whether its process lives or not.
    fn read(&self, name: &str, parts: &FileName) -> Result<Entry, NoEntry> {
        let (file, facts) = self.names.file(name).map_err(NoEntry::Unreadable)?;
        if facts.uid != own_uid() || facts.mode & 0o022 != 0 {
            return Err(NoEntry::Foreign { uid: facts.uid, mode: facts.mode });
        }
        let bytes = file::read(file, entry::MOST_BYTES).map_err(NoEntry::Unreadable)?;
        Entry::from_bytes(parts, &bytes)
    }

    /// Looks at all files whose name's number is wanted; removes some of the dead.
    pub(crate) fn look(
        &self,
        number: Option<u64>,
        alive: &mut dyn FnMut(Found),
        flawed: &mut dyn FnMut(Flaw),
    ) -> Result<(), Error> {
        let names = self.names.names().map_err(Error::file(self.names.path()))?;
        let mut lives: HashMap<String, bool> = HashMap::new();
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
                Err(why) => {
                    flawed(Flaw { path: path(), why: Some(why) });
                    continue;
                }
            };
            let is_alive = match lives.get(&entry.life) {
                Some(known) => *known,
                None => {
                    let is_alive = self.is_alive(&entry.life)?;
                    lives.insert(entry.life.clone(), is_alive);
                    is_alive
                }
            };
            // A name with a dot is a change under way: it counts when it has replaced the entry.
            match is_alive {
                true if name.starts_with('.') => {}
                true => alive(Found { entry, path: path() }),
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
static LIVES: Timed<Vec<(u32, Arc<Life>)>> = Timed::new(Vec::new());

/// Leaves all directories: the process is about to end.
pub(crate) fn leave_all() {
    let lives = std::mem::take(&mut *LIVES.lock_for_sure());
    lives.iter().for_each(|(_, life)| life.leave());
}

impl Life {
    /// The one of this process in a scope, made if there is none.
    pub(crate) fn of_this_process(scope: &Scope) -> Result<Arc<Life>, Error> {
        let store = Store::first(scope)?;
        let mut lives = LIVES.lock_for_sure();
        // Not the parent's, in a forked child; nor those of places that are not in use any more.
        lives.retain(|(generation, life)| {
            let is_here = life.store.lives.path() == store.lives.path();
            *generation == fork::generation() && (is_here || Arc::strong_count(life) > 1)
        });
        let is_here = |life: &Life| {
            life.store.lives.path() == store.lives.path() && life.is_in_its_place(&store)
        };
        if let Some((_, life)) = lives.iter().find(|(_, life)| is_here(life)) {
            return Ok(Arc::clone(life));
        }
        let life = Arc::new(Life::begin(store)?);
        lives.push((fork::generation(), Arc::clone(&life)));
        Ok(life)
    }

    fn begin(store: Store) -> Result<Life, Error> {
        store.sweep_lives();
        let path = store.lives.path().to_owned();
        let failed = Error::file(&path);
        let file = store.lives.nameless().map_err(&failed)?;
        // D1: locked before it has a name.
        if !file::lock(&file, Hold::Alone, LIFE.0, LIFE.1).map_err(&failed)? {
            return Err(failed(Errno::AGAIN));
        }
        let number = entry::hexadecimal(random().map_err(&failed)?);
        store.lives.name(&file, &number).map_err(&failed)?;
        let lock = Fd::new(file).map_err(&failed)?;
        Ok(Life { store, number, lock, files: Mutex::default(), sockets: Mutex::default() })
    }

    /// Whether nobody has taken its file, or the directory, away.
    fn is_in_its_place(&self, store: &Store) -> bool {
        let mine = file::facts_of(&self.lock).map(|facts| facts.inode);
        let found = store.lives.file(&self.number).map(|(_, facts)| facts.inode);
        found.is_ok() && found == mine
    }

    /// Its number, by which entries name it.
    pub(crate) fn number(&self) -> &str {
        &self.number
    }

    /// Makes an entry visible.
    pub(crate) fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let failed = Error::file(self.store.names.path());
        let file = self.store.names.nameless().map_err(&failed)?;
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
    pub(crate) fn listen(&self, name: &str) -> Result<Fd, Error> {
        let failed = Error::file(self.store.sockets.path());
        let socket = socket::listen(&self.store.sockets, name).map_err(&failed)?;
        self.listening().insert(name.to_owned());
        Fd::new(socket).map_err(failed)
    }

    /// Takes the socket's name away.
    pub(crate) fn stop_listening(&self, name: &str) {
        let _ = self.store.sockets.remove(name);
        self.listening().remove(name);
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
        for name in std::mem::take(&mut *self.listening()) {
            let _ = self.store.sockets.remove(&name);
        }
        let _ = self.store.lives.remove(&self.number);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.leave();
    }
}
