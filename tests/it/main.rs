//! One integration binary: a module per behaviour.
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
mod tidy;
