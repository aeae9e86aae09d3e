//! Every recipe that a repository ever had, by digest.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use mcpfs_trust::digest::Digest;

use super::RebuildError;
use crate::recipe::Recipe;

/// The recipes that were asked for.
#[derive(Debug, Default)]
pub struct Recipes(HashMap<Digest, Vec<u8>>);

impl Recipes {
    /// Looks through all commits of the repository in `folder` for files with these digests.
    ///
    /// # Errors
    /// If git cannot read it.
    pub fn find(folder: &Path, wanted: &HashSet<Digest>) -> Result<Self, RebuildError> {
        let wrong = |problem: String| RebuildError::Git { path: folder.to_owned(), problem };
        let listed = git(folder).args(["rev-list", "--objects", "--all"]).output();
        let listed = listed.map_err(|error| wrong(error.to_string()))?;
        if !listed.status.success() {
            let said = String::from_utf8_lossy(&listed.stderr).lines().collect::<Vec<_>>().join("; ");
            return Err(wrong(mcpfs_trust::error::bounded(&said)));
        }
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let blobs = listed.lines().filter_map(|line| line.split_once(' ')).filter(|(_, path)| path.ends_with(".yaml"));
        let mut ids: Vec<String> = blobs.map(|(id, _)| id.to_owned()).collect();
        ids.sort();
        ids.dedup();
        let mut child = git(folder)
            .args(["cat-file", "--batch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| wrong(error.to_string()))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(wrong("it has no pipes".to_owned()));
        };
        // git answers while it is asked: both at once, or neither goes on.
        let asking = std::thread::spawn(move || ids.iter().try_for_each(|id| writeln!(input, "{id}")));
        let found = read(BufReader::new(output), wanted).map_err(|error| wrong(error.to_string()));
        drop(asking.join());
        let status = child.wait().map_err(|error| wrong(error.to_string()))?;
        match status.success() {
            true => found.map(Self),
            false => Err(wrong(format!("it ended with {status}"))),
        }
    }

    /// The recipe with this digest.
    pub fn get(&self, sha256: &Digest) -> Option<&[u8]> {
        self.0.get(sha256).map(Vec::as_slice)
    }
}

/// Reads `<id> <kind> <size>`, the bytes and a line's end, again and again.
fn read(mut output: impl std::io::BufRead, wanted: &HashSet<Digest>) -> std::io::Result<HashMap<Digest, Vec<u8>>> {
    let mut found = HashMap::new();
    loop {
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 {
            return Ok(found);
        }
        let Some(size) = line.trim_end().rsplit(' ').next().and_then(|size| size.parse::<u64>().ok()) else {
            return Err(std::io::Error::other(format!("git answers {line:?}")));
        };
        if size > Recipe::BYTES as u64 {
            std::io::copy(&mut output.by_ref().take(size + 1), &mut std::io::sink())?;
            continue;
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0) + 1];
        output.read_exact(&mut bytes)?;
        bytes.pop();
        let sha256 = Digest::of(&bytes);
        if wanted.contains(&sha256) {
            found.insert(sha256, bytes);
        }
    }
}

fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(folder)
        .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.bareRepository=all"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .stdin(Stdio::null());
    command
}
