//! Lending memory and sending what lies in it: the session's calls. The memory itself is in
//! `lending.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alongside_shm::Kind;

use crate::aside::Armed;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::lending::{self, Block, Lack, Terms};
use crate::link::Link;
use crate::message::Buffer;
use crate::outgoing::{Outgoing, bare};
use crate::sending::{FOR_SPACE, Sent};
use crate::session::{EXIT_GRACE, Session};

/// What one side lends at most if nothing else is said, in bytes.
pub(crate) const LIMIT_BYTES: u64 = 1 << 30;
/// How long a lender looks for a block to come back before it takes a new one.
const RETURN_PATIENCE: Duration = Duration::from_micros(100);
/// It goes on waiting, asleep, for as long as the first touch of new memory would take: 25 ms for 64 MiB.
const FIRST_TOUCH_NS_PER_KIB: u64 = 400;
/// If that is worth a sleep.
const WORTH_SLEEPING: Duration = Duration::from_micros(100);
/// How long who waits for memory sleeps at most: where only the other side can make some, and else.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOK_AGAIN_SOON: Duration = Duration::from_millis(20);

impl<B: Buffer> Session<B> {
    /// What this side lends at most at a time, in bytes.
    pub fn lend_limit(&self) -> u64 {
        self.lend_limit.load(Ordering::Relaxed)
    }

    /// Sets it. What is lent already is not taken back.
    pub fn set_lend_limit(&self, bytes: u64) {
        self.lend_limit.store(bytes, Ordering::Relaxed);
    }

    /// Memory to be filled and sent; waits as long as `deadline` allows until some of what is lent comes
    /// back, if there may be no more.
    pub fn lend(&self, bytes: usize, deadline: Deadline) -> Result<Block, Error> {
        self.check_open()?;
        self.check_not_amid_a_send()?;
        let lack = match self.lend_if_any(bytes, deadline)? {
            Ok(block) => return Ok(block),
            Err(lack) => lack,
        };
        if deadline == Deadline::Now {
            return Err(lack.busy());
        }
        // Without the writing side in hand: what another thread has yet to send may be what comes back.
        let aside = self.aside()?;
        loop {
            let armed = self.arm_aside(&aside, true)?;
            if let Ok(block) = self.lend_if_any(bytes, deadline)? {
                return Ok(block);
            }
            // What this program itself lets go rings no bell.
            let longest = if armed == Armed::Wait { LOOK_AGAIN } else { LOOK_AGAIN_SOON };
            self.wait_aside(&aside, deadline, longest)?;
        }
    }

    /// Memory to copy a message into that could as well be sent otherwise: none where it would have to be
    /// waited for until some comes back.
    pub fn lend_if_free(&self, bytes: usize, deadline: Deadline) -> Result<Option<Block>, Error> {
        self.check_open()?;
        self.check_not_amid_a_send()?;
        match self.lend_if_any(bytes, deadline) {
            Ok(lent) => Ok(lent.ok()),
            Err(Error::BeyondLimit { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lend_if_any(&self, bytes: usize, deadline: Deadline) -> Result<Result<Block, Lack>, Error> {
        let lent = self.lend_now(bytes, deadline);
        self.after_writing();
        let lent = lent?;
        self.check_open().map(|()| lent)
    }

    fn lend_now(&self, bytes: usize, deadline: Deadline) -> Result<Result<Block, Lack>, Error> {
        let mut tx =
            self.tx.lock(deadline.left()).map_err(|end| self.end_of_wait(end, deadline))?;
        let Some((link, tx)) = tx.parts() else { return Err(self.closed()) };
        self.check_listener(tx, link)?;
        self.await_return(tx, link, bytes, deadline)?;
        let lent = tx.lender.lend(link, bytes, self.lend_limit())?;
        self.have_tended();
        self.tell_retired(tx, link)?;
        Ok(lent)
    }

    /// Tells the other side what was given up, as far as there is space.
    pub(crate) fn tell_retired(&self, tx: &mut Outgoing, link: &Link) -> Result<(), Error> {
        let ring = link.outgoing();
        while let Some((number, _)) = tx.lender.retired.last().copied() {
            if !tx.has_space(&ring, 0)? {
                break;
            }
            tx.push(link, &ring, &bare(Kind::Retired, 0, 0, number.into()), &[])?;
            tx.lender.retired.pop();
        }
        Ok(())
    }

    /// Waits a little for a reader that is behind to give a block back: one that was used is filled five
    /// times as fast as one that was never touched. A reader that keeps what it gets is waited for once.
    fn await_return(
        &self,
        tx: &mut Outgoing,
        link: &Arc<Link>,
        bytes: usize,
        deadline: Deadline,
    ) -> Result<(), Error> {
        if deadline == Deadline::Now || !tx.lender.is_ahead(bytes) || tx.lender.reclaim() {
            return Ok(());
        }
        if self.spin.budget(link).is_some() {
            let begin = Instant::now();
            while begin.elapsed() < RETURN_PATIENCE {
                if tx.lender.reclaim() {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
        }
        let patience = Duration::from_nanos(bytes as u64 / 1024 * FIRST_TOUCH_NS_PER_KIB);
        if tx.lender.reader_keeps || patience < WORTH_SLEEPING {
            return Ok(());
        }
        let ring = link.outgoing();
        let patience = deadline.at_most(patience);
        let waited = self.attend(link, patience, None, FOR_SPACE, &mut |_room| {
            tx.producer.arm(&ring);
            if tx.lender.reclaim() {
                return Ok(Some(()));
            }
            self.check_listener(tx, link).map(|()| None)
        });
        self.end_space_wait(tx, link);
        match waited {
            Err(Error::TimedOut) => {
                tx.lender.reader_keeps = true;
                Ok(())
            }
            waited => waited,
        }
    }

    /// Bytes of this side's memory that the other side reads, or that are being filled.
    pub fn lent_bytes(&self) -> Result<u64, Error> {
        self.check_ours()?;
        let mut tx =
            self.tx.lock(Some(EXIT_GRACE)).map_err(|_| Error::Busy("a send is under way"))?;
        tx.lender.reclaim();
        Ok(tx.lender.lent_bytes())
    }

    /// Sends such a message if that can be done at once, without waiting for anybody; whatever else there is
    /// to be said of it, [`Session::send_leased`] says.
    pub fn try_send_leased(
        &self,
        is_hello: bool,
        codec: u8,
        body: &[u8],
        blocks: &[Block],
    ) -> Sent {
        let lent: usize = blocks.iter().map(Block::len).sum();
        if self.check_open().is_err()
            || self.check_size(lent.max(body.len())).is_err()
            || self.check_not_amid_a_send().is_err()
        {
            return Sent::Long;
        }
        let Some(mut tx) = self.tx.try_lock() else { return Sent::Long };
        let sent = match tx.parts() {
            Some((link, tx)) => {
                self.is_free_to_send(tx, link, blocks.len(), body.len())
                    && self
                        .push_leased(tx, link, is_hello, codec, body, blocks, lent as u64)
                        .is_ok()
            }
            None => false,
        };
        drop(tx);
        self.flush_pong();
        if sent { Sent::Done } else { Sent::Long }
    }

    fn is_free_to_send(
        &self,
        tx: &mut Outgoing,
        link: &Link,
        blocks: usize,
        body_bytes: usize,
    ) -> bool {
        let bytes = lending::payload_bytes(blocks, body_bytes) as u64;
        self.check_not_closed(link).is_ok()
            && !tx.peer_is_over(link)
            && tx.has_space(&link.outgoing(), bytes) == Ok(true)
    }

    /// Sends a message, or the first data, that speaks of blocks that [`Session::lend`] gave. No byte of
    /// theirs is moved.
    pub fn send_leased(
        &self,
        is_hello: bool,
        codec: u8,
        body: &[u8],
        blocks: &[Block],
        deadline: Deadline,
    ) -> Result<(), Error> {
        self.check_open()?;
        let lent: usize = blocks.iter().map(Block::len).sum();
        self.check_size(lent)?;
        self.check_size(body.len())?;
        self.check_not_amid_a_send()?;
        let sent = self.send_terms(is_hello, codec, body, blocks, lent as u64, deadline);
        self.after_writing();
        sent
    }

    fn send_terms(
        &self,
        is_hello: bool,
        codec: u8,
        body: &[u8],
        blocks: &[Block],
        lent_bytes: u64,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let mut tx =
            self.tx.lock(deadline.left()).map_err(|end| self.end_of_wait(end, deadline))?;
        let Some((link, tx)) = tx.parts() else { return Err(self.closed()) };
        self.check_listener(tx, link)?;
        let bytes = lending::payload_bytes(blocks.len(), body.len());
        self.wait_space(tx, link, bytes as u64, deadline).map_err(|error| self.fail(error))?;
        self.push_leased(tx, link, is_hello, codec, body, blocks, lent_bytes)
    }

    #[allow(clippy::too_many_arguments, reason = "what a message consists of")]
    fn push_leased(
        &self,
        tx: &mut Outgoing,
        link: &Link,
        is_hello: bool,
        codec: u8,
        body: &[u8],
        blocks: &[Block],
        lent_bytes: u64,
    ) -> Result<(), Error> {
        let terms = self.assign_all(tx, blocks)?;
        let payload = lending::payload(&terms, body);
        let kind = if is_hello { Kind::LeasedHello } else { Kind::Leased };
        if !is_hello {
            tx.sent_bytes += lent_bytes;
        }
        self.push_message(tx, link, &link.outgoing(), kind, codec, &payload)
    }

    /// A slot for each block, or none for any.
    fn assign_all(&self, tx: &mut Outgoing, blocks: &[Block]) -> Result<Vec<Terms>, Error> {
        let mut all = Vec::with_capacity(blocks.len());
        for block in blocks {
            let failed = match tx.lender.assign(block) {
                Ok(Some(terms)) => {
                    all.push(terms);
                    continue;
                }
                Ok(None) => {
                    Error::Busy("65,536 arrays are lent\nthe other program has to let some go")
                }
                Err(error) => error,
            };
            all.iter().for_each(|terms| tx.lender.revoke(terms));
            return Err(failed);
        }
        Ok(all)
    }
}
