//! A trial: a checked tree is started once, in a sandbox without a network, and watched.
//!
//! What a server is can be read in its files; what it does when it starts is seen only by starting
//! it. So the tree lies read-only where a host would show it, the launch is exactly the recipe's,
//! the environment is the one that a host makes, and the first words of an MCP host are spoken to
//! it. What it opened, tried to write, started and tried to reach is written down with the fix.
//!
//! **The server is hostile.** It runs in bubblewrap: namespaces of its own, no network but its own
//! loopback, no capabilities, nothing of this host but its programs and libraries, two small
//! writable places. Everything it says or does is bounded in bytes, lines, processes, memory and
//! time, and whatever way it takes to end, all of its processes end with its process namespace.
//!
//! **The tracer is `strace`**, outside of the sandbox, where the server can neither see nor end it.
//! It is the one well-kept program that tells system calls of whole process trees on every
//! architecture, with a seccomp filter so that only calls of interest stop. All strings are asked
//! for in hexadecimal, so that nothing a server names can look like structure. Rejected: a ptrace
//! loop of our own (unsafe code, and each architecture's calling convention), seccomp's user
//! notification (arguments would be read in a race with the server), and `LD_PRELOAD` (static
//! programs do not see it, hostile ones go around it).
//!
//! A trial proves nothing: code that waits, or that looks whether it is watched, behaves. It finds
//! what honest servers need, and what careless ones do.

mod advice;
mod client;
mod events;
mod files;
mod image;
mod limits;
mod observe;
mod running;
mod said;
mod sandbox;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcpfs_trust::name::{ServerName, Version};
use mcpfs_trust::release::{Credential, Launch};
use mcpfs_trust::tree::Tree;
use serde::Serialize;
use serde_json::Value;

pub(crate) use client::Process;
pub use files::{Contents, FromSpool};
pub use observe::{Observed, Program, Write};
pub(crate) use running::{Limit, is_set, set};
pub use said::{Called, Tool, Trouble};
pub(crate) use sandbox::{CREDENTIAL, find as find_program};

/// How trials are made.
#[derive(Debug, Clone)]
pub struct TrialOptions {
    /// Where runtimes of the host are, by the name that recipes use.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// How long each answer may take.
    pub patience: Duration,
    /// A tool that is called besides, with its arguments.
    pub call: Option<(String, Value)>,
}

/// What is tried.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The server's name.
    pub name: &'a ServerName,
    /// Its version.
    pub version: &'a Version,
    /// How it is started.
    pub launch: &'a Launch,
    /// What a host would give it; a trial gives a worthless text instead.
    pub credentials: &'a [Credential],
    /// Its files.
    pub tree: &'a Tree,
}

/// What a trial showed. Texts of the server are bounded and escaped.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Trial {
    /// The server's own name and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The version of the protocol that it chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// From start to its answer to `initialize`, under the tracer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialize_ms: Option<u64>,
    /// Its tools, in its own order.
    pub tools: Vec<Tool>,
    /// Its resources on the first page, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<usize>,
    /// Its prompts on the first page, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<usize>,
    /// The tool that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub called: Option<Called>,
    /// What it did.
    #[serde(flatten)]
    pub observed: Observed,
    /// What went wrong in the conversation.
    pub troubles: Vec<Trouble>,
    /// The end of its standard error.
    pub stderr: String,
    /// Fixes for writes, by path.
    #[serde(skip)]
    pub fixes: BTreeMap<String, String>,
}

/// Why a trial could not be made. What a server does wrong is no such error.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A program that is needed is not there.
    #[error("{program} is not installed")]
    Missing {
        /// The program.
        program: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// The runtime that the launch names.
    #[error("the launch needs the runtime {name}, which is not in /usr/local/bin, /usr/bin or /bin")]
    Runtime {
        /// Its name.
        name: String,
    },
    /// The sandbox itself could not be made.
    #[error("the sandbox could not be made: {0}")]
    Sandbox(String),
    /// The program of the launch did not begin.
    #[error("the program of the launch does not start: {0}")]
    Program(String),
    /// What the tracer wrote is not understood.
    #[error("strace wrote a line that is not understood: {0}")]
    Tracer(String),
    /// The files could not be laid out.
    #[error("cannot lay out the files for a trial")]
    Files(#[source] std::io::Error),
}

impl TrialError {
    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            Self::Missing { package, .. } => format!("apt-get install {package}"),
            Self::Runtime { name } => format!("install it, or say where it is: --runtime {name}=/absolute/path"),
            Self::Sandbox(_) => "allow user namespaces for this user (Ubuntu: \
                                 sysctl kernel.apparmor_restrict_unprivileged_userns=0; the signing server's unit: \
                                 sandboxes.conf); bubblewrap must be 0.8 or later"
                .to_owned(),
            Self::Program(_) => {
                "the file, or the interpreter that its first line or its format names, is not there for a server"
                    .to_owned()
            }
            Self::Tracer(_) => "report it with the versions of strace and of the kernel".to_owned(),
            Self::Files(_) => "TMPDIR may name a folder with more room".to_owned(),
        }
    }
}

/// Makes a trial in a private folder below `scratch`.
///
/// # Errors
/// Only what keeps it from being made.
pub fn run(
    subject: &Subject<'_>,
    contents: &mut dyn Contents,
    scratch: &Path,
    options: &TrialOptions,
) -> Result<Trial, TrialError> {
    let started = Instant::now();
    let tools = sandbox::Tools::find()?;
    // Another user cannot come through a folder of root's.
    let shared = std::env::temp_dir();
    let scratch = if limits::identity().is_some() { &shared } else { scratch };
    let place = files::Place::make(scratch, subject.tree, contents).map_err(TrialError::Files)?;
    let layout = sandbox::Layout::new(subject, options, &place)?;
    tracing::debug!(took = ?started.elapsed(), "files are laid out");
    let mut running = sandbox::start(&tools, &layout, &place)?;
    let mut trial = talk(&mut running, options);
    let ended = running.end();
    if !ended.observed.started {
        return Err(sandbox::reason(&trial.stderr));
    }
    if let Some(line) = ended.misread {
        return Err(TrialError::Tracer(line));
    }
    trial.observed = ended.observed.finish(&layout.view);
    trial.troubles.extend(ended.limit);
    trial.fixes = advice::writes(&trial.observed, &place.tree());
    Ok(trial)
}

/// The conversation alone, with a server that runs wherever it does.
pub(crate) fn talk(process: &mut dyn Process, options: &TrialOptions) -> Trial {
    let mut conversation = client::Conversation::new(process, options.patience);
    conversation.hold(options.call.as_ref());
    let said = conversation.end();
    Trial {
        server: said.server,
        protocol: said.protocol,
        initialize_ms: said.initialized.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        tools: said.tools,
        resources: said.resources,
        prompts: said.prompts,
        called: said.called,
        troubles: said.troubles,
        stderr: said.stderr,
        ..Trial::default()
    }
}

/// What to add to the launch, for a server that did not say what it should.
pub fn advice(trial: &Trial, args: &[String]) -> Option<String> {
    advice::arguments(trial, args)
}
