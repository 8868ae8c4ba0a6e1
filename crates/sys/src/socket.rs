#![allow(unsafe_code)]
//! Unix sockets that keep message borders and carry descriptors, and whom they lead to.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::file::Directory;

/// Descriptors that one message may carry; we send fewer.
const MOST_DESCRIPTORS: usize = 8;
/// `SO_PEERPIDFD` of asm-generic/socket.h, Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// `SO_PEERGROUPS` of asm-generic/socket.h, Linux 4.13.
const SO_PEERGROUPS: libc::c_int = 59;

/// A connected pair, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// How many connections wait at most until they are looked at.
const BACKLOG: i32 = 1024;

fn address(directory: &Directory, name: &str) -> Result<SocketAddrUnix, Errno> {
    // By the open directory: its path may be longer than an address, or another's by now.
    let place = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    SocketAddrUnix::new(place)
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// A socket with a name in a directory, to which this user's programs connect, or all that can reach it.
pub fn listen(directory: &Directory, name: &str, for_all: bool) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    rustix::net::bind(&socket, &address(directory, name)?)?;
    // Whatever the process's mask; nobody can connect before it listens.
    let mode = Mode::from_raw_mode(if for_all { 0o666 } else { 0o600 });
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Takes the next connection; [`Errno::AGAIN`] if there is none.
pub fn accept(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Connects to a socket; [`Errno::AGAIN`] if as many wait there as may.
pub fn connect(directory: &Directory, name: &str) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    rustix::net::connect(&socket, &address(directory, name)?)?;
    Ok(socket)
}

/// Sends one message with descriptors; never waits, raises no signal.
pub fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "more descriptors than a message carries");
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, flags).map(drop)
}

/// What arrived.
#[derive(Debug)]
pub struct Received {
    /// Length of the message in bytes; 0 at the end.
    pub bytes: usize,
    /// Its descriptors, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// The message or its descriptors did not fit, and the rest is lost.
    pub truncated: bool,
}

/// Receives one message; never waits ([`Errno::AGAIN`]).
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags)?;
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let lost = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok(Received { bytes: message.bytes, descriptors, truncated: message.flags.intersects(lost) })
}

/// Ends a connection for both sides, whoever else may hold copies of it.
pub fn shut_down(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Who made the other end, as the kernel recorded it: process, user. The process is 0 if it lies in a
/// process namespace that is not ours to see (for which rustix's type has no value).
pub fn peer(socket: impl AsFd) -> Result<(u32, u32), Errno> {
    let found = credentials(socket)?;
    Ok((found.pid as u32, found.uid))
}

fn credentials(socket: impl AsFd) -> Result<libc::ucred, Errno> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to locals, and `size` is the size of `found`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &mut size,
        )
    };
    if failed != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(found)
}

/// The groups of whoever made the other end, as the kernel recorded them: the first one, and all others.
pub fn peer_groups(socket: impl AsFd) -> Result<Vec<u32>, Errno> {
    let own = credentials(&socket)?.gid;
    let mut found: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = size_of_val(&found[..]) as libc::socklen_t;
        // SAFETY: the option writes at most `size` bytes to `found`, which is as long.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                found.as_mut_ptr().cast(),
                &mut size,
            )
        };
        let count = size as usize / size_of::<libc::gid_t>();
        if failed == 0 {
            found.truncate(count);
            found.push(own);
            return Ok(found);
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL) {
            Errno::RANGE if count > found.len() => found.resize(count, 0),
            errno => return Err(errno),
        }
    }
}

/// A handle on the process that made the other end. Before Linux 6.5 it is looked up by number,
/// which a reused number could mislead; the caller checks that the connection still stands.
pub fn peer_process(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    let mut found: RawFd = -1;
    let mut size = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: both pointers are to locals, and `size` is the size of `found`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut found).cast(),
            &mut size,
        )
    };
    if failed == 0 {
        // SAFETY: the kernel just made it for us, close-on-exec.
        return Ok(unsafe { OwnedFd::from_raw_fd(found) });
    }
    let (pid, _) = peer(&socket)?;
    let pid = crate::process::number(pid)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
}

/// Whether `raw` is open here and is the socket with this inode number; then takes charge of it.
/// `Err` holds the inode that was found instead, if any.
pub fn claim(raw: RawFd, inode: u64) -> Result<OwnedFd, Option<u64>> {
    if raw < 0 {
        return Err(None);
    }
    // SAFETY: only asked about; a closed number makes the question fail.
    let asked = unsafe { BorrowedFd::borrow_raw(raw) };
    let stat = rustix::fs::fstat(asked).map_err(|_| None)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if stat.st_ino != inode || kind != rustix::fs::FileType::Socket {
        return Err(Some(stat.st_ino));
    }
    let _ = rustix::io::fcntl_setfd(asked, rustix::io::FdFlags::CLOEXEC);
    // SAFETY: the starter left this socket open for us alone; its inode proves that it is the one.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The number by which the kernel tells this socket from all others that are open.
pub fn inode(socket: impl AsFd) -> Result<u64, Errno> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptor() {
        let (mine, theirs) = pair().unwrap();
        let (read, _write) = rustix::pipe::pipe().unwrap();
        send(&mine, b"hello", &[read.as_fd()]).unwrap();
        let mut into = [0; 16];
        let got = receive(&theirs, &mut into).unwrap();
        assert_eq!((got.bytes, got.descriptors.len(), got.truncated), (5, 1, false));
        assert_eq!(receive(&theirs, &mut into).err(), Some(Errno::AGAIN));
        drop(mine);
        assert_eq!(receive(&theirs, &mut into).unwrap().bytes, 0);
    }

    #[test]
    fn the_kernel_says_who_made_the_other_end() {
        let (mine, _theirs) = pair().unwrap();
        assert_eq!(peer(&mine).unwrap(), (crate::own_pid(), crate::own_uid()));
        peer_process(&mine).unwrap();
    }
}
