//! A static web server (nginx) that can be told to misbehave.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::scratch::{self, Port, wait_for};

/// What the harness itself asks for.
const MARK: &str = "/.mark-of-the-harness";

/// One nginx over one directory.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    dir: tempfile::TempDir,
    /// Ours also while nginx is stopped: nobody else answers there then.
    port: Port,
    /// Lines in nginx's `server`.
    lines: String,
    running: Option<Child>,
}

/// What a misbehaving web server does; `path` is a regular expression on the request path.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status.
    Status(&'static str, u16),
    /// Answers 200 with this text as HTML.
    Html(&'static str, &'static str),
    /// Sends at most this many bytes a second.
    Rate(&'static str, u32),
}

/// One line of the access log.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path asked for.
    pub path: String,
    /// The status answered.
    pub status: u16,
    /// Bytes of the body sent.
    pub bytes: u64,
}

impl Site {
    /// Serves `root` from a free loopback port.
    pub fn serve(root: &Path) -> Self {
        Self::serve_with(root, &[])
    }

    /// Serves `root`, misbehaving.
    pub fn serve_with(root: &Path, faults: &[Fault]) -> Self {
        let root = root.canonicalize().expect("the site's directory exists");
        let (dir, port) = (scratch::dir_for("nginx"), Port::reserve());
        let mut site = Self { root, dir, port, lines: String::new(), running: None };
        site.start(faults);
        site
    }

    /// Serves `root` by lines of a manual for nginx's `server`.
    pub fn serve_by(root: &Path, lines: &str) -> Self {
        let root = root.canonicalize().expect("the site's directory exists");
        let (dir, port) = (scratch::dir_for("nginx"), Port::reserve());
        let mut site = Self { root, dir, port, lines: lines.to_owned(), running: None };
        site.start(&[]);
        site
    }

    /// The base address, with a final slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port.number())
    }

    /// The directory served.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts again on the same port with these faults; an empty list behaves well.
    pub fn restart(&mut self, faults: &[Fault]) {
        self.stop();
        self.start(faults);
    }

    /// Stops listening; connections are refused from now on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        crate::nginx::stop(&mut child);
    }

    /// All requests answered so far.
    ///
    /// nginx writes a request's line after its last byte, so a client may be ahead of the log. Its
    /// one worker does one thing at a time: when a request of ours has its line, those before it have theirs.
    pub fn requests(&self) -> Vec<Request> {
        let read = || std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        if self.running.is_some() {
            let marks = || read().lines().filter(|line| line.starts_with(MARK)).count();
            let before = marks();
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number())).expect("nginx listens");
            stream.write_all(format!("GET {MARK} HTTP/1.0\r\n\r\n").as_bytes()).expect("nginx reads");
            stream.read_to_end(&mut Vec::new()).expect("nginx answers");
            wait_for("nginx to write its log", || (marks() > before).then_some(()));
        }
        let parse = |line: &str| {
            let mut fields = line.split(' ');
            let (path, status, bytes) = (fields.next()?, fields.next()?, fields.next()?);
            Some(Request { path: path.to_owned(), status: status.parse().ok()?, bytes: bytes.parse().ok()? })
        };
        let log = read();
        let lines = log.lines().filter(|line| !line.starts_with(MARK));
        lines.map(|line| parse(line).unwrap_or_else(|| panic!("odd line in nginx's log: {line}"))).collect()
    }

    /// Whether somebody is connected since the last start: an answer that is never finished has no line in the log.
    pub fn is_connected(&self) -> bool {
        const ESTABLISHED: &str = "01";
        let local = format!("0100007F:{:04X}", self.port.number());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("procfs");
        table.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(&*local) && fields.nth(1) == Some(ESTABLISHED)
        })
    }

    fn start(&mut self, faults: &[Fault]) {
        let configuration = self.configuration(faults);
        self.running = Some(crate::nginx::start(self.dir.path(), &configuration, self.port.number()));
    }

    fn configuration(&self, faults: &[Fault]) -> String {
        let dir = self.dir.path().display();
        // Workers of a root master would become nobody and could not read a private directory.
        let user = if scratch::is_root() { "user root;\n" } else { "" };
        let mut locations = self.lines.clone();
        for fault in faults {
            let (path, action) = match fault {
                Fault::Status(path, status) => (path, format!("return {status};")),
                Fault::Html(path, text) => (path, format!("default_type text/html; return 200 '{text}';")),
                Fault::Rate(path, rate) => (path, format!("limit_rate {rate};")),
            };
            writeln!(locations, "    location ~ \"{path}\" {{ {action} }}").expect("a String takes all");
        }
        format!(
            "{user}daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nevents {{ worker_connections 512; }}\n\
             http {{\n  log_format counted '$uri $status $body_bytes_sent';\n  access_log {dir}/access.log counted;\n  \
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n  \
             uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n  types {{ application/json json; text/html html; }}\n  \
             default_type application/octet-stream;\n  server {{\n    listen 127.0.0.1:{port};\n    root {root};\n{locations}  }}\n}}\n",
            port = self.port.number(),
            root = self.root.display(),
        )
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
    }
}
