//! A kernel of its own, as a program of this machine (user-mode Linux): it sleeps, and its clock is set, and nobody
//! else notices.
//!
//! Its root is this machine's, read only, so programs and files are where they are here. It is older than the
//! kernels that mcpfs likes best: reads go through the daemon. Only for root, whose files a daemon's are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::command::exit_within;
use crate::scratch::{self, PATIENCE, need, repository};

/// Boots with `tests/kernel/<script>` as the first process, which is given `variables`, and waits until it has
/// ended. What it printed, by the `@@ NAME` lines.
///
/// # Panics
/// If it does not end, or its script does not come to its end.
pub fn run(script: &str, variables: &[(&str, &Path)]) -> BTreeMap<String, String> {
    let dir = scratch::dir();
    let console = dir.path().join("console");
    let output = File::create(&console).expect("own directory");
    let mut command = Command::new(need("setpriv", "util-linux"));
    command
        .args(["--pdeathsig", "KILL"])
        .arg(need("unshare", "util-linux"))
        // It is many processes here, and all of them end with the first.
        .args(["--fork", "--kill-child", "--pid", "--mount", "--mount-proc"])
        .arg(need("linux.uml", "user-mode-linux"))
        .args([
            "mem=512M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "loglevel=1",
            "panic=-1",
        ])
        .args(["con=null", "con0=null,fd:1", "ssl=null"])
        .arg(format!("uml_dir={}", dir.path().display()))
        .arg(format!("init={}", repository().join("tests/kernel").join(script).display()))
        .env("TMPDIR", dir.path())
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("own file"))
        .stderr(output);
    for (name, path) in variables {
        command.arg(format!("{name}={}", path.display()));
    }
    need("insmod", "kmod");
    let mut kernel = Kernel(command.spawn().expect("cannot start unshare"));
    let ended = exit_within(&mut kernel.0, PATIENCE * 3);
    let said = String::from_utf8_lossy(&std::fs::read(&console).expect("own file")).replace('\r', "");
    assert!(ended.is_some(), "the kernel did not end:\n{said}");
    let mut parts = BTreeMap::new();
    for part in said.split("@@ ").skip(1) {
        let (name, text) = part.split_once('\n').unwrap_or((part, ""));
        parts.insert(name.to_owned(), text.to_owned());
    }
    assert!(parts.contains_key("end"), "its script did not end:\n{said}");
    parts
}

struct Kernel(Child);

impl Drop for Kernel {
    fn drop(&mut self) {
        // Ended long since, unless it hangs.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
