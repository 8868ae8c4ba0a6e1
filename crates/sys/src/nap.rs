//! The gap between the last look for signals and a sleep.
//!
//! A signal that arrives in it interrupts nothing: its handler in C has run, and the handler in the
//! language, which that one asked for, waits until the sleep is over. Blocking signals until the sleep
//! begins (ppoll) is no remedy in a process with other threads, for then one of those gets the signal.
//! So a caller who is about to wait says [`look_again_soon`]: the thread's next sleep ends once after a
//! moment, as if a signal had come, and the caller looks. What arrives later interrupts the sleep.

use std::cell::Cell;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(50);

thread_local! {
    static SOON: Cell<bool> = const { Cell::new(false) };
    static IS_MAIN: bool = rustix::thread::gettid() == rustix::process::getpid();
}

/// The next sleep of this thread that may take longer than a moment is interrupted after one. Of no
/// effect but in a process's first thread, which alone runs handlers.
pub fn look_again_soon() {
    if IS_MAIN.with(|is_main| *is_main) {
        SOON.set(true);
    }
}

/// How long to sleep, and whether the end of that is to be taken for a signal.
pub(crate) fn length(timeout: Option<Duration>) -> (Option<Duration>, bool) {
    if timeout.is_some_and(|timeout| timeout <= MOMENT) || !SOON.replace(false) {
        return (timeout, false);
    }
    (Some(MOMENT), true)
}
