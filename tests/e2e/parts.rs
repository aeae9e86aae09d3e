//! The harness's own parts, so that a failure elsewhere is not theirs.

use std::io::{Read, Write};
use std::net::TcpStream;

use mcpfs_tests::command::Run;
use mcpfs_tests::faulty::{self, FaultyServer};
use mcpfs_tests::fixture;
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::site::{Fault, Site};
use mcpfs_tests::suite::Suite;
use serde_json::json;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("parts::hello_speaks_mcp", hello_speaks_mcp);
    suite.plain("parts::nginx_serves_counts_and_misbehaves", nginx_serves_counts_and_misbehaves);
    suite.plain("parts::faulty_server_does_what_it_says", faulty_server_does_what_it_says);
    suite.plain("parts::token_keeps_its_keys", token_keeps_its_keys);
    suite.plain("parts::a_hanging_test_is_told", mcpfs_tests::suite::a_hanging_test_is_told);
    suite.plain("parts::a_port_is_kept_while_nobody_listens", a_port_is_kept_while_nobody_listens);
    suite.plain("parts::artefacts_are_the_same_every_time", artefacts_are_the_same_every_time);
}

fn hello_speaks_mcp() {
    let dir = scratch::dir();
    let tree = fixture::hello_tree(dir.path(), "1.2.3");
    let mut client = McpClient::start(&tree.join("bin/hello-mcp"));
    let answer = client.initialize();
    assert_eq!(answer["serverInfo"]["name"], "hello");
    assert_eq!(answer["serverInfo"]["version"], "1.2.3");
    assert_eq!(client.tools(), ["add", "digest", "echo", "whoami"]);
    assert_eq!(client.call("add", &json!({"a": 40, "b": 2})), "42");
    assert_eq!(client.call("echo", &json!({"message": "Grüße"})), "Grüße");
    let ended = client.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

fn get(url: &str) -> (u16, String) {
    let ran = Run::new(need("curl", "curl")).args(["-s", "-w", "\n%{http_code}", url]).run();
    let (body, status) = ran.stdout.rsplit_once('\n').expect("curl prints a status");
    (status.parse().expect("a status"), body.to_owned())
}

fn nginx_serves_counts_and_misbehaves() {
    let dir = scratch::dir();
    std::fs::write(dir.path().join("head.json"), "{}").expect("own directory");
    let mut site = Site::serve(dir.path());
    let head = format!("{}head.json", site.url());
    assert_eq!(get(&head), (200, "{}".to_owned()));
    assert_eq!(get(&format!("{}nothing", site.url())).0, 404);
    scratch::wait_for("two log lines", || (site.requests().len() >= 2).then_some(()));
    let paths: Vec<(String, u16)> = site.requests().into_iter().map(|it| (it.path, it.status)).collect();
    assert_eq!(paths, [("/head.json".to_owned(), 200), ("/nothing".to_owned(), 404)]);
    site.restart(&[Fault::Status("^/head", 500)]);
    assert_eq!(get(&head).0, 500);
    site.restart(&[Fault::Html("^/", "<html>Please sign in</html>")]);
    assert_eq!(get(&head), (200, "<html>Please sign in</html>".to_owned()));
    site.stop();
    assert_eq!(get(&head).0, 0);
    site.restart(&[]);
    assert_eq!(get(&head).0, 200);
}

fn faulty_server_does_what_it_says() {
    let dir = scratch::dir();
    std::fs::write(dir.path().join("a"), "abc").expect("own directory");
    std::fs::write(dir.path().join("b"), "b").expect("own directory");
    let ask = |server: &FaultyServer, path: &str, limit: usize| {
        let address = server.url();
        let address = address.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).expect("listening");
        stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("taken");
        let mut bytes = vec![0; limit];
        let mut filled = 0;
        while filled < limit {
            match stream.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return (String::from_utf8_lossy(&bytes[..filled]).into_owned(), Some(error.kind())),
            }
        }
        (String::from_utf8_lossy(&bytes[..filled]).into_owned(), None)
    };
    let drip = FaultyServer::over(dir.path(), "a", faulty::Fault::Drip);
    assert!(ask(&drip, "a", 4096).0.ends_with("\r\n\r\nabc"));
    assert_eq!(drip.sent(), 3, "byte by byte");
    assert!(ask(&drip, "b", 4096).0.ends_with("\r\n\r\nb"));
    let huge = FaultyServer::over(dir.path(), "a", faulty::Fault::TenGigabytes);
    assert!(ask(&huge, "a", 1 << 20).0.contains("Content-Length: 10000000000"));
    assert!(huge.sent() > 500_000);
    let reset = FaultyServer::over(dir.path(), "a", faulty::Fault::Reset);
    assert_eq!(ask(&reset, "a", 4096).1, Some(std::io::ErrorKind::ConnectionReset));
}

fn a_port_is_kept_while_nobody_listens() {
    let port = scratch::Port::reserve();
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port.number()));
    assert_eq!(
        TcpStream::connect(address).map_err(|error| error.kind()).err(),
        Some(std::io::ErrorKind::ConnectionRefused)
    );
    // Who asks for just this one and allows it to be shared gets it; so does the next after him.
    for _ in 0..2 {
        let listener = std::net::TcpListener::bind(address).expect("ours");
        assert!(TcpStream::connect(address).is_ok());
        drop(listener);
    }
}

fn token_keeps_its_keys() {
    let hsm = Hsm::new();
    hsm.pkcs11_tool().args(["--keypairgen", "--key-type", "EC:edwards25519", "--label", "k", "--sensitive"]).ok();
    assert_eq!(hsm.sign("k", b"twice").to_vec(), hsm.sign("k", b"twice").to_vec());
    assert_ne!(hsm.sign("k", b"one").to_vec(), hsm.sign("k", b"other").to_vec());
    assert_eq!(hsm.access("k"), "sensitive, always sensitive, never extractable, local");
    assert_eq!(hsm.key_id("k").len(), 64);
}

fn artefacts_are_the_same_every_time() {
    let [one, two] = [scratch::dir(), scratch::dir()];
    let digest = |dir: &tempfile::TempDir| fixture::sha256_of(&fixture::tar(&fixture::files_tree(dir.path())));
    assert_eq!(digest(&one), digest(&two));
}
