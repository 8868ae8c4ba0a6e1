//! The directory, as Python sees it: registrations, and entries that were found.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Mutex;

use alongside_core::Error;
use alongside_core::directory::calling::{self, Step, Wish};
use alongside_core::directory::entry::Entry as CoreEntry;
use alongside_core::directory::registration::{
    self, Allowed, Registration as CoreRegistration, Said,
};
use alongside_core::directory::scope::{Place, Scope};
use alongside_core::directory::seeking::{self, Sought};
use alongside_core::directory::store::{Flaw, Found};
use alongside_core::directory::watching::{self, Watch as CoreWatch};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::body::Body;
use crate::endpoint::{Connection, deadline, go_on};
use crate::errors::{raise, raise_closed, to_python};
use crate::named::Named;
use crate::peer::Peer;

static FROM_JSON: Named = Named::new("json", "loads");

pub(crate) fn scope_of(py: Python<'_>, name: &str) -> PyResult<Scope> {
    py.detach(|| Scope::named(name)).map_err(|error| to_python(py, error, None))
}

/// A name as a program gives it: text, of which the core knows the rules.
pub(crate) struct NameText(pub(crate) String);

impl<'py> FromPyObject<'_, 'py> for NameText {
    type Error = PyErr;

    fn extract(name: Borrowed<'_, 'py, PyAny>) -> PyResult<NameText> {
        let shown = || name.repr().map_or_else(|_| "?".into(), |repr| repr.to_string());
        let Ok(text) = name.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!("a name is a str, not {}", shown())));
        };
        text.to_str().map(|text| NameText(text.to_owned())).map_err(|_| {
            let what = "is no name: it has a lone surrogate in it, which is no character";
            PyValueError::new_err(format!("{} {what}", shown()))
        })
    }
}

/// One running program under one name, as it was when it was looked up.
///
/// Attributes:
///     name: the name.
///     instance: tells this registration from all others, also of the same name.
///     peer: the process that has published it.
///     about: what it says of itself, in words.
///     info: what it says of itself, as data.
///     since: when it was published, in seconds since the epoch.
///     changed: when it was changed last, in seconds since the epoch.
///     scope: in which scope it was found.
#[pyclass(frozen, eq, hash, module = "alongside")]
pub(crate) struct Entry {
    core: CoreEntry,
    scope: &'static str,
    info: PyOnceLock<Py<PyAny>>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        let key = |entry: &Entry| (entry.core.uid, entry.core.changed.to_bits());
        key(self) == key(other) && self.core.instance == other.core.instance
    }
}

impl std::hash::Hash for Entry {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.core.instance.hash(state);
    }
}

impl Entry {
    fn new(core: CoreEntry, scope: &Scope) -> Entry {
        Entry { core, scope: scope.name(), info: PyOnceLock::new() }
    }
}

impl From<Found> for Entry {
    fn from(found: Found) -> Entry {
        Entry::new(found.entry, &found.scope)
    }
}

#[pymethods]
impl Entry {
    #[getter]
    fn name(&self) -> &str {
        &self.core.name
    }

    #[getter]
    fn instance(&self) -> &str {
        &self.core.instance
    }

    #[getter]
    fn peer(&self) -> Peer {
        let CoreEntry { pid, started, uid, executable, .. } = &self.core;
        let executable = (!executable.is_empty()).then(|| executable.into());
        Peer::new(*pid, started.unwrap_or(0.0), *uid, executable)
    }

    #[getter]
    fn about(&self) -> &str {
        &self.core.about
    }

    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(info) = self.info.get(py) {
            return Ok(info.bind(py).clone());
        }
        let info = FROM_JSON.get(py)?.call1((self.core.info.get(),))?;
        let _ = self.info.set(py, info.clone().unbind());
        Ok(info)
    }

    #[getter]
    fn since(&self) -> f64 {
        self.core.since
    }

    #[getter]
    fn changed(&self) -> f64 {
        self.core.changed
    }

    #[getter]
    fn scope(&self) -> &'static str {
        self.scope
    }

    fn __repr__(&self) -> String {
        let CoreEntry { name, instance, pid, about, .. } = &self.core;
        let about = if about.is_empty() { String::new() } else { format!(", about={about:?}") };
        format!("Entry(name={name:?}, instance={instance:?}, pid={pid}{about})")
    }
}

/// A name that this process has published.
#[pyclass(subclass, frozen, module = "alongside._core")]
pub(crate) struct Registration {
    pub(crate) core: CoreRegistration,
    scope: Scope,
}

/// What a registration says and does, as `publish` hands it over.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Wanted {
    about: String,
    info: String,
    /// Others may connect.
    connects: bool,
    /// Those who do can be told how messages were handled.
    reports: bool,
    /// The name is to be one that nobody has.
    unique: bool,
    /// Other users who may connect.
    users: Vec<u32>,
    /// Groups whose members may.
    groups: Vec<u32>,
}

#[pymethods]
impl Registration {
    #[new]
    fn new(py: Python<'_>, name: &str, scope: &str, wanted: Wanted) -> PyResult<Self> {
        let scope = scope_of(py, scope)?;
        let Wanted { about, info, connects, reports, unique, users, groups } = wanted;
        let allow = Allowed { users, groups };
        let said = Said { about: &about, info: &info, connects, reports, allow };
        let publish = if unique { CoreRegistration::unique } else { CoreRegistration::new };
        let made = py.detach(|| publish(name, &scope, &said));
        let core = made.map_err(|error| to_python(py, error, None))?;
        Ok(Registration { core, scope })
    }

    /// What it says at the moment; None once it is revoked.
    fn _entry(&self, py: Python<'_>) -> Option<Entry> {
        py.detach(|| self.core.entry()).map(|entry| Entry::new(entry, &self.scope))
    }

    fn _update(&self, py: Python<'_>, about: Option<&str>, info: Option<&str>) -> PyResult<()> {
        py.detach(|| self.core.update(about, info)).map_err(|error| to_python(py, error, None))
    }

    /// Takes what has come, and gives the connections that came of it, and which of them want reports.
    fn _step(&self, py: Python<'_>) -> PyResult<Vec<(Connection, bool)>> {
        let Some(listener) = self.core.listener() else { return Ok(Vec::new()) };
        let made = py.detach(|| listener.step::<Body>());
        let made = made.map_err(|error| to_python(py, error, None))?;
        let taken = made.into_iter();
        Ok(taken.map(|it| (Connection::started(it.session, false), it.wants_reports)).collect())
    }

    fn _revoke(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.core.revoke()).map_err(|error| to_python(py, error, None))
    }
}

/// What has become of an entry.
///
/// Attributes:
///     kind: "appeared", "changed" or "vanished".
///     entry: the entry, as it is; of one that vanished, as it was last.
///     initial: whether it was there when the watch began.
#[pyclass(frozen, module = "alongside")]
pub(crate) struct Change {
    #[pyo3(get)]
    kind: &'static str,
    #[pyo3(get)]
    entry: Py<Entry>,
    #[pyo3(get)]
    initial: bool,
}

impl Change {
    fn of(py: Python<'_>, change: watching::Change, scope: &Scope) -> PyResult<Change> {
        let kind = match change.kind {
            watching::Kind::Appeared => "appeared",
            watching::Kind::Changed => "changed",
            watching::Kind::Vanished => "vanished",
        };
        let entry = Py::new(py, Entry::new(change.entry, scope))?;
        Ok(Change { kind, entry, initial: change.initial })
    }
}

#[pymethods]
impl Change {
    fn __repr__(&self) -> String {
        let (kind, entry) = (self.kind, self.entry.get().__repr__());
        format!(
            "Change(kind={kind:?}, entry={entry}, initial={})",
            if self.initial { "True" } else { "False" }
        )
    }
}

/// A picture of the names that fit, kept up with what happens to them.
#[pyclass(subclass, frozen, weakref, module = "alongside._core")]
pub(crate) struct Watch {
    pub(crate) core: CoreWatch,
}

#[pymethods]
impl Watch {
    #[new]
    fn new(py: Python<'_>, pattern: &str, scope: &str) -> PyResult<Watch> {
        let scope = scope_of(py, scope)?;
        let made = py.detach(|| CoreWatch::new(pattern, &scope));
        Ok(Watch { core: made.map_err(|error| to_python(py, error, None))? })
    }

    /// The next change if there is one.
    fn _take(&self, py: Python<'_>) -> PyResult<Option<Change>> {
        match py.detach(|| self.core.take()) {
            Ok(change) => {
                change.map(|change| Change::of(py, change, self.core.scope())).transpose()
            }
            Err(error) => Err(ended(py, error)),
        }
    }

    /// The next change, waiting for it.
    fn _next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Change> {
        let until = deadline(timeout)?;
        alongside_sys::look_again_soon();
        loop {
            match py.detach(|| self.core.next(until)) {
                Ok(change) => return Change::of(py, change, self.core.scope()),
                Err(Error::Interrupted) => py.check_signals()?,
                Err(Error::TimedOut) => {
                    return Err(raise(py, "TimedOut", "nothing has changed before the deadline"));
                }
                Err(error) => return Err(ended(py, error)),
            }
        }
    }

    /// Ends the watch for whoever waits.
    fn _close(&self, py: Python<'_>) {
        py.detach(|| self.core.close());
    }

    fn _fileno(&self) -> i32 {
        use std::os::fd::AsFd;
        self.core.as_fd().as_raw_fd()
    }
}

fn ended(py: Python<'_>, error: Error) -> PyErr {
    match error {
        Error::Closed { .. } => raise_closed(py, "the watch is closed"),
        error => to_python(py, error, None),
    }
}

/// The entries of a scope whose name fits the pattern, the oldest first.
#[pyfunction]
pub(crate) fn running(py: Python<'_>, pattern: &str, scope: &str) -> PyResult<Vec<Entry>> {
    let scope = scope_of(py, scope)?;
    let found = py.detach(|| seeking::running(pattern, &scope));
    let found = found.map_err(|error| to_python(py, error, None))?;
    Ok(found.into_iter().map(Entry::from).collect())
}

/// The oldest entry with this name, or the one with this instance.
#[pyfunction]
pub(crate) fn find(
    py: Python<'_>,
    name: &str,
    scope: &str,
    instance: Option<&str>,
    owner: Option<u32>,
) -> PyResult<Option<Entry>> {
    let scope = scope_of(py, scope)?;
    let found = py.detach(|| Sought::new(name, owner, instance, &scope)?.first());
    let found = found.map_err(|error| to_python(py, error, None))?;
    Ok(found.map(Entry::from))
}

/// A call to the oldest program with a name, or to the one with an instance.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Call {
    core: Mutex<calling::Call>,
    name: String,
}

#[pymethods]
impl Call {
    #[new]
    fn new(
        py: Python<'_>,
        name: String,
        scope: &str,
        instance: Option<&str>,
        owner: Option<u32>,
        max_message: u64,
        wants_reports: bool,
    ) -> PyResult<Call> {
        let scope = scope_of(py, scope)?;
        let wish = Wish { max_message_bytes: max_message, wants_reports };
        let made = py.detach(|| Sought::new(&name, owner, instance, &scope)?.call(wish));
        let core = Mutex::new(made.map_err(|error| to_python(py, error, None))?);
        Ok(Call { core, name })
    }

    /// The connection, waiting for it.
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Connection> {
        let until = deadline(timeout)?;
        let mut raised = None;
        alongside_sys::look_again_soon();
        let made = py.detach(|| self.lock().wait::<Body>(until, &mut || go_on(&mut raised)));
        match (made, raised) {
            (Ok(core), _) => Ok(Connection::started(core, false)),
            (Err(Error::Interrupted), Some(error)) => Err(error),
            (Err(Error::TimedOut), _) => Err(self.late(py)),
            (Err(error), _) => Err(to_python(py, error, None)),
        }
    }

    /// Seconds until it may be tried again where nothing tells.
    fn pause(&self) -> f64 {
        self.lock().pause().as_secs_f64()
    }

    /// Raises that there was no answer in time.
    fn give_up(&self, py: Python<'_>) -> PyResult<()> {
        Err(self.late(py))
    }

    /// The connection if it is there; else a descriptor that is readable when there is more to do; or
    /// None if as many call already as may.
    fn step(&self, py: Python<'_>) -> PyResult<(Option<Connection>, Option<i32>)> {
        let failed = |error| to_python(py, error, None);
        match py.detach(|| self.lock().step::<Body>()).map_err(failed)? {
            Step::Done(core) => Ok((Some(Connection::started(core, false)), None)),
            Step::Full => Ok((None, None)),
            Step::Asked => {
                let mut call = self.lock();
                let descriptor = call.descriptor().map_err(failed)?;
                Ok((None, descriptor.map(|descriptor| descriptor.as_raw_fd())))
            }
        }
    }
}

impl Call {
    fn late(&self, py: Python<'_>) -> PyErr {
        if let error @ Error::Busy(_) = self.lock().late() {
            return to_python(py, error, None);
        }
        let pid = self.lock().asked().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let text = format!("{:?} has not answered before the deadline{pid}", self.name);
        raise(py, "TimedOut", &text)
    }

    /// Nobody but the one who calls has it.
    fn lock(&self) -> std::sync::MutexGuard<'_, calling::Call> {
        self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The directories in which a scope's names may stand: each path, whether it is there, and what is wrong
/// with it if something is.
#[pyfunction]
pub(crate) fn places(
    py: Python<'_>,
    scope: &str,
) -> PyResult<Vec<(PathBuf, bool, Option<String>)>> {
    let scope = scope_of(py, scope)?;
    let found = py.detach(|| scope.places()).map_err(|error| to_python(py, error, None))?;
    Ok(found
        .into_iter()
        .map(|Place { path, found, refusal }| (path, found.is_ok(), refusal))
        .collect())
}

/// The files in a scope's directories that are no entries: each path and what is wrong with it, or none if
/// its process is dead.
#[pyfunction]
pub(crate) fn flaws(py: Python<'_>, scope: &str) -> PyResult<Vec<(PathBuf, Option<String>)>> {
    let scope = scope_of(py, scope)?;
    let found = py.detach(|| seeking::flaws(&scope)).map_err(|error| to_python(py, error, None))?;
    let told = |Flaw { path, why }: Flaw| (path, why.map(|why| why.to_string()));
    Ok(found.into_iter().map(told).collect())
}

/// Leaves all directories: the process is about to end.
#[pyfunction]
pub(crate) fn leave_directories(py: Python<'_>) {
    py.detach(registration::leave_all);
}
