//! What the kernel tells of files: that they come and go in a directory, and that they are written.

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

/// Listens to directories, or to files.
#[derive(Debug)]
pub struct Inotify {
    fd: Fd,
}

impl Inotify {
    /// One that listens to nothing yet.
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

    /// Hears of an open file that is written, or loses a name, from now on; gives its number.
    pub fn watch_file(&self, file: impl AsFd) -> Result<i32, Errno> {
        let place = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        inotify::add_watch(&self.fd, place, WatchFlags::MODIFY | WatchFlags::ATTRIB)
    }

    /// Gives the numbers of files of which something was told; none for all of them, if more happened than was
    /// kept. It may give only the first, and never waits.
    pub fn files(&self, heard: &mut dyn FnMut(Option<i32>)) -> Result<(), Errno> {
        let mut space = [MaybeUninit::<u8>::uninit(); 4 << 10];
        let mut reader = inotify::Reader::new(&self.fd, &mut space);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => heard(None),
                Ok(event) => heard(Some(event.wd())),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                return Ok(());
            }
        }
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.fd.is_ours()
    }

    /// Hears no more of a directory, or of a file.
    pub fn forget(&self, number: i32) {
        // The kernel has done so itself if it is gone.
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
