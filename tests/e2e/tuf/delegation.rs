//! tuf_conformance/test_updater_delegation_graphs.py and test_quoting_issues.py: whose word counts for
//! a name, and names that are more than a name.

use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::outside::OutsideKey;
use mcpfs_tests::{audit, forge};
use serde_json::{Value, json};

use super::roles::{add_keys, deploy, release_hello_by, role};
use super::{Port, Scenario, is_refused, shows_nothing};
use crate::world::World;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "test_graph_traversal[12 graphs]",
        here: "Not ported: delegates do not delegate, so there is no graph, no order and no cycle in it. The scopes \
               stand in trust.json, and of those that cover a name one decides: the next row.",
        port: Port::None,
    },
    Scenario {
        name: "test_targetfile_search[5 cases]",
        here: "A name under `*`, under a prefix, under the longer of two prefixes, under its exact scope, and under \
               none. Who signs for a scope that does not decide has no say, as if every delegation were terminating.",
        port: Port::Plain(&["ok", "KeyNotAuthorised", "ScopeDenied", "EACCES"], targetfile_search),
    },
    Scenario {
        name: "test_unusual_role_name[?, #, /delegatedrole, ../delegatedrole]",
        here: "A bin with a server of such a name. Nothing is asked for in that name.",
        port: Port::Plain(&["Malformed", "EIO"], unusual_names),
    },
];

/// Who signs hello, under which scopes (each with the number of its key), and what comes of it.
type Case = (&'static str, &'static [(&'static str, usize)], usize, Option<&'static str>);

const CASES: [Case; 10] = [
    ("the widest scope", &[("*", 0)], 0, None),
    ("a prefix", &[("*", 0), ("hel*", 1)], 1, None),
    ("a prefix, signed for the widest", &[("*", 0), ("hel*", 1)], 0, Some("KeyNotAuthorised")),
    ("the longer of two prefixes", &[("*", 0), ("h*", 1), ("hel*", 2)], 2, None),
    ("the longer, in another order", &[("hel*", 2), ("h*", 1), ("*", 0)], 2, None),
    ("the longer, signed for the shorter", &[("*", 0), ("h*", 1), ("hel*", 2)], 1, Some("KeyNotAuthorised")),
    ("its exact scope", &[("*", 0), ("hello*", 1), ("hello", 2)], 2, None),
    ("its exact scope, signed for a prefix", &[("*", 0), ("hello*", 1), ("hello", 2)], 1, Some("KeyNotAuthorised")),
    ("a scope that ends where the name goes on", &[("hell", 0), ("hello-*", 1)], 0, Some("ScopeDenied")),
    ("no scope", &[("payments-*", 0)], 0, Some("ScopeDenied")),
];

fn targetfile_search() {
    let keys: Vec<_> = std::iter::repeat_with(OutsideKey::ed25519).take(3).collect();
    for (case, scopes, signer, outcome) in CASES {
        println!("{case}");
        let world = World::new(Reads::Cached);
        deploy(&world.host, |root| {
            add_keys(root, &scopes.iter().map(|(_, key)| &keys[*key]).collect::<Vec<_>>());
            let rule = |(scope, key): &(&str, usize)| json!({"scope": scope, "require": [role(&[&keys[*key]], 1)]});
            let mut rules: Vec<Value> = scopes.iter().map(rule).collect();
            // Of the other server, which goes on.
            let own = root["release"][0]["require"].clone();
            rules.push(json!({"scope": "files", "require": own}));
            root["release"] = json!(rules);
        });
        release_hello_by(&world, &[&keys[signer]]);
        let mount = Mount::start(&world.host);
        world.host.refresh();
        match outcome {
            None => {
                assert_eq!(std::fs::read(world.host.at(super::README)).unwrap(), super::CONTENT, "{case}");
                audit::expect(&world.host, "ok", Some("hello"));
            }
            Some(code) => {
                is_refused(&world, "hello", "1.1.0", code);
                audit::expect(&world.host, code, Some("hello"));
            }
        }
        assert_eq!(std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap(), b"deep\n", "{case}: others go on");
        mount.stop();
    }
}

fn unusual_names() {
    for name in ["?", "#", "/delegatedrole", "../delegatedrole"] {
        let world = World::new(Reads::Cached);
        forge::replace_bins(&world.copy.path(), &world.registry, |servers| {
            let mut other = servers[0].clone();
            other["name"] = json!(name);
            servers.insert(0, other);
        });
        shows_nothing(&world, "Malformed");
        let known = |path: &str| path == "/head.json" || path.starts_with("/catalogue/");
        let asked = world.site.requests();
        assert!(asked.iter().all(|request| known(&request.path) && !request.path.contains("delegated")), "{asked:?}");
    }
}
