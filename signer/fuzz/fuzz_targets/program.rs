//! The invariants are in `mcpfs_signer::decoders`, for the walk over the corpora as well.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    mcpfs_signer::decoders::program(bytes);
});
