//! What is left of a registry whose site is lost: git, artefacts and the signing log, for as many
//! releases as are wanted. Made with the formats' own types and the demo key, since ten thousand
//! real releases would take longer than what they are made for.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::key::{Algorithm, PublicKey};
use mcpfs_trust::release::{RELEASE_TYPE, Release};
use mcpfs_trust::site as path;
use mcpfs_trust::statement::Statement;
use mcpfs_trust::tree::{Tree, TreeBuilder};
use serde_json::json;

use crate::command::Run;
use crate::quick::Quick;
use crate::scratch::need;

/// Git, artefacts and log; gone on drop.
#[derive(Debug)]
pub struct History {
    quick: Quick,
}

const ISSUED: &str = "2026-05-01T06:00:00Z";

impl History {
    /// So many servers with so many versions each.
    pub fn new(servers: usize, versions: usize) -> Self {
        let history = Self { quick: Quick::named("demo/history") };
        for folder in ["log", "servers"] {
            std::fs::create_dir_all(history.path(folder)).expect("own directory");
        }
        let git = |args: &[&str]| {
            let run = Run::new(need("git", "git")).dir(&history.path("servers"));
            run.args(["-c", "user.name=A", "-c", "user.email=a@example.com"]).args(args).ok();
        };
        git(&["init", "--quiet", "."]);
        let key = demo_key("release");
        let public = PublicKey::from_bytes(Algorithm::Ed25519, key.verifying_key().as_bytes()).expect("a key");
        let (mut head, mut before) = (0, None);
        for version in 0..versions {
            for server in 0..servers {
                head += 1;
                let row = history.release(&key, &public, &format!("server-{server:04}"), &format!("1.{version}.0"));
                before = Some(history.segment(head, before, row));
            }
            git(&["add", "."]);
            git(&["commit", "--quiet", "-m", &format!("versions 1.{version}.0")]);
        }
        history
    }

    /// A path of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.quick.path(name)
    }

    /// The trust root of whoever is to believe the site.
    pub fn trust(&self) -> PathBuf {
        self.quick.trust()
    }

    /// The command that makes the site again.
    pub fn rebuild(&self, site: &Path) -> Run {
        let run = self.quick.publishing("rebuild", &site.display().to_string()).arg("--git").arg(self.path("servers"));
        run.arg("--artefacts").arg(self.path("artefacts")).arg("--log").arg(self.path("log"))
    }

    /// Artefact, recipe and the row of one release.
    fn release(&self, key: &SigningKey, public: &PublicKey, name: &str, version: &str) -> serde_json::Value {
        let own = format!("{name} {version}\n");
        let files = [("same.txt", "the same in every release\n"), ("server.txt", own.as_str())];
        let (artefact, tree) = (tar(&files), tree(&files));
        let sha256 = Digest::of(&artefact);
        let file = self.path("artefacts").join(format!("{name}-{version}.tar"));
        std::fs::write(&file, &artefact).expect("own directory");
        let url = format!("https://artefacts.example.com/{name}-{version}.tar");
        let recipe = format!(
            "name: {name}\nversion: {version}\nmaintainer: a@example.com\ndescription: One of many.\nscope: [read:x]\n\
             data_classification: public\nlawful_basis: contract\nreviewed_at: 2026-04-15\nreviewers: [b@example.com]\n\
             artefact:\n  url: {url}\n  sha256: {sha256}\n"
        );
        std::fs::write(self.path("servers").join(format!("{name}.yaml")), &recipe).expect("own directory");
        let release: Release = serde_json::from_value(json!({
            "registry": "demo/history", "name": name, "version": version, "maintainer": "a@example.com",
            "description": "One of many.", "data_classification": "public", "lawful_basis": "contract",
            "scope": ["read:x"], "reviewed_at": "2026-04-15", "reviewers": ["b@example.com"],
            "artefact": {"platform": "any", "url": url, "sha256": sha256, "size": artefact.len(),
                         "tree": tree.summary()},
            "issued": ISSUED,
        }))
        .expect("a release");
        let payload = Statement { subject: release.subjects(), predicate: release }.encode(RELEASE_TYPE);
        let envelope = Envelope::new(payload).expect("a short statement");
        let signature = key.sign(&envelope.signed_bytes()).to_bytes();
        json!({
            "time": ISSUED, "action": "release", "request": format!("servers/{name}.yaml"),
            "name": name, "version": version, "statement": envelope.statement(), "issued": ISSUED,
            "signatures": [{"keyid": public.id(), "sig": STANDARD.encode(signature)}],
            "artefacts": [sha256], "trees": [tree.summary().sha256], "recipe": Digest::of(recipe.as_bytes()),
        })
    }

    /// Writes the row as the segment of a head; gives digest of head and segment.
    fn segment(&self, version: u64, before: Option<(Digest, Digest)>, mut row: serde_json::Value) -> (Digest, Digest) {
        row["head_version"] = json!(version);
        if let Some((head, segment)) = before {
            (row["previous_head"], row["previous"]) = (json!(head), json!(segment));
        }
        let (head, bytes) = (Digest::of(&version.to_le_bytes()), format!("{row}\n"));
        std::fs::write(self.path(&path::log(version, &head)), &bytes).expect("own directory");
        (head, Digest::of(bytes.as_bytes()))
    }
}

/// The signer's demo key: its seed is the digest of a sentence that everybody knows.
fn demo_key(name: &str) -> SigningKey {
    let seed = Digest::of(format!("mcpfs demo key, worthless, known to everybody: {name}").as_bytes());
    SigningKey::from_bytes(seed.as_bytes())
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut builder = TreeBuilder::new();
    for (name, content) in files {
        builder.file(name, false, content.len() as u64, Digest::of(content.as_bytes())).expect("a tree");
    }
    builder.build().expect("a tree")
}

/// The plainest archive: headers of ustar and contents.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\u{0}00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
