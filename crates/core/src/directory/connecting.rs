//! Connecting to a program that was found, and taking connections.
//!
//! ```text
//! caller                              owner
//!   connect to the entry's socket  ──▶  accept, ask the kernel who it is
//!   verify who listens there
//!   memory, two ears               ──▶  verify, map
//!                                  ◀──  two ears: a session like any other
//! ```
//! The caller makes the memory, so a caller who says nothing costs the owner one descriptor, and that for
//! [`PATIENCE`] at most. The owner never waits for anybody: each connection is looked at when something has
//! come by it. Of those that have said nothing there are [`MOST_PENDING`] at most; beyond that the user
//! with the most of them loses the oldest.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alongside_shm::SessionLayout;
use alongside_sys::memory::{self, Access};
use alongside_sys::poll::{PollSet, Timer, Watch, wait_any};
use alongside_sys::process::Process;
use alongside_sys::{Errno, Fd, WaitEnd, bell, own_uid, socket};

use crate::adopt::{MOST_MEMORY_BYTES, other_layout, unexpected};
use crate::deadline::Deadline;
use crate::directory::entry;
use crate::directory::store::{Found, Life};
use crate::error::Error;
use crate::link::{Link, Parts, Side};
use crate::message::Buffer;
use crate::session::{Others, Session};
use crate::start::Half;
use crate::wire::{self, Found as Came, Kind, Packet};

/// How long a caller may take until it has said what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many callers may be at that.
const MOST_PENDING: usize = 512;
/// How many new callers are looked at in one step, so that others get their turn.
const AT_ONCE: usize = 64;
/// How soon to try again where as many wait as may.
const TRY_AGAIN: Duration = Duration::from_millis(1);

const LISTENING: u64 = 0;
const OVERDUE: u64 = 1;
const FIRST_CALLER: u64 = 2;

// ---- the caller ----------------------------------------------------------------------------------

/// Connects to the program that published an entry.
pub fn connect<B: Buffer>(
    found: &Found,
    max_message_bytes: u64,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Arc<Session<B>>, Error> {
    let entry = &found.entry;
    let gone = || Error::NotFound(format!("{:?} is gone (pid {})", entry.name, entry.pid));
    let control = loop {
        match found.connect() {
            Ok(control) => break control,
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(gone()),
            // As many wait there as may; nothing tells when that is over.
            Err(Errno::AGAIN) if deadline.is_over() => return Err(Error::TimedOut),
            Err(Errno::AGAIN) if !go_on() => return Err(Error::Interrupted),
            Err(Errno::AGAIN) => std::thread::sleep(TRY_AGAIN),
            Err(errno) => return Err(Error::File(found.path.clone(), errno)),
        }
    };
    let os = Error::os("connecting");
    let (pid, uid) = socket::peer(&control).map_err(&os)?;
    if (pid, uid) != (entry.pid, entry.uid) {
        return Err(Error::Denied(format!(
            "{:?} was published by process {} of user {}, but process {pid} of user {uid} listens there",
            entry.name, entry.pid, entry.uid
        )));
    }
    let handle = socket::peer_process(&control).map_err(&os)?;
    let peer = Arc::new(Process::new(handle, pid).map_err(&os)?);
    let instance = entry::number(&entry.instance).unwrap_or_default();
    let half = Half::new(max_message_bytes).map_err(&os)?;
    let [(data_bell, data_for_them), (space_bell, space_for_them)] = half.bells;
    let call = Packet { kind: Kind::Connect, a: alongside_shm::VERSION, b: 0, c: instance };
    let with = [half.file.as_fd(), data_for_them.as_fd(), space_for_them.as_fd()];
    match call.send(&control, &with) {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => return Err(gone()),
        Err(errno) => return Err(os(errno)),
    }
    drop((half.file, data_for_them, space_for_them));
    let (packet, files) = answer(&control, &peer, deadline, go_on)?.ok_or_else(gone)?;
    let found_files = files.len();
    let ears = <[OwnedFd; 2]>::try_from(files);
    let [data_ear, space_ear] = match (packet.kind, packet.b, ears) {
        (Kind::Accept, _, Ok(ears)) => ears,
        (Kind::Refuse, wire::REFUSED_LAYOUT, _) => return Err(other_layout(packet.a)),
        (Kind::Refuse, wire::REFUSED_USER, _) => {
            return Err(Error::Denied(format!(
                "{:?} belongs to user {}, who has not allowed user {}",
                entry.name,
                entry.uid,
                own_uid()
            )));
        }
        (Kind::Refuse, wire::REFUSED_INSTANCE, _) => return Err(gone()),
        _ => return Err(unexpected(packet, found_files)),
    };
    let link = Link::new(Parts {
        memory: half.memory,
        layout: half.layout,
        side: Side::Creator,
        control,
        data_bell,
        space_bell,
        data_ear,
        space_ear,
        peer: Arc::clone(&peer),
    })
    .map_err(os)?;
    Ok(Session::new(link, Others { peer, uid, child: None, has_group: false, fate: None }))
}

/// Waits for the owner's answer; none if it hung up or has ended.
fn answer(
    control: &OwnedFd,
    owner: &Process,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<(Packet, Vec<OwnedFd>)>, Error> {
    loop {
        let is_over = owner.is_over();
        match Packet::receive(control)? {
            Came::Packet(packet, files) => return Ok(Some((packet, files))),
            Came::HungUp => return Ok(None),
            Came::Nothing if is_over => return Ok(None),
            Came::Nothing => {}
        }
        let fds = [control.as_fd(), owner.as_fd()];
        match wait_any(&fds, deadline.left()).map_err(Error::os("waiting for the other program"))? {
            Ok(_) => {}
            Err(WaitEnd::Interrupted) if go_on() => {}
            Err(end) => return Err(end.into()),
        }
    }
}

// ---- the owner -----------------------------------------------------------------------------------

/// A caller that has not said what it wants yet.
#[derive(Debug)]
struct Caller {
    control: OwnedFd,
    pid: u32,
    uid: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct Callers {
    last: u64,
    all: BTreeMap<u64, Caller>,
}

/// Where callers of one registration come in.
#[derive(Debug)]
pub struct Listener {
    life: Arc<Life>,
    name: String,
    instance: u64,
    socket: Fd,
    set: PollSet,
    timer: Timer,
    callers: Mutex<Callers>,
}

impl Listener {
    /// Listens; callers may come from now on.
    pub(crate) fn new(life: &Arc<Life>, instance: u64) -> Result<Listener, Error> {
        let name = entry::hexadecimal(instance);
        let socket = life.listen(&name)?;
        let os = Error::os("listening");
        let (set, timer) = (PollSet::new().map_err(&os)?, Timer::new().map_err(&os)?);
        set.add(&socket, LISTENING, Watch::Level).map_err(&os)?;
        set.add(&timer, OVERDUE, Watch::Level).map_err(&os)?;
        let callers = Mutex::default();
        Ok(Listener { life: Arc::clone(life), name, instance, socket, set, timer, callers })
    }

    /// Takes what has come, and gives the sessions that came of it. Never waits for anybody.
    pub fn step<B: Buffer>(&self) -> Result<Vec<Arc<Session<B>>>, Error> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(ready) = self.set.wait(Some(Duration::ZERO)).map_err(Error::os("listening"))? else {
            return Ok(Vec::new());
        };
        let mut sessions = Vec::new();
        for token in ready.tokens() {
            match *token {
                LISTENING => self.take_new(&mut callers)?,
                OVERDUE => self.drop_overdue(&mut callers),
                caller => sessions.extend(self.hear(&mut callers, caller)),
            }
        }
        Ok(sessions)
    }

    fn take_new(&self, callers: &mut Callers) -> Result<(), Error> {
        for _ in 0..AT_ONCE {
            let control = match socket::accept(&self.socket) {
                Ok(control) => control,
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
                // None is free. The caller waits on, and whoever has said nothing makes room.
                Err(Errno::MFILE | Errno::NFILE) if !callers.all.is_empty() => {
                    self.drop_greediest(callers);
                    continue;
                }
                Err(errno) => return Err(Error::os("taking a connection")(errno)),
            };
            let Ok((pid, uid)) = socket::peer(&control) else { continue };
            if uid != own_uid() && uid != 0 {
                refuse(&control, wire::REFUSED_USER);
                continue;
            }
            if callers.all.len() >= MOST_PENDING {
                self.drop_greediest(callers);
            }
            let token = FIRST_CALLER + callers.last;
            callers.last += 1;
            if self.set.add(&control, token, Watch::Level).is_ok() {
                let until = Instant::now() + PATIENCE;
                if callers.all.is_empty() {
                    self.timer.set(Some(PATIENCE));
                }
                callers.all.insert(token, Caller { control, pid, uid, until });
            }
        }
        Ok(())
    }

    /// Drops the oldest caller of the user who has most of them.
    fn drop_greediest(&self, callers: &mut Callers) {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        callers.all.values().for_each(|caller| *counts.entry(caller.uid).or_default() += 1);
        let Some((greediest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            return;
        };
        let oldest = callers.all.iter().find(|(_, caller)| caller.uid == greediest);
        if let Some(token) = oldest.map(|(token, _)| *token) {
            self.forget(callers, token);
        }
    }

    fn drop_overdue(&self, callers: &mut Callers) {
        let now = Instant::now();
        let overdue: Vec<u64> =
            callers.all.iter().filter(|(_, caller)| caller.until <= now).map(|(t, _)| *t).collect();
        overdue.into_iter().for_each(|token| drop(self.forget(callers, token)));
        let next = callers.all.values().next().map(|caller| caller.until - now);
        self.timer.set(next);
    }

    fn forget(&self, callers: &mut Callers, token: u64) -> Option<Caller> {
        let caller = callers.all.remove(&token)?;
        self.set.remove(&caller.control);
        if callers.all.is_empty() {
            self.timer.set(None);
        }
        Some(caller)
    }

    /// Reads what a caller says. Whatever is wrong with it is its own loss.
    fn hear<B: Buffer>(&self, callers: &mut Callers, token: u64) -> Option<Arc<Session<B>>> {
        let came = Packet::receive(&callers.all.get(&token)?.control);
        if matches!(came, Ok(Came::Nothing)) {
            return None;
        }
        let caller = self.forget(callers, token)?;
        match came {
            Ok(Came::Packet(packet, files)) => self.accept(caller, packet, files).ok().flatten(),
            _ => None,
        }
    }

    fn accept<B: Buffer>(
        &self,
        caller: Caller,
        packet: Packet,
        files: Vec<OwnedFd>,
    ) -> Result<Option<Arc<Session<B>>>, Error> {
        let Caller { control, pid, uid, .. } = caller;
        if packet.kind != Kind::Connect || packet.c != self.instance {
            refuse(&control, wire::REFUSED_INSTANCE);
            return Ok(None);
        }
        if packet.a != alongside_shm::VERSION {
            refuse(&control, wire::REFUSED_LAYOUT);
            return Ok(None);
        }
        let found = files.len();
        let Ok([file, data_ear, space_ear]) = <[OwnedFd; 3]>::try_from(files) else {
            return Err(unexpected(packet, found));
        };
        let os = Error::os("taking a connection");
        let handle = socket::peer_process(&control).map_err(&os)?;
        let peer = Arc::new(Process::new(handle, pid).map_err(&os)?);
        let memory = memory::adopt(&file, Access::ReadWrite, MOST_MEMORY_BYTES)?;
        let layout = SessionLayout::verify(memory.region())?;
        let (data_bell, data_for_them) = bell::bell().map_err(&os)?;
        let (space_bell, space_for_them) = bell::bell().map_err(&os)?;
        let answer = Packet { kind: Kind::Accept, a: alongside_shm::VERSION, b: 0, c: 0 };
        answer.send(&control, &[data_for_them.as_fd(), space_for_them.as_fd()]).map_err(&os)?;
        let link = Link::new(Parts {
            memory,
            layout,
            side: Side::Joiner,
            control,
            data_bell,
            space_bell,
            data_ear,
            space_ear,
            peer: Arc::clone(&peer),
        })
        .map_err(os)?;
        let others = Others { peer, uid, child: None, has_group: false, fate: None };
        Ok(Some(Session::new(link, others)))
    }
}

impl AsFd for Listener {
    /// Readable while [`Listener::step`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.socket.is_ours() {
            self.life.stop_listening(&self.name);
        }
    }
}

fn refuse(control: &OwnedFd, reason: u32) {
    let refusal = Packet { kind: Kind::Refuse, a: alongside_shm::VERSION, b: reason, c: 0 };
    let _ = refusal.send(control, &[]);
}
