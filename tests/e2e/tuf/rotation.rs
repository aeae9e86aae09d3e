//! tuf_conformance/test_updater_key_rotations.py: which combinations of keys, thresholds and
//! signatures are enough.
//!
//! Root keys are not changed in band here: a new trust.json comes by the host's configuration,
//! and needs nobody's signature. So where TUF asks for the old keys too, they are not asked; three
//! of the suite's failures are successes here, marked `BY_CONFIGURATION`.

use mcpfs_tests::audit;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::OutsideKey;

use super::roles::{deploy_heads, deploy_hello, next_head_by, release_hello_by};
use super::{Port, Scenario, is_refused, is_shown_nothing};
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_root_rotation[15 cases]",
        here: "Each version of the case is a trust.json whose head role has these keys and threshold, and a head \
               with these signatures, shown to one host in turn. Three that fail in TUF for want of the old keys \
               succeed: configuration alone decides about keys.",
        port: Port::Plain(&["ok", "ThresholdNotMet", "KeyNotAuthorised"], root_rotation),
    },
    Scenario {
        name: "test_non_root_rotations[10 cases]",
        here: "Keys, threshold and signatures of the case in the head role; then the same for the releases of one \
               server, whose failure hides that server alone.",
        port: Port::Plain(&["ok", "ThresholdNotMet", "KeyNotAuthorised", "EACCES"], non_root_rotations),
    },
];

/// Keys of a role, how many of them must sign, and which keys did, all by number.
struct Step {
    keys: &'static [usize],
    threshold: usize,
    signed: &'static [usize],
}

const fn step(keys: &'static [usize], threshold: usize, signed: &'static [usize]) -> Step {
    Step { keys, threshold, signed }
}

/// Fails in TUF, where the old keys must agree to the new ones.
const BY_CONFIGURATION: Option<&str> = None;
const FEW: Option<&str> = Some("ThresholdNotMet");
const STRANGERS: Option<&str> = Some("KeyNotAuthorised");

/// Name, versions, and how the last one ends.
type Case = (&'static str, &'static [Step], Option<&'static str>);

const OLD: &[usize] = &[0, 1, 2, 3, 4];
const ONE_ROTATED: &[usize] = &[0, 1, 3, 4, 5];
const NEW: &[usize] = &[5, 6, 7, 8, 9];

const ROOT: [Case; 15] = [
    ("1-of-1-key-rotation", &[step(&[1], 1, &[1]), step(&[2], 1, &[2, 1]), step(&[2], 1, &[2])], None),
    (
        "1-of-1-key-rotation-unused-signatures",
        &[step(&[1], 1, &[3, 1, 4]), step(&[2], 1, &[3, 2, 1, 4]), step(&[2], 1, &[3, 2, 4])],
        None,
    ),
    (
        "3-of-5-sign-with-different-keycombos",
        &[step(OLD, 3, &[0, 2, 4]), step(OLD, 3, &[0, 4, 1]), step(OLD, 3, &[0, 1, 3]), step(OLD, 3, &[0, 1, 3])],
        None,
    ),
    ("3-of-5-one-key-rotated", &[step(OLD, 3, &[0, 2, 4]), step(ONE_ROTATED, 3, &[0, 4, 1])], None),
    (
        "3-of-5-one-key-rotated-with-intermediate-step",
        &[step(OLD, 3, &[0, 2, 4]), step(ONE_ROTATED, 3, &[0, 2, 4, 5]), step(ONE_ROTATED, 3, &[0, 4, 5])],
        None,
    ),
    (
        "3-of-5-all-keys-rotated-with-intermediate-step",
        &[step(OLD, 3, &[0, 2, 4]), step(NEW, 3, &[0, 2, 4, 5, 6, 7]), step(NEW, 3, &[5, 6, 7])],
        None,
    ),
    ("1-of-3-threshold-increase-to-2-of-3", &[step(&[1, 2, 3], 1, &[1]), step(&[1, 2, 3], 2, &[1, 2])], None),
    (
        "2-of-3-threshold-decrease-to-1-of-3",
        &[step(&[1, 2, 3], 2, &[1, 2]), step(&[1, 2, 3], 1, &[1, 2]), step(&[1, 2, 3], 1, &[1])],
        None,
    ),
    ("1-of-2-threshold-increase-to-2-of-2", &[step(&[1], 1, &[1]), step(&[1, 2], 2, &[1, 2])], None),
    (
        "1-of-1-key-rotation-fail-not-signed-with-old-key",
        &[step(&[1], 1, &[1]), step(&[2], 1, &[2, 3, 4])],
        BY_CONFIGURATION,
    ),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", &[step(&[1], 1, &[1]), step(&[2], 1, &[1, 3, 4])], STRANGERS),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys",
        &[step(OLD, 3, &[0, 2, 4]), step(ONE_ROTATED, 3, &[0, 2, 4])],
        FEW,
    ),
    (
        "3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys",
        &[step(OLD, 3, &[0, 2, 4]), step(ONE_ROTATED, 3, &[0, 4, 5])],
        BY_CONFIGURATION,
    ),
    (
        "1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached",
        &[step(&[1, 2, 3], 1, &[1]), step(&[1, 2, 3], 2, &[2])],
        FEW,
    ),
    (
        "2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-eached",
        &[step(&[1, 2, 3], 2, &[1, 2]), step(&[1, 2, 3], 1, &[1])],
        BY_CONFIGURATION,
    ),
];

const NON_ROOT: [Case; 10] = [
    ("1-of-1-key-rotation", &[step(&[2], 1, &[2])], None),
    ("1-of-1-key-rotation-unused-signatures", &[step(&[1], 1, &[3, 1, 4])], None),
    ("1-of-1-key-rotation-fail-not-signed-with-new-key", &[step(&[2], 1, &[1, 3, 4])], STRANGERS),
    ("3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys", &[step(ONE_ROTATED, 3, &[0, 2, 4])], FEW),
    ("2-of-5-one-key-signature-mising-threshold-not-reached", &[step(ONE_ROTATED, 3, &[0, 4])], FEW),
    ("3-of-5-sign-first-combo", &[step(OLD, 3, &[0, 2, 4])], None),
    ("3-of-5-sign-second-combo", &[step(OLD, 3, &[0, 4, 1])], None),
    ("3-of-5-sign-third-combo", &[step(OLD, 3, &[0, 1, 3])], None),
    ("3-of-5-sign-fourth-combo", &[step(OLD, 3, &[1, 2, 3])], None),
    ("3-of-5-sign-fifth-combo", &[step(OLD, 3, &[2, 3, 4])], None),
];

fn ten_keys() -> Vec<OutsideKey> {
    std::iter::repeat_with(OutsideKey::ed25519).take(10).collect()
}

fn of<'k>(keys: &'k [OutsideKey], numbers: &[usize]) -> Vec<&'k OutsideKey> {
    numbers.iter().map(|number| &keys[*number]).collect()
}

/// A host's look after a start: at a sound head it shows hello.
fn looks(world: &World, case: &str, outcome: Option<&str>) {
    let mount = Mount::start(&world.host);
    let head = mcpfs_tests::forge::payload(&mcpfs_tests::forge::read(&world.file("head.json")));
    match outcome {
        None => {
            world.host.refresh();
            assert_eq!(super::head_of(&world.host), head["predicate"]["version"], "{case}");
            assert_eq!(std::fs::read(world.host.at(super::README)).unwrap(), super::CONTENT, "{case}");
            audit::expect(&world.host, "ok", None);
        }
        Some(code) => {
            world.host.refresh_fails(code);
            audit::expect(&world.host, code, None);
            // A head that was accepted under the old keys does not verify under the new ones either.
            assert!(super::head_of_any(&world.host) < head["predicate"]["version"].as_u64(), "{case}");
        }
    }
    mount.stop();
}

fn root_rotation() {
    let keys = ten_keys();
    for (case, steps, outcome) in ROOT {
        println!("{case}");
        let world = World::new(Reads::Cached);
        for (at, step) in steps.iter().enumerate() {
            deploy_heads(&world.host, &of(&keys, step.keys), step.threshold);
            next_head_by(&world, &of(&keys, step.signed));
            looks(&world, case, outcome.filter(|_| at + 1 == steps.len()));
        }
    }
}

fn non_root_rotations() {
    let keys = ten_keys();
    for (case, steps, outcome) in NON_ROOT {
        println!("{case}");
        let step = &steps[0];
        let (role, signed) = (of(&keys, step.keys), of(&keys, step.signed));
        let world = World::new(Reads::Cached);
        deploy_hello(&world.host, &role, step.threshold);
        release_hello_by(&world, &signed);
        let mount = Mount::start(&world.host);
        world.host.refresh();
        match outcome {
            None => assert_eq!(std::fs::read(world.host.at(super::README)).unwrap(), super::CONTENT, "{case}"),
            Some(code) => {
                is_refused(&world, "hello", "1.1.0", code);
                audit::expect(&world.host, code, Some("hello"));
            }
        }
        assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "{case}: others go on");
        mount.stop();

        let world = World::new(Reads::Cached);
        deploy_heads(&world.host, &role, step.threshold);
        next_head_by(&world, &signed);
        match outcome {
            None => looks(&world, case, None),
            Some(code) => {
                let _mount = Mount::start(&world.host);
                is_shown_nothing(&world, code);
            }
        }
    }
}
