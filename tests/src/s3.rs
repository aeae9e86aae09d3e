//! An S3 server (moto) with one bucket, one user who may write, and a public that may read.

use std::path::PathBuf;

use serde_json::Value;

use crate::command::Run;
use crate::moto::Moto;
use crate::scratch;

/// The bucket.
pub const BUCKET: &str = "mcp";

/// A running server; gone on drop, with all that it stored.
#[derive(Debug)]
pub struct S3(Moto);

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
        Self(Moto::start("s3", |dir| vec![BUCKET.into(), dir.join("log")]))
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// Its address, for `--s3-endpoint`.
    pub fn endpoint(&self) -> String {
        self.0.endpoint()
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
        self.environment().into_iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// The environment that has these keys.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", self.key("id")),
            ("AWS_SECRET_ACCESS_KEY", self.key("secret")),
            ("HOME", self.0.dir().display().to_string()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    fn key(&self, name: &str) -> String {
        self.0.facts()[name].as_str().expect("a key").to_owned()
    }

    /// The same keys as a credentials file.
    pub fn credentials_file(&self) -> PathBuf {
        let file = self.0.path("credentials");
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            self.key("id"),
            self.key("secret")
        );
        std::fs::write(&file, text).expect("own directory");
        file
    }

    /// All requests answered so far.
    pub fn requests(&self) -> Vec<Request> {
        let text = std::fs::read_to_string(self.0.path("log")).expect("the server's log");
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
        let file = self.0.dir().join("put");
        std::fs::write(&file, bytes).expect("own directory");
        Run::new(scratch::need("curl", "curl"))
            .args(["-sS", "--fail", "--noproxy", "*", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user"])
            .arg(format!("{}:{}", self.key("id"), self.key("secret")))
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
