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

use alongside_sys::poll::{Beacon, wait_any};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::link::Link;
use crate::message::Buffer;
use crate::session::Session;

/// So often is looked whether a full inbox stands still.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Asked before each sleep, and told whether the inbox has room: the result, or not yet.
type Done<'a, T> = &'a mut dyn FnMut(bool) -> Result<Option<T>, Error>;

impl<B: Buffer> Session<B> {
    /// Waits until `done` gives a result or an error. It is asked again after anything at all happened:
    /// space, an arrival, the other side's end, this side's end, or `extra` becoming readable. With
    /// `take_in`, arrivals are taken into the inbox meanwhile.
    pub(crate) fn attend<T>(
        &self,
        link: &Arc<Link>,
        deadline: Deadline,
        extra: Option<BorrowedFd<'_>>,
        take_in: bool,
        done: Done<'_, T>,
    ) -> Result<T, Error> {
        // Cheap ends first: no descriptor is made for a wait that need not be.
        if let Some(result) = done(true)? {
            return Ok(result);
        }
        let beacon = Arc::new(Beacon::new().map_err(Error::os("making a descriptor to wait on"))?);
        let _entry = Entry::new(self, Arc::clone(&beacon));
        loop {
            let room = take_in && self.take_in(link)?;
            link.space_ear.drain();
            if let Some(result) = done(!take_in || room)? {
                return Ok(result);
            }
            let end = if take_in && !room { deadline.at_most(LOOK_AGAIN) } else { deadline };
            match self.sleep(link, end, extra, &beacon, room) {
                Err(Error::TimedOut) if !deadline.is_over() => {}
                slept => slept?,
            }
        }
    }

    fn sleep(
        &self,
        link: &Link,
        deadline: Deadline,
        extra: Option<BorrowedFd<'_>>,
        beacon: &Beacon,
        room: bool,
    ) -> Result<(), Error> {
        let mut fds = vec![beacon.as_fd(), link.space_ear.as_fd()];
        let peer_at = fds.len();
        if !link.is_peer_over() {
            fds.extend([link.control.as_fd(), link.peer.as_fd()]);
        }
        fds.extend(room.then(|| link.data_ear.as_fd()));
        fds.extend(extra);
        let found = wait_any(&fds, deadline.left()).map_err(Error::os("waiting"))?;
        let bits = found.map_err(Error::from)?;
        if bits & 1 != 0 {
            beacon.put_out();
        }
        if !link.is_peer_over() && bits >> peer_at & 3 != 0 {
            let mut rx = self.rx.lock_for_sure();
            self.look(&mut rx, link)?;
            self.settle(&mut rx, link);
        }
        Ok(())
    }

    /// Takes arrivals into the inbox, and leaves the bell armed; false if there is no room.
    fn take_in(&self, link: &Link) -> Result<bool, Error> {
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
        self.settle(rx, link);
        drop(guard);
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
