use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

#[path = "../../../trust/tests/mutation.rs"]
mod mutation;
use mutation::{SEED, changed};

/// Changed inputs for each door; `MCPFS_MUTATIONS=100000` for a longer run where there is no cargo-fuzz.
const MUTATIONS: usize = 2000;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(name);
    names(&folder).iter().map(|input| fs::read(folder.join(input)).unwrap()).collect()
}

#[test]
fn the_committed_corpora_go_through_every_door() {
    let doors: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), doors);
    let targets: BTreeSet<String> = doors.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets);
    for (name, decode) in ALL {
        let taken: BTreeSet<bool> = inputs(name).iter().map(|input| decode(input)).collect();
        assert_eq!(taken, [false, true].into(), "{name}: a corpus has inputs that are taken, and refused ones");
    }
}

#[test]
fn changed_inputs_do_no_harm() {
    let count = std::env::var("MCPFS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    for (name, decode) in ALL {
        let inputs = inputs(name);
        let mut state = SEED;
        for number in 0..count {
            let bytes = changed(&inputs, &mut state);
            let ended = std::panic::catch_unwind(|| decode(&bytes));
            assert!(ended.is_ok(), "{name}: input {number}: {}", bytes.escape_ascii());
        }
    }
}
