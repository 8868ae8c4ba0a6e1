//! Scopes: who shares a name, and in which directories of the file system that is.
//!
//! | scope | directories |
//! |---|---|
//! | user | `$XDG_RUNTIME_DIR/alongside/user`, else `/run/user/UID/alongside/user`, else `/tmp/alongside-UID/user` |
//! | login | the same with `login-ID` instead of `user` |
//! | machine | `/run/alongside/UID` or `/run/alongside/UID-…` of every user |
//!
//! A program may begin before its user's runtime directory appears, as a cron job does before a login: so
//! all places that exist are looked at, and what lives in any of them counts; new things go into the first.
//! A place counts only if it belongs to this user and nobody else may enter it.
//!
//! In the scope "machine" each user has a directory of its own in one that root has made, and its owner says
//! whose it is, not its name: whoever takes the name of another's has taken nothing.

use std::path::{Path, PathBuf};

use alongside_sys::file::{self, Directory, Facts};
use alongside_sys::{Errno, is_shortage, own_uid, random};

use crate::directory::entry;
use crate::directory::login;
use crate::directory::store;
use crate::error::Error;

/// Where the users' directories of the scope "machine" stand; made by root.
pub const MACHINE: &str = "/run/alongside";
/// What others may not do in a place that is one user's alone, and in one that all may read.
const NO_OTHERS: u32 = 0o077;
const NO_OTHER_WRITERS: u32 = 0o022;
/// Who may write here can put nothing in another's place.
const STICKY: u32 = 0o1000;
/// The permission bits of what is made.
pub(crate) const ALL_MAY_READ: u32 = 0o755;
const ONES_OWN: u32 = 0o700;

/// Who shares a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All programs of one user.
    User,
    /// All programs of one login session of a user; which one, its id tells.
    Login(String),
    /// All programs of the machine. Each name belongs to a user.
    Machine,
}

/// A directory that may hold names of a scope, and what is wrong with it if something is.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, or why that cannot be known.
    pub found: Result<Facts, Errno>,
    /// Why nothing in it counts.
    pub refusal: Option<String>,
}

/// A directory in which names of a scope stand.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) directory: Directory,
    /// Whose names they are.
    pub(crate) owner: u32,
    /// Whether it is that in which this user makes new things.
    pub(crate) is_first: bool,
}

impl Scope {
    /// The scope that is called so, of this program.
    pub fn named(name: &str) -> Result<Scope, Error> {
        match name {
            "user" => Ok(Scope::User),
            "machine" => Ok(Scope::Machine),
            "login" => Ok(Scope::Login(login::id()?)),
            _ => Err(Error::Rule(format!(
                "scope is {name:?}, expected \"login\", \"user\" or \"machine\""
            ))),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Scope::User => "user",
            Scope::Login(_) => "login",
            Scope::Machine => "machine",
        }
    }

    /// Whether other users take part.
    pub(crate) fn is_shared(&self) -> bool {
        *self == Scope::Machine
    }

    /// What is known of all places.
    pub fn places(&self) -> Result<Vec<Place>, Error> {
        if self.is_shared() {
            return Ok(machine_places());
        }
        let place = |path: PathBuf| {
            let found = file::facts(&path);
            let refusal = refusal(&found, own_uid(), NO_OTHERS);
            Place { path, refusal: refusal.filter(|_| found != Err(Errno::NOENT)), found }
        };
        Ok(paths(own_uid())?.into_iter().map(place).collect())
    }

    /// The directories that there are of those users who are meant.
    pub(crate) fn existing(&self, is_meant: &dyn Fn(u32) -> bool) -> Result<Vec<Home>, Error> {
        if self.is_shared() {
            return homes(&machine()?, is_meant);
        }
        let owner = own_uid();
        let mut homes = Vec::new();
        for (at, path) in paths(owner)?.into_iter().enumerate() {
            if !is_place(&path, owner)? {
                continue;
            }
            let path = path.join(self.part());
            match Directory::open(&path) {
                Ok(directory) if refusal(&directory.facts(), owner, NO_OTHERS).is_none() => {
                    homes.push(Home { directory, owner, is_first: at == 0 });
                }
                // One that counts and cannot be opened is there for others.
                Err(errno) if errno == Errno::ACCESS || !is_absence(errno) => {
                    return Err(Error::File(path, errno));
                }
                _ => {}
            }
        }
        Ok(homes)
    }

    /// The directory in which new things are made.
    pub(crate) fn first(&self) -> Result<Home, Error> {
        let owner = own_uid();
        if self.is_shared() {
            return own_home(&machine()?, owner);
        }
        let path = first_path(owner)?;
        file::make_directory(&path).map_err(Error::file(&path))?;
        let place = Directory::open(&path).map_err(Error::file(&path))?;
        let counts = |directory: &Directory| match refusal(&directory.facts(), owner, NO_OTHERS) {
            None => Ok(()),
            Some(refusal) => {
                Err(Error::Denied(format!("{}: {refusal}", directory.path().display())))
            }
        };
        counts(&place)?;
        let directory = place.part(&self.part()).map_err(Error::file(&path))?;
        counts(&directory)?;
        Ok(Home { directory, owner, is_first: true })
    }

    /// What tells this user's directories from all others, in their order: whether they are still those that
    /// [`Scope::existing`] gave.
    pub(crate) fn identities(&self) -> Result<Vec<(u64, u64)>, Error> {
        let owner = own_uid();
        if self.is_shared() {
            let homes = self.existing(&|uid| uid == owner)?;
            let facts = homes.iter().filter_map(|home| home.directory.facts().ok());
            return Ok(facts.map(|facts| facts.identity()).collect());
        }
        let mut identities = Vec::new();
        for path in paths(owner)? {
            if is_place(&path, owner)? {
                let found = place_at(&path.join(self.part()), owner)?;
                identities.extend(found.map(|facts| facts.identity()));
            }
        }
        Ok(identities)
    }

    /// Whether there can be such a scope here.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_shared() { machine().map(drop) } else { self.first().map(drop) }
    }

    /// The directories in which a further place of this scope may appear.
    pub(crate) fn cradles(&self) -> Vec<PathBuf> {
        if self.is_shared() {
            return vec![MACHINE.into()];
        }
        // What comes after the place in which new things are made can only be another's first one.
        let owner = own_uid();
        let is_missing = |base: &PathBuf| !matches!(is_place(base, owner), Ok(true));
        let missing = bases(owner).into_iter().take_while(is_missing);
        missing.filter_map(|base| deepest_existing(&base)).collect()
    }

    /// What its directory is called in a user's place.
    fn part(&self) -> String {
        match self {
            Scope::Login(id) => format!("login-{id}"),
            other => other.name().into(),
        }
    }
}

// ---- one user's ----------------------------------------------------------------------------------

/// The runtime directories that this user may have.
fn bases(owner: u32) -> Vec<PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let usual = PathBuf::from(format!("/run/user/{owner}"));
    let mut bases: Vec<PathBuf> = named.into_iter().filter(|path| path.is_absolute()).collect();
    if !bases.contains(&usual) {
        bases.push(usual);
    }
    bases
}

/// What is known of a directory that is there and this user's alone. What cannot be known is an error: were
/// a place passed over that others see, a name would be two.
fn place_at(path: &Path, owner: u32) -> Result<Option<Facts>, Error> {
    let found = file::facts(path);
    match found {
        Err(errno) if !is_absence(errno) => Err(Error::File(path.to_owned(), errno)),
        _ => Ok(if refusal(&found, owner, NO_OTHERS).is_none() { found.ok() } else { None }),
    }
}

/// Whether there is a directory that counts.
fn is_place(path: &Path, owner: u32) -> Result<bool, Error> {
    place_at(path, owner).map(|found| found.is_some())
}

/// Whether an error says that this user has no such directory, whenever it asks.
fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG)
}

/// The places of this user, in the order in which they are tried. The last one can always be made.
fn paths(owner: u32) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for base in bases(owner) {
        if is_place(&base, owner)? {
            paths.push(base.join("alongside"));
        }
    }
    paths.push(last_path(owner));
    Ok(paths)
}

fn last_path(owner: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/alongside-{owner}"))
}

/// The place in which new things are made.
fn first_path(owner: u32) -> Result<PathBuf, Error> {
    Ok(paths(owner)?.into_iter().next().unwrap_or_else(|| last_path(owner)))
}

/// The directory whose change makes a path appear.
fn deepest_existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).map(Path::to_owned)
}

// ---- the machine's -------------------------------------------------------------------------------

/// The directory that root has made for all users.
fn machine() -> Result<Directory, Error> {
    let path = Path::new(MACHINE);
    let directory = match Directory::open(path) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => {
            return Err(Error::NoScope(format!(
                "this machine is not set up for the scope \"machine\": there is no {MACHINE}\n\
                 root makes it with: alongside setup-machine"
            )));
        }
        Err(errno) => return Err(Error::File(path.to_owned(), errno)),
    };
    match machine_refusal(&directory.facts()) {
        None => Ok(directory),
        Some(refusal) => Err(Error::NoScope(format!(
            "{MACHINE}: {refusal}\nroot mends it with: alongside setup-machine"
        ))),
    }
}

fn machine_refusal(found: &Result<Facts, Errno>) -> Option<String> {
    match found {
        Ok(facts) if facts.mode & NO_OTHER_WRITERS != 0 && facts.mode & STICKY == 0 => {
            Some(format!("users can remove each other's directories (mode {:04o})", facts.mode))
        }
        found => refusal(found, 0, 0),
    }
}

/// The user that a directory is named after.
fn named_user(name: &str) -> Option<u32> {
    let digits = name.split('-').next()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// One for each user, whatever else of theirs there is: under the plain number, if that one counts.
fn homes(all: &Directory, is_meant: &dyn Fn(u32) -> bool) -> Result<Vec<Home>, Error> {
    let mut names = all.names().map_err(Error::file(all.path()))?;
    names.sort();
    let mut homes: Vec<Home> = Vec::new();
    for name in names.iter().filter_map(|name| name.to_str().ok()) {
        let Some(owner) = named_user(name).filter(|owner| is_meant(*owner)) else { continue };
        if homes.iter().any(|home| home.owner == owner) {
            continue;
        }
        match all.existing_part(name) {
            Ok(directory) if refusal(&directory.facts(), owner, NO_OTHER_WRITERS).is_none() => {
                homes.push(Home { directory, owner, is_first: owner == own_uid() });
            }
            Err(errno) if is_shortage(errno) => {
                return Err(Error::File(all.path().join(name), errno));
            }
            _ => {}
        }
    }
    Ok(homes)
}

/// This user's directory, made if there is none.
fn own_home(all: &Directory, owner: u32) -> Result<Home, Error> {
    if let Some(home) = homes(all, &|uid| uid == owner)?.into_iter().next() {
        return Ok(home);
    }
    let failed = Error::file(all.path());
    let number = entry::hexadecimal(random().map_err(&failed)?);
    // It is complete when it gets its name.
    let draft = format!(".{owner}-{number}");
    let directory = all.make(&draft, ALL_MAY_READ).map_err(&failed)?;
    for part in [store::NAMES, store::SOCKETS] {
        directory.make(part, ALL_MAY_READ).map_err(&failed)?;
    }
    directory.make(store::LIVES, ONES_OWN).map_err(&failed)?;
    // Its plain name, unless somebody else has taken that.
    let mut outcome = Err(failed(Errno::EXIST));
    for name in [owner.to_string(), format!("{owner}-{number}")] {
        match all.rename_unless_taken(&draft, &name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => outcome = Err(failed(errno)),
        }
        if let Ok(directory) = all.existing_part(&name)
            && refusal(&directory.facts(), owner, NO_OTHER_WRITERS).is_none()
        {
            outcome = Ok(Home { directory, owner, is_first: true });
            break;
        }
    }
    // Another program of this user may have been first.
    all.remove_tree(&draft, &[store::NAMES, store::SOCKETS, store::LIVES]);
    outcome
}

fn machine_places() -> Vec<Place> {
    let path = PathBuf::from(MACHINE);
    let found = file::facts(&path);
    let refusal_of_all = machine_refusal(&found).filter(|_| found != Err(Errno::NOENT));
    let mut places = vec![Place { path: path.clone(), refusal: refusal_of_all, found }];
    let names = Directory::open(&path).and_then(|all| all.names()).unwrap_or_default();
    for name in names.iter().filter_map(|name| name.to_str().ok()) {
        let (path, owner) = (path.join(name), named_user(name));
        let found = file::facts(&path);
        let refusal = match owner {
            Some(owner) => refusal(&found, owner, NO_OTHER_WRITERS),
            None => Some("it is named after no user".into()),
        };
        places.push(Place { path, found, refusal });
    }
    places
}

/// Why nothing in a directory counts that has to be this user's, with nothing of `closed` open.
fn refusal(found: &Result<Facts, Errno>, owner: u32, closed: u32) -> Option<String> {
    match found {
        Err(errno) => Some(format!("{errno}")),
        Ok(facts) if !facts.is_directory => Some("it is no directory".into()),
        Ok(facts) if facts.uid != owner => {
            Some(format!("it belongs to user {}, not to user {owner}", facts.uid))
        }
        // It can be seen from outside, and not opened: some would count it, and others would not.
        Ok(facts) if facts.mode & ONES_OWN != ONES_OWN => {
            Some(permissions("its owner may not read, write and enter it", facts.mode, closed))
        }
        Ok(facts) if facts.mode & closed != 0 => {
            let what = if closed == NO_OTHERS { "enter" } else { "write" };
            Some(permissions(&format!("others may {what} it"), facts.mode, closed))
        }
        Ok(_) => None,
    }
}

fn permissions(what: &str, mode: u32, closed: u32) -> String {
    let right = if closed == NO_OTHERS { "700" } else { "755" };
    format!("{what} (mode {mode:04o})\nchmod {right} makes it right")
}
