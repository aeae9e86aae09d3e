//! Project Wycheproof's signatures: thousands of ways to be almost right, gathered from the
//! bugs of many libraries. What it calls valid we take, what it calls invalid we refuse, and of
//! the valid ones of ECDSA only the form with the lower S.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mcpfs_trust::key::{Algorithm, PublicKey};
use p256::ecdsa::Signature;
use wycheproof::TestResult;

/// What we say to a signature, under a key that must be usable.
fn verifies(algorithm: Algorithm, der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = PublicKey::from_spki_der(der).expect("a key of the set");
    assert_eq!((key.algorithm(), key.spki_der()), (algorithm, der.to_vec()));
    key.verify(message, signature)
}

#[test]
fn ed25519() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        for test in &group.tests {
            let found = verifies(Algorithm::Ed25519, &group.der, &test.msg, &test.sig);
            assert_eq!(found, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    assert!(count >= 150, "{count} tests");
}

#[test]
fn ecdsa_p256() {
    let set = wycheproof::ecdsa::TestSet::load(wycheproof::ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let (mut low, mut high, mut invalid) = (0, 0, 0);
    for group in &set.test_groups {
        for test in &group.tests {
            let verifies = |signature: &[u8]| verifies(Algorithm::EcdsaP256, &group.der, &test.msg, signature);
            let found = verifies(&test.sig);
            if test.result != TestResult::Valid {
                assert!(!found, "{}: {}", test.tc_id, test.comment);
                invalid += 1;
                continue;
            }
            let signature = Signature::from_der(&test.sig).unwrap();
            let normal = signature.normalize_s();
            assert_eq!(found, signature == normal, "{}: {}", test.tc_id, test.comment);
            assert!(verifies(normal.to_der().as_bytes()), "{}: {}", test.tc_id, test.comment);
            *(if found { &mut low } else { &mut high }) += 1;
        }
    }
    assert!(low >= 100 && high >= 70 && invalid >= 300, "{low} low, {high} high, {invalid} invalid");
}

#[test]
fn ecdsa_without_der() {
    let set = wycheproof::ecdsa::TestSet::load(wycheproof::ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut count = 0;
    for group in &set.test_groups {
        for test in &group.tests {
            assert!(!verifies(Algorithm::EcdsaP256, &group.der, &test.msg, &test.sig), "{}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 200, "{count} tests");
}
