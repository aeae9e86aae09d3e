#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

#[test]
fn addresses_of_an_api() {
    for (address, good) in [
        ("https://api.github.com", true),
        ("https://git.example.com/api/v1/", true),
        ("http://127.0.0.1:3000/api/v1", true),
        ("http://localhost/api/v4", true),
        ("http://[::1]:1/", true),
        ("http://git.example.com/api/v1", false),
        ("https://user@git.example.com/", false),
        ("https://git.example.com/?x=1", false),
        ("file:///etc", false),
        ("git.example.com", false),
    ] {
        assert_eq!(Api::new(Kind::Gitea, address, None, &[]).is_ok(), good, "{address}");
    }
    let token = Token::new("line\nbreak".to_owned());
    assert!(Api::new(Kind::Github, "https://api.github.com", Some(&token), &[]).is_err());
    assert!(!format!("{token:?}").contains("line"));
}

#[test]
fn path_components() {
    assert_eq!(gitlab::encode("group/sub.group/mcp-registry"), "group%2Fsub.group%2Fmcp-registry");
    assert_eq!(gitlab::encode("release/1.0 #x"), "release%2F1.0%20%23x");
}

#[test]
fn heads_are_kept_where_each_forge_keeps_them() {
    for (kind, reference) in [
        (Kind::Github, "refs/pull/7/head"),
        (Kind::Gitea, "refs/pull/7/head"),
        (Kind::Gitlab, "refs/merge-requests/7/head"),
    ] {
        let api = Api::new(kind, "https://git.example.com/api", None, &[]).unwrap();
        assert_eq!(Forge::new(kind, api, "acme/x").head_reference(7), reference);
    }
}
