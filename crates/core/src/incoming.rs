//! The reading side of a session: records become messages.
//!
//! A message is copied out of shared memory exactly once, into a buffer of the language's own, and
//! leaves the ring only when it is whole there: a call that ends early, for whatever reason, loses
//! nothing. A large message grows part by part in a buffer that waits here between calls. Arrays are not
//! copied at all: their message borrows them, see `borrowing.rs`.
//!
//! The *inbox* holds messages that were taken off the ring before anybody asked for them, by a side
//! that waits for something else and must not let the other's ring run full meanwhile.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::{Arc, Weak};

use alongside_shm::{Consumer, Kind, RECORD_BYTES, Record, Region, Ring};
use alongside_sys::Errno;
use alongside_sys::memory::wish_huge_pages;

use crate::borrowing::{Borrower, adopt_table};
use crate::error::Error;
use crate::lending::{TERMS_WORDS, Terms, payload_bytes};
use crate::link::Link;
use crate::message::{Buffer, Message};
use crate::staging::{BLOCK_BYTES, Block, Gallery};
use crate::wire::{self, Found, Packet};

/// What the inbox may hold, in bytes; more stays in the ring.
const INBOX_BYTES: u64 = 16 << 20;
/// What a message counts for in the inbox beside its payload.
const INBOX_ENTRY_BYTES: u64 = 64;
/// So many records are looked at before others get their turn: a whole ring of the smallest.
const RECORDS_PER_STEP: u32 = 16_384;
/// So many that are no messages are looked at by a caller who holds others up.
const RECORDS_IN_PASSING: u32 = 64;
/// Below this, asking for huge pages is not worth the call.
const HUGE_PAGES_FROM_BYTES: usize = 4 << 20;

/// Where an unfinished large message grows.
#[derive(Debug)]
enum Place<B> {
    Owned(B),
    /// In the buffer of the one caller who holds the session's turn.
    Callers,
}

#[derive(Debug)]
struct Partial<B> {
    codec: u8,
    is_hello: bool,
    total: u64,
    filled: u64,
    place: Place<B>,
}

/// Where a caller wants a message.
#[derive(Debug)]
pub struct Target<'a> {
    /// The memory, at least as long as the message.
    pub space: &'a mut [MaybeUninit<u8>],
    /// The only codec that is welcome there.
    pub codec: u8,
}

impl Target<'_> {
    /// The same place, lent for a shorter time.
    pub(crate) fn again(&mut self) -> Target<'_> {
        Target { space: self.space, codec: self.codec }
    }

    fn check(&self, codec: u8, bytes: u64) -> Result<(), Error> {
        if codec != self.codec {
            return Err(Error::OtherCodec(codec));
        }
        let space = self.space.len() as u64;
        if bytes > space { Err(Error::BufferTooSmall { bytes, space }) } else { Ok(()) }
    }
}

/// What the caller of [`Incoming::step`] can take.
pub(crate) struct Want<'a> {
    /// Put the message here.
    pub(crate) into: Option<Target<'a>>,
    /// The caller holds the session's turn, so a large message may grow in `into`.
    pub(crate) has_turn: bool,
    /// Parts of large messages may be copied, which takes long.
    pub(crate) large: bool,
}

/// What a step came to.
pub(crate) enum Step<B> {
    /// Nothing is there.
    Empty,
    /// Something is there that takes long.
    Long,
    /// A message is there that grows in another caller's buffer.
    Anothers,
    /// A message.
    Message(Message<B>),
    /// So many bytes of a message, in the caller's buffer.
    Filled(usize),
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct Incoming<B> {
    pub(crate) consumer: Consumer,
    inbox: VecDeque<Message<B>>,
    inbox_bytes: u64,
    partial: Option<Partial<B>>,
    gallery: Gallery,
    borrower: Borrower,
    /// What leases hold on to, to give back what they borrow.
    own_link: Weak<Link>,
    blocks_returned: u64,
    pub(crate) delivered: u64,
    pub(crate) delivered_bytes: u64,
    pub(crate) ping: Option<u64>,
    pub(crate) pong: Option<u64>,
    pub(crate) beacon_is_lit: bool,
    expects_hello: bool,
}

impl<B: Buffer> Incoming<B> {
    pub(crate) fn new(link: &Arc<Link>) -> Incoming<B> {
        Incoming {
            consumer: Consumer::default(),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            partial: None,
            gallery: Gallery::default(),
            borrower: Borrower::default(),
            own_link: Arc::downgrade(link),
            blocks_returned: 0,
            delivered: 0,
            delivered_bytes: 0,
            ping: None,
            pong: None,
            beacon_is_lit: false,
            expects_hello: link.is_joiner(),
        }
    }

    /// Whether a step, or the end of the session, waits to be taken note of.
    pub(crate) fn is_ready(&self, link: &Link) -> bool {
        let ring = link.incoming();
        !self.inbox.is_empty()
            || self.consumer.has_record(&ring)
            || self.consumer.is_finished(&ring)
            || link.is_peer_over()
    }

    /// Whether messages were taken in that nobody has asked for.
    pub(crate) fn has_undelivered(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// How many messages were taken off the ring.
    pub(crate) fn arrived(&self) -> u64 {
        self.delivered + self.inbox.len() as u64
    }

    /// Whether something is there that need not be looked for.
    pub(crate) fn knows_of_more(&self) -> bool {
        !self.inbox.is_empty() || self.consumer.knows_of_record()
    }

    /// Parts of large messages taken so far.
    pub(crate) fn parts_taken(&self) -> u64 {
        self.blocks_returned
    }

    /// Whether a large message has begun to arrive.
    pub(crate) fn is_amid_large(&self) -> bool {
        self.partial.is_some()
    }

    /// Hands the next message to the program, if there is one.
    pub(crate) fn step(&mut self, link: &Link, want: &mut Want<'_>) -> Result<Step<B>, Error> {
        let ring = link.incoming();
        if let (Some(into), Some(message)) = (&want.into, self.inbox.front()) {
            into.check(message.codec, message.body.bytes().len() as u64)?;
        }
        if let Some(message) = self.inbox.pop_front() {
            self.inbox_bytes -= weight(message.body.bytes().len() as u64);
            self.count(message.is_hello, message.bytes(), &ring);
            if ring.nudge_producer() {
                link.ring_space()?;
            }
            return Ok(Step::Message(message));
        }
        // Bounded: the other side may keep the ring full of pings for ever.
        for count in 0..RECORDS_PER_STEP {
            let Some(record) = self.consumer.peek(&ring)? else { return Ok(Step::Empty) };
            if count == RECORDS_IN_PASSING && !want.large {
                return Ok(Step::Long);
            }
            let step = match record.kind {
                kind if kind.is_whole() => self.take_whole(link, &ring, &record, want)?,
                Kind::Part if !want.large => return Ok(Step::Long),
                Kind::Large | Kind::LargeHello if !want.large => return Ok(Step::Long),
                _ => self.advance(link, &ring, &record, want)?,
            };
            let (is_hello, bytes) = match &step {
                Step::Message(message) => (message.is_hello, message.bytes()),
                Step::Filled(bytes) => (false, *bytes as u64),
                Step::Long | Step::Anothers => return Ok(Step::Anothers),
                Step::Empty => {
                    self.release(link, &ring, &record)?;
                    continue;
                }
            };
            self.count(is_hello, bytes, &ring);
            self.release(link, &ring, &record)?;
            return Ok(step);
        }
        Ok(Step::Empty)
    }

    /// A message that was handed out did not fit where it was to go: it comes next again.
    pub(crate) fn put_back(&mut self, message: Message<B>) {
        self.delivered -= 1;
        self.delivered_bytes -= message.bytes();
        self.inbox_bytes += weight(message.body.bytes().len() as u64);
        self.inbox.push_front(message);
    }

    /// Takes what waits in the ring into the inbox; false if that has no room for more.
    pub(crate) fn take_in(&mut self, link: &Link) -> Result<bool, Error> {
        let ring = link.incoming();
        for _ in 0..RECORDS_PER_STEP {
            let Some(record) = self.consumer.peek(&ring)? else { return Ok(true) };
            let bytes = match record.kind {
                kind if kind.is_whole() => record.length.into(),
                Kind::Large | Kind::LargeHello => record.id,
                _ => 0,
            };
            if self.inbox_bytes.saturating_add(weight(bytes)) > INBOX_BYTES {
                return Ok(false);
            }
            let mut want = Want { into: None, has_turn: false, large: true };
            let step = match record.kind {
                kind if kind.is_whole() => self.take_whole(link, &ring, &record, &mut want)?,
                _ => self.advance(link, &ring, &record, &mut want)?,
            };
            match step {
                Step::Message(message) => {
                    self.inbox_bytes += weight(message.body.bytes().len() as u64);
                    self.inbox.push_back(message);
                }
                Step::Long | Step::Anothers => return Ok(true),
                Step::Empty | Step::Filled(_) => {}
            }
            self.release(link, &ring, &record)?;
        }
        Ok(true)
    }

    /// Counts a message as delivered, and tells the other side.
    fn count(&mut self, is_hello: bool, bytes: u64, ring: &Ring<'_, Region<'_>>) {
        self.expects_hello = false;
        if !is_hello {
            self.delivered += 1;
            self.delivered_bytes += bytes;
            self.consumer.tell_delivered(ring, self.delivered);
        }
    }

    fn release(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
    ) -> Result<(), Error> {
        if self.consumer.release(ring, record) { link.ring_space() } else { Ok(()) }
    }

    /// A message that is whole in its record.
    fn take_whole(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
        want: &mut Want<'_>,
    ) -> Result<Step<B>, Error> {
        if self.partial.is_some() {
            return Err(Error::Corrupt(
                "the other program wrote a message amid the parts of another".into(),
            ));
        }
        self.check_hello(record)?;
        let is_leased = matches!(record.kind, Kind::Leased | Kind::LeasedHello);
        let terms = if is_leased { self.read_terms(link, ring, record)? } else { Vec::new() };
        let before = if is_leased { payload_bytes(terms.len(), 0) } else { 0 };
        let bytes = record.length as usize - before;
        check_length(link, bytes as u64)?;
        if let Some(into) = &mut want.into {
            if is_leased {
                return Err(Error::OtherCodec(record.codec));
            }
            into.check(record.codec, bytes as u64)?;
            self.consumer.read_end(ring, record, &mut into.space[..bytes]);
            return Ok(Step::Filled(bytes));
        }
        let mut body = B::with_length(bytes).map_err(|_| Error::NoMemory(bytes as u64))?;
        self.consumer.read_end(ring, record, body.space());
        // Last: a lease that is dropped is given back, and a message that cannot be taken now comes again.
        let leases = terms.into_iter().map(|terms| self.borrower.lease(terms, &self.own_link));
        Ok(Step::Message(Message {
            codec: record.codec,
            body,
            leases: leases.collect::<Result<_, _>>()?,
            is_hello: matches!(record.kind, Kind::Hello | Kind::LeasedHello),
        }))
    }

    /// What a leased message borrows: a count, then the terms of each lease.
    fn read_terms(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
    ) -> Result<Vec<Terms>, Error> {
        let short =
            || Error::Corrupt("the other program lent memory on terms that are cut off".into());
        let words = |index| self.consumer.words(ring, record, index).ok_or_else(short);
        let count = words(0)?[0];
        if count > u64::from(record.length) / (TERMS_WORDS * RECORD_BYTES) {
            return Err(short());
        }
        let terms = (0..count).map(|index| {
            let at = 1 + index * TERMS_WORDS;
            Ok(Terms::from_words([words(at)?, words(at + 1)?]))
        });
        let terms = terms.collect::<Result<Vec<_>, Error>>()?;
        if !terms.iter().all(|terms| self.borrower.knows(terms.arena)) {
            self.read_control(link)?;
        }
        Ok(terms)
    }

    /// Takes what the lender has given up off the ring, if nothing else comes first.
    pub(crate) fn take_retired(&mut self, link: &Link) -> Result<(), Error> {
        let ring = link.incoming();
        while let Some(record) = self.consumer.peek(&ring)? {
            if record.kind != Kind::Retired || record.length != 0 {
                break;
            }
            self.borrower.retire(record.id)?;
            self.release(link, &ring, &record)?;
        }
        Ok(())
    }

    /// Whether arenas of the other side are mapped here.
    #[inline]
    pub(crate) fn has_arenas(&self) -> bool {
        self.borrower.has_arenas()
    }

    /// Everything but a small message. `Step::Empty` means done.
    fn advance(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
        want: &mut Want<'_>,
    ) -> Result<Step<B>, Error> {
        if record.length != 0 {
            return Err(Error::Corrupt(format!(
                "the other program wrote a record of kind {:?} with {} bytes of payload instead of 0",
                record.kind, record.length
            )));
        }
        match record.kind {
            Kind::Large | Kind::LargeHello => self.begin(link, record, want)?,
            Kind::Part => return self.take_part(link, ring, record, want),
            Kind::Ping => self.ping = Some(record.id),
            Kind::Pong => self.pong = Some(record.id),
            Kind::Abandoned => self.partial = None,
            Kind::Retired => self.borrower.retire(record.id)?,
            Kind::Message | Kind::Hello | Kind::Leased | Kind::LeasedHello => {}
        }
        Ok(Step::Empty)
    }

    /// The hello comes first and once, to the side that was started.
    fn check_hello(&mut self, record: &Record) -> Result<(), Error> {
        let is_hello = matches!(record.kind, Kind::Hello | Kind::LargeHello | Kind::LeasedHello);
        if is_hello && !self.expects_hello {
            return Err(Error::Corrupt("the other program wrote a hello where none can be".into()));
        }
        Ok(())
    }

    fn begin(&mut self, link: &Link, record: &Record, want: &mut Want<'_>) -> Result<(), Error> {
        let total = record.id;
        self.check_hello(record)?;
        check_length(link, total)?;
        if self.partial.is_some() || total == 0 {
            return Err(Error::Corrupt(format!(
                "the other program began a large message of {total} bytes where none can begin"
            )));
        }
        if let Some(into) = &want.into {
            into.check(record.codec, total)?;
        }
        let place = match &want.into {
            Some(_) if want.has_turn => Place::Callers,
            _ => Place::Owned(large_buffer(total)?),
        };
        let is_hello = record.kind == Kind::LargeHello;
        self.partial = Some(Partial { codec: record.codec, is_hello, total, filled: 0, place });
        Ok(())
    }

    fn take_part(
        &mut self,
        link: &Link,
        ring: &Ring<'_, Region<'_>>,
        record: &Record,
        want: &mut Want<'_>,
    ) -> Result<Step<B>, Error> {
        let block = Block { arena: (record.id >> 32) as u32, block: record.id as u32 };
        if !self.gallery.knows(block.arena) {
            self.read_control(link)?;
        }
        let Some(partial) = &mut self.partial else {
            return Err(Error::Corrupt(
                "the other program wrote a part of no large message".into(),
            ));
        };
        let bytes = (partial.total - partial.filled).min(BLOCK_BYTES as u64) as usize;
        let from = partial.filled as usize;
        let space = match &mut partial.place {
            Place::Owned(body) => body.space(),
            Place::Callers => match &mut want.into {
                Some(into) if want.has_turn => &mut *into.space,
                _ => return Ok(Step::Anothers),
            },
        };
        self.gallery.copy_out(block, &mut space[from..from + bytes])?;
        partial.filled += bytes as u64;
        self.blocks_returned += 1;
        if self.consumer.return_blocks(ring, self.blocks_returned) {
            link.ring_space()?;
        }
        if partial.filled < partial.total {
            return Ok(Step::Empty);
        }
        Ok(match self.partial.take() {
            Some(Partial { codec, is_hello, place: Place::Owned(body), .. }) => {
                Step::Message(Message { codec, body, leases: Vec::new(), is_hello })
            }
            Some(Partial { total, place: Place::Callers, .. }) => Step::Filled(total as usize),
            None => Step::Empty,
        })
    }

    /// The caller in whose buffer a large message grows goes away before it is whole: what has come
    /// so far is saved.
    pub(crate) fn spill(&mut self, from: &[MaybeUninit<u8>]) -> Result<(), Error> {
        if let Some(partial) = &mut self.partial
            && matches!(partial.place, Place::Callers)
        {
            let Ok(mut body) = large_buffer::<B>(partial.total) else {
                self.partial = None;
                return Err(Error::Lost(
                    "keeping a message that has begun to arrive",
                    Errno::NOMEM,
                ));
            };
            let filled = partial.filled as usize;
            body.space()[..filled].copy_from_slice(&from[..filled]);
            partial.place = Place::Owned(body);
        }
        Ok(())
    }

    /// Reads what has come on the control socket: arenas, or its end.
    pub(crate) fn read_control(&mut self, link: &Link) -> Result<(), Error> {
        loop {
            match Packet::receive(&link.control)? {
                Found::Nothing => return Ok(()),
                Found::HungUp => {
                    link.set_peer_over();
                    return Ok(());
                }
                Found::Packet(Packet { kind: wire::Kind::Arena, a, b, c }, files) => {
                    let file = files.first().ok_or_else(unaccompanied)?;
                    let limit = link.layout.max_message_bytes;
                    self.gallery.add(a, b, c, file, limit)?;
                }
                Found::Packet(Packet { kind: wire::Kind::LeaseArena, a, c, .. }, files) => {
                    let file = files.first().ok_or_else(unaccompanied)?;
                    self.borrower.add(a, c, file)?;
                }
                Found::Packet(Packet { kind: wire::Kind::Returns, c, .. }, files) => {
                    let file = files.first().ok_or_else(unaccompanied)?;
                    adopt_table(&link.returns, c, file)?;
                }
                Found::Packet(packet, _) => {
                    return Err(Error::Corrupt(format!(
                        "the other program sent a packet of kind {:?} amid the session",
                        packet.kind
                    )));
                }
            }
        }
    }

    /// Lets everything go.
    pub(crate) fn shut(&mut self) {
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.partial = None;
        self.gallery = Gallery::default();
        self.borrower = Borrower::default();
    }
}

fn unaccompanied() -> Error {
    Error::Corrupt("the other program announced memory without sending it".into())
}

fn weight(bytes: u64) -> u64 {
    bytes.saturating_add(INBOX_ENTRY_BYTES)
}

fn check_length(link: &Link, bytes: u64) -> Result<(), Error> {
    let limit = link.layout.max_message_bytes;
    if bytes > limit {
        return Err(Error::Corrupt(format!(
            "the other program wrote a message of {bytes} bytes, the limit is {limit}"
        )));
    }
    Ok(())
}

fn large_buffer<B: Buffer>(bytes: u64) -> Result<B, Error> {
    let no_memory = |_| Error::NoMemory(bytes);
    let length = usize::try_from(bytes).map_err(|_| Error::NoMemory(bytes))?;
    let mut body = B::with_length(length).map_err(no_memory)?;
    if length >= HUGE_PAGES_FROM_BYTES {
        wish_huge_pages(body.space());
    }
    Ok(body)
}
