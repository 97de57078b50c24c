//! One integration binary: a module per behaviour.

mod support;

mod buckets_faults;
mod buckets_nights;
mod buckets_restore;
mod buckets_trouble;
mod tidy;
