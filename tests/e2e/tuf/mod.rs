//! The scenarios of tuf-conformance, the suite by which clients of The Update Framework are tried:
//! each by its name, against this daemon and from outside.
//!
//! The suite drives its clients over TUF's own formats, so it cannot drive this one. What can be
//! taken over is its list: what a repository does there is done here to a site, and what its client
//! must come to has its counterpart in an outcome of the audit, an errno, and an `ls` that did not
//! change. An outsider's list keeps us from trying only what we thought of. Where nothing
//! corresponds, the row says why and what holds instead.

use mcpfs_tests::audit;
use mcpfs_tests::command::Run;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::suite::{Attack, Suite};

use crate::world::{World, errno};

mod basic;
mod delegation;
mod download;
mod expiration;
mod keys;
mod missing;
pub(crate) mod roles;
mod rollback;
mod rotation;

/// One scenario of the suite, and what became of it.
pub(crate) struct Scenario {
    /// Its name there; what stands in brackets are its parameters.
    pub(crate) name: &'static str,
    /// What is done here, or why nothing is and what holds instead.
    pub(crate) here: &'static str,
    pub(crate) port: Port,
}

pub(crate) enum Port {
    /// By the test `tuf::<name>`, with these outcomes.
    Plain(&'static [&'static str], fn()),
    /// The same in both read modes.
    Mounted(&'static [&'static str], fn(Reads)),
    /// Nothing corresponds.
    None,
}

/// The suite's files and the scenarios of each.
pub(crate) const SUITE: [(&str, &[Scenario]); 9] = [
    ("test_basic.py", basic::SCENARIOS),
    ("test_basic.py", missing::SCENARIOS),
    ("test_keys.py", keys::SCENARIOS),
    ("test_updater_key_rotations.py", rotation::SCENARIOS),
    ("test_rollback.py", rollback::SCENARIOS),
    ("test_expiration.py, test_delegated_expiration.py", expiration::SCENARIOS),
    ("test_file_download.py", download::SCENARIOS),
    ("test_updater_delegation_graphs.py, test_quoting_issues.py", delegation::SCENARIOS),
    ("test_static_repositories.py", STATIC),
];

const STATIC: &[Scenario] = &[Scenario {
    name: "test_static_repository[tuf-on-ci-0.11, sigstore-root-signing]",
    here: "Not ported: these are repositories in TUF's format. Ours are the golden vectors in \
           `trust/testdata/vectors/`, each with its outcome.",
    port: Port::None,
}];

/// The name of the test that a scenario became.
pub(crate) fn test_of(scenario: &Scenario) -> String {
    let name = scenario.name.split('[').next().unwrap_or_default();
    format!("tuf::{name}")
}

pub(crate) fn register(suite: &mut Suite) {
    for (_, scenarios) in SUITE {
        for scenario in scenarios {
            let attack = |outcomes| Attack {
                from: "tuf-conformance",
                test: test_of(scenario).leak(),
                what: scenario.here,
                outcomes,
            };
            match scenario.port {
                Port::Plain(outcomes, test) => suite.attack(attack(outcomes), test),
                Port::Mounted(outcomes, test) => suite.mounted_attack(attack(outcomes), test),
                Port::None => (),
            }
        }
    }
}

/// What `ls` shows of the mount: each name with its versions.
pub(crate) fn shown(host: &Host) -> Vec<String> {
    let names = |dir: &std::path::Path| {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let below = |name: String| {
        let inside = names(&host.at(&name)).join(" ");
        format!("{name}: {inside}")
    };
    names(&host.mcp()).into_iter().map(below).collect()
}

/// The number of the head that a host rests on.
pub(crate) fn head_of(host: &Host) -> u64 {
    head_of_any(host).expect("a head")
}

/// The same of a host that may have none.
pub(crate) fn head_of_any(host: &Host) -> Option<u64> {
    host.mcpfs(["--json", "status"]).ok().json()["head"]["version"].as_u64()
}

pub(crate) const README: &str = "hello/1.1.0/tree/README";
pub(crate) const CONTENT: &[u8] = b"hello 1.1.0: echo, add, whoami\n";

/// A host that has looked at a sound site: what it shows, and on which head it rests.
pub(crate) struct Settled<'w> {
    pub(crate) world: &'w World,
    pub(crate) mount: Mount<'w>,
    shown: Vec<String>,
    head: u64,
}

impl<'w> Settled<'w> {
    pub(crate) fn on(world: &'w World) -> Self {
        let mount = Mount::start(&world.host);
        world.host.refresh();
        assert_eq!(std::fs::read(world.host.at(README)).unwrap(), CONTENT);
        let (shown, head) = (shown(&world.host), head_of(&world.host));
        assert!(shown.iter().any(|line| line.starts_with("hello: ") && line.contains("1.1.0")), "{shown:?}");
        Self { world, mount, shown, head }
    }

    /// What the site says now is refused with this outcome, and all is as it was.
    pub(crate) fn resists(&self, code: &str) {
        self.world.host.refresh_fails(code);
        audit::wait(&self.world.host, code, None);
        self.is_unchanged();
    }

    /// The same head, the same listing, and content that can be read.
    pub(crate) fn is_unchanged(&self) {
        assert_eq!(head_of(&self.world.host), self.head);
        assert_eq!(shown(&self.world.host), self.shown);
        assert_eq!(std::fs::read(self.world.host.at(README)).unwrap(), CONTENT);
    }

    /// Stops its daemon; gives the head's number and what was shown.
    pub(crate) fn stop(self) -> (u64, Vec<String>) {
        self.mount.stop();
        (self.head, self.shown)
    }

    /// The site is followed to a head that is so much newer, and shows the same.
    pub(crate) fn follows(&mut self, by: u64) {
        self.world.host.refresh();
        self.head += by;
        self.is_unchanged();
        audit::wait(&self.world.host, "ok", None);
    }
}

/// A host whose first look meets this: it shows nothing, and says why wherever it is asked.
pub(crate) fn shows_nothing(world: &World, code: &str) {
    let _mount = Mount::start(&world.host);
    is_shown_nothing(world, code);
}

/// The same of a host that is mounted.
pub(crate) fn is_shown_nothing(world: &World, code: &str) {
    world.host.refresh_fails(code);
    audit::wait(&world.host, code, None);
    assert_eq!(shown(&world.host), [""; 0]);
    is_refused(world, "hello", "1.1.0", code);
}

/// Its launcher says why, nothing of it can be opened, and the errno is the documented one.
pub(crate) fn is_refused(world: &World, name: &str, version: &str, code: &str) {
    let ran = Run::new(world.run(name)).exits(77);
    assert!(ran.stdout.is_empty() && ran.stderr.contains(code), "expected {code}: {ran}");
    assert!(!shown(&world.host).iter().any(|line| line.starts_with(&format!("{name}: "))), "{name} is listed");
    let below = world.host.at(&format!("{name}/{version}/tree/README"));
    assert_eq!(errno(std::fs::read(below)), documented_errno(code), "{code}");
    mcpfs_tests::proof::note(code);
}

/// What docs/semantics.md says that a program gets for this outcome.
fn documented_errno(code: &str) -> i32 {
    let page = std::fs::read_to_string(mcpfs_tests::scratch::repository().join("docs/semantics.md")).unwrap();
    let row = page.lines().find_map(|line| line.strip_prefix(&format!("| `{code}` | `")));
    mcpfs_tests::proof::errno(row.and_then(|row| row.split('`').next()).expect("a row of the table of errors"))
}
