//! See [`traflux_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::config::check(data));
