//! Directories and secret files.
