//! A session: two-way, ordered messages between two processes, used by any number of threads.
//!
//! # Who holds what
//! | lock | guards | held while |
//! |---|---|---|
//! | `rx` | the reading side | one message is copied out, or a short spin; never while asleep |
//! | `tx` | the writing side | one message is written, and while its sender waits for space, so that messages stay whole and in order |
//! | `turn` | nobody's data | one receiver sleeps; the others queue for it |
//!
//! `rx` may be taken under `tx`, and under `turn`; nothing is taken under `rx` but `tx` by `try_lock`.
//!
//! # States
//! | state | shown by | `receive` | `send` |
//! |---|---|---|---|
//! | open | | waits | goes on |
//! | the peer has closed | its FIN in the ring | what it sent before, then `Closed` | `Closed` |
//! | the peer is gone | its handle, or its socket hung up | what it sent before, then `PeerGone` | `PeerGone` |
//! | ended here | `ended` | the reason | the reason |
//!
//! Sleeping is in two forms: a receiver sleeps in the link's poll set (one system call), everybody else
//! who has to wait (for space, for a pong, for an exit) *attends*, see `attend.rs`.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use alongside_sys::fork;
use alongside_sys::lock::Timed;
use alongside_sys::poll::{Beacon, wait_any};
use alongside_sys::process::{EndSignal, Identity, Process};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::incoming::Incoming;
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::Outgoing;
use crate::spin::Spin;

/// How long a death is waited for once the connection is cut, to tell how it ended. The process is in
/// the last lines of its exit then.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(50);
/// So often a call that is busy lets signal handlers run, though no sleep of it was interrupted.
pub(crate) const HANDLERS_EVERY: Duration = Duration::from_millis(100);

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Messages sent, without the hello.
    pub messages_sent: u64,
    /// Messages handed to the program.
    pub messages_received: u64,
    /// Messages that the other program says it was handed.
    pub messages_delivered: u64,
    /// Bytes of the messages sent.
    pub bytes_sent: u64,
    /// Bytes of the messages received.
    pub bytes_received: u64,
    /// How often a receiver slept and was woken.
    pub wakeups: u64,
    /// How often a receiver looked again and again, and found something before it had to sleep.
    pub spins_paid: u64,
}

/// The other processes of a session, as the handshake found them.
pub(crate) struct Others {
    /// Whom we talk to.
    pub(crate) peer: Arc<Process>,
    /// The user it runs as, as the kernel recorded it when the connection was made.
    pub(crate) uid: u32,
    /// What was started, if it was us who started.
    pub(crate) child: Option<Arc<Process>>,
    /// Whether the child leads a process group.
    pub(crate) has_group: bool,
    /// What keeps our life tied to the starter's; only held.
    pub(crate) fate: Option<std::os::fd::OwnedFd>,
}

/// What a lock of a session guards: one half of it, and the link, as long as the session has one.
#[derive(Debug)]
pub(crate) struct Held<T> {
    pub(crate) link: Option<Arc<Link>>,
    half: T,
}

impl<T> Held<T> {
    fn new(link: &Arc<Link>, half: T) -> Held<T> {
        Held { link: Some(Arc::clone(link)), half }
    }

    /// Both, where there is a link. Borrowed: counting who uses the link costs a message 10 ns.
    #[inline]
    pub(crate) fn parts(&mut self) -> Option<(&Arc<Link>, &mut T)> {
        self.link.as_ref().map(|link| (link, &mut self.half))
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.half
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.half
    }
}

/// Two-way messages with another process.
#[derive(Debug)]
pub struct Session<B: Buffer> {
    pub(crate) tx: Timed<Held<Outgoing>>,
    pub(crate) rx: Timed<Held<Incoming<B>>>,
    pub(crate) turn: Timed<()>,
    pub(crate) ended: OnceLock<Error>,
    pub(crate) attenders: Mutex<Vec<Arc<Beacon>>>,
    /// Those who wait without the writing side in hand.
    pub(crate) asides: crate::aside::Beacons,
    /// For waking without `rx`, whose holder may be waiting for somebody who wants to wake.
    pub(crate) link: Weak<Link>,
    /// The thread that runs callbacks for arrivals; 0 if there are none.
    pub(crate) served_by: AtomicUsize,
    /// Ends without a word when dropped: the process is dying.
    is_disowned: AtomicBool,
    /// The thread that runs signal handlers amid a large message of its own; 0 for none.
    pub(crate) interrupted_sender: AtomicUsize,
    pub(crate) pong_due: AtomicU64,
    pub(crate) pings: AtomicU64,
    /// The other process was given its time to end.
    pub(crate) had_grace: AtomicBool,
    pub(crate) last_pong: AtomicU64,
    pub(crate) delivered_at_close: AtomicU64,
    pub(crate) is_watched: AtomicBool,
    pub(crate) lend_limit: AtomicU64,
    /// Whether the caretaker knows of it.
    pub(crate) is_tended: AtomicBool,
    pub(crate) own: Weak<Session<B>>,
    pub(crate) spin: Spin,
    pub(crate) wakeups: AtomicU64,
    pub(crate) spins_paid: AtomicU64,
    generation: u32,
    pub(crate) max_message_bytes: u64,
    pub(crate) longest_inline: usize,
    identity: Identity,
    pub(crate) peer: Arc<Process>,
    pub(crate) child: Option<Arc<Process>>,
    pub(crate) has_group: bool,
    _fate: Option<std::os::fd::OwnedFd>,
}

impl<B: Buffer> Session<B> {
    pub(crate) fn new(link: Link, others: Others) -> Arc<Session<B>> {
        let link = Arc::new(link);
        let longest_inline = link.outgoing().longest_payload() as usize;
        let weak = Arc::downgrade(&link);
        Arc::new_cyclic(|own| Session {
            max_message_bytes: link.layout.max_message_bytes,
            longest_inline,
            tx: Timed::new(Held::new(&link, Outgoing::default())),
            rx: Timed::new(Held::new(&link, Incoming::new(&link))),
            turn: Timed::new(()),
            ended: OnceLock::new(),
            attenders: Mutex::new(Vec::new()),
            asides: Arc::default(),
            link: weak,
            served_by: AtomicUsize::new(0),
            is_disowned: AtomicBool::new(false),
            interrupted_sender: AtomicUsize::new(0),
            pong_due: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            had_grace: AtomicBool::new(false),
            last_pong: AtomicU64::new(0),
            delivered_at_close: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
            lend_limit: AtomicU64::new(crate::leased::LIMIT_BYTES),
            is_tended: AtomicBool::new(false),
            own: Weak::clone(own),
            spin: Spin::default(),
            wakeups: AtomicU64::new(0),
            spins_paid: AtomicU64::new(0),
            generation: fork::generation(),
            identity: others.peer.identity(others.uid),
            peer: others.peer,
            child: others.child,
            has_group: others.has_group,
            _fate: others.fate,
        })
    }

    // ---- who and whether -------------------------------------------------------------------

    /// Who is at the other end.
    pub fn peer(&self) -> &Identity {
        &self.identity
    }

    /// The longest message either side may send, in bytes.
    pub fn max_message_bytes(&self) -> u64 {
        self.max_message_bytes
    }

    /// Whether this process made the session, not the one that forked it.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    #[inline]
    pub(crate) fn check_ours(&self) -> Result<(), Error> {
        if self.is_ours() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Whether the other process exists and the session is open on both sides.
    pub fn is_alive(&self) -> bool {
        if !self.is_ours() || self.ended.get().is_some() {
            return false;
        }
        let mut rx = self.rx.lock_for_sure();
        let Some((link, rx)) = rx.parts() else { return false };
        self.look(rx, link).map_err(|error| self.fail(error)).is_ok()
            && !link.is_peer_over()
            && !rx.consumer.is_finished(&link.incoming())
    }

    /// Whether the session has ended on this side.
    pub fn is_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Says whether coming back from a sleep is dear here, because other threads compute; then spinning
    /// longer is cheaper.
    pub fn set_contended(&self, is_contended: bool) {
        self.spin.set_contended(is_contended);
    }

    /// Says that this thread hands arrivals to callbacks, or (`false`) that nobody does.
    pub fn set_served(&self, is_served: bool) {
        let by = if is_served { this_thread() } else { 0 };
        self.served_by.store(by, Ordering::Relaxed);
    }

    /// This process is about to die of an error: the other side shall not take its end for an orderly
    /// one.
    pub fn disown(&self) {
        self.is_disowned.store(true, Ordering::Relaxed);
    }

    /// Whether the next wait for a message is likely to take more than a millisecond.
    pub fn expects_long_wait(&self) -> bool {
        self.spin.expects_long()
    }

    /// What `set_contended` was told last.
    #[inline]
    pub fn is_contended(&self) -> bool {
        self.spin.is_contended()
    }

    /// Says that this side looks at bytes where they lie.
    pub fn want_views(&self) {
        if let (true, Some(link)) = (self.is_ours(), self.link.upgrade()) {
            link.own_presence().tell_wants_views();
        }
    }

    /// Whether the other side looks at bytes where they lie.
    pub fn peer_wants_views(&self) -> bool {
        self.is_ours() && self.link.upgrade().is_some_and(|link| link.peer_presence().wants_views())
    }

    /// Ends the session: what a message says of the memory it borrows is what no honest side would say.
    pub fn condemn(&self, what: String) {
        if self.is_ours() {
            self.fail(Error::Corrupt(what));
        }
    }

    /// Why the session is over on this side, if it is.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.check_ours()?;
        match self.ended.get() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// A signal handler that interrupted a send of this very thread would wait for itself.
    pub fn check_not_amid_a_send(&self) -> Result<(), Error> {
        if self.interrupted_sender.load(Ordering::Relaxed) == this_thread() {
            return Err(Error::Busy(
                "this signal handler has interrupted a send on the same session, which has to end first",
            ));
        }
        Ok(())
    }

    pub(crate) fn closed(&self) -> Error {
        self.ended.get().cloned().unwrap_or(Error::Closed { by_me: true })
    }

    /// The error for a peer that is gone, with its exit status if that can be had.
    pub(crate) fn peer_gone(&self) -> Error {
        let process = self.child.as_ref().unwrap_or(&self.peer);
        if self.is_the_child(process) && !self.had_grace.load(Ordering::Relaxed) {
            use std::os::fd::AsFd;
            let ended = wait_any(&[process.as_fd()], Some(EXIT_GRACE));
            // One that has hung up, and lives on, is not waited for at each call.
            self.had_grace.store(!matches!(ended, Ok(Ok(_))), Ordering::Relaxed);
        }
        Error::PeerGone { exit_status: process.exit_status() }
    }

    /// Whether whom we started is whom we talk to, rather than a wrapper that may live on.
    pub(crate) fn is_the_child(&self, process: &Arc<Process>) -> bool {
        process.pid() == self.peer.pid()
    }

    /// How the started program ended; `None` as long as it lives, or if that cannot be known.
    pub fn exit_status(&self) -> Option<i32> {
        if !self.is_ours() {
            return None;
        }
        self.child.as_ref().unwrap_or(&self.peer).exit_status()
    }

    /// The process that was started, which a wrapper may set apart from the peer.
    pub fn started_pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid())
    }

    /// Sends a signal to the started program, or its group, and to the peer if that is another.
    pub fn signal(&self, signal: EndSignal) -> Result<(), Error> {
        self.check_ours()?;
        let os = Error::os("sending a signal");
        if let Some(child) = &self.child {
            child.signal(signal, self.has_group).map_err(&os)?;
            if self.is_the_child(child) {
                return Ok(());
            }
        }
        self.peer.signal(signal, false).map_err(os)
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        self.check_ours()?;
        let mut all = Statistics {
            wakeups: self.wakeups.load(Ordering::Relaxed),
            spins_paid: self.spins_paid.load(Ordering::Relaxed),
            messages_delivered: self.delivered_at_close.load(Ordering::Relaxed),
            ..Statistics::default()
        };
        {
            let rx = self.rx.lock_for_sure();
            (all.messages_received, all.bytes_received) = (rx.delivered, rx.delivered_bytes);
        }
        // A sender that waits holds `tx`; its own message does not count yet.
        let mut tx = self
            .tx
            .lock(Some(EXIT_GRACE))
            .map_err(|_| Error::Busy("a send or a close is under way"))?;
        (all.messages_sent, all.bytes_sent) = (tx.producer.sent(), tx.sent_bytes);
        if let Some((link, tx)) = tx.parts() {
            all.messages_delivered = tx.producer.delivered(&link.outgoing())?;
        }
        Ok(all)
    }
}

/// A number that tells this thread from all others; never 0.
pub(crate) fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

impl<B: Buffer> Drop for Session<B> {
    fn drop(&mut self) {
        if self.is_ours() && !self.is_disowned.load(Ordering::Relaxed) {
            let _ = self.close(Deadline::Now);
        }
    }
}
