//! See [`traflux_fuzz::engine`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::engine::check(data));
