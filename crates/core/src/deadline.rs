//! A point in time at which a wait gives up.

use std::time::{Duration, Instant};

/// When to give up waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Do not wait at all.
    Now,
    /// At this moment.
    At(Instant),
    /// Never.
    Never,
}

impl Deadline {
    /// So many seconds from now; `None`, or more than the clock can count, is never.
    pub fn after(timeout: Option<Duration>) -> Deadline {
        match timeout.map(|timeout| Instant::now().checked_add(timeout)) {
            Some(Some(at)) => Deadline::At(at),
            Some(None) | None => Deadline::Never,
        }
    }

    /// What is left of it; `None` is for ever.
    pub fn left(self) -> Option<Duration> {
        match self {
            Deadline::Now => Some(Duration::ZERO),
            Deadline::At(at) => Some(at.saturating_duration_since(Instant::now())),
            Deadline::Never => None,
        }
    }

    /// This one, but not later than so long from now.
    pub(crate) fn at_most(self, from_now: Duration) -> Deadline {
        match self.left() {
            Some(left) if left <= from_now => self,
            _ => Deadline::after(Some(from_now)),
        }
    }

    /// Whether it has passed.
    pub fn is_over(self) -> bool {
        self.left() == Some(Duration::ZERO)
    }
}
