//! What is in force stays so: over a worker's death, and when a group has gone.

use std::fs::{self, File};

use mcpfs_tests::audit;
use mcpfs_tests::control::asks;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::people::{Group, Person, rights};
use serde_json::json;

use super::{MEMBER, STRANGER, give, open_below, reload, text};
use crate::world::{World, errno};

pub(super) fn a_crash_changes_nothing(reads: Reads) {
    let world = World::new(reads);
    let host = &world.host;
    let (group, other) = (Group::new("finance"), Group::new("other"));
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    give(host, &format!("{:?}", group.name()));
    let mount = Mount::start(host);
    let passed = File::open(host.at("hello/1.1.0/tree/bin")).unwrap();
    let version = host.at("hello/1.1.0/tree/bin/VERSION");
    let holds = || {
        assert_eq!(errno(stranger.does(|| open_below(&passed, "VERSION"))), libc::EACCES);
        assert_eq!(errno(stranger.does(|| File::open(&version))), libc::EACCES);
        assert_eq!(member.does(|| fs::read(&version)).unwrap(), b"1.1.0\n");
        assert_eq!(text(member.does(|| open_below(&passed, "VERSION")).unwrap()), "1.1.0\n");
    };
    holds();
    // An edit that nobody has taken over is in force for no successor.
    give(host, &format!("{:?}", other.name()));
    for _ in 0..2 {
        mount.kill_worker();
        holds();
    }
    // One that was is.
    reload(host);
    mount.kill_worker();
    assert_eq!(errno(member.does(|| open_below(&passed, "VERSION"))), libc::EACCES);
    assert_eq!(errno(member.does(|| File::open(&version))), libc::EACCES);
}

pub(super) fn a_group_that_goes_keeps_its_number() {
    let world = World::new(Reads::Cached);
    let host = &world.host;
    let group = Group::new("finance");
    let (stranger, member) = (Person::new(STRANGER), Person::new(MEMBER).member_of(&group));
    give(host, &format!("{:?}", group.name()));
    let mount = Mount::start(host);
    let gid = group.gid();
    let said = format!("20-access.toml:4: this host has no group {}", group.name());
    drop(group);
    let version = host.at("hello/1.1.0/tree/bin/VERSION");
    let holds = || {
        assert_eq!(rights(&host.at("hello")), (0, gid, 0o550));
        assert_eq!(errno(stranger.does(|| File::open(&version))), libc::EACCES);
        assert_eq!(member.does(|| fs::read(&version)).unwrap(), b"1.1.0\n");
    };
    holds();
    mount.kill_worker();
    holds();
    let answer = asks(host, &json!({"v": 1, "op": "reload"}));
    assert!(answer["error"]["message"].as_str().unwrap().contains(&said), "{answer}");
    let row = audit::rows(host).into_iter().rfind(|row| row.event == "config").unwrap();
    assert!(row.outcome == "PolicyRefused" && row.reason.as_ref().unwrap().contains(&said), "{row:?}");
    holds();
    mount.kill_worker();
    holds();
    host.mcpfs(["config", "check"]).exits(2).says(&said);
    // Who only asks the daemon needs no group of this host.
    host.mcpfs(["status"]).ok();
    let explained = member.runs(mcpfs_tests::binaries::bin("mcpfs")).arg("--config").arg(host.config());
    assert!(explained.args(["explain", "hello"]).ok().stdout.starts_with("hello 1.1.0: admitted"));
    let found = host.mcpfs(["doctor", "--json"]).exits(1).json();
    let finding = found["findings"].as_array().unwrap().iter().find(|one| one["code"] == "access").unwrap().clone();
    assert!(finding["state"] == "wrong" && finding["found"].as_str().unwrap().contains("has no group"), "{finding}");
}
