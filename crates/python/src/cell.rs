//! Cells, as Python sees them: values in and out. `alongside.Cell` adds what is plain Python.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use alongside_core::shared::cell::{
    self, Cell as CoreCell, Changes as CoreChanges, Value, Written,
};
use alongside_core::shared::{Life, PATIENCE, leave_all};
use alongside_core::{Deadline, Error};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyEllipsis, PyFloat, PyInt, PyType};

use crate::body::LONG_COPY;
use crate::directory::{NameText, scope_of};
use crate::encode::{Copied, PACKED, Packed, Payload, RAW, WITH_ARRAYS};
use crate::endpoint::{check_type, deadline};
use crate::errors::{raise, to_python};
use crate::named::Named;
use crate::peer::Peer;

/// Arrays begin at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// A value with holders.
#[pyclass(name = "Cell", subclass, frozen, weakref, module = "alongside._core")]
pub(crate) struct Cell {
    core: CoreCell,
    to: Option<Py<PyAny>>,
}

/// What `get` gives if there is no value.
pub(crate) enum Otherwise<'py> {
    Raise,
    Give(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Otherwise<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Otherwise<'py>> {
        if object.is_instance_of::<PyEllipsis>() {
            return Ok(Otherwise::Raise);
        }
        Ok(Otherwise::Give(object.to_owned()))
    }
}

impl Cell {
    fn failed(&self, py: Python<'_>, error: Error) -> PyErr {
        let name = self.core.name();
        match error {
            Error::Forked => raise(
                py,
                "HandleLost",
                &format!(
                    "the cell {name:?} belongs to the process that forked this one\n\
                     alongside.Cell({name:?}) opens it here"
                ),
            ),
            Error::HandleLost(_) => raise(
                py,
                "HandleLost",
                &format!("the descriptor of the cell {name:?} was closed behind its back"),
            ),
            Error::TooLarge { bytes, limit } => raise(
                py,
                "TooLarge",
                &format!(
                    "a value of {bytes} bytes, the cell {name:?} has room for {limit}\n\
                     alongside.Cell({name:?}, max_size={bytes}) has, if all open it so"
                ),
            ),
            Error::TimedOut => raise(
                py,
                "TimedOut",
                &format!("the cell {name:?} has not changed before the deadline"),
            ),
            error => to_python(py, error, None),
        }
    }

    /// Does something that may have to wait.
    fn go_through<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnMut() -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.go_through_or(py, act, |error| self.failed(py, error))
    }

    /// The same, with errors of its own.
    fn go_through_or<T: Send>(
        &self,
        py: Python<'_>,
        mut act: impl FnMut() -> Result<T, Error> + Send,
        failed: impl FnOnce(Error) -> PyErr,
    ) -> PyResult<T> {
        alongside_sys::look_again_soon();
        loop {
            match py.detach(&mut act) {
                Ok(done) => return Ok(done),
                Err(Error::Interrupted) => py.check_signals()?,
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// What is said to who has waited too long for the first value.
    fn not_made(&self) -> String {
        let (who, how) = match self.core.first_maker() {
            Some(it) => (
                format!("process {}", it.pid),
                if it.life == Life::Stopped { ", and is stopped" } else { "" },
            ),
            None => ("another thread or program".into(), ""),
        };
        let name = self.core.name();
        format!("{who} has not made the first value of the cell {name:?} before the deadline{how}")
    }

    fn found<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyAny>, u64)>> {
        let most = self.core.most().map_err(|error| self.failed(py, error))?;
        // At once, if that is short and nobody is in the way.
        let found = match if most > LONG_COPY as u64 { None } else { Some(self.core.read()) } {
            None | Some(Err(Error::Interrupted)) => self.go_through(py, || self.core.read())?,
            Some(found) => found.map_err(|error| self.failed(py, error))?,
        };
        found.map(|value| self.meant(py, &value)).transpose()
    }

    /// What a value means, and its version.
    fn meant<'py>(&self, py: Python<'py>, value: &Value) -> PyResult<(Bound<'py, PyAny>, u64)> {
        let decoded = decoded(py, value.codec, &value.bytes)?;
        match self.fits(py, decoded) {
            Ok(meant) => Ok((meant, value.sequence)),
            Err(error) => {
                // Whoever waits for values may wait for the next one.
                error.value(py).setattr("version", value.sequence)?;
                Err(error)
            }
        }
    }

    /// A value as the cell's type.
    #[inline]
    fn fits<'py>(&self, py: Python<'py>, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static CONVERT: Named = Named::new("alongside._data", "convert");
        match &self.to {
            None => Ok(value),
            Some(to) => {
                let what = format!("the value of the cell {:?}", self.core.name());
                CONVERT.get(py)?.call1((value, to, what))
            }
        }
    }

    fn no_value(&self, py: Python<'_>) -> PyErr {
        let text = format!(
            "the cell {:?} has no value yet\nset() or get_or_set() gives it one",
            self.core.name()
        );
        raise(py, "NotFound", &text)
    }

    fn put(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        expected: Option<u64>,
    ) -> PyResult<Written> {
        let payload = Payload::of(data, None)?;
        let (codec, beside) = match &payload {
            Payload::Packed(packed) if packed.needs_leases() => {
                (WITH_ARRAYS, Some(with_arrays(py, packed)?))
            }
            Payload::Packed(_) => (PACKED, None),
            _ => (RAW, None),
        };
        let bytes = match &beside {
            Some(beside) => beside.as_bytes(),
            None => payload.bytes(),
        };
        if self.to.is_some() {
            // Here it can be mended; whoever reads it could only be told.
            self.fits(py, decoded(py, codec, bytes)?)?;
        }
        if bytes.len() <= LONG_COPY {
            // At once, if nobody else is at it: who must wait lets the interpreter go.
            match self.core.write(codec, bytes, expected, Deadline::Now) {
                Err(Error::TimedOut | Error::Stuck(_) | Error::Interrupted) => {}
                done => return done.map_err(|error| self.failed(py, error)),
            }
        }
        let until = Deadline::after(Some(PATIENCE));
        self.go_through(py, || self.core.write(codec, bytes, expected, until))
    }
}

/// Data with arrays in it, as one piece: how long the data is, the data, and the arrays.
fn with_arrays<'py>(py: Python<'py>, packed: &Packed<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let start = (8 + packed.bytes.len()).next_multiple_of(ALIGNMENT);
    let area = PyByteArray::new_with(py, packed.copied_bytes, |_| Ok(()))?;
    let view = py.import("builtins")?.getattr("memoryview")?.call1((&area,))?;
    for (what, offset) in &packed.copied {
        let put = |bytes: &[u8]| {
            let part =
                pyo3::types::PySlice::new(py, *offset as isize, (offset + bytes.len()) as isize, 1);
            view.set_item(part, PyBytes::new(py, bytes))
        };
        match what {
            Copied::Bytes(bytes) => put(bytes.as_bytes())?,
            Copied::Loan(loan) => put(loan.bytes())?,
            Copied::ByPython(fill) => fill.call1((&area, *offset)).map(drop)?,
        }
    }
    let area = area.to_vec();
    PyBytes::new_with(py, start + area.len(), |all| {
        all[..8].copy_from_slice(&(packed.bytes.len() as u64).to_le_bytes());
        all[8..8 + packed.bytes.len()].copy_from_slice(&packed.bytes);
        all[start..].copy_from_slice(&area);
        Ok(())
    })
}

/// A number, a truth or nothing, which are most of what cells have: made without a word of Python's.
#[inline]
fn plain<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    fn whole<const N: usize>(rest: &[u8]) -> Option<[u8; N]> {
        rest.try_into().ok()
    }
    let (marker, rest) = bytes.split_first()?;
    let number = match marker {
        0xc0 if rest.is_empty() => return Some(py.None().into_bound(py)),
        0xc2 | 0xc3 if rest.is_empty() => {
            return Some(PyBool::new(py, *marker == 0xc3).to_owned().into_any());
        }
        0xcb => return Some(PyFloat::new(py, f64::from_be_bytes(whole(rest)?)).into_any()),
        0x00..=0x7f | 0xe0..=0xff if rest.is_empty() => i64::from(*marker as i8),
        0xcc => i64::from(u8::from_be_bytes(whole(rest)?)),
        0xcd => i64::from(u16::from_be_bytes(whole(rest)?)),
        0xce => i64::from(u32::from_be_bytes(whole(rest)?)),
        0xd0 => i64::from(i8::from_be_bytes(whole(rest)?)),
        0xd1 => i64::from(i16::from_be_bytes(whole(rest)?)),
        0xd2 => i64::from(i32::from_be_bytes(whole(rest)?)),
        0xd3 => i64::from_be_bytes(whole(rest)?),
        _ => return None,
    };
    number.into_pyobject(py).ok().map(Bound::into_any)
}

/// The object that a value means. Whoever shares the cell may have written anything.
fn decoded<'py>(py: Python<'py>, codec: u8, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    static DECODE: Named = Named::new("alongside._data", "decode");
    static DECODE_LEASED: Named = Named::new("alongside._data", "decode_leased");
    match codec {
        RAW => Ok(PyBytes::new(py, bytes).into_any()),
        PACKED => match plain(py, bytes) {
            Some(value) => Ok(value),
            None => DECODE.get(py)?.call1((PyBytes::new(py, bytes),)),
        },
        WITH_ARRAYS => {
            let parts = bytes.split_first_chunk::<8>().and_then(|(length, rest)| {
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                let start = length.checked_add(8)?.checked_next_multiple_of(ALIGNMENT)?;
                Some((rest.get(..length)?, bytes.get(start..)?))
            });
            let Some((data, area)) = parts else {
                return Err(raise(py, "Corrupt", "a value with arrays that is too short"));
            };
            let leases = [PyBytes::new(py, area)];
            let data = PyBytes::new(py, data);
            DECODE_LEASED.get(py)?.call1((data, leases.to_vec(), false, area.len()))
        }
        _ => {
            let text = format!("a value of codec {codec}, this program knows 0 to {WITH_ARRAYS}");
            Err(raise(py, "Incompatible", &text))
        }
    }
}

/// How many bytes a cell is to have room for.
struct MaxSize(u64);

impl<'py> FromPyObject<'_, 'py> for MaxSize {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<MaxSize> {
        let expected = || format!("max_size is {:?}, expected a number of bytes", &*given);
        if !given.is_exact_instance_of::<PyInt>() {
            return Err(PyTypeError::new_err(expected()));
        }
        given.extract().map(MaxSize).map_err(|_| PyValueError::new_err(expected()))
    }
}

#[pymethods]
impl Cell {
    #[new]
    #[pyo3(signature = (name, /, *, scope="user", max_size=MaxSize(65536), r#type=None, _hold=true))]
    fn new(
        py: Python<'_>,
        name: NameText,
        scope: &str,
        max_size: MaxSize,
        r#type: Option<Bound<'_, PyAny>>,
        _hold: bool,
    ) -> PyResult<Cell> {
        let (name, most) = (&*name.0, max_size.0);
        if let Some(to) = &r#type {
            check_type(to)?;
        }
        let scope = scope_of(py, scope)?;
        let until = Deadline::after(Some(PATIENCE));
        let core = opened(py, || match _hold {
            true => CoreCell::open(name, &scope, most, until),
            false => CoreCell::existing(name, &scope, until)?
                .ok_or_else(|| Error::NotFound(format!("no program holds the cell {name:?}"))),
        })?;
        Ok(Cell { core, to: r#type.map(Bound::unbind) })
    }

    /// A cell of values of one type is, when the program runs, a cell.
    #[classmethod]
    fn __class_getitem__<'py>(
        class: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> Bound<'py, PyType> {
        let _ = item;
        class.clone()
    }

    /// The name.
    #[getter]
    fn name(&self) -> &str {
        self.core.name()
    }

    /// The most that an encoded value may have, in bytes.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> PyResult<u64> {
        self.core.most().map_err(|error| self.failed(py, error))
    }

    /// Whether this handle was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Give the value.
    ///
    /// Args:
    ///     default: what to give if there is none.
    ///
    /// Raises:
    ///     NotFound: there is none, and no `default`.
    ///     Invalid: it does not fit the cell's `type`.
    ///     Corrupt: somebody wrote what no honest program would.
    ///     ValueError: the cell is closed.
    ///     HandleLost: it belongs to the process that forked this one.
    #[pyo3(signature = (default=Otherwise::Raise), text_signature = "($self, default=...)")]
    fn get<'py>(&self, py: Python<'py>, default: Otherwise<'py>) -> PyResult<Bound<'py, PyAny>> {
        match (self.found(py)?, default) {
            (Some((value, _)), _) => Ok(value),
            (None, Otherwise::Give(value)) => Ok(value),
            (None, Otherwise::Raise) => Err(self.no_value(py)),
        }
    }

    /// Give the value and its version; raises what `get` does.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, u64)> {
        self.found(py)?.ok_or_else(|| self.no_value(py))
    }

    /// Put a value in the current one's place, at once for all.
    ///
    /// Args:
    ///     value: whatever can be sent: plain data, bytes, arrays.
    ///
    /// Raises:
    ///     TypeError: it is nothing that can be sent; the text says where.
    ///     Invalid: it does not fit the cell's `type`; the old value stays.
    ///     TooLarge: it takes more than `max_size`; the old value stays.
    ///     ScopeLost: somebody has removed the cell's file.
    ///     TimedOut: another process is stopped in the middle of this.
    ///     OSError: there is no room for it; the old value stays.
    #[pyo3(signature = (value, /))]
    fn set(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, value, None).map(drop)
    }

    /// Put a value in the current one's place if that has this version.
    ///
    /// Args:
    ///     value: as for `set`, whose errors it raises.
    ///     version: as `read` gave it; 0 if there shall be none yet.
    ///
    /// Returns:
    ///     Whether it did.
    #[pyo3(signature = (value, /, *, version))]
    fn compare_and_set(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        version: i64,
    ) -> PyResult<bool> {
        // What no version ever is matches none.
        let expected = u64::try_from(version).unwrap_or(u64::MAX);
        self.put(py, value, Some(expected)).map(|written| written.word_at.is_some())
    }

    /// Give the value and its version when that is newer, waiting for it.
    ///
    /// Values in between may be skipped; the last one is not.
    ///
    /// Args:
    ///     newer_than: a version that `read` or `wait` gave; 0 waits for any value.
    ///     timeout: seconds to wait; None for ever.
    ///
    /// Raises:
    ///     TimedOut: nothing has changed.
    #[pyo3(signature = (newer_than, /, *, timeout=None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        newer_than: i64,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, u64)> {
        let until = deadline(timeout)?;
        let newer_than = u64::try_from(newer_than).unwrap_or(0);
        let value = self.go_through(py, || self.core.wait(newer_than, until))?;
        self.meant(py, &value)
    }

    /// The number of the current value; zero if there is none.
    fn _version(&self, py: Python<'_>) -> PyResult<u64> {
        match self.core.version() {
            Err(Error::Interrupted) => self.go_through(py, || self.core.version()),
            version => version.map_err(|error| self.failed(py, error)),
        }
    }

    /// Waits until there is a value, which gives None, or until this program is to make it.
    fn _make_first(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<First>> {
        let until = deadline(timeout)?;
        let first = self.go_through_or(
            py,
            || self.core.make_first(until),
            |error| match error {
                Error::TimedOut => raise(py, "TimedOut", &self.not_made()),
                error => self.failed(py, error),
            },
        )?;
        Ok(first.map(|first| First { core: Mutex::new(Some(first)) }))
    }

    /// Give the processes that hold it, this one among them.
    fn holders(&self, py: Python<'_>) -> PyResult<Vec<Peer>> {
        let pids = py.detach(|| self.core.holders()).map_err(|error| self.failed(py, error))?;
        pids.into_iter().filter_map(|pid| Peer::of_running(pid).transpose()).collect()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.core.close());
    }

    /// Where the file is.
    #[getter]
    fn _path(&self, py: Python<'_>) -> PyResult<std::ffi::OsString> {
        self.core.path().map(Into::into).map_err(|error| self.failed(py, error))
    }
}

/// The right to make a cell's first value, until it is released.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct First {
    core: Mutex<Option<cell::First>>,
}

#[pymethods]
impl First {
    fn release(&self, py: Python<'_>) {
        let first = self.core.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(first));
    }
}

/// Tells when a cell may have changed.
#[pyclass(frozen, weakref, module = "alongside._core")]
pub(crate) struct Changes {
    pub(crate) core: CoreChanges,
}

#[pymethods]
impl Changes {
    #[new]
    fn new(cell: &Bound<'_, Cell>) -> PyResult<Changes> {
        let core = CoreChanges::new(&cell.get().core);
        Ok(Changes { core: core.map_err(|error| cell.get().failed(cell.py(), error))? })
    }

    /// Whether anything has happened since the last time.
    fn take(&self, py: Python<'_>) -> PyResult<bool> {
        self.core.take().map_err(|error| to_python(py, error, None))
    }

    /// Tells when this process has ended, too; gives whether it is there.
    #[pyo3(signature = (pid, /))]
    fn follow(&self, py: Python<'_>, pid: Option<u32>) -> PyResult<bool> {
        self.core.follow(pid).map_err(|error| to_python(py, error, None))
    }

    /// Whether the cell was closed here, or this program is at its end.
    #[getter]
    fn is_over(&self) -> bool {
        self.core.is_over()
    }

    /// A descriptor that is readable when something has happened, or maybe.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        let alone = self.core.alone().map_err(|error| to_python(py, error, None))?;
        Ok(alone.as_raw_fd())
    }
}

/// Opens what other programs may be opening at the moment.
pub(crate) fn opened<T: Send>(
    py: Python<'_>,
    mut open: impl FnMut() -> Result<T, Error> + Send,
) -> PyResult<T> {
    loop {
        match py.detach(&mut open) {
            Err(Error::Interrupted) => py.check_signals()?,
            opened => return opened.map_err(|error| to_python(py, error, None)),
        }
    }
}

/// The names of the cells that somebody holds.
#[pyfunction]
pub(crate) fn cell_names(py: Python<'_>, scope: &str) -> PyResult<Vec<String>> {
    let scope = scope_of(py, scope)?;
    opened(py, || cell::names(&scope))
}

/// Lets go of all that this process holds: it is about to end.
#[pyfunction]
pub(crate) fn leave_shared(py: Python<'_>) {
    py.detach(leave_all);
}
