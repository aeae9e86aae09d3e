//! Catalogues and bins parse or are refused; what parses was in its one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::catalogue::{Bin, Catalogue};

fn value(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).expect("it parses")
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(catalogue) = Catalogue::parse(bytes) {
        assert_eq!(value(&catalogue.encode()), value(bytes));
        assert_eq!(Catalogue::parse(&catalogue.encode()), Ok(catalogue));
    }
    if let Ok(bin) = Bin::parse(bytes, 0, 1) {
        assert_eq!(value(&bin.encode()), value(bytes));
        assert!(bin.servers.iter().all(|server| bin.find(&server.name) == Some(server)));
    }
});
