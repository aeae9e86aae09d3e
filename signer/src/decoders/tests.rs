use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

/// Inputs of one corpus, at most, and bytes of one input: this test is one of seconds.
const INPUTS: usize = 200;
const BYTES: u64 = 64 << 10;

/// Changed inputs for each door; `MCPFS_MUTATIONS=100000` for a longer run where there is no cargo-fuzz.
const MUTATIONS: usize = 100;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_committed_corpora_go_through_every_door() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let doors: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz.join("corpus")), doors);
    let targets: BTreeSet<String> = doors.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz.join("fuzz_targets")), targets);
    for (name, decode) in ALL {
        let folder = fuzz.join("corpus").join(name);
        let inputs = names(&folder);
        assert!(inputs.len() <= INPUTS, "{name}: {} inputs", inputs.len());
        let mut taken = BTreeSet::new();
        for input in &inputs {
            let bytes = fs::read(folder.join(input)).unwrap();
            assert!(bytes.len() as u64 <= BYTES, "{name}/{input}: {} bytes", bytes.len());
            taken.insert(decode(&bytes));
        }
        assert_eq!(
            taken,
            BTreeSet::from([false, true]),
            "{name}: a corpus has inputs that are taken, and refused ones"
        );
    }
}

/// The next of a fixed row of numbers (xorshift), so that a failure comes again.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).unwrap_or(0)
}

/// One to four small changes: a bit, a byte that means something, a piece doubled, cut out or moved in from
/// another input.
fn changed(inputs: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
    let mut bytes = inputs[next(state) % inputs.len()].clone();
    for _ in 0..1 + next(state) % 4 {
        let at = next(state) % (bytes.len() + 1);
        let end = (at + 1 + next(state) % 16).min(bytes.len());
        match next(state) % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (next(state) % 8),
            1 if at < bytes.len() => bytes[at] = b"\0\x01\x7f\x80\xff/.-\"{[:\n&*0 9"[next(state) % 18],
            2 if at < end => drop(bytes.drain(at..end)),
            3 if at < end => bytes.extend_from_within(at..end),
            4 => bytes.truncate(at),
            _ => {
                let other = &inputs[next(state) % inputs.len()];
                let from = next(state) % (other.len() + 1);
                let piece = other[from..(from + next(state) % 600).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

#[test]
fn changed_inputs_do_no_harm() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let count = std::env::var("MCPFS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    for (name, decode) in ALL {
        let folder = corpus.join(name);
        let inputs: Vec<Vec<u8>> = names(&folder).iter().map(|input| fs::read(folder.join(input)).unwrap()).collect();
        let mut state = 0x6d63_7066_7366_757a;
        for number in 0..count {
            let bytes = changed(&inputs, &mut state);
            let ended = std::panic::catch_unwind(|| decode(&bytes));
            assert!(ended.is_ok(), "{name}: input {number}: {}", bytes.escape_ascii());
        }
    }
}
