#![allow(unsafe_code)]
//! Memory that two processes map: files without a name, sealed so that neither can pull the ground
//! away from under the other.
//!
//! A memory file is reserved when it is made (`fallocate`), so that running out of memory is an error
//! here and never a SIGBUS later, and sealed against shrinking and growing. A process that is handed
//! one believes nothing: [`check`] asks the kernel for the file system, the seals, the size and the
//! blocks before anything is mapped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use alongside_shm::Region;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::fork::generation;

/// `TMPFS_MAGIC` of linux/magic.h: memory files without huge pages live there.
const TMPFS: u64 = 0x0102_1994;

/// What the receiver of a memory file may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Both sides write.
    ReadWrite,
    /// Only its maker writes, through the mapping it already has.
    ReadOnly,
    /// The same, and a forked child keeps its mapping: what lies there looks like memory of its own to
    /// the program.
    Lease,
}

/// Why a descriptor is not a memory file that may be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFile {
    /// The kernel refused a question.
    Kernel(Errno),
    /// A property: what, found, expected.
    Property(&'static str, u64, u64),
}

impl From<Errno> for BadFile {
    fn from(errno: Errno) -> BadFile {
        BadFile::Kernel(errno)
    }
}

/// Makes, reserves and maps a memory file, then seals it; the descriptor is for the other side.
pub fn create(name: &str, bytes: usize, access: Access) -> Result<(Mapping, OwnedFd), Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&file, bytes as u64)?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    let mapping = Mapping::new(file.as_fd(), bytes, ProtFlags::READ | ProtFlags::WRITE, access)?;
    let mut seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    if access != Access::ReadWrite {
        seals |= SealFlags::FUTURE_WRITE;
    }
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok((mapping, file))
}

/// Memory up to this length is mapped page by page, when it is used.
const SHORT_LAP: usize = 192 << 10;

/// Checks and maps a memory file that another process made; `most` bounds its size in bytes.
pub fn adopt(file: &OwnedFd, access: Access, most: usize) -> Result<Mapping, BadFile> {
    let bytes = check(file.as_fd(), access, most)?;
    let protection = match access {
        Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        Access::ReadOnly | Access::Lease => ProtFlags::READ,
    };
    Ok(Mapping::new(file.as_fd(), bytes, protection, access)?)
}

fn check(file: BorrowedFd<'_>, access: Access, most: usize) -> Result<usize, BadFile> {
    let system = rustix::fs::fstatfs(file)?.f_type as u64;
    if system != TMPFS {
        return Err(BadFile::Property("file system", system, TMPFS));
    }
    let mut wanted = SealFlags::SHRINK | SealFlags::GROW;
    if access != Access::ReadWrite {
        wanted |= SealFlags::FUTURE_WRITE;
    }
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if !seals.contains(wanted) {
        return Err(BadFile::Property("seals", seals.bits().into(), wanted.bits().into()));
    }
    let stat = rustix::fs::fstat(file)?;
    let bytes = stat.st_size as u64;
    if bytes == 0 || bytes > most as u64 {
        return Err(BadFile::Property("file size", bytes, most as u64));
    }
    // A sealed file with holes would still grow, in memory, by being read.
    let present = stat.st_blocks as u64 * 512;
    if present < bytes {
        return Err(BadFile::Property("bytes present", present, bytes));
    }
    Ok(bytes as usize)
}

/// Mapped memory of a memory file. A forked child does not get it, unless it is leased.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    generation: u32,
    is_inherited: bool,
}

// SAFETY: it is only an address range; who reads and writes it is settled by the ring protocol, and
// the other process would not ask this one's threads anyway.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(
        file: BorrowedFd<'_>,
        bytes: usize,
        protection: ProtFlags,
        access: Access,
    ) -> Result<Mapping, Errno> {
        // Populated ahead of first use: a ring that faults its pages in one by one is 15 times
        // slower on its first lap. Where that lap is short, as in the many sessions of one owner, of
        // which most say a word or two, it costs more than all they say.
        let ahead = if bytes > SHORT_LAP { MapFlags::POPULATE } else { MapFlags::empty() };
        let flags = MapFlags::SHARED | ahead;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let is_inherited = access == Access::Lease;
        let mapping = Mapping { start, bytes, generation: generation(), is_inherited };
        if !is_inherited {
            // SAFETY: exactly the range just mapped.
            unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, Advice::LinuxDontFork) }?;
        }
        Ok(mapping)
    }

    /// The memory, borrowed.
    ///
    /// # Panics
    /// In a forked child, where it is not mapped.
    #[inline]
    pub fn region(&self) -> Region<'_> {
        debug_assert!(self.is_inherited || self.is_ours(), "memory of the parent");
        // SAFETY: R1, mapped until `self` is dropped, in the generation that mapped it; page aligned.
        unsafe { Region::new(self.start, self.bytes) }
    }

    /// Whether it was mapped in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.generation == generation()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: a memory file has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a forked child the range was never mapped, and may by now be somebody else's.
        if self.is_inherited || self.is_ours() {
            // SAFETY: mapped by us, and every Region borrowed from it is gone.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// Asks for huge pages below a large private buffer that is about to be filled for the first time:
/// 64 MiB then take 18 ms instead of 44, most of which is page faults. A wish, never an error.
pub fn wish_huge_pages(buffer: &mut [std::mem::MaybeUninit<u8>]) {
    const HUGE: usize = 2 << 20;
    let start = buffer.as_mut_ptr().addr().next_multiple_of(HUGE);
    let end = (buffer.as_mut_ptr().addr() + buffer.len()) & !(HUGE - 1);
    if end <= start {
        return;
    }
    let offset = start - buffer.as_mut_ptr().addr();
    // SAFETY: a range inside `buffer`; the advice changes no contents.
    let _ = unsafe {
        rustix::mm::madvise(
            buffer.as_mut_ptr().wrapping_add(offset).cast(),
            end - start,
            Advice::LinuxHugepage,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_can_be_adopted_and_shows_the_same_bytes() {
        let (mine, file) = create("test", 8192, Access::ReadWrite).unwrap();
        let theirs = adopt(&file, Access::ReadWrite, 1 << 20).unwrap();
        mine.region().write(100, b"shared");
        let mut seen = [std::mem::MaybeUninit::uninit(); 6];
        theirs.region().read(100, &mut seen);
        // SAFETY: `read` filled it.
        assert_eq!(seen.map(|byte| unsafe { byte.assume_init() }), *b"shared");
    }

    #[test]
    fn a_read_only_file_cannot_be_mapped_for_writing() {
        let (_mine, file) = create("test", 4096, Access::ReadOnly).unwrap();
        assert!(adopt(&file, Access::ReadOnly, 4096).is_ok());
        assert!(matches!(adopt(&file, Access::ReadWrite, 4096), Err(BadFile::Kernel(_))));
    }

    #[test]
    fn a_file_that_could_be_pulled_away_is_refused() {
        let unsealed = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&unsealed, 4096).unwrap();
        let refused = adopt(&unsealed, Access::ReadWrite, 4096).unwrap_err();
        assert!(matches!(refused, BadFile::Property("seals", 0, _)), "{refused:?}");

        let sparse = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&sparse, 1 << 20).unwrap();
        rustix::fs::fcntl_add_seals(&sparse, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let refused = adopt(&sparse, Access::ReadWrite, 1 << 20).unwrap_err();
        assert_eq!(refused, BadFile::Property("bytes present", 0, 1 << 20));

        let ordinary = std::fs::File::open("/proc/self/maps").unwrap().into();
        let refused = adopt(&ordinary, Access::ReadWrite, 4096).unwrap_err();
        assert!(matches!(refused, BadFile::Property("file system", ..)), "{refused:?}");
    }
}
