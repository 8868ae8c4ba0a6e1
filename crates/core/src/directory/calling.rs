//! Connecting to a program that was found.
//!
//! ```text
//! caller                              owner
//!   connect to the entry's socket  ──▶  accept, ask the kernel who it is
//!   verify who listens there
//!   memory, two ears               ──▶  verify, map
//!                                  ◀──  two ears: a session like any other
//! ```
//! The owner has the other half of this (`listening.rs`). A call takes one step at a time and never waits,
//! so that a thread can wait for it, or an event loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use alongside_sys::poll::{PollSet, Watch, wait_any};
use alongside_sys::process::Process;
use alongside_sys::{Errno, WaitEnd, own_uid, socket};

use crate::adopt::{other_layout, unexpected};
use crate::deadline::Deadline;
use crate::directory::entry::{self, Entry};
use crate::directory::seeking::Sought;
use crate::directory::store::Found;
use crate::error::Error;
use crate::halves::{CALLED_RING_BYTES, Made, Other};
use crate::message::Buffer;
use crate::session::{Others, Session};
use crate::wire::{self, Found as Came, Kind, Packet};

/// How soon to try again where as many wait as may, or the other program hung up; and how late at most.
const TRY_AGAIN: Duration = Duration::from_millis(1);
const TRY_AT_LAST: Duration = Duration::from_millis(50);

const HUNG_UP: &str = "the other program hung up without an answer: it may have no descriptors left \
     (its ulimit -n), or more callers than it lets in at a time\ntry again later";

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The longest message that either side may send.
    pub max_message_bytes: u64,
    /// Word of how the handling of each message ended.
    pub wants_reports: bool,
}

/// How far a call is.
#[derive(Debug)]
pub enum Step<B: Buffer> {
    /// There is a session.
    Done(Arc<Session<B>>),
    /// The owner has been asked; [`Call::as_fd`] tells when there is more to do.
    Asked,
    /// As many wait there as may, or it hung up; nothing tells when that is over.
    Full,
}

/// A call under way: one program after the other is asked, until one answers.
#[derive(Debug)]
pub struct Call {
    sought: Sought,
    wish: Wish,
    /// Those that are left to ask, the best one last.
    left: Vec<Found>,
    asked: Option<Asked>,
    hung_up: u32,
    /// Made before anybody is called, so that the owner finds caller and call at once, and wakes once.
    made: Option<Made>,
    set: Option<PollSet>,
}

#[derive(Debug)]
struct Asked {
    found: Found,
    control: OwnedFd,
    owner: Arc<Process>,
    uid: u32,
    made: Made,
}

impl Call {
    /// Begins to ask those that were found, the first one first.
    pub(crate) fn new(sought: Sought, mut found: Vec<Found>, wish: Wish) -> Call {
        found.reverse();
        Call { sought, wish, left: found, asked: None, hung_up: 0, made: None, set: None }
    }

    /// Does what can be done without waiting.
    pub fn step<B: Buffer>(&mut self) -> Result<Step<B>, Error> {
        loop {
            if let Some(asked) = self.asked.take() {
                // Asked before looking: an owner that answers and ends at once has answered.
                let is_over = asked.owner.is_over();
                match Packet::receive(&asked.control)? {
                    Came::Packet(packet, files) => {
                        if let Some(session) = asked.take_up(packet, files)? {
                            return Ok(Step::Done(session));
                        }
                    }
                    // Or it is ending, and its sockets went before its process: that shows soon.
                    Came::HungUp if !is_over && asked.found.is_there() => {
                        self.hung_up += 1;
                        self.left.push(asked.found);
                        return Ok(Step::Full);
                    }
                    Came::HungUp => {}
                    Came::Nothing if is_over => {}
                    Came::Nothing => {
                        self.asked = Some(asked);
                        return Ok(Step::Asked);
                    }
                }
            }
            // Whoever was asked is gone.
            self.set = None;
            let Some(next) = self.left.last() else { return Err(self.sought.not_found()) };
            let made = match self.made.take() {
                Some(made) => made,
                None => Made::new(CALLED_RING_BYTES, self.wish.max_message_bytes)
                    .map_err(Error::os("making a session's memory"))?,
            };
            match next.connect() {
                Ok(control) => self.asked = Some(ask(control, next, self.wish, made)?),
                Err(Errno::NOENT | Errno::CONNREFUSED) => {}
                Err(Errno::AGAIN) => {
                    self.made = Some(made);
                    return Ok(Step::Full);
                }
                Err(Errno::ACCESS) => return Err(not_allowed(&next.entry)),
                Err(errno) => return Err(Error::File(next.path(), errno)),
            }
            self.left.pop();
        }
    }

    /// Waits until there is a session.
    pub fn wait<B: Buffer>(
        &mut self,
        deadline: Deadline,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Arc<Session<B>>, Error> {
        loop {
            match self.step()? {
                Step::Done(session) => return Ok(session),
                Step::Full if deadline.is_over() => return Err(self.late()),
                Step::Full if !go_on() => return Err(Error::Interrupted),
                Step::Full => std::thread::sleep(self.pause()),
                Step::Asked => {
                    let Some(asked) = &self.asked else { continue };
                    let fds = [asked.control.as_fd(), asked.owner.as_fd()];
                    let waited = wait_any(&fds, deadline.left());
                    match waited.map_err(Error::os("waiting for the other program"))? {
                        Ok(_) => {}
                        Err(WaitEnd::Interrupted) if go_on() => {}
                        Err(end) => return Err(end.into()),
                    }
                }
            }
        }
    }

    /// How soon to try again where nothing tells.
    pub fn pause(&self) -> Duration {
        (TRY_AGAIN * self.hung_up.max(1)).min(TRY_AT_LAST)
    }

    /// The error if there is no more time.
    pub fn late(&self) -> Error {
        if self.hung_up > 0 { Error::Busy(HUNG_UP) } else { Error::TimedOut }
    }

    /// The process that has been asked, if one has.
    pub fn asked(&self) -> Option<u32> {
        self.asked.as_ref().map(|asked| asked.owner.pid())
    }

    /// What is readable when an owner that was asked has answered, or is gone.
    pub fn descriptor(&mut self) -> Result<Option<BorrowedFd<'_>>, Error> {
        let Some(asked) = &self.asked else { return Ok(None) };
        if self.set.is_none() {
            let os = Error::os("waiting for the other program");
            let set = PollSet::new().map_err(&os)?;
            set.add(&asked.control, 0, Watch::Level).map_err(&os)?;
            set.add(&*asked.owner, 1, Watch::Level).map_err(&os)?;
            self.set = Some(set);
        }
        Ok(self.set.as_ref().map(AsFd::as_fd))
    }
}

/// Checks who listens, and asks for a session.
fn ask(control: OwnedFd, found: &Found, wish: Wish, made: Made) -> Result<Asked, Error> {
    let entry = &found.entry;
    let os = Error::os("connecting");
    let (pid, uid) = socket::peer(&control).map_err(&os)?;
    if (pid, uid) != (entry.pid, entry.uid) {
        return Err(Error::Denied(format!(
            "{:?} was published by process {} of user {}, but process {pid} of user {uid} listens there",
            entry.name, entry.pid, entry.uid
        )));
    }
    let instance = entry::number(&entry.instance).unwrap_or_default();
    let b = if wish.wants_reports { wire::WANTS_REPORTS } else { 0 };
    let call = Packet { kind: Kind::Connect, a: alongside_shm::VERSION, b, c: instance };
    match call.send(&control, &made.files()) {
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(os(errno)),
    }
    let handle = socket::peer_process(&control).map_err(&os)?;
    let owner = Arc::new(Process::new(handle, pid).map_err(&os)?);
    Ok(Asked { found: found.clone(), control, owner, uid, made })
}

fn not_allowed(entry: &Entry) -> Error {
    let (name, uid, me) = (&entry.name, entry.uid, own_uid());
    Error::Denied(format!(
        "{name:?} belongs to user {uid}, who has not allowed user {me}\n\
         publish(..., allow=[{me}]) there would"
    ))
}

impl Asked {
    /// Makes the session of the owner's answer; none if the name was revoked.
    fn take_up<B: Buffer>(
        self,
        packet: Packet,
        files: Vec<OwnedFd>,
    ) -> Result<Option<Arc<Session<B>>>, Error> {
        let Asked { found: Found { entry, .. }, control, owner, uid, made } = self;
        let found = files.len();
        let ears = match (packet.kind, packet.b, <[OwnedFd; 2]>::try_from(files)) {
            (Kind::Accept, _, Ok(ears)) => ears,
            (Kind::Refuse, wire::REFUSED_LAYOUT, _) => return Err(other_layout(packet.a)),
            (Kind::Refuse, wire::REFUSED_INSTANCE, _) => return Ok(None),
            (Kind::Refuse, wire::REFUSED_USER, _) => return Err(not_allowed(&entry)),
            (Kind::Refuse, wire::REFUSED_REPORTS, _) => {
                return Err(Error::Rule(format!(
                    "{:?} has no on_message, so there is no handler whose end could be waited for \
                     (pid {})\nsend_to(..., wait=False) does not wait for one",
                    entry.name, entry.pid
                )));
            }
            _ => return Err(unexpected(packet, found)),
        };
        let other = Other { control, ears, peer: Arc::clone(&owner) };
        let link = made.link(other).map_err(Error::os("connecting"))?;
        let others = Others { peer: owner, uid, child: None, has_group: false, fate: None };
        Ok(Some(Session::new(link, others)))
    }
}
