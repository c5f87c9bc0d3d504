//! See [`traflux_fuzz::metrics`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::metrics::check(data));
