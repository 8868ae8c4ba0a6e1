#![allow(unsafe_code)]
//! A process, held by a handle that cannot be mistaken: a pid is reused, a pidfd is not.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::fork::{Fd, generation};
use crate::poll::is_ready;

/// `PIDFD_GET_INFO` of linux/pidfd.h with the first, 64-byte form of its answer.
const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
/// `PIDFD_INFO_EXIT`: how it ended, also for processes that others reaped (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// How often, and how long apart, a record that is being made is looked for.
const RECORD_TRIES: u32 = 1000;
const RECORD_PAUSE: Duration = Duration::from_micros(50);
/// `PIDFD_SIGNAL_PROCESS_GROUP` (Linux 6.9).
const SIGNAL_GROUP: libc::c_uint = 1 << 2;

/// `struct pidfd_info` of linux/pidfd.h.
#[derive(Default)]
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// A signal that ends programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSignal {
    /// A request to end: SIGTERM.
    Terminate,
    /// The end: SIGKILL.
    Kill,
}

impl EndSignal {
    fn signal(self) -> Signal {
        match self {
            EndSignal::Terminate => Signal::TERM,
            EndSignal::Kill => Signal::KILL,
        }
    }
}

/// How many descriptors this process may have open.
pub fn most_descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of a process, as the kernel takes it; what can be none is not there.
pub(crate) fn number(pid: u32) -> Result<Pid, Errno> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

/// A handle on one process.
#[derive(Debug)]
pub struct Process {
    handle: Fd,
    pid: u32,
    is_child: bool,
    /// How it ended; a child can be asked only once. The lock lets one thread ask.
    status: Mutex<Option<i32>>,
}

/// What the kernel tells about a process that lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it began, in seconds since the epoch; 0 if the kernel did not say.
    pub start_time_s: f64,
    /// The user it runs as.
    pub uid: u32,
    /// The file it runs; `None` if this user may not know.
    pub executable: Option<PathBuf>,
}

impl Process {
    /// Holds the process that `handle` names.
    pub fn new(handle: OwnedFd, pid: u32) -> Result<Process, Errno> {
        Ok(Process { handle: Fd::new(handle)?, pid, is_child: false, status: Mutex::new(None) })
    }

    /// Holds the process that has this number now. Who needs to know that it is the one that was meant asks
    /// for a sign of that one's life afterwards.
    pub fn open(pid: u32) -> Result<Process, Errno> {
        let flags = rustix::process::PidfdFlags::empty();
        Process::new(rustix::process::pidfd_open(number(pid)?, flags)?, pid)
    }

    /// Holds a child of this process.
    pub fn child(handle: OwnedFd, pid: u32) -> Result<Process, Errno> {
        let mut process = Process::new(handle, pid)?;
        process.is_child = true;
        Ok(process)
    }

    /// Its number. Good for showing to people.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        is_ready(self.handle.as_fd())
    }

    /// Sends a signal to it, or to the group it leads. One that is gone already is no error.
    pub fn signal(&self, signal: EndSignal, whole_group: bool) -> Result<(), Errno> {
        let sent = if whole_group {
            self.signal_group(signal.signal())
        } else {
            rustix::process::pidfd_send_signal(&self.handle, signal.signal())
        };
        if sent == Err(Errno::SRCH) { Ok(()) } else { sent }
    }

    fn signal_group(&self, signal: Signal) -> Result<(), Errno> {
        // SAFETY: a system call on our own descriptor; no memory is passed.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.handle.as_raw_fd(),
                signal.as_raw(),
                std::ptr::null::<libc::siginfo_t>(),
                SIGNAL_GROUP,
            )
        };
        if failed == 0 {
            return Ok(());
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL) {
            // Before Linux 6.9: by number, which stays the group's as long as its leader has not
            // been reaped, and that is ours to do.
            Errno::INVAL if self.exit_status().is_some() => Err(Errno::SRCH),
            Errno::INVAL => rustix::process::kill_process_group(number(self.pid)?, signal),
            errno => Err(errno),
        }
    }

    /// How it ended, as `subprocess` says it: the exit code, or minus the signal. `None` if it
    /// lives, or if it is not our child and the kernel does not tell (before Linux 6.15).
    /// A child that has ended is reaped.
    pub fn exit_status(&self) -> Option<i32> {
        let mut status = self.status.lock().ok()?;
        if status.is_none() && self.is_over() {
            *status = self.ask_for_status();
        }
        *status
    }

    fn ask_for_status(&self) -> Option<i32> {
        let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if !self.is_child {
            // It may be one all the same, started by other means, and is theirs to reap.
            options |= WaitIdOptions::NOWAIT;
        }
        match rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options) {
            Ok(Some(status)) => {
                status.exit_status().or_else(|| status.terminating_signal().map(|signal| -signal))
            }
            // Reaped by somebody else, by the kernel (SIGCHLD ignored), or never our child.
            Ok(None) | Err(_) => self.recorded_exit().or_else(|| self.exit_being_recorded()),
        }
    }

    /// A child that somebody else is reaping at this moment: no longer ours to wait for, and its end
    /// not on record yet.
    fn exit_being_recorded(&self) -> Option<i32> {
        let tries = if self.is_child && keeps_records() { RECORD_TRIES } else { 0 };
        (0..tries).find_map(|_| {
            std::thread::sleep(RECORD_PAUSE);
            self.recorded_exit()
        })
    }

    fn recorded_exit(&self) -> Option<i32> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the request writes at most the 64 bytes of `info` that its number states.
        let failed = unsafe { libc::ioctl(self.handle.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        if failed != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
            return None;
        }
        let (signal, code) = (info.exit_code & 0x7f, info.exit_code >> 8 & 0xff);
        Some(if signal != 0 { -signal } else { code })
    }

    /// The user that it runs as.
    pub fn user(&self) -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        // Real, effective, saved.
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// What the kernel says about it, which runs as `uid`. Meaningful if it lives after the question,
    /// too.
    pub fn identity(&self, uid: u32) -> Identity {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        Identity {
            pid: self.pid,
            start_time_s: start_time_s(&proc).unwrap_or(0.0),
            uid,
            executable: std::fs::read_link(proc.join("exe")).ok(),
        }
    }
}

/// What tells a process from all others that have its number at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The inode of its pidfd, where those have a file system of their own (Linux 6.9): never used again.
    pub inode: Option<u64>,
    /// When it began, in clock ticks since boot.
    pub begun: Option<u64>,
}

impl Process {
    /// What marks this process.
    pub fn mark(&self) -> Mark {
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        Mark { inode: self.inode(), begun: begun_ticks(&proc) }
    }

    /// Whether it lives and is the one that was marked.
    pub fn is_living(&self, mark: Mark) -> bool {
        let is_same = match (self.inode(), mark.inode) {
            (Some(mine), Some(marked)) => mine == marked,
            _ => mark.begun.is_some() && self.mark().begun == mark.begun,
        };
        // Asked last: what was read by its number was then its own.
        is_same && !self.is_over()
    }

    fn inode(&self) -> Option<u64> {
        /// `PID_FS_MAGIC` of linux/magic.h.
        const PID_FS: libc::c_long = 0x5049_4446;
        let is_own = rustix::fs::fstatfs(&self.handle).ok()?.f_type as libc::c_long == PID_FS;
        is_own.then(|| rustix::fs::fstat(&self.handle).ok()).flatten().map(|stat| stat.st_ino)
    }
}

/// What this process says of itself to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// What marks it.
    pub mark: Mark,
    /// The file it runs; empty if that is not known.
    pub executable: String,
    /// When it began, in seconds since the epoch.
    pub started_s: Option<f64>,
}

/// This process.
pub fn of_this() -> Own {
    let proc = PathBuf::from("/proc/self");
    let executable = std::fs::read_link(proc.join("exe")).unwrap_or_default();
    let unknown = Mark { inode: None, begun: None };
    Own {
        mark: Process::open(crate::own_pid()).map_or(unknown, |process| process.mark()),
        executable: executable.to_string_lossy().into_owned(),
        started_s: start_time_s(&proc),
    }
}

/// When this process began, as its mark says; zero if that is not known. Asked of the kernel once.
#[inline]
pub fn own_begun() -> u64 {
    /// In which generation it was asked, and the answer: in clock ticks, of which 44 bits are ages.
    static KNOWN: AtomicU64 = AtomicU64::new(0);
    const BITS: u32 = 44;
    let generation = u64::from(generation()) + 1;
    let known = KNOWN.load(Ordering::Relaxed);
    if known >> BITS == generation {
        return known & ((1 << BITS) - 1);
    }
    let begun = begun_ticks(std::path::Path::new("/proc/self")).unwrap_or(0);
    KNOWN.store(generation << BITS | begun, Ordering::Relaxed);
    begun
}

/// Children that ended, or will end, without anybody who asks how. They are reaped when others are
/// started, so that a program which starts one after the other does not gather dead ones.
static UNASKED: Mutex<Vec<Fd>> = Mutex::new(Vec::new());

/// Reaps a child that has ended; false if it lives.
fn reap(child: BorrowedFd<'_>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    !matches!(rustix::process::waitid(WaitId::PidFd(child), options), Ok(None))
}

/// Reaps children that nobody holds any more.
pub fn reap_unasked() {
    // Held by somebody else at this moment, or, in a forked child, for ever: the next start will do.
    if let Ok(mut unasked) = UNASKED.try_lock() {
        unasked.retain(|child| child.is_ours() && !reap(child.as_fd()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let is_asked = self.status.lock().is_ok_and(|status| status.is_some());
        if !self.is_child || is_asked || !self.handle.is_ours() || reap(self.handle.as_fd()) {
            return;
        }
        if let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(&self.handle, 0)
            && let Ok(copy) = Fd::new(copy)
            && let Ok(mut unasked) = UNASKED.try_lock()
        {
            unasked.push(copy);
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Whether this kernel records how processes ended (Linux 6.15).
fn keeps_records() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// When a process began, in seconds since the epoch.
fn start_time_s(proc: &std::path::Path) -> Option<f64> {
    let since_boot = begun_ticks(proc)? as f64 / rustix::param::clock_ticks_per_second() as f64;
    use rustix::time::{ClockId, clock_gettime};
    let seconds = |id| {
        let now = clock_gettime(id);
        now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
    };
    Some(seconds(ClockId::Realtime) - seconds(ClockId::Boottime) + since_boot)
}

/// Whether a process is stopped, by a signal or a debugger: field 3 of proc_pid_stat(5).
pub fn is_stopped(pid: u32) -> bool {
    let state = stat_field(std::path::Path::new(&format!("/proc/{pid}")), 3);
    state.is_some_and(|state| state == "T" || state == "t")
}

/// Field 22 of proc_pid_stat(5): when it began, in clock ticks since boot.
fn begun_ticks(proc: &std::path::Path) -> Option<u64> {
    stat_field(proc, 22)?.parse().ok()
}

/// A field of proc_pid_stat(5), counted from 1 as there, and from 3 on.
fn stat_field(proc: &std::path::Path, number: usize) -> Option<String> {
    // One read of one page holds all of it; the length that the file claims is 0.
    let mut page = [0; 4096];
    let length = std::fs::File::open(proc.join("stat")).ok()?.read(&mut page).ok()?;
    let stat = &page[..length];
    // The name in field 2 may hold anything, parentheses included: fields count from the last one.
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after_name + 2..)?).ok()?;
    fields.split(' ').nth(number - 3).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::PidfdFlags;

    /// The process that has this number now.
    fn open(pid: u32) -> Process {
        let raw = Pid::from_raw(pid as i32).unwrap();
        let handle = rustix::process::pidfd_open(raw, PidfdFlags::empty()).unwrap();
        Process::new(handle, pid).unwrap()
    }

    #[test]
    fn a_child_that_nobody_asked_is_reaped_at_the_next_start() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut process = open(child.id());
        process.is_child = true;
        let watch = rustix::io::fcntl_dupfd_cloexec(&process.handle, 0).unwrap();
        drop(process);
        reap_unasked();
        rustix::process::pidfd_send_signal(&watch, Signal::KILL).unwrap();
        crate::poll::wait_any(&[watch.as_fd()], None).unwrap().unwrap();
        reap_unasked();
        assert!(reap(watch.as_fd()), "it is no child any more");
        assert!(child.wait().is_err(), "it was reaped above");
    }

    #[test]
    fn the_exit_status_is_told_whoever_reaped_the_child() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let process = open(child.id());
        child.wait().unwrap();
        assert!(process.is_over());
        let found = process.exit_status();
        // Told since Linux 6.15; never a wrong one.
        assert!(found == Some(7) || found.is_none(), "{found:?}");
    }

    #[test]
    fn a_child_that_others_started_is_theirs_to_reap() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = open(child.id());
        process.signal(EndSignal::Kill, false).unwrap();
        crate::poll::wait_any(&[process.as_fd()], None).unwrap().unwrap();
        assert_eq!(process.exit_status(), Some(-9));
        drop(process);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_killed_child_is_reaped_and_minus_nine() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut process = open(child.id());
        process.is_child = true;
        assert_eq!((process.is_over(), process.exit_status()), (false, None));
        process.signal(EndSignal::Kill, false).unwrap();
        crate::poll::wait_any(&[process.as_fd()], None).unwrap().unwrap();
        assert_eq!(process.exit_status(), Some(-9));
        process.signal(EndSignal::Kill, false).unwrap();
        assert!(child.wait().is_err(), "it was reaped above");
    }

    #[test]
    fn a_mark_is_one_process_s_as_long_as_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = open(child.id());
        let (mark, mine) = (process.mark(), of_this().mark);
        assert!(process.is_living(mark) && !process.is_living(mine), "{mark:?} {mine:?}");
        let by_time = Mark { inode: None, ..mark };
        assert!(process.is_living(by_time));
        assert!(!process.is_living(Mark { inode: None, begun: None }));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_living(mark) && !process.is_living(by_time));
    }

    #[test]
    fn our_own_identity_is_right() {
        let me = open(crate::own_pid()).identity(crate::own_uid());
        assert_eq!(me.uid, crate::own_uid());
        assert_eq!(me.executable, std::env::current_exe().ok());
        assert!(me.start_time_s > 1.7e9, "{me:?}");
    }
}
