//! MCPB: a zip that says in `manifest.json` how it is started (manifest 0.3 and 0.4).
//!
//! The manifest is hostile like everything else in an archive: it is bounded, parsed strictly
//! (no duplicate keys, no depth), and where it decides what runs (`server`, `mcp_config`) an
//! unknown field is refused, since a client that knows it would start something else. What the
//! manifest means for a launch is [`crate::launch`]'s matter; here it changes one thing only:
//! the program of a binary bundle becomes executable, because the packer drops the mode.
//!
//! A zip is a bundle by its content: a `manifest.json` at the root that is an object with
//! `server`, `manifest_version` or `dxt_version`, or one that cannot be read at all.

use std::collections::BTreeMap;
use std::io::Read as _;

use mcpfs_trust::json;
use serde::Deserialize;

use super::{Archive, Remark, Spool, Unpacked, UnpackedKind};

const MANIFEST: &str = "manifest.json";
/// Longest manifest, bytes: tools and prompts may be listed in it, icons may not.
const MANIFEST_BYTES: u64 = 1 << 20;
/// The versions whose meaning is known here.
const VERSIONS: [&str; 2] = ["0.3", "0.4"];

/// What a bundle's manifest says of its start.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Manifest {
    /// `0.3` or `0.4`.
    pub manifest_version: String,
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// What is started.
    pub server: Server,
    /// What its user may or must set, by key.
    #[serde(default)]
    pub user_config: BTreeMap<String, Setting>,
    /// Where it runs.
    #[serde(default)]
    pub compatibility: Compatibility,
}

/// What is started.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// What it is written in.
    #[serde(rename = "type")]
    pub kind: ServerKind,
    /// The main file, a path in the bundle.
    pub entry_point: String,
    /// How to start it; only `uv` may leave it out.
    pub mcp_config: Option<McpConfig>,
}

/// The four types of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The words of the format.
pub enum ServerKind {
    Node,
    Python,
    Binary,
    Uv,
}

/// A command, its arguments and its environment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The words of the format.
pub struct McpConfig {
    pub command: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What replaces the above on one platform, each field as a whole.
    #[serde(default)]
    pub platform_overrides: BTreeMap<String, Override>,
}

/// What one platform does in another way.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The words of the format.
pub struct Override {
    pub command: Option<String>,
    pub args: Option<Vec<String>>,
    pub env: Option<BTreeMap<String, String>>,
}

/// One setting of a bundle's user.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs)] // The words of the format.
pub struct Setting {
    #[serde(rename = "type")]
    pub kind: SettingKind,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub multiple: bool,
    #[serde(default)]
    pub sensitive: bool,
    pub default: Option<SettingValue>,
}

/// The five types of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // The words of the format.
pub enum SettingKind {
    String,
    Number,
    Boolean,
    Directory,
    File,
}

/// A default value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)] // The words of the format.
pub enum SettingValue {
    Text(String),
    Boolean(bool),
    Number(serde_json::Number),
    Texts(Vec<String>),
}

/// Where a bundle runs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Compatibility {
    /// `linux`, `darwin`, `win32`; empty for all of them.
    #[serde(default)]
    pub platforms: Vec<String>,
}

/// Reads the manifest of an unpacked zip, if it has one, and makes a binary bundle's program
/// executable. The error says what is wrong with the manifest.
pub(crate) fn read(archive: &mut Archive) -> Option<Result<Manifest, String>> {
    let bytes = match file(&archive.entries, &archive.spool)? {
        Ok(bytes) => bytes,
        Err(problem) => return Some(Err(problem)),
    };
    let value: serde_json::Value = match json::parse(&bytes, MANIFEST_BYTES, MANIFEST) {
        Ok(value) => value,
        Err(error) => return Some(Err(error.to_string())),
    };
    // Other programs have files of this name too.
    let marks = ["server", "manifest_version", "dxt_version"];
    if value.is_object() && !marks.iter().any(|mark| value.get(mark).is_some()) {
        return None;
    }
    let manifest = match manifest(value) {
        Ok(manifest) => manifest,
        Err(problem) => return Some(Err(problem)),
    };
    if let Err(problem) = has_file(&archive.entries, manifest.entry_point()) {
        return Some(Err(problem));
    }
    if manifest.server.kind == ServerKind::Binary {
        make_executable(archive, &manifest);
    }
    Some(Ok(manifest))
}

/// The bytes of `manifest.json`.
fn file(entries: &[Unpacked], spool: &Spool) -> Option<Result<Vec<u8>, String>> {
    let entry = entries.iter().find(|entry| entry.path == MANIFEST)?;
    let UnpackedKind::File { size, sha256, .. } = &entry.kind else {
        return Some(Err(format!("{MANIFEST} is not a file")));
    };
    if *size > MANIFEST_BYTES {
        return Some(Err(format!("{MANIFEST} is larger than {MANIFEST_BYTES} bytes")));
    }
    let mut bytes = Vec::new();
    let read = spool.reader(sha256)?.read_to_end(&mut bytes);
    Some(read.map(|_| bytes).map_err(|error| format!("{MANIFEST} cannot be read: {error}")))
}

fn manifest(value: serde_json::Value) -> Result<Manifest, String> {
    let version = match value.get("manifest_version").or_else(|| value.get("dxt_version")) {
        Some(serde_json::Value::String(version)) => version.clone(),
        Some(_) => return Err("manifest_version is not a text".to_owned()),
        None if value.is_object() => return Err("manifest_version is missing".to_owned()),
        None => return Err(format!("{MANIFEST} is not an object")),
    };
    if !VERSIONS.contains(&version.as_str()) {
        return Err(format!("manifest_version {version:?} is not known here: {} are", VERSIONS.join(" and ")));
    }
    if value.get("manifest_version").is_none() {
        return Err("dxt_version is the name of the time before 0.3: write manifest_version".to_owned());
    }
    objects(&value)?;
    let manifest: Manifest = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if manifest.server.kind == ServerKind::Uv {
        if version != "0.4" {
            return Err("server.type uv needs manifest_version 0.4".to_owned());
        }
    } else if manifest.server.mcp_config.is_none() {
        return Err("server.mcp_config is missing".to_owned());
    }
    let path = manifest.entry_point();
    if path.is_empty() || path.contains('\\') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("server.entry_point {path:?} is not a path inside the bundle"));
    }
    Ok(manifest)
}

/// serde reads a list as a struct too, field by field; to every other reader that is an error.
fn objects(manifest: &serde_json::Value) -> Result<(), String> {
    let members =
        |pointer: &str| manifest.pointer(pointer).and_then(serde_json::Value::as_object).into_iter().flatten();
    let below = |pointer: &'static str| members(pointer).map(move |(key, value)| (format!("{pointer}/{key}"), value));
    let single = ["/server", "/server/mcp_config", "/compatibility"];
    let found = single.into_iter().filter_map(|at| Some((at.to_owned(), manifest.pointer(at)?)));
    let mut all = found.chain(below("/server/mcp_config/platform_overrides")).chain(below("/user_config"));
    match all.find(|(_, value)| !value.is_object() && !value.is_null()) {
        Some((pointer, _)) => Err(format!("{} is not an object", pointer[1..].replace('/', "."))),
        None => Ok(()),
    }
}

fn has_file(entries: &[Unpacked], path: &str) -> Result<(), String> {
    let found = entries.iter().find(|entry| entry.path == path);
    match found.map(|entry| &entry.kind) {
        Some(UnpackedKind::File { .. } | UnpackedKind::Link { .. }) => Ok(()),
        Some(UnpackedKind::Directory) => Err(format!("server.entry_point {path:?} is a directory")),
        None => Err(format!("server.entry_point {path:?} is not in the bundle")),
    }
}

/// The entry point, and what Linux starts if that is another file of the bundle.
fn make_executable(archive: &mut Archive, manifest: &Manifest) {
    let command = manifest.on_linux().map(|config| config.command).unwrap_or_default();
    let command = ["${__dirname}/", "${__dirname}${/}", "./"]
        .iter()
        .find_map(|prefix| command.strip_prefix(prefix))
        .unwrap_or(&command);
    for entry in &mut archive.entries {
        if entry.path != manifest.entry_point() && entry.path != command {
            continue;
        }
        if let UnpackedKind::File { executable: executable @ false, .. } = &mut entry.kind {
            *executable = true;
            archive.remarks.push(Remark::MadeExecutable { path: entry.path.clone() });
        }
    }
}

impl Manifest {
    /// The entry point below the bundle's root.
    pub fn entry_point(&self) -> &str {
        self.server.entry_point.strip_prefix("./").unwrap_or(&self.server.entry_point)
    }

    /// What Linux starts: an override replaces command, arguments or environment as a whole, as
    /// in the format's own implementation.
    pub fn on_linux(&self) -> Option<McpConfig> {
        let mut config = self.server.mcp_config.clone()?;
        if let Some(own) = config.platform_overrides.remove("linux") {
            config.command = own.command.filter(|command| !command.is_empty()).unwrap_or(config.command);
            config.args = own.args.unwrap_or(config.args);
            config.env = own.env.unwrap_or(config.env);
        }
        Some(config)
    }
}
