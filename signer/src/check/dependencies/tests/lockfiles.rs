//! Lockfiles of Yarn, pnpm and Go, as those tools wrote them.

use super::{ids, said};
use crate::check::tests::Place;

const YARN: [&str; 2] = [include_str!("../samples/yarn-1.lock"), include_str!("../samples/yarn-4.lock")];
const PNPM: [&str; 3] = [
    include_str!("../samples/pnpm-5.yaml"),
    include_str!("../samples/pnpm-6.yaml"),
    include_str!("../samples/pnpm-9.yaml"),
];

/// What all of them resolved.
const PACKAGES: [&str; 13] = [
    "npm:@sindresorhus/is@4.6.0",
    "npm:ansi-regex@5.0.1",
    "npm:ansi-styles@4.3.0",
    "npm:cliui@8.0.1",
    "npm:color-convert@2.0.1",
    "npm:color-name@1.1.4",
    "npm:emoji-regex@8.0.0",
    "npm:is-fullwidth-code-point@3.0.0",
    // Under another name in the project.
    "npm:lodash@4.18.1",
    "npm:ms@2.1.3",
    "npm:string-width@4.2.3",
    "npm:strip-ansi@6.0.1",
    "npm:typescript@5.4.5",
];

fn with(files: &[(&str, &str)]) -> Place {
    let large = files.iter().any(|(_, text)| text.len() > 1 << 20);
    let place = if large { Place::on_disk() } else { Place::new() };
    for (path, text) in files {
        place.write(&format!("hello/{path}"), text.as_bytes(), 0o644);
    }
    place
}

#[test]
fn packages_of_yarn_and_pnpm() {
    let named = YARN.iter().map(|text| ("yarn.lock", *text));
    for (index, (name, text)) in named.chain(PNPM.iter().map(|text| ("pnpm-lock.yaml", *text))).enumerate() {
        let place = with(&[(name, text), ("node_modules/x/yarn.lock", "about its own development")]);
        let mut wanted: Vec<&str> = PACKAGES.to_vec();
        wanted.push("npm:wrap-ansi@7.0.0");
        assert_eq!(ids(&place), wanted, "{name} {index}");
        assert_eq!(said(&place, ""), Vec::<String>::new(), "{name} {index}");
    }
}

#[test]
fn installed_packages_stand_in_them() {
    let manifest = |name: &str, version: &str| {
        format!("{{\"name\": \"{name}\", \"version\": \"{version}\", \"license\": \"MIT\"}}")
    };
    let (lodash, local, other) = (manifest("lodash", "4.18.1"), manifest("local", "0.1.0"), manifest("ms", "2.1.2"));
    for (name, text, store) in
        [("yarn.lock", YARN[0], ""), ("pnpm-lock.yaml", PNPM[2], ".pnpm/lodash@4.18.1/node_modules/")]
    {
        let at = format!("node_modules/{store}{}/package.json", if store.is_empty() { "lodash4" } else { "lodash" });
        let place = with(&[
            (name, text),
            (&at, &lodash),
            ("node_modules/local/package.json", &local),
            ("node_modules/ms/package.json", &other),
        ]);
        assert_eq!(said(&place, ""), ["node_modules/ms: stands in no lockfile [dependency-unlisted]"], "{name}");
        let policy = said(&place, "licences: {allowed: [MIT]}");
        assert!(!policy.iter().any(|one| one.starts_with("npm:lodash@4.18.1: names no licence")), "{policy:?}");
    }
    // What pnpm says that it installed counts, not what the project says beside it.
    let place = with(&[("node_modules/.pnpm/lock.yaml", PNPM[2]), ("pnpm-lock.yaml", "no lockfile")]);
    assert_eq!(ids(&place).len(), 14);
    // And what npm says that it installed counts more than both.
    let place = with(&[("node_modules/.package-lock.json", "{\"packages\": {}}"), ("yarn.lock", YARN[0])]);
    assert_eq!(ids(&place), Vec::<String>::new());
}

#[test]
fn modules_of_go() {
    let (cobra, sums) = (include_str!("../samples/cobra.mod"), include_str!("../samples/cobra.sum"));
    // Written by a Go that lists only what is asked for directly.
    let both = ids(&with(&[("go.mod", cobra), ("go.sum", sums)]));
    let wanted = [
        "go:github.com/cpuguy83/go-md2man/v2@v2.0.2",
        "go:github.com/inconshreveable/mousetrap@v1.0.1",
        "go:github.com/russross/blackfriday/v2@v2.1.0",
        "go:github.com/spf13/pflag@v1.0.5",
        // Of its tests: a go.sum does not tell them apart.
        "go:gopkg.in/check.v1@v0.0.0-20161208181325-20d25e280405",
        "go:gopkg.in/yaml.v3@v3.0.1",
    ];
    assert_eq!(both, wanted);
    assert_eq!(ids(&with(&[("go.sum", sums)])), wanted);
    let viper = include_str!("../samples/viper.mod");
    let all = ids(&with(&[("cmd/go.mod", viper), ("cmd/go.sum", "older.example.com/x v1.0.0 h1:AAAA=\n")]));
    assert_eq!(all.len(), 60, "{all:?}");
    assert!(all.contains(&"go:golang.org/x/text@v0.3.7".to_owned()) && !all.iter().any(|id| id.contains("older")));
    let replaced = "module \"example.com/x\"\ngo 1.22.0\ntoolchain go1.22.1\nrequire (\n a.example.com/a v1.0.0 // indirect\n \
                    b.example.com/b v1.0.0\n c.example.com/c v1.0.0\n)\nreplace a.example.com/a => d.example.com/d v2.0.0\n\
                    replace (\n b.example.com/b v1.0.0 => ../b\n c.example.com/c v0.9.0 => ../c\n)\nexclude e.example.com/e v1.0.0\n";
    let found = ids(&with(&[("go.mod", replaced)]));
    assert_eq!(found, ["go:b.example.com/b@unknown", "go:c.example.com/c@v1.0.0", "go:d.example.com/d@v2.0.0"]);
}

#[test]
fn what_is_no_lockfile_is_told() {
    let deep = format!("lockfileVersion: '9.0'\npackages: {}1{}\n", "[".repeat(1000), "]".repeat(1000));
    let twice = "lockfileVersion: '9.0'\npackages:\n  a@1.0.0: {}\n  a@1.0.0: {}\n";
    let large = format!("# yarn lockfile v1\n{}", "#\n".repeat(9 << 20));
    for (name, text, want) in [
        ("yarn.lock", "", "is not a lockfile of Yarn"),
        ("yarn.lock", "# yarn lockfile v1\na@^1:\n  resolved \"x\"\n", "\"a\" has no version"),
        ("yarn.lock", "# yarn lockfile v1\na@^1:\nb@^1:\n  version \"1\"\n", "line 3 begins a package before"),
        ("yarn.lock", "# yarn lockfile v1\n  version \"1\"\n", "line 2 is a version of nothing"),
        ("yarn.lock", "# yarn lockfile v1\nnothing\n", "line 2 names no package"),
        ("yarn.lock", "__metadata:\n  version: 8\n\"x\":\n  version: 1\n", "names no package in \"x\""),
        ("yarn.lock", &large, "has more than 16777216 bytes"),
        ("pnpm-lock.yaml", "", "holds nothing"),
        ("pnpm-lock.yaml", "lockfileVersion: 3\n", "is a lockfile of pnpm \"3\"; 5, 6 and 9 are read"),
        ("pnpm-lock.yaml", "packages: {}\n", "is a lockfile of pnpm \"of no version\""),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages:\n  nothing: {}\n", "names no package in \"nothing\""),
        ("pnpm-lock.yaml", "a: &a [x]\nlockfileVersion: '9.0'\nb: *a\n", "is not a lockfile: "),
        ("pnpm-lock.yaml", &deep, "is not a lockfile: "),
        ("pnpm-lock.yaml", twice, "is not a lockfile: "),
        ("go.mod", "", "names no module"),
        ("go.mod", "module x\nrequire (\n", "names no module, or ends in the middle"),
        ("go.mod", "module x\nrequire a\n", "line 2 is not understood"),
        ("go.mod", "module x\nreplace a => b c d\n", "line 2 is not understood"),
        ("go.sum", "a v1.0.0 sha256:00\n", "is not a go.sum: line 1"),
    ] {
        let said = said(&with(&[(name, text)]), "");
        assert!(
            said.len() == 1 && said[0].starts_with(&format!("{name}: ")) && said[0].contains(want),
            "{want}: {said:?}"
        );
        assert!(said[0].ends_with("[dependency-unreadable]"), "{said:?}");
    }
}
