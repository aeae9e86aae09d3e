//! What workers decide by: configuration and trust root, read by root and handed to them.
//!
//! A worker reads neither itself. What has been written to the disk counts from the reload that takes it
//! over; until then, and if it cannot be taken over at all, every successor gets what its predecessor had
//! in force. So a crash changes no policy, and half an edit on the disk takes nobody's mount. The supervisor's own death
//! is no other crash: systemd keeps what was in force, and the next one goes on with that. To be asked to end, by a restart or
//! an upgrade, is the administrator's word for reading it anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use serde::{Deserialize, Serialize};

use super::service;
use super::wire::Secret;
use crate::config::{Config, ConfigError, CredentialConfig, Texts};
use crate::daemon;
use crate::owned;
use crate::refusal::{Refusal, with_cause};

/// Bytes of what is handed to a worker: far more than all that one mount has to say.
const MOST: u64 = 64 << 20;

/// What systemd keeps it as.
pub(super) const NAME: &str = "charge";

/// What one worker is handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handed {
    /// The configuration that the mount began with.
    started: Texts,
    /// The one in force.
    now: Texts,
    /// `trust.json`, or why it cannot be read.
    pub(crate) trust: Result<Vec<u8>, String>,
    /// The trust root that was in force before this supervisor, if this worker is to judge the other.
    pub(crate) before: Option<Vec<u8>>,
    /// A trust root that a worker was offered and that ended before it said a word about it: it may have taken
    /// it over, and then `state.db` lets nobody go back.
    #[serde(default)]
    pub(crate) perhaps: Option<Vec<u8>>,
    /// Why this is not what is on the disk.
    pub(crate) problem: Option<String>,
}

/// An answer to a worker that asks for what is on the disk now.
#[derive(Debug, Serialize, Deserialize)]
enum Offer {
    Read(Box<Handed>),
    /// With whether others could have written it.
    Unusable(String, bool),
}

/// The files of one moment, and the other files that they name.
#[derive(Debug, Clone)]
struct Found {
    texts: Texts,
    trust: Result<Vec<u8>, String>,
    named: Named,
}

#[derive(Debug, Clone)]
struct Named {
    trust: PathBuf,
    token: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    credentials: BTreeMap<String, CredentialConfig>,
}

/// What is in force, and what a worker was offered and has not taken over yet.
#[derive(Debug)]
pub struct Charge {
    started: Texts,
    in_force: Found,
    offered: Option<Found>,
    /// [`Handed::perhaps`]
    perhaps: Option<Vec<u8>>,
    problem: Option<String>,
    /// Whether it is what the supervisor before this one had.
    goes_on: bool,
}

impl Charge {
    /// With the files that this process began with, and what they say. `kept` is what was in force under the
    /// supervisor before this one: its trust root stands by, should the present one not be usable.
    pub fn new(texts: Texts, config: &Config, kept: Option<Handed>) -> Self {
        let named = Named::of(config);
        let found = Found { texts: texts.clone(), trust: trust(&named.trust), named };
        let perhaps = kept.as_ref().and_then(|kept| kept.perhaps.clone());
        let before = kept.map(|kept| kept.trust).filter(|before| before.is_ok() && *before != found.trust);
        let (in_force, offered) = match before {
            Some(trust) => (Found { trust, ..found.clone() }, Some(found)),
            None => (found, None),
        };
        Self { started: texts, in_force, offered, perhaps, problem: None, goes_on: false }
    }

    /// With what was in force under the supervisor before this one, since that one died, or what is on the disk cannot
    /// be used.
    pub fn kept(kept: Handed, config: &Config) -> Self {
        let in_force = Found { texts: kept.now, trust: kept.trust, named: Named::of(config) };
        let (started, perhaps, problem) = (kept.started, kept.perhaps, kept.problem);
        Self { started, in_force, offered: None, perhaps, problem, goes_on: true }
    }

    /// Whether it is what the supervisor before this one had in force, whatever is on the disk.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// What a new worker decides by.
    pub(super) fn for_worker(&self) -> io::Result<OwnedFd> {
        let Some(offered) = &self.offered else {
            return in_memory(&Offer::Read(Box::new(self.handed(&self.in_force))));
        };
        let before = self.in_force.trust.clone().ok();
        in_memory(&Offer::Read(Box::new(Handed { before, ..self.handed(offered) })))
    }

    /// What is in force, to be kept over this process's end. A worker may take over what it was offered, and this process
    /// end before it hears of that.
    pub(super) fn to_keep(&self) -> io::Result<OwnedFd> {
        let offered = self.offered.as_ref().and_then(|offered| offered.trust.clone().ok());
        let perhaps = offered.filter(|root| self.in_force.trust.as_ref() != Ok(root)).or_else(|| self.perhaps.clone());
        in_memory(&Offer::Read(Box::new(Handed { perhaps, ..self.handed(&self.in_force) })))
    }

    /// What is on the disk now, for a worker to take over or not.
    pub(super) fn offer(&mut self) -> io::Result<OwnedFd> {
        self.offered = None;
        let texts = match Texts::read(self.started.main()).and_then(Texts::with_groups) {
            Ok(texts) => texts,
            Err(error) => {
                let unsafe_file = matches!(&error, ConfigError::File(owned::OwnedError::Unsafe { .. }));
                return in_memory(&Offer::Unusable(with_cause(&error), unsafe_file));
            }
        };
        // Else it would not have its groups.
        let named = texts.config().map_or_else(|_| self.in_force.named.clone(), |config| Named::of(&config));
        let found = Found { texts, trust: trust(&named.trust), named };
        let offered = in_memory(&Offer::Read(Box::new(self.handed(&found))));
        self.offered = Some(found);
        offered
    }

    /// The worker has taken over what it was offered, perhaps all of it but the trust root; or nothing; or it has
    /// begun with the trust root that its predecessor was offered, and nothing else of that. Whether there was
    /// such an offer.
    pub(super) fn judged(&mut self, config: bool, trust: bool) -> bool {
        if trust && !config {
            let Some(root) = self.perhaps.take() else { return false };
            self.in_force.trust = Ok(root);
            return true;
        }
        let Some(mut offered) = self.offered.take() else { return !config };
        match (config, trust) {
            // What it refused may have failed half-way.
            (false, _) => self.may_be_kept(offered),
            (true, true) => {
                self.perhaps = None;
                self.in_force = offered;
            }
            (true, false) => {
                offered.trust.clone_from(&self.in_force.trust);
                self.in_force = offered;
            }
        }
        if config {
            self.problem = None;
        }
        true
    }

    /// What a worker was offered and did not judge is no other's to take over, unless that one had done so already.
    /// Whether there was such an offer: then whoever was handed anything before does not know of it.
    pub(super) fn withdraw(&mut self) -> bool {
        let Some(offered) = self.offered.take() else { return false };
        self.may_be_kept(offered);
        true
    }

    fn may_be_kept(&mut self, offered: Found) {
        self.perhaps = offered.trust.ok().or(self.perhaps.take());
    }

    /// The path of a secret file: that of what was just offered, as whoever judges it needs it.
    pub(super) fn secret(&self, secret: Secret) -> Option<&Path> {
        let named = &self.offered.as_ref().unwrap_or(&self.in_force).named;
        match secret {
            Secret::Token => named.token.as_deref(),
            Secret::ClientCertificate => named.client_certificate.as_deref(),
        }
    }

    /// Where a credential comes from: the entry by which the worker decided, of what it was just offered or of what
    /// is in force. A worker that takes an offer over says so on another socket than it asks at.
    pub(super) fn credential(&self, reference: &str, mark: u64) -> Option<&CredentialConfig> {
        let known = [self.offered.as_ref(), Some(&self.in_force)].into_iter().flatten();
        let mut entries = known.filter_map(|found| found.named.credentials.get(reference));
        entries.find(|entry| entry.mark(reference) == mark)
    }

    fn handed(&self, found: &Found) -> Handed {
        Handed {
            started: self.started.clone(),
            now: found.texts.clone(),
            trust: found.trust.clone(),
            before: None,
            perhaps: self.perhaps.clone(),
            problem: self.problem.clone(),
        }
    }
}

impl Named {
    fn of(config: &Config) -> Self {
        Self {
            trust: config.trust.clone(),
            token: config.registry.token_file.clone(),
            client_certificate: config.registry.client_certificate.clone(),
            credentials: config.credentials.clone(),
        }
    }
}

impl Handed {
    /// Of what the supervisor handed over.
    ///
    /// # Errors
    /// If there is nothing that can be used on the disk, why; anything else about the memory itself is
    /// `Err` as well.
    pub(crate) fn of(memory: &File) -> io::Result<Result<Self, Refusal>> {
        let length = memory.metadata()?.len().min(MOST);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        memory.read_exact_at(&mut bytes, 0)?;
        Ok(match serde_json::from_slice(&bytes)? {
            Offer::Read(handed) => Ok(*handed),
            Offer::Unusable(why, unsafe_file) => Err(daemon::unusable(why, unsafe_file)),
        })
    }

    /// The same, in the place of what is on the disk, and why.
    pub(crate) fn because(self, problem: String) -> Self {
        Self { problem: Some(problem), ..self }
    }

    /// Whether it is of this main file.
    pub(crate) fn is_of(&self, file: &Path) -> bool {
        std::path::absolute(file).is_ok_and(|file| file == self.started.main())
    }

    /// The configuration of a worker that begins.
    ///
    /// # Errors
    /// As [`Texts::config`].
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let mut config = self.now.config()?;
        config.keep_fixed(&self.started.config()?);
        Ok(config)
    }

    /// The configuration that `running` is to become.
    ///
    /// # Errors
    /// As [`Texts::config`].
    pub(crate) fn after(&self, running: &Config) -> Result<Config, ConfigError> {
        running.reloaded(&self.now)
    }
}

/// What was in force under the supervisor before this one, if systemd kept it.
pub(crate) fn kept() -> Option<Handed> {
    Handed::of(&service::handed_on(NAME)?).ok()?.ok()
}

fn trust(path: &Path) -> Result<Vec<u8>, String> {
    daemon::read_trust(path).map_err(|refusal| refusal.message)
}

/// In memory that nobody changes any more, and only root can open anew: a proxy's password may stand in it.
fn in_memory(offer: &Offer) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("mcpfs-charge", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
    let memory = File::from(memory);
    memory.write_all_at(&serde_json::to_vec(offer)?, 0)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn write(dir: &tempfile::TempDir, root: &[u8]) {
        std::fs::write(dir.path().join("trust.json"), root).unwrap();
    }

    /// Of a configuration in `dir`, with a trust root that was read.
    fn charge(dir: &tempfile::TempDir) -> Charge {
        write(dir, b"old");
        let main = dir.path().join("mcpfs.toml");
        let trust = dir.path().join("trust.json");
        std::fs::write(&main, format!("trust = {trust:?}\n[registry]\nurl = \"http://localhost/\"\n")).unwrap();
        let texts = Texts::read(&main).unwrap();
        let config = texts.config().unwrap();
        Charge::new(texts, &config, None)
    }

    /// The trust root in force, and the one that may be, as a worker is handed them.
    fn handed(charge: &Charge) -> (Vec<u8>, Option<Vec<u8>>) {
        let handed = Handed::of(&charge.for_worker().unwrap().into()).unwrap().unwrap();
        (handed.trust.unwrap(), handed.perhaps)
    }

    fn offer(charge: &mut Charge, dir: &tempfile::TempDir, root: &[u8]) {
        write(dir, root);
        charge.offer().unwrap();
    }

    #[test]
    fn what_was_offered_and_not_judged_may_have_been_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut charge = charge(&dir);
        assert!(!charge.withdraw() && !charge.judged(false, true), "nothing was offered");
        assert_eq!(handed(&charge), (b"old".to_vec(), None));
        offer(&mut charge, &dir, b"one");
        assert!(charge.withdraw());
        assert_eq!(handed(&charge), (b"old".to_vec(), Some(b"one".to_vec())));
        // The next worker says that it was.
        assert!(charge.judged(false, true));
        assert_eq!(handed(&charge), (b"one".to_vec(), None));
        // What fails may have failed half-way.
        offer(&mut charge, &dir, b"two");
        assert!(charge.judged(false, false));
        assert_eq!(handed(&charge), (b"one".to_vec(), Some(b"two".to_vec())));
        offer(&mut charge, &dir, b"bad");
        assert!(charge.judged(true, false), "all of it but the root");
        assert_eq!(handed(&charge), (b"one".to_vec(), Some(b"two".to_vec())));
        offer(&mut charge, &dir, b"three");
        assert!(charge.judged(true, true));
        assert_eq!(handed(&charge), (b"three".to_vec(), None));
    }

    /// systemd keeps it over the end of this process.
    #[test]
    fn what_is_kept_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = charge(&dir);
        offer(&mut first, &dir, b"one");
        first.withdraw();
        let kept = Handed::of(&first.to_keep().unwrap().into()).unwrap().unwrap();
        let texts = Texts::read(&dir.path().join("mcpfs.toml")).unwrap();
        let config = texts.config().unwrap();
        assert_eq!(handed(&Charge::kept(kept.clone(), &config)), (b"old".to_vec(), Some(b"one".to_vec())));
        assert_eq!(handed(&Charge::new(texts, &config, Some(kept))).1, Some(b"one".to_vec()));
    }
    /// Its supervisor dies while a worker judges an offer: nobody knows what became of that.
    #[test]
    fn what_was_offered_is_kept_before_it_is_judged() {
        let dir = tempfile::tempdir().unwrap();
        let mut charge = charge(&dir);
        let kept = |charge: &Charge| {
            let kept = Handed::of(&charge.to_keep().unwrap().into()).unwrap().unwrap();
            (kept.trust.unwrap(), kept.perhaps)
        };
        offer(&mut charge, &dir, b"old");
        assert_eq!(kept(&charge), (b"old".to_vec(), None));
        offer(&mut charge, &dir, b"one");
        assert_eq!(kept(&charge), (b"old".to_vec(), Some(b"one".to_vec())));
        assert!(charge.judged(true, true));
        assert_eq!(kept(&charge), (b"one".to_vec(), None));
    }
}
