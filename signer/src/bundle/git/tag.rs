//! Who signed a tag.
//!
//! What a signature is worth depends on whose key it is, and that only the operator can say: in
//! a file of allowed signers, the form that git and ssh-keygen use. Without one a signature is
//! reported and nothing more.

use std::fs::File;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use mcpfs_trust::text::bounded;
use sha2::{Digest as _, Sha256};

use super::{Git, GitError, Repository};
use crate::bundle::SourceError;
use crate::bundle::workshop::{Job, Program, Workshop, at};
use crate::fetch::FetchPolicy;

/// Largest tag, bytes.
const TAG_BYTES: u64 = 256 << 10;

/// The kinds of signatures by their first lines.
const KINDS: &[(&str, &str)] = &[
    ("-----BEGIN SSH SIGNATURE-----", "SSH"),
    ("-----BEGIN PGP SIGNATURE-----", "OpenPGP"),
    ("-----BEGIN PGP MESSAGE-----", "OpenPGP"),
    ("-----BEGIN SIGNED MESSAGE-----", "X.509"),
];

/// A signature at the end of a tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature<'a> {
    pub(super) kind: &'static str,
    /// What is signed.
    pub(super) payload: &'a [u8],
    /// Its text.
    pub(super) text: &'a [u8],
}

/// What to report of the tag's signature.
///
/// # Errors
/// If there are allowed signers and none of them signed it.
pub(super) fn signature(
    repository: &Repository,
    reference: &str,
    git: &Git,
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<String, SourceError> {
    let tag = &repository.tag;
    let demanded = policy.tools.allowed_signers.as_deref();
    let refuse = |problem: String| -> SourceError { GitError::Signature { tag: tag.clone(), problem }.into() };
    let kind = git.text(workshop, git.job(&["cat-file", "-t", reference]))?;
    let object = match kind.trim() {
        "tag" => workshop.read(git.job(&["cat-file", "tag", reference]), TAG_BYTES)?,
        _ => Vec::new(),
    };
    let Some(found) = find(&object) else {
        return match demanded {
            Some(_) => Err(refuse("has no signature".to_owned())),
            None => Ok(format!("the tag {tag} is not signed")),
        };
    };
    let key = fingerprint(found.text).map_or_else(String::new, |key| format!(" by the key {key}"));
    let Some(signers) = demanded else {
        return Ok(format!("the tag {tag} has an {} signature{key}; not verified (see --allowed-signers)", found.kind));
    };
    if found.kind != "SSH" {
        return Err(refuse(format!("has an {} signature, which is not verified here", found.kind)));
    }
    let put = |name: &str, bytes: &[u8]| {
        let path = workshop.path(name);
        std::fs::write(&path, bytes).map(|()| path.clone()).map_err(at(&path))
    };
    let signers = crate::files::read_bounded(signers, 1 << 20)
        .map_err(|error| refuse(format!("cannot be held against the file ({error})")))?;
    let (signers, signature) = (put("signers", &signers)?, put("signature", found.text)?);
    let payload = put("payload", found.payload)?;
    let program = Program::find("ssh-keygen", "openssh-client")?;
    let folder = workshop.path("tmp");
    let files = |job: Job<'_>| -> Vec<std::ffi::OsString> {
        let mut arguments = job.arguments;
        arguments.extend(["-f".into(), signers.clone().into(), "-s".into(), signature.clone().into()]);
        arguments
    };
    let find = Job::new(&program, &folder).arguments(["-Y", "find-principals"]);
    let find = Job { arguments: files(find), ..Job::new(&program, &folder) };
    let principals = workshop.read(find, 64 << 10);
    let principals = principals.map_err(|_| refuse(format!("has a signature{key}, which the file does not name")))?;
    let principals = String::from_utf8_lossy(&principals).into_owned();
    let principal = principals.lines().next().unwrap_or_default().to_owned();
    let verify = Job::new(&program, &folder).arguments(["-Y", "verify", "-n", "git", "-I", &principal]);
    let input = File::open(&payload).map_err(at(&payload))?;
    let verify = Job { arguments: files(verify), input: Some(input), ..Job::new(&program, &folder) };
    match workshop.run(verify) {
        Ok(_) => Ok(format!("the tag {tag} is signed by {}{key}", bounded(&principal))),
        Err(_) => Err(refuse(format!("has a signature{key}, which does not fit"))),
    }
}

/// The signature at the end of a tag's text.
pub(super) fn find(object: &[u8]) -> Option<Signature<'_>> {
    let mut start = 0;
    for line in object.split_inclusive(|byte| *byte == b'\n') {
        if let Some((_, kind)) = KINDS.iter().find(|(first, _)| line.trim_ascii_end() == first.as_bytes()) {
            let (payload, text) = object.split_at(start);
            return Some(Signature { kind, payload, text });
        }
        start += line.len();
    }
    None
}

/// `SHA256:…` of the key in an SSH signature, as ssh-keygen shows it.
pub(super) fn fingerprint(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let base64: String = text.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
    let blob = STANDARD.decode(base64).ok()?;
    let rest = blob.strip_prefix(b"SSHSIG\0\0\0\x01")?;
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let key = rest.get(4..)?.get(..length)?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key))))
}
