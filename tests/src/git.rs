//! Git repositories, and a forge that serves them: git's own smart HTTP (`git http-backend`)
//! behind nginx with TLS.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::command::{Run, exit_within};
use crate::lfs::LfsServer;
use crate::scratch::{self, PATIENCE, Port, need, wait_for};
use crate::tls::Authority;

/// One nginx and one FastCGI wrapper over a folder of bare repositories; gone on drop.
#[derive(Debug)]
pub struct GitHost {
    dir: tempfile::TempDir,
    port: Port,
    running: Vec<Child>,
    lfs: LfsServer,
}

/// The user and password of a host that asks.
pub const LOGIN: (&str, &str) = ("reader", "correct-horse");

/// A bare repository of a [`GitHost`].
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    url: String,
}

impl GitHost {
    /// Serves an empty folder at `https://localhost:PORT/`.
    ///
    /// # Panics
    /// If git, nginx, fcgiwrap or openssl is missing or does not do it.
    pub fn serve() -> Self {
        Self::start(false)
    }

    /// The same for those who have [`LOGIN`].
    ///
    /// # Panics
    /// As [`GitHost::serve`].
    pub fn private() -> Self {
        Self::start(true)
    }

    fn start(asks: bool) -> Self {
        let (dir, port) = (scratch::dir_for("git"), Port::reserve());
        let authority = Authority::make(dir.path());
        authority.issue("server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n");
        std::fs::create_dir(dir.path().join("repositories")).expect("own directory");
        let backend =
            Run::new(need("git", "git")).arg("--exec-path").ok().stdout.trim().to_owned() + "/git-http-backend";
        let root = dir.path().join("repositories");
        let lfs = LfsServer::start(&root, format!("https://localhost:{}", port.number()));
        let asks = asks.then(|| {
            let file = dir.path().join("htpasswd");
            let line = Run::new(need("htpasswd", "apache2-utils")).args(["-nbm", LOGIN.0, LOGIN.1]).ok().stdout;
            std::fs::write(&file, line.trim()).expect("own directory");
            format!("auth_basic git; auth_basic_user_file {};", file.display())
        });
        let text = configuration(dir.path(), port.number(), &backend, lfs.port(), &asks.unwrap_or_default());
        std::fs::write(dir.path().join("nginx.conf"), text).expect("own directory");
        let socket = dir.path().join("cgi.sock");
        let mut cgi = Command::new(need("fcgiwrap", "fcgiwrap"));
        cgi.args(["-c", "4", "-s"]).arg(format!("unix:{}", socket.display()));
        let mut host = Self { dir, port, running: vec![start(cgi)], lfs };
        wait_for("fcgiwrap to listen", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let mut nginx = Command::new(need("nginx", "nginx-light"));
        nginx.arg("-p").arg(host.dir.path()).arg("-c").arg(host.dir.path().join("nginx.conf"));
        nginx.arg("-e").arg(host.dir.path().join("error.log"));
        host.running.push(start(nginx));
        let number = host.port.number();
        wait_for("nginx to listen", || {
            let ended = host.running.iter_mut().any(|child| child.try_wait().expect("own child").is_some());
            let log = || std::fs::read_to_string(host.dir.path().join("error.log")).unwrap_or_default();
            assert!(!ended, "nginx ended: {}", log());
            TcpStream::connect((Ipv4Addr::LOCALHOST, number)).ok()
        });
        host
    }

    /// What `--allow-host` names.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port.number())
    }

    /// The authority's certificate: what `--ca-file` names.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A file of logins with this password for this host.
    pub fn logins(&self, password: &str) -> PathBuf {
        let text = json!({"auths": {self.name(): {"username": LOGIN.0, "password": password}}}).to_string();
        let path = self.dir.path().join("logins.json");
        std::fs::write(&path, text).expect("own directory");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
        path
    }

    /// Its Git LFS.
    pub fn lfs(&self) -> &LfsServer {
        &self.lfs
    }

    /// The folder of the repositories.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("repositories")
    }

    /// A new repository. Below `/moved/` the same ones are reached by a redirect.
    pub fn repository(&self, name: &str) -> Repository {
        let folder = self.root().join(format!("{name}.git"));
        let repository = Repository { folder, url: format!("https://{}/{name}.git", self.name()) };
        std::fs::create_dir(&repository.folder).expect("own directory");
        repository.git(["init", "--quiet", "--bare", "--initial-branch=main"]).ok();
        repository
    }
}

impl Drop for GitHost {
    fn drop(&mut self) {
        for child in &mut self.running {
            let pid = rustix::process::Pid::from_child(child);
            // It may have ended by itself. The group: fcgiwrap leaves its children alone.
            let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
            if exit_within(child, PATIENCE).is_none() {
                let _gone = child.kill();
                let _reaped = child.wait();
            }
        }
    }
}

impl Repository {
    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A git command on it, with nobody's configuration.
    pub fn git<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        Run::new(need("git", "git"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_DIR", &self.folder)
            .env("GIT_AUTHOR_NAME", "Alice")
            .env("GIT_AUTHOR_EMAIL", "alice@example.com")
            .env("GIT_COMMITTER_NAME", "Alice")
            .env("GIT_COMMITTER_EMAIL", "alice@example.com")
            .dir(&self.folder)
            .args(arguments)
    }

    /// Commits everything in `folder` as the tip of main; gives the commit's id.
    pub fn commit(&self, folder: &Path) -> String {
        self.git(["add", "-A", "-f", "."]).env("GIT_WORK_TREE", folder).dir(folder).ok();
        self.commit_index("a commit")
    }

    /// Puts a file into the store of Git LFS, as `git add` does where it is tracked; gives the pointer.
    pub fn lfs_pointer(&self, name: &str, content: &[u8]) -> String {
        need("git-lfs", "git-lfs");
        self.git(["lfs", "clean", "--", name]).stdin(content).ok().stdout
    }

    /// Commits the index; gives the commit's id.
    pub fn commit_index(&self, message: &str) -> String {
        let tree = self.git(["write-tree"]).ok().stdout;
        self.commit_tree(tree.trim(), message)
    }

    /// Commits a tree as the tip of main; gives the commit's id.
    pub fn commit_tree(&self, tree: &str, message: &str) -> String {
        let commit = self.git(["commit-tree", tree, "-m", message]).ok().stdout.trim().to_owned();
        self.git(["update-ref", "refs/heads/main", &commit]).ok();
        commit
    }

    /// Writes an object that git itself would not make; gives its id.
    pub fn object(&self, kind: &str, bytes: &[u8]) -> String {
        let ran = self.git(["hash-object", "-t", kind, "-w", "--literally", "--stdin"]).stdin(bytes).ok();
        ran.stdout.trim().to_owned()
    }

    /// Sets a tag, which may be there already.
    pub fn tag(&self, name: &str, commit: &str) {
        self.git(["tag", "-f", "-a", "-m", name, name, commit]).ok();
    }

    /// Sets a tag signed by an SSH key.
    pub fn signed_tag(&self, name: &str, commit: &str, key: &SigningKey) {
        let key = format!("user.signingKey={}", key.0.path().join("key").display());
        self.git(["-c", "gpg.format=ssh", "-c", &key, "tag", "-f", "-s", "-m", name, name, commit]).ok();
    }
}

/// An SSH key of somebody who signs tags.
#[derive(Debug)]
pub struct SigningKey(tempfile::TempDir);

impl SigningKey {
    /// A new one.
    pub fn new() -> Self {
        let dir = scratch::dir();
        let key = dir.path().join("key");
        Run::new(need("ssh-keygen", "openssh-client"))
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(&key)
            .ok();
        Self(dir)
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> String {
        let ran = Run::new(need("ssh-keygen", "openssh-client")).arg("-lf").arg(self.0.path().join("key.pub")).ok();
        ran.stdout.split(' ').nth(1).expect("size, fingerprint, …").to_owned()
    }

    /// A file of allowed signers that names it alone.
    pub fn allowed(&self, who: &str) -> PathBuf {
        let public = std::fs::read_to_string(self.0.path().join("key.pub")).expect("made with it");
        let file = self.0.path().join("allowed");
        std::fs::write(&file, format!("{who} {public}")).expect("own directory");
        file
    }
}

impl Default for SigningKey {
    fn default() -> Self {
        Self::new()
    }
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().to_string_lossy()))
}

fn configuration(dir: &Path, port: u16, backend: &str, lfs: u16, asks: &str) -> String {
    // Workers of a root master would become nobody and could not read a private directory.
    let user = if scratch::is_root() { "user root;\n" } else { "" };
    let dir = dir.display();
    format!(
        "{user}daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nevents {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n  \
         client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;\n  \
         uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n  server {{\n    listen 127.0.0.1:{port} ssl;\n    \
         server_name localhost; {asks}\n    ssl_certificate {dir}/server.pem;\n    ssl_certificate_key {dir}/server.key;\n    \
         location /moved/ {{ rewrite ^/moved/(.*)$ https://localhost:{port}/$1 redirect; }}\n    \
         location ~ /info/lfs/ {{ proxy_pass http://127.0.0.1:{lfs}; }}\n    \
         location / {{\n      fastcgi_pass unix:{dir}/cgi.sock;\n      fastcgi_param SCRIPT_FILENAME {backend};\n      \
         fastcgi_param GIT_PROJECT_ROOT {dir}/repositories;\n      fastcgi_param GIT_HTTP_EXPORT_ALL 1;\n      \
         fastcgi_param PATH_INFO $uri;\n      fastcgi_param QUERY_STRING $query_string;\n      \
         fastcgi_param REQUEST_METHOD $request_method;\n      fastcgi_param CONTENT_TYPE $content_type;\n      \
         fastcgi_param CONTENT_LENGTH $content_length;\n      fastcgi_param HTTP_GIT_PROTOCOL $http_git_protocol;\n      \
         fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;\n    }}\n  }}\n}}\n"
    )
}
