//! Tells the linker that Node supplies what napi calls.

fn main() {
    napi_build::setup();
}
