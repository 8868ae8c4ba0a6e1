//! Scopes: who shares a name, and in which directory of the file system that is.
//!
//! | scope | directory |
//! |---|---|
//! | user | `$XDG_RUNTIME_DIR/alongside/user`, else `/run/user/UID/alongside/user`, else `/tmp/alongside-UID/user` |
//!
//! A program may begin before its user's runtime directory appears, as a cron job does before a login: so
//! all places that exist are looked at, and what lives in any of them counts; new things go into the first.
//! A place counts only if it belongs to this user and nobody else may enter it.

use std::path::PathBuf;

use alongside_sys::file::{self, Directory, Facts};
use alongside_sys::{Errno, own_uid};

use crate::error::Error;

/// Who shares a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All programs of one user.
    User,
}

/// A directory that may hold a scope, and what is wrong with it if something is.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, or why that cannot be known.
    pub found: Result<Facts, Errno>,
    /// Why nothing in it counts.
    pub refusal: Option<String>,
}

impl Scope {
    /// Its directory within a place.
    fn part(&self) -> &'static str {
        match self {
            Scope::User => "user",
        }
    }

    /// The places of this user, in the order in which they are tried. The last one can always be made.
    fn paths(&self) -> Vec<PathBuf> {
        let uid = own_uid();
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let usual = PathBuf::from(format!("/run/user/{uid}"));
        let mut paths: Vec<PathBuf> = Vec::new();
        for base in named.into_iter().filter(|path| path.is_absolute()).chain([usual]) {
            let path = base.join("alongside");
            // Made only where the runtime directory is there, and this user's alone.
            if refusal(&file::facts(&base)).is_none() && !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths.push(PathBuf::from(format!("/tmp/alongside-{uid}")));
        paths
    }

    /// What is known of all places.
    pub fn places(&self) -> Vec<Place> {
        let place = |path: PathBuf| {
            let found = file::facts(&path);
            let refusal = refusal(&found).filter(|_| found != Err(Errno::NOENT));
            Place { path, found, refusal }
        };
        self.paths().into_iter().map(place).collect()
    }

    /// The directories that there are.
    pub(crate) fn existing(&self) -> Vec<Directory> {
        let here = |path: &PathBuf| refusal(&file::facts(path)).is_none();
        let paths = self.paths().into_iter().filter(here).map(|path| path.join(self.part()));
        paths.filter_map(|path| Directory::open(&path).ok().filter(is_ours)).collect()
    }

    /// The directory in which new things are made.
    pub(crate) fn first(&self) -> Result<Directory, Error> {
        let Some(path) = self.paths().into_iter().next() else {
            unreachable!("there is always the last one")
        };
        file::make_directory(&path).map_err(Error::file(&path))?;
        let directory = Directory::open(&path).map_err(Error::file(&path))?;
        let facts = directory.facts();
        if let Some(refusal) = refusal(&facts) {
            return Err(Error::Denied(format!("{}: {refusal}", path.display())));
        }
        directory.part(self.part()).map_err(Error::file(&path))
    }
}

fn is_ours(directory: &Directory) -> bool {
    refusal(&directory.facts()).is_none()
}

/// Why nothing in a directory counts.
fn refusal(found: &Result<Facts, Errno>) -> Option<String> {
    let me = own_uid();
    match found {
        Err(errno) => Some(format!("{errno}")),
        Ok(facts) if !facts.is_directory => Some("it is no directory".into()),
        Ok(facts) if facts.uid != me => {
            Some(format!("it belongs to user {}, this program runs as user {me}", facts.uid))
        }
        Ok(facts) if facts.mode & 0o077 != 0 => Some(format!(
            "others may enter it (mode {:04o})\nchmod 700 makes it private",
            facts.mode
        )),
        Ok(_) => None,
    }
}
