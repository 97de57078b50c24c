//! One integration binary: a module per behaviour.

mod docker_archive;
mod docker_exec;
mod docker_faults;
mod files_directory;
mod files_secrets;
mod memory_store;
mod support;
mod tidy;
