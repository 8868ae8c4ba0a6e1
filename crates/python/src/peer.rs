//! Facts that Python gets to see: who the other process is, and what a session has done.

use std::ffi::OsString;

use alongside_sys::Errno;
use alongside_sys::process::Process;
use pyo3::prelude::*;

/// The process at the other end of a session, as the kernel named it when the session began.
///
/// Attributes:
///     pid: its process id. Ids are reused; `start_time` tells two processes apart.
///     start_time: when it began, in seconds since the epoch.
///     uid: the user it runs as.
///     executable: the file it runs, or None if this user may not know.
#[pyclass(frozen, get_all, eq, hash, module = "alongside")]
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pid: u32,
    start_time: f64,
    uid: u32,
    executable: Option<OsString>,
}

impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        /// The kernel counts hundredths of a second, and what those are by the clock of the day is never
        /// told twice the same.
        const SAME_S: f64 = 0.1;
        let is_then = (self.start_time - other.start_time).abs() < SAME_S;
        is_then && (self.pid, self.uid) == (other.pid, other.uid)
    }
}

impl std::hash::Hash for Peer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.pid, self.uid).hash(state);
    }
}

impl From<&alongside_core::Identity> for Peer {
    fn from(identity: &alongside_core::Identity) -> Peer {
        Peer {
            pid: identity.pid,
            start_time: identity.start_time_s,
            uid: identity.uid,
            executable: identity.executable.clone().map(Into::into),
        }
    }
}

impl Peer {
    /// The process with this number, if it runs.
    pub(crate) fn of_running(pid: u32) -> PyResult<Option<Peer>> {
        let process = match Process::open(pid) {
            Ok(process) => process,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        };
        Ok(process.user().map(|uid| Peer::from(&process.identity(uid))))
    }
}

#[pymethods]
impl Peer {
    #[new]
    pub(crate) fn new(pid: u32, start_time: f64, uid: u32, executable: Option<OsString>) -> Peer {
        Peer { pid, start_time, uid, executable }
    }

    fn __repr__(&self) -> String {
        let executable = self.executable.as_ref().map_or("?".into(), |path| path.to_string_lossy());
        format!("Peer(pid={}, uid={}, executable={executable:?})", self.pid, self.uid)
    }

    fn __getnewargs__(&self) -> (u32, f64, u32, Option<OsString>) {
        (self.pid, self.start_time, self.uid, self.executable.clone())
    }
}

/// What a session has done so far.
///
/// Attributes:
///     messages_sent, messages_received: messages, the hello not counted.
///     messages_delivered: messages that the other program has been handed.
///     bytes_sent, bytes_received: bytes of these messages, as they were encoded.
///     wakeups: how often a receiver slept and was woken.
///     spins_paid: how often a receiver found a message by looking again, before it had to sleep.
#[pyclass(frozen, get_all, eq, module = "alongside")]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statistics {
    messages_sent: u64,
    messages_received: u64,
    messages_delivered: u64,
    bytes_sent: u64,
    bytes_received: u64,
    wakeups: u64,
    spins_paid: u64,
}

impl From<alongside_core::Statistics> for Statistics {
    fn from(all: alongside_core::Statistics) -> Statistics {
        Statistics {
            messages_sent: all.messages_sent,
            messages_received: all.messages_received,
            messages_delivered: all.messages_delivered,
            bytes_sent: all.bytes_sent,
            bytes_received: all.bytes_received,
            wakeups: all.wakeups,
            spins_paid: all.spins_paid,
        }
    }
}

#[pymethods]
impl Statistics {
    fn __repr__(&self) -> String {
        format!(
            "Statistics(messages_sent={}, messages_received={}, messages_delivered={}, \
             bytes_sent={}, bytes_received={}, wakeups={}, spins_paid={})",
            self.messages_sent,
            self.messages_received,
            self.messages_delivered,
            self.bytes_sent,
            self.bytes_received,
            self.wakeups,
            self.spins_paid,
        )
    }
}
