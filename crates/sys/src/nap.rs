//! The gap between the last look for signals and a sleep.
//!
//! A signal that arrives in it interrupts nothing: its handler in C has run, and the handler in the
//! language, which that one asked for, waits until the sleep is over. Blocking signals until the sleep
//! begins (ppoll) is no remedy in a process with other threads, for then one of those gets the signal.
//! So a caller who is about to wait says [`look_again_soon`]: the thread's next sleep ends once after a
//! moment, as if a signal had come, and the caller looks. What arrives later interrupts the sleep, unless
//! the sleep ends at that very moment for another reason; so after such an end the next one is short again.

use std::cell::Cell;
use std::time::Duration;

use crate::fork::generation;

const MOMENT: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nap {
    /// This thread never runs handlers.
    Never,
    /// The next long sleep is cut short.
    Next,
    /// It was; the next may last.
    Over,
}

thread_local! {
    static NAP: Cell<Nap> = const { Cell::new(Nap::Never) };
    /// In which generation it was asked, and the answer: a thread that forks is its child's first.
    static IS_MAIN: Cell<Option<(u32, bool)>> = const { Cell::new(None) };
}

/// Whether this is the process's first thread.
pub fn is_main_thread() -> bool {
    let generation = generation();
    match IS_MAIN.get() {
        Some((of, is_main)) if of == generation => is_main,
        _ => {
            let is_main = rustix::thread::gettid() == rustix::process::getpid();
            IS_MAIN.set(Some((generation, is_main)));
            is_main
        }
    }
}

/// The next sleep of this thread that may take longer than a moment is interrupted after one. Of no
/// effect but in a process's first thread, which alone runs handlers.
pub fn look_again_soon() {
    if is_main_thread() {
        NAP.set(Nap::Next);
    }
}

/// The next sleep of this thread may last: a timer would cost it a tenth of its time. Only if something
/// ends it, and the thread sleeps again in the same call, that is cut short.
pub fn look_again_later() {
    if NAP.get() == Nap::Next {
        NAP.set(Nap::Over);
    }
}

/// How long to sleep, and whether the end of that is to be taken for a signal.
pub(crate) fn length(timeout: Option<Duration>) -> (Option<Duration>, bool) {
    if timeout.is_some_and(|timeout| timeout <= MOMENT) || NAP.get() != Nap::Next {
        return (timeout, false);
    }
    NAP.set(Nap::Over);
    (Some(MOMENT), true)
}

/// A sleep has ended because something happened; a signal may have come at the same time.
pub(crate) fn woken() {
    if NAP.get() == Nap::Over {
        NAP.set(Nap::Next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_an_event_ended_makes_the_next_one_short() {
        NAP.set(Nap::Next);
        assert_eq!(length(None), (Some(MOMENT), true));
        assert_eq!(length(None), (None, false));
        woken();
        assert_eq!(length(Some(MOMENT)), (Some(MOMENT), false));
        assert_eq!(length(Some(MOMENT * 2)), (Some(MOMENT), true));
        assert_eq!(length(Some(MOMENT * 2)), (Some(MOMENT * 2), false));
        woken();
        look_again_later();
        assert_eq!(length(None), (None, false));
    }

    #[test]
    fn threads_that_run_no_handlers_sleep_as_long_as_they_like() {
        look_again_soon();
        woken();
        assert_eq!(length(None), (None, false));
    }
}
