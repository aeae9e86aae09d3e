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
fn the_reason_is_at_the_end_and_not_cut() {
    // Nobody listens there any more.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let api = Api::new(Kind::Gitea, &format!("http://{address}/api/{}", "long/".repeat(60)), None, &[]).unwrap();
    let error = Forge::new(Kind::Gitea, api, "acme/x").protection("main").unwrap_err().to_string();
    assert!(error.contains("onnection refused"), "{error}");
    for (answer, words) in [
        (
            &br#"{"message": "Resource not accessible by personal access token"}"#[..],
            "; it says: Resource not accessible by personal access token",
        ),
        (br#"{"error": "insufficient_scope", "scope": "api"}"#, "; it says: insufficient_scope"),
        (br#"{"message": {"base": ["is locked"]}}"#, "; it says: {\"base\":[\"is locked\"]}"),
        (b"<html>", ""),
        (b"[]", ""),
    ] {
        assert_eq!(api::said(answer), words);
    }
    assert!(api::said(format!("{{\"message\": \"{}\"}}", "x".repeat(9_000)).as_bytes()).len() < 300);
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
