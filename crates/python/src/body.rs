#![allow(unsafe_code)]
//! Python's memory, as the core sees it: bytes objects that are filled once, and buffers of others.

use std::mem::MaybeUninit;
use std::ptr;

use alongside_core::{Buffer, NoMemory};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// More than this is copied without the interpreter lock.
pub(crate) const LONG_COPY: usize = 256 << 10;

/// A new bytes object that nobody else has seen, and its memory.
///
/// # Invariants
/// * **P1** until [`Body::into_bytes`] nobody else holds a reference, so its memory may be written.
/// * **P2** the memory is `length` bytes at `start`, and stays there as long as the object lives.
#[derive(Debug)]
pub(crate) struct Body {
    object: Py<PyBytes>,
    start: *mut u8,
    length: usize,
}

// SAFETY: the object is touched only with the interpreter attached, its memory only through `&mut`
// (P1) or, when filled, through `&`.
unsafe impl Send for Body {}

impl Body {
    /// The object, filled.
    pub(crate) fn into_bytes(self, py: Python<'_>) -> Bound<'_, PyBytes> {
        self.object.into_bound(py)
    }
}

impl Buffer for Body {
    fn with_length(length: usize) -> Result<Body, NoMemory> {
        let size = ffi::Py_ssize_t::try_from(length).map_err(|_| NoMemory)?;
        // An interpreter that ends, under a thread that it does not wait for, gives nothing any more.
        let made = Python::try_attach(|py| {
            // SAFETY: the interpreter is attached; a null source leaves the bytes to be filled (P1).
            let made = unsafe { ffi::PyBytes_FromStringAndSize(ptr::null(), size) };
            // SAFETY: a new reference, or null with an exception set.
            let Ok(object) = (unsafe { Bound::from_owned_ptr_or_err(py, made) }) else {
                return Err(NoMemory);
            };
            // SAFETY: it is a bytes object.
            let start = unsafe { ffi::PyBytes_AsString(object.as_ptr()) }.cast();
            // SAFETY: as above.
            let object = unsafe { object.cast_into_unchecked::<PyBytes>() }.unbind();
            Ok(Body { object, start, length })
        });
        made.unwrap_or(Err(NoMemory))
    }

    fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: P1 and P2.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: P2; the core asks only when all of it was filled.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

/// Another object's memory, held still for as long as this lives.
pub(crate) struct Loan {
    view: Box<ffi::Py_buffer>,
}

// SAFETY: the view's memory may be used from any thread; it is given back with the interpreter attached.
unsafe impl Send for Loan {}
// SAFETY: as above.
unsafe impl Sync for Loan {}

impl Loan {
    /// Memory to be read: one-dimensional, of bytes, in one piece.
    pub(crate) fn of_bytes(object: &Bound<'_, PyAny>) -> PyResult<Option<Loan>> {
        let loan = match Loan::new(object, ffi::PyBUF_FORMAT | ffi::PyBUF_ND) {
            Err(error) if error.is_instance_of::<PyBufferError>(object.py()) => return Ok(None),
            loan => loan?,
        };
        Ok((loan.view.ndim == 1 && loan.view.itemsize == 1 && loan.has_byte_format())
            .then_some(loan))
    }

    /// Memory of whatever items, in one piece and whatever order; `None` if it is not that.
    pub(crate) fn in_one_piece(object: &Bound<'_, PyAny>) -> Option<Loan> {
        Loan::new(object, ffi::PyBUF_ANY_CONTIGUOUS).ok()
    }

    /// The shape, of memory that was asked for with one.
    pub(crate) fn shape(&self) -> &[ffi::Py_ssize_t] {
        if self.view.shape.is_null() || self.view.ndim == 0 {
            return &[];
        }
        // SAFETY: the exporter's `ndim` numbers, valid as long as the view.
        unsafe { std::slice::from_raw_parts(self.view.shape, self.view.ndim as usize) }
    }

    /// Memory of whatever items, in C's order or (`false`) Fortran's, with its shape.
    pub(crate) fn in_order(object: &Bound<'_, PyAny>, is_c: bool) -> Option<Loan> {
        let order = if is_c { ffi::PyBUF_C_CONTIGUOUS } else { ffi::PyBUF_F_CONTIGUOUS };
        Loan::new(object, order).ok()
    }

    /// Memory to be written: of whatever items, in one piece.
    pub(crate) fn to_fill(object: &Bound<'_, PyAny>) -> PyResult<Loan> {
        Loan::new(object, ffi::PyBUF_WRITABLE | ffi::PyBUF_C_CONTIGUOUS)
    }

    fn new(object: &Bound<'_, PyAny>, flags: i32) -> PyResult<Loan> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached (there is a Bound); `view` is a fresh Py_buffer at a fixed address.
        let failed = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) };
        if failed != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Loan { view })
    }

    fn has_byte_format(&self) -> bool {
        if self.view.format.is_null() {
            return true;
        }
        // SAFETY: the exporter's null-ended string, valid as long as the view.
        let format = unsafe { std::ffi::CStr::from_ptr(self.view.format) };
        matches!(format.to_bytes(), b"B" | b"b" | b"c" | b"@B" | b"<B")
    }

    /// The bytes. Whoever else may write them meanwhile tears what is copied, nothing more.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.view.len == 0 {
            return &[];
        }
        // SAFETY: the exporter guarantees `len` readable bytes in one piece as long as the view lives.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast(), self.view.len as usize) }
    }

    /// The bytes, to be written.
    pub(crate) fn space(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.view.len == 0 {
            return &mut [];
        }
        // SAFETY: as for `bytes`, and PyBUF_WRITABLE was asked for.
        unsafe { std::slice::from_raw_parts_mut(self.view.buf.cast(), self.view.len as usize) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // SAFETY: attached, and the view was filled by PyObject_GetBuffer.
        let _ = Python::try_attach(|_| unsafe { ffi::PyBuffer_Release(&mut *self.view) });
    }
}

/// Whether an object lends its memory at all.
pub(crate) fn lends(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached (there is a Bound).
    (unsafe { ffi::PyObject_CheckBuffer(object.as_ptr()) }) != 0
}

/// The name of an object's type, as people write it.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().fully_qualified_name().map_or_else(|_| "?".into(), |name| name.to_string())
}
