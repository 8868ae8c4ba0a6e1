//! Waiting for everything but messages, without the writing side in hand: by an event loop that watches a
//! descriptor, and by whoever waits for memory.
//!
//! Who wants to send, and finds no space, may not always sleep with the writing side locked: a loop's
//! task may not sleep at all, and who waits for memory would lock out the very message whose departure
//! gives it back. They have an [`Aside`] each: a set that is readable after space was made, memory came
//! back, an arrival had to be taken in, or the other side ended.
//!
//! The space bell has one flag and one pipe for all who wait. Whoever drains the pipe lights the beacons of
//! the others, which look again; so does a thread that has waited with the writing side in hand, for it
//! disarms the flag. Each arms it again whenever it looks.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alongside_sys::poll::{Beacon, PollSet, Watch};
use alongside_sys::{Errno, WaitEnd};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::Outgoing;
use crate::session::Session;

/// The beacons of those who wait aside.
pub(crate) type Beacons = Arc<Mutex<Vec<Arc<Beacon>>>>;

/// What somebody watches that waits for something other than a message.
#[derive(Debug)]
pub struct Aside {
    set: PollSet,
    beacon: Arc<Beacon>,
    among: Beacons,
    /// Since when nothing has moved, and how much had been received then.
    since: Mutex<Option<(Instant, u64)>>,
}

/// What is to be done before waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Look for what is waited for once more, then wait for the set.
    Wait,
    /// The same, but look again soon whatever the set says: another thread is sending at the moment, or
    /// arrivals find no room here.
    LookAgain,
}

const ANY: u64 = 1;

impl Aside {
    fn new(link: &Link, among: &Beacons) -> Result<Aside, Errno> {
        let (set, beacon) = (PollSet::new()?, Arc::new(Beacon::new()?));
        set.add(&*beacon, ANY, Watch::Level)?;
        set.add(&link.space_ear, ANY, Watch::Edge)?;
        set.add(&link.data_ear, ANY, Watch::Edge)?;
        set.add(&link.control, ANY, Watch::HangUp)?;
        set.add(&*link.peer, ANY, Watch::Level)?;
        among.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&beacon));
        let (among, since) = (Arc::clone(among), Mutex::new(None));
        Ok(Aside { set, beacon, among, since })
    }
}

impl AsFd for Aside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let mut all = self.among.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|beacon| !Arc::ptr_eq(beacon, &self.beacon));
    }
}

impl<B: Buffer> Session<B> {
    /// A place to wait at.
    pub fn aside(&self) -> Result<Aside, Error> {
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        Aside::new(&link, &self.asides).map_err(Error::os("making a descriptor to watch"))
    }

    /// Takes arrivals in, and has the set become readable at the next change. An error if both sides
    /// have waited for the other to receive for long; who waits for memory makes the other side wait as
    /// soon as it has something that it does not receive.
    pub fn arm_aside(&self, aside: &Aside, for_memory: bool) -> Result<Armed, Error> {
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        aside.beacon.put_out();
        // Edges that brought us here have to be used up, or there is no next one.
        let _ = aside.set.wait(Some(Duration::ZERO));
        let room = self.take_in(&link).map_err(|error| self.fail(error))?;
        {
            let mut since = aside.since.lock().unwrap_or_else(PoisonError::into_inner);
            let is_open = room && !(for_memory && self.rx.lock_for_sure().has_undelivered());
            self.check_standstill(&link, is_open, &mut since)?;
        }
        let Some(tx) = self.tx.try_lock() else { return Ok(Armed::LookAgain) };
        if link.space_ear.drain() {
            // An edge whose pipe was emptied before it was looked at is none: the others are told.
            self.light_asides_but(Some(&aside.beacon));
        }
        tx.producer.arm(&link.outgoing());
        Ok(if room { Armed::Wait } else { Armed::LookAgain })
    }

    /// Sleeps until the set is readable, or so long; for threads.
    pub(crate) fn wait_aside(
        &self,
        aside: &Aside,
        deadline: Deadline,
        longest: Duration,
    ) -> Result<(), Error> {
        let left = deadline.at_most(longest).left();
        match aside.set.wait(left).map_err(Error::os("waiting"))? {
            Err(WaitEnd::TimedOut) if deadline.is_over() => Err(Error::TimedOut),
            Err(WaitEnd::Interrupted) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }

    /// Whether nothing that was sent is under way any more, or nobody is there who would take it.
    pub fn is_delivered(&self) -> Result<bool, Error> {
        self.check_open()?;
        let Some(mut tx) = self.tx.try_lock() else { return Ok(false) };
        let Some((link, tx)) = tx.parts() else { return Ok(true) };
        Ok(link.look_for_peer()
            || self.rx.lock_for_sure().consumer.is_finished(&link.incoming())
            || tx.producer.delivered(&link.outgoing())? == tx.producer.sent())
    }

    /// Calls `with` the descriptor that is readable once the started program has ended; on the side that
    /// was started, hung up once the session is over. `None` if that is so already.
    pub fn with_exit<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<Option<T>, Error> {
        self.check_ours()?;
        if let Some(child) = &self.child {
            return Ok(Some(with(child.as_fd())));
        }
        match self.rx.lock_for_sure().link.clone() {
            Some(link) if self.ended.get().is_none() => Ok(Some(with(link.control.as_fd()))),
            _ => Ok(None),
        }
    }

    /// Ends a wait for the space bell, by the holder of the writing side.
    pub(crate) fn end_space_wait(&self, tx: &mut Outgoing, link: &Link) {
        tx.producer.disarm(&link.outgoing());
        self.light_asides();
    }

    /// Lets all who wait aside look again.
    pub(crate) fn light_asides(&self) {
        self.light_asides_but(None);
    }

    fn light_asides_but(&self, own: Option<&Arc<Beacon>>) {
        let all = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|beacon| !own.is_some_and(|own| Arc::ptr_eq(own, beacon)));
        others.for_each(|beacon| beacon.light());
    }

    /// What everybody who has held the writing side for longer does when it has let go: answers that
    /// fell due meanwhile, and a close that would not wait for it.
    pub(crate) fn after_writing(&self) {
        self.flush_pong();
        if self.is_ended() {
            let _ = self.close(Deadline::Now);
        }
    }
}
