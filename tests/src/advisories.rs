//! Advisories in the shape that databases publish them: as snapshots, and as a service.
//!
//! The services of npm and OSV are not ours to ask in a test, so [`AdvisoryService`] answers on
//! loopback in their place: the bulk endpoint that `npm audit` posts to, and the query endpoint of
//! the OSV API that `pip-audit` posts to. The programs that ask are the real ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

/// An advisory as the GitHub database publishes it in OSV format.
pub fn advisory(id: &str, ecosystem: &str, name: &str, fixed: &str, severity: &str) -> Value {
    let vector = json!({"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H"});
    // What that vector comes to; without one the database's word alone counts.
    let scores = if severity == "HIGH" { json!([vector]) } else { json!([]) };
    json!({
        "schema_version": "1.7.3",
        "id": id,
        "modified": "2026-11-20T08:21:35.601357Z",
        "published": "2026-11-18T16:05:51Z",
        "aliases": ["CVE-2026-23337"],
        "summary": format!("Something in {name} goes wrong"),
        "details": format!("Versions of {name} before {fixed} are vulnerable."),
        "severity": scores,
        "affected": [{
            "package": {"ecosystem": ecosystem, "name": name},
            "ranges": [{
                "type": if ecosystem == "PyPI" { "ECOSYSTEM" } else { "SEMVER" },
                "events": [{"introduced": "0"}, {"fixed": fixed}],
            }],
            "database_specific": {"source": "https://github.com/github/advisory-database"},
        }],
        "references": [{"type": "ADVISORY", "url": "https://nvd.nist.gov/vuln/detail/CVE-2026-23337"}],
        "database_specific": {"cwe_ids": ["CWE-77"], "severity": severity, "github_reviewed": true},
    })
}

/// Writes a snapshot as OSV publishes one for an ecosystem.
pub fn snapshot(file: &Path, advisories: &[Value]) -> PathBuf {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(file).expect("own directory"));
    for advisory in advisories {
        let name = format!("{}.json", advisory["id"].as_str().expect("an id"));
        zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("a name");
        zip.write_all(advisory.to_string().as_bytes()).expect("own file");
    }
    zip.finish().expect("own file");
    file.to_owned()
}

/// How the service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// From its advisories.
    Honest,
    /// 500, as when its database is down.
    Failed,
    /// HTML with status 200, as a captive portal answers.
    Portal,
    /// Takes the request and never answers.
    Silence,
}

/// The service on a loopback port; stops on drop.
#[derive(Debug)]
pub struct AdvisoryService {
    port: u16,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl AdvisoryService {
    /// A service that knows these advisories in OSV format.
    pub fn of(advisories: &[Value], answer: Answer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free loopback port");
        let port = listener.local_addr().expect("bound").port();
        let (stopping, advisories) = (Arc::new(AtomicBool::new(false)), Arc::new(advisories.to_vec()));
        let own = Arc::clone(&stopping);
        let acceptor = std::thread::spawn(move || {
            // Requests without an answer stay open as long as the service.
            let (keep, kept) = channel();
            for stream in listener.incoming() {
                if own.load(Ordering::SeqCst) {
                    break;
                }
                let (advisories, keep) = (Arc::clone(&advisories), keep.clone());
                // Whatever goes wrong here, the client hung up.
                std::thread::spawn(move || {
                    let Ok(stream) = stream else { return };
                    if answer == Answer::Silence {
                        let _stopped = keep.send(stream);
                    } else {
                        drop(serve(&stream, &advisories, answer));
                    }
                });
            }
            drop(kept);
        });
        Self { port, stopping, acceptor: Some(acceptor) }
    }

    /// Its base address, with a final slash: the registry of an npmrc.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The query endpoint of its OSV API.
    pub fn osv_url(&self) -> String {
        format!("{}v1/query", self.url())
    }
}

impl Drop for AdvisoryService {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

fn serve(stream: &TcpStream, advisories: &[Value], answer: Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?.take(1 << 20));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let (mut length, mut packed) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        packed |= line.starts_with("content-encoding:") && line.contains("gzip");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if packed {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
        body = plain;
    }
    let asked = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, kind, text) = match (answer, path) {
        (Answer::Failed, _) => ("500 Internal Server Error", "application/json", "{\"error\": \"down\"}".to_owned()),
        (Answer::Portal, _) => ("200 OK", "text/html", "<html><title>Please log in</title></html>".to_owned()),
        (_, "/-/npm/v1/security/advisories/bulk") => {
            ("200 OK", "application/json", bulk(&asked(), advisories).to_string())
        }
        (_, "/v1/query") => ("200 OK", "application/json", query(&asked(), advisories).to_string()),
        _ => ("404 Not Found", "application/json", "{\"error\": \"not found\"}".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

/// The first package of an advisory, and what mends it.
fn about(advisory: &Value) -> (&str, &str, &str) {
    let affected = &advisory["affected"][0];
    let text = |value: &'static str| affected["package"][value].as_str().expect("a package");
    let fixed = affected["ranges"][0]["events"][1]["fixed"].as_str().expect("what mends it");
    (text("ecosystem"), text("name"), fixed)
}

/// npm's bulk endpoint: advisories by the names that were asked about.
fn bulk(asked: &Value, advisories: &[Value]) -> Value {
    let mut found = Map::new();
    for (number, advisory) in advisories.iter().enumerate() {
        let (ecosystem, name, fixed) = about(advisory);
        if ecosystem == "npm" && asked.get(name).is_some() {
            let one = json!({
                "id": 1_100_000 + number,
                "url": format!("https://github.com/advisories/{}", advisory["id"].as_str().expect("an id")),
                "title": advisory["summary"],
                "severity": advisory["database_specific"]["severity"].as_str().expect("a word").to_lowercase(),
                "vulnerable_versions": format!("<{fixed}"),
                "cwe": ["CWE-77"],
                "cvss": {"score": 7.2, "vectorString": advisory["severity"][0]["score"]},
            });
            found.entry(name).or_insert_with(|| json!([])).as_array_mut().expect("a list").push(one);
        }
    }
    Value::Object(found)
}

/// The OSV API: advisories of one package whose range holds the version. Versions of these tests
/// differ in their numbers alone.
fn query(asked: &Value, advisories: &[Value]) -> Value {
    let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u64>>();
    let (name, version) = (asked["package"]["name"].as_str(), asked["version"].as_str());
    let found = advisories.iter().filter(|advisory| {
        let (ecosystem, package, fixed) = about(advisory);
        ecosystem == "PyPI" && Some(package) == name && version.is_some_and(|version| numbers(version) < numbers(fixed))
    });
    let found: Vec<&Value> = found.collect();
    if found.is_empty() { json!({}) } else { json!({"vulns": found}) }
}
