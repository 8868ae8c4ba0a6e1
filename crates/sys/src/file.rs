#![allow(unsafe_code)]
//! Files that are seen only when they are complete, in directories that are held open, and locks that end
//! with whoever holds them.
//!
//! A file is made without a name (`O_TMPFILE`), written, locked, and then given its name in one step. A
//! directory is opened once and its files are reached through it, so nobody can put another one in its
//! place on the way. Names are opened without following links and without waiting, and only regular files
//! are read: a FIFO, a link or a device planted there is none of ours.
//!
//! Locks are those of open files (`F_OFD_SETLK`): they end when the last descriptor of the open file is
//! closed, however the process ends. A forked child shares its parent's open files, so it has to close
//! them ([`Fd`]).

use std::ffi::CString;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags, Stat,
};
use rustix::io::Errno;

use crate::fork::Fd;

/// What is known of a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its owner.
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// The number of its file system.
    pub device: u64,
    /// Its number there; another file of the same name has another one.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Facts {
    /// What tells it from all other files that there are.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

impl From<Stat> for Facts {
    fn from(stat: Stat) -> Facts {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Facts {
            uid: stat.st_uid,
            mode: stat.st_mode & 0o7777,
            device: stat.st_dev,
            inode: stat.st_ino,
            links: stat.st_nlink,
            is_directory: kind == FileType::Directory,
            is_file: kind == FileType::RegularFile,
            bytes: stat.st_size as u64,
        }
    }
}

/// A directory that is held open.
#[derive(Debug)]
pub struct Directory {
    handle: Fd,
    path: PathBuf,
}

impl Directory {
    /// Opens one; the last part of its path may not be a link.
    pub fn open(path: &Path) -> Result<Directory, Errno> {
        Directory::open_at(CWD, path, path.to_owned())
    }

    fn open_at(parent: BorrowedFd<'_>, name: &Path, path: PathBuf) -> Result<Directory, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let handle = Fd::new(rustix::fs::openat(parent, name, flags, Mode::empty())?)?;
        Ok(Directory { handle, path })
    }

    /// Opens one in this one, which is made if it is missing.
    pub fn part(&self, name: &str) -> Result<Directory, Errno> {
        match self.existing_part(name) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        match self.make(name, 0o700) {
            Err(Errno::EXIST) => self.existing_part(name),
            made => made,
        }
    }

    /// Makes one in this one, with these permission bits whatever the process's mask.
    pub fn make(&self, name: &str, mode: u32) -> Result<Directory, Errno> {
        rustix::fs::mkdirat(&self.handle, name, Mode::RWXU)?;
        rustix::fs::chmodat(&self.handle, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        self.existing_part(name)
    }

    /// Removes a directory that was made here, and the empty ones in it.
    pub fn remove_tree(&self, name: &str, parts: &[&str]) {
        for part in parts {
            let path = format!("{name}/{part}");
            let _ = rustix::fs::unlinkat(&self.handle, path, AtFlags::REMOVEDIR);
        }
        let _ = rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR);
    }

    /// Gives something another name; [`Errno::EXIST`] if that is taken.
    pub fn rename_unless_taken(&self, from: &str, to: &str) -> Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.handle, from, &self.handle, to, flags)
    }

    /// Opens one in this one, if it is there.
    pub fn existing_part(&self, name: &str) -> Result<Directory, Errno> {
        Directory::open_at(self.handle.as_fd(), Path::new(name), self.path.join(name))
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was opened in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.handle.is_ours()
    }

    /// What it is.
    pub fn facts(&self) -> Result<Facts, Errno> {
        rustix::fs::fstat(&self.handle).map(Facts::from)
    }

    /// A new file without a name, which others will find with these permission bits whatever the process's
    /// mask.
    pub fn nameless(&self, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.handle, ".", flags, Mode::RUSR | Mode::WUSR);
        // Of a directory that was removed some file systems say that this is not permitted.
        let file = made.map_err(|errno| match self.facts() {
            Ok(Facts { links: 0, .. }) => Errno::NOENT,
            _ => errno,
        })?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(file)
    }

    /// The same, whose locks are to end with this process.
    pub fn nameless_of_this_process(&self, mode: u32) -> Result<Fd, Errno> {
        Fd::opened(|| self.nameless(mode))
    }

    /// Gives a nameless file its name; [`Errno::EXIST`] if that is taken.
    pub fn name(&self, file: impl AsFd, name: &str) -> Result<(), Errno> {
        let held = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        rustix::fs::linkat(CWD, held, &self.handle, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Puts a named file in another one's place, in one step.
    pub fn replace(&self, from: &str, to: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.handle, from, &self.handle, to)
    }

    /// Takes a name away; one that is missing is no matter.
    pub fn remove(&self, name: &str) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a regular file; [`Errno::NXIO`] if something else has the name.
    pub fn file(&self, name: &str) -> Result<(OwnedFd, Facts), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.handle, name, flags, Mode::empty())?;
        let facts = Facts::from(rustix::fs::fstat(&file)?);
        if facts.is_file { Ok((file, facts)) } else { Err(Errno::NXIO) }
    }

    /// Opens a regular file to read and to write it; [`Errno::NXIO`] if something else has the name.
    pub fn shared_file(&self, name: &str) -> Result<(Fd, Facts), Errno> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&self.handle, name, flags, Mode::empty());
        let file = Fd::opened(open);
        // A directory in its place is not opened for writing at all.
        let file = file.map_err(|errno| if errno == Errno::ISDIR { Errno::NXIO } else { errno })?;
        let facts = Facts::from(rustix::fs::fstat(&file)?);
        if facts.is_file { Ok((file, facts)) } else { Err(Errno::NXIO) }
    }

    /// The same; an empty one that only its owner may use is made if there is none.
    pub fn shared_file_or_new(&self, name: &str) -> Result<(Fd, Facts), Errno> {
        match self.shared_file(name) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let file = self.nameless(0o600)?;
        match self.name(&file, name) {
            Ok(()) | Err(Errno::EXIST) => self.shared_file(name),
            Err(errno) => Err(errno),
        }
    }

    /// What has a name here, the name not followed if it is a link.
    pub fn facts_of(&self, name: &str) -> Result<Facts, Errno> {
        rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).map(Facts::from)
    }

    /// What stands in it, in no order.
    pub fn names(&self) -> Result<Vec<CString>, Errno> {
        // Opened anew: the place in a listing belongs to the open directory, which others may use.
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let listing = rustix::fs::openat(&self.handle, ".", flags, Mode::empty())?;
        let mut space = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(&listing, &mut space);
        let mut found = Vec::new();
        while let Some(entry) = entries.next() {
            let name: CString = entry?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                found.push(name);
            }
        }
        Ok(found)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Makes a directory that only its owner may look into; one that is there is left as it is.
pub fn make_directory(path: &Path) -> Result<(), Errno> {
    if rustix::fs::access(path, Access::EXISTS).is_ok() {
        return Ok(());
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        // Whatever the process's mask.
        Ok(()) => rustix::fs::chmod(path, Mode::RWXU),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What stands at a path, the last part not followed if it is a link.
pub fn facts(path: &Path) -> Result<Facts, Errno> {
    rustix::fs::lstat(path).map(Facts::from)
}

/// What an open file is.
pub fn facts_of(file: impl AsFd) -> Result<Facts, Errno> {
    rustix::fs::fstat(file).map(Facts::from)
}

/// Writes all of a file.
pub fn write(file: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    std::fs::File::from(file.try_clone().map_err(errno)?).write_all(bytes).map_err(errno)
}

/// Reads a file of so many bytes, as far as `space` has room; more than that is too large
/// ([`Errno::FBIG`]).
pub fn read<'s>(file: &OwnedFd, bytes: u64, space: &'s mut [u8]) -> Result<&'s [u8], Errno> {
    if bytes > space.len() as u64 {
        return Err(Errno::FBIG);
    }
    // A regular file is read at once; only one that grew or shrank meanwhile is not what it was.
    let length = rustix::io::read(file, &mut *space)?;
    if length as u64 == bytes { Ok(&space[..length]) } else { Err(Errno::AGAIN) }
}

/// Reads from a place in a file, as much as there is.
#[inline]
pub fn read_at(file: impl AsFd, into: &mut [u8], at: u64) -> Result<usize, Errno> {
    let first = rustix::io::pread(&file, &mut *into, at)?;
    // The kernel gives 2 GiB at once.
    let mut count = first;
    while count < into.len() && count % 4096 == 0 && count > 0 {
        match rustix::io::pread(&file, &mut into[count..], at + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// Writes all of it to a place in a file.
#[inline]
pub fn write_at(file: impl AsFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&file, bytes, at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Opens an open file once more: what the new one locks, the old one does not hold.
pub fn open_again(file: impl AsFd) -> Result<Fd, Errno> {
    let held = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Fd::opened(|| rustix::fs::open(held, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// How a stretch of a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// With others that do the same.
    Shared,
    /// Alone.
    Alone,
}

fn stretch(kind: libc::c_int, at: u64, bytes: u64) -> libc::flock {
    // SAFETY: a structure of integers, for which zeros are values.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = at as libc::off_t;
    lock.l_len = bytes as libc::off_t;
    lock
}

fn ask(file: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    // SAFETY: a descriptor that is open, and a structure of the kind that these commands want.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if failed == 0 { Ok(()) } else { Err(errno(std::io::Error::last_os_error())) }
}

/// Locks some bytes for this open file; false if somebody else's lock is in the way. Never waits.
pub fn lock(file: impl AsFd, how: Hold, at: u64, bytes: u64) -> Result<bool, Errno> {
    let kind = match how {
        Hold::Shared => libc::F_RDLCK,
        Hold::Alone => libc::F_WRLCK,
    };
    match ask(file.as_fd(), libc::F_OFD_SETLK, &mut stretch(kind, at, bytes)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Unlocks some bytes.
pub fn unlock(file: impl AsFd, at: u64, bytes: u64) -> Result<(), Errno> {
    ask(file.as_fd(), libc::F_OFD_SETLK, &mut stretch(libc::F_UNLCK, at, bytes))
}

/// Whether another open file holds a lock that would be in the way.
pub fn is_held(file: impl AsFd, against: Hold, at: u64, bytes: u64) -> Result<bool, Errno> {
    holder(file, against, at, bytes).map(|found| found.is_some())
}

/// A lock of another open file that would be in the way: where it begins, and how many bytes it has.
pub fn holder(
    file: impl AsFd,
    against: Hold,
    at: u64,
    bytes: u64,
) -> Result<Option<(u64, u64)>, Errno> {
    let kind = match against {
        Hold::Shared => libc::F_RDLCK,
        Hold::Alone => libc::F_WRLCK,
    };
    let mut lock = stretch(kind, at, bytes);
    ask(file.as_fd(), libc::F_OFD_GETLK, &mut lock)?;
    let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
    Ok((!is_free).then_some((lock.l_start as u64, lock.l_len as u64)))
}

/// Locks a whole file for this open file, apart from all locks of some of its bytes; false if somebody else
/// has. Never waits. It takes two thirds of the time of the others (`flock`), and is for one holder only:
/// a shared one that is refused to become exclusive would be lost.
#[inline]
pub fn lock_whole(file: impl AsFd) -> Result<bool, Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Unlocks it.
#[inline]
pub fn unlock_whole(file: impl AsFd) -> Result<(), Errno> {
    rustix::fs::flock(file, FlockOperation::Unlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("alongside-{name}-{}", crate::own_pid()));
            make_directory(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_seen_when_it_is_named_and_is_whole_then() {
        let scratch = Scratch::new("named");
        let directory = Directory::open(&scratch.0).unwrap();
        let file = directory.nameless(0o600).unwrap();
        write(&file, b"all of it").unwrap();
        assert!(directory.names().unwrap().is_empty());
        directory.name(&file, "entry").unwrap();
        assert_eq!(directory.name(&file, "entry"), Err(Errno::EXIST));
        let (found, facts) = directory.file("entry").unwrap();
        assert_eq!((facts.bytes, facts.mode), (9, 0o600));
        let mut space = [0; 9];
        assert_eq!(read(&found, facts.bytes, &mut space).unwrap(), b"all of it");
        assert_eq!(read(&found, facts.bytes, &mut space[..8]), Err(Errno::FBIG));
        assert_eq!(read(&found, 9, &mut space), Err(Errno::AGAIN), "it is at its end");
        directory.remove("entry").unwrap();
        directory.remove("entry").unwrap();
        assert!(directory.names().unwrap().is_empty());
    }

    #[test]
    fn links_and_fifos_are_not_opened() {
        let scratch = Scratch::new("planted");
        let directory = Directory::open(&scratch.0).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.0.join("link")).unwrap();
        let fifo = scratch.0.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert_eq!(directory.file("link").unwrap_err(), Errno::LOOP);
        assert_eq!(directory.file("fifo").unwrap_err(), Errno::NXIO);
        assert_eq!(directory.file("missing").unwrap_err(), Errno::NOENT);
        assert!(Directory::open(&scratch.0.join("link")).is_err());
    }

    #[test]
    fn a_lock_ends_with_its_open_file_and_not_before() {
        let scratch = Scratch::new("locked");
        let directory = Directory::open(&scratch.0).unwrap();
        let mine = directory.nameless(0o600).unwrap();
        directory.name(&mine, "life").unwrap();
        assert!(lock(&mine, Hold::Alone, 0, 1).unwrap());
        let (theirs, _) = directory.file("life").unwrap();
        assert!(is_held(&theirs, Hold::Shared, 0, 1).unwrap());
        assert!(!is_held(&mine, Hold::Shared, 0, 1).unwrap(), "one's own is not in the way");
        assert!(!is_held(&theirs, Hold::Shared, 1, 1).unwrap());
        assert!(!lock(&theirs, Hold::Shared, 0, 1).unwrap());
        let copy = mine.try_clone().unwrap();
        drop(mine);
        assert!(is_held(&theirs, Hold::Shared, 0, 1).unwrap());
        drop(copy);
        assert!(!is_held(&theirs, Hold::Shared, 0, 1).unwrap());
        assert!(lock(&theirs, Hold::Shared, 0, 1).unwrap());
        unlock(&theirs, 0, 1).unwrap();
    }
}
