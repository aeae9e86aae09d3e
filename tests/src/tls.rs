//! A static web server (nginx) behind TLS, with certificates of a private authority.
//!
//! What only exists with TLS: an authority that the system does not know, clients with a
//! certificate, and tokens, which are never sent in the clear.

use std::path::{Path, PathBuf};
use std::process::Child;

use crate::command::Run;
use crate::nginx;
use crate::scratch::{self, Port, need};

/// What the server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// A certificate of the same authority.
    Certificate,
    /// This bearer token.
    Token(&'static str),
}

/// One nginx over one directory; gone on drop.
#[derive(Debug)]
pub struct TlsSite {
    dir: tempfile::TempDir,
    root: PathBuf,
    port: Port,
    running: Child,
}

impl TlsSite {
    /// Serves `root` at `https://localhost:PORT/`.
    ///
    /// # Panics
    /// If openssl or nginx is missing or does not do it.
    pub fn serve(root: &Path, asks: Asks) -> Self {
        let root = root.canonicalize().expect("the site's directory exists");
        let (dir, port) = (scratch::dir_for("tls"), Port::reserve());
        let authority = Authority::make(dir.path());
        authority.issue("server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n");
        authority.issue("client", "extendedKeyUsage=clientAuth\n");
        let configuration = configuration(dir.path(), &root, port.number(), asks);
        let running = nginx::start(dir.path(), &configuration, port.number());
        Self { dir, root, port, running }
    }

    /// Starts again on the same port, and asks this.
    pub fn restart(&mut self, asks: Asks) {
        nginx::stop(&mut self.running);
        let configuration = configuration(self.dir.path(), &self.root, self.port.number(), asks);
        self.running = nginx::start(self.dir.path(), &configuration, self.port.number());
    }

    /// The base address, with a final slash.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/", self.port.number())
    }

    /// The authority's certificate: what a host's `registry.ca_file` names.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A client's certificate and key in one file of mode 0600.
    pub fn client(&self) -> PathBuf {
        let both = self.dir.path().join("client-both.pem");
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).expect("made with the site");
        std::fs::write(&both, read("client.pem") + &read("client.key")).expect("own directory");
        std::fs::set_permissions(&both, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
        both
    }

    /// The protocols in which requests were answered.
    pub fn protocols(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        log.lines().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect()
    }

    /// How many requests for objects were answered with content.
    pub fn objects_served(&self) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with("/objects/") && line.ends_with(" 200")).count()
    }
}

impl Drop for TlsSite {
    fn drop(&mut self) {
        nginx::stop(&mut self.running);
    }
}

fn openssl(dir: &Path) -> Run {
    Run::new(need("openssl", "openssl")).dir(dir)
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// A private certificate authority; `ca.pem` is its certificate.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes one in `dir`.
    pub fn make(dir: &Path) -> Self {
        openssl(dir)
            .args([
                "req",
                "-x509",
                "-days",
                "2",
                "-subj",
                "/CN=private authority",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
            ])
            .args(["-addext", "keyUsage=critical,keyCertSign"])
            .args(KEY)
            .ok();
        Self { dir: dir.to_owned() }
    }

    /// Makes `<name>.pem` and `<name>.key` beside it, with these X.509 extensions.
    pub fn issue(&self, name: &str, extensions: &str) {
        let file = |ending: &str| format!("{name}.{ending}");
        let extensions = format!("basicConstraints=CA:FALSE\n{extensions}");
        std::fs::write(self.dir.join(file("ext")), extensions).expect("own directory");
        let subject = format!("/CN={name}");
        openssl(&self.dir)
            .args(["req", "-subj", &subject, "-keyout", &file("key"), "-out", &file("csr")])
            .args(KEY)
            .ok();
        openssl(&self.dir)
            .args(["x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"])
            .args(["-in", &file("csr"), "-out", &file("pem"), "-extfile", &file("ext")])
            .ok();
    }
}

fn configuration(dir: &Path, root: &Path, port: u16, asks: Asks) -> String {
    // Workers of a root master would become nobody and could not read a private directory.
    let user = if scratch::is_root() { "user root;\n" } else { "" };
    let (dir, root) = (dir.display(), root.display());
    let asks = match asks {
        Asks::Nothing => String::new(),
        Asks::Certificate => format!("ssl_client_certificate {dir}/ca.pem; ssl_verify_client on;"),
        Asks::Token(token) => format!("if ($http_authorization != \"Bearer {token}\") {{ return 401; }}"),
    };
    format!(
        "{user}daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nevents {{ worker_connections 512; }}\n\
         http {{\n  log_format counted '$uri $server_protocol $status';\n  access_log {dir}/access.log counted;\n  \
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n  \
         uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n  types {{ application/json json; }}\n  \
         default_type application/octet-stream;\n  server {{\n    listen 127.0.0.1:{port} ssl http2;\n    \
         server_name localhost;\n    ssl_certificate {dir}/server.pem;\n    ssl_certificate_key {dir}/server.key;\n    \
         {asks}\n    root {root};\n  }}\n}}\n"
    )
}
