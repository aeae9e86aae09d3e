//! The credentials of a launch: which ones, whether this server may have them, and how they come to the launcher.
//!
//! What the configuration alone can tell is decided here. Whether the caller is in a group that may have one, and
//! whether its source gives anything, the reader finds out ([`crate::credentials`]), before the launch is recorded:
//! a row that says `ok` names credentials that were given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mcpfs_trust::error::{Code, bounded};
use mcpfs_trust::limits::CREDENTIALS;
use mcpfs_trust::release::{Credential, Release};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::facts::CredentialFacts;
use super::ops::Desk;
use super::peer::Peer;
use super::plan::Terms;
use super::protocol::{Fault, Given, Launch, Refused};
use crate::config::{Config, CredentialConfig};
use crate::credentials::{Order, Receiver, Whom};
use crate::launch::sets;
use crate::site::Secrets;

/// Bytes that all credentials of a release may take in its launch's row.
const ROW_BYTES: usize = 7 << 10;
/// Sources that are read for one user at a time, reads of one source, and of all for all.
const PER_USER: usize = 4;
const PER_SOURCE: usize = 8;
const IN_ALL: usize = 32;
/// From the question on, until a launch is told that it takes too long: below the launcher's own patience.
const LIMIT: Duration = Duration::from_secs(9);

/// Which credentials `release` is given, in its own order; the descriptors of one ref are one.
///
/// # Errors
/// Why this host does not give it one of them.
pub(super) fn granted(release: &Release, terms: Terms<'_>, sandboxed: bool) -> Result<Vec<Given>, Refused> {
    let ask = || format!("ask its maintainer, {}, for another release", bounded(&release.maintainer));
    let cannot = |message: &str| Err(Refused::new(Code::LaunchUnsupported, message, ask()));
    let mut given: Vec<Given> = vec![];
    let mut places = BTreeSet::new();
    let mut refs: Vec<&str> = vec![];
    for credential in &release.credentials {
        let Credential { env, file, reference, .. } = credential;
        let place = env.as_deref().or(file.as_deref()).unwrap_or_default();
        let declared = release.launch.as_ref().is_some_and(|launch| launch.env.contains_key(place));
        if env.is_some() && (declared || sets(place)) {
            return cannot(&format!("its credential {} would replace the variable {place}", bounded(reference)));
        }
        if !places.insert((env.is_some(), place)) {
            return cannot(&format!("two of its credentials go to {}", bounded(place)));
        }
        if file.is_some() && !sandboxed {
            return Err(Refused::new(
                Code::LaunchUnsupported,
                &format!("its credential {} is a file, which only a sandbox has a place for", bounded(reference)),
                format!(
                    "set sandbox = \"required\" under [policy] in {}, or ask its maintainer to declare a sandbox",
                    terms.file.display()
                ),
            ));
        }
        source(release, reference, (terms.credentials, terms.file))?;
        let descriptor = refs.iter().position(|known| known == reference).unwrap_or_else(|| {
            refs.push(reference);
            refs.len() - 1
        });
        given.push(Given { reference: reference.clone(), env: env.clone(), file: file.clone(), descriptor });
    }
    match given.len() > CREDENTIALS || row(&given).to_string().len() > ROW_BYTES {
        true => {
            cannot(&format!("it needs more than {CREDENTIALS} credentials, or their names are too long for one row"))
        }
        false => Ok(given),
    }
}

/// This host's entry for a ref, if there is one and it is for this server.
fn source<'a>(
    release: &Release,
    reference: &str,
    (table, file): (&'a BTreeMap<String, CredentialConfig>, &Path),
) -> Result<&'a CredentialConfig, Refused> {
    let (name, file, entry) = (&release.name, file.display(), table.get(reference));
    let reference = bounded(reference);
    match entry {
        None => Err(Refused::new(
            Code::LaunchUnsupported,
            &format!("it needs the credential {reference}, and this host has no source for it"),
            format!("tell your administrator: [credentials.\"{reference}\"] in {file} names one"),
        )),
        Some(entry) if !entry.servers.contains(name) => Err(Refused::new(
            Code::PolicyRefused,
            &format!("the credential {reference} is not for {name} on this host"),
            format!(
                "tell your administrator: servers of [credentials.\"{reference}\"] in {file} lists who may have it"
            ),
        )),
        Some(entry) => Ok(entry),
    }
}

/// What `release` needs, and what the configuration alone tells of it; nobody is asked.
pub(super) fn facts(release: &Release, config: &Config) -> Vec<CredentialFacts> {
    let table = (&config.credentials, config.file.as_path());
    let fact = |credential: &Credential| CredentialFacts {
        reference: credential.reference.clone(),
        env: credential.env.clone(),
        file: credential.file.clone(),
        problem: source(release, &credential.reference, table).err().map(|refused| refused.message),
    };
    release.credentials.iter().map(fact).collect()
}

/// What a launch's row says of them.
pub(super) fn row(given: &[Given]) -> Value {
    let one = |given: &Given| match (&given.env, &given.file) {
        (Some(env), _) => json!({"ref": given.reference, "env": env}),
        (None, file) => json!({"ref": given.reference, "file": file.as_deref().map(bounded)}),
    };
    given.iter().map(one).collect()
}

/// How many sources are being read, which and for whom: a user or a source that is slow is in nobody else's way.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    parts: Mutex<HashMap<Part, Arc<Semaphore>>>,
}

/// What has turns of its own.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Part {
    User(u32),
    Source(String),
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(IN_ALL)), parts: Mutex::default() }
    }
}

impl Turns {
    async fn take(&self, uid: u32, reference: &str) -> Option<[OwnedSemaphorePermit; 3]> {
        let (user, source) = {
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            // What nobody waits for any more is forgotten.
            parts.retain(|_, turns| Arc::strong_count(turns) > 1);
            let mut of = |part, turns| Arc::clone(parts.entry(part).or_insert_with(|| Arc::new(Semaphore::new(turns))));
            (of(Part::User(uid), PER_USER), of(Part::Source(reference.to_owned()), PER_SOURCE))
        };
        // The narrower first: nobody waits for his own with a place of all in his hand.
        let user = user.acquire_owned().await.ok()?;
        let source = source.acquire_owned().await.ok()?;
        Some([user, source, Arc::clone(&self.all).acquire_owned().await.ok()?])
    }
}

impl Desk {
    /// The descriptors that `launch` counts, for whoever asked by `connection`.
    ///
    /// # Errors
    /// Why one of them cannot be had. `Busy` says that nothing was decided.
    pub(super) async fn fetch(
        &self,
        peer: &Peer,
        connection: OwnedFd,
        launch: &Launch,
        (config, begun): (&Config, Instant),
    ) -> Result<Vec<OwnedFd>, Refused> {
        let connection = Arc::new(connection);
        let count = launch.credentials.iter().map(|given| given.descriptor + 1).max().unwrap_or(0);
        let mut asked = vec![];
        for number in 0..count {
            let mut for_it = launch.credentials.iter().filter(|given| given.descriptor == number);
            let Some(first) = for_it.clone().next() else { continue };
            let Some(entry) = config.credentials.get(&first.reference) else { continue };
            let order = Order {
                reference: first.reference.clone(),
                config: entry.clone(),
                env: for_it.any(|given| given.env.is_some()),
                socket: config.rundir.join("control.sock"),
                whom: Whom::Only(rustix::process::geteuid().as_raw()),
            };
            asked.push(self.read(peer.uid, order, Arc::clone(&connection)));
        }
        let end = tokio::time::Instant::from_std(begun + LIMIT);
        // All at once: what one of them waits for is not added to the others. Whoever is told no waits for no turn.
        let mut running = JoinSet::new();
        for (number, asking) in asked.into_iter().enumerate() {
            running.spawn_on(async move { (number, asking.await) }, &self.daemon.runtime);
        }
        let mut given = BTreeMap::new();
        while !running.is_empty() {
            let too_slow =
                || Refused::new(Code::TooSlow, "its credentials did not come in time", "try again in a moment");
            let Some(one) = tokio::time::timeout_at(end, running.join_next()).await.map_err(|_| too_slow())? else {
                break;
            };
            let failed = |_| Refused::fault(Fault::Internal, "the daemon failed at this", "see its log");
            let (number, answered) = one.map_err(failed)?;
            given.insert(number, answered?);
        }
        Ok(given.into_values().collect())
    }

    fn read(
        &self,
        uid: u32,
        order: Order,
        connection: Arc<OwnedFd>,
    ) -> impl Future<Output = Result<OwnedFd, Refused>> + Send + 'static {
        let (turns, secrets) = (Arc::clone(&self.turns), self.daemon.secrets.clone());
        async move {
            let reference = order.reference.clone();
            let turn = turns.take(uid, &reference).await;
            let reading = tokio::task::spawn_blocking(move || {
                let outcome = read(&secrets, &order, &connection);
                drop(turn);
                outcome
            });
            let failed = |error: String| {
                tracing::error!(reference, error, "a credential cannot be read");
                Refused::new(
                    Code::LaunchUnsupported,
                    &format!("the credential {reference} cannot be had: {error}"),
                    "tell your administrator: mcpfs's log says more",
                )
            };
            match reading.await {
                Ok(Ok(Ok(memory))) => Ok(memory),
                Ok(Ok(Err(refused))) => {
                    let code = if refused.caller { Code::PolicyRefused } else { Code::LaunchUnsupported };
                    tracing::info!(uid, why = refused.message, "a credential is not given");
                    Err(Refused::new(code, &refused.message, refused.advice))
                }
                Ok(Err(error)) => match error.kind() {
                    io::ErrorKind::NotFound => {
                        Err(Refused::fault(Fault::Busy, "the configuration is being changed", "try again in a moment"))
                    }
                    io::ErrorKind::WouldBlock if error.raw_os_error().is_none() => {
                        Err(failed("its source did not answer in time".to_owned()))
                    }
                    // More than there are turns: readers of before have not ended.
                    io::ErrorKind::WouldBlock => Err(failed(
                        "its source, or another of yours, does not answer, and too many wait for it".to_owned(),
                    )),
                    io::ErrorKind::PermissionDenied => Err(Refused::new(
                        Code::PolicyRefused,
                        &format!("user {uid} gets no credentials from this mount"),
                        "start the server as another user of this host",
                    )),
                    io::ErrorKind::UnexpectedEof => Err(failed("what was to read it ended".to_owned())),
                    _ => Err(failed(error.to_string())),
                },
                Err(_) => Err(Refused::fault(Fault::Internal, "the daemon failed at this", "see its log")),
            }
        }
    }
}

/// Has one source read, and waits for it.
fn read(
    secrets: &Secrets,
    order: &Order,
    connection: &OwnedFd,
) -> io::Result<Result<OwnedFd, crate::credentials::Refused>> {
    let (receiver, reply) = Receiver::new(order.patience())?;
    let mut own = None;
    match secrets {
        Secrets::Own => own = Some(order.start(connection.as_fd(), reply.as_fd())?),
        Secrets::Roots(link) => {
            let mark = order.config.mark(&order.reference);
            link.credential((&order.reference, mark, order.env), connection.as_fd(), reply.as_fd())?;
        }
    }
    // So that its end is seen.
    drop(reply);
    let answer = receiver.answer().map_err(|error| match error.kind() {
        // As one of this process's own words, to be told from an errno of the supervisor's.
        io::ErrorKind::WouldBlock => io::ErrorKind::WouldBlock.into(),
        _ => error,
    });
    if let Some(mut child) = own {
        // It has answered, or takes too long.
        child.kill()?;
        child.wait()?;
    }
    answer
}
