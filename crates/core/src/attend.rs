//! Waiting for something other than a message, without getting in the way of the messages.
//!
//! Whoever waits for space, for a pong or for an exit *attends*: before each sleep it takes arrivals
//! off the ring into the inbox, as long as that has room, so that two programs which both wait for the
//! other to make space do not lock up. It sleeps on the plain descriptors, not in the session's poll
//! set: the set stays readable as long as messages wait, and belongs to those who receive.
//!
//! Emptying the data bell's pipe here can take an edge away from a receiver asleep in the set. What the
//! edge was for is then in the inbox, and the beacon wakes that receiver instead.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use alongside_sys::poll::{Beacon, wait_any_or_end};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::link::Link;
use crate::message::Buffer;
use crate::session::Session;

/// So often is looked whether a full inbox stands still.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// After so many wakes the caller may want to run signal handlers.
const ROUNDS: u32 = 1024;

/// What one sleep looks at beside the other side's end.
struct Watched<'a> {
    peer: bool,
    extra: Option<BorrowedFd<'a>>,
    wants_space: bool,
    wants_data: bool,
}

/// Asked before each sleep, and told whether the inbox has room: the result, or not yet.
type Done<'a, T> = &'a mut dyn FnMut(bool) -> Result<Option<T>, Error>;

/// What an attender does beside waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attend {
    /// Takes arrivals into the inbox.
    pub(crate) takes_in: bool,
    /// Wants the space bell. Only who holds the writing side may: the bell is armed by it, and emptied
    /// by it alone, for a second one could empty it under the first.
    pub(crate) wants_space: bool,
}

impl<B: Buffer> Session<B> {
    /// Waits until `done` gives a result or an error. It is asked again after anything at all happened:
    /// space, an arrival, the other side's end, this side's end, or `extra` becoming readable.
    pub(crate) fn attend<T>(
        &self,
        link: &Arc<Link>,
        deadline: Deadline,
        extra: Option<BorrowedFd<'_>>,
        how: Attend,
        done: Done<'_, T>,
    ) -> Result<T, Error> {
        self.attend_unjudged(link, deadline, extra, how, done).map_err(|error| self.fail(error))
    }

    fn attend_unjudged<T>(
        &self,
        link: &Arc<Link>,
        deadline: Deadline,
        extra: Option<BorrowedFd<'_>>,
        how: Attend,
        done: Done<'_, T>,
    ) -> Result<T, Error> {
        // Cheap ends first: no descriptor is made for a wait that need not be.
        if let Some(result) = done(true)? {
            return Ok(result);
        }
        let beacon = Arc::new(Beacon::new().map_err(Error::os("making a descriptor to wait on"))?);
        let _entry = Entry::new(self, Arc::clone(&beacon));
        for _ in 0..ROUNDS {
            // Before `done` looks: an end that is seen between its look and the sleep, by another thread,
            // would wake nobody here if the other side were no longer watched.
            let is_peer_watched = !link.is_peer_over();
            let room = how.takes_in && self.take_in(link)?;
            if how.wants_space {
                link.space_ear.drain();
            }
            if let Some(result) = done(!how.takes_in || room)? {
                return Ok(result);
            }
            // Asked here too: a side that rings without end never lets a sleep run out.
            if deadline.is_over() {
                return Err(Error::TimedOut);
            }
            let is_full = how.takes_in && !room;
            let end = if is_full { deadline.at_most(LOOK_AGAIN) } else { deadline };
            let watch = Watched {
                peer: is_peer_watched,
                extra,
                wants_space: how.wants_space,
                wants_data: room,
            };
            match self.sleep(link, end, &beacon, watch) {
                Err(Error::TimedOut) if !deadline.is_over() => {}
                slept => slept?,
            }
        }
        // So many rounds are a busy time, or malice; signals get their turn, and the wait begins anew.
        Err(Error::Interrupted)
    }

    fn sleep(
        &self,
        link: &Link,
        deadline: Deadline,
        beacon: &Beacon,
        watch: Watched<'_>,
    ) -> Result<(), Error> {
        let mut fds = vec![beacon.as_fd()];
        if watch.peer {
            fds.extend([link.control.as_fd(), link.peer.as_fd()]);
        }
        let ears_at = fds.len();
        if !link.are_ears_over() {
            fds.extend(watch.wants_space.then(|| link.space_ear.as_fd()));
            fds.extend(watch.wants_data.then(|| link.data_ear.as_fd()));
        }
        let ears_end = fds.len();
        fds.extend(watch.extra);
        let found = wait_any_or_end(&fds, deadline.left()).map_err(Error::os("waiting"))?;
        let (ready, over) = found.map_err(Error::from)?;
        if ready & 1 != 0 {
            beacon.put_out();
        }
        if (ears_at..ears_end).any(|i| over >> i & 1 != 0) {
            link.set_ears_over();
        }
        if watch.peer && ready >> 1 & 3 != 0 {
            let mut rx = self.rx.lock_for_sure();
            self.look(&mut rx, link)?;
            self.settle(&mut rx, link);
        }
        Ok(())
    }

    /// Takes arrivals into the inbox, and leaves the bell armed; false if there is no room.
    pub(crate) fn take_in(&self, link: &Link) -> Result<bool, Error> {
        let mut guard = self.rx.lock_for_sure();
        let rx = &mut *guard;
        if rx.link.is_none() {
            return Ok(false);
        }
        link.data_ear.drain();
        rx.consumer.arm(&link.incoming());
        let room = match rx.take_in(link) {
            Err(Error::NoMemory(_)) => Ok(false),
            room => room,
        };
        if rx.is_ready(link) {
            link.beacon().map_err(Error::os("making a descriptor to wake a receiver"))?;
        }
        self.note_pings(rx);
        if rx.has_arenas() {
            self.have_tended();
        }
        self.settle(rx, link);
        let is_finished = rx.consumer.is_finished(&link.incoming());
        drop(guard);
        // The bell that told of it may have been emptied under another attender.
        if is_finished && link.is_finish_news() {
            self.light_attenders();
        }
        self.flush_pong();
        room
    }
}

/// The place of one attender among those who are woken when the session ends.
struct Entry<'a, B: Buffer> {
    session: &'a Session<B>,
    beacon: Arc<Beacon>,
}

impl<'a, B: Buffer> Entry<'a, B> {
    fn new(session: &'a Session<B>, beacon: Arc<Beacon>) -> Entry<'a, B> {
        if let Ok(mut all) = session.attenders.lock() {
            all.push(Arc::clone(&beacon));
        }
        Entry { session, beacon }
    }
}

impl<B: Buffer> Drop for Entry<'_, B> {
    fn drop(&mut self) {
        if let Ok(mut all) = self.session.attenders.lock() {
            all.retain(|beacon| !Arc::ptr_eq(beacon, &self.beacon));
        }
    }
}
