//! A server's author: a folder with artefacts and recipes, and the commands that are typed there.

use std::path::{Path, PathBuf};

use crate::binaries::bin;
use crate::command::Run;
use crate::fixture::sha256_of;
use crate::scratch::{self, is_root, need};

/// An author's folder; gone on drop.
#[derive(Debug)]
pub struct Author {
    dir: tempfile::TempDir,
    /// Whether commands run as nobody.
    ordinary: bool,
}

/// Becomes nobody where /dev/fuse is for everybody.
const MOUNTING: &str = r#"
dev=$1; shift
mount -t tmpfs -o mode=755,dev none "$dev"
mknod -m 666 "$dev/fuse" c 10 229
mount --bind "$dev/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

/// The user and group that an ordinary author has when root runs the tests.
const NOBODY: u32 = 65_534;

impl Author {
    /// Whoever runs the tests.
    pub fn new() -> Self {
        Self::make(false)
    }

    /// Root and an ordinary user, or whoever else runs the tests.
    pub fn each() -> Vec<Self> {
        if is_root() { vec![Self::make(false), Self::make(true)] } else { vec![Self::make(false)] }
    }

    fn make(ordinary: bool) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let author = Self { dir: scratch::dir(), ordinary };
        for name in ["bin", "servers", "tmp"] {
            std::fs::create_dir(author.path(name)).expect("own directory");
        }
        if ordinary {
            // The repository may be closed to others.
            for program in ["mcpfs", "mcpfs-signer"] {
                Run::new("cp").arg(bin(program)).arg(author.path("bin")).ok();
            }
            std::fs::set_permissions(author.path(""), PermissionsExt::from_mode(0o755)).expect("own directory");
            std::os::unix::fs::chown(author.path("tmp"), Some(NOBODY), Some(NOBODY)).expect("root");
            std::os::unix::fs::chown(author.path(""), Some(NOBODY), Some(NOBODY)).expect("root");
            std::os::unix::fs::chown(author.path("servers"), Some(NOBODY), Some(NOBODY)).expect("root");
        }
        author
    }

    /// A path in the folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Whether commands run as an ordinary user while root runs the tests.
    pub fn is_ordinary(&self) -> bool {
        self.ordinary
    }

    /// `NAME.tar` of a tree.
    pub fn bundle(&self, name: &str, tree: &Path) {
        Run::new(bin("mcpfs-signer")).arg("bundle").arg(tree).arg("--out").arg(self.path(&format!("{name}.tar"))).ok();
    }

    /// `servers/NAME.yaml` for `NAME.tar`, with this launch.
    pub fn recipe(&self, name: &str, version: &str, launch: &str) {
        let text = format!(
            "name: {name}\nversion: {version}\nmaintainer: platform@example.com\ndescription: A server for tests.\n\
             data_classification: internal\nreviewed_at: 2026-04-15\nreviewers: [security@example.com]\n\
             artefact: {{url: \"file:{name}.tar\", sha256: {}}}\nlaunch: {launch}\n",
            sha256_of(&self.path(&format!("{name}.tar"))),
        );
        std::fs::write(self.path(&format!("servers/{name}.yaml")), text).expect("own directory");
    }

    /// The signer, as this author.
    pub fn signer(&self) -> Run {
        let temporary = self.path("tmp");
        if !self.ordinary {
            return Run::new(bin("mcpfs-signer")).env("TMPDIR", temporary).dir(self.dir.path());
        }
        let id = NOBODY.to_string();
        Run::new(need("setpriv", "util-linux"))
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .arg(self.path("bin/mcpfs-signer"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &temporary)
            .env("TMPDIR", temporary)
            .dir(self.dir.path())
    }

    /// The signer where it may mount: as root, or as an ordinary user where /dev/fuse has the mode that
    /// udev gives it, in a mount namespace of its own, so that nothing of this machine changes.
    pub fn mounting(&self) -> Run {
        if !self.ordinary {
            return self.signer();
        }
        let fuse = self.path("dev");
        std::fs::create_dir_all(&fuse).expect("own directory");
        let temporary = self.path("tmp");
        Run::new(need("unshare", "util-linux"))
            .args(["--mount", "--propagation", "private", "sh", "-euc", MOUNTING, "sh"])
            .arg(fuse)
            .arg(self.path("bin/mcpfs-signer"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &temporary)
            .env("TMPDIR", temporary)
            .dir(self.dir.path())
    }

    /// `check servers/NAME.yaml`.
    pub fn check(&self, name: &str) -> Run {
        self.signer().arg("check").arg(format!("servers/{name}.yaml")).arg("--file-root").arg(self.dir.path())
    }
}

impl Default for Author {
    fn default() -> Self {
        Self::new()
    }
}

/// The command lines of all processes that have this text in them.
pub fn processes_with(text: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(text)).collect()
}
