//! See [`traflux_fuzz::answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| traflux_fuzz::answer::check(data));
