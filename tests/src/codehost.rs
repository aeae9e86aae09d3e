//! A code forge on this machine: real git over smart HTTP, and the parts of three REST APIs that
//! a signing server and a check in CI ask.
//!
//! No forge is packaged for Debian, so this is a double; what it answers follows GitHub's REST
//! API 2022-11-28, GitLab's v4 (18.5) and Gitea's v1 (1.22), each in a module of its own, with
//! their pagination, their way of finding a request by a commit, and their idea of a stale
//! review. The repository is a real bare one behind `git http-backend`; only the server itself
//! may move the protected branch, as at a real forge, by a real hook.
//!
//! People act through methods (`open`, `approve`, `merge`), which is what the web pages of a
//! forge are; programs act over HTTP.

mod gitea;
mod github;
mod gitlab;
mod http;
mod repo;
mod state;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::command::Run;
use crate::scratch::{self, need};

pub use repo::{Clone, Merge};
pub use state::{Comment, Status, Verdict};
use state::{Merged, Request, Review, State};

/// The repository's name.
pub const REPOSITORY: &str = "acme/mcp-registry";
/// The protected branch.
pub const BRANCH: &str = "main";
/// The token of the account that the signing server and CI use.
pub const BOT_TOKEN: &str = "bot-token-7f3a";

/// Which forge it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GitHub.
    Github,
    /// GitLab.
    Gitlab,
    /// Gitea and Forgejo.
    Gitea,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Github, Self::Gitlab, Self::Gitea];

    /// As configuration writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Gitea => "gitea",
        }
    }

    fn api(self) -> &'static str {
        match self {
            Self::Github => "api/v3",
            Self::Gitlab => "api/v4",
            Self::Gitea => "api/v1",
        }
    }
}

/// The forge; stops on drop.
#[derive(Debug)]
pub struct CodeHost {
    dir: tempfile::TempDir,
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    kind: Kind,
    root: PathBuf,
    port: u16,
    stopping: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repository(&self) -> PathBuf {
        self.root.join("git").join(format!("{REPOSITORY}.git"))
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A time of the forge's clock, as all three write it.
fn time(seconds: i64) -> String {
    let at = mcpfs_trust::time::Timestamp::from_unix(1_790_000_000 + seconds).expect("in this century");
    at.to_string().replace('Z', ".123Z")
}

impl CodeHost {
    /// An empty repository with one commit, protected, at a forge of this kind.
    ///
    /// # Panics
    /// If git is missing.
    pub fn new(kind: Kind) -> Self {
        let dir = scratch::dir_for("codehost");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free loopback port");
        let port = listener.local_addr().expect("bound").port();
        let root = dir.path().to_owned();
        let shared = Arc::new(Shared { kind, root, port, stopping: AtomicBool::new(false), state: Mutex::default() });
        shared.state().tokens.insert(BOT_TOKEN.to_owned(), "mcpfs-bot".to_owned());
        let bare = shared.repository();
        std::fs::create_dir_all(&bare).expect("own directory");
        Run::new(need("git", "git")).args(["init", "--quiet", "--bare", "-b", BRANCH]).arg(&bare).ok();
        for setting in [["http.receivepack", "true"], ["uploadpack.allowAnySHA1InWant", "false"]] {
            Run::new("git").arg("-C").arg(&bare).arg("config").args(setting).ok();
        }
        // Set by http-backend for whoever is logged in; the server's own pushes have none.
        let hook = format!(
            "#!/bin/sh\n[ \"$1\" != refs/heads/{BRANCH} ] || [ -z \"$REMOTE_USER\" ] || {{ echo 'GH006: Protected branch update failed'; exit 1; }}\n"
        );
        std::fs::create_dir_all(bare.join("hooks")).expect("own directory");
        std::fs::write(bare.join("hooks/update"), hook).expect("own directory");
        std::fs::set_permissions(bare.join("hooks/update"), PermissionsExt::from_mode(0o755)).expect("own file");
        let own = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopping.load(Ordering::SeqCst) {
                    return;
                }
                let own = Arc::clone(&own);
                // A client that hung up is no concern of a server.
                std::thread::spawn(move || drop(stream.and_then(|stream| http::serve(&own, stream))));
            }
        });
        let host = Self { dir, port, shared, acceptor: Some(acceptor) };
        host.push_past_review("README.md", "The registry.\n", "root@example.com", "Start");
        host
    }

    /// Which forge it is.
    pub fn kind(&self) -> Kind {
        self.shared.kind
    }

    /// Where it listens, on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where git fetches.
    pub fn git_url(&self) -> String {
        format!("http://127.0.0.1:{}/{REPOSITORY}.git", self.port)
    }

    /// Where programs ask.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}/{}", self.port, self.shared.kind.api())
    }

    /// The bare repository.
    pub fn repository(&self) -> PathBuf {
        self.shared.repository()
    }

    /// A directory of the forge's own, for files of a test.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A working copy of `login`, who writes as `<login>@example.com`.
    pub fn clone_as(&self, login: &str) -> Clone {
        let token = format!("token-of-{login}");
        self.shared.state().tokens.insert(token.clone(), login.to_owned());
        self.has_address(login, &format!("{login}@example.com"));
        Clone::new(&self.git_url(), login, &token)
    }

    /// Opens a request for a branch that was pushed; gives its number.
    pub fn open(&self, author: &str, branch: &str, title: &str) -> u64 {
        let head = self.commit(&format!("refs/heads/{branch}"));
        let (paths, base) = (self.changed(&head), self.shared.base(&head));
        let mut state = self.shared.state();
        let (number, at) = (state.requests.len() as u64 + 1, state.tick());
        state.requests.push(Request {
            number,
            title: title.to_owned(),
            author: author.to_owned(),
            branch: branch.to_owned(),
            head: head.clone(),
            base,
            pushes: vec![(head.clone(), at)],
            merged: None,
            reviews: Vec::new(),
            comments: Vec::new(),
            paths,
        });
        drop(state);
        self.keep_head(number, &head);
        number
    }

    /// A review of the present head.
    pub fn review(&self, number: u64, user: &str, verdict: Verdict) {
        let mut state = self.shared.state();
        let (id, at) = (state.id(), state.tick());
        let request = state.request(number);
        let commit = request.head.clone();
        request.reviews.push(Review { id, user: user.to_owned(), verdict, commit, at, stale: false, dismissed: false });
    }

    /// An approval of the present head.
    pub fn approve(&self, number: u64, user: &str) {
        self.review(number, user, Verdict::Approve);
    }

    /// Somebody takes a user's reviews off the record.
    pub fn dismiss(&self, number: u64, user: &str) {
        let mut state = self.shared.state();
        for review in state.request(number).reviews.iter_mut().filter(|review| review.user == user) {
            review.dismissed = true;
        }
    }

    /// The comments on a request.
    pub fn comments(&self, number: u64) -> Vec<Comment> {
        self.shared.state().request(number).comments.clone()
    }

    /// What was shown beside commits, oldest first.
    pub fn statuses(&self) -> Vec<Status> {
        self.shared.state().statuses.clone()
    }

    /// Whether the branch is protected, as the API says it.
    pub fn set_protected(&self, protected: bool) {
        self.shared.state().unprotected = !protected;
    }

    /// GitLab's "remove all approvals when commits are added", and whether it says when one was given.
    pub fn set_approvals(&self, reset_on_push: bool, approved_at: bool) {
        let mut state = self.shared.state();
        state.reset_on_push = reset_on_push;
        state.without_approved_at = !approved_at;
    }

    /// An address that an account has at the forge, as its owner's settings say.
    pub fn has_address(&self, login: &str, address: &str) {
        self.shared.state().accounts.insert(address.to_lowercase(), login.to_owned());
    }

    /// GitLab's setting says that approvals go at a push, and they stay.
    pub fn keep_approvals(&self) {
        self.shared.state().keeps_approvals = true;
    }

    /// From now on the API answers with this status and these headers (lines), or works again.
    pub fn set_fault(&self, fault: Option<(u16, &'static str)>) {
        self.shared.state().fault = fault;
    }

    /// The most items on a page, whatever is asked for.
    pub fn set_page_limit(&self, limit: usize) {
        self.shared.state().page_limit = Some(limit);
    }

    /// What the API was asked, oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state().asked.clone()
    }

    /// Sends the webhook of a push, signed with `secret`; gives the status that came back.
    pub fn send_webhook(&self, to: &str, secret: &str) -> u16 {
        let url = format!("{to}/hooks/{}", self.shared.kind.word());
        let body = serde_json::json!({"ref": format!("refs/heads/{BRANCH}"), "after": self.tip(),
            "repository": {"full_name": REPOSITORY, "clone_url": self.git_url()}})
        .to_string();
        http::post(&url, &self.webhook_headers(secret, &body), &body)
    }

    /// The headers of a webhook with this body.
    pub fn webhook_headers(&self, secret: &str, body: &str) -> Vec<String> {
        // By OpenSSL: an opinion independent of ours.
        let tag = || {
            let ran = Run::new(need("openssl", "openssl")).args(["dgst", "-sha256", "-hmac", secret]).stdin(body).ok();
            ran.stdout.trim().rsplit(' ').next().expect("a digest").to_owned()
        };
        match self.shared.kind {
            Kind::Github => vec!["X-GitHub-Event: push".to_owned(), format!("X-Hub-Signature-256: sha256={}", tag())],
            Kind::Gitlab => vec!["X-Gitlab-Event: Push Hook".to_owned(), format!("X-Gitlab-Token: {secret}")],
            Kind::Gitea => vec!["X-Gitea-Event: push".to_owned(), format!("X-Gitea-Signature: {}", tag())],
        }
    }
}

impl Drop for CodeHost {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor does not panic");
        }
    }
}
