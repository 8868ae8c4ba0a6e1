//! Starting a program and handing it its session.
//!
//! ```text
//! starter                              adopter
//!   spawn, one socket inherited   ──▶  (boots)
//!   make the memory meanwhile
//!                                 ◀──  adopt: its own socket, two ears
//!   verify its user, offer        ──▶  memory, two ears
//!   hello, as the first record    ──▶  verify, map, read
//! ```
//! The starter looks at the program's handle all the while: one that ends without adopting is an error
//! at that moment, not at the deadline. A program that was started and cannot be worked with is ended.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alongside_sys::poll::{Beacon, wait_any};
use alongside_sys::process::{EndSignal, Process};
use alongside_sys::spawn::{Leads, Life, Program, SpawnError, spawn};
use alongside_sys::{Errno, fork, socket, yield_now};

use crate::adopt::{ENVIRONMENT_VARIABLE, check_peer, other_layout, unexpected};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::halves::{Made, Other, STARTED_RING_BYTES};
use crate::link::Link;
use crate::message::Buffer;
use crate::session::{Others, Session};
use crate::wire::{self, Found, Kind, Packet};

/// How often the process's life is tried for; it is made in a few microseconds.
const LIFE_TRIES: u32 = 1000;
/// How long a killed program is waited for, to reap it.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// What to start, and how.
#[derive(Debug)]
pub struct Start<'a> {
    /// The program and its arguments.
    pub command: &'a [&'a OsStr],
    /// `KEY=value` pairs, the whole environment; see [`ready_environment`].
    pub environment: Vec<CString>,
    /// Where it starts.
    pub directory: Option<&'a Path>,
    /// Its standard descriptors, where they are not this program's own.
    pub stdio: [Option<RawFd>; 3],
    /// It leads a process group of its own, which is ended as a whole.
    pub new_group: bool,
    /// It ends when this program ends.
    pub die_with_parent: bool,
    /// The longest message that either side may send, in bytes.
    pub max_message_bytes: u64,
    /// How the first data is to be read, and its bytes; `None` if the caller sends it itself, with
    /// [`Session::send_leased`].
    pub hello: Option<(u8, &'a [u8])>,
    /// Lit by whoever does not want the program any more: it is ended, as long as it has not taken up its
    /// session.
    pub cancel: Option<&'a Beacon>,
}

/// Why no session came of it.
#[derive(Debug)]
pub enum StartFailure {
    /// The program could not be run at all.
    NotRun {
        /// What the failure is about.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// It ended, or let go of the meeting place, before it took up its session.
    Ended {
        /// How it ended, if it did and that is known.
        exit_status: Option<i32>,
    },
    /// Nobody wants it any more.
    Cancelled,
    /// Something else; the program has been ended.
    Other(Error),
}

impl From<Error> for StartFailure {
    fn from(error: Error) -> StartFailure {
        StartFailure::Other(error)
    }
}

impl From<SpawnError> for StartFailure {
    fn from(SpawnError { path, errno }: SpawnError) -> StartFailure {
        StartFailure::NotRun { path, errno }
    }
}

/// Drops an inherited session's variable from an environment: it was meant for this program.
pub fn ready_environment(pairs: impl Iterator<Item = CString>) -> Vec<CString> {
    let ours = format!("{ENVIRONMENT_VARIABLE}=");
    pairs.filter(|pair| !pair.as_bytes().starts_with(ours.as_bytes())).collect()
}

/// Starts a program without a session. A `detached` one leads a session of the kernel's, and finds nothing open
/// but its standard descriptors.
pub fn run(
    command: &[&OsStr],
    environment: &[CString],
    stdio: [Option<RawFd>; 3],
    detached: bool,
) -> Result<Process, StartFailure> {
    Ok(spawn(&Program {
        command,
        environment,
        directory: None,
        stdio,
        inherited: None,
        leads: if detached { Leads::Session } else { Leads::Nothing },
        closes_others: true,
        life: None,
    })?)
}

/// A started program that is ended and reaped unless it is kept.
struct Spawned {
    process: Arc<Process>,
    has_group: bool,
    is_kept: bool,
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let _ = self.process.signal(EndSignal::Kill, self.has_group);
        let _ = wait_any(&[self.process.as_fd()], Some(REAP_PATIENCE));
        let _ = self.process.exit_status();
    }
}

/// Starts a program and waits until it has taken up its session. `go_on` is asked whenever a signal
/// has arrived; if it says no, the program is ended.
pub fn start<B: Buffer>(
    options: Start<'_>,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Arc<Session<B>>, StartFailure> {
    let limit = options.max_message_bytes;
    if let Some((_, hello)) = options.hello
        && hello.len() as u64 > limit
    {
        return Err(Error::TooLarge { bytes: hello.len() as u64, limit }.into());
    }
    let os = Error::os("starting a session");
    let life = if options.die_with_parent { Some(own_life().map_err(&os)?) } else { None };
    let (meeting, inherited) = meeting_pair().map_err(&os)?;
    let mut spawned = run_adopter(&options, life.as_deref(), &inherited)?;
    drop(inherited);

    let made = Made::new(STARTED_RING_BYTES, options.max_message_bytes).map_err(&os)?;
    // While the program was cloned this thread took no signals; one that came went to another thread
    // and interrupts nothing here.
    if !go_on() {
        return Err(Error::Interrupted.into());
    }
    let (packet, files) =
        await_adopter(&meeting, &spawned.process, options.cancel, deadline, go_on)?;
    drop(meeting);
    let (link, uid) = complete(made, packet, files, &spawned.process, life.as_deref())?;
    let others = Others {
        peer: Arc::clone(&link.peer),
        uid,
        child: Some(Arc::clone(&spawned.process)),
        has_group: options.new_group,
        fate: None,
    };
    let session = Session::new(link, others);
    if let Some((codec, hello)) = options.hello {
        session.send_hello(codec, hello, deadline, go_on)?;
    }
    spawned.is_kept = true;
    Ok(session)
}

/// The process's one [`Life`]; a forked child gets one of its own.
fn own_life() -> Result<Arc<Life>, Errno> {
    static LIFE: Mutex<Option<(u32, Arc<Life>)>> = Mutex::new(None);
    // Taken for a moment; or for ever, if this process was forked at such a moment.
    let tried = (0..LIFE_TRIES).find_map(|_| LIFE.try_lock().map_err(|_| yield_now()).ok());
    let Some(mut life) = tried else {
        // One that nobody shares lasts as long as the process all the same.
        let own = Arc::new(Life::new()?);
        std::mem::forget(Arc::clone(&own));
        return Ok(own);
    };
    let generation = fork::generation();
    match &*life {
        Some((of, life)) if *of == generation => Ok(Arc::clone(life)),
        _ => {
            let made = Arc::new(Life::new()?);
            *life = Some((generation, Arc::clone(&made)));
            Ok(made)
        }
    }
}

/// The meeting place. Its far end must not lie among the standard descriptors, which the program gets
/// to choose.
fn meeting_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, mut theirs) = socket::pair()?;
    let mut low = Vec::new();
    while theirs.as_raw_fd() < 3 {
        let higher = theirs.try_clone().map_err(|_| Errno::MFILE)?;
        low.push(std::mem::replace(&mut theirs, higher));
    }
    Ok((ours, theirs))
}

fn run_adopter(
    options: &Start<'_>,
    life: Option<&Life>,
    inherited: &OwnedFd,
) -> Result<Spawned, StartFailure> {
    let inode = socket::inode(inherited).map_err(Error::os("starting a session"))?;
    let variable =
        format!("{ENVIRONMENT_VARIABLE}={}:{}:{inode}", wire::VERSION, inherited.as_raw_fd());
    let mut environment = options.environment.clone();
    environment.extend(CString::new(variable));
    let process = spawn(&Program {
        command: options.command,
        environment: &environment,
        directory: options.directory,
        stdio: options.stdio,
        inherited: Some(inherited.as_fd()),
        leads: if options.new_group { Leads::Group } else { Leads::Nothing },
        closes_others: false,
        life,
    })?;
    Ok(Spawned { process: Arc::new(process), has_group: options.new_group, is_kept: false })
}

/// Waits until somebody adopts, or until that cannot happen any more.
fn await_adopter(
    meeting: &OwnedFd,
    process: &Process,
    cancel: Option<&Beacon>,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Packet, Vec<OwnedFd>), StartFailure> {
    let mut fds = vec![meeting.as_fd(), process.as_fd()];
    fds.extend(cancel.map(AsFd::as_fd));
    loop {
        // Asked before looking: a program that adopts and ends at once has adopted.
        let is_over = process.is_over();
        match Packet::receive(meeting)? {
            Found::Packet(packet, files) => return Ok((packet, files)),
            Found::Nothing if is_over => {
                return Err(StartFailure::Ended { exit_status: process.exit_status() });
            }
            Found::HungUp => {
                let _ = wait_any(&[process.as_fd()], Some(Duration::from_millis(50)));
                return Err(StartFailure::Ended { exit_status: process.exit_status() });
            }
            Found::Nothing => {}
        }
        match wait_any(&fds, deadline.left()).map_err(Error::os("waiting for the program"))? {
            Ok(ready) if ready >> 2 != 0 => return Err(StartFailure::Cancelled),
            Ok(_) => {}
            Err(alongside_sys::WaitEnd::Interrupted) if go_on() => {}
            Err(end) => return Err(Error::from(end).into()),
        }
    }
}

/// Checks who adopted, sends the offer, and makes the link of both halves; says the adopter's user.
fn complete(
    made: Made,
    packet: Packet,
    files: Vec<OwnedFd>,
    child: &Arc<Process>,
    life: Option<&Life>,
) -> Result<(Link, u32), Error> {
    let os = Error::os("handing the session over");
    let found = files.len();
    let Ok([control, ears @ ..]) = <[OwnedFd; 3]>::try_from(files) else {
        return Err(unexpected(packet, found));
    };
    if packet.kind != Kind::Adopt {
        return Err(unexpected(packet, found));
    }
    if packet.a != alongside_shm::VERSION {
        let refusal = Packet { kind: Kind::Refuse, a: alongside_shm::VERSION, b: 0, c: 0 };
        let _ = refusal.send(&control, &[]);
        return Err(other_layout(packet.a));
    }
    let (pid, uid) = socket::peer(&control).map_err(&os)?;
    check_peer("started program", pid, uid)?;
    // A pid is not reused before its process is reaped, and that is ours to do: without a wrapper
    // one handle does for both.
    let peer = if pid == child.pid() && !child.is_over() {
        Arc::clone(child)
    } else {
        let handle = socket::peer_process(&control).map_err(&os)?;
        Arc::new(Process::new(handle, pid).map_err(&os)?)
    };

    let fate = life.map(Life::thread_of_fate).transpose().map_err(&os)?;
    let flags = if fate.is_some() { wire::SHARES_FATE } else { 0 };
    let offer = Packet { kind: Kind::Offer, a: alongside_shm::VERSION, b: flags, c: 0 };
    let mut with = made.files().to_vec();
    with.extend(fate.as_ref().map(AsFd::as_fd));
    match offer.send(&control, &with) {
        // Gone between its adoption and now: the session will say so.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(os(errno)),
    }
    let link = made.link(Other { control, ears, peer }).map_err(os)?;
    Ok((link, uid))
}
