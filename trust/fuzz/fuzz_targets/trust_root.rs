//! A trust root parses or is refused; what parses is the same after writing it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::root::TrustRoot;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(root) = TrustRoot::parse(bytes) {
        assert_eq!(TrustRoot::parse(&root.encode()), Ok(root));
    }
});
