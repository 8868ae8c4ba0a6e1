//! The gate of a name: who has locked it may open and close the name's files.
//!
//! There are 256 files for all names, which are never removed, and in them a stretch of bytes for each name,
//! so that one name's comings and goings hold up no other's. The stretch is as many bytes long as the number
//! of the process that has locked it: so it can be told who is in the way.
//!
//! A scope may have several places, one of which may have appeared a moment ago. So the gate is locked in all
//! of them, in their order, and then they are listed again: if one was missing, all begins anew.

use std::time::{Duration, Instant};

use alongside_sys::file::{self, Facts, Hold};
use alongside_sys::{Fd, is_main_thread, own_uid};

use crate::deadline::Deadline;
use crate::directory::scope::{Home, Scope};
use crate::error::Error;
use crate::shared::signed;

const GATES: &str = "gates";
/// A process's number has so many bits.
const PID_BITS: u32 = 22;
/// How long to wait until the next look, the first time and at most.
const FIRST_NAP: Duration = Duration::from_micros(20);
const LONGEST_NAP: Duration = Duration::from_millis(1);
/// So long nobody looks for signals.
const A_MOMENT: Duration = Duration::from_millis(50);

/// The gate of one name, locked in all places until this is dropped.
#[derive(Debug)]
pub(crate) struct Gates {
    /// The places, that in which new things are made first.
    pub(crate) homes: Vec<Home>,
    pub(crate) locked: Vec<Fd>,
}

/// Where a name's stretch is.
fn place(number: u64) -> (String, (u64, u64)) {
    let spread = (number >> 8) & ((1 << 40) - 1);
    (format!("{:02x}", number & 0xff), signed(spread << PID_BITS))
}

/// The gate in one place, locked; or else the number of the process that has it.
pub(crate) fn try_one(home: &Home, number: u64) -> Result<Result<Fd, u32>, Error> {
    let (name, stretch) = place(number);
    let gates = home.directory.part(GATES).map_err(Error::file(home.directory.path()))?;
    let path = gates.path().join(&name);
    let failed = |errno| Error::File(path.clone(), errno);
    let (gate, facts) = gates.shared_file_or_new(&name).map_err(&failed)?;
    if facts.uid != own_uid() || facts.mode & 0o077 != 0 {
        return Err(foreign(&path, &facts));
    }
    if !file::lock(&gate, Hold::Alone, stretch.0, stretch.1).map_err(&failed)? {
        let holder = file::holder(&gate, Hold::Alone, stretch.0, 1).map_err(&failed)?;
        return Ok(Err(holder.map_or(0, |(_, bytes)| bytes as u32)));
    }
    // Removed by somebody, and made anew by somebody else.
    let named = gates.facts_of(&name).map(|facts| facts.identity());
    if named != Ok(facts.identity()) {
        return Ok(Err(0));
    }
    Ok(Ok(gate))
}

/// What is not as this library makes it.
pub(crate) fn foreign(path: &std::path::Path, facts: &Facts) -> Error {
    let shown = path.display();
    Error::Denied(format!(
        "{shown} is not this user's alone: it belongs to user {} and has mode {:04o}\nremove it",
        facts.uid, facts.mode
    ))
}

/// Has who waits in short sleeps look for signals now and then, in the thread that runs their handlers.
#[derive(Debug)]
pub(crate) struct Attention {
    begun: Option<Instant>,
}

impl Attention {
    pub(crate) fn new() -> Attention {
        Attention { begun: is_main_thread().then(Instant::now) }
    }

    pub(crate) fn look(&self) -> Result<(), Error> {
        match self.begun {
            Some(begun) if begun.elapsed() > A_MOMENT => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }
}

/// A wait for somebody who is in the middle of something short.
#[derive(Debug)]
pub(crate) struct Patience {
    begun: Instant,
    nap: Duration,
    until: Deadline,
}

impl Patience {
    pub(crate) fn new(until: Deadline) -> Patience {
        Patience { begun: Instant::now(), nap: FIRST_NAP, until }
    }

    /// Waits a little. Now and then it is interrupted, so that the caller looks for signals.
    pub(crate) fn nap(&mut self) -> Result<(), Error> {
        if self.until.is_over() {
            return Err(Error::TimedOut);
        }
        if self.begun.elapsed() > A_MOMENT {
            return Err(Error::Interrupted);
        }
        std::thread::sleep(self.nap);
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        Ok(())
    }
}

impl Gates {
    /// Locks the gate of a name. `makes` it sure that there is a place for new things.
    pub(crate) fn lock(
        scope: &Scope,
        name: &str,
        number: u64,
        makes: bool,
        until: Deadline,
    ) -> Result<Gates, Error> {
        let mut patience = Patience::new(until);
        loop {
            let in_the_way = match Gates::try_lock(scope, number, makes)? {
                Ok(gates) => return Ok(gates),
                Err(pid) => pid,
            };
            match patience.nap() {
                Err(Error::TimedOut) => return Err(stuck(name, in_the_way)),
                rested => rested?,
            }
        }
    }

    fn try_lock(scope: &Scope, number: u64, makes: bool) -> Result<Result<Gates, u32>, Error> {
        let homes = own(scope)?;
        if makes && !homes.first().is_some_and(|home| home.is_first) {
            // It is made; if it is there, but does not count, that is told. Then all begins anew.
            scope.first()?;
            return Ok(Err(0));
        }
        let mut locked = Vec::with_capacity(homes.len());
        for home in &homes {
            match try_one(home, number)? {
                Ok(gate) => locked.push(gate),
                Err(pid) => return Ok(Err(pid)),
            }
        }
        let facts = homes.iter().filter_map(|home| home.directory.facts().ok());
        let seen: Vec<_> = facts.map(|facts| facts.identity()).collect();
        Ok(if seen == scope.identities()? { Ok(Gates { homes, locked }) } else { Err(0) })
    }
}

/// This user's places.
pub(crate) fn own(scope: &Scope) -> Result<Vec<Home>, Error> {
    let owner = own_uid();
    scope.existing(&|uid| uid == owner)
}

fn stuck(name: &str, pid: u32) -> Error {
    let who = if pid == 0 { "another process".into() } else { format!("process {pid}") };
    Error::Stuck(format!(
        "{who} is in the middle of opening or closing {name:?}, and does not go on\n\
         alongside doctor says why"
    ))
}
