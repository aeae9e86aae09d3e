//! `gc`: removing what no host can ask for any more.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::name::{ServerName, Version};

use super::options::{LookArgs, Usage, now, shown};
use super::{Cli, print};
use crate::files;
use crate::site::gc::{Collected, Collector, Pinned};
use crate::site::store::GRACE;

/// A pins file, bytes.
const PINS_BYTES: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct Gc {
    #[command(flatten)]
    look: LookArgs,
    /// Releases that hosts pin: a host's 90-pins.toml, or lines NAME@VERSION[@SHA256]; may be repeated
    #[arg(long, value_name = "FILE")]
    pins: Vec<PathBuf>,
    /// Keep what is younger, such as 7d or 12h; at least 1h, since a publisher may be at work
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    grace: i64,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn gc(cli: &Cli, args: &Gc) -> anyhow::Result<()> {
    let (site, root) = args.look.open()?;
    let mut pins = Vec::new();
    for file in &args.pins {
        let text = String::from_utf8(files::read_bounded(file, PINS_BYTES)?);
        let text = text.with_context(|| format!("{} is not UTF-8", file.display()))?;
        pins.extend(read_pins(&text).map_err(|problem| Usage(format!("{}: {problem}", file.display())))?);
    }
    let collector = Collector {
        site: &site,
        root: &root,
        now: now()?,
        grace: args.grace,
        pins: &pins,
        dry_run: args.dry_run,
        shown: shown(cli),
    };
    let collected = collector.collect()?;
    print(cli, &collected, || text(&collected));
    Ok(())
}

fn text(collected: &Collected) -> String {
    let mut text = String::new();
    if collected.dry_run {
        for (name, size) in &collected.removed {
            text.push_str(&format!("{size:>12} {name}\n"));
        }
    }
    for name in &collected.damaged {
        text.push_str(&format!("damaged: {name} is missing or cut; restore it from a backup or another mirror\n"));
    }
    let what = if collected.dry_run { "would remove" } else { "removed" };
    text + &format!(
        "{what} {} files, {} bytes; kept {} and {} new ones; heads that hosts may have: {}\n",
        collected.removed.len(),
        collected.bytes,
        collected.kept,
        collected.young,
        collected.heads
    )
}

/// `90m`, `12h`, `7d`.
fn seconds(text: &str) -> Result<i64, String> {
    let unit = match text.chars().last() {
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err("write a time such as 7d, 12h or 90m".to_owned()),
    };
    let number: i64 = text[..text.len() - 1].parse().map_err(|_| "write a time such as 7d, 12h or 90m".to_owned())?;
    match number.checked_mul(unit) {
        Some(seconds) if (GRACE..=31_536_000).contains(&seconds) => Ok(seconds),
        _ => Err("from 1h to 365d".to_owned()),
    }
}

/// Both forms; a pin that cannot be read must not be overlooked.
fn read_pins(text: &str) -> Result<Vec<Pinned>, String> {
    let is_table = text.lines().map(str::trim).any(|line| line == "[pins]");
    let mut pins = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('[') {
            inside = line == "[pins]";
            continue;
        }
        let pin = match is_table {
            true if !inside => continue,
            true => match line.split_once('=').map(|(key, value)| (unquoted(key), unquoted(value))) {
                Some(("default", _)) => continue,
                Some((name, pin)) => parsed(&format!("{name}@{pin}")),
                None => None,
            },
            false => parsed(line),
        };
        pins.push(pin.ok_or_else(|| format!("line {}: not a pin: {line:?}", index + 1))?);
    }
    Ok(pins)
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

fn parsed(text: &str) -> Option<Pinned> {
    let mut parts = text.split('@');
    let name: ServerName = parts.next()?.parse().ok()?;
    let version: Version = parts.next()?.parse().ok()?;
    let sha256 = match parts.next() {
        None => None,
        Some(digest) => Some(digest.strip_prefix("sha256:").unwrap_or(digest).parse::<Digest>().ok()?),
    };
    parts.next().is_none().then_some(Pinned { name, version, sha256 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_of_pins_and_no_third() {
        let digest = Digest::EMPTY.to_string();
        let lines = read_pins(&format!("# ours\nhello@1.0.0\nhello@1.1.0@{digest}\n")).unwrap();
        let table = read_pins(&format!(
            "# x\n[pins]\ndefault = \"none\"\nhello = \"1.0.0\" # slow\n\"he.llo\" = \"1.1.0@sha256:{digest}\"\n[policy]\na = 1\n"
        ));
        let shown = |pins: &[Pinned]| {
            pins.iter().map(|pin| (pin.version.to_string(), pin.sha256.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(shown(&lines), [("1.0.0".to_owned(), false), ("1.1.0".to_owned(), true)]);
        assert_eq!(shown(&table.unwrap()), shown(&lines));
        for text in ["hello", "hello@", "hello@1.0.0@xyz", "[pins]\nhello = 1.x.0!\n"] {
            assert!(read_pins(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!((seconds("7d"), seconds("90m")), (Ok(604_800), Ok(5_400)));
        for text in ["", "7", "d", "-1d", "59m", "366d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
