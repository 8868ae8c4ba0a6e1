//! The directory: running programs that others can find.

pub mod calling;
pub mod entry;
pub mod listening;
mod login;
pub mod name;
pub mod registration;
pub mod scope;
pub mod seeking;
pub mod store;
pub mod watching;
