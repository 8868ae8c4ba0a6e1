//! Every interleaving of a writer, readers and those who wait, under loom, with the cell's own code.
//!
//! A call to the kernel is no one step: it copies word after word, and others copy meanwhile. But what one
//! call has copied is seen by every call that begins later.
//!
//! Each promise has a twin that breaks one line of the protocol; loom must catch the twin.

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;

const LAYOUT: CellLayout = CellLayout { most: 8, number: 77 };

/// The words between the cell's number and the end of the slots.
struct Words(Vec<AtomicU64>);

impl Words {
    /// A cell whose first value is there.
    fn new() -> Arc<Words> {
        let words = Words((0..(SLOTS.end - SLOTS.start) / 8).map(|_| AtomicU64::new(0)).collect());
        words.0[0].store(LAYOUT.number, Ordering::Relaxed);
        set(&words, 1);
        Arc::new(words)
    }
}

#[derive(Debug, PartialEq)]
struct Never;

impl Pages for Words {
    type Error = Never;

    fn check(&self, _at: u64, _bytes: u64) -> Result<(), Never> {
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Never> {
        fence(Ordering::SeqCst);
        let first = (at as usize - SLOTS.start) / 8;
        for (word, to) in self.0[first..].iter().zip(into.chunks_exact_mut(8)) {
            to.copy_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Never> {
        let first = (at as usize - SLOTS.start) / 8;
        for (word, from) in self.0[first..].iter().zip(bytes.chunks_exact(8)) {
            word.store(word_at(from, 0), Ordering::Release);
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// Each value says its own number.
fn set(words: &Words, number: u64) -> Option<usize> {
    let written = LAYOUT.write(words, 0, &number.to_le_bytes(), None);
    written.ok().and_then(|written| written.word_at)
}

/// What a reader gets must be whole, and no older than what was complete when it began.
fn check(found: Result<Option<Value>, Unread<Never>>, complete: u64) -> u64 {
    match found {
        // Somebody wrote all the time: the reader keeps writers out then.
        Err(Unread::Torn) => complete,
        Ok(Some(value)) => {
            assert_eq!(value.bytes, value.sequence.to_le_bytes(), "a mixture");
            assert!(value.sequence >= complete, "{} after {complete}", value.sequence);
            value.sequence
        }
        other => panic!("{other:?}"),
    }
}

fn model(act: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(act);
}

fn read_beside_writer(
    read: fn(&Words) -> Result<Option<Value>, Unread<Never>>,
    write: fn(&Words, u64) -> Option<usize>,
) {
    model(move || {
        let words = Words::new();
        let complete = Arc::new(AtomicU64::new(1));
        let writer = {
            let (words, complete) = (Arc::clone(&words), Arc::clone(&complete));
            thread::spawn(move || {
                for number in 2..=4 {
                    write(&words, number);
                    complete.store(number, Ordering::SeqCst);
                }
            })
        };
        let before = complete.load(Ordering::SeqCst);
        let first = check(read(&words), before);
        check(read(&words), first);
        writer.join().unwrap();
        check(read(&words), 4);
    });
}

#[test]
fn readers_get_whole_values_and_never_an_older_one() {
    read_beside_writer(|words| LAYOUT.read(words), set);
}

#[test]
#[should_panic]
fn a_writer_that_uses_the_current_slot_is_caught() {
    read_beside_writer(
        |words| LAYOUT.read(words),
        |words, number| {
            let mut snapshot = Snapshot::new();
            let Ok(Current::Is(which, _) | Current::Maybe(which, _)) =
                LAYOUT.current(words, &mut snapshot)
            else {
                return None;
            };
            let bytes = number.to_le_bytes();
            let head = Head { sequence: number, bytes: 8, codec: 0, sum: checksum(&bytes) };
            let whole = [&head.to_bytes()[..], &bytes].concat();
            words.write(word_of(which) as u64, &whole).ok()?;
            None
        },
    );
}

#[test]
#[should_panic]
fn a_reader_that_believes_the_old_slot_at_once_is_caught() {
    read_beside_writer(
        |words| {
            let mut snapshot = Snapshot::new();
            match LAYOUT.current(words, &mut snapshot)? {
                Current::Is(which, head) | Current::Maybe(which, head) => {
                    let bytes = snapshot.inline(which, &head).to_vec();
                    Ok(Some(Value { codec: 0, bytes, sequence: head.sequence }))
                }
                _ => Err(Unread::Torn),
            }
        },
        set,
    );
}

/// The kernel's futex: it compares and falls asleep in one step, as far as those who wake can tell.
struct Futex {
    /// How often those that sleep were woken, and whether nobody will do so any more.
    wakes: Mutex<(u64, bool)>,
}

impl Futex {
    fn wait(&self, words: &Words, next: Next) {
        let asleep = {
            let wakes = self.wakes.lock().unwrap();
            let word = &words.0[(next.word_at - SLOTS.start) / 8];
            if word.load(Ordering::SeqCst) as u32 != next.seen {
                return;
            }
            wakes.0
        };
        loop {
            let (wakes, is_over) = *self.wakes.lock().unwrap();
            if wakes != asleep {
                return;
            }
            assert!(!is_over, "it sleeps for ever");
            thread::yield_now();
        }
    }

    fn wake(&self) {
        self.wakes.lock().unwrap().0 += 1;
    }
}

fn wait_for_a_writer(look: fn(&Words) -> (u64, Next), wakes: bool) {
    model(move || {
        let words = Words::new();
        let futex = Arc::new(Futex { wakes: Mutex::new((0, false)) });
        let writer = {
            let (words, futex) = (Arc::clone(&words), Arc::clone(&futex));
            thread::spawn(move || {
                set(&words, 2);
                if wakes {
                    futex.wake();
                }
                futex.wakes.lock().unwrap().1 = true;
            })
        };
        loop {
            let (sequence, next) = look(&words);
            if sequence == 2 {
                break;
            }
            if next.is_settled {
                futex.wait(&words, next);
            } else {
                // It sleeps for a millisecond.
                thread::yield_now();
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_change_is_not_missed_by_who_waits_for_it() {
    wait_for_a_writer(|words| LAYOUT.sequence(words).unwrap(), true);
}

#[test]
#[should_panic]
fn a_writer_that_wakes_nobody_is_caught() {
    wait_for_a_writer(|words| LAYOUT.sequence(words).unwrap(), false);
}

#[test]
#[should_panic]
fn a_waiter_that_looks_at_the_word_afterwards_is_caught() {
    wait_for_a_writer(
        |words| {
            let (sequence, next) = LAYOUT.sequence(words).unwrap();
            let word = &words.0[(next.word_at - SLOTS.start) / 8];
            let seen = word.load(Ordering::SeqCst) as u32;
            (sequence, Next { seen, is_settled: true, ..next })
        },
        true,
    );
}

#[test]
#[should_panic]
fn a_waiter_that_sleeps_amid_writing_is_caught() {
    wait_for_a_writer(
        |words| {
            let (sequence, next) = LAYOUT.sequence(words).unwrap();
            (sequence, Next { is_settled: true, ..next })
        },
        true,
    );
}
