//! Container registries: Debian's docker-registry, images made by umoci and moved by skopeo.
//!
//! Tokens are given out by a little service of ours over TLS, since Debian packages none; the
//! registry itself verifies them with the service's certificate, as it would anybody's.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::command::{Run, exit_within};
use crate::scratch::{self, PATIENCE, Port, need, wait_for};
use crate::tls::Authority;

/// The user and password of registries that ask.
pub const USER: &str = "reader";
/// See [`USER`].
pub const PASSWORD: &str = "correct-horse";

/// How a registry is reached and what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without TLS, for everybody.
    Plain,
    /// TLS with a private authority, for everybody.
    Tls,
    /// TLS and a password.
    Password,
    /// TLS and tokens from a service that wants the password.
    Token,
}

/// One docker-registry; gone on drop.
#[derive(Debug)]
pub struct OciRegistry {
    dir: tempfile::TempDir,
    port: Port,
    kind: Kind,
    running: Child,
    tokens: Option<TokenService>,
}

impl OciRegistry {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// If docker-registry is missing or does not start.
    pub fn start(kind: Kind) -> Self {
        let (dir, port) = (scratch::dir_for("oci"), Port::reserve());
        let authority = Authority::make(dir.path());
        authority.issue("server", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n");
        authority.issue("token", "extendedKeyUsage=codeSigning\n");
        let tokens = (kind == Kind::Token).then(|| TokenService::start(dir.path()));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = json!({
            "version": "0.1", "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": {"addr": format!("127.0.0.1:{}", port.number())},
        });
        if kind != Kind::Plain {
            config["http"]["tls"] = json!({"certificate": path("server.pem"), "key": path("server.key")});
        }
        if kind == Kind::Password {
            // bcrypt is the only form it takes.
            let line = Run::new(need("htpasswd", "apache2-utils")).args(["-nbB", USER, PASSWORD]).ok().stdout;
            std::fs::write(dir.path().join("htpasswd"), line.trim()).expect("own directory");
            config["auth"] = json!({"htpasswd": {"realm": "tests", "path": path("htpasswd")}});
        }
        if let Some(tokens) = &tokens {
            config["auth"] = json!({"token": {"realm": tokens.url(), "service": "tests", "issuer": "tests",
                                              "rootcertbundle": path("token.pem")}});
        }
        // JSON is YAML.
        std::fs::write(dir.path().join("config.yml"), config.to_string()).expect("own directory");
        let log = std::fs::File::create(dir.path().join("registry.log")).expect("own directory");
        let running = Command::new(need("docker-registry", "docker-registry"))
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("own file"))
            .stderr(log)
            .spawn()
            .expect("cannot start docker-registry");
        let mut registry = Self { dir, port, kind, running, tokens };
        wait_for("docker-registry to listen", || {
            let ended = registry.running.try_wait().expect("own child");
            assert!(ended.is_none(), "docker-registry ended: {}", registry.log());
            TcpStream::connect((Ipv4Addr::LOCALHOST, registry.port.number())).ok()
        });
        registry
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("registry.log")).unwrap_or_default()
    }

    /// `localhost:PORT`
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port.number())
    }

    /// Options of the signer that allow this registry, and its token service if it has one.
    pub fn options(&self) -> Vec<String> {
        let scheme = if self.kind == Kind::Plain { "http://" } else { "" };
        let mut options = vec![format!("--allow-host={scheme}{}", self.host())];
        options.push(format!("--ca-file={}", self.dir.path().join("ca.pem").display()));
        options.extend(self.tokens.as_ref().map(|tokens| format!("--allow-host=http://{}", tokens.host())));
        options
    }

    /// A file of logins with `password` for whoever asks for one here.
    pub fn logins(&self, password: &str) -> PathBuf {
        let host = self.tokens.as_ref().map_or_else(|| self.host(), TokenService::host);
        let auth = STANDARD.encode(format!("{USER}:{password}"));
        let text = json!({"auths": {host: {"auth": auth}}}).to_string();
        let path = self.dir.path().join("logins.json");
        std::fs::write(&path, text).expect("own directory");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
        path
    }

    /// Copies an image of `layout` here as `name:tag`; gives the digest of its manifest.
    pub fn push(&self, layout: &Layout, name: &str, tag: &str, compress: Compress) -> String {
        let to = format!("docker://{}/{name}:{tag}", self.host());
        let mut run = Run::new(need("skopeo", "skopeo")).arg("copy").arg("--dest-cert-dir").arg(self.certificates());
        run = match self.kind {
            Kind::Plain => run.arg("--dest-tls-verify=false"),
            Kind::Tls => run,
            Kind::Password | Kind::Token => run.arg(format!("--dest-creds={USER}:{PASSWORD}")),
        };
        let word = if compress == Compress::Zstd { "zstd" } else { "gzip" };
        let digest = self.dir.path().join("digest");
        run.args(["--dest-compress-format", word, "--format", "oci", "--insecure-policy"])
            .arg("--digestfile")
            .arg(&digest)
            .arg(format!("oci:{}:{tag}", layout.path().display()))
            .arg(to)
            .ok();
        let text = std::fs::read_to_string(digest).expect("skopeo wrote it");
        text.trim().strip_prefix("sha256:").expect("a sha256 digest").to_owned()
    }

    /// Copies what is in `layout` here without packing it anew; gives the digest of its manifest.
    pub fn push_as_is(&self, layout: &Layout, name: &str, tag: &str) -> String {
        let digest = self.dir.path().join("digest");
        Run::new(need("skopeo", "skopeo"))
            .args(["copy", "--dest-tls-verify=false", "--preserve-digests", "--insecure-policy", "--digestfile"])
            .arg(&digest)
            .arg(format!("oci:{}:{tag}", layout.path().display()))
            .arg(format!("docker://{}/{name}:{tag}", self.host()))
            .ok();
        let text = std::fs::read_to_string(digest).expect("skopeo wrote it");
        text.trim().strip_prefix("sha256:").expect("a sha256 digest").to_owned()
    }

    /// A directory with the authority's certificate alone, as skopeo wants it.
    fn certificates(&self) -> PathBuf {
        let dir = self.dir.path().join("certs");
        std::fs::create_dir_all(&dir).expect("own directory");
        std::fs::copy(self.dir.path().join("ca.pem"), dir.join("ca.crt")).expect("own directory");
        dir
    }
}

impl Drop for OciRegistry {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.running);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if exit_within(&mut self.running, PATIENCE).is_none() {
            let _ = self.running.kill();
            let _ = self.running.wait();
        }
    }
}

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

/// An OCI layout of umoci with one image under a tag.
#[derive(Debug)]
pub struct Layout {
    dir: tempfile::TempDir,
    tag: String,
}

impl Layout {
    /// A new image `tag` without layers.
    pub fn new(tag: &str) -> Self {
        let layout = Self { dir: scratch::dir(), tag: tag.to_owned() };
        layout.umoci(&["init", "--layout"]).arg(layout.path()).ok();
        layout.umoci(&["new", "--image"]).arg(layout.image()).ok();
        layout
    }

    /// Adds a layer with what `change` makes of the root file system so far.
    pub fn layer(&self, change: impl FnOnce(&Path)) -> &Self {
        let bundle = scratch::dir();
        let into = bundle.path().join("bundle");
        self.umoci(&["unpack", "--rootless", "--image"]).arg(self.image()).arg(&into).ok();
        change(&into.join("rootfs"));
        self.umoci(&["repack", "--image"]).arg(self.image()).arg(&into).ok();
        self
    }

    /// Sets the config: options of `umoci config`.
    pub fn config(&self, options: &[&str]) -> &Self {
        self.umoci(&["config", "--image"]).arg(self.image()).args(options).ok();
        self
    }

    /// Puts an artifact in the image's place: one file as the layer, and the empty config. Gives the
    /// digest of its manifest.
    pub fn artifact(&self, file: &Path, media_type: &str) -> String {
        let blob = |bytes: &[u8]| {
            let sha256 = mcpfs_trust::digest::Digest::of(bytes).to_string();
            std::fs::write(self.path().join("blobs/sha256").join(&sha256), bytes).expect("own directory");
            json!({"digest": format!("sha256:{sha256}"), "size": bytes.len()})
        };
        let typed = |mut part: Value, kind: &str| {
            part["mediaType"] = json!(kind);
            part
        };
        let config = typed(blob(b"{}"), "application/vnd.oci.empty.v1+json");
        let layer = typed(blob(&std::fs::read(file).expect("the artifact's file")), media_type);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "artifactType": media_type, "config": config,
                              "layers": [layer]});
        let mut listed = typed(blob(manifest.to_string().as_bytes()), kind);
        let digest = listed["digest"].as_str().expect("just written").trim_start_matches("sha256:").to_owned();
        listed["annotations"] = json!({"org.opencontainers.image.ref.name": self.tag});
        let index = json!({"schemaVersion": 2, "manifests": [listed]});
        std::fs::write(self.path().join("index.json"), index.to_string()).expect("own directory");
        digest
    }

    /// The root file system as umoci unpacks it: another opinion on how layers cover each other.
    pub fn unpacked(&self, into: &Path) -> PathBuf {
        let bundle = into.join("umoci");
        self.umoci(&["unpack", "--rootless", "--image"]).arg(self.image()).arg(&bundle).ok();
        bundle.join("rootfs")
    }

    /// The layout's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn image(&self) -> String {
        format!("{}:{}", self.path().display(), self.tag)
    }

    fn umoci(&self, args: &[&str]) -> Run {
        Run::new(need("umoci", "umoci")).args(args)
    }
}

/// Copies a program and the libraries it needs into `root`, where they lie on this machine.
pub fn install(root: &Path, program: &Path) {
    let ran = Run::new(need("ldd", "libc-bin")).arg(program).ok();
    let libraries = ran.stdout.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.iter().find(|word| word.starts_with('/')).map(PathBuf::from)
    });
    for file in libraries.chain([program.to_owned()]) {
        let to = root.join(file.strip_prefix("/").expect("absolute"));
        std::fs::create_dir_all(to.parent().expect("below root")).expect("own directory");
        std::fs::copy(&file, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// An image of Node and of a server in `tree`, whose `main` it starts from a folder of its own.
pub fn node_image(tree: &Path, main: &str, version: &str) -> Layout {
    let layout = Layout::new(version);
    layout.layer(|root| {
        install(root, &need("node", "nodejs").canonicalize().expect("just found"));
        // As distributions have it: a link that the next layer's path leads through.
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).expect("own directory");
    });
    layout.layer(|root| {
        std::fs::create_dir_all(root.join("usr/src")).expect("own directory");
        scratch::copy_dir(tree, &root.join("usr/src/app"));
    });
    layout.config(&[
        "--config.cmd=node",
        &format!("--config.cmd={main}"),
        "--config.cmd=stdio",
        "--config.workingdir=/usr/src/app",
        "--config.env=PATH=/usr/local/bin:/usr/bin:/bin",
        "--config.env=NODE_ENV=production",
        "--config.user=node",
        "--config.label=org.opencontainers.image.description=A server in an image.",
        "--config.label=org.opencontainers.image.licenses=MIT",
    ]);
    layout
}

/// Gives out tokens to who has the password; stops on drop.
#[derive(Debug)]
struct TokenService {
    port: u16,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl TokenService {
    /// Signs with `token.key` in `dir`, whose certificate the registry has.
    fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free loopback port");
        let port = listener.local_addr().expect("bound").port();
        let stopping = Arc::new(AtomicBool::new(false));
        let (own, dir) = (Arc::clone(&stopping), dir.to_owned());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.load(Ordering::SeqCst) {
                    return;
                }
                // A client that hung up is not this service's concern.
                drop(stream.and_then(|stream| answer(&stream, &dir)));
            }
        });
        Self { port, stopping, acceptor: Some(acceptor) }
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    fn url(&self) -> String {
        format!("http://{}/token", self.host())
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}

fn answer(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    let lines: Vec<String> = BufReader::new(stream.try_clone()?)
        .lines()
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .collect();
    let wanted = format!("authorization: basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}"))).to_lowercase();
    let known = lines.iter().any(|line| line.to_lowercase() == wanted);
    let scope = lines.first().and_then(|line| scope_of(line));
    let (head, body) = match (known, scope) {
        (true, Some(scope)) => ("200 OK", json!({"token": token(dir, &scope)}).to_string()),
        _ => ("401 Unauthorized", String::new()),
    };
    write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// `repository:NAME:ACTIONS` of a request line.
fn scope_of(line: &str) -> Option<String> {
    let query = line.split(' ').nth(1)?.split_once('?')?.1;
    let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope="))?;
    Some(scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
}

/// A signed token (RFC 7519) for one scope, with the certificate that the registry trusts.
fn token(dir: &Path, scope: &str) -> String {
    let parts: Vec<&str> = scope.splitn(3, ':').collect();
    let [kind, name, actions] = parts.as_slice() else { return String::new() };
    let certificate = Run::new(need("openssl", "openssl"))
        .args(["x509", "-outform", "DER", "-in"])
        .arg(dir.join("token.pem"))
        .ok()
        .stdout_bytes;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(certificate)]});
    let claims = json!({
        "iss": "tests", "sub": USER, "aud": "tests", "exp": now + 600, "nbf": now - 60, "iat": now, "jti": "1",
        "access": [{"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}],
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let der = Run::new(need("openssl", "openssl"))
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("token.key"))
        .stdin(signed.clone())
        .ok()
        .stdout_bytes;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(raw_signature(&der)))
}

/// Both numbers of an ECDSA signature in DER, 32 bytes each.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut at = 2;
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
        at += 2 + length;
    }
    raw
}
