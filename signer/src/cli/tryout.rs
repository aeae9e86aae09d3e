//! `try`: the whole way on this machine, and what it takes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::name::ServerName;
use serde_json::json;

use super::options::{FetchArgs, Usage, now, options};
use super::source::{SourceArgs, allow_typed};
use super::trial::HowArgs;
use super::{Cli, print_text};
use crate::check::CheckOptions;
use crate::fetch::Wanted;
use crate::init::{self, Source};
use crate::pack::KnownChunks;
use crate::release::ReleaseError;
use crate::trial::{self, Trial};
use crate::tryout::{self, Mounted, Place, Stop, TryError, Walls};

#[derive(Debug, Args)]
pub(super) struct Try {
    /// A recipe (servers/NAME.yaml), or a source as `init --from` takes it
    source: String,
    /// Stay mounted until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    about: SourceArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

/// Lines with the seconds since the start; to stderr where stdout is for programs.
struct Story {
    started: Instant,
    json: bool,
}

impl Story {
    fn line(&self, label: &str, text: &str) {
        let line = format!("{:5.1} {label:<9}{text}\n", self.started.elapsed().as_secs_f64());
        if self.json { tell!("{}", line.trim_end()) } else { print_text(&line) }
    }
}

pub(super) fn try_out(cli: &Cli, args: &Try) -> anyhow::Result<()> {
    let story = Story { started: Instant::now(), json: cli.json };
    let how = args.how.options()?;
    let mcpfs = tryout::find_mcpfs()?;
    let stop = Stop::watch().context("cannot watch for Ctrl-C")?;
    let place = Place::make()?;
    let mut options = options(cli, &args.fetch, None, KnownChunks::none())?;
    let recipe = recipe(&place, args, &mut options, &story)?;
    let today = now()?;
    let (released, findings) = match tryout::publish(&place, &recipe, &options, today) {
        Err(TryError::Release(ReleaseError::Findings { file, findings })) => {
            tell!("{findings}");
            return Err(ReleaseError::Findings { file, findings }.into());
        }
        other => other?,
    };
    if !findings.all().is_empty() {
        tell!("{findings}");
    }
    story.line(
        "sign",
        &format!("{} {} by a demo key → a site in {}", released.name, released.version, place.path("site").display()),
    );
    let walls = Walls::find(how.runtimes.get("bwrap"));
    if let Walls::Missing(why) = &walls {
        story.line(
            "sandbox",
            &format!("none: {why}; unless its recipe demands one, the server runs as you, with all that you may do"),
        );
    }
    let mounted = Mounted::start(&place, &mcpfs, &how, &walls, &stop)?;
    let run = tryout::run_path(&place, &released.name);
    story.line("mount", &place.path("mcp").display().to_string());
    let trial = tryout::launch(&mounted, &released.name, &how, &stop)?;
    told(&story, &run, &trial);
    if cli.json {
        let value = json!({"name": released.name, "version": released.version, "trial": trial});
        print_text(&format!("{value}\n"));
    }
    if stop.asked() {
        anyhow::bail!("stopped");
    }
    if args.keep {
        story.line("keep", &format!("{} until Ctrl-C", run.display()));
        stop.wait();
    }
    drop(mounted);
    story.line("end", "unmounted and removed");
    let problem = trial.troubles.first().filter(|_| !trial.troubles.is_empty());
    match (problem, trial.called.as_ref().filter(|called| called.failed)) {
        (Some(_), _) => Err(anyhow::anyhow!("{} does not serve as it should", released.name)),
        (None, Some(called)) => Err(anyhow::anyhow!("the tool {} failed", called.tool)),
        (None, None) => Ok(()),
    }
}

/// The recipe to try: the one that is named, or the draft of a source with nobody's values in it.
fn recipe(place: &Place, args: &Try, options: &mut CheckOptions, story: &Story) -> anyhow::Result<PathBuf> {
    let source = args.source.as_str();
    let path = Path::new(source);
    if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
        if !args.about.is_empty() {
            return Err(Usage("a recipe says its platform, lock and so on itself".to_owned()).into());
        }
        // Artefacts beside the recipes are where most people have them.
        if options.fetch.file_root.is_none() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let servers = folder.canonicalize().with_context(|| format!("cannot use {}", folder.display()))?;
            options.fetch.file_root = servers.parent().map(Path::to_owned);
        }
        story.line("recipe", source);
        return Ok(path.to_owned());
    }
    let from = Source::parse(source, options.fetch.file_root.as_deref())?;
    allow_typed(&mut options.fetch, &from.url);
    story.line("fetch", source);
    // Once: nobody keeps the digest.
    let wanted = Wanted { once: true, ..args.about.wanted()? };
    let artefacts = place.path("artefacts");
    let draft = init::draft(None, &from, &wanted, &options.fetch, &artefacts)?;
    if draft.guesses.launch.is_none() {
        let notes = draft.guesses.remarks.join("; ");
        let hint = "it does not say how it is started: write a recipe with mcpfs-signer init, then try that";
        return Err(Usage(if notes.is_empty() { hint.to_owned() } else { format!("{hint} ({notes})") }).into());
    }
    // What was just fetched is what is checked.
    options.fetch.by_digest = Some(artefacts);
    let name: &ServerName = &draft.name;
    let path = place.path("servers").join(format!("{name}.yaml"));
    std::fs::write(&path, draft.filled(&options.now.date().to_string()))?;
    story.line("recipe", &format!("guessed for {name}; mcpfs-signer init --from {source} writes it"));
    Ok(path)
}

fn told(story: &Story, run: &Path, trial: &Trial) {
    let server = trial.server.as_deref().unwrap_or("no answer");
    let took = trial.initialize_ms.map(|took| format!(", initialize in {took} ms")).unwrap_or_default();
    story.line("launch", &format!("{} → {server}{took}, {} tools", run.display(), trial.tools.len()));
    for tool in &trial.tools {
        story.line("", &format!("{}({})", tool.name, tool.parameters.join(", ")));
    }
    if let Some(called) = &trial.called {
        let how = if called.failed { "failed: " } else { "" };
        story.line("call", &format!("{} → {how}{}", called.tool, called.answer));
    }
    for trouble in &trial.troubles {
        story.line("trouble", &serde_json::to_string(trouble).unwrap_or_default());
    }
    if !trial.troubles.is_empty() {
        for line in trial.stderr.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev() {
            story.line("stderr", line);
        }
        if let Some(advice) = trial::advice(trial, &[]) {
            story.line("fix", &advice);
        }
    }
}
