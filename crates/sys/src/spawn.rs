#![allow(unsafe_code)]
//! Starting a program.
//!
//! A child that borrows its parent's memory until it runs the new program (`CLONE_VM|CLONE_VFORK`, as
//! glibc's posix_spawn does it): a fork of a 2 GiB process takes 26 ms, this 0.12. Our own clone rather
//! than posix_spawn, because only so the handle (`CLONE_PIDFD`) is had without a gap in which the pid
//! could be reused, the failed step and its errno come back, descriptors are passed without ever being
//! inheritable in the parent, and [`Life`] is armed before the program's first instruction.
//!
//! # What the child may do
//! * **S1** it shares every byte with a parent whose calling thread stands still: no allocation, no
//!   locks, no panics, nothing but raw system calls on what the parent prepared.
//! * **S2** its descriptor table and its signal handlers are copies.
//! * **S3** all signals are blocked until no handler of the parent's is left, for a handler would run
//!   in the parent's memory.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::fork::Fd;
use crate::process::Process;

/// `F_SETSIG` of asm-generic/fcntl.h.
const F_SETSIG: libc::c_int = 10;
const CHILD_STACK_BYTES: usize = 64 << 10;

/// What of the kernel's a program leads, so that it can be ended with what it starts, or outlives what ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// Nothing: it is in this program's group and session.
    Nothing,
    /// A process group.
    Group,
    /// A session, and in it a group, without a terminal.
    Session,
}

/// What to start, and how.
#[derive(Debug)]
pub struct Program<'a> {
    /// The program and its arguments; the first is looked up in the child's PATH if it has no slash.
    pub command: &'a [&'a OsStr],
    /// `KEY=value` pairs: the whole environment.
    pub environment: &'a [CString],
    /// Where it starts.
    pub directory: Option<&'a Path>,
    /// Its standard input, output and error, where they are not this program's own.
    pub stdio: [Option<RawFd>; 3],
    /// A descriptor that it shall find open under the same number.
    pub inherited: Option<BorrowedFd<'a>>,
    /// What of the kernel's it leads.
    pub leads: Leads,
    /// It gets no other descriptors, whatever this program has without close-on-exec.
    pub closes_others: bool,
    /// Ends when this process ends.
    pub life: Option<&'a Life>,
}

/// Why a program could not be started: the step, the path it concerns, the kernel's answer.
#[derive(Debug)]
pub struct SpawnError {
    /// The file or directory that the failure is about.
    pub path: PathBuf,
    /// The kernel's answer.
    pub errno: Errno,
}

/// What ends a program together with this process, however this one ends.
///
/// A pipe of which this process keeps the write end for ever and the program an open file of its own
/// on the read end, with `F_SETSIG` SIGKILL: when the last writer is gone, the kernel sends the signal.
/// No thread, no polling, armed before `exec` and surviving it. (PR_SET_PDEATHSIG, the obvious way,
/// fires when the *thread* that started the program ends, and is lost in wrappers.)
#[derive(Debug)]
pub struct Life {
    read: Fd,
    _write: Fd,
}

impl Life {
    /// This process's one.
    pub fn new() -> Result<Life, Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Life { read: Fd::new(read)?, _write: Fd::new(write)? })
    }

    /// An open file of its own on the pipe, for a program that is to be tied to this process.
    pub fn thread_of_fate(&self) -> Result<OwnedFd, Errno> {
        use rustix::fs::{Mode, OFlags};
        let path = format!("/proc/self/fd/{}", self.read.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
    }
}

/// Ties this process's life to the maker of `fate`, as [`Life`] describes it; the descriptor must stay
/// open from then on. False if that one is gone already.
pub fn tie_life(fate: &OwnedFd) -> bool {
    let me = crate::own_pid() as libc::pid_t;
    // SAFETY: the descriptor is open.
    unsafe { tie(fate.as_raw_fd(), me) }
}

/// # Safety
/// `fd` is open. (Only system calls: S1.)
unsafe fn tie(fd: RawFd, owner: libc::pid_t) -> bool {
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: the caller's; F_SETOWN takes a number.
    unsafe { libc::fcntl(fd, libc::F_SETOWN, owner) };
    // SAFETY: the caller's; F_SETSIG takes a number.
    unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) };
    // SAFETY: the caller's.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) };
    // Gone before the signal was armed: nobody will tell us.
    // SAFETY: one pollfd of our own.
    (unsafe { libc::poll(&mut polled, 1, 0) }) == 0
}

/// Everything the child reads, and where it leaves why it failed.
struct Plan {
    path: CString,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    directory: Option<CString>,
    stdio: [RawFd; 3],
    inherited: RawFd,
    life: Option<CString>,
    leads: Leads,
    closes_others: bool,
    mask: libc::sigset_t,
    failed_in_directory: bool,
    errno: i32,
}

/// Starts a program. Returns when it runs, or when it is known why it does not.
pub fn spawn(program: &Program<'_>) -> Result<Process, SpawnError> {
    crate::process::reap_unasked();
    let name = Path::new(program.command.first().copied().unwrap_or_default());
    let failed = |path: &Path, errno| SpawnError { path: path.to_owned(), errno };
    let on_name = |errno| failed(name, errno);
    if let Some(directory) = program.directory {
        let found = rustix::fs::stat(directory).map_err(|errno| failed(directory, errno))?;
        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
            return Err(failed(directory, Errno::NOTDIR));
        }
    }
    let path = find(program).map_err(on_name)?;
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| on_name(Errno::INVAL));
    let arguments =
        program.command.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let life = match program.life {
        Some(life) => {
            Some(c_string(OsStr::new(&format!("/proc/self/fd/{}", life.read.as_raw_fd())))?)
        }
        None => None,
    };
    let mut plan = Plan {
        path: c_string(path.as_os_str())?,
        arguments: null_ended(arguments.iter().map(CString::as_c_str)),
        environment: null_ended(program.environment.iter().map(CString::as_c_str)),
        directory: program.directory.map(|path| c_string(path.as_os_str())).transpose()?,
        stdio: program.stdio.map(|fd| fd.unwrap_or(-1)),
        inherited: program.inherited.map_or(-1, |fd| fd.as_raw_fd()),
        life,
        leads: program.leads,
        closes_others: program.closes_others,
        // SAFETY: all zeroes is a valid signal set; filled before use.
        mask: unsafe { std::mem::zeroed() },
        failed_in_directory: false,
        errno: 0,
    };
    let (pid, handle) = clone_and_run(&mut plan).map_err(on_name)?;
    let process = Process::child(handle, pid).map_err(on_name)?;
    if plan.errno != 0 {
        let _ = process.exit_status();
        let path = if plan.failed_in_directory { program.directory } else { None };
        return Err(failed(path.unwrap_or(name), Errno::from_raw_os_error(plan.errno)));
    }
    Ok(process)
}

fn null_ended<'a>(texts: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    texts.map(CStr::as_ptr).chain([ptr::null()]).collect()
}

/// The file that a command's first word means, as execvp(3) would find it, but with the child's PATH
/// and with the most telling error: a directory is one, a file that may not be run is another.
fn find(program: &Program<'_>) -> Result<PathBuf, Errno> {
    let name = program.command.first().copied().unwrap_or_default();
    let is_path = name.as_bytes().contains(&b'/');
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    let from_directory = |path: &Path| match program.directory {
        Some(directory) => directory.join(path),
        None => path.to_owned(),
    };
    if is_path {
        runnable(&from_directory(Path::new(name)))?;
        return Ok(PathBuf::from(name));
    }
    let path = program.environment.iter().find_map(|pair| pair.as_bytes().strip_prefix(b"PATH="));
    let mut worst = Errno::NOENT;
    for directory in path.unwrap_or(b"/bin:/usr/bin").split(|byte| *byte == b':') {
        let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
        match runnable(&from_directory(&candidate)) {
            // An empty element of PATH means the current directory; exec needs a slash to agree.
            Ok(()) if directory.is_empty() => return Ok(Path::new(".").join(candidate)),
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => worst = Errno::ACCESS,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn runnable(path: &Path) -> Result<(), Errno> {
    let found = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
}

/// Clones; when this returns, the child has run its program or left an errno in the plan.
fn clone_and_run(plan: &mut Plan) -> Result<(u32, OwnedFd), Errno> {
    let mut stack = vec![0u8; CHILD_STACK_BYTES];
    // SAFETY: all zeroes is a valid signal set; filled on the next line.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of our own.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: both sets are our own; put back below. (S3)
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut plan.mask) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    let mut handle: libc::c_int = -1;
    // SAFETY: `top` is the upper, 16-byte aligned end of a stack that outlives the child's use of our
    // memory, for CLONE_VFORK holds this thread until the child has left it; `run` keeps to S1.
    let pid = unsafe {
        libc::clone(
            run,
            top.wrapping_sub(top.addr() % 16).cast(),
            flags,
            ptr::from_mut(plan).cast(),
            &raw mut handle,
        )
    };
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN);
    // SAFETY: the mask that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &plan.mask, ptr::null_mut()) };
    if pid < 0 {
        return Err(errno);
    }
    // SAFETY: the kernel just made it for us, close-on-exec.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(handle) }))
}

/// The child, from its first instruction to its last.
extern "C" fn run(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the plan that `clone_and_run` passed; its thread stands still meanwhile.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: S1 to S3 hold here.
    plan.errno = unsafe { become_program(plan) };
    // SAFETY: ends the child without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn errno() -> i32 {
    // SAFETY: gives the address of this thread's errno. (The parent's, whose thread stands still.)
    let address = unsafe { libc::__errno_location() };
    // SAFETY: that address is always valid.
    unsafe { *address }
}

/// Returns only if something failed: its errno.
///
/// # Safety
/// Runs in the child of `clone_and_run`, under S1 to S3.
unsafe fn become_program(plan: &mut Plan) -> i32 {
    // SAFETY: S2.
    unsafe { reset_signals() };
    let led = match plan.leads {
        Leads::Nothing => 0,
        // SAFETY: S1, a system call.
        Leads::Group => unsafe { libc::setpgid(0, 0) },
        // SAFETY: S1, a system call.
        Leads::Session => unsafe { libc::setsid() },
    };
    if led < 0 {
        return errno();
    }
    if let Some(life) = &plan.life {
        // SAFETY: S1, a system call on a prepared string.
        let fd = unsafe { libc::open(life.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK) };
        if fd < 0 {
            return errno();
        }
        // SAFETY: S1.
        let pid = unsafe { libc::getpid() };
        // SAFETY: just opened. (The signal goes to the whole group where there is one.)
        if !unsafe { tie(fd, if plan.leads == Leads::Nothing { pid } else { -pid }) } {
            return libc::ESRCH;
        }
    }
    if let Some(directory) = &plan.directory
        // SAFETY: S1, a system call on a prepared string.
        && unsafe { libc::chdir(directory.as_ptr()) } != 0
    {
        plan.failed_in_directory = true;
        return errno();
    }
    // SAFETY: S1, S2.
    if let Err(errno) = unsafe { place_descriptors(plan) } {
        return errno;
    }
    // SAFETY: a set of the plan's; from here on signals do what they do in a new program.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &plan.mask, ptr::null_mut()) };
    // SAFETY: null-ended arrays of strings that the parent keeps alive.
    unsafe { libc::execve(plan.path.as_ptr(), plan.arguments.as_ptr(), plan.environment.as_ptr()) };
    errno()
}

/// Gives every signal that has a handler its default back, and SIGPIPE and SIGXFSZ, which Python
/// ignores and programs do not expect ignored (what `subprocess` calls `restore_signals`).
///
/// # Safety
/// As for `become_program`.
unsafe fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: all zeroes is SIG_DFL with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: S1, a system call with a local.
        if unsafe { libc::sigaction(signal, ptr::null(), &mut action) } != 0 {
            continue;
        }
        let ignored = action.sa_sigaction == libc::SIG_IGN;
        let python_ignores = signal == libc::SIGPIPE || signal == libc::SIGXFSZ;
        if action.sa_sigaction == libc::SIG_DFL || (ignored && !python_ignores) {
            continue;
        }
        // SAFETY: as above.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: S2, the handlers are a copy.
        unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
    }
}

/// Puts the standard descriptors in place and lets the inherited one through.
///
/// # Safety
/// As for `become_program`.
unsafe fn place_descriptors(plan: &mut Plan) -> Result<(), i32> {
    for source in &mut plan.stdio {
        // One that lies among the targets must not be overwritten before its turn.
        if (0..3).contains(source) {
            // SAFETY: S2, a system call.
            *source = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, 3) };
            if *source < 0 {
                return Err(errno());
            }
        }
    }
    if (0..3).contains(&plan.inherited) {
        return Err(libc::EBADF);
    }
    for (target, source) in plan.stdio.into_iter().enumerate() {
        // SAFETY: S2, a system call; dup2 clears close-on-exec.
        if source >= 0 && unsafe { libc::dup2(source, target as libc::c_int) } < 0 {
            return Err(errno());
        }
    }
    if plan.closes_others {
        // Not before it runs its program: what this program has locked stays locked until then, though it be
        // killed. (Linux 5.11; before, those stay open that somebody has made so.)
        let (first, last, how) = (3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // SAFETY: S2, a system call.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, how) };
    }
    // SAFETY: S2, a system call.
    if plan.inherited >= 0 && unsafe { libc::fcntl(plan.inherited, libc::F_SETFD, 0) } < 0 {
        return Err(errno());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn environment() -> Vec<CString> {
        std::env::vars()
            .map(|(key, value)| CString::new(format!("{key}={value}")).unwrap())
            .collect()
    }

    fn run_it(
        command: &[&str],
        adjust: impl for<'a> FnOnce(Program<'a>) -> Program<'a>,
    ) -> Result<(Process, String), SpawnError> {
        let command: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        let (mut read, write) = std::io::pipe().unwrap();
        let (_keep, inherited) = crate::socket::pair().unwrap();
        let environment = environment();
        let process = spawn(&adjust(Program {
            command: &command,
            environment: &environment,
            directory: None,
            stdio: [None, Some(write.as_raw_fd()), None],
            inherited: Some(inherited.as_fd()),
            leads: Leads::Nothing,
            closes_others: false,
            life: None,
        }))?;
        drop(write);
        let mut output = String::new();
        read.read_to_string(&mut output).unwrap();
        crate::poll::wait_any(&[process.as_fd()], None).unwrap().unwrap();
        Ok((process, output))
    }

    #[test]
    fn a_program_runs_with_its_arguments_and_its_status_comes_back() {
        let (process, output) = run_it(&["sh", "-c", "echo $0; exit 3", "word"], |it| it).unwrap();
        assert_eq!((output.as_str(), process.exit_status()), ("word\n", Some(3)));
    }

    #[test]
    fn it_starts_where_it_was_told_to() {
        let (_, output) =
            run_it(&["pwd"], |it| Program { directory: Some(Path::new("/usr")), ..it }).unwrap();
        assert_eq!(output, "/usr\n");
    }

    #[test]
    fn each_reason_why_it_cannot_run_is_told_with_its_path() {
        for (command, errno) in [
            ("no-such-program-anywhere", Errno::NOENT),
            ("/no/such/program", Errno::NOENT),
            ("/etc/passwd", Errno::ACCESS),
            ("/usr", Errno::ISDIR),
            ("", Errno::NOENT),
        ] {
            let error = run_it(&[command], |it| it).unwrap_err();
            assert_eq!((error.path.as_os_str(), error.errno), (OsStr::new(command), errno));
        }
        let nowhere = Path::new("/no/such/directory");
        let error = run_it(&["pwd"], |it| Program { directory: Some(nowhere), ..it }).unwrap_err();
        assert_eq!((error.path.as_path(), error.errno), (nowhere, Errno::NOENT));
    }

    #[test]
    fn it_leads_what_it_was_told_to_and_finds_open_what_it_was_told_to() {
        let script = "echo $(ls /proc/$$/fd | wc -w) $(ps -o pid=,pgid=,sid= -p $$)";
        let (read, _write) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::empty()).unwrap();
        let mut counts = Vec::new();
        for leads in [Leads::Nothing, Leads::Group, Leads::Session] {
            let closes_others = leads == Leads::Session;
            let command = ["sh", "-c", script];
            let (_, output) =
                run_it(&command, |it| Program { leads, closes_others, inherited: None, ..it })
                    .unwrap();
            let words: Vec<u32> =
                output.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let [count, pid, group, session] = words[..] else { panic!("{output}") };
            assert_eq!(group == pid, leads != Leads::Nothing);
            assert_eq!(session == pid, leads == Leads::Session);
            counts.push(count);
        }
        assert!(counts[2] < counts[1], "{counts:?}");
    }

    #[test]
    fn a_program_tied_to_a_life_ends_with_it() {
        let life = Life::new().unwrap();
        let command = [OsStr::new("sleep"), OsStr::new("1000")];
        let (_keep, inherited) = crate::socket::pair().unwrap();
        let environment = environment();
        let process = spawn(&Program {
            command: &command,
            environment: &environment,
            directory: None,
            stdio: [None; 3],
            inherited: Some(inherited.as_fd()),
            leads: Leads::Nothing,
            closes_others: false,
            life: Some(&life),
        })
        .unwrap();
        assert!(!process.is_over());
        drop(life);
        crate::poll::wait_any(&[process.as_fd()], None).unwrap().unwrap();
        assert_eq!(process.exit_status(), Some(-9));
    }
}
