//! `mcpfs verify`: a whole site, as a host would see it, and every byte of it.
//!
//! A host verifies what it uses. Before a site goes live, or after an incident, somebody
//! wants to know about all of it: every listed release, every platform, every chunk, the
//! copies for simple clients. This walks head, catalogue, bins, entries, trees and layouts
//! through the same functions as a host, reports each problem with the path and its typed
//! error, and goes on where it can. Of a directory it also hashes what nothing names any
//! more, as far as names are digests.
//!
//! Memory is bounded: one tree and layout, and a few chunks at a time.

mod objects;
#[cfg(test)]
mod tests;
mod walk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpfs_trust::error::bounded;
use mcpfs_trust::root::TrustRoot;
use serde::Serialize;

use self::walk::Walk;
use crate::cli::Global;
use crate::config;
use crate::refusal::{Exit, Refusal};
use crate::registry::now;
use crate::site::{Site, SiteSettings};
use crate::words::count;

/// Options of `mcpfs verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  mcpfs verify ./site --trust trust.json                     before publishing it
  mcpfs verify https://mcp.example.com/prod                  with this host's own trust root
  mcpfs verify ./site --trust trust.json --full --json       for a report")]
pub struct Args {
    /// The site: its address, or a directory.
    #[arg(value_name = "SITE_URL|DIR")]
    pub site: String,
    /// The trust root to verify with; by default this host's.
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Also put every file together from its chunks and compare it with its tree.
    #[arg(long)]
    pub full: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file in the site.
    pub path: String,
    /// The typed error.
    pub code: String,
    /// For people.
    pub message: String,
    #[serde(skip)]
    exit: Exit,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // The names are what is printed.
pub struct Counts {
    pub servers: u64,
    pub releases: u64,
    pub trees: u64,
    pub files: u64,
    pub chunks: u64,
    pub artefacts: u64,
    pub other_files: u64,
    pub bytes: u64,
}

/// All that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The head's version, if it verified.
    pub head: Option<u64>,
    /// What was looked at.
    pub counts: Counts,
    /// What is wrong, in path order.
    pub problems: Vec<Problem>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// How the command ends: by the worst problem.
    pub fn exit(&self) -> Exit {
        self.problems.iter().map(|problem| problem.exit).max().unwrap_or(Exit::Ok)
    }

    fn add(&mut self, path: impl Into<String>, refusal: impl Into<Refusal>) {
        let (path, refusal) = (path.into(), refusal.into());
        let exit = Exit::of(refusal.code);
        let problem = Problem { path, code: refusal.code.to_string(), message: bounded(&refusal.message), exit };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Verifies a site and prints what it found.
pub fn run(global: &Global, args: &Args) -> Exit {
    let report = match verify(args) {
        Ok(report) => report,
        Err((exit, message)) => {
            eprintln!("mcpfs: {message}");
            return exit;
        }
    };
    if global.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
        return report.exit();
    }
    for problem in &report.problems {
        println!("{}: {} ({})", problem.path, problem.code, problem.message);
    }
    for skipped in &report.skipped {
        println!("not checked: {skipped}");
    }
    if global.quiet == 0 {
        let head = report.head.map_or_else(|| "not verified".to_owned(), |version| version.to_string());
        let Counts { servers, releases, trees, files, chunks, artefacts, other_files, bytes } = report.counts;
        let counted = [
            (servers, "server"),
            (releases, "release"),
            (trees, "tree"),
            (files, "file"),
            (chunks, "chunk"),
            (artefacts, "artefact"),
            (other_files, "other file"),
            (bytes, "byte"),
        ];
        let counted = counted.map(|(number, thing)| count(number, thing)).join(", ");
        println!("{}; head {head}, {counted}", count(report.problems.len() as u64, "problem"));
    }
    report.exit()
}

/// Verifies a site.
///
/// # Errors
/// What keeps it from even beginning: the exit and a line for people.
pub fn verify(args: &Args) -> Result<Report, (Exit, String)> {
    let trust = args.trust.clone().unwrap_or_else(|| config::default_file().with_file_name("trust.json"));
    let bytes = std::fs::read(&trust).map_err(|error| {
        (Exit::Usage, format!("cannot read the trust root {}: {error}; see --trust", trust.display()))
    })?;
    let root =
        TrustRoot::parse(&bytes).map_err(|error| (Exit::of(error.code()), format!("{}: {error}", trust.display())))?;
    let directory = Path::new(&args.site).is_dir().then(|| PathBuf::from(&args.site));
    let url = match &directory {
        Some(directory) => {
            let absolute =
                directory.canonicalize().map_err(|error| (Exit::Usage, format!("{}: {error}", args.site)))?;
            url::Url::from_directory_path(absolute).map_err(|()| (Exit::Usage, format!("{}: not a path", args.site)))?
        }
        None => {
            config::mirror(&args.site).map_err(|error| (Exit::Usage, format!("{error} (and it is not a directory)")))?
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| (Exit::Refused, format!("cannot start: {error}")))?;
    let settings = SiteSettings {
        // An artefact may be large, and nobody waits in a launch.
        object_deadline: Duration::from_secs(600),
        metadata_deadline: Duration::from_secs(60),
        ..SiteSettings::with_mirrors([url.to_string()])
    };
    let site = Site::new(settings, runtime.handle().clone())
        .map_err(|error| (Exit::Usage, crate::refusal::with_cause(&error)))?;
    let walk = Walk::new(site, directory.or_else(|| url.to_file_path().ok()), root, args.full);
    Ok(runtime.block_on(walk.run(now())))
}
