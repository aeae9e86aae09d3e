//! The same under the real unit of systemd, and in an ordinary user's own mount. Root only.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::installed::{Installed, UNIT, write};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::scratch::{copy_dir, need};
use mcpfs_tests::suite::Suite;

use super::vault::{PG, Vault, digest, digest_of, secret};

pub(super) fn register(suite: &mut Suite) {
    suite.plain("credentials::under_the_unit", under_the_unit);
    suite.plain("credentials::a_users_own_mount", a_users_own_mount);
}

/// With the rights that the unit leaves, and a credential that systemd hands over.
fn under_the_unit() {
    let vault = Vault::new(Reads::Passthrough, &[("three", super::THREE)]);
    let on = Installed::new();
    let at = |path: &str| on.machine.path(path);
    fs::remove_dir_all(at("/srv/site")).unwrap();
    copy_dir(&vault.site(), &at("/srv/site"));
    fs::copy(vault.host.trust(), at("/etc/mcpfs/trust.json")).unwrap();
    let [one, two, three] = [secret(), secret(), secret()];
    for (name, value) in [("one", &one), ("two", &two)] {
        write(&at("/etc/mcpfs/credentials").join(name), &format!("{value}\n"));
        fs::set_permissions(at("/etc/mcpfs/credentials").join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    on.machine
        .sh(&format!(
            "printf '#!/bin/sh\\nid -un; echo {three}\\n' >/usr/bin/fetch-secret && chmod 755 /usr/bin/fetch-secret"
        ))
        .ok();
    write(
        &at("/etc/mcpfs/conf.d/50-credentials.toml"),
        "[credentials.\"by/file\"]\nfile = \"/etc/mcpfs/credentials/one\"\nservers = [\"three\"]\n\
         [credentials.\"by/systemd\"]\nsystemd = \"two\"\nservers = [\"three\"]\n\
         [credentials.\"by/command\"]\ncommand = [\"/usr/bin/fetch-secret\"]\nuser = \"nobody\"\nservers = [\"three\"]\n",
    );
    write(
        &at("/etc/systemd/system/mcpfs.service.d/50-credentials.conf"),
        "[Service]\nLoadCredential=two:/etc/mcpfs/credentials/two\n",
    );
    on.mcpfs(["config", "check"]).ok();
    on.machine.systemctl(["daemon-reload"]);
    on.machine.systemctl(["enable", "--now", UNIT]);
    let start = || {
        // Somebody of this machine, who is not root.
        let mut command = on.machine.command("setpriv");
        command.args(["--reuid=1234", "--regid=1234", "--clear-groups", "env", "HOME=/tmp", "/mcp/three/run"]);
        let mut client = McpClient::start_with(command);
        client.initialize();
        ["A", "B", "C"].map(|name| digest(&mut client, name))
    };
    let want = [digest_of(&one), digest_of(&two), digest_of(&format!("nobody\n{three}"))];
    assert_eq!(start(), want, "{}", on.journal());
    // The next supervisor has them, too; systemd's is read anew then.
    let changed = secret();
    write(&at("/etc/mcpfs/credentials/two"), &changed);
    let before = on.main_pid();
    on.machine.systemctl(["restart", UNIT]);
    on.another_than(before);
    assert_eq!(start()[1], digest_of(&changed));
    for value in [&one, &two, &three, &changed] {
        assert!(!on.journal().contains(value.as_str()));
    }
}

/// As [`crate::demo`] has it: /dev/fuse as udev makes it, and nothing of this machine changes. All of it ends with
/// the server, which is the first process of its own.
const AS_NOBODY: &str = r#"
mount -t tmpfs -o mode=755,dev none "$1/dev"
mknod -m 666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups env -i PATH=/usr/bin:/bin HOME="$1/user" sh -euc '
  "$0/bin/mcpfs" --config "$0/etc/mcpfs.toml" mount >&2 </dev/null
  exec "$0/mcp/$1/run"' "$1" "$2"
"#;

fn a_users_own_mount() {
    let vault = Vault::new(Reads::Cached, &[("pg", PG), ("thief", PG)]);
    let host = &vault.host;
    let value = secret();
    let words = vault.secret("pg", value.as_bytes());
    let script = vault.script("fetch", &format!("cat {words:?}"));
    vault.gives("finance-dw/readonly", &format!("command = [{script:?}]"), "pg");
    for name in ["dev", "bin"] {
        fs::create_dir(host.path(name)).unwrap();
    }
    fs::copy(bin("mcpfs"), host.path("bin/mcpfs")).unwrap();
    host.home();
    for name in ["etc", "state", "cache", "mcp", "user", "run"] {
        Run::new("chown").args(["-R", "65534:65534"]).arg(host.path(name)).ok();
    }
    chown(host.rundir(), Some(65_534), Some(65_534)).unwrap();
    let own = |name: &str| {
        let mut command = Command::new(need("unshare", "util-linux"));
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-euc", AS_NOBODY, "sh"]).arg(host.path("")).arg(name);
        command
    };
    let mut client = McpClient::start_with(own("pg"));
    client.initialize();
    assert_eq!(digest(&mut client, "PGPASSWORD"), digest_of(&value));
    client.end();
    let refused = own("thief");
    let ran = Run::new(refused.get_program()).args(refused.get_args()).exits(77);
    assert!(ran.stderr.contains("finance-dw/readonly is not for thief"), "{ran}");
}
