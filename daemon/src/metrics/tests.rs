#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::collections::BTreeSet;

use hyper::header::HeaderValue;

use super::page::{FAMILIES, Page};
use super::{endpoint, textfile};

#[test]
fn the_manual_has_every_metric() {
    let manual = include_str!("../../../docs/operating.md");
    let listed: Vec<(&str, &str, &str)> = manual
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
            let [name, kind, help] = cells.as_slice() else { return None };
            Some((name.strip_suffix('`')?.split('{').next()?, *kind, help.strip_suffix(" |")?))
        })
        .collect();
    assert_eq!(listed, FAMILIES);
    assert_eq!(FAMILIES.iter().map(|family| family.0).collect::<BTreeSet<_>>().len(), FAMILIES.len());
    for (name, kind, _) in FAMILIES {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    }
}

#[test]
fn labels_are_escaped() {
    let mut page = Page(String::new());
    page.labelled("mcpfs_build_info", [(&[("registry", "a\"b\\c\nd")] as &[_], 1.0)]);
    assert!(page.0.ends_with("\nmcpfs_build_info{registry=\"a\\\"b\\\\c\\nd\"} 1\n"), "{}", page.0);
    page.labelled("mcpfs_no_such", [(&[] as &[_], 1.0)]);
    assert!(!page.0.contains("no_such"));
}

#[test]
fn hosts() {
    for (host, good) in [
        ("127.0.0.1:9911", true),
        ("127.0.0.1", true),
        ("[::1]:9911", true),
        ("[::1]", true),
        ("localhost:9911", true),
        ("localhost", true),
        ("rebound.example.com:9911", false),
        ("localhost.example.com", false),
        ("192.0.2.1:9911", false),
        ("", false),
    ] {
        assert_eq!(endpoint::is_loopback(&HeaderValue::from_static(host)), good, "{host}");
    }
}

#[test]
fn a_file_is_replaced_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own/mcpfs.prom");
    assert_eq!(textfile::prepare(&file, None).unwrap(), dir.path().join("own"));
    // A draft that a killed process left does not stand in the way.
    std::fs::write(dir.path().join("own/mcpfs.prom.new"), "half").unwrap();
    textfile::write(&file, "a 1\n").unwrap();
    textfile::write(&file, "a 2\n").unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"a 2\n");
    assert_eq!(std::fs::read_dir(dir.path().join("own")).unwrap().count(), 1);
    std::fs::set_permissions(dir.path().join("own"), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(textfile::prepare(&file, None).unwrap_err().to_string().contains("--collector.textfile.directory"));
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    assert!(textfile::prepare(&dir.path().join("link/mcpfs.prom"), None).is_err());
}

/// Whoever holds connections and says nothing keeps nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    let listener = endpoint::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(endpoint::serve(listener, || "metrics\n".to_owned()));
    let mut silent = Vec::new();
    for turn in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
        if turn % 50 == 49 {
            let mut asks = TcpStream::connect(address).await.unwrap();
            asks.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            asks.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("metrics\n"), "{turn}: {answer}");
        }
    }
    // All but the newest were let go.
    let mut byte = [0];
    assert!(matches!(silent[0].read(&mut byte).await, Ok(0) | Err(_)));
    served.abort();
}
