//! A PKCS#11 token in a directory (SoftHSM), with its PIN in a file.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::command::Run;
use crate::scratch::{self, need};

/// A token of its own for each test; gone on drop.
#[derive(Debug)]
pub struct Hsm {
    dir: tempfile::TempDir,
    module: PathBuf,
    /// One client at a time: SoftHSM rewrites a token's file at each login, and whoever looks
    /// just then finds no token. Tests that share a token take turns.
    turn: Mutex<()>,
    /// Key ids by label: they never change.
    ids: Mutex<BTreeMap<String, String>>,
}

/// The token's label.
pub const TOKEN: &str = "mcpfs";
const PIN: &str = "846213";

impl Hsm {
    /// An initialised, empty token in a directory of its own.
    pub fn new() -> Self {
        Self::at(scratch::dir_for("token"))
    }

    fn at(dir: tempfile::TempDir) -> Self {
        let module = module();
        let hsm = Self { dir, module, turn: Mutex::default(), ids: Mutex::default() };
        let tokens = hsm.tokens();
        std::fs::create_dir(&tokens).expect("own directory");
        let conf =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(hsm.dir.path().join("softhsm2.conf"), conf).expect("own directory");
        std::fs::write(hsm.pin_file(), format!("{PIN}\n")).expect("own directory");
        std::fs::set_permissions(hsm.pin_file(), PermissionsExt::from_mode(0o600)).expect("own file");
        hsm.add_token(TOKEN);
        hsm
    }

    /// One more token beside it, with the same PIN: for who does not ask which one, another box.
    pub fn add_token(&self, label: &str) {
        self.with_token(Run::new(need("softhsm2-util", "softhsm2")))
            .args(["--init-token", "--free", "--label", label, "--so-pin", "31415926", "--pin", PIN])
            .ok();
    }

    /// A token that is lost: its keys are gone for good.
    pub fn lose_token(&self, label: &str) {
        self.with_token(Run::new(need("softhsm2-util", "softhsm2"))).args(["--delete-token", "--token", label]).ok();
    }

    /// Python with a PKCS#11 client that others wrote, and how it finds a token: `MODULE`, `LABEL`, `PIN`.
    pub fn pykcs11(&self, label: &str) -> Run {
        let installed = Path::new("/usr/lib/python3/dist-packages/PyKCS11");
        assert!(installed.exists(), "PyKCS11 is not installed: apt-get install python3-pykcs11 (or: make setup)");
        let run = self.with_token(Run::new("/usr/bin/python3"));
        run.env("MODULE", &self.module).env("LABEL", label).env("PIN", PIN)
    }

    /// The URI of a key in this token.
    pub fn uri(&self, key: &str) -> String {
        format!("pkcs11:token={TOKEN};object={key}?module-path={}", self.module.display())
    }

    /// The file that holds the PIN, mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin")
    }

    /// The folder that the token lies in.
    pub fn tokens(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// The module, for clients that are not ours.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// Gives a command this token (but not its PIN).
    pub fn with_token(&self, run: Run) -> Run {
        run.env("SOFTHSM2_CONF", self.dir.path().join("softhsm2.conf"))
    }

    /// The variables by which a program finds this token and its PIN.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("SOFTHSM2_CONF", self.dir.path().join("softhsm2.conf")), ("MCPFS_PIN_FILE", self.pin_file())]
    }

    /// The signer with this token and its PIN.
    pub fn signer(&self) -> Run {
        let run = Run::new(crate::binaries::bin("mcpfs-signer"));
        self.with_token(run).env("MCPFS_PIN_FILE", self.pin_file())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// OpenSC's client with this token: the independent second opinion about keys.
    pub fn pkcs11_tool(&self) -> Run {
        let run = Run::new(need("pkcs11-tool", "opensc"));
        self.with_token(run).arg("--module").arg(&self.module).args(["--token-label", TOKEN, "--login", "--pin", PIN])
    }

    /// What the token says about a private key, such as `sensitive, always sensitive, never extractable, local`.
    pub fn access(&self, key: &str) -> String {
        let _turn = self.turn();
        let ran = self.pkcs11_tool().args(["--list-objects", "--type", "privkey", "--label", key]).ok();
        let line = ran.stdout.lines().find_map(|line| line.trim().strip_prefix("Access:"));
        line.unwrap_or_else(|| panic!("no such key: {ran}")).trim().to_owned()
    }

    /// A public key as PEM.
    pub fn public_pem(&self, key: &str) -> String {
        let _turn = self.turn();
        self.pkcs11_tool().args(["--read-object", "--type", "pubkey", "--label", key]).ok().stdout
    }

    /// A key's id as trust.json writes it, computed by coreutils: sha256 of the SPKI DER.
    pub fn key_id(&self, key: &str) -> String {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.entry(key.to_owned()).or_insert_with(|| self.computed_id(key)).clone()
    }

    fn computed_id(&self, key: &str) -> String {
        let pem = self.public_pem(key);
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("PEM");
        let ran = Run::new("sha256sum").stdin(der).ok();
        ran.stdout.split(' ').next().expect("a digest").to_owned()
    }

    /// Signs raw bytes with `key`, past all of the signer's checks: what an attacker with access to the token can do.
    /// `TOKEN/KEY` is a key of a token that was added.
    pub fn sign(&self, key: &str, message: &[u8]) -> [u8; 64] {
        let _turn = self.turn();
        let (token, key) = key.split_once('/').unwrap_or((TOKEN, key));
        let run = Run::new(crate::binaries::bin("token-sign")).arg(&self.module).args([token, key]);
        let ran = self.with_token(run).env("MCPFS_PIN_FILE", self.pin_file()).stdin(message).ok();
        ran.stdout_bytes.try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl Default for Hsm {
    fn default() -> Self {
        Self::new()
    }
}

fn module() -> PathBuf {
    let places = [
        "/usr/lib/softhsm",
        "/usr/lib/x86_64-linux-gnu/softhsm",
        "/usr/lib/aarch64-linux-gnu/softhsm",
        "/usr/lib64/pkcs11",
    ];
    let mut files = places.iter().map(|dir| Path::new(dir).join("libsofthsm2.so"));
    files
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("libsofthsm2.so is not installed: apt-get install softhsm2 (or: make setup)"))
}
