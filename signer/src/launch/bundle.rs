//! From an MCPB manifest to a launch.
//!
//! | in `mcp_config` | here |
//! |---|---|
//! | `${__dirname}` | `${TREE}`; a command below it is a path in the tree |
//! | `${HOME}`, `${DESKTOP}`, `${DOCUMENTS}`, `${DOWNLOADS}` | `${HOME}` and folders in it |
//! | `${/}`, `${pathSeparator}` | `/` |
//! | `${user_config.KEY}` | the default; a list of them as a whole argument gives several |
//! | the same, sensitive, in a variable | a credential for that variable |
//!
//! Anything else in `${…}` is a problem: the format leaves it as it is, and a host of ours
//! would expand `${STATE}`, which the bundle's author cannot have meant.

use std::collections::BTreeMap;

use mcpfs_trust::release::Launch;

use super::{Derived, Problem, Secret};
use crate::unpack::mcpb::{Manifest, ServerKind, Setting, SettingKind, SettingValue};

/// Programs that fetch what they start.
const DOWNLOADERS: [&str; 9] = ["uv", "uvx", "pipx", "npx", "pnpx", "bunx", "npm", "docker", "podman"];

/// Whether a command fetches what it starts.
pub fn downloads(command: &str) -> bool {
    DOWNLOADERS.contains(&command)
}

/// The launch that a bundle's manifest describes on Linux.
pub fn derive(manifest: &Manifest) -> Derived {
    let mut reading = Reading { manifest, derived: Derived::default() };
    if manifest.server.kind == ServerKind::Uv {
        reading.downloads("server.type is uv: its packages would be downloaded on every host at the first start");
    } else if let Some(config) = manifest.on_linux() {
        let command = reading.command(&config.command);
        let args = reading.args(&config.args);
        let env = reading.env(&config.env);
        let launch = Launch {
            command,
            args,
            env,
            accept_args: mcpfs_trust::release::AcceptArgs::default(),
            runtime: mcpfs_trust::release::Runtime::Host,
            workdir: None,
            platform: None,
        };
        if let Err(error) = launch.validate() {
            reading.problem(error.to_string(), "");
        }
        reading.derived.launch = Some(launch);
    }
    reading.derived
}

/// What a text becomes.
enum Value {
    Text(String),
    /// One argument that becomes several, or none.
    Texts(Vec<String>),
    /// It has a secret in it.
    Secret(String),
    /// It has a setting without a value in it, and `<key>` in its place.
    Unset(String, String),
}

struct Reading<'a> {
    manifest: &'a Manifest,
    derived: Derived,
}

impl Reading<'_> {
    fn problem(&mut self, message: impl Into<String>, fix: &str) {
        self.derived.problems.push(Problem { downloads: false, message: message.into(), fix: fix.to_owned() });
    }

    fn downloads(&mut self, message: impl Into<String>) {
        let fix = "pack the server together with all it needs (server.type node, python or binary), or resolve it and \
                   write launch for what is in the bundle";
        self.derived.problems.push(Problem { downloads: true, message: message.into(), fix: fix.to_owned() });
    }

    fn command(&mut self, text: &str) -> String {
        let command = match self.value(text) {
            Value::Text(command) => command,
            Value::Unset(key, draft) => {
                self.unset(&key, "the command");
                draft
            }
            Value::Secret(_) | Value::Texts(_) => {
                self.problem(format!("the command {text:?} is not one text"), "");
                text.to_owned()
            }
        };
        if downloads(&command) {
            self.downloads(format!("the command is {command}, which downloads what it starts"));
            return command;
        }
        let inside = command.strip_prefix("${TREE}/").map(|path| path.trim_start_matches('/'));
        let relative = command.strip_prefix("./").unwrap_or(&command);
        let own = relative == self.manifest.entry_point()
            || (self.manifest.server.kind == ServerKind::Binary && relative.contains('/'));
        let path = match inside {
            Some(path) => path,
            None if own && !command.starts_with('/') && !command.contains("${") => relative,
            None => {
                if command.starts_with('/') || command.contains("${") {
                    let fix = "name a path in the bundle, or a runtime such as node";
                    self.problem(format!("the command {text:?} is a path outside the bundle"), fix);
                }
                return command;
            }
        };
        // A name without '/' and '.' would be a runtime of the host.
        if path.contains(['/', '.']) { path.to_owned() } else { format!("./{path}") }
    }

    fn args(&mut self, texts: &[String]) -> Vec<String> {
        let mut args = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if text.strip_prefix("./").unwrap_or(text) == self.manifest.entry_point() {
                // The manifest itself says that this is a file of the bundle.
                args.push(format!("${{TREE}}/{}", self.manifest.entry_point()));
                continue;
            }
            match self.value(text) {
                Value::Text(text) => args.push(text),
                Value::Texts(texts) => args.extend(texts),
                Value::Unset(key, draft) => {
                    self.unset(&key, &format!("argument {}", index + 1));
                    args.push(draft);
                }
                Value::Secret(key) => {
                    let message = format!(
                        "argument {} has the secret user_config.{key} in it, and everybody on a host can read arguments",
                        index + 1
                    );
                    self.problem(message, "have the server take it from a variable, which a credential can fill");
                    args.push(format!("<{key}>"));
                }
            }
        }
        args
    }

    fn env(&mut self, texts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for (name, text) in texts {
            match self.value(text) {
                Value::Text(value) => drop(env.insert(name.clone(), value)),
                Value::Texts(_) => self.problem(format!("the variable {name} would be a list"), ""),
                Value::Secret(key) => {
                    let around = (*text != format!("${{user_config.{key}}}")).then(|| text.clone());
                    self.derived.secrets.push(Secret { env: name.clone(), key, around });
                }
                Value::Unset(key, draft) if self.manifest.user_config.get(&key).is_some_and(|own| own.required) => {
                    self.unset(&key, &format!("the variable {name}"));
                    env.insert(name.clone(), draft);
                }
                Value::Unset(..) => self.derived.left_out.push(name.clone()),
            }
        }
        env
    }

    fn unset(&mut self, key: &str, place: &str) {
        let message = format!("{place} needs user_config.{key}, which has no default, and nobody is asked on a host");
        self.problem(message, &format!("with a value in place of <{key}>"));
    }

    fn value(&mut self, text: &str) -> Value {
        if let Some(values) = self.whole_list(text) {
            return Value::Texts(values);
        }
        let (mut secret, mut unset) = (None, None);
        let mut problems = Vec::new();
        let expanded = expand(text, &mut |name| {
            let Some(key) = name.strip_prefix("user_config.") else {
                return place(name).map(str::to_owned);
            };
            let setting = self.manifest.user_config.get(key)?;
            if setting.sensitive {
                secret.get_or_insert_with(|| key.to_owned());
                return Some(String::new());
            }
            match default(setting) {
                Ok(Some(values)) => match values.as_slice() {
                    [one] if !matches!(setting.default, Some(SettingValue::Texts(_))) => {
                        substituted(one, key, &mut problems)
                    }
                    _ => {
                        problems.push(format!("user_config.{key} is a list, but {text:?} is one text"));
                        Some(String::new())
                    }
                },
                Ok(None) => {
                    unset.get_or_insert_with(|| key.to_owned());
                    Some(format!("<{key}>"))
                }
                Err(wanted) => {
                    problems.push(format!("the default of user_config.{key} is not {wanted}"));
                    Some(String::new())
                }
            }
        });
        for message in problems {
            self.problem(message, "");
        }
        match (expanded, secret, unset) {
            (Err(name), ..) => {
                self.problem(format!("{text:?} has the unknown variable ${{{name}}} in it"), "");
                Value::Text(text.to_owned())
            }
            (_, Some(key), _) => Value::Secret(key),
            (Ok(draft), None, Some(key)) => Value::Unset(key, draft),
            (Ok(value), None, None) => Value::Text(value),
        }
    }

    /// `${user_config.KEY}` and nothing else, where the default is a list.
    fn whole_list(&mut self, text: &str) -> Option<Vec<String>> {
        let key = text.strip_prefix("${user_config.")?.strip_suffix('}')?;
        let setting = self.manifest.user_config.get(key)?;
        if setting.sensitive || !matches!(setting.default, Some(SettingValue::Texts(_))) {
            return None;
        }
        let values = default(setting).ok()??;
        let mut problems = Vec::new();
        let values = values.iter().filter_map(|value| substituted(value, key, &mut problems)).collect();
        for message in problems {
            self.problem(message, "");
        }
        Some(values)
    }
}

/// The texts of a setting's default; `None` if it has none, and the type that it should have if
/// it has another one.
fn default(setting: &Setting) -> Result<Option<Vec<String>>, &'static str> {
    let Some(value) = &setting.default else { return Ok(None) };
    let texts = match (setting.kind, value) {
        (SettingKind::Boolean, SettingValue::Boolean(value)) => vec![value.to_string()],
        (SettingKind::Number, SettingValue::Number(value)) => vec![number(value)],
        (SettingKind::Boolean, _) => return Err("true or false"),
        (SettingKind::Number, _) => return Err("a number"),
        (_, SettingValue::Text(text)) => vec![text.clone()],
        (_, SettingValue::Texts(texts)) if setting.multiple => texts.clone(),
        (_, SettingValue::Texts(_)) => return Err("one text (it is not multiple)"),
        _ => return Err("a text"),
    };
    // To the format an empty text is a missing one where a value is required.
    let missing = setting.required && texts.iter().all(String::is_empty);
    Ok(if missing { None } else { Some(texts) })
}

/// As JavaScript writes it: 10.0 is 10.
fn number(value: &serde_json::Number) -> String {
    match value.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => value.to_string(),
    }
}

/// A default with the places of its user in it.
fn substituted(value: &str, key: &str, problems: &mut Vec<String>) -> Option<String> {
    let expanded = expand(value, &mut |name| place(name).map(str::to_owned));
    expanded
        .map_err(|name| problems.push(format!("the default of user_config.{key} has the unknown variable ${{{name}}}")))
        .ok()
        .or_else(|| Some(String::new()))
}

fn place(name: &str) -> Option<&'static str> {
    Some(match name {
        "__dirname" => "${TREE}",
        "HOME" => "${HOME}",
        "DESKTOP" => "${HOME}/Desktop",
        "DOCUMENTS" => "${HOME}/Documents",
        "DOWNLOADS" => "${HOME}/Downloads",
        "/" | "pathSeparator" => "/",
        _ => return None,
    })
}

/// Replaces each `${name}`; the error is a name that nobody knows. What is put in is not looked
/// at again.
fn expand(text: &str, known: &mut dyn FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, left)) = after.split_once('}') else {
            out.push_str("${");
            rest = after;
            continue;
        };
        out.push_str(&known(name).ok_or_else(|| name.to_owned())?);
        rest = left;
    }
    out.push_str(rest);
    Ok(out)
}
