//! Python objects that are known by name, and looked up when they are first needed.
//!
//! No cell is held while Python runs: a look-up may run a signal's handler that looks the same thing
//! up, or be cut off by a fork, and would then wait for itself.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An attribute of a module.
pub(crate) struct Named {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<Py<PyAny>>,
}

impl Named {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Named {
        Named { module, name, found: PyOnceLock::new() }
    }

    /// It; imports the module the first time.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(found) = self.found.get(py) {
            return Ok(found.bind(py).clone());
        }
        let found = py.import(self.module)?.getattr(self.name)?;
        let _ = self.found.set(py, found.clone().unbind());
        Ok(found)
    }
}
