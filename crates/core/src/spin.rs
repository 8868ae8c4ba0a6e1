//! Whether to look again and again for a while before going to sleep.
//!
//! It pays only while the other side runs on another processor: a hand-over then takes 0.5 µs instead
//! of 40. On one processor it keeps the other from running at all. Each side therefore publishes where
//! it runs; and it learns from how long it had to wait the last times.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::link::Link;

/// At least this long, when it is done at all: waking a sleeper on another processor takes about
/// 20 µs, and a side that gave up before the other has woken would never meet it awake.
const SHORTEST: Duration = Duration::from_micros(20);
const LONGEST: Duration = Duration::from_micros(50);
/// As long as this, where coming back from a sleep takes a turn of Python's interpreter lock: 5 ms.
const CONTENDED: Duration = Duration::from_micros(100);
/// Waits that are longer than this on average are slept through.
const NOT_WORTH_NS: u32 = 100_000;
/// Waits beyond this are long: what is done once for each does not matter.
const LONG_NS: u32 = 1_000_000;
/// One of so many waits is spun all the same, to notice when the other side has become quick.
const PROBE_EVERY: u32 = 16;

/// After so many messages in a row that were found by spinning, none sent in between, this is a stream.
const STREAM: u32 = 16;
/// How many pauses (of 5 to 50 ns each) a reader makes before it looks again: in a conversation, and
/// at a stream. Every look takes the line with the position away from the writer. Who looks at a
/// stream without pause does so at every message; who looks now and then finds several at once.
const PAUSES: [u32; 2] = [1, 64];

/// What one direction has learnt.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    expected_ns: AtomicU32,
    waits: AtomicU32,
    is_contended: AtomicBool,
    /// How many messages in a row were found by spinning without one being sent in between.
    one_way: AtomicU32,
}

impl Spin {
    /// How long to spin for the next wait; `None` for not at all. Publishes where this side runs.
    pub(crate) fn budget(&self, link: &Link) -> Option<Duration> {
        let cpu = alongside_sys::current_cpu();
        if link.own_presence().cpu() != Some(cpu) {
            link.own_presence().tell_cpu(cpu);
        }
        let waits = self.waits.fetch_add(1, Ordering::Relaxed);
        match link.peer_presence().cpu() {
            Some(theirs) if theirs != cpu => {}
            _ => return None,
        }
        if self.is_contended() {
            return Some(CONTENDED);
        }
        let expected = self.expected_ns.load(Ordering::Relaxed);
        if expected > NOT_WORTH_NS && waits % PROBE_EVERY != 0 {
            return None;
        }
        Some((2 * Duration::from_nanos(expected.into())).clamp(SHORTEST, LONGEST))
    }

    /// Looks until `found` or until the budget is used up; says whether it was found.
    pub(crate) fn spin(&self, budget: Duration, mut found: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        let pauses = PAUSES[usize::from(self.is_stream())];
        loop {
            for _ in 0..16 {
                if found() {
                    self.learn(begin.elapsed());
                    self.one_way.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                for _ in 0..pauses {
                    std::hint::spin_loop();
                }
            }
            if begin.elapsed() >= budget {
                return false;
            }
        }
    }

    /// For a reader who has taken all it knew of: lets a stream get ahead before the next look.
    #[inline]
    pub(crate) fn hold_back(&self) {
        if self.is_stream() {
            for _ in 0..PAUSES[1] {
                std::hint::spin_loop();
            }
        }
    }

    fn is_stream(&self) -> bool {
        self.one_way.load(Ordering::Relaxed) > STREAM
    }

    /// Whether coming back from a sleep is dear.
    pub(crate) fn is_contended(&self) -> bool {
        self.is_contended.load(Ordering::Relaxed)
    }

    /// Says whether coming back from a sleep is dear.
    pub(crate) fn set_contended(&self, is_contended: bool) {
        if self.is_contended.load(Ordering::Relaxed) != is_contended {
            self.is_contended.store(is_contended, Ordering::Relaxed);
        }
    }

    /// Takes note of a message that was sent: this is a conversation.
    #[inline]
    pub(crate) fn note_sent(&self) {
        if self.one_way.load(Ordering::Relaxed) != 0 {
            self.one_way.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the next wait is likely to be a long one, as far as is known.
    pub(crate) fn expects_long(&self) -> bool {
        let expected = self.expected_ns.load(Ordering::Relaxed);
        expected == 0 || expected > LONG_NS
    }

    /// Takes note of how long a wait was.
    pub(crate) fn learn(&self, waited: Duration) {
        let waited = waited.as_nanos().min(10_000_000) as u32;
        let expected = self.expected_ns.load(Ordering::Relaxed);
        self.expected_ns.store(expected - expected / 4 + waited / 4, Ordering::Relaxed);
    }
}
