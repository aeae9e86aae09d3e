#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mcpfs_trust::name::Platform;

use super::*;
use crate::check::dependencies::{npm_package, wheel_package};
use sbom::Part;

#[test]
fn addresses_name_exact_versions() {
    for good in [
        "npm:a@1.2.3",
        "npm:@scope/name@1.2.3-rc.1+build",
        "pypi:mcp-server-time==2026.10.19",
        "git+https://git.example.com/team/server.git#v1.2.0",
        "git+https://git.example.com:8443/x#release/1.2",
        "git+file:server.git#v1",
    ] {
        assert!(good.parse::<Source>().is_ok(), "{good}");
    }
    for bad in [
        "npm:a",
        "npm:a@latest",
        "npm:a@^1.2.3",
        "npm:a@1.2",
        "npm:../a@1.2.3",
        "npm:@scope@1.2.3",
        "npm:node_modules@1.0.0",
        "npm:a@1.2.3 --global",
        "pypi:a",
        "pypi:a>=1",
        "pypi:a==1; x",
        "pypi:-a==1",
        "pypi:a==*",
        "git+https://git.example.com/x",
        "git+https://git.example.com/x#",
        "git+https://user:token@git.example.com/x#v1",
        "git+https://git.example.com/x?y#v1",
        "git+http://git.example.com/x#v1",
        "git+ssh://git.example.com/x#v1",
        "git+https:x#v1",
        "git+file:../x%2e#v1",
        "git+https://git.example.com/x#-v1",
        "git+https://git.example.com/x#a..b",
        "git+https://git.example.com/x#a b",
        "git+https://git.example.com/x#v1^{}",
        "git+https://git.example.com/x#a.lock",
        "https://example.com/x.tar",
    ] {
        assert!(bad.parse::<Source>().is_err(), "{bad}");
    }
    let id = "0123456789abcdef0123456789abcdef01234567";
    assert!(id.parse::<CommitId>().is_ok());
    for bad in ["", "v1", "0123456", &id.to_uppercase(), &format!("{id}0")] {
        assert!(bad.parse::<CommitId>().is_err(), "{bad}");
    }
    assert!("3.11".parse::<PythonVersion>().is_ok());
    for bad in ["3", "2.7", "3.8", "3.011", "3.11.2", "4.0", "3.999"] {
        assert!(bad.parse::<PythonVersion>().is_err(), "{bad}");
    }
}

#[test]
fn targets_have_the_names_of_npm_and_wheels() {
    let target = |platform: &str| Target::of(&platform.parse().unwrap());
    let amd64 = target("linux/amd64").unwrap();
    assert_eq!(amd64.npm(), "x64");
    let tags = amd64.wheels();
    assert_eq!(tags[0], "manylinux_2_34_x86_64");
    let place = |tag: &str| tags.iter().position(|one| one == tag).unwrap();
    assert_eq!(place("manylinux2014_x86_64"), place("manylinux_2_17_x86_64") + 1);
    assert_eq!(tags.last().unwrap(), "manylinux1_x86_64");
    assert_eq!(target("linux/arm64").unwrap().wheels()[0], "manylinux_2_34_aarch64");
    assert_eq!(Target::of(&Platform::any()).unwrap().wheels(), ["any"]);
    for unknown in ["darwin/arm64", "windows/amd64", "linux/mips"] {
        assert!(target(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn parts_are_listed_the_same_whatever_their_order() {
    let main = Part { package: npm_package("@s/main", Some("1.0.0"), None, false), hash: None };
    let licence = serde_json::json!("(MIT OR Apache-2.0)");
    let one = Part {
        package: npm_package("zod", Some("4.1.0"), Some(&licence), true),
        hash: Some(("SHA-512", "ab".repeat(64))),
    };
    let metadata = "Name: Typing_Extensions\nVersion: 4.16.0\nLicense: see the file LICENSE\n";
    let two = Part { package: wheel_package(metadata).unwrap(), hash: None };
    let text = sbom::text(&main, vec![one.clone(), two.clone()]);
    assert_eq!(text, sbom::text(&main, vec![two, one.clone(), one]));
    let bom: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bom["metadata"]["component"]["purl"], "pkg:npm/%40s/main@1.0.0");
    assert_eq!(bom["metadata"]["component"]["group"], "@s");
    let purls: Vec<&str> =
        bom["components"].as_array().unwrap().iter().filter_map(|one| one["purl"].as_str()).collect();
    assert_eq!(purls, ["pkg:npm/zod@4.1.0", "pkg:pypi/typing-extensions@4.16.0"]);
    assert_eq!(bom["components"][0]["licenses"][0]["expression"], "(MIT OR Apache-2.0)");
    assert_eq!(bom["components"][1]["licenses"][0]["license"]["name"], "see the file LICENSE");
    assert!(bom.get("serialNumber").is_none() && bom["metadata"].get("timestamp").is_none());
}
