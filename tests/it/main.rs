//! One integration binary: a module per behaviour.
#![allow(unreachable_pub, reason = "one binary: what its modules share is public to them only")]
// `cfg(test)` on each: clippy then knows that what is in them, helpers too, is test code.

#[cfg(test)]
mod support;

#[cfg(test)]
mod buckets_faults;
#[cfg(test)]
mod buckets_nights;
#[cfg(test)]
mod buckets_restore;
#[cfg(test)]
mod buckets_trouble;
#[cfg(test)]
mod streams;
mod tidy;
