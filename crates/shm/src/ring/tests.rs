#![allow(clippy::expect_used, reason = "a test's helper")]
//! Promises of the ring, against a plain queue as the model, and against a peer that scribbles.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::record::Kind;

/// Words that both sides may touch.
struct Words(Vec<AtomicU64>);

impl Words {
    fn new(bytes: usize) -> Words {
        Words((0..bytes / 8).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Storage for &Words {
    fn capacity(&self) -> u64 {
        self.0.len() as u64 * 8
    }

    fn write(&self, offset: usize, from: &[u8]) {
        for (i, byte) in from.iter().enumerate() {
            let shift = (offset + i) % 8 * 8;
            let word = &self.0[(offset + i) / 8];
            let kept = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(kept | u64::from(*byte) << shift, Ordering::Relaxed);
        }
    }

    fn read(&self, offset: usize, into: &mut [MaybeUninit<u8>]) {
        for (i, byte) in into.iter_mut().enumerate() {
            let word = self.0[(offset + i) / 8].load(Ordering::Relaxed);
            byte.write((word >> ((offset + i) % 8 * 8)) as u8);
        }
    }

    fn write_words(&self, offset: usize, words: [u64; 2]) {
        self.0[offset / 8].store(words[0], Ordering::Relaxed);
        self.0[offset / 8 + 1].store(words[1], Ordering::Relaxed);
    }

    fn read_words(&self, offset: usize) -> [u64; 2] {
        [0, 1].map(|i| self.0[offset / 8 + i].load(Ordering::Relaxed))
    }
}

fn message(payload: &[u8]) -> Record {
    Record { kind: Kind::Message, codec: 0, length: payload.len() as u32, id: 0 }
}

#[allow(unsafe_code)]
fn take_one(consumer: &mut Consumer, ring: &Ring<'_, &Words>) -> Option<Vec<u8>> {
    let peeked = consumer.peek(ring);
    let record = peeked.expect("an honest ring")?;
    let mut payload = Vec::with_capacity(record.length as usize);
    consumer.read(ring, &record, &mut payload.spare_capacity_mut()[..record.length as usize]);
    // SAFETY: `read` filled all of them.
    unsafe { payload.set_len(record.length as usize) };
    let _ = consumer.release(ring, &record);
    Some(payload)
}

proptest! {
    /// Records of every size, over a ring so small that most of them cross its end.
    #[test]
    fn records_come_out_as_they_went_in(
        capacity in prop::sample::select(vec![64usize, 128, 256]),
        steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..64)), 1..200),
    ) {
        let (lane, words) = (Lane::default(), Words::new(capacity));
        let ring = Ring::new(&lane, &words);
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        let mut model = VecDeque::new();
        for (push, mut payload) in steps {
            payload.truncate(capacity / 4);
            let record = message(&payload);
            if push && producer.has_space(&ring, record.footprint()).unwrap() {
                producer.write(&ring, &record, &payload);
                prop_assert!(!producer.publish(&ring));
                model.push_back(payload);
            } else {
                prop_assert_eq!(take_one(&mut consumer, &ring), model.pop_front());
            }
        }
        while let Some(expected) = model.pop_front() {
            prop_assert_eq!(take_one(&mut consumer, &ring), Some(expected));
        }
        prop_assert_eq!(take_one(&mut consumer, &ring), None);
        prop_assert!(producer.has_space(&ring, ring.data.capacity()).unwrap());
    }

    /// Whatever stands in the shared fields, both sides answer with a value or with `Corrupt`, and
    /// never look outside the ring (the test storage would panic).
    #[test]
    fn any_scribbling_is_caught_or_harmless(
        head: u64, tail: u64, delivered: u64, words in prop::collection::vec(any::<u64>(), 32),
    ) {
        let (lane, bytes) = (Lane::default(), Words::new(256));
        let ring = Ring::new(&lane, &bytes);
        for (word, value) in bytes.0.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        lane.producer.head.store(head, Ordering::Relaxed);
        lane.consumer.tail.store(tail, Ordering::Relaxed);
        lane.consumer.delivered.store(delivered, Ordering::Relaxed);
        let mut consumer = Consumer::default();
        for _ in 0..20 {
            match consumer.peek(&ring) {
                Ok(Some(record)) => {
                    let mut into = vec![MaybeUninit::uninit(); record.length as usize];
                    consumer.read(&ring, &record, &mut into);
                    let _ = consumer.release(&ring, &record);
                }
                Ok(None) | Err(_) => break,
            }
        }
        let mut producer = Producer::default();
        prop_assert!(producer.has_space(&ring, 256).is_ok());
        lane.consumer.tail.store(tail, Ordering::Relaxed);
        prop_assert_eq!(producer.observe_tail(&ring).is_err(), tail != 0);
        prop_assert_eq!(producer.delivered(&ring).is_err(), delivered > 0);
    }
}

#[test]
fn a_position_that_runs_backwards_is_corrupt() {
    let (lane, words) = (Lane::default(), Words::new(256));
    let ring = Ring::new(&lane, &words);
    let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
    for _ in 0..3 {
        producer.write(&ring, &message(b"x"), b"x");
    }
    let _ = producer.publish(&ring);
    assert!(take_one(&mut consumer, &ring).is_some());
    assert!(take_one(&mut consumer, &ring).is_some());
    assert!(take_one(&mut consumer, &ring).is_some());
    lane.producer.head.store(32, Ordering::Relaxed);
    assert_eq!(
        consumer.peek(&ring),
        Err(Corrupt { what: "write position", found: 32, expected: 96 })
    );
    assert!(producer.observe_tail(&ring).is_ok());
    lane.consumer.tail.store(64, Ordering::Relaxed);
    assert!(producer.observe_tail(&ring).is_err());
}

#[test]
fn only_an_armed_sleeper_is_rung_and_only_once() {
    let (lane, words) = (Lane::default(), Words::new(256));
    let ring = Ring::new(&lane, &words);
    let (mut producer, consumer) = (Producer::default(), Consumer::default());
    assert!(!producer.publish(&ring));
    consumer.arm(&ring);
    assert!(producer.publish(&ring));
    assert!(!producer.publish(&ring));
    assert!(!producer.finish(&ring));
    assert!(consumer.is_finished(&ring));
}
