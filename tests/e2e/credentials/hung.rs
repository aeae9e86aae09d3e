//! Sources that hang, and whom that concerns.

use std::os::unix::fs::chown;
use std::path::PathBuf;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::silent::Silent;

use super::vault::{PG, Vault, digest, digest_of, secret};

/// Users who start servers whose source hangs, and how many each of them starts of either kind.
const USERS: std::ops::Range<u32> = 61_001..61_011;
const LAUNCHES: usize = 2;
/// What there may be of one source.
const PER_SOURCE: usize = 16;

/// Neither a source that waits until it is killed nor one that cannot be killed takes those of others.
pub(super) fn a_source_that_hangs_is_in_nobody_elses_way() {
    let [hung, stuck] = ["hung", "stuck"].map(|reference| PG.replace("finance-dw/readonly", reference));
    let vault = Vault::new(Reads::Cached, &[("pg", PG), ("hung", &hung), ("stuck", &stuck)]);
    let value = secret();
    let healthy = vault.secret("pg", value.as_bytes());
    let [killable, unkillable] = ["killable", "unkillable"].map(|name| vault.host.path(name));
    let _killable = Silent::mount(&killable);
    let unkillable_mount = Silent::mount_for_ever(&unkillable);
    vault.host.drop_in(
        "50-credentials",
        &format!(
            "[credentials.hung]\nfile = {:?}\nservers = [\"hung\"]\n[credentials.stuck]\nfile = {:?}\n\
             servers = [\"stuck\"]\n[credentials.\"finance-dw/readonly\"]\nfile = {healthy:?}\nservers = [\"pg\"]\n",
            killable.join("secret"),
            unkillable.join("secret"),
        ),
    );
    let mount = Mount::start(&vault.host);
    let homes: Vec<(u32, PathBuf)> = USERS
        .map(|user| {
            let home = vault.host.path(&format!("home-{user}"));
            std::fs::create_dir(&home).unwrap();
            chown(&home, Some(user), Some(user)).unwrap();
            (user, home)
        })
        .collect();
    chown(vault.host.home(), Some(65_534), Some(65_534)).unwrap();
    let run = |name: &str, user: u32, home: &PathBuf| -> Ran {
        let id = user.to_string();
        let run = Run::new("setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        run.arg(vault.run(name)).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").run()
    };
    let is_given = || {
        let mut client = McpClient::start_with(super::refusals::as_user(&vault, "65534", "65534", ""));
        client.initialize();
        assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
        client.end();
    };
    let readers = || readers_of(mount.pid());
    std::thread::scope(|scope| {
        let mut launches = vec![];
        for (user, home) in &homes {
            for name in ["hung", "stuck"].repeat(LAUNCHES) {
                let run = &run;
                launches.push(scope.spawn(move || run(name, *user, home)));
            }
        }
        wait_for("sources that hang", || (readers() >= 8).then_some(()));
        is_given();
        for launch in launches {
            // By the daemon, or on a busy machine by the launcher's own patience.
            let ran = launch.join().unwrap();
            assert!(ran.code == 77 && ran.stderr.contains(" refused: "), "{ran}");
        }
    });
    is_given();
    // Their time is over: of the one kind there are none, and of the other no more than there may be.
    wait_for("the end of what can be ended", || (readers() <= PER_SOURCE).then_some(()));
    assert!(mount.log().contains("a credential's source does not answer"), "{}", mount.log());
    is_given();
    // They are seen to end once the kernel lets them.
    drop(unkillable_mount);
    wait_for("the end of the others", || (readers() == 0).then_some(()));
}

/// How many readers this process has.
fn readers_of(supervisor: u32) -> usize {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let named = |id: &&str| {
        std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("mcpfs-cred"))
            || std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.starts_with(b"mcpfs-credential"))
    };
    children.split_whitespace().filter(named).count()
}
