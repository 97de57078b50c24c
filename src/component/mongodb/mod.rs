//! The `mongodb` component: a mongodump archive, proven whole while it is captured, and mongorestore for
//! the way back.

pub mod archive;
