//! One integration binary: a module per behaviour.

mod files_directory;
mod files_secrets;
mod memory_store;
mod tidy;
