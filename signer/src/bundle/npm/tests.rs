#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::lock::Lock;
use super::*;

fn package() -> Package {
    Package::parse("main@1.0.0").unwrap()
}

fn digest(seed: u8) -> String {
    use base64::Engine as _;
    format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode([seed; 64]))
}

/// A lock of `main`, which needs `a` and, where they fit, two native packages.
fn good() -> Value {
    json!({"name": "x", "version": "9.9.9", "lockfileVersion": 3, "requires": true, "packages": {
        "": {"name": "x", "version": "9.9.9", "license": "MIT", "dependencies": {"main": "1.0.0"}},
        "node_modules/main": {
            "version": "1.0.0", "integrity": digest(1), "license": "MIT", "bin": {"main": "dist/index.js"},
            "resolved": "https://mirror.example.com/main/-/main-1.0.0.tgz",
            "dependencies": {"b": "npm:@s/other@^2", "a": "^1.0.0"},
            "optionalDependencies": {"native-x64": "1.0.0", "native-arm64": "1.0.0", "mac": "*"},
        },
        "node_modules/a": {"version": "1.2.0", "integrity": digest(2), "hasInstallScript": true},
        "node_modules/main/node_modules/b": {"name": "@s/other", "version": "2.0.0", "integrity": digest(3)},
        "node_modules/native-x64": {
            "version": "1.0.0", "integrity": digest(4), "optional": true, "os": ["linux"], "cpu": ["x64"], "libc": ["glibc"],
        },
        "node_modules/native-arm64": {
            "version": "1.0.0", "integrity": digest(5), "optional": true, "os": ["linux"], "cpu": ["arm64"],
            "dependencies": {"only-there": "1.0.0"},
        },
        "node_modules/only-there": {"version": "1.0.0", "integrity": digest(6), "optional": true},
        "node_modules/mac": {"version": "1.0.0", "integrity": digest(7), "optional": true, "os": ["darwin"], "cpu": ["x64"]},
    }})
}

fn read(lock: &Value) -> Result<Lock, String> {
    Lock::read(&lock.to_string(), &package()).map_err(|error| error.to_string())
}

#[test]
fn a_lock_is_the_same_from_every_mirror() {
    let lock = read(&good()).unwrap();
    let mut other = good();
    other["packages"]["node_modules/main"]["resolved"] = json!("https://elsewhere.example.com/x/main-1.0.0.tgz");
    other["packages"]["node_modules/main"]["deprecated"] = json!("words that may change");
    other["name"] = json!("y");
    assert_eq!(lock.text(), read(&other).unwrap().text());
    assert!(!lock.text().contains("example.com"), "{}", lock.text());
    // Reading what was written gives it again.
    assert_eq!(read(&serde_json::from_str(&lock.text()).unwrap()).unwrap().text(), lock.text());
}

#[test]
fn what_a_platform_gets() {
    let lock = read(&good()).unwrap();
    let wanted = |platform: &str| {
        let target = Target::of(&platform.parse().unwrap()).unwrap();
        lock.wanted(&target).into_iter().map(|path| path.rsplit('/').next().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(wanted("linux/amd64"), ["a", "main", "b", "native-x64"]);
    assert_eq!(wanted("linux/arm64"), ["a", "main", "b", "native-arm64", "only-there"]);
    let particular: Vec<&str> = lock.particular().collect();
    assert_eq!(particular, ["node_modules/native-arm64", "node_modules/native-x64"]);
}

#[test]
fn locks_that_lead_elsewhere_are_refused() {
    let at = |path: &str, field: &str, value: Value| {
        let mut lock = good();
        lock["packages"][path][field] = value;
        read(&lock).expect_err(&format!("{path} {field}"))
    };
    let a = "node_modules/a";
    for (error, says) in [
        (at(a, "resolved", json!("git+ssh://git@git.example.com/a.git#0123")), "not from the registry"),
        (at(a, "resolved", json!("file:../a")), "not from the registry"),
        (at(a, "resolved", json!("http://169.254.169.254/a-1.2.0.tgz")), "not from the registry"),
        (at(a, "resolved", json!(7)), "not from the registry"),
        (at(a, "link", json!(true)), "is a link"),
        (at(a, "hasShrinkwrap", json!(true)), "a lockfile of its own"),
        (at(a, "version", json!("git+https://git.example.com/a")), "not an exact one"),
        (at(a, "version", Value::Null), "not an exact one"),
        (at(a, "integrity", json!("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=")), "not one sha512"),
        (at(a, "integrity", json!("sha512-AAAA")), "not one sha512"),
        (at(a, "inBundle", json!(true)), "no sha512 digest"),
        (at(a, "dependencies", json!({"x": "git+https://git.example.com/x"})), "not the registry"),
        (at(a, "dependencies", json!({"x": "user/repository"})), "not the registry"),
        (at(a, "dependencies", json!({"x": "file:../x"})), "not the registry"),
        (at(a, "optionalDependencies", json!({"x": "https://example.com/x.tgz"})), "not the registry"),
        (at(a, "dependencies", json!({"../x": "1"})), "not the registry"),
        (at(a, "dependencies", json!({"x": "npm:y@file:z"})), "not the registry"),
        (at("", "dependencies", json!({"main": "^1.0.0"})), "only dependency"),
        (at("", "dependencies", json!({"main": "1.0.0", "more": "1.0.0"})), "only dependency"),
        (at("", "devDependencies", json!({"more": "1.0.0"})), "only dependency"),
        (at("", "workspaces", json!(["packages/*"])), "only dependency"),
        (at("node_modules/main", "version", json!("1.0.1")), "holds main@1.0.1, not main@1.0.0"),
        (at("node_modules/main", "name", json!("other")), "holds other@1.0.0"),
        (at("packages/a", "version", json!("1.0.0")), "not a path below node_modules"),
        (at("node_modules/../../etc", "version", json!("1.0.0")), "not a path below node_modules"),
        (at("node_modules/a/x", "version", json!("1.0.0")), "not a path below node_modules"),
        (at("node_modules/.bin", "version", json!("1.0.0")), "not a path below node_modules"),
    ] {
        assert!(error.contains(says), "{error} ({says})");
    }
    let mut bare = good();
    bare["packages"]["node_modules/a"].as_object_mut().unwrap().remove("integrity");
    assert!(read(&bare).unwrap_err().contains("no sha512 digest"));
    for text in ["", "[]", "{}", r#"{"lockfileVersion": 1, "dependencies": {}}"#, r#"{"lockfileVersion": 3}"#] {
        assert!(Lock::read(text, &package()).is_err(), "{text}");
    }
}

#[test]
fn what_was_installed_is_listed_without_the_rest() {
    let lock = read(&good()).unwrap();
    let installed = BTreeSet::from(["node_modules/main", "node_modules/a"]);
    let listed: Value = serde_json::from_str(&lock.installed_text(&installed)).unwrap();
    let paths: Vec<&String> = listed["packages"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["node_modules/a", "node_modules/main"]);
    let part = part("node_modules/a", lock.packages().find(|(path, _)| *path == "node_modules/a").unwrap().1);
    assert_eq!(part.package.id(), "npm:a@1.2.0");
    assert!(part.package.install_script);
    assert_eq!(part.hash.unwrap().1, "02".repeat(64));
}
