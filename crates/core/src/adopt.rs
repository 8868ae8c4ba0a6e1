//! Taking up the session that this program was started with.
//!
//! The starter leaves one socket open in the new program and names it, with its inode, in one
//! environment variable. That socket is only a meeting place: whoever inherits it in the end, through
//! whatever wrappers, makes a socket pair of its own and sends one end through. So the kernel names the
//! adopter itself, and not the starter or a wrapper, as the maker of the connection.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use alongside_sys::poll::wait_any;
use alongside_sys::process::Process;
use alongside_sys::{Errno, WaitEnd, own_uid, socket, spawn};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::halves::{Bells, Joined, Other};
use crate::message::{Buffer, Message};
use crate::receiving::Received;
use crate::session::{Others, Session};
use crate::wire::{self, Found, Kind, Packet};

/// Names the meeting place: `version:descriptor:inode`.
pub const ENVIRONMENT_VARIABLE: &str = "ALONGSIDE_SESSION";

/// Why no session was taken up.
#[derive(Clone, Debug, PartialEq)]
pub enum NotAdopted {
    /// The starter does not wait any more.
    StarterGone,
    /// Something else.
    Other(Error),
}

impl<E: Into<Error>> From<E> for NotAdopted {
    fn from(error: E) -> NotAdopted {
        NotAdopted::Other(error.into())
    }
}

/// Takes up the session that `variable`, the value of [`ENVIRONMENT_VARIABLE`], offers. Gives the
/// session and the first data. `go_on` is asked whenever a signal has arrived.
pub fn adopt<B: Buffer>(
    variable: &str,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Arc<Session<B>>, Message<B>), NotAdopted> {
    let meeting = meeting_place(variable)?;
    let os = Error::os("taking up the session");
    let (starter_pid, starter_uid) = socket::peer(&meeting).map_err(&os)?;
    check_peer("starter", starter_pid, starter_uid)?;
    let starter = socket::peer_process(&meeting).map_err(&os)?;
    let starter = Arc::new(Process::new(starter, starter_pid).map_err(&os)?);

    let (control, theirs) = socket::pair().map_err(&os)?;
    let bells = Bells::new().map_err(&os)?;
    let packet = Packet { kind: Kind::Adopt, a: alongside_shm::VERSION, b: 0, c: 0 };
    let [data, space] = bells.files();
    match packet.send(&meeting, &[theirs.as_fd(), data, space]) {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => return Err(NotAdopted::StarterGone),
        Err(errno) => return Err(os(errno).into()),
    }
    drop((theirs, meeting));

    let (packet, files) = await_packet(&control, deadline, go_on)?;
    if packet.kind == Kind::Refuse {
        return Err(other_layout(packet.a).into());
    }
    let (mut files, shares_fate) = match packet {
        Packet { kind: Kind::Offer, b, .. } if files.len() == 3 + (b & 1) as usize => {
            (files.into_iter(), b & wire::SHARES_FATE != 0)
        }
        packet => return Err(unexpected(packet, files.len()).into()),
    };
    let (Some(file), Some(data_ear), Some(space_ear)) = (files.next(), files.next(), files.next())
    else {
        return Err(unexpected(packet, 0).into());
    };
    let fate = files.next();
    if shares_fate && !fate.as_ref().is_some_and(spawn::tie_life) {
        return Err(NotAdopted::StarterGone);
    }
    let other = Other { control, ears: [data_ear, space_ear], peer: Arc::clone(&starter) };
    let link = Joined::verify(&file)?.link(bells, other).map_err(&os)?;
    let others = Others { peer: starter, uid: starter_uid, child: None, has_group: false, fate };
    let session = Session::new(link, others);
    let first = loop {
        match session.receive(deadline, None) {
            Err(Error::Interrupted) if go_on() => {}
            first => break first?,
        }
    };
    match first {
        Received::Message(hello) if hello.is_hello => Ok((session, hello)),
        _ => Err(Error::Corrupt("the starter's first message is not the hello".into()).into()),
    }
}

/// The socket that the variable names.
fn meeting_place(variable: &str) -> Result<OwnedFd, Error> {
    let mut parts = variable.split(':');
    let numbers: [Option<u64>; 3] =
        std::array::from_fn(|_| parts.next().and_then(|part| part.parse().ok()));
    let garbage = || {
        Error::Corrupt(format!(
            "{ENVIRONMENT_VARIABLE} is {variable:?}, expected \"{}:DESCRIPTOR:INODE\"",
            wire::VERSION
        ))
    };
    let Some(version) = numbers[0] else { return Err(garbage()) };
    if version != u64::from(wire::VERSION) {
        return Err(Error::Incompatible(format!(
            "{ENVIRONMENT_VARIABLE} is of version {version}, this program speaks {}",
            wire::VERSION
        )));
    }
    let [_, Some(descriptor), Some(inode)] = numbers else { return Err(garbage()) };
    let (Ok(descriptor), None) = (i32::try_from(descriptor), parts.next()) else {
        return Err(garbage());
    };
    socket::claim(descriptor, inode).map_err(|found| {
        let found = match found {
            Some(inode) => format!("has inode {inode} here"),
            None => "is closed here".into(),
        };
        Error::Corrupt(format!(
            "{ENVIRONMENT_VARIABLE} names descriptor {descriptor} with inode {inode}, but that \
             {found}\na wrapper between the two programs may have closed it: it has to pass \
             descriptor {descriptor} on"
        ))
    })
}

/// Only one's own programs, and root's, may be at the other end.
pub(crate) fn check_peer(role: &str, pid: u32, uid: u32) -> Result<(), Error> {
    let me = own_uid();
    if pid == 0 {
        return Err(Error::Denied(format!(
            "the {role} runs in a process namespace that this program cannot see"
        )));
    }
    if uid == me || uid == 0 || me == 0 {
        return Ok(());
    }
    Err(Error::Denied(format!("the {role} runs as user {uid}, this program as user {me}")))
}

pub(crate) fn other_layout(found: u32) -> Error {
    Error::Incompatible(format!(
        "the other program's memory has layout {found}, this program knows {}",
        alongside_shm::VERSION
    ))
}

pub(crate) fn unexpected(packet: Packet, files: usize) -> Error {
    Error::Corrupt(format!(
        "the other program sent a packet of kind {:?} with {files} descriptors amid the handshake",
        packet.kind
    ))
}

/// Waits for the starter's answer.
fn await_packet(
    control: &OwnedFd,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Packet, Vec<OwnedFd>), NotAdopted> {
    loop {
        match Packet::receive(control)? {
            Found::Packet(packet, files) => return Ok((packet, files)),
            Found::HungUp => return Err(NotAdopted::StarterGone),
            Found::Nothing => {}
        }
        let waited = wait_any(&[control.as_fd()], deadline.left())
            .map_err(Error::os("waiting for the starter"))?;
        match waited {
            Err(WaitEnd::Interrupted) if go_on() => {}
            waited => drop(waited.map_err(Error::from)?),
        }
    }
}
