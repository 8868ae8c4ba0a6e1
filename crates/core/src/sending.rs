//! Sending: the session's calls that write. What a message becomes is in `outgoing.rs`; this is who waits
//! for what until it can become that.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use alongside_shm::{Kind, Region, Ring};
use alongside_sys::WaitEnd;

use crate::attend::Attend;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::incoming::Incoming;
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::{BARE_BYTES, Outgoing, bare};
use crate::session::{HANDLERS_EVERY, Session, this_thread};
use crate::staging::BLOCK_BYTES;

/// Waiting for space, by the holder of the writing side.
pub(crate) const FOR_SPACE: Attend = Attend { takes_in: true, wants_space: true };
/// Waiting for something else, by anybody.
pub(crate) const FOR_OTHER: Attend = Attend { takes_in: true, wants_space: false };
/// How long both sides may stand still, each waiting for the other to receive, before that is an error.
const STANDSTILL: Duration = Duration::from_secs(5);
/// How long a sender of a large message looks for a block to come back before it makes more: some
/// copies of a block take that long.
const BLOCK_PATIENCE: Duration = Duration::from_micros(100);

/// What became of a message that was to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is sent.
    Done,
    /// It takes longer: call [`Session::send`].
    Long,
}

impl<B: Buffer> Session<B> {
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes as u64 > self.max_message_bytes {
            return Err(Error::TooLarge { bytes: bytes as u64, limit: self.max_message_bytes });
        }
        Ok(())
    }

    /// Whether the session is open on both sides.
    #[inline]
    pub(crate) fn check_not_closed(&self, link: &Link) -> Result<(), Error> {
        if let Some(reason) = self.ended.get() {
            return Err(reason.clone());
        }
        // The other side's FIN stands in the ring that we read.
        if alongside_shm::Consumer::default().is_finished(&link.incoming()) {
            return Err(Error::Closed { by_me: false });
        }
        Ok(())
    }

    /// Whether the other side still listens.
    pub(crate) fn check_listener(&self, tx: &mut Outgoing, link: &Link) -> Result<(), Error> {
        self.check_not_closed(link)?;
        if tx.peer_is_over(link) { Err(self.peer_gone()) } else { Ok(()) }
    }

    /// Sends a small message if that can be done at once, without waiting for anybody.
    #[inline]
    pub fn try_send(&self, codec: u8, payload: &[u8]) -> Result<Sent, Error> {
        self.check_ours()?;
        self.check_size(payload.len())?;
        if payload.len() > self.longest_inline {
            return Ok(Sent::Long);
        }
        let Some(mut guard) = self.tx.try_lock() else { return Ok(Sent::Long) };
        let Some((link, tx)) = guard.parts() else { return Err(self.closed()) };
        self.check_not_closed(link)?;
        let ring = link.outgoing();
        // To say how the other side ended may take until it has.
        if tx.peer_is_over(link)
            || !tx.has_space(&ring, payload.len() as u64).map_err(|error| self.fail(error))?
        {
            return Ok(Sent::Long);
        }
        let sent = self.push_message(tx, link, &ring, Kind::Message, codec, payload);
        drop(guard);
        self.flush_pong();
        sent.map(|()| Sent::Done)
    }

    #[inline]
    pub(crate) fn push_message(
        &self,
        tx: &mut Outgoing,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        kind: Kind,
        codec: u8,
        payload: &[u8],
    ) -> Result<(), Error> {
        self.spin.note_sent();
        if matches!(kind, Kind::Message | Kind::Leased) {
            tx.producer.count_message();
            tx.sent_bytes += payload.len() as u64;
        }
        let record = bare(kind, codec, payload.len() as u32, 0);
        tx.push(link, ring, &record, payload).map_err(|error| self.fail(error))
    }

    /// Sends a message; waits as long as `deadline` allows for space. `go_on` is asked whenever a
    /// signal has arrived in the middle of a large message; if it says no, the message is abandoned.
    pub fn send(
        &self,
        codec: u8,
        payload: &[u8],
        deadline: Deadline,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        self.send_as(false, codec, payload, deadline, go_on)
    }

    /// Sends the first data.
    pub(crate) fn send_hello(
        &self,
        codec: u8,
        payload: &[u8],
        deadline: Deadline,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        self.send_as(true, codec, payload, deadline, go_on)
    }

    fn send_as(
        &self,
        is_hello: bool,
        codec: u8,
        payload: &[u8],
        deadline: Deadline,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        self.check_open()?;
        self.check_size(payload.len())?;
        self.check_not_amid_a_send()?;
        let mut tx =
            self.tx.lock(deadline.left()).map_err(|end| self.end_of_wait(end, deadline))?;
        let Some(link) = tx.link.clone() else { return Err(self.closed()) };
        self.check_listener(&mut tx, &link)?;
        let result = if payload.len() <= self.longest_inline {
            self.wait_space(&mut tx, &link, payload.len() as u64, deadline).and_then(|()| {
                let kind = if is_hello { Kind::Hello } else { Kind::Message };
                self.push_message(&mut tx, &link, &link.outgoing(), kind, codec, payload)
            })
        } else {
            self.send_large(&mut tx, &link, is_hello, codec, payload, deadline, go_on)
        };
        drop(tx);
        self.after_writing();
        result.map_err(|error| self.fail(error))
    }

    /// What a wait's end means to somebody who wanted to wait until `deadline`.
    pub(crate) fn end_of_wait(&self, end: WaitEnd, deadline: Deadline) -> Error {
        match end {
            WaitEnd::TimedOut if deadline == Deadline::Now => Error::WouldBlock,
            end => end.into(),
        }
    }

    /// Waits until a record with so many bytes of payload fits.
    pub(crate) fn wait_space(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        payload_bytes: u64,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let ring = link.outgoing();
        if tx.has_space(&ring, payload_bytes)? {
            return Ok(());
        }
        if deadline == Deadline::Now {
            return Err(Error::WouldBlock);
        }
        if let Some(budget) = self.spin.budget(link)
            && self.spin.spin(budget, || !matches!(tx.has_space(&ring, payload_bytes), Ok(false)))
        {
            return tx.has_space(&ring, payload_bytes).map(drop);
        }
        let mut since = None;
        let result = self.attend(link, deadline, None, FOR_SPACE, &mut |room| {
            tx.producer.arm(&ring);
            if tx.has_space(&ring, payload_bytes)? {
                return Ok(Some(()));
            }
            self.check_listener(tx, link)?;
            self.check_standstill(link, room, &mut since).map(|()| None)
        });
        self.end_space_wait(tx, link);
        result
    }

    /// Two sides that wait for each other, with every place taken, would wait for ever. Nobody is told
    /// so while another thread here hands arrivals to callbacks, or as long as anything moves.
    pub(crate) fn check_standstill(
        &self,
        link: &Link,
        room: bool,
        since: &mut Option<(Instant, u64)>,
    ) -> Result<(), Error> {
        let (peer_waits, taken) = {
            let rx = self.rx.lock_for_sure();
            (rx.consumer.producer_sleeps(&link.incoming()), rx.arrived())
        };
        let served_by = self.served_by.load(Ordering::Relaxed);
        let is_served = served_by != 0 && served_by != this_thread();
        if room || !peer_waits || is_served {
            *since = None;
            return Ok(());
        }
        match since {
            Some((begin, then)) if *then == taken => {
                if begin.elapsed() >= STANDSTILL {
                    return Err(Error::Busy(
                        "both programs wait for the other to receive, and there is no room for more\n\
                         receive first, or receive in another thread or with on_message()",
                    ));
                }
            }
            _ => *since = Some((Instant::now(), taken)),
        }
        Ok(())
    }

    /// Sends a message in parts. Once begun, it ends whole or is abandoned.
    #[allow(clippy::too_many_arguments, reason = "the parameters of send_as, passed on")]
    fn send_large(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        is_hello: bool,
        codec: u8,
        payload: &[u8],
        deadline: Deadline,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        let ring = link.outgoing();
        tx.stage.reclaim(tx.producer.blocks_returned(&ring))?;
        if deadline == Deadline::Now {
            self.check_fits_at_once(tx, link, payload.len() as u64)?;
        }
        self.wait_space(tx, link, BARE_BYTES, deadline)?;
        let kind = if is_hello { Kind::LargeHello } else { Kind::Large };
        tx.push(link, &ring, &bare(kind, codec, 0, payload.len() as u64), &[])?;
        let mut parts = payload.chunks(BLOCK_BYTES).peekable();
        let mut handlers_ran = Instant::now();
        while let Some(part) = parts.next() {
            // Published together with the last part: no change goes out that rings nobody.
            let completes = parts.peek().is_none() && !is_hello;
            let sent = loop {
                let sent = if handlers_ran.elapsed() >= HANDLERS_EVERY {
                    Err(Error::Interrupted)
                } else {
                    self.send_part(tx, link, part, completes, deadline)
                };
                if sent != Err(Error::Interrupted) || !self.run_handlers(go_on) {
                    break sent;
                }
                handlers_ran = Instant::now();
            };
            if let Err(error) = sent {
                // The reserve that `has_space` keeps is for this.
                tx.push(link, &ring, &bare(Kind::Abandoned, 0, 0, 0), &[])?;
                return Err(error);
            }
        }
        if !is_hello {
            tx.sent_bytes += payload.len() as u64;
        }
        Ok(())
    }

    /// Asks whether to go on, which may run signal handlers, which may use this session.
    fn run_handlers(&self, go_on: &mut dyn FnMut() -> bool) -> bool {
        self.interrupted_sender.store(this_thread(), Ordering::Relaxed);
        let goes_on = go_on();
        self.interrupted_sender.store(0, Ordering::Relaxed);
        goes_on
    }

    /// A send that may not wait begins only if it can end without waiting.
    fn check_fits_at_once(&self, tx: &mut Outgoing, link: &Link, bytes: u64) -> Result<(), Error> {
        let records = bytes.div_ceil(BLOCK_BYTES as u64) + 2;
        let has_ring = tx.producer.has_space(&link.outgoing(), records * BARE_BYTES)?;
        if has_ring && tx.stage.can_hold(bytes, self.max_message_bytes) {
            Ok(())
        } else {
            Err(Error::WouldBlock)
        }
    }

    fn send_part(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        part: &[u8],
        completes: bool,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let ring = link.outgoing();
        if let Some(reason) = self.ended.get() {
            return Err(reason.clone());
        }
        self.wait_space(tx, link, 0, deadline)?;
        let block = self.next_block(tx, link, deadline)?;
        tx.stage.fill(block, part);
        if completes {
            tx.producer.count_message();
        }
        let id = u64::from(block.arena) << 32 | u64::from(block.block);
        tx.push(link, &ring, &bare(Kind::Part, 0, 0, id), &[])
    }

    /// A block to fill. As long as the reader keeps up, no more than a window of them is under way; when
    /// it does not, any free one, a new one, or, when there may be no more, one that the reader gives
    /// back in its own time.
    fn next_block(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        deadline: Deadline,
    ) -> Result<crate::staging::Block, Error> {
        if tx.stage.reclaim(tx.producer.blocks_returned(&link.outgoing()))? {
            tx.reader_is_away = false;
        }
        if !tx.stage.is_ahead() || tx.reader_is_away || self.reader_returns(tx, link, deadline)? {
            if let Some(block) = tx.stage.take() {
                return Ok(block);
            }
        }
        tx.reader_is_away = true;
        match tx.stage.take() {
            Some(block) => Ok(block),
            None => self.wait_block(tx, link, deadline),
        }
    }

    /// Looks for a moment whether the reader, on another processor, gives blocks back.
    fn reader_returns(
        &self,
        tx: &mut Outgoing,
        link: &Link,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        if deadline == Deadline::Now || self.spin.budget(link).is_none() {
            return Ok(false);
        }
        let ring = link.outgoing();
        let begin = Instant::now();
        while begin.elapsed() < BLOCK_PATIENCE {
            if tx.stage.reclaim(tx.producer.blocks_returned(&ring))? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    /// A new block, or one that comes back.
    fn wait_block(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        deadline: Deadline,
    ) -> Result<crate::staging::Block, Error> {
        let ring = link.outgoing();
        if tx.grow_stage(link)?
            && let Some(block) = tx.stage.take()
        {
            return Ok(block);
        }
        if deadline == Deadline::Now {
            return Err(Error::WouldBlock);
        }
        let mut since = None;
        let result = self.attend(link, deadline, None, FOR_SPACE, &mut |room| {
            tx.producer.arm(&ring);
            tx.stage.reclaim(tx.producer.blocks_returned(&ring))?;
            if let Some(block) = tx.stage.take() {
                return Ok(Some(block));
            }
            self.check_listener(tx, link)?;
            self.check_standstill(link, room, &mut since).map(|()| None)
        });
        self.end_space_wait(tx, link);
        result
    }

    /// Asks the other program for a sign; says how long that took. It answers from within any call
    /// that receives.
    pub fn ping(&self, deadline: Deadline) -> Result<Duration, Error> {
        self.check_open()?;
        self.check_not_amid_a_send()?;
        let begin = Instant::now();
        let id = self.pings.fetch_add(1, Ordering::Relaxed) + 1;
        let link = {
            let mut tx =
                self.tx.lock(deadline.left()).map_err(|end| self.end_of_wait(end, deadline))?;
            let Some(link) = tx.link.clone() else { return Err(self.closed()) };
            self.check_listener(&mut tx, &link)?;
            self.wait_space(&mut tx, &link, 0, deadline).map_err(|error| self.fail(error))?;
            let ring = link.outgoing();
            tx.push(&link, &ring, &bare(Kind::Ping, 0, 0, id), &[])
                .map_err(|error| self.fail(error))?;
            link
        };
        let mut since = None;
        self.attend(&link, deadline, None, FOR_OTHER, &mut |room| {
            if self.last_pong.load(Ordering::Relaxed) >= id {
                return Ok(Some(begin.elapsed()));
            }
            self.check_peer(&self.rx.lock_for_sure(), &link)?;
            self.check_standstill(&link, room, &mut since).map(|()| None)
        })
        .map_err(|error| self.fail(error))
    }

    /// Whether the other side is still there, as far as has been seen.
    pub(crate) fn check_peer(&self, rx: &Incoming<B>, link: &Link) -> Result<(), Error> {
        if let Some(reason) = self.ended.get() {
            return Err(reason.clone());
        }
        if rx.consumer.is_finished(&link.incoming()) {
            return Err(Error::Closed { by_me: false });
        }
        if link.is_peer_over() { Err(self.peer_gone()) } else { Ok(()) }
    }

    /// Takes note of pings and pongs that a step has met; `rx` must be free afterwards.
    pub(crate) fn note_pings(&self, rx: &mut Incoming<B>) {
        if let Some(id) = rx.ping.take() {
            self.pong_due.store(id.wrapping_add(1), Ordering::SeqCst);
        }
        if let Some(id) = rx.pong.take() {
            self.last_pong.fetch_max(id, Ordering::Relaxed);
            self.light_attenders();
        }
    }

    /// Answers a ping, if there is one to answer and the ring has space. Whoever holds `tx` now will
    /// come by here when done.
    #[inline]
    pub(crate) fn flush_pong(&self) {
        if self.pong_due.load(Ordering::SeqCst) != 0 {
            self.answer_ping();
        }
    }

    #[cold]
    fn answer_ping(&self) {
        // Whoever has the writing side either sees that there is something to answer when it lets go, or
        // has let go by now.
        fence(Ordering::SeqCst);
        let Some(mut tx) = self.tx.try_lock() else { return };
        let Some(link) = tx.link.clone() else { return };
        let ring = link.outgoing();
        if tx.has_space(&ring, 0) != Ok(true) {
            return;
        }
        let due = self.pong_due.swap(0, Ordering::SeqCst);
        if due != 0 {
            let _ = tx.push(&link, &ring, &bare(Kind::Pong, 0, 0, due.wrapping_sub(1)), &[]);
        }
    }
}
