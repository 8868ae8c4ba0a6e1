#![allow(unsafe_code)]
//! Lent memory, as Python sees it: objects with the buffer protocol.

use std::ffi::c_int;

use alongside_core as core;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Memory of the other program, read in place. Lives as long as anything that looks at it.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Lease {
    core: core::Lease,
}

impl Lease {
    pub(crate) fn new(core: core::Lease) -> Lease {
        Lease { core }
    }
}

#[pymethods]
impl Lease {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let region = slf.get().core.region();
        // SAFETY: the memory is readable as long as the lease, which the view keeps alive.
        unsafe { fill(slf.as_any(), view, region.as_ptr(), region.len(), true, flags) }
    }
}

/// Memory of this program, to be filled and sent.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Block {
    pub(crate) core: core::Block,
}

#[pymethods]
impl Block {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let region = slf.get().core.region();
        // SAFETY: the memory is writable as long as the block, which the view keeps alive.
        unsafe { fill(slf.as_any(), view, region.as_ptr(), region.len(), false, flags) }
    }
}

/// Fills a view of `length` bytes from `start` on.
///
/// # Safety
/// The memory is there as long as `owner`, and may be written unless `is_read_only`; `view` is the one
/// that the interpreter asks to be filled, or null.
unsafe fn fill(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    start: *mut u8,
    length: usize,
    is_read_only: bool,
    flags: c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("there is no view to fill"));
    }
    // SAFETY: the caller's.
    let failed = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            start.cast(),
            length as ffi::Py_ssize_t,
            c_int::from(is_read_only),
            flags,
        )
    };
    if failed == 0 { Ok(()) } else { Err(PyErr::fetch(owner.py())) }
}
