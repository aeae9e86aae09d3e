//! `mcpfs pin` and `mcpfs unpin`: which version of a name this host shows.
//!
//! Pins made here live in one file of their own, `conf.d/90-pins.toml` beside the main
//! configuration, so that neither people nor configuration tools find their files edited.
//! The file is replaced as a whole by rename, under a lock, and the new configuration must
//! load before the daemon is asked to take it; else the old file comes back.

use std::path::{Path, PathBuf};

use mcpfs_trust::error::{Code, bounded};
use mcpfs_trust::name::ServerName;
use serde::Serialize;
use toml_edit::{DocumentMut, Item, Table, value};

use super::conf_d::{read, replace};
use super::{CommandError, Door};
use crate::config::{Config, Pin, PinsDefault};
use crate::control::facts::{Explained, Reason};
use crate::control::protocol::{Request, Target};

/// Options of `mcpfs pin`.
#[derive(Debug, Clone, clap::Args)]
pub struct PinArgs {
    /// The server.
    pub name: ServerName,
    /// The version, and the artefact's digest on this host if it must be that one.
    #[arg(value_name = "VER[@sha256:DIGEST]", value_parser = parse_pin)]
    pub pin: Pin,
    /// Why; kept as a comment in the file.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `mcpfs unpin`.
#[derive(Debug, Clone, clap::Args)]
pub struct UnpinArgs {
    /// The server.
    pub name: ServerName,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
}

/// What changed, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    name: String,
    dry_run: bool,
    /// The version that `run` started before.
    before: Option<String>,
    /// The version it starts now; unknown in a dry run of `unpin`.
    after: Option<String>,
    /// Why `run` starts nothing now.
    refused: Option<String>,
    file: PathBuf,
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    text.parse()
}

/// Pins a server and has the daemon take it.
///
/// # Errors
/// If the registry has no such version, the version is revoked, the file cannot be written,
/// or the daemon does not answer: nothing is changed then.
pub fn pin(door: &Door, args: &PinArgs) -> Result<String, CommandError> {
    let (name, version) = (&args.name, &args.pin.version);
    let before = explain(door, name.to_string())?;
    let wanted = explain(door, format!("{name}@{version}"))?;
    // What a pin is for: a yanked version, and a host that shows pinned servers only. Whatever
    // else refuses it will go on doing so.
    let pins_only = || {
        let shows = |config: Config| config.pins.default == PinsDefault::None && config.policy.exposes(name);
        before.pin.is_none() && Config::load(&door.config).is_ok_and(shows)
    };
    let is = |reason: &Reason, code: Code| reason.code == code.to_string();
    let curable = |reason: &&Reason| is(reason, Code::Yanked) || (is(reason, Code::PolicyRefused) && pins_only());
    if let Some(reason) = wanted.refused.as_ref().filter(|reason| !curable(reason)) {
        return Err(CommandError::refused(
            format!("{name} {version} cannot be used here: {} ({})", bounded(&reason.code), bounded(&reason.message)),
            format!("this host admits {}", list(&before.admitted)),
        ));
    }
    if let (Some(want), Some(release)) = (&args.pin.sha256, &wanted.release)
        && release.artefact.sha256 != *want
    {
        return Err(CommandError::refused(
            format!("the artefact of {name} {version} on this host is {}, not {want}", release.artefact.sha256),
            "pin the digest that was reviewed",
        ));
    }
    let file = pins_file(&door.config);
    let mut change = Change {
        name: name.to_string(),
        dry_run: args.dry_run,
        before: before.selected,
        after: Some(version.to_string()),
        refused: None,
        file: file.clone(),
    };
    if !args.dry_run {
        let reason = args.reason.as_deref().map(bounded);
        let edit = |document: &mut DocumentMut| set(document, name, &args.pin, reason.as_deref());
        let loaded = replace(&door.config, &file, edit, |config| match config.pins.by_name.get(name) {
            Some(pin) if *pin == args.pin => Ok(()),
            other => Err(format!(
                "another file of conf.d pins {name} to {}",
                other.map_or_else(|| "nothing".to_owned(), Pin::to_string)
            )),
        });
        loaded?;
        take(door, &mut change)?;
    }
    Ok(door.show(&change, text))
}

/// Removes a pin made by [`pin`] and has the daemon take it.
///
/// # Errors
/// If there is no such pin, the file cannot be written, or the daemon does not answer.
pub fn unpin(door: &Door, args: &UnpinArgs) -> Result<String, CommandError> {
    let name = &args.name;
    let before = explain(door, name.to_string())?;
    let file = pins_file(&door.config);
    let pinned = read(&file)?.get("pins").and_then(|pins| pins.get(name.as_str())).is_some();
    if !pinned {
        let advice = match &before.pin {
            Some(pin) => format!("it is pinned to {} by another file of conf.d or mcpfs.toml", bounded(pin)),
            None => "it is not pinned at all".to_owned(),
        };
        return Err(CommandError::refused(format!("{} has no pin of {name}", file.display()), advice));
    }
    let mut change = Change {
        name: name.to_string(),
        dry_run: args.dry_run,
        before: before.selected,
        after: None,
        refused: None,
        file: file.clone(),
    };
    if !args.dry_run {
        replace(&door.config, &file, |document| drop(remove(document, name)), |_| Ok(()))?;
        take(door, &mut change)?;
    }
    Ok(door.show(&change, |change| match (&change.after, &change.refused) {
        (Some(new), None) if Some(new) == change.before.as_ref() => {
            format!("{name} follows the registry again, which selects {new} too\n")
        }
        _ => text(change),
    }))
}

fn explain(door: &Door, name: String) -> Result<Explained, CommandError> {
    Ok(door.ask(&Request::Explain { target: Target::Name(name) })?)
}

/// Has the daemon read its configuration, and looks at what came of it.
fn take(door: &Door, change: &mut Change) -> Result<(), CommandError> {
    let _: serde::de::IgnoredAny = door.ask(&Request::Reload {})?;
    let now = explain(door, change.name.clone())?;
    change.after = now.selected;
    change.refused = now.refused.map(|reason| format!("{} ({})", reason.code, reason.message));
    Ok(())
}

fn text(change: &Change) -> String {
    let (name, old) = (&change.name, change.before.as_deref().unwrap_or("nothing"));
    if change.dry_run {
        return match &change.after {
            Some(new) if Some(new) == change.before.as_ref() => format!("would stay at {new}\n"),
            Some(new) if change.before.is_none() => format!("{name} starts nothing now, and would start {new}\n"),
            None if change.before.is_none() => format!("{name} would start what the catalogue selects\n"),
            Some(new) => format!("would switch {old} → {new}; running servers keep {old}\n"),
            None => format!("would go back from {old} to what the catalogue selects\n"),
        };
    }
    match (&change.after, &change.refused) {
        (_, Some(reason)) => format!("{} starts nothing now: {}\n", change.name, bounded(reason)),
        (Some(new), None) if Some(new) == change.before.as_ref() => format!("{} stays at {new}\n", change.name),
        (Some(new), None) if change.before.is_none() => format!("{name} starts {new} now\n"),
        (Some(new), None) => format!("switched {old} → {new}; running servers keep {old}\n"),
        (None, None) => format!("{} starts nothing now\n", change.name),
    }
}

fn list(versions: &[String]) -> String {
    match versions {
        [] => "no version of it".to_owned(),
        some => some.iter().map(|version| bounded(version)).collect::<Vec<_>>().join(", "),
    }
}

fn pins_file(config: &Path) -> PathBuf {
    config.with_file_name("conf.d").join("90-pins.toml")
}

fn set(document: &mut DocumentMut, name: &ServerName, pin: &Pin, reason: Option<&str>) {
    if document.is_empty() {
        document.decor_mut().set_prefix("# Written by `mcpfs pin` and `mcpfs unpin`.\n");
    }
    let pins = document.entry("pins").or_insert_with(|| Item::Table(Table::new()));
    let Some(pins) = pins.as_table_like_mut() else { return };
    // Removed first: the comment above an old pin is the old pin's reason.
    pins.remove(name.as_str());
    pins.insert(name.as_str(), value(pin.to_string()));
    if let (Some(reason), Some(mut key)) = (reason, pins.key_mut(name.as_str())) {
        key.leaf_decor_mut().set_prefix(format!("# {reason}\n"));
    }
}

fn remove(document: &mut DocumentMut, name: &ServerName) -> Option<Item> {
    document.get_mut("pins")?.as_table_like_mut()?.remove(name.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use super::*;

    fn host() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("mcpfs.toml");
        fs::write(&config, "[registry]\nurl = \"https://mcp.example.com\"\n").unwrap();
        let file = pins_file(&config);
        (dir, config, file)
    }

    fn name() -> ServerName {
        "hello".parse().unwrap()
    }

    fn to(pin: &str) -> Pin {
        pin.parse().unwrap()
    }

    #[test]
    fn pins_come_and_go() {
        let (_dir, config, file) = host();
        let pinned = |config: &Path| Config::load(config).unwrap().pins.by_name.get(&name()).map(Pin::to_string);
        replace(&config, &file, |document| set(document, &name(), &to("1.1.0"), Some("CVE-2026-1")), |_| Ok(()))
            .unwrap();
        assert_eq!(pinned(&config).as_deref(), Some("1.1.0"));
        let digest = format!("1.0.0@sha256:{}", "ab".repeat(32));
        replace(&config, &file, |document| set(document, &name(), &to(&digest), Some("again")), |_| Ok(())).unwrap();
        assert_eq!(pinned(&config), Some(digest.clone()));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("# again\nhello = ") && !text.contains("CVE-2026-1"), "{text}");
        replace(&config, &file, |document| drop(remove(document, &name())), |_| Ok(())).unwrap();
        assert_eq!(pinned(&config), None);
    }

    #[test]
    fn what_others_wrote_stays() {
        let (_dir, config, file) = host();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "# ours\n[pins]\n# why\nother = \"2\" # since May\n").unwrap();
        replace(&config, &file, |document| set(document, &name(), &to("1"), None), |_| Ok(())).unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "# ours\n[pins]\n# why\nother = \"2\" # since May\nhello = \"1\"\n"
        );
    }

    #[test]
    fn an_edit_that_does_not_hold_is_taken_back() {
        let (_dir, config, file) = host();
        let edit = |document: &mut DocumentMut| set(document, &name(), &to("1"), None);
        assert!(replace(&config, &file, edit, |_| Err("another file".to_owned())).is_err());
        assert!(!file.exists());
        replace(&config, &file, edit, |_| Ok(())).unwrap();
        let before = fs::read_to_string(&file).unwrap();
        // Another file breaks the configuration: the edit must not be the last straw.
        fs::write(file.with_file_name("95.toml"), "nonsense = 1\n").unwrap();
        assert!(replace(&config, &file, |document| drop(remove(document, &name())), |_| Ok(())).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), before);
    }

    #[test]
    fn the_words() {
        let change = Change {
            name: "hello".to_owned(),
            dry_run: true,
            before: Some("1.2.0".to_owned()),
            after: Some("1.1.0".to_owned()),
            refused: None,
            file: "/f".into(),
        };
        assert_eq!(text(&change), "would switch 1.2.0 → 1.1.0; running servers keep 1.2.0\n");
        let same = Change { after: Some("1.2.0".to_owned()), ..change.clone() };
        assert_eq!(text(&same), "would stay at 1.2.0\n");
        let done = Change { dry_run: false, ..change.clone() };
        assert_eq!(text(&done), "switched 1.2.0 → 1.1.0; running servers keep 1.2.0\n");
        let lost = Change { after: None, refused: Some("Yanked (old)".to_owned()), ..done };
        assert_eq!(text(&lost), "hello starts nothing now: Yanked (old)\n");
    }
}
