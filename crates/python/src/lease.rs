#![allow(unsafe_code)]
//! Lent memory, as Python sees it: objects with the buffer protocol.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use alongside_core as core;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

/// Memory of the other program, read in place. Lives as long as anything that looks at it.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Lease {
    pub(crate) core: core::Lease,
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
        // SAFETY: the memory is readable as long as the lease, which the view keeps alive.
        unsafe { fill(slf.as_any(), view, slf.get().core.region(), true, flags) }
    }
}

/// Memory of this program, to be filled and sent.
#[pyclass(frozen, weakref, module = "alongside._core")]
pub(crate) struct Block {
    pub(crate) core: core::Block,
    /// A weak reference to what the program was given to fill.
    given: PyOnceLock<Py<PyAny>>,
}

impl Block {
    pub(crate) fn new(core: core::Block) -> Block {
        Block { core, given: PyOnceLock::new() }
    }

    fn start(&self) -> usize {
        self.core.region().as_ptr().addr()
    }

    /// What the program was given to fill, if it still has it.
    pub(crate) fn given<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let given = self.given.get(py)?.bind(py);
        given.cast::<PyWeakrefReference>().ok()?.upgrade()
    }
}

/// The blocks that the program here was given to fill and has not sent.
#[derive(Default)]
pub(crate) struct Lent {
    /// Nothing here runs Python while this is locked.
    blocks: Mutex<Vec<Py<PyWeakrefReference>>>,
}

impl Lent {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Py<PyWeakrefReference>>) -> T) -> T {
        act(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn has_any(&self) -> bool {
        self.with(|all| !all.is_empty())
    }

    /// Takes note of a block.
    pub(crate) fn add(&self, block: &Bound<'_, Block>) -> PyResult<()> {
        let py = block.py();
        let weak = PyWeakrefReference::new(block.as_any())?.unbind();
        self.with(|all| {
            all.retain(|other| other.bind(py).upgrade().is_some());
            all.push(weak);
        });
        Ok(())
    }

    /// The block in which these bytes lie, and where in it.
    pub(crate) fn find<'py>(
        &self,
        py: Python<'py>,
        start: usize,
        bytes: usize,
    ) -> Option<(Bound<'py, Block>, usize)> {
        self.with(|all| {
            all.iter().find_map(|weak| {
                let block = weak.bind(py).upgrade_as::<Block>().ok()??;
                let offset = start.checked_sub(block.get().start())?;
                let lies_within = bytes > 0 && offset + bytes <= block.get().core.len();
                lies_within.then_some((block, offset))
            })
        })
    }

    /// Takes blocks out: they are about to be sent. False, and nothing done, if another thread was
    /// quicker with one of them.
    pub(crate) fn claim(&self, blocks: &[&Bound<'_, Block>]) -> bool {
        self.with(|all| {
            let is_same = |weak: &Py<PyWeakrefReference>, block: &Bound<'_, Block>| {
                weak.bind(block.py()).upgrade().is_some_and(|found| found.is(block))
            };
            let are_here = blocks.iter().all(|block| all.iter().any(|weak| is_same(weak, block)));
            if are_here {
                all.retain(|weak| !blocks.iter().any(|block| is_same(weak, block)));
            }
            are_here
        })
    }
}

#[pymethods]
impl Block {
    /// Takes note of the one thing through which the program fills it, by a weak reference.
    fn _give(&self, py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<()> {
        let weak = PyWeakrefReference::new(given)?.into_any().unbind();
        let _ = self.given.set(py, weak);
        Ok(())
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        // SAFETY: the memory is writable as long as the block, which the view keeps alive.
        unsafe { fill(slf.as_any(), view, slf.get().core.region(), false, flags) }
    }
}

/// Fills a view of some memory.
///
/// # Safety
/// The memory is there as long as `owner`, and may be written unless `is_read_only`; `view` is the one
/// that the interpreter asks to be filled, or null.
unsafe fn fill(
    owner: &Bound<'_, PyAny>,
    view: *mut ffi::Py_buffer,
    region: core::Region<'_>,
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
            region.as_ptr().cast(),
            region.len() as ffi::Py_ssize_t,
            c_int::from(is_read_only),
            flags,
        )
    };
    if failed == 0 { Ok(()) } else { Err(PyErr::fetch(owner.py())) }
}
