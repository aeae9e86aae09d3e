use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

#[path = "../../../trust/tests/json_edges.rs"]
mod json_edges;
#[path = "../../../trust/tests/mutation.rs"]
mod mutation;
use mutation::{SEED, changed};

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

#[test]
fn changed_inputs_do_no_harm() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let count = std::env::var("MCPFS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    for (name, decode) in ALL {
        let folder = corpus.join(name);
        let inputs: Vec<Vec<u8>> = names(&folder).iter().map(|input| fs::read(folder.join(input)).unwrap()).collect();
        let mut state = SEED;
        for number in 0..count {
            let bytes = changed(&inputs, &mut state);
            let ended = std::panic::catch_unwind(|| decode(&bytes));
            assert!(ended.is_ok(), "{name}: input {number}: {}", bytes.escape_ascii());
        }
    }
}

/// JSON that readers disagree about, in the place of each committed input that is taken: none of it is.
#[test]
fn json_that_readers_disagree_about_is_refused() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, decode) in ALL {
        if !["oci_manifest", "mcpb_manifest", "npm_lock"].contains(&name) {
            continue; // The others are no JSON.
        }
        let folder = corpus.join(name);
        let inputs = names(&folder).into_iter().map(|input| fs::read(folder.join(input)).unwrap());
        let sound = inputs.filter(|input| decode(input) && serde_json::from_slice::<serde_json::Value>(input).is_ok());
        let mut count = 0;
        for input in sound {
            for (change, text) in json_edges::of(&input) {
                // A negative number and more levels are another value, which npm's own fields may have.
                if name == "npm_lock" && ["Deep", "Number(3)"].iter().any(|other| change.ends_with(other)) {
                    continue;
                }
                assert!(!decode(&text), "{name}: {change} is taken: {}", text.escape_ascii());
                count += 1;
            }
        }
        assert!(count > 100, "{name}: {count} texts");
    }
}
