//! Waiting for several descriptors at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::WaitEnd;
use crate::fork::Fd;
use crate::nap;

/// A duration as the kernel takes it; capped at what it can hold.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// How a descriptor of a set is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Reported as long as it is readable or hung up.
    Level,
    /// Reported once each time something is written to it.
    Edge,
    /// Reported as long as it is hung up; data is of no interest.
    HangUp,
}

/// A set of descriptors: an epoll instance.
#[derive(Debug)]
pub struct PollSet {
    epoll: Fd,
}

/// The tokens of what is ready after a wait.
#[derive(Debug)]
pub struct Ready {
    tokens: [u64; 16],
    count: usize,
}

impl Ready {
    /// Each token that is ready.
    pub fn tokens(&self) -> &[u64] {
        &self.tokens[..self.count]
    }
}

impl PollSet {
    /// An empty set.
    pub fn new() -> Result<PollSet, Errno> {
        Ok(PollSet { epoll: Fd::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)? })
    }

    /// Adds a descriptor under a token.
    pub fn add(&self, fd: impl AsFd, token: u64, watch: Watch) -> Result<(), Errno> {
        let flags = match watch {
            Watch::Level => epoll::EventFlags::IN,
            Watch::Edge => epoll::EventFlags::IN | epoll::EventFlags::ET,
            Watch::HangUp => epoll::EventFlags::RDHUP,
        };
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.epoll.is_ours()
    }

    /// Takes a descriptor out; one that is not in the set is no matter.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something is ready. Edges are reported once and thereby used up.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Result<Ready, WaitEnd>, Errno> {
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        let (timeout, is_nap) = nap::length(timeout);
        let timeout = timeout.map(timespec);
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(0) if is_nap => return Ok(Err(WaitEnd::Interrupted)),
            Ok(0) => return Ok(Err(WaitEnd::TimedOut)),
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(Err(WaitEnd::Interrupted)),
            Err(errno) => return Err(errno),
        };
        nap::woken();
        let mut ready = Ready { tokens: [0; 16], count };
        for (token, event) in ready.tokens.iter_mut().zip(&events[..count]) {
            *token = event.data.u64();
        }
        Ok(Ok(ready))
    }
}

impl AsFd for PollSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// A descriptor that this process makes readable, and not, as it likes.
#[derive(Debug)]
pub struct Beacon {
    event: Fd,
}

impl Beacon {
    /// An unlit beacon.
    pub fn new() -> Result<Beacon, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Beacon { event: Fd::new(rustix::event::eventfd(0, flags)?)? })
    }

    /// Whether it was made in this process, not in the one that forked it.
    pub fn is_ours(&self) -> bool {
        self.event.is_ours()
    }

    /// Makes it readable.
    pub fn light(&self) {
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable.
    pub fn put_out(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }
}

impl AsFd for Beacon {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Waits until one of a few descriptors is readable or hung up; bit `i` stands for the i-th. At most
/// eight are looked at.
pub fn wait_any(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> Result<Result<u8, WaitEnd>, Errno> {
    Ok(wait_any_or_end(fds, timeout)?.map(|(ready, _)| ready))
}

/// As [`wait_any`]; the second number tells which of them are hung up, and so will be ready for ever.
pub fn wait_any_or_end(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> Result<Result<(u8, u8), WaitEnd>, Errno> {
    let Some(first) = fds.first() else { return Ok(Err(WaitEnd::TimedOut)) };
    let mut polled: [PollFd<'_>; 8] = std::array::from_fn(|i| {
        PollFd::from_borrowed_fd(*fds.get(i).unwrap_or(first), PollFlags::IN)
    });
    let polled = &mut polled[..fds.len().min(8)];
    let (timeout, is_nap) = nap::length(timeout);
    match rustix::event::poll(polled, timeout.map(timespec).as_ref()) {
        Ok(0) if is_nap => Ok(Err(WaitEnd::Interrupted)),
        Ok(0) => Ok(Err(WaitEnd::TimedOut)),
        Ok(_) => {
            nap::woken();
            let bits = |wanted: PollFlags| {
                let hits = polled.iter().map(|fd| fd.revents().intersects(wanted));
                hits.enumerate().fold(0, |all, (i, hit)| all | u8::from(hit) << i)
            };
            let over = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            Ok(Ok((bits(PollFlags::all()), bits(over))))
        }
        Err(Errno::INTR) => Ok(Err(WaitEnd::Interrupted)),
        Err(errno) => Err(errno),
    }
}

/// A descriptor that becomes readable when a time is over.
#[derive(Debug)]
pub struct Timer {
    timer: Fd,
}

impl Timer {
    /// One that never does.
    pub fn new() -> Result<Timer, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer { timer: Fd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)? })
    }

    /// Makes it readable so long from now; `None` for never.
    pub fn set(&self, from_now: Option<Duration>) {
        let zero = timespec(Duration::ZERO);
        // Zero would be never.
        let value = from_now.map_or(zero, |time| timespec(time.max(Duration::from_nanos(1))));
        let times = Itimerspec { it_interval: zero, it_value: value };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Whether a descriptor is readable or hung up now.
pub fn is_ready(fd: BorrowedFd<'_>) -> bool {
    matches!(wait_any(&[fd], Some(Duration::ZERO)), Ok(Ok(1)))
}
