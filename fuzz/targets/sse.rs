//! See [`traflux_fuzz::sse`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::sse::check(data));
