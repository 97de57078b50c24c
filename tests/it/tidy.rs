//! Holds the rooms (under construction).
