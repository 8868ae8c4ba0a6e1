//! What the service thread sleeps on: any number of sessions at once.

use alongside_sys::poll::{Beacon, PollSet, Watch};
use alongside_sys::{Errno, WaitEnd};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::endpoint::Endpoint;

const WOKEN: u64 = 0;

/// Waits for arrivals and ends of many sessions. Each has a number of the caller's choice, not 0.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Poller {
    set: PollSet,
    beacon: Beacon,
}

fn failed(errno: Errno) -> PyErr {
    PyOSError::new_err((errno.raw_os_error(), "watching sessions"))
}

#[pymethods]
impl Poller {
    #[new]
    fn new() -> PyResult<Poller> {
        let (set, beacon) = (PollSet::new().map_err(failed)?, Beacon::new().map_err(failed)?);
        set.add(&beacon, WOKEN, Watch::Level).map_err(failed)?;
        Ok(Poller { set, beacon })
    }

    /// Reports `number` as long as the session has a message or its end to give.
    fn add(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        session.with_descriptor(py, |fd| self.set.add(fd, number, Watch::Level))?.map_err(failed)
    }

    /// Reports `number` when the session has ended, and nothing else.
    fn add_end(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        session
            .with_end_descriptor(py, |fd| self.set.add(fd, number, Watch::HangUp))?
            .map_err(failed)
    }

    /// Reports nothing more of a session. One whose descriptors are gone has left by itself.
    fn remove(&self, session: &Endpoint) {
        session.with_watched(|messages, end| {
            self.set.remove(messages);
            self.set.remove(end);
        });
    }

    /// Ends a wait that another thread is in, or the next one.
    fn wake(&self) {
        self.beacon.light();
    }

    /// Waits; gives the numbers that have something to report, maybe none.
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        match py.detach(|| self.set.wait(None)).map_err(failed)? {
            Ok(ready) => {
                if ready.tokens().contains(&WOKEN) {
                    self.beacon.put_out();
                }
                Ok(ready.tokens().iter().copied().filter(|token| *token != WOKEN).collect())
            }
            Err(WaitEnd::Interrupted | WaitEnd::TimedOut) => Ok(Vec::new()),
        }
    }
}
