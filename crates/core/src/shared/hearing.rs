//! Tells when files of cells may have been written: one inotify for all that this process follows, of which a
//! user has 128.
//!
//! ```text
//! kernel ── inotify ──┬── hand_out: whoever finds it readable ──┬── beacon of a listener
//!                     └───────────── watched by all ────────────┴── beacon of another
//! ```
//! Everybody who waits watches the inotify and a beacon of their own, and has first of all handed out what the
//! inotify tells: to light the beacons of all that listen to those files. So it does not matter who comes first,
//! nor that others never come.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use alongside_sys::inotify::Inotify;
use alongside_sys::lock::{PerProcess, Timed};
use alongside_sys::poll::Beacon;
use alongside_sys::{Errno, Fd};

/// What this process hears.
#[derive(Debug)]
pub struct Hearing {
    inotify: Inotify,
    /// By the file's number at the inotify.
    listeners: Timed<HashMap<i32, Vec<Arc<Beacon>>>>,
}

/// Closed when nobody listens any more.
static HEARING: PerProcess<Weak<Hearing>> = PerProcess::new();

impl Hearing {
    fn ours() -> Result<Arc<Hearing>, Errno> {
        HEARING.with(|known| {
            if let Some(hearing) = known.upgrade() {
                return Ok(hearing);
            }
            let (inotify, listeners) = (Inotify::new()?, Timed::default());
            let hearing = Arc::new(Hearing { inotify, listeners });
            *known = Arc::downgrade(&hearing);
            Ok(hearing)
        })
    }

    /// Lights the beacons of the files of which something was told. What is left of much of it keeps the
    /// descriptor readable.
    pub fn hand_out(&self) -> Result<(), Errno> {
        // Who comes second finds its beacon lit already.
        let listeners = self.listeners.lock_for_sure();
        self.inotify.files(&mut |file| match file {
            Some(number) => listeners.get(&number).into_iter().flatten().for_each(|it| it.light()),
            None => listeners.values().flatten().for_each(|it| it.light()),
        })
    }
}

impl AsFd for Hearing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Somebody who listens to one file. Its descriptor is readable once that was handed out.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) hearing: Arc<Hearing>,
    beacon: Arc<Beacon>,
    number: i32,
}

impl Listener {
    /// From now on.
    pub(crate) fn new(file: &Fd) -> Result<Listener, Errno> {
        let (hearing, beacon) = (Hearing::ours()?, Arc::new(Beacon::new()?));
        let mut listeners = hearing.listeners.lock_for_sure();
        // Whoever else listens to it has got the same number.
        let number = hearing.inotify.watch_file(file)?;
        listeners.entry(number).or_default().push(Arc::clone(&beacon));
        drop(listeners);
        Ok(Listener { hearing, beacon, number })
    }

    /// Forgets what it has heard.
    pub(crate) fn put_out(&self) {
        self.beacon.put_out();
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.beacon.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // In a forked child somebody who is not there may have the lock for ever.
        if !self.hearing.inotify.is_ours() {
            return;
        }
        let mut listeners = self.hearing.listeners.lock_for_sure();
        let Some(here) = listeners.get_mut(&self.number) else { return };
        here.retain(|beacon| !Arc::ptr_eq(beacon, &self.beacon));
        if here.is_empty() {
            listeners.remove(&self.number);
            self.hearing.inotify.forget(self.number);
        }
    }
}
