//! The demo as an ordinary user: `fusermount3`, one process, cached reads.

use std::path::Path;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::scratch::{self, is_root, need};
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("demo::a_clone_that_others_can_write", a_clone_that_others_can_write);
    suite.plain("demo::an_ordinary_user_sees_the_story", an_ordinary_user_sees_the_story);
}

/// Runs as nobody where /dev/fuse has the mode that udev gives it: in a mount namespace of its
/// own, so that nothing of this machine changes.
const AS_NOBODY: &str = r#"
dir=$1; shift
mount -t tmpfs -o mode=755,dev none "$dir/dev"
mknod -m 666 "$dir/dev/fuse" c 10 229
mount --bind "$dir/dev/fuse" /dev/fuse
cd "$dir/home"
exec setpriv --reuid 65534 --regid 65534 --clear-groups \
  env -i PATH="$PATH" HOME="$dir/home" MCPFS_BIN_DIR="$dir/bin" "$@"
"#;

fn as_ordinary_user(dir: &Path) -> Ran {
    let demo = dir.join("bin/mcpfs-demo");
    let story = dir.join("home/demo");
    if !is_root() {
        return Run::new(demo).arg(story).env("MCPFS_BIN_DIR", dir.join("bin")).ok();
    }
    std::os::unix::fs::chown(dir.join("home"), Some(65_534), Some(65_534)).unwrap();
    Run::new(need("unshare", "util-linux"))
        .args(["--mount", "--propagation", "private", "sh", "-euc", AS_NOBODY, "sh"])
        .arg(dir)
        .arg(demo)
        .arg(story)
        .ok()
}

/// As `git clone` makes one under a umask of 002: a host would refuse a trust root in it.
fn a_clone_that_others_can_write() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = scratch::dir();
    let target = scratch.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o775)).unwrap();
    let story = target.join("demo");
    let mut places = Vec::new();
    for _ in 0..2 {
        let ran =
            Run::new(bin("mcpfs-demo")).arg(&story).env("MCPFS_BIN_DIR", bin("mcpfs").parent().unwrap()).umask("002");
        let ran = ran.ok();
        let place = story.read_link().unwrap();
        assert!(ran.stdout.lines().last().unwrap().contains(&format!("in {}: ", place.display())), "{ran}");
        assert!(place.join("host/etc/trust.json").is_file());
        places.push(place);
    }
    assert!(!places[0].exists(), "the second demo removes the first");
    std::fs::remove_dir_all(&places[1]).unwrap();
}

fn an_ordinary_user_sees_the_story() {
    use std::os::unix::fs::PermissionsExt;
    // The repository may be closed to others.
    let scratch = scratch::dir();
    let dir = scratch.path();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["bin", "dev", "home"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    for name in ["mcpfs", "mcpfs-signer", "mcpfs-demo", "hello-mcp", "token-sign"] {
        // By another process: a file that this one writes could not be started while any of its threads forks.
        Run::new("cp").arg(bin(name)).arg(dir.join("bin")).ok();
    }
    let ran = as_ordinary_user(dir);
    assert!(ran.stdout.contains("reads: cached"), "{ran}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let acts = "key review sign mount ls launch TAMPER FORGE REPLAY ROLLBACK OFFLINE audit verify end";
    for act in acts.split(' ') {
        assert!(lines.iter().any(|line| line.split_whitespace().nth(1) == Some(act)), "no line {act:?}: {ran}");
    }
    // It says where it is, and keeps to that: the home it runs in has nothing else.
    let story = dir.join("home/demo");
    assert!(lines.last().unwrap().contains(&format!("in {}: ", story.display())), "{ran}");
    let written: Vec<_> =
        std::fs::read_dir(dir.join("home")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(written, ["demo"], "{ran}");
}
