//! A gateway on this machine, with clients and backends of all manners.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)]

mod change;
mod common;
mod connections;
mod faults;
mod keep;
mod pass;
mod probes;
mod record;
mod tls;
