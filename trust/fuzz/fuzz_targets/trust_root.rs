//! A trust root parses or is refused; what parses is the same after writing it again, and the text
//! was in its one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::root::TrustRoot;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(root) = TrustRoot::parse(bytes) {
        let again = root.encode();
        let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("it parses");
        assert_eq!(value(&again), value(bytes));
        assert_eq!(TrustRoot::parse(&again), Ok(root));
    }
});
