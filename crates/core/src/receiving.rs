//! Receiving: the session's calls that read. What a record means is in `incoming.rs`; this is how one
//! sleeps until there is one, and how the poll set is left behind.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alongside_sys::WaitEnd;
use alongside_sys::poll::{Ready, wait_any};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::incoming::{Incoming, Step, Target, Want};
use crate::link::{Link, token};
use crate::message::{Buffer, Message};
use crate::session::{HANDLERS_EVERY, Session};

/// So many wake-ups pass before the bell's pipe is emptied; it holds 4096 at the least.
const DRAIN_EVERY: u64 = 1024;

/// After so many wakes without a message the caller may want to run signal handlers.
const ROUNDS: u32 = 1024;

/// What came of asking for a message.
#[derive(Debug)]
pub enum Received<B> {
    /// A message.
    Message(Message<B>),
    /// So many bytes, in the caller's buffer.
    Filled(usize),
    /// There is none.
    Nothing,
    /// It takes longer: call again, in a way that lets others go on.
    Long,
}

impl<B: Buffer> Session<B> {
    /// Asks for a message without sleeping. With `spin`, looks for a while if there is none.
    #[inline]
    pub fn try_receive(&self, spin: bool, into: Option<Target<'_>>) -> Result<Received<B>, Error> {
        self.check_ours()?;
        let Some(mut guard) = self.rx.try_lock() else { return Ok(Received::Long) };
        let Some((link, rx)) = guard.parts() else { return Err(self.closed()) };
        if spin && !rx.knows_of_more() {
            self.spin.hold_back();
            if !rx.is_ready(link) {
                self.spin_for_record(rx, link);
            }
        }
        let want = Want { into, has_turn: false, large: false };
        let result = self.step_and_settle(rx, link, want);
        drop(guard);
        self.flush_pong();
        result
    }

    /// Asks for a message without waiting, however long it takes to copy; looks for the other side's
    /// death too.
    pub fn receive_now(&self, into: Option<Target<'_>>) -> Result<Received<B>, Error> {
        self.check_ours()?;
        let mut guard = self.rx.lock_for_sure();
        let Some((link, rx)) = guard.parts() else { return Err(self.closed()) };
        if !rx.is_ready(link) {
            self.look(rx, link).map_err(|error| self.fail(error))?;
        }
        let want = Want { into, has_turn: false, large: true };
        let result = self.step_and_settle(rx, link, want);
        drop(guard);
        self.flush_pong();
        result
    }

    /// Waits for a message.
    pub fn receive(
        &self,
        deadline: Deadline,
        mut into: Option<Target<'_>>,
    ) -> Result<Received<B>, Error> {
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        let _turn =
            self.turn.lock(deadline.left()).map_err(|end| self.end_of_wait(end, deadline))?;
        let result = self.receive_in_turn(&link, deadline, &mut into);
        if let Some(into) = into {
            // Whatever the result: what has grown in the caller's buffer leaves with the caller.
            let spilt = self.rx.lock_for_sure().spill(into.space);
            spilt.map_err(|error| self.fail(error))?;
            // Others may have been turned away from what comes next as long as this one grew; they are
            // watched for by edges.
            let rx = self.rx.lock_for_sure();
            if rx.is_ready(&link)
                && let Some(beacon) = link.made_beacon().filter(|_| rx.beacon_is_lit)
            {
                beacon.light();
            }
        }
        self.flush_pong();
        result
    }

    /// Waits for a message for a moment, taking no lock that is not free at once: for callers who hold
    /// something that the lock's holder may want.
    pub fn receive_briefly(
        &self,
        patience: Duration,
        into: Option<Target<'_>>,
    ) -> Result<Received<B>, Error> {
        self.check_open()?;
        let Some(_turn) = self.turn.try_lock() else { return Ok(Received::Long) };
        let link = {
            let Some(mut rx) = self.rx.try_lock() else { return Ok(Received::Long) };
            let Some(link) = rx.link.clone() else { return Err(self.closed()) };
            rx.consumer.arm(&link.incoming());
            self.settle(&mut rx, &link);
            if rx.is_ready(&link) {
                let want = Want { into, has_turn: false, large: false };
                let result = self.step_and_settle(&mut rx, &link, want);
                drop(rx);
                self.flush_pong();
                return result;
            }
            link
        };
        let waited = link.set.wait(Some(patience)).map_err(Error::os("waiting for a message"))?;
        let Some(mut rx) = self.rx.try_lock() else { return Ok(Received::Long) };
        if rx.link.is_none() {
            return Err(self.closed());
        }
        if let Ok(ready) = waited {
            self.wakeups.fetch_add(1, Ordering::Relaxed);
            self.note(&mut rx, &link, &ready)?;
        }
        let want = Want { into, has_turn: false, large: false };
        let result = self.step_and_settle(&mut rx, &link, want);
        drop(rx);
        self.flush_pong();
        result
    }

    /// A message that was received cannot be taken after all: it comes next again.
    pub fn put_back(&self, message: Message<B>) {
        let mut rx = self.rx.lock_for_sure();
        let Some(link) = rx.link.clone() else { return };
        rx.put_back(message);
        // Somebody may sleep who would want it.
        let _ = link.beacon();
        self.settle(&mut rx, &link);
    }

    fn receive_in_turn(
        &self,
        link: &Link,
        deadline: Deadline,
        into: &mut Option<Target<'_>>,
    ) -> Result<Received<B>, Error> {
        let begin = Instant::now();
        let (mut rounds, mut parts, mut has_slept) = (0, 0, false);
        while rounds < ROUNDS {
            // Asked here too: a side that rings or writes without end never lets a sleep run out.
            if rounds > 0 && deadline.is_over() {
                return Err(self.end_of_wait(WaitEnd::TimedOut, deadline));
            }
            rounds += 1;
            {
                let mut guard = self.rx.lock_for_sure();
                let rx = &mut *guard;
                if rx.link.is_none() {
                    return Err(self.closed());
                }
                let mut want =
                    Want { into: into.as_mut().map(Target::again), has_turn: true, large: true };
                let result = self.step(rx, link, &mut want);
                if !matches!(result, Ok(Received::Nothing)) {
                    self.settle(rx, link);
                    return result;
                }
                // A large message that grows is no idle round; it ends with its length.
                if rx.parts_taken() != parts {
                    (rounds, parts) = (1, rx.parts_taken());
                }
                if rx.is_amid_large() && self.spin_for_record(rx, link) {
                    continue;
                }
                rx.consumer.arm(&link.incoming());
                self.settle(rx, link);
                if rx.is_ready(link) || self.ended.get().is_some() {
                    continue;
                }
            }
            self.flush_pong();
            if has_slept && begin.elapsed() >= HANDLERS_EVERY {
                break;
            }
            has_slept = true;
            match link.set.wait(deadline.left()).map_err(Error::os("waiting for a message")) {
                Err(error) => return Err(self.fail(error)),
                Ok(Err(WaitEnd::Interrupted)) => return Err(Error::Interrupted),
                Ok(Err(WaitEnd::TimedOut)) if deadline.is_over() => {
                    return Err(self.end_of_wait(WaitEnd::TimedOut, deadline));
                }
                Ok(Err(WaitEnd::TimedOut)) => {}
                Ok(Ok(ready)) => {
                    self.spin.learn(begin.elapsed());
                    self.wakeups.fetch_add(1, Ordering::Relaxed);
                    let mut rx = self.rx.lock_for_sure();
                    self.note(&mut rx, link, &ready)?;
                }
            }
        }
        // A busy time, a long message, or malice; signals get their turn, and the wait begins anew.
        Err(Error::Interrupted)
    }

    /// One step, and the poll set left as it has to be.
    #[inline]
    fn step_and_settle(
        &self,
        rx: &mut Incoming<B>,
        link: &Link,
        mut want: Want<'_>,
    ) -> Result<Received<B>, Error> {
        let result = self.step(rx, link, &mut want);
        self.settle(rx, link);
        result
    }

    /// One step, and what it means that there is nothing.
    fn step(
        &self,
        rx: &mut Incoming<B>,
        link: &Link,
        want: &mut Want<'_>,
    ) -> Result<Received<B>, Error> {
        if let Some(reason) = self.ended.get() {
            return Err(reason.clone());
        }
        let stepped = match rx.step(link, want) {
            // Only now: a look at the end for every message would take the writer's line away from
            // it each time, which halves a stream between distant processors.
            Ok(Step::Empty) => self.step_at_end(rx, link, want),
            Ok(step) => Ok(step),
            Err(error) => Err(self.fail(error)),
        };
        self.note_pings(rx);
        if rx.has_arenas() {
            self.have_tended();
        }
        Ok(match stepped? {
            Step::Message(message) => Received::Message(message),
            Step::Filled(bytes) => Received::Filled(bytes),
            Step::Long => Received::Long,
            Step::Empty | Step::Anothers => Received::Nothing,
        })
    }

    /// A step where there was nothing: if the other side has ended, what it sent before that comes
    /// first, and then the end.
    fn step_at_end(
        &self,
        rx: &mut Incoming<B>,
        link: &Link,
        want: &mut Want<'_>,
    ) -> Result<Step<B>, Error> {
        let is_finished = rx.consumer.is_finished(&link.incoming());
        if !is_finished && !link.is_peer_over() {
            return Ok(Step::Empty);
        }
        match rx.step(link, want).map_err(|error| self.fail(error))? {
            Step::Empty if is_finished => Err(Error::Closed { by_me: false }),
            // To say how it ended may take until it has: not for a caller who holds others up.
            Step::Empty if !want.large => Ok(Step::Long),
            Step::Empty => Err(self.peer_gone()),
            step => Ok(step),
        }
    }

    fn spin_for_record(&self, rx: &Incoming<B>, link: &Link) -> bool {
        let Some(budget) = self.spin.budget(link) else { return false };
        let ring = link.incoming();
        let found = self.spin.spin(budget, || rx.consumer.has_record(&ring));
        if found {
            self.spins_paid.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Takes note of what a poll set reported.
    fn note(&self, rx: &mut Incoming<B>, link: &Link, ready: &Ready) -> Result<(), Error> {
        for token in ready.tokens() {
            match *token {
                token::BELL if self.wakeups.load(Ordering::Relaxed) % DRAIN_EVERY == 0 => {
                    link.data_ear.drain();
                }
                token::CONTROL => {
                    rx.read_control(link).map_err(|error| self.fail(error))?;
                }
                token::PEER => link.set_peer_over(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks the kernel about the control socket and the other process, without touching the set in
    /// which another thread may be asleep.
    pub(crate) fn look(&self, rx: &mut Incoming<B>, link: &Link) -> Result<(), Error> {
        use std::os::fd::AsFd;
        if link.is_peer_over() {
            return Ok(());
        }
        let fds = [link.control.as_fd(), link.peer.as_fd()];
        let found =
            wait_any(&fds, Some(Duration::ZERO)).map_err(Error::os("asking for the peer"))?;
        if let Ok(bits) = found {
            if bits & 1 != 0 {
                rx.read_control(link)?;
            }
            if bits & 2 != 0 {
                link.set_peer_over();
            }
        }
        Ok(())
    }

    /// Leaves the poll set as those who watch it from outside, or sleep in it, need it: readable if
    /// something is there, and else armed, so that the next arrival makes it so.
    pub(crate) fn settle(&self, rx: &mut Incoming<B>, link: &Link) {
        let Some(beacon) = link.made_beacon() else { return };
        if self.ended.get().is_some() || rx.is_ready(link) {
            if !rx.beacon_is_lit {
                beacon.light();
                rx.beacon_is_lit = true;
            }
            return;
        }
        if rx.beacon_is_lit {
            beacon.put_out();
            rx.beacon_is_lit = false;
            // Lit by somebody who ended the session at this moment: not ours to put out.
            if self.ended.get().is_some() {
                beacon.light();
            }
        }
        if self.is_watched.load(Ordering::Relaxed) {
            // The edge that brought us here has to be used up; only then is the set quiet.
            if let Ok(Ok(ready)) = link.set.wait(Some(Duration::ZERO)) {
                let _ = self.note(rx, link, &ready);
            }
            rx.consumer.arm(&link.incoming());
            if rx.is_ready(link) || self.ended.get().is_some() {
                beacon.light();
                rx.beacon_is_lit = true;
            }
        }
    }

    /// Calls `with` the descriptor that is readable exactly while `receive_now` would give a message
    /// or the session's end.
    pub fn with_descriptor<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Result<T, Error> {
        use std::os::fd::AsFd;
        self.check_open()?;
        let mut rx = self.rx.lock_for_sure();
        let Some(link) = rx.link.clone() else { return Err(self.closed()) };
        link.beacon().map_err(Error::os("making a descriptor to watch"))?;
        self.is_watched.store(true, Ordering::Relaxed);
        self.settle(&mut rx, &link);
        Ok(with(link.set.as_fd()))
    }

    /// Calls `with` both descriptors that may be watched from outside, as long as they exist, whatever
    /// the session's state: for who wants to stop watching.
    pub fn with_watched<T>(
        &self,
        with: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>) -> T,
    ) -> Option<T> {
        use std::os::fd::AsFd;
        if !self.is_ours() {
            return None;
        }
        let link = self.link.upgrade()?;
        Some(with(link.set.as_fd(), link.control.as_fd()))
    }

    /// Calls `with` the descriptor that hangs up when the session ends, whatever is received.
    pub fn with_end_descriptor<T>(
        &self,
        with: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, Error> {
        use std::os::fd::AsFd;
        self.check_open()?;
        let link = self.rx.lock_for_sure().link.clone().ok_or_else(|| self.closed())?;
        Ok(with(link.control.as_fd()))
    }
}
