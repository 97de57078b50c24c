//! One integration binary: a module per behaviour.
#![allow(unreachable_pub, reason = "one binary: what its modules share is public to them only")]
// `cfg(test)` on each: clippy then knows that what is in them, helpers too, is test code.

#[cfg(test)]
mod memory_store;
#[cfg(test)]
mod support;

#[cfg(test)]
mod docker_archive;
#[cfg(test)]
mod docker_exec;
#[cfg(test)]
mod docker_faults;
#[cfg(test)]
mod docker_stack;
#[cfg(test)]
mod files_directory;
#[cfg(test)]
mod files_secrets;
#[cfg(test)]
mod redis_address;
#[cfg(test)]
mod redis_container;
#[cfg(test)]
mod streams;
mod tidy;
