//! See [`traflux_fuzz::networks`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::networks::check(data));
