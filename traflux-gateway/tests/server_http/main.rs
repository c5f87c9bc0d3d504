//! A gateway on this machine, with clients and backends of all manners.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)]

mod bodies;
mod change;
mod common;
mod connections;
mod estimates;
mod faults;
mod forms;
mod keep;
mod loads;
mod pass;
mod pools;
mod probes;
mod queue;
mod record;
mod status;
mod tls;
mod tokens;
mod valid;
