//! One integration binary: a module per behaviour.
#![allow(unreachable_pub, reason = "one binary: what its modules share is public to them only")]

mod fuzz_replay;
mod golden;
mod streams;
mod support;
mod tidy;
