//! See [`traflux_fuzz::limiter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::limiter::check(data));
