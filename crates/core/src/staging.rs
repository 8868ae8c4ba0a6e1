//! Memory through which large messages pass in parts, on both sides of it.
//!
//! A message above the ring's longest payload is copied into *blocks* and out of them, part by part,
//! while both sides work at once: the reader copies part n out while the writer copies part n + 1 in.
//! Blocks come back in the order they went, so a count is all that the reader has to publish, and the
//! block that came back last, still warm in the cache, is used first. When the reader keeps up, 64 MiB
//! pass through two or three blocks that never leave the cache; that is what makes it nearly as fast
//! as one memcpy (two that run beside each other in main memory halve each other's speed: 9.7 instead
//! of 19 GB/s). When the reader does not keep up, more blocks are made, up to the message limit, so
//! that a writer need not wait for a reader who is busy writing himself.
//!
//! Blocks lie in *arenas*: memory files that only their maker can write, announced on the control
//! socket before a ring record names them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use alongside_sys::memory::{self, Access, Mapping};
use alongside_sys::{Errno, memory::BadFile};

use crate::error::Error;

/// Bytes of one block: large enough that a record is nothing beside it, small enough that a few
/// stay in a second-level cache.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// Blocks under way at once while the reader keeps up.
const WINDOW_BLOCKS: usize = 4;
const FIRST_ARENA_BLOCKS: usize = 8;
const LARGEST_ARENA_BLOCKS: usize = 128;
/// What a hostile sender may make us map, in files.
const MOST_ARENAS: usize = 1024;

/// A block: the number of its arena and its own number therein.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) arena: u32,
    pub(crate) block: u32,
}

/// The writer's blocks.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    arenas: Vec<Mapping>,
    free: Vec<Block>,
    out: VecDeque<Block>,
    returned: u64,
    blocks: usize,
}

/// An arena that the other side has yet to be told of.
pub(crate) struct NewArena {
    pub(crate) number: u32,
    pub(crate) blocks: u32,
    pub(crate) file: OwnedFd,
}

impl Stage {
    /// Takes note of the blocks that came back, `returned` in all. True if there were any.
    pub(crate) fn reclaim(&mut self, returned: u64) -> Result<bool, Error> {
        let came = returned.wrapping_sub(self.returned);
        if came > self.out.len() as u64 {
            return Err(Error::Corrupt(format!(
                "the other program returned {returned} staging blocks of {} it was given",
                self.returned + self.out.len() as u64
            )));
        }
        self.free.extend(self.out.drain(..came as usize));
        self.returned = returned;
        Ok(came > 0)
    }

    /// Whether as many blocks are under way as a reader who keeps up shall have before it.
    pub(crate) fn is_ahead(&self) -> bool {
        self.out.len() >= WINDOW_BLOCKS
    }

    /// The block to fill next.
    pub(crate) fn take(&mut self) -> Option<Block> {
        let block = self.free.pop()?;
        self.out.push_back(block);
        Some(block)
    }

    /// Whether `bytes` more could be staged now, in free blocks or new ones, without exceeding `limit`.
    pub(crate) fn can_hold(&self, bytes: u64, limit: u64) -> bool {
        let missing = bytes.div_ceil(BLOCK_BYTES as u64).saturating_sub(self.free.len() as u64);
        missing == 0 || (self.blocks as u64 + missing) * BLOCK_BYTES as u64 <= room(limit)
    }

    /// Makes another arena, larger than the one before; `None` if `limit` bytes are reached.
    pub(crate) fn grow(&mut self, limit: u64) -> Result<Option<NewArena>, Errno> {
        let left = (room(limit) / BLOCK_BYTES as u64).saturating_sub(self.blocks as u64) as usize;
        let blocks = self.blocks.clamp(FIRST_ARENA_BLOCKS, LARGEST_ARENA_BLOCKS).min(left);
        if blocks == 0 || self.arenas.len() >= MOST_ARENAS {
            return Ok(None);
        }
        let (mapping, file) =
            memory::create("alongside-stage", blocks * BLOCK_BYTES, Access::ReadOnly)?;
        let number = self.arenas.len() as u32;
        self.arenas.push(mapping);
        self.blocks += blocks;
        // The lowest block is taken first.
        self.free.extend((0..blocks as u32).rev().map(|block| Block { arena: number, block }));
        Ok(Some(NewArena { number, blocks: blocks as u32, file }))
    }

    /// Takes the newest arena back: the other side could not be told of it.
    pub(crate) fn shrink(&mut self) {
        let number = self.arenas.len().saturating_sub(1) as u32;
        self.free.retain(|block| block.arena != number);
        if let Some(arena) = self.arenas.pop() {
            self.blocks -= arena.len() / BLOCK_BYTES;
        }
    }

    /// Copies a part into its block.
    pub(crate) fn fill(&self, block: Block, part: &[u8]) {
        let at = block.block as usize * BLOCK_BYTES;
        self.arenas[block.arena as usize].region().write(at, part);
    }
}

/// At least one whole message of the greatest length, whatever the length.
fn room(limit: u64) -> u64 {
    limit.next_multiple_of(BLOCK_BYTES as u64).max((FIRST_ARENA_BLOCKS * BLOCK_BYTES) as u64)
}

/// The reader's view of the other side's arenas.
#[derive(Debug, Default)]
pub(crate) struct Gallery {
    arenas: Vec<Mapping>,
    bytes: u64,
}

impl Gallery {
    /// Maps an arena that was announced: the next one in number, and not beyond what `limit` bytes
    /// of messages can need.
    pub(crate) fn add(
        &mut self,
        number: u32,
        blocks: u32,
        block_bytes: u64,
        file: &OwnedFd,
        limit: u64,
    ) -> Result<(), Error> {
        let bound = |what, found: u64, expected: u64| {
            Err(Error::Corrupt(format!(
                "the other program announced a staging arena with {what} {found}, the bound is \
                 {expected}"
            )))
        };
        if number as usize != self.arenas.len() || self.arenas.len() >= MOST_ARENAS {
            return bound("number", number.into(), self.arenas.len() as u64);
        }
        if block_bytes != BLOCK_BYTES as u64 {
            return bound("blocks of bytes", block_bytes, BLOCK_BYTES as u64);
        }
        let bytes = u64::from(blocks) * BLOCK_BYTES as u64;
        if blocks == 0 || self.bytes + bytes > room(limit) {
            return bound("bytes", self.bytes + bytes, room(limit));
        }
        let mapping = memory::adopt(file, Access::ReadOnly, bytes as usize)?;
        if mapping.len() as u64 != bytes {
            return Err(BadFile::Property("size", mapping.len() as u64, bytes).into());
        }
        self.bytes += bytes;
        self.arenas.push(mapping);
        Ok(())
    }

    pub(crate) fn knows(&self, arena: u32) -> bool {
        (arena as usize) < self.arenas.len()
    }

    /// Copies a part out of its block.
    pub(crate) fn copy_out(
        &self,
        block: Block,
        into: &mut [std::mem::MaybeUninit<u8>],
    ) -> Result<(), Error> {
        let arena = self.arenas.get(block.arena as usize);
        let region = arena.and_then(|arena| {
            let at = (block.block as usize).checked_mul(BLOCK_BYTES)?;
            arena.region().part(at, into.len())
        });
        let Some(region) = region else {
            return Err(Error::Corrupt(format!(
                "the other program named staging block {} of arena {}, which has {}",
                block.block,
                block.arena,
                arena.map_or(0, |arena| arena.len() / BLOCK_BYTES),
            )));
        };
        region.read(0, into);
        Ok(())
    }
}
