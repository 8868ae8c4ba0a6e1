#![allow(unsafe_code)]
//! A borrowed stretch of mapped memory that another process may be writing at this moment.
//!
//! No reference to its bytes is ever formed: bytes are copied in and out through raw pointers, and
//! what was copied out is the only thing anybody looks at. Two promises carry every block below:
//!
//! * **R1** `start..start + bytes` stays mapped, readable (and writable, where `write` is used) for
//!   `'m`. Whoever calls [`Region::new`] gives it.
//! * **R2** offsets are checked against `bytes` here, at each call, before a pointer is formed.
//!
//! A racing write by the other process can tear what is copied, never what is addressed. Plain
//! copies are used rather than atomic words because a ring's positions already order honest
//! processes, and a dishonest one can only spoil its own payload.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::ring::Storage;

/// A stretch of shared memory, borrowed for `'m`.
#[derive(Clone, Copy, Debug)]
pub struct Region<'m> {
    start: NonNull<u8>,
    bytes: usize,
    mapped: PhantomData<&'m ()>,
}

impl<'m> Region<'m> {
    /// Borrows `bytes` bytes from `start` on.
    ///
    /// # Safety
    /// The memory stays mapped for `'m` (R1), and `start` is a multiple of eight.
    pub const unsafe fn new(start: NonNull<u8>, bytes: usize) -> Region<'m> {
        Region { start, bytes, mapped: PhantomData }
    }

    /// The part from `offset` on, `bytes` long; `None` if it does not lie within.
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Region<'m>> {
        if offset.checked_add(bytes)? > self.bytes || offset % 8 != 0 {
            return None;
        }
        // SAFETY: R2, offset is at most `bytes`.
        let start = unsafe { self.start.add(offset) };
        Some(Region { start, bytes, mapped: PhantomData })
    }

    /// Its first bytes as a `T` made of nothing but atomics; `None` if it is too short for one or
    /// not aligned.
    ///
    /// # Safety
    /// `T` is made of atomic integers only, so that any bytes are a valid one and a racing write
    /// by the other process is an atomic access like ours.
    pub(crate) unsafe fn of_atomics<T>(&self) -> Option<&'m T> {
        if size_of::<T>() > self.bytes || self.start.addr().get() % align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: R1, the size and alignment were checked above, and the caller says that any
        // bytes are a valid `T` that may be shared.
        Some(unsafe { self.start.cast::<T>().as_ref() })
    }

    /// Where it begins. For those who hand the memory on, and see to it that it stays mapped.
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes at all.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "outside the region");
        // SAFETY: R2, just checked.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Copies `from` in, to `offset`.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: R1 and R2; `from` is this process's own memory, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Copies out, from `offset`, as many bytes as `into` has; all of `into` is written.
    pub fn read(&self, offset: usize, into: &mut [MaybeUninit<u8>]) {
        let from = self.at(offset, into.len());
        // SAFETY: R1 and R2; `into` is this process's own memory, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr().cast(), into.len()) }
    }
}

impl Storage for Region<'_> {
    fn capacity(&self) -> u64 {
        self.bytes as u64
    }

    #[inline]
    fn write(&self, offset: usize, from: &[u8]) {
        Region::write(self, offset, from);
    }

    #[inline]
    fn read(&self, offset: usize, into: &mut [MaybeUninit<u8>]) {
        Region::read(self, offset, into);
    }

    #[inline]
    fn write_words(&self, offset: usize, words: [u64; 2]) {
        let to = self.at(offset, 16).cast::<[u64; 2]>();
        // SAFETY: R1, R2; written unaligned, so no alignment is needed.
        unsafe { to.write_unaligned(words) }
    }

    #[inline]
    fn read_words(&self, offset: usize) -> [u64; 2] {
        let from = self.at(offset, 16).cast::<[u64; 2]>();
        // SAFETY: R1, R2; volatile, so that the two words are fetched once and the checked copy is
        // the used copy. `offset` is a multiple of 16 in a region that begins at one of eight.
        unsafe { from.read_volatile() }
    }
}
