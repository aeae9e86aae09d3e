//! Running one change of a site: keys, state, progress, and a note of what was refused.

use std::path::Path;

use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;

use super::Cli;
use super::options::{SiteArgs, now, open, shown};
use crate::key::Keyring;
use crate::log::{Row, SignerState, public};
use crate::release::ReleaseError;
use crate::site::public::Public;
use crate::site::publish::{Publisher, Step};
use crate::trust_cmd;

/// Runs one change of a site; if it is refused, the signer's journal says so.
pub(super) fn at_site(
    cli: &Cli,
    keyring: &mut Keyring,
    args: &SiteArgs,
    action: &str,
    request: &str,
    work: impl FnOnce(&mut Keyring, &mut Publisher<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let base = args.state.clone().unwrap_or_else(SignerState::default_base);
    let state = SignerState::new(&base, &root.registry);
    let now = now()?;
    let result = prepared(cli, keyring, args, &root, &state, now, work);
    if let Err(error) = &result {
        let reason = mcpfs_trust::error::bounded(&reason(error, args));
        let (action, request) = (action.to_owned(), request.to_owned());
        let row = Row { time: Some(now), action, request, reason: Some(reason), ..Row::default() };
        if let Err(journal) = state.refuse(row) {
            tell!("mcpfs-signer: this refusal could not be noted: {:#}", anyhow::Error::from(journal));
        }
    }
    result
}

/// Why it was refused, for everybody: what the check found by rule and subject, else the error without
/// this machine's paths.
fn reason(error: &anyhow::Error, args: &SiteArgs) -> String {
    if let Some(ReleaseError::Findings { file, findings }) = error.downcast_ref() {
        let found = findings.open_errors().map(|one| format!("[{}] {}", one.rule, one.subject).trim_end().to_owned());
        return format!("{} did not pass: {}", public::name(Path::new(file)), found.collect::<Vec<_>>().join("; "));
    }
    let given = [Some(Path::new(&args.site)), Some(&args.trust), args.state.as_deref()];
    public::without_paths(&format!("{error:#}"), &given.into_iter().flatten().collect::<Vec<_>>())
}

fn prepared(
    cli: &Cli,
    keyring: &mut Keyring,
    args: &SiteArgs,
    root: &TrustRoot,
    state: &SignerState,
    now: Timestamp,
    work: impl FnOnce(&mut Keyring, &mut Publisher<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let head_keys = open(keyring, &args.head_keys)?;
    let site = args.store.open(&args.site)?;
    let public = args.public.as_deref().map(Public::new).transpose()?;
    let shown = shown(cli);
    let steps = shown.clone();
    let mut progress = |step: Step| {
        if let Some(text) = step_text(step) {
            steps.say(text);
        }
    };
    let mut publisher = Publisher {
        site: &site,
        root,
        state,
        head_keys: &head_keys,
        now,
        lifetime: i64::from(args.expires.get()) * 86_400,
        progress: &mut progress,
        shown,
        public: public.as_ref(),
    };
    work(keyring, &mut publisher)
}

fn step_text(step: Step) -> Option<&'static str> {
    Some(match step {
        Step::Objects => "objects    stored",
        Step::Artefacts => "artefact   stored",
        Step::Entry => "entry      signed and stored",
        Step::Bins => return None,
        Step::Catalogue => "catalogue  stored",
        Step::Signed => "head       signed",
        Step::Verified => "verified   as a host would",
        Step::Server | Step::Log | Step::Pages => return None,
        Step::Head => "published  the head has moved",
        Step::ReadBack => "read back  as a host would",
    })
}
