//! Redis and Valkey.
mod crc64;
pub mod rdb;
mod rdb_layout;
