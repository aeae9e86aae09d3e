//! The invariants are in `trust/tests/doors`, for the walk over the corpora as well.
#![no_main]

#[path = "../../tests/doors/mod.rs"]
mod doors;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    doors::envelope(bytes);
});
