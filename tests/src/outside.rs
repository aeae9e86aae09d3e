//! Keys that openssl makes and signs with: the other side of every question about signatures.
//!
//! Nothing of the project's own signing or hashing is used, and no token: a scenario may have ten of
//! them, and an envelope of theirs that a host accepts was made by somebody else.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::command::Run;
use crate::scratch::{self, need};

/// A key pair in a file; gone on drop.
#[derive(Debug)]
pub struct OutsideKey {
    dir: tempfile::TempDir,
    algorithm: &'static str,
    spki: Vec<u8>,
    id: String,
}

/// The length of what a SubjectPublicKeyInfo ends with.
const ED25519_BYTES: usize = 32;
const P256_BYTES: usize = 65;

impl OutsideKey {
    /// A new Ed25519 key.
    pub fn ed25519() -> Self {
        Self::generate("ed25519", &["-algorithm", "ed25519"])
    }

    /// A new P-256 key.
    pub fn p256() -> Self {
        Self::generate("ecdsa-p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    fn generate(algorithm: &'static str, arguments: &[&str]) -> Self {
        let dir = scratch::dir();
        let pem = dir.path().join("key.pem");
        openssl().arg("genpkey").args(arguments).arg("-out").arg(&pem).ok();
        let spki = openssl().args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&pem).ok().stdout_bytes;
        let ran = Run::new("sha256sum").stdin(spki.clone()).ok();
        let id = ran.stdout.split(' ').next().expect("a digest").to_owned();
        Self { dir, algorithm, spki, id }
    }

    /// Its id, computed by coreutils.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half as a file of PEM.
    pub fn public_pem(&self) -> PathBuf {
        let file = self.dir.path().join("public.pem");
        openssl().args(["pkey", "-pubout", "-in"]).arg(self.private()).arg("-out").arg(&file).ok();
        file
    }

    fn private(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Its entry under `keys` of a trust root.
    pub fn entry(&self) -> Value {
        let length = if self.algorithm == "ed25519" { ED25519_BYTES } else { P256_BYTES };
        let public = STANDARD.encode(&self.spki[self.spki.len() - length..]);
        json!({"id": self.id, "algorithm": self.algorithm, "public": public})
    }

    /// Signs `message`. openssl does not know the lower S of ECDSA: it signs until it was that one.
    ///
    /// # Panics
    /// If in sixty-four tries it never was.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let file = self.dir.path().join("message");
        std::fs::write(&file, message).expect("own directory");
        let sign = || {
            let run = match self.algorithm {
                "ed25519" => openssl().args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(self.private()).arg("-in"),
                _ => openssl().args(["dgst", "-sha256", "-sign"]).arg(self.private()),
            };
            run.arg(&file).ok().stdout_bytes
        };
        let mut tries = std::iter::repeat_with(sign).take(64);
        tries.find(|signature| self.algorithm == "ed25519" || has_low_s(signature)).expect("a lower S in 64 tries")
    }

    /// What an envelope's signature of this key over `payload` is.
    pub fn signature(&self, payload: &[u8]) -> (String, Vec<u8>) {
        (self.id.clone(), self.sign(&crate::forge::pae(payload)))
    }
}

/// Whether the second number of a DER signature is below half of P-256's order, told by its first
/// byte: that half begins with 7f ff ff ff 80, so one that begins with 7f counts as high here.
fn has_low_s(der: &[u8]) -> bool {
    let first = usize::from(der[3]);
    let (length, s) = (der[4 + first + 1], &der[4 + first + 2..]);
    length < 32 || (length == 32 && s[0] < 0x7f)
}

/// The program.
pub fn openssl() -> Run {
    Run::new(need("openssl", "openssl"))
}
