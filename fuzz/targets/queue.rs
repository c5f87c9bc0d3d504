//! See [`traflux_fuzz::queue`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::queue::check(data));
