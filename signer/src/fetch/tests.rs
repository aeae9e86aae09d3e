#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::address::is_public;
use super::*;
use crate::bundle::Inputs;

/// A server on loopback that answers by path; it ends with the test's process.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(first)) = lines.next() else { continue };
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            answer(&path, &mut stream);
        }
    });
    port
}

fn reply(stream: &mut TcpStream, head: &str, body: &[u8]) {
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    let _ = stream.write_all(body);
}

fn source(url: &str, content: &[u8]) -> ArtefactSource {
    ArtefactSource {
        platform: mcpfs_trust::name::Platform::any(),
        url: url.to_owned(),
        sha256: Digest::of(content),
        inputs: Inputs::default(),
    }
}

fn listed(port: u16) -> FetchPolicy {
    FetchPolicy { hosts: vec![format!("http://127.0.0.1:{port}").parse().unwrap()], ..FetchPolicy::default() }
}

/// Fetches into a fresh folder; on an error nothing may be left there.
fn get(url: &str, content: &[u8], policy: &FetchPolicy) -> Result<u64, String> {
    let folder = tempfile::tempdir().unwrap();
    match fetch(&source(url, content), policy, folder.path(), folder.path()) {
        Ok(fetched) => {
            assert_eq!(fs::read(&fetched.path).unwrap(), content);
            assert_eq!(fetched.path, folder.path().join(Digest::of(content).to_string()));
            assert_eq!(fs::metadata(&fetched.path).unwrap().permissions().mode() & 0o777, 0o600);
            Ok(fetched.size)
        }
        Err(error) => {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
            Err(error.to_string())
        }
    }
}

#[test]
fn files_below_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(root.join("sub/a b.tar"), b"inside").unwrap();
    fs::write(folder.path().join("secret"), b"outside").unwrap();
    symlink("sub/a b.tar", root.join("link")).unwrap();
    symlink("../secret", root.join("escape")).unwrap();
    symlink(folder.path(), root.join("up")).unwrap();
    symlink(root.join("sub"), root.join("absolute")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let policy = FetchPolicy { file_root: Some(root.clone()), ..FetchPolicy::default() };
    let shown = root.canonicalize().unwrap().display().to_string();
    for url in
        ["file:sub/a%20b.tar", "file:link", &format!("file://{shown}/sub/a%20b.tar"), &format!("file:{shown}/link")]
    {
        assert_eq!(get(url, b"inside", &policy), Ok(6), "{url}");
    }
    for (url, reason) in [
        ("file:../secret", "climb"),
        ("file:sub/../../secret", "climb"),
        ("file:sub/%2e%2e/%2E%2e/secret", "climb"),
        ("file:sub\\..\\..\\secret", "climb"),
        ("file:escape", "outside"),
        ("file:up/secret", "outside"),
        // Absolute links are refused even if they would lead inside: they mean another place elsewhere.
        ("file:absolute/a%20b.tar", "outside"),
        ("file:///etc/passwd", "outside"),
        ("file://other.example/x", "not a URL"),
        ("file:sub/none", "cannot read"),
        ("file:pipe", "neither a file nor a folder"),
        ("file:sub/a%20b.tar?x", "query"),
        (&format!("file://{shown}x/secret"), "outside"),
    ] {
        let error = get(url, b"outside", &policy).unwrap_err();
        assert!(error.contains(reason), "{url}: {error}");
    }
    let error = get("file:link", b"inside", &FetchPolicy::default()).unwrap_err();
    assert!(error.contains("--file-root"), "{error}");
    let error = get("file:link", b"other", &policy).unwrap_err();
    assert!(error.contains("the recipe pins"), "{error}");
    let small = FetchPolicy { limit: 5, ..policy };
    assert_eq!(get("file:link", b"inside", &small).unwrap_err(), "larger than 5 bytes");
}

#[test]
fn http_from_listed_hosts_only() {
    let port = serve(|path, stream| match path {
        "/good" => reply(stream, "200 OK", b"artefact"),
        "/gone" => reply(stream, "404 Not Found", b"artefact"),
        "/near" => reply(stream, "302 Found\r\nLocation: /good", b""),
        "/far" => reply(stream, "302 Found\r\nLocation: http://127.0.0.2:1/x", b""),
        "/metadata" => reply(stream, "302 Found\r\nLocation: http://169.254.169.254/latest", b""),
        "/file" => reply(stream, "302 Found\r\nLocation: file:///etc/passwd", b""),
        "/loop" => reply(stream, "302 Found\r\nLocation: /loop", b""),
        "/nowhere" => reply(stream, "302 Found", b""),
        "/cut" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nart");
        }
        "/huge" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        }
        "/endless" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[0; 4096]).is_ok() {}
        }
        "/slow" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        _ => reply(stream, "500 Server Error", b""),
    });
    let policy = FetchPolicy { limit: 1 << 20, ..listed(port) };
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    assert_eq!(get(&url("/good"), b"artefact", &policy), Ok(8));
    assert_eq!(get(&url("/near"), b"artefact", &policy), Ok(8));
    for (path, reason) in [
        ("/gone", "404"),
        ("/far", "host http://127.0.0.2:1 is not listed"),
        ("/metadata", "host http://169.254.169.254 is not listed"),
        ("/file", "not listed"),
        ("/loop", "redirects too often"),
        ("/nowhere", "redirects too often"),
        ("/cut", "transfer failed"),
        ("/huge", "larger than"),
        ("/endless", "larger than"),
    ] {
        let error = get(&url(path), b"artefact", &policy).unwrap_err();
        assert!(error.contains(reason), "{path}: {error}");
    }
    // Bytes come all the time, but the last of them would in some hours.
    let hasty = FetchPolicy { deadline: Duration::from_millis(300), ..policy };
    let error = get(&url("/slow"), b"artefact", &hasty).unwrap_err();
    assert!(error.contains("not done within 300ms"), "{error}");
    let error = get(&url("/good"), b"artefact", &FetchPolicy::default()).unwrap_err();
    assert!(error.ends_with(&format!("add --allow-host http://127.0.0.1:{port}")), "{error}");
}

#[test]
fn private_addresses_need_the_operators_word() {
    let port = serve(|_, stream| reply(stream, "200 OK", b"artefact"));
    let by_name = |networks: Vec<Network>| FetchPolicy {
        // A name that resolves to loopback without being the loopback address itself.
        hosts: vec![format!("http://localhost.localdomain:{port}").parse().unwrap()],
        networks,
        ..FetchPolicy::default()
    };
    let url = format!("http://localhost.localdomain:{port}/x");
    match get(&url, b"artefact", &by_name(Vec::new())) {
        // Without a network a resolver may refuse or just say nothing.
        Err(error) => {
            let no = ["private address", "cannot resolve", "not done within"];
            assert!(no.iter().any(|no| error.contains(no)), "{error}");
        }
        Ok(_) => panic!("a private address was asked"),
    }
    if std::net::ToSocketAddrs::to_socket_addrs(&("localhost.localdomain", port)).is_ok() {
        let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert_eq!(get(&url, b"artefact", &by_name(loopback)), Ok(8));
    }
    let localhost =
        FetchPolicy { hosts: vec![format!("http://localhost:{port}").parse().unwrap()], ..FetchPolicy::default() };
    assert_eq!(get(&format!("http://localhost:{port}/x"), b"artefact", &localhost), Ok(8));
}

#[test]
fn public_is_what_is_left() {
    for private in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2001::1",
        "fec0::1",
        "100::1",
    ] {
        assert!(!is_public(private.parse::<IpAddr>().unwrap()), "{private}");
    }
    for public in
        ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1", "64:ff9b::1.1.1.1"]
    {
        assert!(is_public(public.parse::<IpAddr>().unwrap()), "{public}");
    }
    let net: Network = "10.20.0.0/16".parse().unwrap();
    assert!(net.contains("10.20.255.1".parse().unwrap()) && !net.contains("10.21.0.0".parse().unwrap()));
    assert!(!"::/0".parse::<Network>().unwrap().contains("10.0.0.1".parse().unwrap()));
    for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
        assert!(bad.parse::<Network>().is_err(), "{bad}");
    }
    for bad in ["", "http://", "ftp://x", "example.com/path", "user@example.com", "https://example.com/"] {
        assert!(bad.parse::<AllowedHost>().is_err(), "{bad}");
    }
    let host: AllowedHost = "Example.com".parse().unwrap();
    assert!(host.covers(&Url::parse("https://example.com:443/x").unwrap()));
    for other in
        ["http://example.com/", "https://example.com:444/", "https://example.com.evil.test/", "https://evil.test/"]
    {
        assert!(!host.covers(&Url::parse(other).unwrap()), "{other}");
    }
}

#[test]
fn other_schemes_are_told_apart() {
    let error = get("ftp://example.com/x.tar", b"", &FetchPolicy::default()).unwrap_err();
    assert_eq!(error, "ftp: artefacts cannot be fetched by this version");
}

/// A folder with everything that must not show in its bundle.
fn folder_to_bundle(folder: &Path) {
    fs::create_dir_all(folder.join("b/deep")).unwrap();
    fs::write(folder.join("b/deep/file"), "content").unwrap();
    fs::write(folder.join("B"), "upper case first").unwrap();
    fs::write(folder.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("run.sh"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(folder.join("B"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("deep/file", folder.join("b/link")).unwrap();
    fs::hard_link(folder.join("B"), folder.join("hard")).unwrap();
    fs::write(folder.join("n".repeat(200)), "long").unwrap();
    symlink(format!("../{}", "n".repeat(200)), folder.join("b/longlink")).unwrap();
    fs::write(folder.join("exact"), vec![b'x'; 512]).unwrap();
}

#[test]
fn a_bundle_is_the_same_everywhere() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    folder_to_bundle(one.path());
    std::thread::sleep(Duration::from_millis(20));
    folder_to_bundle(two.path());
    let bundled = |folder: &Path| {
        let mut bytes = Vec::new();
        bundle(folder, &mut bytes).unwrap();
        bytes
    };
    let bytes = bundled(one.path());
    assert_eq!(bytes, bundled(two.path()));
    // Frozen: recipes pin the digests of bundles.
    let digest = Digest::of(&bytes).to_string();
    assert_eq!(digest, include_str!("../../testdata/bundle.frozen").trim());

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let archive = crate::unpack::unpack(file, one.path()).unwrap();
    let paths: Vec<&str> = archive.entries.iter().map(|entry| entry.path.as_str()).collect();
    let long = "n".repeat(200);
    assert_eq!(
        paths,
        ["B", "b", "b/deep", "b/deep/file", "b/link", "b/longlink", "exact", "hard", long.as_str(), "run.sh"]
    );
    assert!(archive.remarks.is_empty());
    // A file: URL of the folder is its bundle.
    let root = FetchPolicy { file_root: Some(two.path().to_owned()), ..FetchPolicy::default() };
    assert_eq!(get("file:", &bytes, &root), Ok(bytes.len() as u64));
}

#[test]
fn what_a_bundle_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    let error = bundle(folder.path(), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "\"pipe\" is a device, pipe or socket");
    let folder = tempfile::tempdir().unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"a\xff");
    fs::write(folder.path().join(name), "").unwrap();
    assert!(bundle(folder.path(), Vec::new()).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn what_is_named_by_its_digest_is_not_built_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(Digest::of(b"bundle").to_string()), b"bundle").unwrap();
    let policy = FetchPolicy { by_digest: Some(folder.path().to_owned()), ..FetchPolicy::default() };
    for url in ["npm:x@1.0.0", "pypi:x==1.0", "git+https://git.example.com/x.git#v1"] {
        assert_eq!(get(url, b"bundle", &policy), Ok(6), "{url}");
    }
    let refused = get("npm:x@1.0.0", b"bundle", &FetchPolicy::default());
    assert_eq!(refused.unwrap_err(), "the source cannot be bundled");
}
