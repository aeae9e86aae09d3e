#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Read as _;

mod lockfiles;

use crate::check::tests::{Place, now};
use crate::check::{CheckOptions, Checked, check};
use crate::policy::Gate;

const LOCK: &str = r#"{"lockfileVersion": 3, "packages": {
    "": {"name": "x", "version": "1.0.0"},
    "node_modules/zod": {"version": "4.1.0", "license": "MIT"},
    "node_modules/@s/native": {"version": "2.0.0", "license": "(MIT OR GPL-3.0)", "hasInstallScript": true},
    "node_modules/zod/node_modules/old": {"version": "0.1.0", "license": {"type": "GPL-3.0"}},
    "node_modules/none": {"version": "1.0.0"},
    "node_modules/linked": {"link": true, "resolved": "packages/linked"}
}}"#;

fn place() -> Place {
    let place = Place::new();
    place.write("hello/node_modules/.package-lock.json", LOCK.as_bytes(), 0o644);
    for package in ["zod", "@s/native", "zod/node_modules/old", "none"] {
        place.write(&format!("hello/node_modules/{package}/package.json"), b"{}", 0o644);
    }
    place
}

fn checked(place: &Place, policy: &str) -> Checked {
    let policy = (!policy.is_empty()).then(|| policy.to_owned());
    let gate = Gate::from_texts(policy, None).unwrap();
    check(&place.recipe(""), &CheckOptions { gate, ..place.options() }).unwrap()
}

fn said(place: &Place, policy: &str) -> Vec<String> {
    let checked = checked(place, policy);
    checked.findings.all().iter().map(|one| format!("{}: {} [{}]", one.subject, one.message, one.rule)).collect()
}

#[test]
fn packages_are_listed() {
    let place = place();
    let metadata = "Metadata-Version: 2.4\nName: requests\nVersion: 2.32.0\nLicense: Apache-2.0\n\nName: not this\n";
    place.write("hello/lib/requests-2.32.0.dist-info/METADATA", metadata.as_bytes(), 0o644);
    let classified = "Name: six\nVersion: 1.17.0\nLicense: \nClassifier: License :: OSI Approved :: MIT License\n";
    place.write("hello/lib/six-1.17.0.dist-info/METADATA", classified.as_bytes(), 0o644);
    let checked = checked(&place, "");
    let packages = &checked.dependencies[0].1.packages;
    let ids: Vec<String> =
        packages.iter().map(|one| format!("{} {}", one.id(), one.licence.as_deref().unwrap_or("-"))).collect();
    assert_eq!(
        ids,
        [
            "npm:@s/native@2.0.0 (MIT OR GPL-3.0)",
            "npm:none@1.0.0 -",
            "npm:old@0.1.0 GPL-3.0",
            "npm:zod@4.1.0 MIT",
            "pypi:requests@2.32.0 Apache-2.0",
            "pypi:six@1.17.0 MIT License",
        ]
    );
    assert_eq!(
        said(&place, ""),
        ["npm:@s/native@2.0.0: has an install script; what it made is in the artefact [install-script]"]
    );
    // What was installed counts, not what the project's own file says beside it.
    place.write("hello/package-lock.json", b"no json", 0o644);
    assert_eq!(said(&place, "").len(), 1);
}

#[test]
fn licences_by_policy() {
    let said = said(&place(), "licences: {allowed: [MIT]}");
    assert_eq!(
        said[..2],
        [
            "npm:none@1.0.0: names no licence, so the policy cannot allow it [policy-licence]",
            "npm:old@0.1.0: has the licence \"GPL-3.0\", which the policy does not allow [policy-licence]",
        ]
    );
    assert_eq!(said.len(), 3, "{said:?}");
}

#[test]
fn what_cannot_be_read_is_never_an_empty_list() {
    for (bad, want) in [
        (
            "{\"lockfileVersion\": 1, \"dependencies\": {}}",
            "is not a lockfile of version 2 or 3: missing field `packages`",
        ),
        ("{\"packages\": {\"node_modules/a\": {\"version\": 1}}}", "is not a lockfile of version 2 or 3: invalid type"),
        (
            &format!("{{\"packages\": {{\"node_modules/a\": {{\"license\": {}", "[".repeat(100_000)),
            "is not a lockfile of version 2 or 3: lockfile: nested too deeply",
        ),
    ] {
        let place = place();
        place.write("hello/node_modules/.package-lock.json", bad.as_bytes(), 0o644);
        let said = said(&place, "");
        assert!(said[0].contains(want) || said.iter().any(|one| one.contains(want)), "{said:?}");
        assert!(
            said.iter().any(|one| one == "node_modules/zod: stands in no lockfile [dependency-unlisted]"),
            "{said:?}"
        );
    }
    let place = Place::on_disk();
    place.write("hello/node_modules/hidden/package.json", b"{}", 0o644);
    place.write("hello/x.dist-info/METADATA", b"\n\nName: x\n", 0o644);
    let large = format!("{{\"packages\": {{}}, \"x\": \"{}\"}}", "y".repeat(17 << 20));
    place.write("hello/sub/package-lock.json", large.as_bytes(), 0o644);
    let said = said(&place, "");
    for want in [
        "sub/package-lock.json: has more than 16777216 bytes [dependency-unreadable]",
        "x.dist-info/METADATA: has no Name and Version [dependency-unreadable]",
        "node_modules/hidden: stands in no lockfile [dependency-unlisted]",
    ] {
        assert!(said.iter().any(|one| one == want), "{want}: {said:?}");
    }
}

#[test]
fn machine_code_is_told_by_content() {
    let place = Place::new();
    place.write("hello/lib/readme.txt", b"\x7fELF\x02\x01", 0o644);
    place.write("hello/lib/addon.node", b"x", 0o644);
    place.write("hello/lib/empty.so", b"", 0o644);
    let said = said(&place, "");
    assert_eq!(
        said,
        [
            "artefact: is said to run anywhere, but lib/addon.node is machine code for one platform [native-platform]",
            "lib/addon.node: is a native module by its name, which no reviewer can read [native-code]",
            "lib/readme.txt: is ELF machine code, which no reviewer can read [native-code]",
        ]
    );
}

#[test]
fn signing_reads_the_dependencies_again() {
    let place = place();
    let path = place.recipe("");
    let gate = Gate::from_texts(Some("licences: {denied: [AGPL-3.0]}\n".to_owned()), Some(
        "waivers:\n  - {rule: policy-licence, server: hello, subject: 'npm:none@*', reason: ours, by: r@example.com, expires: 2027-01-01}\n".to_owned(),
    ));
    let options = CheckOptions { gate: gate.unwrap(), ..place.options() };
    let folder = place.path("staging");
    let staging = crate::check::ingest(&path, &folder, &options).unwrap().staging.expect("waived");
    staging.recheck(now()).unwrap();
    // Whoever takes the waiver away and forges the record still meets the rule.
    fs::remove_file(folder.join("waivers.yaml")).unwrap();
    let mut read = crate::staging::Staging::read(&folder).unwrap();
    read.record = read.expected_record();
    let error = read.recheck(now()).unwrap_err().to_string();
    assert!(error.contains("npm:none@1.0.0"), "{error}");
}

fn ids(place: &Place) -> Vec<String> {
    checked(place, "").dependencies[0].1.packages.iter().map(crate::check::dependencies::Package::id).collect()
}

#[test]
fn lockfiles_of_other_languages() {
    let place = Place::new();
    let cargo = "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"serde\"]\n\n[[package]]\n\
                 name = \"serde\"\nversion = \"1.0.200\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                 checksum = \"00\"\n";
    place.write("hello/Cargo.lock", cargo.as_bytes(), 0o644);
    let uv = "version = 1\nrequires-python = \">=3.12\"\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n\
              source = { editable = \".\" }\n[[package]]\nname = \"httpx\"\nversion = \"0.28.1\"\n\
              source = { registry = \"https://pypi.org/simple\" }\n";
    place.write("hello/uv.lock", uv.as_bytes(), 0o644);
    let poetry =
        "[[package]]\nname = \"attrs\"\nversion = \"24.1.0\"\noptional = false\n[metadata]\nlock-version = \"2.1\"\n";
    place.write("hello/sub/poetry.lock", poetry.as_bytes(), 0o644);
    place.write("hello/x.egg-info/PKG-INFO", b"Name: x\nVersion: 3.0\nLicense: MIT\n\nMore\n", 0o644);
    // About the development of an installed package, not about what it is made of.
    place.write("hello/node_modules/x/Cargo.lock", b"no TOML", 0o644);
    assert_eq!(ids(&place), ["pypi:attrs@24.1.0", "pypi:httpx@0.28.1", "pypi:x@3.0", "cargo:serde@1.0.200"]);
    for (name, text, want) in [
        ("Cargo.lock", "[[package]]\nversion = \"1\"\n", "Cargo.lock: is not a lockfile: missing field `name`"),
        ("uv.lock", "no TOML", "uv.lock: is not a lockfile: "),
        ("poetry.lock", "[[package]]\nname = \"a\\u202eb\"\n", "poetry.lock: names a package that no registry has"),
    ] {
        let place = Place::new();
        place.write(&format!("hello/{name}"), text.as_bytes(), 0o644);
        let said = said(&place, "");
        assert!(said.len() == 1 && said[0].starts_with(want), "{said:?}");
    }
}

#[test]
fn a_program_that_cannot_be_read_is_told() {
    let place = Place::new();
    let mut broken = Vec::new();
    File::open(std::env::current_exe().unwrap()).unwrap().take(4_096).read_to_end(&mut broken).unwrap();
    place.write("hello/bin/server", &broken, 0o755);
    let said = said(&place, "");
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("bin/server: is an ELF file that cannot be read: "), "{said:?}");
    assert!(said[0].ends_with("[dependency-unreadable]"), "{said:?}");
}

/// A list of npm's that names another version than the one that is there would have that one asked about.
#[test]
fn a_lockfile_that_lies_hides_nothing() {
    let place = place();
    place.write("hello/node_modules/zod/package.json", br#"{"name": "zod", "version": "3.0.0"}"#, 0o644);
    place.write("hello/node_modules/none/package.json", br#"{"name": "lodash", "version": "v1.0.0"}"#, 0o644);
    // Only written otherwise.
    place.write("hello/node_modules/@s/native/package.json", br#"{"name": "@s/native", "version": "v2.0.0+1"}"#, 0o644);
    let said = said(&place, "");
    let differs: Vec<&String> = said.iter().filter(|one| one.ends_with("[dependency-differs]")).collect();
    assert_eq!(
        differs,
        [
            "node_modules/none: says that it is lodash v1.0.0, and the lockfile that it is none 1.0.0 [dependency-differs]",
            "node_modules/zod: says that it is zod 3.0.0, and the lockfile that it is zod 4.1.0 [dependency-differs]",
        ]
    );
    let ids = ids(&place);
    for listed in ["npm:lodash@v1.0.0", "npm:none@1.0.0", "npm:zod@3.0.0", "npm:zod@4.1.0"] {
        assert!(ids.contains(&listed.to_owned()), "{listed}: {ids:?}");
    }
}

#[test]
fn a_link_called_node_modules_is_told() {
    let place = Place::new();
    place.write("hello/lib/deps/zod/package.json", br#"{"name": "zod", "version": "3.0.0"}"#, 0o644);
    std::os::unix::fs::symlink("lib/deps", place.path("files/hello/node_modules")).unwrap();
    assert!(said(&place, "").contains(&"node_modules: stands in no lockfile [dependency-unlisted]".to_owned()));
}
