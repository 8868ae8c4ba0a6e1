//! Waiting for everything but messages from outside, by an event loop that watches a descriptor.
//!
//! A loop's task that wants to send, and finds no space, may not sleep. It says that it waits (`arm_aside`),
//! tries once more, and then watches the *aside set*: readable after space was made, memory came back, an
//! arrival had to be taken in, or the other side or the started program ended. It is the attender's part
//! (`attend.rs`) without the sleep.
//!
//! A thread that sends with waiting drains the same bell. It lights the set's beacon when it is done, so
//! that what it took from the loop's task comes back to it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use alongside_sys::Errno;
use alongside_sys::poll::{Beacon, PollSet, Watch};

use crate::error::Error;
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::Outgoing;
use crate::session::Session;

/// What a loop watches that waits for something other than a message.
#[derive(Debug)]
pub(crate) struct Aside {
    set: PollSet,
    beacon: Beacon,
}

const ANY: u64 = 1;

impl Aside {
    fn new(link: &Link) -> Result<Aside, Errno> {
        let (set, beacon) = (PollSet::new()?, Beacon::new()?);
        set.add(&beacon, ANY, Watch::Level)?;
        set.add(&link.space_ear, ANY, Watch::Edge)?;
        set.add(&link.data_ear, ANY, Watch::Edge)?;
        set.add(&link.control, ANY, Watch::HangUp)?;
        set.add(&*link.peer, ANY, Watch::Level)?;
        Ok(Aside { set, beacon })
    }
}

impl<B: Buffer> Session<B> {
    /// Calls `with` the aside set.
    pub fn with_aside<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T, Error> {
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        Ok(with(self.aside(&link)?.set.as_fd()))
    }

    fn aside<'l>(&self, link: &'l Link) -> Result<&'l Aside, Error> {
        if link.aside.get().is_none() {
            let aside = Aside::new(link).map_err(Error::os("making a descriptor to watch"))?;
            // Another thread may have been quicker; one is kept.
            let _ = link.aside.set(aside);
        }
        link.aside.get().ok_or(Error::HandleLost(Errno::BADF))
    }

    /// Takes arrivals in, and has the aside set become readable at the next change. What is waited for
    /// has to be looked for once more after this. False if another thread is sending at the moment:
    /// then look again soon, whatever the set says.
    pub fn arm_aside(&self) -> Result<bool, Error> {
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        let aside = self.aside(&link)?;
        self.take_in(&link).map_err(|error| self.fail(error))?;
        let Some(tx) = self.tx.try_lock() else { return Ok(false) };
        aside.beacon.put_out();
        link.space_ear.drain();
        // Edges that brought us here have to be used up, or there is no next one.
        let _ = aside.set.wait(Some(Duration::ZERO));
        tx.producer.arm(&link.outgoing());
        Ok(true)
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
    pub(crate) fn end_space_wait(&self, tx: &mut Outgoing, link: &Arc<Link>) {
        tx.producer.disarm(&link.outgoing());
        if let Some(aside) = link.aside.get() {
            aside.beacon.light();
        }
    }
}
