//! `mcpfs audit`: read the record, follow it, prove it, and begin anew after damage.
//!
//! The commands open the file themselves, read-only, so they work for whoever may read it
//! and also when the daemon does not run.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use mcpfs_trust::error::Code;
use mcpfs_trust::name::{ServerName, Version};

use crate::audit::query::{AccessRow, Filter, Moment, Reader};
use crate::audit::verify::{Anchor, Verification, moment, verify};
use crate::audit::{AuditError, EventKind, clean, restart};
use crate::caller::Caller;

/// Exit code when the audit does not fit its seals.
pub const INTEGRITY: u8 = 4;

/// How often `tail -f` looks.
const FOLLOW: Duration = Duration::from_millis(500);

/// `mcpfs audit …`
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// Show what happened, oldest first
    Query(Query),
    /// Show the newest rows, and with -f each new one
    Tail(Tail),
    /// Check all rows against their seals; exit code 4 if they do not fit
    Verify(Verify),
    /// Move a damaged audit aside and begin a new one that names its last seal (daemon stopped)
    Restart(Restart),
}

/// Options of `mcpfs audit query`.
#[derive(Debug, Clone, Args)]
pub struct Query {
    /// Not before: 2026-04-15T09:30:00Z, 2026-04-15, or how long ago (90s, 15m, 24h, 30d)
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before, in the same forms
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// By this user: a name, or a real or login uid
    #[arg(long)]
    user: Option<String>,
    /// Of this server: NAME or NAME@VERSION
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = server)]
    server: Option<String>,
    /// Of this kind
    #[arg(long, value_parser = PossibleValuesParser::new(EventKind::ALL.map(EventKind::as_str)))]
    event: Option<String>,
    /// With this outcome: ok, refused (all but ok), or a code such as Revoked
    #[arg(long, value_name = "CODE", value_parser = outcome)]
    outcome: Option<String>,
    /// The newest N of them; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Another audit than this host's, such as a copy
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// Options of `mcpfs audit tail`.
#[derive(Debug, Clone, Args)]
pub struct Tail {
    /// Go on with new rows until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Begin with the newest N rows
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: u32,
    /// Another audit than this host's
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// Options of `mcpfs audit verify`.
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// A seal that was noted elsewhere; shows whether the end was cut off or all was rewritten (may be repeated)
    #[arg(long, value_name = "HASH@SEQ[@TIME]")]
    anchor: Vec<Anchor>,
    /// Another audit than this host's, such as a copy
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// Options of `mcpfs audit restart`.
#[derive(Debug, Clone, Args)]
pub struct Restart {
    /// Why; it is the new audit's first row
    #[arg(long)]
    reason: String,
    /// Another audit than this host's
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

/// Runs the command on the audit at `db` (unless it names another) and returns the exit code.
///
/// # Errors
/// If the audit cannot be read, in words for a person. A reader of `out` that goes away ends the command well.
pub fn run(command: &AuditCommand, db: &Path, json: bool, out: &mut dyn Write) -> Result<u8, AuditError> {
    let at = |other: &Option<PathBuf>| other.clone().unwrap_or_else(|| db.to_owned());
    let written = match command {
        AuditCommand::Query(query) => {
            let reader = Reader::open(&at(&query.db))?;
            let rows = reader.rows(&query.filter())?;
            let note = if rows.is_empty() { query.unseen(&reader)? } else { None };
            match note {
                Some(note) if !json => writeln!(out, "no rows: {note}").map(|()| 0),
                _ => show(&rows, true, json, out).map(|()| 0),
            }
        }
        AuditCommand::Tail(options) => return tail(options, &at(&options.db), json, out),
        AuditCommand::Verify(options) => report(&verify(&at(&options.db), &options.anchor)?, json, out),
        AuditCommand::Restart(options) => {
            let caller =
                Caller::of(std::process::id(), rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            let done = restart(&at(&options.db), caller, &options.reason)?;
            let seal = done.old_seal.as_deref();
            if json {
                writeln!(out, "{}", serde_json::json!({ "moved_to": done.moved_to, "old_seal": seal }))
            } else {
                let seal = seal.unwrap_or("(could not be read)");
                writeln!(
                    out,
                    "moved to   {}\nits last seal   {seal}\na new audit is begun; keep the old one",
                    done.moved_to.display()
                )
            }
            .map(|()| 0)
        }
    };
    // A pager that was closed is no fault.
    Ok(written.unwrap_or(0))
}

/// What can stand behind `--outcome`: a misspelt code must not look like a clean record.
fn outcome(text: &str) -> Result<String, String> {
    let known: Vec<String> =
        ["ok", "refused"].map(str::to_owned).into_iter().chain(Code::ALL.iter().map(ToString::to_string)).collect();
    if known.iter().any(|code| code == text) {
        return Ok(text.to_owned());
    }
    let likeness = |code: &&String| strsim::jaro_winkler(&text.to_lowercase(), &code.to_lowercase());
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|code| likeness(code) > 0.7);
    let meant = nearest.map(|code| format!("did you mean {code}? ")).unwrap_or_default();
    Err(format!("there is no such outcome; {meant}There are: {}", known.join(", ")))
}

/// What can stand behind `--server`: a name that no server can have must not look like a clean record.
fn server(text: &str) -> Result<String, String> {
    let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
    name.parse::<ServerName>().map_err(|error| error.to_string())?;
    version.map(str::parse::<Version>).transpose().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

impl Query {
    /// Whether what was asked for was never seen at all, in words; nobody and nothing must not look alike.
    ///
    /// # Errors
    /// `UnknownUser` for a name that neither this host nor the audit knows.
    fn unseen(&self, reader: &Reader) -> Result<Option<String>, AuditError> {
        let never = |filter: Filter| Ok::<_, AuditError>(reader.rows(&Filter { limit: Some(1), ..filter })?.is_empty());
        if let Some(user) = &self.user
            && never(Filter { user: Some(user.clone()), ..Filter::default() })?
        {
            let number = user.parse::<u32>().is_ok();
            // The user database may be slow or away; only its clear no counts.
            if !number && matches!(nix::unistd::User::from_name(user), Ok(None)) {
                return Err(AuditError::UnknownUser { name: clean(user, 64) });
            }
            return Ok(Some(format!("this audit has none of user {}", clean(user, 64))));
        }
        if let Some(server) = &self.server
            && never(Filter { server: Some(server.clone()), ..Filter::default() })?
        {
            return Ok(Some(format!("this audit has none of server {server}; for the names, see mcpfs ls")));
        }
        Ok(None)
    }

    fn filter(&self) -> Filter {
        Filter {
            since: self.since,
            until: self.until,
            user: self.user.clone(),
            server: self.server.clone(),
            event: EventKind::ALL.into_iter().find(|kind| self.event.as_deref() == Some(kind.as_str())),
            outcome: self.outcome.clone(),
            after: None,
            limit: (self.limit > 0).then_some(self.limit),
        }
    }
}

fn tail(options: &Tail, db: &Path, json: bool, out: &mut dyn Write) -> Result<u8, AuditError> {
    let reader = Reader::open(db)?;
    let mut rows = reader.rows(&Filter { limit: Some(options.lines), ..Filter::default() })?;
    let newest = reader.rows(&Filter { limit: Some(1), ..Filter::default() })?;
    let mut last = newest.last().and_then(|row| row.number("seq")).unwrap_or(0);
    let mut first = true;
    loop {
        if show(&rows, first, json, out).and_then(|()| out.flush()).is_err() || !options.follow {
            return Ok(0);
        }
        first = false;
        std::thread::sleep(FOLLOW);
        rows = reader.rows(&Filter { after: Some(last), ..Filter::default() })?;
        last = rows.last().and_then(|row| row.number("seq")).unwrap_or(last);
    }
}

/// A column of the table: heading, least width, and what stands there.
type Column = (&'static str, usize, fn(&AccessRow) -> String);

const TABLE: [Column; 7] = [
    ("TIME (UTC)", 20, |row| {
        row.text("time").map(|time| format!("{}Z", time.get(..19).unwrap_or(&time))).unwrap_or_default()
    }),
    ("EVENT", 8, |row| {
        let event = row.text("event").unwrap_or_default();
        match row.number("count") {
            Some(count) if count > 1 => format!("{event} ×{count}"),
            _ => event,
        }
    }),
    ("OUTCOME", 10, |row| {
        let stale = if row.number("stale") == Some(1) { " (stale)" } else { "" };
        format!("{}{stale}", row.text("verification_outcome").unwrap_or_default())
    }),
    ("USER", 8, |row| {
        let user = row.text("user_name").or_else(|| row.text("user_id")).unwrap_or_else(|| "-".to_owned());
        // Who logged in, where that is somebody else: sudo shows.
        match (row.number("login_uid"), row.number("user_id")) {
            (Some(login), Some(user_id)) if login != user_id => format!("{user} (login {login})"),
            _ => user,
        }
    }),
    ("SERVER", 16, |row| match (row.text("server_name"), row.text("version")) {
        (Some(name), Some(version)) => format!("{name} {version}"),
        (Some(name), None) => name,
        (None, _) => "-".to_owned(),
    }),
    ("FROM", 10, |row| {
        let process = row.text("process").map(|path| path.rsplit('/').next().unwrap_or_default().to_owned());
        let pid = row.text("pid").map(|pid| format!("[{pid}]")).unwrap_or_default();
        match (row.text("host_app"), process) {
            (Some(app), Some(process)) if app != process => format!("{app} → {process}{pid}"),
            (Some(one), _) | (None, Some(one)) => format!("{one}{pid}"),
            (None, None) => "-".to_owned(),
        }
    }),
    ("DETAIL", 0, |row| row.text("reason").or_else(|| row.text("path")).unwrap_or_default()),
];

fn show(rows: &[AccessRow], heading: bool, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        for row in rows {
            writeln!(out, "{}", row.json())?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        return if heading { writeln!(out, "no rows") } else { Ok(()) };
    }
    // Stored text was escaped when it was written; a file that somebody altered may hold anything.
    let cells: Vec<[String; 7]> = rows.iter().map(|row| TABLE.map(|(_, _, text)| clean(&text(row), 200))).collect();
    let width = |column: usize, least: usize| {
        let longest = cells.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max();
        longest.unwrap_or(0).max(least).min(48)
    };
    let widths: Vec<usize> = TABLE.iter().enumerate().map(|(column, (_, least, _))| width(column, *least)).collect();
    let mut line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    if heading {
        line(&TABLE.map(|(heading, _, _)| heading.to_owned()))?;
    }
    cells.iter().try_for_each(|cells| line(cells))
}

fn report(found: &Verification, json: bool, out: &mut dyn Write) -> io::Result<u8> {
    let code = if found.intact() { 0 } else { INTEGRITY };
    let last = found.last.map(|seal| seal.to_string());
    if json {
        let value = serde_json::json!({
            "intact": found.intact(), "rows": found.rows, "seals": found.seals, "last_seal": last,
            "cut": found.cut.as_ref().map_or(0, |cut| cut.last_seq),
            "removed": found.cut.as_ref().map(|cut| serde_json::json!({
                "rows": cut.rows, "last_seq": cut.last_seq, "policy": cut.policy, "at": moment(cut.time_us),
                "before": cut.before_us.map(moment),
            })),
            "notes": found.notes,
            "erased_callers": found.erased, "findings": found.findings, "more_findings": found.more,
        });
        writeln!(out, "{value}")?;
        return Ok(code);
    }
    for finding in &found.findings {
        writeln!(out, "{finding}")?;
    }
    if found.more > 0 {
        writeln!(out, "… and {} more", found.more)?;
    }
    let verdict = if found.intact() { "audit ok" } else { "AUDIT ALTERED" };
    writeln!(out, "{verdict}: {} rows fit their {} seals", found.rows, found.seals)?;
    if let Some(cut) = &found.cut {
        let rows = crate::words::count(cut.rows.unsigned_abs(), "row");
        let before = cut.before_us.map(|time| format!(", those of before {}", moment(time))).unwrap_or_default();
        let (policy, at) = (&cut.policy, moment(cut.time_us));
        writeln!(
            out,
            "{rows} up to row {}{before} were removed under policy {policy}, the last at {at}",
            cut.last_seq
        )?;
    }
    for note in &found.notes {
        writeln!(out, "{note}")?;
    }
    match last {
        Some(last) => writeln!(
            out,
            "last seal: {last}\nNote it elsewhere; later `--anchor {last}` shows whether anything up to it was cut off or rewritten."
        )?,
        None => writeln!(out, "no seal yet")?,
    }
    Ok(code)
}

#[cfg(test)]
mod tests;
