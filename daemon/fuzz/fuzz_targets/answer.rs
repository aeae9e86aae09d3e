//! The invariants are in `mcpfs::decoders`, for the walk over the corpora as well.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    mcpfs::decoders::answer(bytes);
});
