//! One integration binary: a module per behaviour.

mod tidy;
