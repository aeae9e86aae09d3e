//! A TPM 2.0 (swtpm) with a PKCS#11 token in it, as many build hosts have one in hardware.
//!
//! A kernel has a resource manager in front of its TPM (`/dev/tpmrm0`); a swtpm has none. What a
//! program that ended has left loaded is flushed before the next one begins.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::command::{Ran, Run};
use crate::scratch::{self, need, wait_for};

/// A TPM and a token of its own; gone on drop.
#[derive(Debug)]
pub struct Tpm {
    dir: tempfile::TempDir,
    chip: Arc<Mutex<Child>>,
    module: PathBuf,
}

/// The token's label.
const TOKEN: &str = "tpm";
const PIN: &str = "846213";
const SO_PIN: &str = "31415926";

impl Tpm {
    /// A new TPM with an empty token.
    pub fn new() -> Self {
        let tpm = Self::empty();
        tpm.pkcs11_tool().args(["--slot-index", "0", "--init-token", "--label", TOKEN, "--so-pin", SO_PIN]).ok();
        let user = ["--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--pin", PIN];
        tpm.pkcs11_tool().args(["--token-label", TOKEN]).args(user).ok();
        tpm
    }

    /// A new TPM without a token.
    pub fn empty() -> Self {
        let dir = scratch::short_dir();
        for folder in ["state", "store"] {
            std::fs::create_dir(dir.path().join(folder)).expect("own directory");
        }
        let chip = Arc::new(Mutex::new(chip(dir.path())));
        let tpm = Self { dir, chip, module: module() };
        std::fs::write(tpm.pin_file(), format!("{PIN}\n")).expect("own directory");
        std::fs::set_permissions(tpm.pin_file(), PermissionsExt::from_mode(0o600)).expect("own file");
        tpm
    }

    /// The module, for clients that are not ours.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The URI of a key in this token.
    pub fn uri(&self, key: &str) -> String {
        format!("pkcs11:token={TOKEN};object={key}?module-path={}", self.module.display())
    }

    /// The file that holds the PIN, mode 0600.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.path().join("pin")
    }

    /// Gives a command this token (but not its PIN).
    pub fn with_token(&self, run: Run) -> Run {
        self.reaching("tpm", Run::new(need("tpm2_flushcontext", "tpm2-tools"))).arg("--transient-object").ok();
        self.reaching("tpm", run)
    }

    fn reaching(&self, socket: &str, run: Run) -> Run {
        let chip = format!("swtpm:path={}", self.dir.path().join(socket).display());
        run.env("TPM2_PKCS11_STORE", self.dir.path().join("store"))
            .env("TPM2_PKCS11_TCTI", &chip)
            .env("TPM2TOOLS_TCTI", &chip)
            .env("TSS2_LOG", "all+NONE")
            .env("TPM2_PKCS11_LOG_LEVEL", "0")
    }

    /// The signer with this token and its PIN.
    pub fn signer(&self) -> Run {
        self.with_token(Run::new(crate::binaries::bin("mcpfs-signer"))).env("MCPFS_PIN_FILE", self.pin_file())
    }

    /// OpenSC's client with this module.
    pub fn pkcs11_tool(&self) -> Run {
        self.with_token(Run::new(need("pkcs11-tool", "opensc"))).arg("--module").arg(&self.module)
    }

    /// How many wrong authorisations the TPM has counted; it locks after three.
    pub fn wrong_tries(&self) -> u32 {
        let facts = self.with_token(Run::new(need("tpm2_getcap", "tpm2-tools"))).arg("properties-variable").ok();
        let count = facts.stdout.lines().find_map(|line| line.trim().strip_prefix("TPM2_PT_LOCKOUT_COUNTER: 0x"));
        u32::from_str_radix(count.unwrap_or_else(|| panic!("no counter: {facts}")), 16).expect("a number")
    }

    /// Runs a command of [`Tpm::signer`], which must fail, and takes the TPM out when it is asked for one
    /// signature more than `allowed`.
    pub fn unplugged_after(&self, allowed: usize, run: Run) -> Ran {
        let socket = self.dir.path().join(format!("until-{allowed}"));
        symlink(self.dir.path().join("tpm.ctrl"), socket.with_extension("ctrl")).expect("own directory");
        let listener = UnixListener::bind(&socket).expect("own directory");
        let (chip, upstream) = (Arc::clone(&self.chip), self.dir.path().join("tpm"));
        let left = Arc::new(AtomicUsize::new(allowed));
        // It ends with the process: nobody connects once the command is over.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, chip, left) = (client.expect("a connection"), Arc::clone(&chip), Arc::clone(&left));
                let upstream = UnixStream::connect(&upstream).expect("the TPM");
                std::thread::spawn(move || relay(client, upstream, &left, &chip));
            }
        });
        let name = socket.file_name().and_then(|name| name.to_str()).expect("our own name");
        let ran = self.reaching(name, run).exits(1);
        assert!(self.chip().try_wait().expect("own child").is_some(), "nobody asked for that signature: {ran}");
        ran
    }

    /// Puts it back in.
    pub fn plug(&self) {
        *self.chip() = chip(self.dir.path());
    }

    fn chip(&self) -> std::sync::MutexGuard<'_, Child> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        end(&self.chip);
    }
}

/// Starts the TPM whose state is in `dir`.
fn chip(dir: &Path) -> Child {
    let (socket, control) = (dir.join("tpm"), dir.join("tpm.ctrl"));
    for stale in [&socket, &control] {
        // Of a TPM that was taken out.
        let _none = std::fs::remove_file(stale);
    }
    let chip = Command::new(need("swtpm", "swtpm"))
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", dir.join("state").display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cannot start swtpm");
    wait_for("the TPM's sockets", || (socket.exists() && control.exists()).then_some(()));
    chip
}

fn end(chip: &Mutex<Child>) {
    let mut chip = chip.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _gone = chip.kill();
    let _status = chip.wait();
}

/// Passes commands on until one asks for a signature too many; then the TPM ends.
fn relay(mut client: UnixStream, mut upstream: UnixStream, left: &AtomicUsize, chip: &Mutex<Child>) {
    while let Some(command) = message(&mut client) {
        let signing = command.get(6..10) == Some(&SIGN.to_be_bytes());
        if signing && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return end(chip);
        }
        let passed_on = upstream.write_all(&command).is_ok();
        let Some(answer) = message(&mut upstream).filter(|_| passed_on) else { return };
        if client.write_all(&answer).is_err() {
            return;
        }
    }
}

/// The TPM's command code of a signature.
const SIGN: u32 = 0x15d;

/// A command or an answer: two bytes of tag, four of length, and the rest.
fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 6];
    stream.read_exact(&mut bytes).ok()?;
    let size = u32::from_be_bytes(bytes[2..6].try_into().ok()?) as usize;
    assert!((6..=8192).contains(&size), "a TPM's message of {size} bytes");
    bytes.resize(size, 0);
    stream.read_exact(&mut bytes[6..]).ok()?;
    Some(bytes)
}

fn module() -> PathBuf {
    let places = ["/usr/lib/x86_64-linux-gnu/pkcs11", "/usr/lib/aarch64-linux-gnu/pkcs11", "/usr/lib64/pkcs11"];
    let mut files = places.iter().map(|dir| Path::new(dir).join("libtpm2_pkcs11.so"));
    files.find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "libtpm2_pkcs11.so is not installed: apt-get install libtpm2-pkcs11-1 libtss2-tcti-swtpm0 (or: make setup)"
        )
    })
}
