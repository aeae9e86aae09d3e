//! An envelope parses or is refused; what parses has one meaning, also after writing it again, and
//! statements were in their one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::Statement;

fn value(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).expect("it parses")
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes, 1 << 20, "fuzz") else { return };
    assert_eq!(Envelope::parse(&envelope.encode(), 2 << 20, "fuzz").as_ref(), Ok(&envelope));
    if let Ok(statement) = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE) {
        assert_eq!(value(&statement.encode(HEAD_TYPE)), value(&envelope.payload));
    }
    if let Ok(statement) = Statement::<Release>::parse(&envelope.payload, RELEASE_TYPE) {
        let _ = statement.predicate.validate();
        assert_eq!(value(&statement.encode(RELEASE_TYPE)), value(&envelope.payload));
    }
});
