//! Locks with a name, as Python sees them.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use alongside_core::directory::seeking::check_name as core_check_name;
use alongside_core::shared::lock::{Lock as CoreLock, owners};
use alongside_core::shared::rwlock::{
    RwEntry as CoreEntry, RwHold as CoreHold, RwLock as CoreRwLock, Way,
};
use alongside_core::shared::{InTheWay, Life, PATIENCE};
use alongside_core::{Deadline, Error};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cell::opened;
use crate::directory::{NameText, scope_of};
use crate::endpoint::deadline;
use crate::errors::{raise, to_python};
use crate::peer::Peer;

/// What stands for this thread among those that take locks: no other living thread has it, nor any object.
fn this_thread() -> usize {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// What a lock was opened with, so that a forked child opens its own.
struct Opening {
    name: String,
    scope: String,
}

/// A lock that one thread or task of one process has.
#[pyclass(name = "Lock", subclass, frozen, weakref, module = "alongside._core")]
pub(crate) struct Lock {
    opening: Opening,
    core: CoreLock,
    /// In a forked child, which has nothing of its parent's: one of its own. Touched only with the
    /// interpreter attached, and not across anything that lets it go: so nobody has it while this process
    /// is forked.
    own: Mutex<Option<Arc<CoreLock>>>,
    abandoned: AtomicBool,
}

/// The lock as this process has it.
enum Current<'a> {
    Opened(&'a CoreLock),
    Anew(Arc<CoreLock>),
}

impl Deref for Current<'_> {
    type Target = CoreLock;

    #[inline]
    fn deref(&self) -> &CoreLock {
        match self {
            Current::Opened(core) => core,
            Current::Anew(core) => core,
        }
    }
}

impl Lock {
    #[inline]
    fn core(&self, py: Python<'_>) -> PyResult<Current<'_>> {
        if self.core.is_ours() {
            return Ok(Current::Opened(&self.core));
        }
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(own) = own.filter(|own| own.is_ours()) {
            return Ok(Current::Anew(own));
        }
        let new = Arc::new(open(py, &self.opening)?);
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&new));
        Ok(Current::Anew(new))
    }

    fn failed(&self, py: Python<'_>, error: Error) -> PyErr {
        let in_the_way = || self.core(py).ok()?.in_the_way();
        failed(py, &self.opening.name, error, in_the_way)
    }

    fn take(&self, py: Python<'_>, taker: usize, until: Deadline) -> PyResult<()> {
        let core = self.core(py)?;
        if core.taker() == taker {
            return Err(misused(&format!(
                "the lock {:?} is held by this very thread or task, and would be waited for for ever",
                self.opening.name
            )));
        }
        let abandoned = match core.acquire(taker, this_thread(), Deadline::Now) {
            Err(Error::TimedOut) if taker == this_thread() && core.is_taken_in(taker) => {
                return Err(misused(&format!(
                    "the lock {:?} is held by a task that runs in this very thread, and would be waited \
                     for for ever\nasync with waits for it",
                    self.opening.name
                )));
            }
            Err(Error::TimedOut | Error::Interrupted) if until != Deadline::Now => {
                self.wait(py, &core, taker, until)?
            }
            taken => taken.map_err(|error| self.failed(py, error))?,
        };
        self.abandoned.store(abandoned, Ordering::Relaxed);
        Ok(())
    }

    fn wait(
        &self,
        py: Python<'_>,
        core: &CoreLock,
        taker: usize,
        until: Deadline,
    ) -> PyResult<bool> {
        alongside_sys::look_again_soon();
        loop {
            match py.detach(|| core.acquire(taker, this_thread(), until)) {
                Err(Error::Interrupted) => py.check_signals()?,
                taken => return taken.map_err(|error| self.failed(py, error)),
            }
        }
    }

    fn give_back(&self, py: Python<'_>, taker: usize) -> PyResult<()> {
        let core = self.taken(py, taker)?;
        core.release().map_err(|error| self.failed(py, error))
    }

    /// The lock, if this taker has it.
    fn taken(&self, py: Python<'_>, taker: usize) -> PyResult<Current<'_>> {
        let core = self.core(py)?;
        if core.taker() != taker {
            let name = &self.opening.name;
            return Err(misused(&match core.taker() {
                0 => format!("the lock {name:?} is released, and nobody here has it"),
                _ => format!(
                    "the lock {name:?} is released by a thread or task that does not have it"
                ),
            }));
        }
        Ok(core)
    }
}

fn misused(text: &str) -> PyErr {
    PyRuntimeError::new_err(text.to_owned())
}

fn failed(
    py: Python<'_>,
    name: &str,
    error: Error,
    in_the_way: impl FnOnce() -> Option<InTheWay>,
) -> PyErr {
    match error {
        Error::TimedOut => raise(py, "TimedOut", &not_free(name, in_the_way())),
        Error::HandleLost(_) => raise(
            py,
            "HandleLost",
            &format!("the descriptor of the lock {name:?} was closed behind its back"),
        ),
        error => to_python(py, error, None),
    }
}

/// What is said to who has waited too long.
fn not_free(name: &str, in_the_way: Option<InTheWay>) -> String {
    let late = format!("the lock {name:?} was not free before the deadline");
    let Some(InTheWay { pid, waits, life }) = in_the_way else { return late };
    let how = match (life, waits) {
        (Life::Ended, _) => "has ended, and what it had started has it still",
        (Life::Stopped, false) => "has it, and is stopped",
        (Life::Stopped, true) => "is the next to have it, and is stopped",
        (Life::Runs, false) => "has it",
        (Life::Runs, true) => "is the next to have it",
    };
    format!("{late}: process {pid} {how}")
}

fn open(py: Python<'_>, opening: &Opening) -> PyResult<CoreLock> {
    let scope = scope_of(py, &opening.scope)?;
    let until = Deadline::after(Some(PATIENCE));
    opened(py, || CoreLock::open(&opening.name, &scope, until))
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (name, /, *, scope="user"))]
    fn new(py: Python<'_>, name: NameText, scope: &str) -> PyResult<Lock> {
        let opening = Opening { name: name.0, scope: scope.to_owned() };
        let core = open(py, &opening)?;
        Ok(Lock { opening, core, own: Mutex::new(None), abandoned: AtomicBool::new(false) })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.opening.name
    }

    #[getter]
    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Take the lock, waiting until it is free.
    ///
    /// Args:
    ///     timeout: seconds to wait; None for ever.
    ///
    /// Raises:
    ///     TimedOut: it was not free in time.
    ///     RuntimeError: this thread has it already.
    ///     Corrupt: somebody has damaged its file.
    #[pyo3(signature = (*, timeout=None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let until = deadline(timeout)?;
        self.take(py, this_thread(), until)
    }

    /// Take the lock if it is free; give whether it was.
    fn try_acquire(&self, py: Python<'_>) -> PyResult<bool> {
        self._try_acquire_for(py, this_thread())
    }

    /// Give it back.
    ///
    /// Raises:
    ///     RuntimeError: this thread does not have it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give_back(py, this_thread())
    }

    fn __enter__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().take(slf.py(), this_thread(), Deadline::Never)?;
        Ok(slf)
    }

    fn __exit__(
        &self,
        kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self._leave_for(kind.py(), this_thread())
    }

    /// Give the process that has it; None if nobody does.
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Peer>> {
        self._mark(py)?.map_or(Ok(None), |(pid, _)| Peer::of_running(pid))
    }

    /// What tells the process that has it from all others: its number, and when it began.
    fn _mark(&self, py: Python<'_>) -> PyResult<Option<(u32, u64)>> {
        self.core(py)?.owner().map_err(|error| self.failed(py, error))
    }

    /// Takes it for a task, waiting at most so long.
    fn _acquire_for(&self, py: Python<'_>, taker: usize, timeout: Option<f64>) -> PyResult<()> {
        let until = deadline(timeout)?;
        self.take(py, taker, until)
    }

    fn _try_acquire_for(&self, py: Python<'_>, taker: usize) -> PyResult<bool> {
        match self.core(py)?.acquire(taker, this_thread(), Deadline::Now) {
            Ok(abandoned) => {
                self.abandoned.store(abandoned, Ordering::Relaxed);
                Ok(true)
            }
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(self.failed(py, error)),
        }
    }

    fn _release_for(&self, py: Python<'_>, taker: usize) -> PyResult<()> {
        self.give_back(py, taker)
    }

    /// Gives it back at the end of a `with`; a forked child leaves its parent's, and has nothing.
    fn _leave_for(&self, py: Python<'_>, taker: usize) -> PyResult<()> {
        if !self.core.is_ours() && self.core(py)?.taker() == 0 {
            return Ok(());
        }
        self.give_back(py, taker)
    }

    /// Gives it back as if its owner had ended with it.
    fn _abandon_for(&self, py: Python<'_>, taker: usize) -> PyResult<()> {
        let core = self.taken(py, taker)?;
        core.abandon().map_err(|error| self.failed(py, error))
    }

    /// Makes it another taker's, if it is this one's.
    fn _pass_on(&self, py: Python<'_>, from_: usize, to: usize) -> PyResult<()> {
        self.core(py)?.pass_on(from_, to, this_thread());
        Ok(())
    }

    /// Has it given back when the program ends in order, or not.
    #[pyo3(signature = (does=true, /))]
    fn _give_back_at_the_end(&self, py: Python<'_>, does: bool) -> PyResult<()> {
        self.core(py)?.give_back_at_the_end(does);
        Ok(())
    }

    /// Whether this taker has it.
    fn _is_taken_by(&self, py: Python<'_>, taker: usize) -> PyResult<bool> {
        Ok(self.core(py)?.taker() == taker)
    }

    /// The process that is in the way of those that wait, if that can be told, and how it is.
    fn _in_the_way(&self, py: Python<'_>) -> PyResult<Option<(u32, &'static str)>> {
        Ok(self.core(py)?.in_the_way().map(|it| {
            let life = match it.life {
                Life::Runs => "runs",
                Life::Stopped => "stopped",
                Life::Ended => "ended",
            };
            (it.pid, life)
        }))
    }

    /// The error of who has waited too long.
    fn _not_free(&self, py: Python<'_>) -> PyErr {
        self.failed(py, Error::TimedOut)
    }

    #[getter]
    fn _path(&self, py: Python<'_>) -> PyResult<std::ffi::OsString> {
        Ok(self.core(py)?.path().into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock that is held belongs to the process, not to who has a reference.
        let own = self.own.get_mut().unwrap_or_else(PoisonError::into_inner);
        for core in [Some(&self.core), own.as_deref()].into_iter().flatten() {
            core.keep_if_taken();
        }
    }
}

/// The names of locks that somebody has, the process, and whether that writes under an RWLock.
#[pyfunction]
pub(crate) fn lock_owners(py: Python<'_>, scope: &str) -> PyResult<Vec<(String, u32, bool)>> {
    let scope = scope_of(py, scope)?;
    opened(py, || owners(&scope))
}

/// Refuses what is no name, or has more bytes than this.
#[pyfunction]
pub(crate) fn check_name(py: Python<'_>, name: &str, most: usize) -> PyResult<()> {
    core_check_name(name, most).map_err(|error| to_python(py, error, None))
}

/// A lock that many readers have, or one writer.
#[pyclass(name = "RWLock", subclass, frozen, weakref, module = "alongside._core")]
pub(crate) struct RwLock {
    opening: Opening,
    /// As in [`Lock`].
    core: Mutex<CoreRwLock>,
}

impl RwLock {
    fn core(&self, py: Python<'_>) -> PyResult<CoreRwLock> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if core.is_ours() {
            return Ok(core);
        }
        let new = open_rw(py, &self.opening)?;
        *self.core.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        Ok(new)
    }
}

fn open_rw(py: Python<'_>, opening: &Opening) -> PyResult<CoreRwLock> {
    let scope = scope_of(py, &opening.scope)?;
    let until = Deadline::after(Some(PATIENCE));
    opened(py, || CoreRwLock::open(&opening.name, &scope, until))
}

#[pymethods]
impl RwLock {
    #[new]
    #[pyo3(signature = (name, /, *, scope="user"))]
    fn new(py: Python<'_>, name: NameText, scope: &str) -> PyResult<RwLock> {
        let opening = Opening { name: name.0, scope: scope.to_owned() };
        let core = Mutex::new(open_rw(py, &opening)?);
        Ok(RwLock { opening, core })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.opening.name
    }

    /// Somebody who waits now and then.
    fn _entry(&self, py: Python<'_>, is_writer: bool) -> PyResult<RwEntry> {
        let way = if is_writer { Way::Writer } else { Way::Reader };
        let core = Mutex::new(self.core(py)?.entry(way));
        Ok(RwEntry { name: self.opening.name.clone(), core })
    }

    #[getter]
    fn _path(&self, py: Python<'_>) -> PyResult<std::ffi::OsString> {
        Ok(self.core(py)?.path().into())
    }
}

fn wait_for(
    py: Python<'_>,
    name: &str,
    entry: &mut CoreEntry,
    until: Deadline,
) -> PyResult<CoreHold> {
    loop {
        match py.detach(|| entry.acquire(until)) {
            Err(Error::Interrupted) => py.check_signals()?,
            Err(error) => return Err(failed(py, name, error, || entry.in_the_way())),
            Ok(hold) => return Ok(hold),
        }
    }
}

/// Somebody who waits for a lock, and keeps its place between one wait and the next.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct RwEntry {
    name: String,
    /// Touched by one thread.
    core: Mutex<CoreEntry>,
}

#[pymethods]
impl RwEntry {
    /// Waits so many seconds more.
    #[pyo3(signature = (timeout, /))]
    fn acquire(&self, py: Python<'_>, timeout: f64) -> PyResult<RwHold> {
        let until = deadline(Some(timeout))?;
        let mut entry = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let hold = RwHold::new();
        hold.keep(wait_for(py, &self.name, &mut entry, until)?);
        Ok(hold)
    }

    /// Gives up its place.
    fn leave(&self) {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).leave();
    }
}

/// What somebody has of a lock, until it is released. It is kept here before Python sees that it was taken,
/// and let go in one step with the end of the `with`: Ctrl-C comes before or after that.
#[pyclass(frozen, subclass, module = "alongside._core")]
pub(crate) struct RwHold {
    core: Mutex<Option<CoreHold>>,
    abandoned: AtomicBool,
}

impl RwHold {
    fn new() -> RwHold {
        RwHold { core: Mutex::new(None), abandoned: AtomicBool::new(false) }
    }

    fn keep(&self, hold: CoreHold) {
        self.abandoned.store(hold.abandoned, Ordering::Relaxed);
        *self.core.lock().unwrap_or_else(PoisonError::into_inner) = Some(hold);
    }

    fn take(&self) -> Option<CoreHold> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl RwHold {
    #[new]
    #[pyo3(signature = (*_args, **_named))]
    fn empty(_args: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyDict>>) -> RwHold {
        RwHold::new()
    }

    /// Whether the last writer ended while it had the lock.
    #[getter]
    fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether this process has it.
    #[getter]
    fn _is_held(&self) -> bool {
        let hold = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        hold.as_ref().is_some_and(CoreHold::is_ours)
    }

    /// Takes it; `is_inside` says that the reader reads already.
    #[pyo3(signature = (lock, is_writer, timeout, is_inside))]
    fn _enter(
        &self,
        py: Python<'_>,
        lock: &RwLock,
        is_writer: bool,
        timeout: Option<f64>,
        is_inside: bool,
    ) -> PyResult<()> {
        let until = deadline(timeout)?;
        let way = match (is_writer, is_inside) {
            (true, _) => Way::Writer,
            (false, true) => Way::ReaderInside,
            (false, false) => Way::Reader,
        };
        let mut entry = lock.core(py)?.entry(way);
        alongside_sys::look_again_soon();
        self.keep(wait_for(py, &lock.opening.name, &mut entry, until)?);
        Ok(())
    }

    /// Takes over what another one has.
    fn _adopt(&self, other: &RwHold) {
        if let Some(hold) = other.take() {
            self.keep(hold);
        }
    }

    #[pyo3(signature = (*_of_the_end))]
    fn __exit__(&self, py: Python<'_>, _of_the_end: &Bound<'_, PyTuple>) {
        let hold = self.take();
        py.detach(|| drop(hold));
    }

    /// Leaves it as it was found: the next one is told the same.
    fn abandon(&self, py: Python<'_>) {
        let hold = self.take();
        py.detach(|| hold.map(CoreHold::abandon));
    }
}

impl Drop for RwHold {
    fn drop(&mut self) {
        // As for a lock: what is held belongs to the process.
        let hold = self.core.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        std::mem::forget(hold.filter(CoreHold::is_ours));
    }
}
