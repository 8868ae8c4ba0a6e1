//! A message, and where its bytes live.

use std::mem::MaybeUninit;

use crate::borrowing::Lease;

/// There is no memory for that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Memory of a fixed length that a message is copied into, once, from its first byte to its last.
///
/// Each language brings its own, so that a message lands where that language wants it.
pub trait Buffer: Sized + Send + 'static {
    /// Memory for a message of `bytes` bytes, not yet filled.
    fn with_length(bytes: usize) -> Result<Self, NoMemory>;

    /// All of it.
    fn space(&mut self) -> &mut [MaybeUninit<u8>];

    /// What was filled; called only when all of it was.
    fn bytes(&self) -> &[u8];
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Message<B> {
    /// How its bytes are to be read; means nothing to the core.
    pub codec: u8,
    /// Its bytes.
    pub body: B,
    /// Memory of the other program that it speaks of.
    pub leases: Vec<Lease>,
    /// Whether it is the first data, given to `start`.
    pub(crate) is_hello: bool,
}

impl<B: Buffer> Message<B> {
    /// Bytes of it, those that it borrows included.
    pub(crate) fn bytes(&self) -> u64 {
        let borrowed: u64 = self.leases.iter().map(Lease::bytes).sum();
        self.body.bytes().len() as u64 + borrowed
    }
}
