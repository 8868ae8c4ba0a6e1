//! What a loop watches: any number of sessions at once, through one descriptor.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use alongside_core::Armed;
use alongside_core::shared::Hearing;
use alongside_sys::lock::Timed;
use alongside_sys::poll::{Beacon, PollSet, Watch};
use alongside_sys::{Errno, WaitEnd};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::cell::Changes;
use crate::directory::{Registration, Watch as NameWatch};
use crate::endpoint::Endpoint;
use crate::errors::raise;

const WOKEN: u64 = 0;
const HEARD: u64 = u64::MAX;

/// Waits for arrivals and ends of many sessions. Each has a number of the caller's choice, that counts from 1.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Poller {
    set: PollSet,
    beacon: Beacon,
    /// Where cells are heard of, and how many of them are watched.
    hearing: Timed<Option<(Arc<Hearing>, usize)>>,
}

/// A place where a loop's tasks wait for everything but messages.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Aside {
    core: alongside_core::Aside,
}

#[pymethods]
impl Aside {
    #[new]
    fn new(py: Python<'_>, session: &Endpoint) -> PyResult<Aside> {
        let core = py.detach(|| session.core.aside()).map_err(|error| session.failed(py, error))?;
        Ok(Aside { core })
    }

    /// Has it be reported at the next change; what is waited for has to be looked for once more after
    /// this. Gives after how many seconds to look again whatever is reported; None for never.
    fn arm(&self, py: Python<'_>, session: &Endpoint, for_memory: bool) -> PyResult<Option<f64>> {
        const SOON_S: f64 = 0.02;
        match py.detach(|| session.core.arm_aside(&self.core, for_memory)) {
            Ok(Armed::Wait) => Ok(None),
            Ok(Armed::LookAgain) => Ok(Some(SOON_S)),
            Err(error) => Err(session.failed(py, error)),
        }
    }
}

/// A descriptor that is readable once it is lit, from whatever thread. A forked child has none of it.
#[pyclass(name = "Beacon", frozen, module = "alongside._core")]
pub(crate) struct Signal {
    beacon: Beacon,
}

#[pymethods]
impl Signal {
    #[new]
    fn new() -> PyResult<Signal> {
        Ok(Signal { beacon: Beacon::new().map_err(failed)? })
    }

    /// Makes it readable, for good; of no effect in a forked child.
    fn light(&self) {
        if self.beacon.is_ours() {
            self.beacon.light();
        }
    }

    /// The descriptor; -1 in a forked child.
    fn fileno(&self) -> i32 {
        if self.beacon.is_ours() { self.beacon.as_fd().as_raw_fd() } else { -1 }
    }
}

fn failed(errno: Errno) -> PyErr {
    PyOSError::new_err((errno.raw_os_error(), "watching sessions"))
}

impl Poller {
    fn check_ours(&self) -> PyResult<()> {
        if self.set.is_ours() {
            return Ok(());
        }
        let text = "this loop belongs to the process that forked this one\nmake another one here";
        Err(Python::attach(|py| raise(py, "HandleLost", text)))
    }

    /// Watches, for one more cell, where cells are heard of.
    fn listen(&self, here: &Arc<Hearing>) -> Result<(), Errno> {
        let mut hearing = self.hearing.lock_for_sure();
        if hearing.is_none() {
            self.set.add(&**here, HEARD, Watch::Level)?;
        }
        hearing.get_or_insert_with(|| (Arc::clone(here), 0)).1 += 1;
        Ok(())
    }

    /// Has the cells of this process told that they were written; adds the numbers of those watched here.
    fn hand_out(&self, numbers: &mut Vec<u64>) -> Result<(), Errno> {
        if let Some((hearing, _)) = &*self.hearing.lock_for_sure() {
            hearing.hand_out()?;
        }
        if let Ok(told) = self.set.wait(Some(Duration::ZERO))? {
            let is_known = |number: &u64| numbers.contains(number);
            let new: Vec<u64> = told.tokens().iter().copied().filter(|it| !is_known(it)).collect();
            numbers.extend(new);
        }
        Ok(())
    }
}

#[pymethods]
impl Poller {
    #[new]
    fn new() -> PyResult<Poller> {
        let (set, beacon) = (PollSet::new().map_err(failed)?, Beacon::new().map_err(failed)?);
        set.add(&beacon, WOKEN, Watch::Level).map_err(failed)?;
        Ok(Poller { set, beacon, hearing: Timed::default() })
    }

    /// Reports `number` as long as the session has a message or its end to give.
    fn add(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        self.check_ours()?;
        session.with_descriptor(py, |fd| self.set.add(fd, number, Watch::Level))?.map_err(failed)
    }

    /// Reports `number` once each time the session has a message or its end to give, after there was
    /// none.
    fn add_once(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        self.check_ours()?;
        session.with_descriptor(py, |fd| self.set.add(fd, number, Watch::Edge))?.map_err(failed)
    }

    /// Reports `number` when the session has ended, and nothing else.
    fn add_end(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        self.check_ours()?;
        session
            .with_end_descriptor(py, |fd| self.set.add(fd, number, Watch::HangUp))?
            .map_err(failed)
    }

    /// Reports `number` after anything happened but messages.
    fn add_aside(&self, aside: &Aside, number: u64) -> PyResult<()> {
        self.check_ours()?;
        self.set.add(&aside.core, number, Watch::Edge).map_err(failed)
    }

    /// Reports `number` when the started program, or on its side the session, has ended.
    fn add_exit(&self, py: Python<'_>, session: &Endpoint, number: u64) -> PyResult<()> {
        self.check_ours()?;
        let watch = if session.has_started() { Watch::Edge } else { Watch::HangUp };
        let added = session.with_exit(py, |fd| self.set.add(fd, number, watch))?;
        added.transpose().map(drop).map_err(failed)
    }

    /// Reports `number` as long as callers wait to be let in.
    fn add_callers(&self, registration: &Registration, number: u64) -> PyResult<()> {
        self.check_ours()?;
        match registration.core.listener() {
            Some(listener) => self.set.add(&*listener, number, Watch::Level).map_err(failed),
            None => Ok(()),
        }
    }

    /// Reports no more callers.
    fn remove_callers(&self, registration: &Registration) {
        if let Some(listener) = registration.core.listener().filter(|_| self.set.is_ours()) {
            self.set.remove(&*listener);
        }
    }

    /// Reports `number` as long as a watch has changes to give.
    fn add_changes(&self, watch: &NameWatch, number: u64) -> PyResult<()> {
        self.check_ours()?;
        self.set.add(&watch.core, number, Watch::Level).map_err(failed)
    }

    /// Reports no more changes.
    fn remove_changes(&self, watch: &NameWatch) {
        if self.set.is_ours() {
            self.set.remove(&watch.core);
        }
    }

    /// Reports `number` as long as a cell may have changed.
    fn add_cell(&self, changes: &Changes, number: u64) -> PyResult<()> {
        self.check_ours()?;
        self.set.add(&changes.core, number, Watch::Level).map_err(failed)?;
        let listens = self.listen(changes.core.hearing());
        if listens.is_err() {
            self.set.remove(&changes.core);
        }
        listens.map_err(failed)
    }

    /// Reports no more changes of a cell.
    fn remove_cell(&self, changes: &Changes) {
        if !self.set.is_ours() || !changes.core.is_ours() {
            return;
        }
        self.set.remove(&changes.core);
        let mut hearing = self.hearing.lock_for_sure();
        let Some((of_all, count)) = hearing.as_mut() else { return };
        *count -= 1;
        if *count == 0 {
            self.set.remove(&**of_all);
            *hearing = None;
        }
    }

    /// Reports nothing more of a session. One whose descriptors are gone has left by itself.
    fn remove(&self, session: &Endpoint) {
        if !self.set.is_ours() {
            return;
        }
        session.with_watched(|messages, end| {
            self.set.remove(messages);
            self.set.remove(end);
        });
    }

    /// Ends a wait that another thread is in, or the next one.
    fn wake(&self) {
        if !self.set.is_ours() {
            return;
        }
        self.beacon.light();
    }

    /// A descriptor that is readable while there is something to report.
    fn fileno(&self) -> PyResult<i32> {
        self.check_ours()?;
        Ok(self.set.as_fd().as_raw_fd())
    }

    /// Waits; gives the numbers that have something to report, maybe none.
    ///
    /// `timeout` is in seconds; None waits until there is something.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<u64>> {
        self.check_ours()?;
        let left = timeout.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let waited = match left {
            Some(Duration::ZERO) => self.set.wait(left),
            left => py.detach(|| self.set.wait(left)),
        };
        match waited.map_err(failed)? {
            Ok(ready) => {
                let mut numbers = ready.tokens().to_vec();
                if numbers.contains(&WOKEN) {
                    self.beacon.put_out();
                }
                if numbers.contains(&HEARD) {
                    self.hand_out(&mut numbers).map_err(failed)?;
                }
                numbers.retain(|number| ![WOKEN, HEARD].contains(number));
                Ok(numbers)
            }
            Err(WaitEnd::Interrupted | WaitEnd::TimedOut) => Ok(Vec::new()),
        }
    }
}
