//! Giving memory back that lies idle, without anybody calling.
//!
//! Arenas that were lent lie in memory until both sides unmap them, and a program that has sent one
//! large array an hour ago makes no call in which that could happen. So as long as any session of this
//! process has arenas, a thread looks after them once a second: the lender gives up what has lain idle
//! and writes so into the ring, the borrower reads it there. Without arenas there is no thread.
//!
//! The thread never waits for a lock that a caller may hold for long: what is in use is not idle.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use alongside_sys::fork;
use alongside_sys::lock::Timed;
use alongside_sys::spawn_quiet;

use crate::borrowing::give_back_inherited;
use crate::message::Buffer;
use crate::session::Session;

const EVERY: Duration = Duration::from_secs(1);
/// How long a session waits to be looked after. The list is held for moments; but a forked child may
/// have copied it while it was held, and then nobody ever lets go.
const PATIENCE: Duration = Duration::from_millis(20);

/// What has arenas.
trait Tended: Send + Sync {
    /// Gives back what lies idle; false if there is nothing left to look after.
    fn tend(&self) -> bool;
}

#[derive(Default)]
struct List {
    generation: u32,
    has_thread: bool,
    tended: Vec<Weak<dyn Tended>>,
}

static LIST: Timed<List> =
    Timed::new(List { generation: 0, has_thread: false, tended: Vec::new() });

/// Looks after `one` from now on. Where no thread can be made it keeps its memory.
fn look_after(one: Weak<dyn Tended>) {
    let Ok(mut list) = LIST.lock(Some(PATIENCE)) else { return };
    if list.generation != fork::generation() {
        // A forked child: the thread and the sessions are the parent's.
        *list = List { generation: fork::generation(), ..List::default() };
    }
    list.tended.push(one);
    if !list.has_thread {
        list.has_thread = spawn_quiet("alongside-idle", run);
    }
}

fn run() {
    loop {
        std::thread::sleep(EVERY);
        let all = std::mem::take(&mut LIST.lock_for_sure().tended);
        let still = |one: &Weak<dyn Tended>| one.upgrade().is_some_and(|one| one.tend());
        let mut left: Vec<_> = all.into_iter().filter(still).collect();
        let mut list = LIST.lock_for_sure();
        list.tended.append(&mut left);
        if list.tended.is_empty() {
            list.has_thread = false;
            return;
        }
    }
}

impl<B: Buffer> Session<B> {
    /// Has the arenas of this session looked after; called when there are some.
    #[inline]
    pub(crate) fn have_tended(&self) {
        if !self.is_tended.load(Ordering::Relaxed) && !self.is_tended.swap(true, Ordering::Relaxed)
        {
            look_after(Weak::clone(&self.own) as Weak<dyn Tended>);
        }
    }
}

impl<B: Buffer> Tended for Session<B> {
    fn tend(&self) -> bool {
        if !self.is_ours() || self.is_ended() {
            return false;
        }
        // Both at once: what is found empty stays so until it is said that nobody looks any more.
        let Some(mut tx) = self.tx.try_lock() else { return true };
        let Some(mut rx) = self.rx.try_lock() else { return true };
        let (Some((link, tx)), Some((_, rx))) = (tx.parts(), rx.parts()) else { return false };
        let link = Arc::clone(link);
        give_back_inherited(&link);
        tx.lender.give_up_idle(link.look_for_peer());
        let told = self.tell_retired(tx, &link);
        let taken = rx.take_retired(&link);
        self.settle(rx, &link);
        if let Err(error) = told.and(taken) {
            self.fail(error);
            return false;
        }
        let has_some = tx.lender.has_arenas() || rx.has_arenas();
        self.is_tended.store(has_some, Ordering::Relaxed);
        has_some
    }
}
