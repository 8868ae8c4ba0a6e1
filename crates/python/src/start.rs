//! Starting a program, and taking up the session that one was started with.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use alongside_core::{Deadline, Start, StartFailure, ready_environment};
use alongside_sys::Errno;
use alongside_sys::poll::Beacon;
use alongside_sys::process::{EndSignal, Process};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::body::Body;
use crate::decode::LAST_CODEC;
use crate::encode::Payload;
use crate::endpoint::{Connection, deadline, go_on};
use crate::errors::{not_adopted, start_failure, to_python};

/// By which another thread ends a start that waits for its program.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Canceller {
    beacon: Beacon,
}

#[pymethods]
impl Canceller {
    #[new]
    fn new() -> PyResult<Canceller> {
        let failed = |errno: Errno| PyOSError::new_err((errno.raw_os_error(), "making an eventfd"));
        Ok(Canceller { beacon: Beacon::new().map_err(failed)? })
    }

    /// Has the program be ended that has not taken up its session yet.
    fn cancel(&self) {
        self.beacon.light();
    }
}

/// Starts a program and gives the connection to it.
///
/// `environment` is the whole of it, as `KEY=value`; `stdio` are descriptors or None for this
/// program's own; `timeout` is in seconds, None for ever; `canceller` ends the wait.
#[pyfunction]
#[pyo3(signature = (command, environment, cwd, stdio, new_group, die_with_parent, max_message, hello, timeout, canceller))]
#[expect(clippy::too_many_arguments, reason = "the parameters of the public start()")]
pub(crate) fn start(
    py: Python<'_>,
    command: Vec<OsString>,
    environment: Vec<Vec<u8>>,
    cwd: Option<PathBuf>,
    stdio: [Option<RawFd>; 3],
    new_group: bool,
    die_with_parent: bool,
    max_message: u64,
    hello: &Bound<'_, PyAny>,
    timeout: Option<f64>,
    canceller: Option<&Canceller>,
) -> PyResult<Connection> {
    let until = deadline(timeout)?;
    let hello = Payload::of(hello, None)?;
    let needs_hello = matches!(&hello, Payload::Packed(packed) if packed.needs_leases());
    let (codec, bytes) = (hello.codec(), hello.bytes());
    let words: Vec<&OsStr> = command.iter().map(OsString::as_os_str).collect();
    let options = Start {
        command: &words,
        environment: ready(environment)?,
        directory: cwd.as_deref(),
        stdio,
        new_group,
        die_with_parent,
        max_message_bytes: max_message,
        hello: (!needs_hello).then_some((codec, bytes)),
        cancel: canceller.map(|canceller| &canceller.beacon),
    };
    let mut raised = None;
    alongside_sys::look_again_soon();
    let started = py.detach(|| alongside_core::start(options, until, &mut || go_on(&mut raised)));
    match (started, raised) {
        (Ok(core), _) => Ok(Connection::started(core, needs_hello)),
        (Err(StartFailure::Other(alongside_core::Error::Interrupted)), Some(error)) => Err(error),
        (Err(failure), _) => Err(start_failure(py, failure, &shown(&command))),
    }
}

/// A program that was started without a session.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Child {
    process: Process,
}

#[pymethods]
impl Child {
    /// Its number.
    #[getter]
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The descriptor that can be read when it has ended.
    fn fileno(&self) -> RawFd {
        self.process.as_fd().as_raw_fd()
    }

    /// Whether it has ended.
    fn is_over(&self) -> bool {
        self.process.is_over()
    }

    /// How it ended, as `subprocess` says it; None if that is not known, or not so.
    fn exit_status(&self, py: Python<'_>) -> Option<i32> {
        py.detach(|| self.process.exit_status())
    }

    /// Ends it.
    fn kill(&self) -> PyResult<()> {
        let failed = |errno: Errno| PyOSError::new_err((errno.raw_os_error(), "ending a program"));
        self.process.signal(EndSignal::Kill, false).map_err(failed)
    }
}

/// Starts a program without a session; see `start`.
#[pyfunction]
pub(crate) fn run(
    py: Python<'_>,
    command: Vec<OsString>,
    environment: Vec<Vec<u8>>,
    stdio: [Option<RawFd>; 3],
    detached: bool,
) -> PyResult<Child> {
    let words: Vec<&OsStr> = command.iter().map(OsString::as_os_str).collect();
    let environment = ready(environment)?;
    let started = py.detach(|| alongside_core::run(&words, &environment, stdio, detached));
    let process = started.map_err(|failure| start_failure(py, failure, &shown(&command)))?;
    Ok(Child { process })
}

/// An environment for a program.
fn ready(pairs: Vec<Vec<u8>>) -> PyResult<Vec<CString>> {
    let pairs = pairs.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let pairs =
        pairs.map_err(|_| PyValueError::new_err("embedded null byte in the environment"))?;
    Ok(ready_environment(pairs.into_iter()))
}

/// Takes up the session that `variable` offers.
#[pyfunction]
pub(crate) fn adopt(py: Python<'_>, variable: &str, timeout: Option<f64>) -> PyResult<Connection> {
    let until: Deadline = deadline(timeout)?;
    let mut raised = None;
    alongside_sys::look_again_soon();
    let adopted =
        py.detach(|| alongside_core::adopt::<Body>(variable, until, &mut || go_on(&mut raised)));
    if let Some(error) = raised {
        return Err(error);
    }
    let (core, hello) = adopted.map_err(|reason| not_adopted(py, reason))?;
    if hello.codec > LAST_CODEC {
        let (found, last) = (hello.codec, LAST_CODEC);
        let text = format!("the hello has codec {found}, this program knows 0 to {last}");
        return Err(to_python(py, alongside_core::Error::Incompatible(text), None));
    }
    Connection::adopted(py, core, hello)
}

/// A command as people read it, shortened.
fn shown(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    let first = line.lines().next().unwrap_or_default();
    let short: String = first.chars().take(80).collect();
    if short.len() < line.len() { short + "…" } else { short }
}
