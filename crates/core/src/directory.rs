//! The directory: running programs that others can find.

pub mod connecting;
pub mod entry;
pub mod name;
pub mod registration;
pub mod scope;
pub mod store;
pub mod watching;
