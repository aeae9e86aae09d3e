//! An S3 server (moto) with one bucket, one user who may write, and a public that may read.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::command::Run;
use crate::scratch::{self, Port, repository};
use crate::servers;

/// The bucket.
pub const BUCKET: &str = "mcp";

/// A running server; gone on drop, with all that it stored.
#[derive(Debug)]
pub struct S3 {
    dir: tempfile::TempDir,
    port: Port,
    child: Child,
    keys: Value,
}

/// One request that was answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// GET, PUT and so on.
    pub method: String,
    /// The name in the bucket; empty for the bucket itself.
    pub name: String,
    /// The status.
    pub status: u16,
    /// Bytes that the client sent.
    pub sent: u64,
}

impl S3 {
    /// A server with an empty bucket.
    pub fn new() -> Self {
        let (dir, port) = (scratch::dir_for("s3"), Port::reserve());
        let mut child = Command::new(servers::python())
            .arg(repository().join("tests/servers/s3/serve.py"))
            .arg(port.number().to_string())
            .arg(BUCKET)
            .arg(dir.path().join("log"))
            .env("PYTHONPATH", servers::moto())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("own directory"))
            .spawn()
            .expect("cannot start python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a pipe");
        let keys = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("the S3 server ended: {}", std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default())
        });
        Self { dir, port, child, keys }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its address, for `--s3-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// A site below `prefix`, for `--site`.
    pub fn site(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The same for hosts, with a final slash.
    pub fn url(&self, prefix: &str) -> String {
        format!("{}/{BUCKET}/{prefix}/", self.endpoint())
    }

    /// Gives a command the keys of the user who may write, and no others.
    pub fn keys(&self, run: Run) -> Run {
        let key = |name: &str| self.keys[name].as_str().expect("a key").to_owned();
        run.env("AWS_ACCESS_KEY_ID", key("id"))
            .env("AWS_SECRET_ACCESS_KEY", key("secret"))
            .env("HOME", self.dir.path())
            .env("NO_PROXY", "127.0.0.1")
    }

    /// The same keys as a credentials file.
    pub fn credentials_file(&self) -> PathBuf {
        let file = self.dir.path().join("credentials");
        let key = |name: &str| self.keys[name].as_str().expect("a key").to_owned();
        let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", key("id"), key("secret"));
        std::fs::write(&file, text).expect("own directory");
        file
    }

    /// All requests answered so far.
    pub fn requests(&self) -> Vec<Request> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).expect("the server's log");
        let parse = |line: &str| {
            let mut fields = line.split(' ');
            let (method, path) = (fields.next()?.to_owned(), fields.next()?);
            let name = path.strip_prefix(&format!("/{BUCKET}")).unwrap_or(path).trim_start_matches('/').to_owned();
            Some(Request { method, name, status: fields.next()?.parse().ok()?, sent: fields.next()?.parse().ok()? })
        };
        text.lines()
            .map(|line| parse(line).unwrap_or_else(|| panic!("odd line in the S3 server's log: {line}")))
            .collect()
    }

    /// Names that were written with success since `from` requests ago, with what was sent.
    pub fn written_since(&self, from: usize) -> Vec<Request> {
        let requests = self.requests();
        requests.into_iter().skip(from).filter(|one| one.method == "PUT" && one.status == 200).collect()
    }

    /// curl with the rights of the public: status, headers and body.
    pub fn get(&self, name: &str) -> Run {
        Run::new(scratch::need("curl", "curl"))
            .args(["-sS", "-i", "--noproxy", "*"])
            .arg(format!("{}/{BUCKET}/{name}", self.endpoint()))
    }

    /// A JSON file, with the rights of the public.
    pub fn json(&self, name: &str) -> Value {
        let run = Run::new(scratch::need("curl", "curl")).args(["-sS", "--fail", "--noproxy", "*"]);
        run.arg(format!("{}/{BUCKET}/{name}", self.endpoint())).ok().json()
    }

    /// Puts a file past the signer, as somebody with the same keys can.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let key = |name: &str| self.keys[name].as_str().expect("a key").to_owned();
        let file = self.dir.path().join("put");
        std::fs::write(&file, bytes).expect("own directory");
        Run::new(scratch::need("curl", "curl"))
            .args(["-sS", "--fail", "--noproxy", "*", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"])
            .arg(format!("{}:{}", key("id"), key("secret")))
            .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--upload-file"])
            .arg(&file)
            .arg(format!("{}/{BUCKET}/{name}", self.endpoint()))
            .ok();
    }
}

impl Default for S3 {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }
}
