//! Real proxies between a host and its registry: one that forwards (tinyproxy), with or without a
//! login, and one that keeps what passed (nginx).

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::scratch::{self, Port, need, wait_for};

/// A forward proxy; gone on drop.
#[derive(Debug)]
pub struct ForwardProxy {
    dir: tempfile::TempDir,
    port: Port,
    running: Child,
}

impl ForwardProxy {
    /// One that serves everybody of this machine.
    pub fn open() -> Self {
        Self::start("")
    }

    /// One that serves whoever knows this.
    pub fn for_user(user: &str, password: &str) -> Self {
        Self::start(&format!("BasicAuth {user} {password}\n"))
    }

    fn start(more: &str) -> Self {
        let (dir, port) = (scratch::dir_for("tinyproxy"), Port::reserve());
        let conf = dir.path().join("tinyproxy.conf");
        let lines = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nLogLevel Connect\nLogFile \"{}\"\n{more}",
            port.number(),
            dir.path().join("log").display()
        );
        std::fs::write(&conf, lines).expect("own directory");
        let mut running = Command::new(need("tinyproxy", "tinyproxy-bin"))
            .arg("-d")
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start tinyproxy");
        wait_for("tinyproxy to listen", || {
            assert!(running.try_wait().expect("own child").is_none(), "tinyproxy ended");
            TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).ok()
        });
        Self { dir, port, running }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// What it wrote about the requests that it got.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

/// An nginx that keeps every answer of another server for an hour and asks anew only when told to; gone on drop.
#[derive(Debug)]
pub struct CachingProxy {
    dir: tempfile::TempDir,
    port: Port,
    running: Child,
}

impl CachingProxy {
    /// In front of `origin`, an address with a final slash.
    pub fn of(origin: &str) -> Self {
        let (dir, port) = (scratch::dir_for("caching"), Port::reserve());
        let user = if scratch::is_root() { "user root;\n" } else { "" };
        let configuration = format!(
            "{user}daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nevents {{ worker_connections 512; }}\n\
             http {{\n  log_format counted '$uri $upstream_cache_status';\n  access_log {dir}/access.log counted;\n  \
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n  \
             uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n  \
             proxy_cache_path {dir}/kept keys_zone=kept:1m;\n  server {{\n    listen 127.0.0.1:{port};\n    \
             location / {{\n      proxy_pass {origin};\n      proxy_cache kept;\n      proxy_cache_valid 200 1h;\n      \
             proxy_ignore_headers Cache-Control Expires;\n      proxy_cache_bypass $http_cache_control;\n    }}\n  }}\n}}\n",
            dir = dir.path().display(),
            port = port.number(),
        );
        let running = crate::nginx::start(dir.path(), &configuration, port.number());
        Self { dir, port, running }
    }

    /// The base address, with a final slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port.number())
    }

    /// Every path asked for, and where its answer came from: `MISS`, `HIT`, `BYPASS`.
    pub fn answered(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let parse = |line: &str| line.split_once(' ').map(|(path, how)| (path.to_owned(), how.to_owned()));
        log.lines().filter_map(parse).collect()
    }
}

impl Drop for CachingProxy {
    fn drop(&mut self) {
        crate::nginx::stop(&mut self.running);
    }
}
