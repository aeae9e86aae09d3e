#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::tag::{find, fingerprint};
use super::tree::{Kind, entries};
use super::*;

const LIMIT: u64 = 1 << 20;

fn line(mode: &str, size: &str, path: &str) -> Vec<u8> {
    let kind = if mode == "160000" { "commit" } else { "blob" };
    format!("{mode} {kind} {} {size:>7}\t{path}\0", "1".repeat(40)).into_bytes()
}

#[test]
fn a_tree_is_listed() {
    let listed = [line("100644", "5", "a b"), line("100755", "7", "bin/run"), line("120000", "3", "link")].concat();
    let listed = [listed, line("160000", "-", "vendor/lib")].concat();
    let found = entries(&listed, LIMIT).unwrap();
    let kinds: Vec<(&str, Kind)> = found.entries.iter().map(|one| (one.path.as_str(), one.kind)).collect();
    assert_eq!(kinds, [("a b", Kind::File), ("bin/run", Kind::Program), ("link", Kind::Link)]);
    assert_eq!(found.links.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["vendor/lib"]);
}

#[test]
fn hostile_trees_are_refused() {
    let refused = |lines: &[Vec<u8>]| entries(&lines.concat(), LIMIT).unwrap_err().to_string();
    for path in ["../x", "a/../x", "/x", "a//x", "./x", "a/.git/config", ".GIT", "a\nb", "a/"] {
        let error = refused(&[line("100644", "1", path)]);
        assert!(error.contains("has a name that") || error.contains("git's own folder"), "{path:?}: {error}");
    }
    assert!(refused(&[line("160000", "-", "x"), line("100644", "1", "x")]).contains("is there twice"));
    assert!(refused(&[line("160000", "-", "x"), line("100644", "1", "x/y")]).contains("below a file or a link"));
    assert!(refused(&[line("100600", "1", "x")]).contains("of a kind that git does not make"));
    assert!(refused(&[line("100644", "1", "x"), line("120000", "1", "x")]).contains("is there twice"));
    assert!(refused(&[line("120000", "4", "x"), line("100644", "1", "x/y/z")]).contains("below a file or a link"));
    assert!(refused(&[line("100644", "2000000", "x")]).contains("larger than an artefact"));
    let mut name = line("100644", "1", "x");
    name.splice(name.len() - 2..name.len() - 1, [0xff]);
    assert!(refused(&[name]).contains("not UTF-8"));
    assert!(refused(&[b"nonsense\0".to_vec()]).contains("unexpected"));
}

#[test]
fn the_commit_behind_a_tag() {
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let annotated = format!("{one}\trefs/tags/v1\n{two}\trefs/tags/v1^{{}}\n");
    assert_eq!(pointed_to(&annotated, "refs/tags/v1").unwrap().to_string(), two);
    let light = format!("{two}\trefs/tags/v1.1\n{one}\trefs/tags/v1\n");
    assert_eq!(pointed_to(&light, "refs/tags/v1").unwrap().to_string(), one);
    assert!(pointed_to(&light, "refs/tags/v2").is_none());
    assert!(pointed_to("x\trefs/tags/v1\n", "refs/tags/v1").is_none());
}

#[test]
fn signatures_are_found_and_their_keys_named() {
    // A key of eleven bytes in the frame of an SSH signature.
    let mut blob = b"SSHSIG\0\0\0\x01\0\0\0\x0bsome key xx".to_vec();
    blob.extend(b"\0\0\0\x03git");
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &blob);
    let text = format!("-----BEGIN SSH SIGNATURE-----\n{base64}\n-----END SSH SIGNATURE-----\n");
    let tag = format!("object {}\ntype commit\ntag v1\n\nwords\n{text}", "1".repeat(40));
    let found = find(tag.as_bytes()).unwrap();
    assert_eq!((found.kind, found.text), ("SSH", text.as_bytes()));
    assert!(found.payload.ends_with(b"\nwords\n"));
    let key = fingerprint(found.text).unwrap();
    assert!(key.starts_with("SHA256:") && key.len() == 50, "{key}");
    for broken in ["", "-----BEGIN SSH SIGNATURE-----\nAAAA\n", "x\nU1NIU0lHAAAAAf////8=\n"] {
        assert_eq!(fingerprint(broken.as_bytes()), None);
    }
    let pgp = "object x\n\nwords\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
    assert_eq!(find(pgp.as_bytes()).unwrap().kind, "OpenPGP");
    assert_eq!(find(b"object x\n\nno signature\n"), None);
}

#[test]
fn the_checked_address_is_pinned_for_git() {
    let url = Url::parse("https://git.example.com:8443/x").unwrap();
    let addresses = ["192.0.2.1:8443".parse().unwrap(), "[2001:db8::1]:8443".parse().unwrap()];
    let pinned = pinned_address(&url, &addresses);
    assert_eq!(pinned.as_deref(), Some("git.example.com:8443:192.0.2.1,[2001:db8::1]"));
    let settings = settings(&Place { address: url.to_string(), pinned, login: None }, None);
    assert!(settings.contains("curloptResolve = \"git.example.com:8443:192.0.2.1,[2001:db8::1]\""), "{settings}");
    assert!(settings.contains("followRedirects = false"));
    assert_eq!(pinned_address(&Url::parse("https://192.0.2.1/x").unwrap(), &addresses), None);
    assert!(check_version("git version 2.47.3\n").is_ok());
    assert!(check_version("git version 3.0.1 (x)").is_ok());
    for old in ["git version 2.36.9", "git version 1.9", "", "nonsense"] {
        assert!(check_version(old).is_err(), "{old}");
    }
}

#[test]
fn addresses_of_submodules() {
    let base = "https://git.example.com/team/server.git";
    for (url, expected) in [
        ("https://other.example.com/lib.git", Some("https://other.example.com/lib.git")),
        ("../lib.git", Some("https://git.example.com/team/lib.git")),
        ("../../other/lib", Some("https://git.example.com/other/lib")),
        ("./lib.git", Some("https://git.example.com/team/server.git/lib.git")),
        ("http://other.example.com/lib.git", None),
        ("git@other.example.com:lib.git", None),
        ("file:///etc", None),
        ("/srv/git/lib.git", None),
        ("https://user:token@other.example.com/lib.git", None),
        ("ext::sh -c true", None),
        ("-u", None),
    ] {
        assert_eq!(submodule::resolved(base, url).as_deref(), expected, "{url}");
    }
}
