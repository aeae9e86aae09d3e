//! A public key or a signature is read without a panic, and what is accepted was in its one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcpfs_trust::key::{Algorithm, PublicKey};

/// The key and the message of RFC 6979 A.2.5, whose signatures the corpus begins with.
const POINT: &[u8; 65] = b"\x04\x60\xfe\xd4\xba\x25\x5a\x9d\x31\xc9\x61\xeb\x74\xc6\x35\x6d\x68\xc0\x49\xb8\x92\x3b\x61\xfa\x6c\xe6\x69\x62\x2e\x60\xf2\x9f\xb6\x79\x03\xfe\x10\x08\xb8\xbc\x99\xa4\x1a\xe9\xe9\x56\x28\xbc\x64\xf2\xf1\xb2\x0c\x2d\x7e\x9f\x51\x77\xa3\xc2\x94\xd4\x46\x22\x99";
const MESSAGE: &[u8] = b"sample";
/// Its signature there, with the lower S.
const SIGNATURE: &[u8] = b"\x30\x45\x02\x21\x00\xef\xd4\x8b\x2a\xac\xb6\xa8\xfd\x11\x40\xdd\x9c\xd4\x5e\x81\xd6\x9d\x2c\x87\x7b\x56\xaa\xf9\x91\xc3\x4d\x0e\xa8\x4e\xaf\x37\x16\x02\x20\x08\x34\xe3\x6a\xd2\x9a\x83\xbf\x2b\xc9\x38\x5e\x49\x1d\x60\x99\xc8\xfd\xf9\xd1\xed\x67\xaa\x7e\xa5\xf5\x1f\x93\x78\x28\x57\xa9";

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_spki_der(bytes) {
        assert_eq!(key.spki_der(), bytes);
    }
    for algorithm in Algorithm::ALL {
        if let Ok(key) = PublicKey::from_bytes(algorithm, bytes) {
            assert_eq!(key.to_bytes(), bytes);
            assert_eq!(PublicKey::from_spki_der(&key.spki_der()), Ok(key));
        }
    }
    let key = PublicKey::from_bytes(Algorithm::EcdsaP256, POINT).expect("a good key");
    // Of this one's genuine signatures only one is in the corpus; to find another is not a fuzzer's work.
    assert_eq!(key.verify(MESSAGE, bytes), bytes == SIGNATURE);
});
