//! What people are told: those without a group, and those who write rules.

use std::fs::File;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::people::{Group, Person, User};

use super::{STRANGER, give};
use crate::world::{World, errno};

pub(super) fn a_group_counts_from_the_next_log_in() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    let user = User::new(&group);
    give(host, &format!("{:?}", group.name()));
    let _mount = Mount::start(host);
    let explain = |run: Run| run.arg("--config").arg(host.config()).args(["explain", "hello"]).ok().stdout;
    let mcpfs = bin("mcpfs");
    let before = explain(user.of_before().runs(&mcpfs));
    assert!(before.starts_with("hello 1.1.0: refused: PolicyRefused ("), "{before}");
    assert!(before.contains("  do          log in again, or start your MCP host from `newgrp "), "{before}");
    assert_eq!(errno(user.of_before().does(|| File::open(world.run("hello")))), libc::EACCES);
    assert!(explain(user.runs(&mcpfs)).starts_with("hello 1.1.0: admitted"));
    let version = host.at("hello/1.1.0/tree/bin/VERSION");
    assert_eq!(user.runs("cat").arg(&version).ok().stdout, "1.1.0\n");
    // Somebody without the group in the database is told to ask for it.
    assert!(explain(Person::new(STRANGER).runs(&mcpfs)).contains("  do          ask data@example.com"));
}

pub(super) fn what_is_no_rule() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    for (text, says) in [
        ("[access]\nhello = \"root\"\n", "20-access.toml:2: unknown key \"hello\"; here can stand: default"),
        ("[access.servers]\nHello = \"root\"\n", "20-access.toml:2: not a server name"),
        ("[access.servers]\nhello = [\"root\", \"adm\"]\n", "20-access.toml:2: one group: its name"),
        ("[access.servers]\nhello = true\n", "20-access.toml:2: one group: its name"),
        ("[access.servers]\nhello = \"\"\n", "20-access.toml:2: that is no group"),
        ("[access.servers]\nhello = \"5000\"\n", "20-access.toml:2: \"5000\" would be a group's name"),
        ("[access.servers]\nhello = 4294967296\n", "20-access.toml:2: one group: its name"),
        ("[access.servers]\nhello = \"no-such-group\"\n", "20-access.toml:2: this host has no group no-such-group"),
        ("\n[access]\ndefault = \"no-such-group\"\n", "20-access.toml:3: this host has no group no-such-group"),
        ("access = \"root\"\n", "20-access.toml:1: "),
    ] {
        host.drop_in("20-access", text);
        host.mcpfs(["config", "check"]).exits(2).says(says);
        host.mcpfs(["mount", "--foreground"]).exits(2).says(says);
        assert!(!is_mounted(&host.mcp()));
    }
    host.drop_in("20-access", "[access]\ndefault = \"root\"\n[access.servers]\n\"hel*\" = 5000\nfiles = \"*\"\n");
    let checked = host.mcpfs(["config", "check"]).ok();
    assert!(checked.stdout.contains("access    files: everybody; hel*: 5000; others: root (0)"), "{checked}");
}
