//! Catalogues and bins parse or are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::catalogue::{Bin, Catalogue};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(catalogue) = Catalogue::parse(bytes) {
        assert_eq!(Catalogue::parse(&catalogue.encode()), Ok(catalogue));
    }
    if let Ok(bin) = Bin::parse(bytes, 0, 1) {
        assert!(bin.servers.iter().all(|server| bin.find(&server.name) == Some(server)));
    }
});
