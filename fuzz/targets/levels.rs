//! See [`traflux_fuzz::levels`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::levels::check(data));
