//! An envelope parses or is refused; what parses has one meaning, also after writing it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::statement::Statement;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes, 1 << 20, "fuzz") else { return };
    assert_eq!(Envelope::parse(&envelope.encode(), 2 << 20, "fuzz").as_ref(), Ok(&envelope));
    let _ = Statement::<Head>::parse(&envelope.payload, HEAD_TYPE);
    if let Ok(statement) = Statement::<Release>::parse(&envelope.payload, RELEASE_TYPE) {
        let _ = statement.predicate.validate();
    }
});
