//! The glue between Python and the core: converts arguments, lets go of the interpreter lock where a
//! call may take long, and makes Python's exceptions of the core's errors.
//!
//! # The interpreter lock
//! A call first tries with the lock held (a message that is there is taken in a third of a microsecond;
//! letting go and coming back costs as much again, and up to 5 ms where another thread computes). Only
//! what must wait, or copies much, goes on without it. Nobody waits for one of the core's locks with
//! the interpreter lock held, so whoever holds one of the core's locks may take the interpreter lock.

mod body;
mod cell;
mod decode;
mod directory;
mod encode;
mod endpoint;
mod errors;
mod lease;
mod lock;
mod named;
mod peer;
mod poller;
mod sending;
mod start;

use pyo3::prelude::*;

/// The native part of alongside; import `alongside` instead.
#[pymodule(gil_used = true)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    alongside_sys::fork::prepare().map_err(std::io::Error::from)?;
    module.add_class::<endpoint::Connection>()?;
    module.add_class::<endpoint::Endpoint>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<lease::Block>()?;
    module.add_class::<peer::Peer>()?;
    module.add_class::<peer::Statistics>()?;
    module.add_class::<poller::Aside>()?;
    module.add_class::<poller::Poller>()?;
    module.add_class::<poller::Signal>()?;
    module.add_class::<start::Canceller>()?;
    module.add_class::<start::Child>()?;
    module.add_class::<cell::Cell>()?;
    module.add_class::<cell::Changes>()?;
    module.add_class::<cell::First>()?;
    module.add_class::<lock::Lock>()?;
    module.add_class::<lock::RwLock>()?;
    module.add_class::<lock::RwEntry>()?;
    module.add_class::<lock::RwHold>()?;
    module.add_class::<directory::Call>()?;
    module.add_class::<directory::Change>()?;
    module.add_class::<directory::Entry>()?;
    module.add_class::<directory::Registration>()?;
    module.add_class::<directory::Watch>()?;
    module.add_function(wrap_pyfunction!(directory::running, module)?)?;
    module.add_function(wrap_pyfunction!(directory::find, module)?)?;
    module.add_function(wrap_pyfunction!(directory::places, module)?)?;
    module.add_function(wrap_pyfunction!(directory::flaws, module)?)?;
    module.add_function(wrap_pyfunction!(directory::leave_directories, module)?)?;
    module.add_function(wrap_pyfunction!(lock::lock_owners, module)?)?;
    module.add_function(wrap_pyfunction!(lock::check_name, module)?)?;
    module.add_function(wrap_pyfunction!(cell::cell_names, module)?)?;
    module.add_function(wrap_pyfunction!(cell::leave_shared, module)?)?;
    module.add_function(wrap_pyfunction!(encode::check_message, module)?)?;
    module.add_function(wrap_pyfunction!(start::start, module)?)?;
    module.add_function(wrap_pyfunction!(start::run, module)?)?;
    module.add_function(wrap_pyfunction!(start::adopt, module)?)?;
    module.add("ENVIRONMENT_VARIABLE", alongside_core::ENVIRONMENT_VARIABLE)?;
    Ok(())
}
