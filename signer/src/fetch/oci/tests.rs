#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::auth::Challenge;
use super::*;

fn reference(text: &str) -> Result<Reference, FetchError> {
    Reference::parse(&Url::parse(text).unwrap())
}

#[test]
fn references() {
    let found = reference("oci://registry.example.com:5000/team/sub_a/server:1.2.0").unwrap();
    assert_eq!(
        (found.authority.as_str(), found.repository.as_str()),
        ("registry.example.com:5000", "team/sub_a/server")
    );
    assert_eq!(found.tag.as_deref(), Some("1.2.0"));
    let sha = "ab".repeat(32);
    let found = reference(&format!("oci://registry.example.com/server@sha256:{sha}")).unwrap();
    assert_eq!((found.tag, found.sha256.unwrap().to_string()), (None, sha));
    assert_eq!(reference("oci://[::1]:5000/a").unwrap().authority, "[::1]:5000");
    for bad in [
        "oci:registry/x",
        "oci:///x",
        "oci://host",
        "oci://host/",
        "oci://host//x",
        "oci://host/Upper",
        "oci://host/a/../b",
        "oci://host/a:b:c",
        "oci://host/a:",
        "oci://host/a:x?y=1",
        "oci://host/a@sha256:12",
        "oci://host/a%2fb",
        &format!("oci://host/{}", "a".repeat(256)),
    ] {
        // The parser of URLs takes `..` away; what is left may be a good name.
        let found = reference(bad);
        assert!(found.is_err() || !found.unwrap().repository.contains(".."), "{bad}");
    }
}

#[test]
fn challenges() {
    let text =
        r#"Bearer realm="https://auth.example.com/token?x=1",service="registry, \"one\"",scope=repository:a:pull,b"#;
    let found = Challenge::parse(text).unwrap();
    assert_eq!(found.parameter("realm"), Some("https://auth.example.com/token?x=1"));
    assert_eq!(found.parameter("service"), Some("registry, \"one\""));
    assert_eq!(found.parameter("scope"), Some("repository:a:pull"));
    assert_eq!(found.parameter("missing"), None);
    let twice = Challenge::parse(r#"Bearer realm="a", realm="b""#).unwrap();
    assert_eq!(twice.parameter("realm"), None);
    assert!(Challenge::parse("Basic").is_some());
    assert!(Challenge::parse(r#"Bearer realm="open"#).is_none());
    assert!(Challenge::parse("").is_some());
}

#[test]
fn logins_are_for_the_host_that_they_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let write = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // "user:secret"
    let good = r#"{"auths": {"registry.example.com": {"auth": "dXNlcjpzZWNyZXQ="}, "localhost:5000": {"username": "u", "password": "p"},
                   "https://other.example.com/v1/": {}}, "credsStore": "desktop"}"#;
    write(good, 0o600);
    let logins = Logins::read(&path).unwrap();
    let shown = format!("{logins:?}");
    assert_eq!(shown, r#"{"localhost:5000", "registry.example.com:443"}"#);
    for mode in [0o640, 0o604] {
        write(good, mode);
        assert!(matches!(Logins::read(&path), Err(BadLogins::Exposed { .. })));
    }
    for bad in [
        "",
        "[]",
        r#"{"auths": {"a": {"auth": "!secret!"}}}"#,
        r#"{"auths": {"a": {"auth": 5}}}"#,
        r#"{"auths": {"a": {"username": "secret"}}}"#,
    ] {
        write(bad, 0o600);
        let error = Logins::read(&path).unwrap_err();
        assert!(matches!(error, BadLogins::Form { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn the_sum_of_all_parts_is_bounded() {
    let part = |text: &str, size| Part { sha256: Digest::of(text.as_bytes()), size };
    let manifest =
        Manifest { is_image: true, config: part("c", 10), layers: vec![part("a", 20), part("a", 20), part("b", 30)] };
    assert_eq!(bounded_parts(&manifest, 40, 100).unwrap().len(), 3);
    assert!(matches!(bounded_parts(&manifest, 41, 100), Err(FetchError::TooLarge(100))));
    let huge = Manifest { layers: vec![part("a", u64::MAX), part("b", u64::MAX)], ..manifest };
    assert!(bounded_parts(&huge, 1, u64::MAX).is_err());
}

/// What a double of a registry was asked: path and `Authorization`.
type Asked = std::sync::Arc<std::sync::Mutex<Vec<(String, String)>>>;

/// A registry on loopback that answers by path, with all it was asked.
fn registry(answer: impl Fn(&str, &str) -> Vec<u8> + Send + 'static) -> (u16, Asked) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let own = Asked::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines: Vec<String> = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(|line| line.ok().filter(|line| !line.is_empty()))
                .collect();
            let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
            let authorization = lines.iter().find_map(|line| {
                line.to_lowercase().starts_with("authorization:").then(|| line[14..].trim().to_owned())
            });
            let authorization = authorization.unwrap_or_default();
            own.lock().unwrap().push((path.clone(), authorization.clone()));
            let _ = stream.write_all(&answer(&path, &authorization));
        }
    });
    (port, asked)
}

fn reply(head: &str, body: &[u8]) -> Vec<u8> {
    let mut all =
        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    all.extend_from_slice(body);
    all
}

fn ok(body: &[u8]) -> Vec<u8> {
    reply("200 OK", body)
}

const LAYER: &[u8] = b"a layer";
const CONFIG: &[u8] = b"{}";

fn manifest() -> String {
    let part = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": kind, "digest": format!("sha256:{}", Digest::of(bytes)), "size": bytes.len()});
    serde_json::json!({"schemaVersion": 2, "config": part("application/vnd.oci.empty.v1+json", CONFIG),
                       "layers": [part("application/gzip", LAYER)]})
    .to_string()
}

fn blob(bytes: &[u8]) -> String {
    format!("/v2/team/server/blobs/sha256:{}", Digest::of(bytes))
}

/// What a registry with one artefact answers.
fn honest(path: &str) -> Vec<u8> {
    let pinned = format!("/v2/team/server/manifests/sha256:{}", Digest::of(manifest().as_bytes()));
    match path {
        "/v2/team/server/manifests/1" => ok(manifest().as_bytes()),
        path if path == pinned => ok(manifest().as_bytes()),
        path if path == blob(CONFIG) => ok(CONFIG),
        path if path == blob(LAYER) => ok(LAYER),
        _ => reply("404 Not Found", b""),
    }
}

fn policy(ports: &[u16]) -> FetchPolicy {
    let hosts = ports.iter().map(|port| format!("http://127.0.0.1:{port}").parse().unwrap()).collect();
    FetchPolicy { hosts, ..FetchPolicy::default() }
}

/// Fetches the artefact of [`manifest`]; on an error nothing may be left.
fn get(port: u16, policy: &FetchPolicy) -> Result<Fetched, String> {
    get_pinned(port, policy, Digest::of(manifest().as_bytes()))
}

fn get_pinned(port: u16, policy: &FetchPolicy, sha256: Digest) -> Result<Fetched, String> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("oci://127.0.0.1:{port}/team/server:1");
    let source = ArtefactSource { platform: Platform::any(), url, sha256, inputs: Default::default() };
    match super::super::fetch(&source, policy, folder.path(), folder.path()) {
        Ok(fetched) => {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1 + fetched.parts.len());
            Ok(fetched)
        }
        Err(error) => {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{error}");
            let fix = error.fix().unwrap_or_default();
            Err(format!("{error} {fix}"))
        }
    }
}

#[test]
fn an_artefact_and_its_parts() {
    let (port, _) = registry(|path, _| honest(path));
    let fetched = get(port, &policy(&[port])).unwrap();
    assert_eq!(fetched.notes, [FetchNote::PlainHttp]);
    assert_eq!(fetched.parts.iter().map(|part| part.size).sum::<u64>(), 9);
    let small = FetchPolicy { limit: manifest().len() as u64 + 8, ..policy(&[port]) };
    assert!(get(port, &small).unwrap_err().starts_with("larger than"));
    let refused = get(port, &FetchPolicy::default()).unwrap_err();
    assert!(refused.contains(&format!("host https://127.0.0.1:{port} is not listed")), "{refused}");
}

#[test]
fn a_moved_tag_is_told_and_not_followed() {
    let other = manifest().replace("gzip", "zstd");
    let index = |sha256: Digest| {
        serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "m", "digest": format!("sha256:{sha256}"), "size": 1}]}).to_string()
    };
    for (body, words) in [
        (other.clone(), Some("another manifest")),
        (index(Digest::of(other.as_bytes())), Some("an index without it")),
        (index(Digest::of(manifest().as_bytes())), None),
        ("<html>".to_owned(), Some("no manifest")),
    ] {
        let (port, _) =
            registry(move |path, _| if path.ends_with("manifests/1") { ok(body.as_bytes()) } else { honest(path) });
        let notes = get(port, &policy(&[port])).unwrap().notes;
        match (words, &notes[1..]) {
            (None, []) => {}
            (Some(words), [FetchNote::MovedTag(said)]) => assert!(said.contains(words), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    let (port, _) =
        registry(|path, _| if path.ends_with("manifests/1") { reply("404 Not Found", b"") } else { honest(path) });
    assert!(
        matches!(&get(port, &policy(&[port])).unwrap().notes[1], FetchNote::MovedTag(said) if said.contains("cannot be looked up"))
    );
}

#[test]
fn a_hostile_registry_gets_nothing_in() {
    type Answer = fn(&str) -> Vec<u8>;
    let cases: [(Answer, &str); 8] = [
        (|path| if path == blob(LAYER) { ok(b"a liar!") } else { honest(path) }, "came as other bytes"),
        (|path| if path == blob(LAYER) { ok(b"short") } else { honest(path) }, "came as other bytes"),
        (
            |path| match path == blob(LAYER) {
                // No length, and no end that comes soon.
                true => [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &[b'x'; 1 << 20]].concat(),
                false => honest(path),
            },
            "more than its 7 bytes",
        ),
        (
            |path| {
                if path == blob(LAYER) {
                    reply("307 Away\r\nLocation: http://169.254.169.254/latest", b"")
                } else {
                    honest(path)
                }
            },
            "is not listed",
        ),
        (
            |path| {
                if path == blob(LAYER) { reply("307 Away\r\nLocation: file:///etc/passwd", b"") } else { honest(path) }
            },
            "is not listed",
        ),
        (|path| if path.contains("manifests/sha256") { ok(b"{}") } else { honest(path) }, "its SHA-256 is"),
        (|path| if path == blob(CONFIG) { reply("500 Broken", b"") } else { honest(path) }, "answered 500"),
        (|path| if path.contains("manifests") { ok(&[b' '; 5 << 20]) } else { honest(path) }, "larger than"),
    ];
    for (answer, words) in cases {
        let (port, _) = registry(move |path, _| answer(path));
        let error = get(port, &policy(&[port])).unwrap_err();
        assert!(error.contains(words), "{error} says nothing of {words}");
    }
    // A pinned index names what would be right; a pinned text is no manifest.
    let index = format!(
        r#"{{"schemaVersion": 2, "manifests": [{{"mediaType": "m", "size": 1, "digest": "sha256:{}", "platform": {{"os": "linux", "architecture": "arm64"}}}}]}}"#,
        "ab".repeat(32)
    );
    for (body, words) in
        [(index.as_str(), "set artefact.sha256 to one of its manifests: ababab"), ("hello", "its manifest is refused")]
    {
        let own = body.to_owned();
        let (port, _) = registry(move |_, _| ok(own.as_bytes()));
        let error = get_pinned(port, &policy(&[port]), Digest::of(body.as_bytes())).unwrap_err();
        assert!(error.contains(words), "{error} says nothing of {words}");
    }
}

#[test]
fn logins_and_tokens_go_where_they_belong() {
    // The blobs' own server is another origin: it must never see who asks.
    let (store, stored) = registry(|path, _| if path == "/layer" { ok(LAYER) } else { reply("404 Not Found", b"") });
    let (realm, tokens) = registry(|path, authorization| {
        match (path.contains("scope=repository%3Ateam%2Fserver%3Apull"), authorization) {
            (true, "Basic cmVhbG06cHc=" | "") => ok(br#"{"access_token": "tok"}"#),
            _ => reply("401 Unauthorized", b""),
        }
    });
    let (port, asked) = registry(move |path, authorization| match authorization {
        "Bearer tok" if path == blob(LAYER) => {
            reply(&format!("307 There\r\nLocation: http://127.0.0.1:{store}/layer"), b"")
        }
        "Bearer tok" => honest(path),
        _ => reply(
            &format!(
                "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:{realm}/token?a=b\",service=\"here\",scope=\"repository:*:*\""
            ),
            b"",
        ),
    });
    let login = |place: u16, text: &str| {
        let file = format!(r#"{{"auths": {{"127.0.0.1:{place}": {{"username": "{text}", "password": "pw"}}}}}}"#);
        FetchPolicy { logins: Logins::parse(file.as_bytes()).unwrap(), ..policy(&[port, realm, store]) }
    };
    // The login is the registry's: the token service, another host, is asked without it.
    get(port, &login(port, "mine")).unwrap();
    assert!(
        tokens
            .lock()
            .unwrap()
            .drain(..)
            .all(|(path, authorization)| authorization.is_empty() && path.contains("service=here"))
    );
    // The login is the token service's.
    get(port, &login(realm, "realm")).unwrap();
    assert_eq!(tokens.lock().unwrap().drain(..).next().unwrap().1, "Basic cmVhbG06cHc=");
    let error = get(port, &login(realm, "other")).unwrap_err();
    assert!(error.contains("refuses the login"), "{error}");
    // Neither the registry nor the store has ever seen a password, the store no token.
    assert!(asked.lock().unwrap().iter().all(|(_, authorization)| matches!(authorization.as_str(), "" | "Bearer tok")));
    assert!(
        stored.lock().unwrap().len() == 2
            && stored.lock().unwrap().iter().all(|(_, authorization)| authorization.is_empty())
    );
    // A token service that is not listed is not asked.
    let error = get(port, &policy(&[port, store])).unwrap_err();
    assert!(error.contains(&format!("127.0.0.1:{realm} is not listed")), "{error}");
}

#[test]
fn a_password_where_one_is_wanted() {
    let (port, _) = registry(|path, authorization| match authorization {
        "Basic dTpwdw==" => honest(path),
        _ => reply("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", b""),
    });
    let with = |user: &str| {
        let file = format!(r#"{{"auths": {{"127.0.0.1:{port}": {{"username": "{user}", "password": "pw"}}}}}}"#);
        FetchPolicy { logins: Logins::parse(file.as_bytes()).unwrap(), ..policy(&[port]) }
    };
    get(port, &with("u")).unwrap();
    let error = get(port, &with("v")).unwrap_err();
    assert!(error.contains("refuses the login") && !error.contains("pw"), "{error}");
    let error = get(port, &policy(&[port])).unwrap_err();
    assert!(error.contains(&format!("127.0.0.1:{port} wants a login")) && error.contains("--registry-auth"), "{error}");
    // Not in the clear to a host that is not this one.
    let session =
        Session::new("a", &FetchPolicy::default()).basic(&Url::parse("http://registry.example.com/").unwrap()).unwrap();
    assert!(session.is_none());
    let file = br#"{"auths": {"http://registry.example.com": {"username": "u", "password": "pw"}}}"#;
    let policy = FetchPolicy { logins: Logins::parse(file).unwrap(), ..FetchPolicy::default() };
    let error = Session::new("a", &policy).basic(&Url::parse("http://registry.example.com/").unwrap()).unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
}
