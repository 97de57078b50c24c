//! orkvault: an encrypted, content-addressed backup repository for the Orkestra stack.
//!
//! Eight rooms, arrows only downward (`tests/it/tidy.rs` holds them):
//!
//! ```text
//!  shell      cli            argv, config, terminal, progress, exit codes
//!  use cases  ops            init, snapshot, restore, check ...: plan (pure), then apply
//!  parts      repo           component          these two never see each other
//!  tools      chunker  crypto  backend          cut points; keys and sealing; objects in and out
//!  words      format         ids, limits, bytes <-> types. Pure: no I/O, clock, randomness
//! ```
//!
//! Beside them `buffers`, memory that is used again, which `backend`, `component` and `repo` share.

pub mod backend;
pub mod buffers;
pub mod chunker;
pub mod cli;
pub mod component;
pub mod crypto;
pub mod format;
pub mod ops;
pub mod repo;
