//! What the kernel tells of files that come and go in a directory.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::file::Directory;
use crate::fork::Fd;

/// One thing that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something happened to this name, in the directory with this number.
    Name(i32, CString),
    /// More happened than was kept: everything has to be looked at.
    Lost,
}

/// Listens to directories.
#[derive(Debug)]
pub struct Inotify {
    fd: Fd,
}

impl Inotify {
    /// One that listens to none yet.
    pub fn new() -> Result<Inotify, Errno> {
        Ok(Inotify { fd: Fd::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)? })
    }

    /// Hears of names that are linked, renamed or removed in a directory from now on; gives its number.
    pub fn watch(&self, directory: &Directory) -> Result<i32, Errno> {
        // By the open directory: its path may be another's by now.
        let place = format!("/proc/self/fd/{}/.", directory.as_fd().as_raw_fd());
        let wanted =
            WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.fd, place, wanted)
    }

    /// Hears of names that appear in a directory, or whose owner or permissions change; gives its number.
    pub fn watch_arrivals(&self, directory: &Path) -> Result<i32, Errno> {
        let wanted =
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
        inotify::add_watch(&self.fd, directory, wanted)
    }

    /// Hears of an open file that is written, or loses a name, from now on.
    pub fn watch_file(&self, file: impl AsFd) -> Result<(), Errno> {
        let place = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        inotify::add_watch(&self.fd, place, WatchFlags::MODIFY | WatchFlags::ATTRIB).map(drop)
    }

    /// Forgets what was told, if anything was.
    pub fn drain(&self) -> Result<bool, Errno> {
        let mut space = [0; 4 << 10];
        let mut was_any = false;
        loop {
            match rustix::io::read(&self.fd, &mut space) {
                Ok(_) => was_any = true,
                Err(Errno::AGAIN) => return Ok(was_any),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Hears no more of a directory.
    pub fn forget(&self, number: i32) {
        // The kernel has done so itself if the directory is gone.
        let _ = inotify::remove_watch(&self.fd, number);
    }

    /// What was told since the last time; never waits.
    pub fn read(&self) -> Result<Vec<Told>, Errno> {
        let mut space = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.fd, &mut space);
        let mut all = Vec::new();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    all.push(Told::Lost)
                }
                Ok(event) => {
                    let number = event.wd();
                    all.extend(event.file_name().map(|name| Told::Name(number, name.to_owned())));
                }
                Err(Errno::AGAIN) => return Ok(all),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
