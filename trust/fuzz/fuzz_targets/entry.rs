//! An entry parses or is refused; what parses is the same after writing it again, and the text was
//! in its one form but for envelopes, which may have further fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::entry::Entry;

fn without_envelopes(text: &[u8]) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_slice(text).expect("it parses");
    value["signature"].take();
    for earlier in value.get_mut("earlier").and_then(|list| list.as_array_mut()).into_iter().flatten() {
        earlier["signature"].take();
    }
    value
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(without_envelopes(&entry.encode()), without_envelopes(bytes));
        assert_eq!(Entry::parse(&entry.encode()), Ok(entry));
    }
});
