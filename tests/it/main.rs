//! One integration binary: a module per behaviour.
#![allow(unreachable_pub, reason = "one binary: what its modules share is public to them only")]
// `cfg(test)` where helpers stand beside tests: clippy then takes them for test code too.

#[cfg(test)]
mod ahead;
#[cfg(test)]
mod bucket_doctor;
#[cfg(test)]
mod bucket_faults;
#[cfg(test)]
mod bucket_immutable;
#[cfg(test)]
mod bucket_limits;
#[cfg(test)]
mod bucket_repository;
#[cfg(test)]
mod bucket_secrets;
#[cfg(test)]
mod bucket_speed;
#[cfg(test)]
mod buckets_faults;
#[cfg(test)]
mod buckets_nights;
#[cfg(test)]
mod buckets_restore;
#[cfg(test)]
mod buckets_trouble;
#[cfg(test)]
mod chains;
#[cfg(test)]
mod check_contents;
#[cfg(test)]
mod cli_chunk_sizes;
#[cfg(test)]
mod cli_commands;
#[cfg(test)]
mod cli_copies;
#[cfg(test)]
mod cli_cut_dumps;
#[cfg(test)]
mod cli_healing;
#[cfg(test)]
mod cli_keys;
#[cfg(test)]
mod cli_new_machine;
#[cfg(test)]
mod cli_nights;
#[cfg(test)]
mod cli_refusals;
#[cfg(test)]
mod cli_rollback;
#[cfg(test)]
mod cli_secrets_apart;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
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
mod files_many;
#[cfg(test)]
mod files_secrets;
#[cfg(test)]
mod forgotten;
#[cfg(test)]
mod fragmented;
#[cfg(test)]
mod fuzz_replay;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_repository;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod memory_store;
#[cfg(test)]
mod mongodb_faults;
#[cfg(test)]
mod mongodb_stack;
#[cfg(test)]
mod nights;
#[cfg(test)]
mod redis_address;
#[cfg(test)]
mod redis_container;
#[cfg(test)]
mod secrets_apart;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
mod tidy;
#[cfg(test)]
mod tiny_chunks;
