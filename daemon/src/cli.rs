//! The command line: what can be typed, and nothing about how it is done.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::commands::{self, CommandError, Door};
use crate::config::{self, CacheConfig, Config, CredentialConfig, Texts};
use crate::daemon::refused;
use crate::refusal::with_cause;
use crate::refusal::{Exit, Refusal};
use crate::run;
use crate::site::Secrets;
use crate::supervisor::User;
use crate::words::size;

/// Mounts a signed MCP registry at /mcp: only what verifies is readable, every access is recorded.
#[derive(Debug, Parser)]
#[command(
    name = "mcpfs",
    version,
    after_help = "Exit codes: 0 ok, 1 refused, 2 usage, 3 unreachable, 4 integrity failure, 77 launch refused.

Examples:
  mcpfs config check                       look for mistakes before a restart
  mcpfs doctor                             what is wrong on this host, and the fix
  mcpfs mount                              mount what /etc/mcpfs/mcpfs.toml says, and return
  mcpfs ls --all                           names, versions, and why some are refused
  mcpfs explain /mcp/internal-postgres     who signed it, under which head
  mcpfs pin internal-postgres 1.1.0        stay on a version, or go back to it
  mcpfs audit query --server internal-postgres --since 7d
  mcpfs verify https://mcp.example.com/prod --trust trust.json"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The main configuration file; conf.d is read beside it.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print facts as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say less; twice: errors only.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub quiet: u8,
    /// Say more; twice: everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount the registry and serve it until it is unmounted or this process gets SIGTERM.
    ///
    /// Returns as soon as the mount answers; what goes wrong before that is said here.
    /// SIGHUP reads configuration and trust root again and looks at the registry at once.
    #[command(after_help = "Examples:
  mcpfs mount                                    as the configuration says
  mcpfs mount --foreground                       stay, log to stderr (for systemd)
  mcpfs --config ./mcpfs.toml mount --at ~/mcp   a user's own mount")]
    Mount(run::MountArgs),
    /// Take the mount away; its daemon ends. What runs from it goes on as far as it is open.
    Unmount(commands::unmount::Args),
    /// The state of the mount, in one line and then in detail.
    Status,
    /// The servers that this host shows.
    Ls(commands::ls::Args),
    /// Why a name, a path or a process is or is not what somebody expected.
    #[command(after_help = "Examples:
  mcpfs explain internal-postgres             what `run` starts, who signed it
  mcpfs explain internal-postgres@1.2.0       why a version is refused
  mcpfs explain /mcp/internal-postgres/run    a path in the mount
  mcpfs explain 4242                          what a process runs")]
    Explain(commands::explain::Args),
    /// Stay on one version of a server, or go back to one.
    Pin(commands::pin::PinArgs),
    /// Follow the registry's choice again.
    Unpin(commands::pin::UnpinArgs),
    /// Open and start nothing of a server on this host any more, whatever the registry says.
    ///
    /// Holds until `mcpfs resume`, also over restarts, and needs neither network nor daemon.
    Stop(commands::stop::StopArgs),
    /// Take `mcpfs stop` back.
    Resume(commands::stop::ResumeArgs),
    /// The processes that run servers, those of withdrawn releases with `--revoked`.
    #[command(after_help = "Examples:
  mcpfs ps                        everything that runs from the mount
  mcpfs ps --revoked              what still runs of releases that were revoked
  mcpfs ps --revoked --kill       end those, and what they started")]
    Ps(commands::ps::Args),
    /// Look at the registry now.
    Refresh,
    /// Take over what stands in the configuration and the trust root now.
    ///
    /// Ends when the mount shows what then holds. What cannot be used is refused as a whole, with its file and line,
    /// and what was in force stays. For administrators; `systemctl reload` does the same.
    Reload,
    /// Check a whole site as a host would, and every byte of it against its digest.
    Verify(commands::verify::Args),
    /// Read the record of all decisions, and prove that nobody changed it.
    #[command(subcommand)]
    Audit(AuditQuestion),
    /// Look for what stands in the way of a mount, and say the fix of each.
    ///
    /// Works with and without a running daemon, as root and as a user. Ends with 1 if something is
    /// wrong; notes and what this user cannot see do not count.
    #[command(after_help = "Examples:
  mcpfs doctor                 everything, one line each
  mcpfs doctor -q              only what is wrong
  mcpfs doctor --json          for monitoring; the codes are in docs/operating.md")]
    Doctor,
    /// Look at configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum AuditQuestion {
    #[command(flatten)]
    Store(commands::audit::AuditCommand),
    /// Who here ran something that carries a package; the site says what releases carry
    #[command(name = "who-uses")]
    WhoUses(commands::who_uses::WhoUses),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read all configuration files and the trust root as `mount` would, and say what is wrong.
    Check,
}

impl Global {
    /// The configuration that the command is about.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn load(&self) -> Result<Config, Refusal> {
        Config::load(&self.file()).map_err(refused)
    }

    /// The main configuration file.
    pub fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(config::default_file)
    }

    /// tracing's filter for the given `-q` and `-v`.
    pub fn level(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (2.., _) => "error",
            (1, _) => "warn",
            (_, 0) => "info",
            (_, 1) => "info,mcpfs=debug",
            (_, _) => "debug,mcpfs=trace",
        }
    }
}

/// The command line as a tree, for man pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs `mcpfs` with these arguments.
pub fn main(args: Vec<std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, mistakes to stderr with 2.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            drop(error.print());
            return exit.into();
        }
    };
    let Cli { global, command } = cli;
    match command {
        Command::Mount(args) => run::mount(&global, &args).into(),
        Command::Unmount(args) => commands::unmount::run(&global, &args).into(),
        Command::Status => ask(&global, commands::status::run),
        Command::Ls(args) => ask(&global, |door| commands::ls::run(door, &args)),
        Command::Explain(args) => ask(&global, |door| commands::explain::run(door, &args)),
        Command::Pin(args) => ask(&global, |door| commands::pin::pin(door, &args)),
        Command::Unpin(args) => ask(&global, |door| commands::pin::unpin(door, &args)),
        Command::Stop(args) => ask(&global, |door| commands::stop::stop(door, &args)),
        Command::Resume(args) => ask(&global, |door| commands::stop::resume(door, &args)),
        Command::Ps(args) => ask(&global, |door| commands::ps::run(door, &args)),
        Command::Refresh => ask(&global, commands::refresh::run),
        Command::Reload => commands::finish(commands::reload::run(global.config.as_deref(), global.json)),
        Command::Doctor => commands::doctor::run(&global).into(),
        Command::Verify(args) => commands::verify::run(&global, &args).into(),
        Command::Audit(command) => audit(&global, &command),
        Command::Config(ConfigCommand::Check) => check_config(&global).into(),
    }
}

/// A command that asks the running daemon.
fn ask(global: &Global, command: impl FnOnce(&Door) -> Result<String, CommandError>) -> ExitCode {
    let door = Door::find(global.config.as_deref(), global.json).map_err(CommandError::from);
    commands::finish(door.and_then(|door| command(&door)))
}

/// The audit is read without a daemon, and without a configuration where `--db` names it.
fn audit(global: &Global, question: &AuditQuestion) -> ExitCode {
    let command = match question {
        AuditQuestion::Store(command) => command,
        AuditQuestion::WhoUses(options) => return who_uses(global, options),
    };
    let state = match Config::load(&global.file()) {
        Ok(config) => config.state,
        Err(error) if global.config.is_some() => {
            eprintln!("mcpfs: {}", with_cause(&error));
            return Exit::Usage.into();
        }
        Err(_) => config::default_state(),
    };
    match commands::audit::run(command, &state.join("audit.db"), global.json, &mut std::io::stdout().lock()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mcpfs: {}", with_cause(&error));
            Exit::Refused.into()
        }
    }
}

fn who_uses(global: &Global, options: &commands::who_uses::WhoUses) -> ExitCode {
    let config = match Config::load(&global.file()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("mcpfs: {}", with_cause(&error));
            return Exit::Usage.into();
        }
    };
    let out = &mut std::io::stdout().lock();
    match commands::who_uses::run(options, &config.state.join("audit.db"), &config, global.json, out) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("mcpfs: {}", with_cause(&error));
            error.exit().into()
        }
    }
}

fn check_config(global: &Global) -> Exit {
    let read = Texts::read(&global.file()).and_then(Texts::with_groups);
    let (texts, config) = match read.and_then(|texts| texts.config().map(|config| (texts, config))) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("mcpfs: {}", with_cause(&error));
            return Exit::Usage;
        }
    };
    let (root, _) = match crate::daemon::trust(&config.trust, |_| Ok(None)) {
        Ok(trust) => trust,
        Err(refusal) => {
            eprintln!("mcpfs: {refusal}");
            return Exit::of(refusal.code);
        }
    };
    if rustix::process::geteuid().is_root()
        && let Err(problem) = User::named(&config.user)
    {
        eprintln!("mcpfs: {}: {problem}", config.file.display());
        return Exit::Usage;
    }
    // The site is not asked, but all that it is asked with is there.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mcpfs: cannot start: {error}");
            return Exit::Refused;
        }
    };
    if let Err(refusal) = crate::daemon::site(&config, runtime.handle(), &Secrets::Own) {
        eprintln!("mcpfs: {}: {}", config.file.display(), refusal.message);
        return Exit::Usage;
    }
    // A mount starts without them: what needs one of these does not.
    let unusable: Vec<String> = config
        .credentials
        .iter()
        .filter_map(|(reference, entry)| {
            let crate::credentials::Unusable { key, why } = crate::credentials::usable(entry).err()?;
            Some(texts.mistake(format!("credentials.{reference}.{key}: {why}")).to_string())
        })
        .collect();
    for problem in &unusable {
        eprintln!("mcpfs: {problem}");
    }
    if !unusable.is_empty() {
        return Exit::Usage;
    }
    let mirrors: Vec<_> = config.registry.mirrors.iter().map(ToString::to_string).collect();
    if global.json {
        let facts = serde_json::json!({
            "config": config.file, "trust": config.trust, "registry": root.registry, "trust_version": root.version,
            "mirrors": mirrors, "mount": config.mount.at, "pins": config.pins.by_name.len(),
            "access": config.access.facts(), "credentials": credential_facts(&config), "retention": {"audit": config.retention.audit.to_string()},
            "cache": {"dir": config.cache.dir, "quota": config.cache.quota, "keep_free": config.cache.keep_free},
        });
        println!("{facts:#}");
    } else if global.quiet == 0 {
        println!(
            "{}: ok\n  registry  {} (trust root version {}, {} keys)\n  site      {}\n  mount     {}\n  cache     {}\n  \
             pins      {}\n  access    {}\n  refs      {}\n  audit     kept {}",
            config.file.display(),
            root.registry,
            root.version,
            root.keys().count(),
            mirrors.join(", "),
            config.mount.at.display(),
            cache_words(&config.cache),
            config.pins.by_name.len(),
            config.access,
            credential_words(&config),
            config.retention.audit,
        );
    }
    Exit::Ok
}

/// Which credentials this host has sources for, and for whom.
fn credential_facts(config: &Config) -> serde_json::Value {
    let fact = |(reference, entry): (&String, &CredentialConfig)| {
        let (source, servers) = (entry.source.key(), &entry.servers);
        serde_json::json!({"ref": reference, "source": source, "servers": servers, "groups": entry.groups})
    };
    config.credentials.iter().map(fact).collect()
}

/// The same in a line.
fn credential_words(config: &Config) -> String {
    let words: Vec<_> = config.credentials.iter().map(|(reference, entry)| format!("{reference}: {entry}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join("; ") }
}

/// The cache's place and bounds in a line.
fn cache_words(cache: &CacheConfig) -> String {
    let free = match cache.keep_free {
        Some(bytes) => size(bytes),
        None => "a twentieth, at most 5 GiB,".to_owned(),
    };
    format!("{}, at most {}; {free} of its file system stays free", cache.dir.display(), size(cache.quota))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for words in ["--json -q config check", "config check --json -q", "config --json check -q"] {
            let cli = Cli::try_parse_from(std::iter::once("mcpfs").chain(words.split(' '))).unwrap();
            assert!(cli.global.json && cli.global.quiet == 1, "{words}");
        }
    }
}
