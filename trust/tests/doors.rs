//! Every decoder of this crate over the committed fuzz corpora, and over changes of them: what
//! `make fuzz` does for long and with coverage, for a bounded time in the ordinary suite.
//!
//! `MCPFS_MUTATIONS=100000` for a longer run where there is no cargo-fuzz.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "doors/mod.rs"]
mod all;
mod mutation;

/// Changed inputs for each door.
const MUTATIONS: usize = 2000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(name);
    names(&folder).iter().map(|input| std::fs::read(folder.join(input)).unwrap()).collect()
}

#[test]
fn the_committed_corpora_go_through_every_door() {
    let doors: BTreeSet<String> = all::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), doors);
    let targets: BTreeSet<String> = doors.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets);
    for (name, door) in all::ALL {
        let taken: BTreeSet<bool> = inputs(name).iter().map(|input| door(input)).collect();
        assert_eq!(taken, [false, true].into(), "{name}: a corpus has inputs that are taken, and refused ones");
    }
}

#[test]
fn changed_inputs_do_no_harm() {
    let count = std::env::var("MCPFS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    for (name, door) in all::ALL {
        let inputs = inputs(name);
        let mut state = mutation::SEED;
        let mut taken = 0;
        for number in 0..count {
            let bytes = mutation::changed(&inputs, &mut state);
            match std::panic::catch_unwind(|| door(&bytes)) {
                Ok(accepted) => taken += usize::from(accepted),
                Err(_) => panic!("{name}: input {number}: {}", bytes.escape_ascii()),
            }
        }
        println!("{name}: {count} changed inputs, {taken} taken");
    }
}
