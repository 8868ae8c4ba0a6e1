#![allow(unsafe_code)]
//! A thread of this library's own, which no signal finds: handlers belong to the program's threads, and
//! a signal that ran here would not end the wait of the thread that it was meant for.

use std::mem::MaybeUninit;

/// What it does is shallow.
const STACK_BYTES: usize = 128 << 10;

/// Starts a thread that takes no signals; false if there can be none.
pub fn spawn_quiet(name: &str, run: fn()) -> bool {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills `all`.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` was filled above, `before` is filled here; a new thread inherits the mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    let is_started = thread.spawn(run).is_ok();
    // SAFETY: `before` was filled above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    is_started
}
