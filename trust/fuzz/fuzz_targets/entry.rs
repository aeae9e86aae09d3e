//! An entry parses or is refused; what parses is the same after writing it again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::entry::Entry;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(Entry::parse(&entry.encode()), Ok(entry));
    }
});
