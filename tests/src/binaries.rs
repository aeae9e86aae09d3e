//! Where the built programs are.
//!
//! With `MCPFS_BIN_DIR` they are taken from there, so an installed package can be tested.
//! Without it, one `cargo build` runs first: a binary found lying in target/ could be stale.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::command::Run;
use crate::scratch;

/// The program `name`: `mcpfs`, `mcpfs-signer`, `hello-mcp`.
///
/// # Panics
/// If it is not there or does not build.
pub fn bin(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("MCPFS_BIN_DIR") {
        let file = Path::new(&dir).join(name);
        assert!(file.is_file(), "MCPFS_BIN_DIR holds no {name}: {}", file.display());
        return file.canonicalize().expect("exists");
    }
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(build);
    built.get(name).unwrap_or_else(|| panic!("the workspace builds no program called {name}")).clone()
}

/// The test program `name` of the crates' examples, which `cargo test` builds.
///
/// # Panics
/// If it is not there.
pub fn example(name: &str) -> PathBuf {
    // Beside the programs, or beside this test's own directory `deps`.
    let here = std::env::current_exe().expect("a program has a file");
    let own = here.ancestors().nth(2).map(|dir| dir.join("examples").join(name));
    let beside = std::env::var_os("MCPFS_BIN_DIR").map(|dir| Path::new(&dir).join("examples").join(name));
    let found = beside.into_iter().chain(own).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no example {name}: cargo build --workspace --examples"))
}

fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let ran = Run::new(cargo)
        .args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"])
        .dir(scratch::repository())
        .limit(Duration::from_secs(3600))
        .ok();
    let messages = ran.stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter_map(|message| {
            let file = message["executable"].as_str()?;
            Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(file)))
        })
        .collect()
}
