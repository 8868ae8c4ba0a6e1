//! The end of a session: noticing it, making it, waiting for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alongside_sys::WaitEnd;
use alongside_sys::poll::wait_any;
use alongside_sys::process::Process;

use crate::attend::Attend;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::Outgoing;
use crate::sending::FOR_OTHER;
use crate::session::Session;

/// How long a close waits for a sender to let go, whatever its deadline.
const LET_GO: Duration = Duration::from_millis(100);

impl<B: Buffer> Session<B> {
    /// Ends the session on this side if `error` says that it cannot go on; passes it on.
    pub(crate) fn fail(&self, error: Error) -> Error {
        if error.ends_the_session() && self.ended.set(error.clone()).is_ok() {
            self.wake_everybody();
            // The other side must not go on waiting for us until somebody closes what is left here.
            // (Unless descriptors were closed behind our back: the number may be another's by now.)
            if !matches!(error, Error::HandleLost(_))
                && let Some(link) = self.link.upgrade()
            {
                alongside_sys::socket::shut_down(&link.control);
            }
        }
        error
    }

    /// Lets everybody who sleeps in this process look again.
    fn wake_everybody(&self) {
        if let Some(link) = self.link.upgrade()
            && let Ok(beacon) = link.beacon()
        {
            beacon.light();
        }
        self.light_attenders();
        self.light_asides();
    }

    pub(crate) fn light_attenders(&self) {
        if let Ok(attenders) = self.attenders.lock() {
            attenders.iter().for_each(|beacon| beacon.light());
        }
    }

    /// Has every call but [`Session::close`] say that the session is closed.
    pub fn begin_close(&self) {
        if self.is_ours() && self.ended.set(Error::Closed { by_me: true }).is_ok() {
            self.wake_everybody();
        }
    }

    /// Ends the session: what was sent stays receivable for the other side, what was not received
    /// here is dropped. Waits until the other program has taken everything, has closed or is gone, or
    /// until the deadline. Says how many messages the other program has taken. A signal ends the
    /// call too, and it has to be made again.
    pub fn close(&self, deadline: Deadline) -> Result<u64, Error> {
        self.check_ours()?;
        self.check_not_amid_a_send()?;
        self.begin_close();
        // A sender that was woken leaves soon; if not that soon, it closes when it does. Another who is
        // closing answers for both.
        let patience = deadline.left().map(|left| left.max(LET_GO));
        let mut tx = match self.tx.lock(patience) {
            Ok(tx) => tx,
            Err(WaitEnd::Interrupted) => return Err(Error::Interrupted),
            Err(WaitEnd::TimedOut) => {
                return Ok(self.delivered_at_close.load(Ordering::Relaxed));
            }
        };
        let Some(link) = tx.link.take() else {
            return Ok(self.delivered_at_close.load(Ordering::Relaxed));
        };
        if tx.producer.finish(&link.outgoing()) {
            let _ = link.ring_data();
        }
        let waited = match self.ended.get() {
            Some(Error::Closed { .. }) if !deadline.is_over() => {
                self.wait_delivered(&mut tx, &link, deadline)
            }
            _ => Ok(()),
        };
        if matches!(waited, Err(Error::Interrupted)) {
            // Not closed yet: whoever asked asks again, or for no waiting.
            tx.link = Some(link);
            return Err(Error::Interrupted);
        }
        let delivered = tx.producer.delivered(&link.outgoing()).unwrap_or(0);
        self.delivered_at_close.store(delivered, Ordering::Relaxed);
        tx.stage = crate::staging::Stage::default();
        tx.lender = crate::lending::Lender::default();
        drop(tx);
        {
            let mut rx = self.rx.lock_for_sure();
            rx.link = None;
            rx.shut();
        }
        alongside_sys::socket::shut_down(&link.control);
        Ok(delivered)
    }

    /// Waits until nothing that was sent is under way any more.
    fn wait_delivered(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let ring = link.outgoing();
        self.attend(
            link,
            deadline,
            None,
            Attend { takes_in: false, wants_space: true },
            &mut |_| {
                tx.producer.arm(&ring);
                let over = self.rx.lock_for_sure().consumer.is_finished(&link.incoming())
                    || link.look_for_peer()
                    || tx.producer.delivered(&ring)? == tx.producer.sent();
                Ok(over.then_some(()))
            },
        )
    }

    /// Waits until the started program has ended, taking in messages meanwhile so that it need not
    /// wait for us; then says how it ended. On the side that was started: until the session has ended.
    pub fn wait(&self, deadline: Deadline) -> Result<Option<i32>, Error> {
        self.check_ours()?;
        match &self.child {
            Some(child) => self.wait_exit(child, deadline),
            None => self.wait_end(deadline).map(|()| None),
        }
    }

    fn wait_exit(&self, child: &Arc<Process>, deadline: Deadline) -> Result<Option<i32>, Error> {
        use std::os::fd::AsFd;
        loop {
            if child.is_over() {
                return Ok(child.exit_status());
            }
            let link = self.rx.lock_for_sure().link.clone();
            let (Some(link), None) = (link, self.ended.get()) else {
                match wait_any(&[child.as_fd()], deadline.left()) {
                    Ok(Ok(_)) => continue,
                    Ok(Err(end)) => return Err(self.end_of_wait(end, deadline)),
                    Err(errno) => return Err(Error::os("waiting for the program's end")(errno)),
                }
            };
            let mut since = None;
            let over = self.attend(&link, deadline, Some(child.as_fd()), FOR_OTHER, &mut |room| {
                if child.is_over() || self.ended.get().is_some() {
                    return Ok(Some(()));
                }
                self.check_standstill(&link, room, &mut since).map(|()| None)
            });
            match over {
                // Ended on this side: only the program's own end is left to wait for.
                Ok(()) => {}
                Err(error) if error.ends_the_session() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_end(&self, deadline: Deadline) -> Result<(), Error> {
        if self.ended.get().is_some() {
            return Ok(());
        }
        let Some(link) = self.rx.lock_for_sure().link.clone() else { return Ok(()) };
        let result = self.attend(&link, deadline, None, FOR_OTHER, &mut |_room| {
            let rx = self.rx.lock_for_sure();
            Ok(self.check_peer(&rx, &link).is_err().then_some(()))
        });
        match result {
            Err(error) if error.ends_the_session() => Ok(()),
            result => result,
        }
    }

    /// Why the session is over, if it is.
    pub fn end_reason(&self) -> Option<Error> {
        if let Some(reason) = self.ended.get() {
            return Some(reason.clone());
        }
        let mut rx = self.rx.lock_for_sure();
        let (link, rx) = rx.parts()?;
        let looked = self.look(rx, link).map_err(|error| self.fail(error));
        looked.and_then(|()| self.check_peer(rx, link)).err()
    }
}
