//! Taking connections, without waiting for anybody.
//!
//! A caller makes the memory (`calling.rs`), so one who says nothing costs the owner one descriptor, and
//! that for [`PATIENCE`] at most. Each connection is looked at when something has come by it. Those that have
//! said nothing are counted: a name has [`MOST_PENDING`] of them at most, and all names of the process together
//! take a quarter of its descriptors, and one each. Beyond that the user with the most of them loses the
//! oldest.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alongside_sys::lock::PerProcess;
use alongside_sys::poll::{PollSet, Timer, Watch};
use alongside_sys::process::{Process, most_descriptors};
use alongside_sys::{Errno, Fd, own_uid, socket};

use crate::adopt::unexpected;
use crate::directory::entry;
use crate::directory::registration::{Allowed, Said};
use crate::directory::store::Life;
use crate::error::Error;
use crate::halves::{Bells, Joined, Other};
use crate::message::Buffer;
use crate::session::{Others, Session};
use crate::wire::{self, Found as Came, Kind, Packet};

/// How long a caller may take until it has said what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody is let in when that has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How many callers of one name may be at that.
const MOST_PENDING: usize = 512;
/// What part of the process's descriptors those of all its names may take.
const THEIR_PART: u64 = 4;
/// How many new callers are looked at in one step, so that others get their turn.
const AT_ONCE: usize = 64;

const LISTENING: u64 = 0;
const OVERDUE: u64 = 1;
const FIRST_CALLER: u64 = 2;

/// A caller that has not said what it wants yet.
#[derive(Debug)]
struct Caller {
    control: OwnedFd,
    pid: u32,
    uid: u32,
    until: Instant,
    _counted: Counted,
}

/// How many there are in this process.
static PENDING: PerProcess<usize> = PerProcess::new();

/// One of them, as long as it lives.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Counted {
        PENDING.with(|pending| *pending += 1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // A forked child may have inherited some that it has not counted.
        PENDING.with(|pending| *pending = pending.saturating_sub(1));
    }
}

/// Whether a name that has so many of them may have no more.
fn is_enough(pending: usize) -> bool {
    let too_many = |all: usize| all as u64 >= most_descriptors() / THEIR_PART;
    pending >= MOST_PENDING || (pending > 0 && too_many(PENDING.with(|all| *all)))
}

#[derive(Debug, Default)]
struct Callers {
    last: u64,
    all: BTreeMap<u64, Caller>,
    /// Nobody is let in for a moment.
    is_deaf: bool,
}

/// A connection that was taken.
#[derive(Debug)]
pub struct Taken<B: Buffer> {
    /// The session.
    pub session: Arc<Session<B>>,
    /// The caller wants to know how the handling of each message ended.
    pub wants_reports: bool,
}

/// Where callers of one registration come in.
#[derive(Debug)]
pub struct Listener {
    life: Arc<Life>,
    instance: u64,
    reports: bool,
    allow: Allowed,
    socket: Fd,
    set: PollSet,
    timer: Timer,
    callers: Mutex<Callers>,
}

impl Listener {
    /// Listens; callers may come from now on. They can be told how messages were handled if it `reports`.
    pub(crate) fn new(life: &Arc<Life>, instance: u64, said: &Said<'_>) -> Result<Listener, Error> {
        let socket = life.listen(&entry::hexadecimal(instance), !said.allow.is_empty())?;
        let os = Error::os("listening");
        let (set, timer) = (PollSet::new().map_err(&os)?, Timer::new().map_err(&os)?);
        set.add(&socket, LISTENING, Watch::Level).map_err(&os)?;
        set.add(&timer, OVERDUE, Watch::Level).map_err(&os)?;
        let callers = Mutex::default();
        Ok(Listener {
            life: Arc::clone(life),
            instance,
            reports: said.reports,
            allow: said.allow.clone(),
            socket,
            set,
            timer,
            callers,
        })
    }

    /// Takes what has come, and gives the sessions that came of it. Never waits for anybody.
    pub fn step<B: Buffer>(&self) -> Result<Vec<Taken<B>>, Error> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(ready) = self.set.wait(Some(Duration::ZERO)).map_err(Error::os("listening"))? else {
            return Ok(Vec::new());
        };
        let (mut sessions, mut failed) = (Vec::new(), None);
        for token in ready.tokens() {
            match *token {
                LISTENING => {
                    let (new, end) = self.take_new(&mut callers);
                    failed = end.err();
                    // Most have said already what they want.
                    sessions.extend(new.into_iter().filter_map(|it| self.hear(&mut callers, it)));
                }
                OVERDUE => self.drop_overdue(&mut callers),
                caller => sessions.extend(self.hear(&mut callers, caller)),
            }
        }
        match failed {
            Some(error) if sessions.is_empty() => Err(error),
            _ => Ok(sessions),
        }
    }

    /// Lets new callers in, and gives their tokens, and how that ended.
    fn take_new(&self, callers: &mut Callers) -> (Vec<u64>, Result<(), Error>) {
        let mut new = Vec::new();
        for _ in 0..AT_ONCE {
            let control = match socket::accept(&self.socket) {
                Ok(control) => control,
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return (new, Ok(())),
                // None is free. The caller waits on, and whoever has said nothing makes room.
                Err(Errno::MFILE | Errno::NFILE) if !callers.all.is_empty() => {
                    self.drop_greediest(callers);
                    continue;
                }
                Err(errno) => {
                    // A moment's peace: what is short may be there again, and callers wait that long.
                    self.set.remove(&self.socket);
                    callers.is_deaf = true;
                    self.timer.set(Some(PAUSE));
                    return (new, Err(Error::os("taking a connection")(errno)));
                }
            };
            let Ok((pid, uid)) = socket::peer(&control) else { continue };
            if !self.may_connect(&control, uid) {
                refuse(&control, wire::REFUSED_USER);
                continue;
            }
            while is_enough(callers.all.len()) {
                self.drop_greediest(callers);
            }
            let token = FIRST_CALLER + callers.last;
            callers.last += 1;
            if self.set.add(&control, token, Watch::Level).is_ok() {
                let until = Instant::now() + PATIENCE;
                if callers.all.is_empty() {
                    self.timer.set(Some(PATIENCE));
                }
                let _counted = Counted::new();
                callers.all.insert(token, Caller { control, pid, uid, until, _counted });
                new.push(token);
            }
        }
        (new, Ok(()))
    }

    fn may_connect(&self, control: &OwnedFd, uid: u32) -> bool {
        let is_of_group = || {
            let groups = socket::peer_groups(control).unwrap_or_default();
            self.allow.groups.iter().any(|allowed| groups.contains(allowed))
        };
        uid == own_uid() || uid == 0 || self.allow.users.contains(&uid) || is_of_group()
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
        if callers.is_deaf {
            callers.is_deaf = self.set.add(&self.socket, LISTENING, Watch::Level).is_err();
        }
        let now = Instant::now();
        let overdue: Vec<u64> =
            callers.all.iter().filter(|(_, caller)| caller.until <= now).map(|(t, _)| *t).collect();
        overdue.into_iter().for_each(|token| drop(self.forget(callers, token)));
        let next = callers.all.values().next().map(|caller| caller.until - now);
        self.timer.set(if callers.is_deaf { Some(PAUSE) } else { next });
    }

    fn forget(&self, callers: &mut Callers, token: u64) -> Option<Caller> {
        let caller = callers.all.remove(&token)?;
        self.set.remove(&caller.control);
        if callers.all.is_empty() && !callers.is_deaf {
            self.timer.set(None);
        }
        Some(caller)
    }

    /// Reads what a caller says. Whatever is wrong with it is its own loss.
    fn hear<B: Buffer>(&self, callers: &mut Callers, token: u64) -> Option<Taken<B>> {
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
    ) -> Result<Option<Taken<B>>, Error> {
        let Caller { control, pid, uid, .. } = caller;
        if packet.kind != Kind::Connect || packet.c != self.instance {
            refuse(&control, wire::REFUSED_INSTANCE);
            return Ok(None);
        }
        if packet.a != alongside_shm::VERSION {
            refuse(&control, wire::REFUSED_LAYOUT);
            return Ok(None);
        }
        let wants_reports = packet.b & wire::WANTS_REPORTS != 0;
        if wants_reports && !self.reports {
            refuse(&control, wire::REFUSED_REPORTS);
            return Ok(None);
        }
        let found = files.len();
        let Ok([file, ears @ ..]) = <[OwnedFd; 3]>::try_from(files) else {
            return Err(unexpected(packet, found));
        };
        let os = Error::os("taking a connection");
        let handle = socket::peer_process(&control).map_err(&os)?;
        let peer = Arc::new(Process::new(handle, pid).map_err(&os)?);
        let joined = Joined::verify(&file)?;
        let bells = Bells::new().map_err(&os)?;
        let answer = Packet { kind: Kind::Accept, a: alongside_shm::VERSION, b: 0, c: 0 };
        answer.send(&control, &bells.files()).map_err(&os)?;
        let other = Other { control, ears, peer: Arc::clone(&peer) };
        let link = joined.link(bells, other).map_err(os)?;
        let others = Others { peer, uid, child: None, has_group: false, fate: None };
        Ok(Some(Taken { session: Session::new(link, others), wants_reports }))
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
            self.life.stop_listening(&entry::hexadecimal(self.instance));
        }
    }
}

fn refuse(control: &OwnedFd, reason: u32) {
    let refusal = Packet { kind: Kind::Refuse, a: alongside_shm::VERSION, b: reason, c: 0 };
    let _ = refusal.send(control, &[]);
}
