//! Every interleaving of a producer and a consumer, under loom, with the ring's own code.
//!
//! Each promise has a twin that breaks one line of the protocol; loom must catch the twin, which
//! shows that the model can fail.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Notify};
use loom::thread;

use super::*;
use crate::record::Kind;

/// Memory whose unordered accesses loom reports.
struct Cells(Vec<UnsafeCell<[u64; 2]>>);

#[allow(unsafe_code)]
// SAFETY: that every access is ordered by the ring's positions is what the models check.
unsafe impl Sync for Cells {}

struct Shared {
    lane: Lane,
    cells: Cells,
    data_bell: Notify,
    space_bell: Notify,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared {
            lane: Lane::default(),
            cells: Cells((0..4).map(|_| UnsafeCell::new([0, 0])).collect()),
            data_bell: Notify::new(),
            space_bell: Notify::new(),
        })
    }

    fn ring(&self) -> Ring<'_, &Cells> {
        Ring::new(&self.lane, &self.cells)
    }
}

#[allow(unsafe_code)]
impl Storage for &Cells {
    fn capacity(&self) -> u64 {
        64
    }

    fn write(&self, offset: usize, from: &[u8]) {
        assert!(
            from.is_empty(),
            "the models carry their value in the record's id, not at {offset}"
        );
    }

    fn read(&self, _offset: usize, _into: &mut [MaybeUninit<u8>]) {}

    fn write_words(&self, offset: usize, words: [u64; 2]) {
        // SAFETY: loom checks that nobody else is inside.
        self.0[offset / 16].with_mut(|cell| unsafe { *cell = words });
    }

    fn read_words(&self, offset: usize) -> [u64; 2] {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0[offset / 16].with(|cell| unsafe { *cell })
    }
}

fn record(id: u64) -> Record {
    Record { kind: Kind::Message, codec: 0, length: 0, id }
}

/// Sends `count` records, sleeping on the space bell when the ring is full.
fn produce(shared: &Shared, count: u64, publish: fn(&mut Producer, &Ring<'_, &Cells>) -> bool) {
    let (ring, mut producer) = (shared.ring(), Producer::default());
    for id in 0..count {
        while !producer.has_space(&ring, RECORD_BYTES).unwrap() {
            producer.arm(&ring);
            if !producer.has_space(&ring, RECORD_BYTES).unwrap() {
                shared.space_bell.wait();
            }
            producer.disarm(&ring);
        }
        producer.write(&ring, &record(id), &[]);
        if publish(&mut producer, &ring) {
            shared.data_bell.notify();
        }
    }
}

/// Takes `count` records in order, sleeping on the data bell when there is none.
fn consume(shared: &Shared, count: u64) {
    let (ring, mut consumer) = (shared.ring(), Consumer::default());
    let mut expected = 0;
    while expected < count {
        let Some(found) = consumer.peek(&ring).unwrap() else {
            consumer.arm(&ring);
            if consumer.peek(&ring).unwrap().is_none() {
                shared.data_bell.wait();
            }
            continue;
        };
        assert_eq!(found.id, expected);
        if consumer.release(&ring, &found) {
            shared.space_bell.notify();
        }
        expected += 1;
    }
}

fn honest(producer: &mut Producer, ring: &Ring<'_, &Cells>) -> bool {
    producer.publish(ring)
}

#[test]
fn nobody_sleeps_through_a_record() {
    loom::model(|| {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let producer = thread::spawn(move || produce(&theirs, 2, honest));
        consume(&shared, 2);
        producer.join().unwrap();
    });
}

/// The bell's flag is looked at without the fence between: a consumer sleeps for ever.
#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_record_is_slept_through() {
    fn unfenced(producer: &mut Producer, ring: &Ring<'_, &Cells>) -> bool {
        ring.lane.producer.head.store(producer.head, Ordering::Release);
        ring.lane.data_flag.armed.load(Ordering::Relaxed) != 0
            && ring.lane.data_flag.armed.swap(0, Ordering::Relaxed) != 0
    }
    loom::model(|| {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let producer = thread::spawn(move || produce(&theirs, 1, unfenced));
        consume(&shared, 1);
        producer.join().unwrap();
    });
}

/// A change is published and its bell forgotten, as a count behind a large message once was: whoever
/// armed in between sleeps for ever.
#[test]
#[should_panic(expected = "deadlock")]
fn a_publish_that_rings_nobody_is_slept_through() {
    fn silent(producer: &mut Producer, ring: &Ring<'_, &Cells>) -> bool {
        let _ = producer.publish(ring);
        false
    }
    loom::model(|| {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let producer = thread::spawn(move || produce(&theirs, 1, silent));
        consume(&shared, 1);
        producer.join().unwrap();
    });
}

/// Six records through a ring of four: places are reused, both sides wait for each other.
#[test]
fn a_place_is_reused_only_after_it_was_read() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let producer = thread::spawn(move || produce(&theirs, 6, honest));
        consume(&shared, 6);
        producer.join().unwrap();
    });
}

/// The position is stored without Release: the consumer reads a record that is being written.
#[test]
#[should_panic]
fn a_record_published_without_release_is_caught() {
    fn relaxed(producer: &mut Producer, ring: &Ring<'_, &Cells>) -> bool {
        ring.lane.producer.head.store(producer.head, Ordering::Relaxed);
        take(&ring.lane.data_flag.armed)
    }
    loom::model(|| {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let producer = thread::spawn(move || produce(&theirs, 1, relaxed));
        let (ring, mut consumer) = (shared.ring(), Consumer::default());
        while consumer.peek(&ring).unwrap().is_none() {
            thread::yield_now();
        }
        producer.join().unwrap();
    });
}
