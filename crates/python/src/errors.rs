//! The one place where the core's errors become Python's exceptions.

use alongside_core::{Error, NotAdopted, StartFailure};
use alongside_sys::is_main_thread;
use pyo3::exceptions::{PyMemoryError, PyOSError, PySystemExit, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The most that `max_message` may be.
const MOST_MESSAGE_BYTES: u64 = 1 << 62;

/// An exception class of `alongside._errors`, made with a text.
pub(crate) fn raise(py: Python<'_>, class: &str, text: &str) -> PyErr {
    raise_with(py, class, text, |_| Ok(()))
}

/// The exception for something that was closed by this program.
pub(crate) fn raise_closed(py: Python<'_>, text: &str) -> PyErr {
    raise_with(py, "Closed", text, |named| named.set_item("by", "me"))
}

fn raise_with(
    py: Python<'_>,
    class: &str,
    text: &str,
    extra: impl FnOnce(&Bound<'_, PyDict>) -> PyResult<()>,
) -> PyErr {
    let make = || {
        let named = PyDict::new(py);
        extra(&named)?;
        py.import("alongside._errors")?.getattr(class)?.call((text,), Some(&named))
    };
    make().map_or_else(|error| error, PyErr::from_value)
}

/// The exception for an error of a session with the process `pid`, if there is one already.
/// `Interrupted` is handled before it comes here.
pub(crate) fn to_python(py: Python<'_>, error: Error, pid: Option<u32>) -> PyErr {
    let other = match pid {
        Some(pid) => format!("the other program (pid {pid})"),
        None => "the other program".into(),
    };
    match error {
        Error::Closed { by_me } => {
            let (text, by) = if by_me {
                ("the session is closed".into(), "me")
            } else {
                (format!("{other} has closed the session"), "peer")
            };
            raise_with(py, "Closed", &text, |named| named.set_item("by", by))
        }
        Error::PeerGone { exit_status } => {
            let text = format!("{other} is gone{}", how(exit_status));
            raise_with(py, "PeerGone", &text, |named| named.set_item("exit_status", exit_status))
        }
        Error::TimedOut => raise(py, "TimedOut", "the deadline has passed"),
        Error::WouldBlock => raise(py, "WouldBlock", "this would have to wait"),
        Error::Interrupted => py.check_signals().err().unwrap_or_else(|| {
            pyo3::exceptions::PyInterruptedError::new_err("interrupted by a signal")
        }),
        Error::Busy(text) => raise(py, "Busy", text),
        Error::TooLarge { bytes, limit } => raise(
            py,
            "TooLarge",
            &if bytes > MOST_MESSAGE_BYTES {
                format!("a message of {bytes} bytes, the limit of this session is {limit}")
            } else {
                format!(
                    "a message of {bytes} bytes, the limit of this session is {limit}\n\
                     start(..., max_message={bytes}) allows it"
                )
            },
        ),
        Error::BeyondLimit { bytes, limit } => raise(
            py,
            "TooLarge",
            &format!(
                "{bytes} bytes of memory to lend, session.lend_limit is {limit}\n\
                 a larger lend_limit allows it"
            ),
        ),
        Error::BufferTooSmall { bytes, space } => PyValueError::new_err(format!(
            "the next message has {bytes} bytes, the buffer {space}\nthe message can still be received"
        )),
        Error::OtherCodec(_) => raise(
            py,
            "Invalid",
            "the next message is data, not bytes\nreceive() gives it; nothing is lost",
        ),
        Error::Incompatible(text) => raise(py, "Incompatible", &text),
        Error::Corrupt(text) => raise(py, "Corrupt", &text),
        Error::Denied(text) => raise(py, "Denied", &text),
        Error::Forked => raise(
            py,
            "HandleLost",
            "this session belongs to the process that forked this one\n\
             start a session of its own here, or let the parent do the talking",
        ),
        Error::HandleLost(_) => raise(
            py,
            "HandleLost",
            "a descriptor of this session was closed behind its back\n\
             a program that closes all descriptors has to close its sessions first",
        ),
        Error::Os(what, errno) | Error::Lost(what, errno) => {
            os_error(py, errno.raw_os_error(), Some(what), None)
        }
        Error::File(path, errno) => os_error(py, errno.raw_os_error(), None, Some(&path)),
        Error::NotFound(text) => raise(py, "NotFound", &text),
        Error::NoScope(text) => raise(py, "NoScope", &text),
        Error::Rule(text) => PyValueError::new_err(text),
        // Of other threads only those are left that the program does not wait for. They end, and nobody
        // is told, as nobody is told of those that sleep.
        Error::Ending(_) if !is_main_thread() => PySystemExit::new_err(()),
        Error::Ending(text) => PyValueError::new_err(text),
        Error::Stuck(text) => raise(py, "TimedOut", &text),
        Error::ScopeLost(text) => raise(py, "ScopeLost", &text),
        Error::NotLendable(text) => PyValueError::new_err(text),
        Error::NoMemory(bytes) => PyMemoryError::new_err(format!(
            "no memory for a message of {bytes} bytes; it can still be received"
        )),
    }
}

fn how(exit_status: Option<i32>) -> String {
    match exit_status {
        Some(status) if status < 0 => format!(": ended by signal {}", -status),
        Some(status) => format!(": ended with exit status {status}"),
        None => String::new(),
    }
}

/// An OSError of the class that belongs to its number.
fn os_error(
    py: Python<'_>,
    errno: i32,
    what: Option<&str>,
    path: Option<&std::path::Path>,
) -> PyErr {
    let text = py
        .import("os")
        .and_then(|os| os.call_method1("strerror", (errno,)))
        .and_then(|text| text.extract::<String>())
        .unwrap_or_default();
    let text = what.map_or_else(|| text.clone(), |what| format!("{what}: {text}"));
    match path {
        Some(path) => PyOSError::new_err((errno, text, path.as_os_str().to_owned())),
        None => PyOSError::new_err((errno, text)),
    }
}

/// The exception for a start that failed. Completed in Python, where the program's stderr is at
/// hand.
pub(crate) fn start_failure(py: Python<'_>, failure: StartFailure, command: &str) -> PyErr {
    match failure {
        StartFailure::NotRun { path, errno } => {
            os_error(py, errno.raw_os_error(), None, Some(&path))
        }
        StartFailure::Ended { exit_status } => {
            let text = match exit_status {
                Some(0) | None => format!(
                    "{command:?} {} without taking up its session\n\
                     it has to call alongside.session(), and a wrapper has to pass on what it inherits",
                    if exit_status.is_some() { "ended with exit status 0" } else { "let go" },
                ),
                Some(status) => format!(
                    "{command:?}{} before it took up its session",
                    how(Some(status)).trim_start_matches(':'),
                ),
            };
            raise_with(py, "StartFailed", &text, |named| named.set_item("exit_status", exit_status))
        }
        StartFailure::Other(Error::TimedOut) => raise(
            py,
            "TimedOut",
            &format!(
                "{command:?} did not take up its session before the deadline, and was ended\n\
                 it has to call alongside.session(); start(..., timeout=) sets the deadline"
            ),
        ),
        StartFailure::Cancelled => raise(
            py,
            "StartFailed",
            &format!("\"{command}\" was ended: nobody waits for it any more"),
        ),
        StartFailure::Other(error) => to_python(py, error, None),
    }
}

/// The exception for a session that could not be taken up.
pub(crate) fn not_adopted(py: Python<'_>, reason: NotAdopted) -> PyErr {
    match reason {
        NotAdopted::StarterGone => raise(
            py,
            "NotStarted",
            "the program that started this one does not wait for it any more",
        ),
        NotAdopted::Other(Error::TimedOut) => {
            raise(py, "TimedOut", "the program that started this one did not hand over the session")
        }
        NotAdopted::Other(error) => to_python(py, error, None),
    }
}
