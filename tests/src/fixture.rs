//! Artefacts that releases are made of, and recipes for them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::binaries::bin;
use crate::command::Run;
use crate::scratch::need;

/// A reviewed recipe, as the text of its `servers/<name>.yaml`.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The server.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The artefact's file.
    pub artefact: PathBuf,
    /// The artefact's digest as reviewers wrote it down.
    pub sha256: String,
    /// The `launch:` block and whatever else is wanted, as YAML.
    pub rest: String,
}

impl Recipe {
    /// A recipe for `artefact` with its true digest.
    pub fn new(name: &str, version: &str, artefact: &Path) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            artefact: artefact.to_owned(),
            sha256: sha256_of(artefact),
            rest: String::new(),
        }
    }

    /// Adds YAML at the end.
    pub fn with(mut self, yaml: &str) -> Self {
        self.rest.push_str(yaml);
        self
    }

    /// The YAML text.
    pub fn yaml(&self) -> String {
        format!(
            "name: {}\nversion: {}\nmaintainer: platform@example.com\ndescription: A server for tests.\n\
             scope:\n  - read:nothing\ndata_classification: internal\nlawful_basis: contract\nreviewed_at: 2026-04-15\n\
             reviewers:\n  - security@example.com\n  - platform@example.com\n\
             artefact:\n  url: file://{}\n  sha256: {}\n{}",
            self.name,
            self.version,
            self.artefact.display(),
            self.sha256,
            self.rest,
        )
    }
}

/// The launch block of [`hello_tree`].
pub const HELLO_LAUNCH: &str =
    "launch:\n  command: bin/hello-mcp\n  args: [\"--state\", \"${STATE}/notes\"]\n  env: {HELLO: \"from ${TREE}\"}\n";

/// The sha256 of a file by coreutils, an opinion independent of ours.
pub fn sha256_of(file: &Path) -> String {
    let ran = Run::new("sha256sum").arg("-b").arg(file).ok();
    ran.stdout.split(' ').next().expect("sha256sum prints a digest").to_owned()
}

/// The tree of the server `hello`, whose version is `version`, below `parent`.
pub fn hello_tree(parent: &Path, version: &str) -> PathBuf {
    let tree = parent.join(format!("hello-{version}"));
    let exe = tree.join("bin/hello-mcp");
    std::fs::create_dir_all(tree.join("bin")).expect("own directory");
    // A debug build is ten times larger than what it takes to run it.
    Run::new(need("strip", "binutils")).arg("-o").arg(&exe).arg(bin("hello-mcp")).ok();
    std::fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).expect("own file");
    std::fs::write(tree.join("bin/VERSION"), format!("{version}\n")).expect("own file");
    std::fs::write(tree.join("README"), format!("hello {version}: echo, add, whoami\n")).expect("own file");
    tree
}

/// A tree with one of everything a release may hold, and sizes around every boundary.
pub fn files_tree(parent: &Path) -> PathBuf {
    let tree = parent.join("files");
    let deep = tree.join("a/b/c/d/e/f/g/h");
    std::fs::create_dir_all(&deep).expect("own directory");
    std::fs::create_dir_all(tree.join("many")).expect("own directory");
    let write = |path: PathBuf, bytes: &[u8]| std::fs::write(path, bytes).expect("own file");
    for size in [0_usize, 1, 4095, 4096, 4097, 65_536, 131_073] {
        write(tree.join(format!("size-{size}")), &bytes(size as u64, size));
    }
    // Longer than one chunk of 4 MiB, so it is cut.
    write(tree.join("large"), &bytes(7, 9 << 20));
    for index in 0..300 {
        write(tree.join(format!("many/{index:03}.txt")), format!("file {index}\n").as_bytes());
    }
    write(deep.join("leaf"), b"deep\n");
    write(tree.join("größe und leerzeichen"), "ein Name\n".as_bytes());
    write(tree.join("twin"), b"deep\n");
    let script = tree.join("script.sh");
    write(script.clone(), b"#!/bin/sh\necho \"ran $0 with $*\"\n");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("own file");
    symlink("a/b/c/d/e/f/g/h/leaf", tree.join("to-leaf")).expect("own directory");
    symlink("many", tree.join("to-many")).expect("own directory");
    symlink("../../script.sh", tree.join("a/b/to-script")).expect("own directory");
    tree
}

/// A tar of a tree, the same bytes every time.
pub fn tar(tree: &Path) -> PathBuf {
    let file = tree.with_extension("tar");
    // `with_extension` would cut "hello-1.0.0" at its last dot.
    let file = file.with_file_name(format!("{}.tar", tree.file_name().expect("a name").to_string_lossy()));
    Run::new("tar")
        .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(&file)
        .arg("-C")
        .arg(tree)
        .arg(".")
        .ok();
    file
}

/// Bytes that do not compress to nothing and differ by seed (xorshift).
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Some structure, so that compression has work to do and chunks differ from content.
        (state >> 32) as u8 & 0x3f
    };
    (0..size).map(|_| next()).collect()
}
