//! From values with places to a [`Recipe`].

use std::collections::BTreeMap;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::limits;
use mcpfs_trust::name::{Platform, RegistryName};
use mcpfs_trust::release::{AcceptArgs, Credential, Launch, Network, Runtime, Sandbox};
use url::Url;

use super::fields::{Fields, Reading};
use super::yaml::{self, Node, Value};
use super::{ArtefactSource, Position, Problem, Recipe};
use crate::bundle::{CommitId, Inputs, PythonVersion, Registry, Source};

pub(super) const RECIPE: &[&str] = &[
    "name",
    "version",
    "maintainer",
    "description",
    "scope",
    "data_classification",
    "lawful_basis",
    "reviewed_at",
    "reviewers",
    "artefact",
    "launch",
    "credentials",
    "sandbox",
    "signature",
];
pub(super) const ARTEFACT: &[&str] = &["url", "sha256", "platform", "commit", "submodules", "lfs", "lock", "python"];
pub(super) const LAUNCH: &[&str] = &["command", "args", "env", "accept_args", "runtime", "workdir", "platform"];
pub(super) const CREDENTIAL: &[&str] = &["env", "file", "ref", "scope"];
pub(super) const SANDBOX: &[&str] = &["network", "read", "write"];

/// The URL schemes a recipe may name. Which of them a signer can fetch is its own matter.
const SCHEMES: &[&str] = &["https", "http", "file", "oci", "git+https", "git+file", "npm", "pypi"];

/// Reads a recipe, or everything that is wrong with it.
pub(super) fn read(text: &str, file: &str) -> Result<Recipe, Vec<Problem>> {
    let root =
        yaml::parse(text).map_err(|bad| vec![Problem { at: bad.at, field: String::new(), message: bad.problem }])?;
    let mut reading = Reading::default();
    let recipe = recipe(&root, file, &mut reading);
    match recipe {
        Some(mut recipe) if reading.problems.is_empty() => {
            recipe.places = reading.places;
            // Any name will do here: the rules of the release format are what is asked for.
            let registry: Result<RegistryName, _> = "draft".parse();
            let registry = registry.map_err(|error| vec![at_start(error.to_string())])?;
            recipe.draft(&registry).map_err(|errors| errors.problems)?;
            Ok(recipe)
        }
        None if reading.problems.is_empty() => Err(vec![at_start("not a recipe".to_owned())]),
        _ => Err(reading.problems),
    }
}

fn at_start(message: String) -> Problem {
    Problem { at: Position::START, field: String::new(), message }
}

fn recipe(root: &Node, file: &str, reading: &mut Reading) -> Option<Recipe> {
    let fields = reading.fields(root, "", RECIPE)?;
    // Each field is read before any is missed, so that all problems are found in one go.
    let name = required(&fields, "name", reading, Reading::parsed::<mcpfs_trust::name::ServerName>);
    let version = required(&fields, "version", reading, Reading::parsed);
    let maintainer = required(&fields, "maintainer", reading, Reading::text);
    let description = required(&fields, "description", reading, Reading::text);
    let scope = list(&fields, "scope", reading);
    let data_classification = required(&fields, "data_classification", reading, Reading::text);
    let lawful_basis = optional(&fields, "lawful_basis", reading, Reading::text);
    let reviewed_at = required(&fields, "reviewed_at", reading, Reading::parsed);
    let reviewers = required(&fields, "reviewers", reading, |reading, node, field| Some(reading.texts(node, field)));
    let launch = optional(&fields, "launch", reading, launch);
    let artefact = required(&fields, "artefact", reading, artefacts);
    let credentials = optional(&fields, "credentials", reading, credentials).unwrap_or_default();
    clashes(&credentials, launch.as_ref(), reading);
    let sandbox = optional(&fields, "sandbox", reading, sandbox);
    let signature = optional(&fields, "signature", reading, Reading::text);
    if let Some(name) = &name {
        let last = file.rsplit('/').next().unwrap_or(file);
        if last != format!("{name}.yaml") {
            let at = fields.optional("name").map_or(Position::START, |node| node.at);
            reading.problem(at, "name", format!("is {name}, so the file must be called {name}.yaml, not {last}"));
        }
    }
    let mut artefact = artefact?;
    apply_launch_platform(&mut artefact, launch.as_ref(), reading);
    Some(Recipe {
        name: name?,
        version: version?,
        maintainer: maintainer?,
        description: description?,
        scope,
        data_classification: data_classification?,
        lawful_basis,
        reviewed_at: reviewed_at?,
        reviewers: reviewers?,
        artefact: artefact
            .into_iter()
            .map(|(source, platform)| ArtefactSource { platform: platform.unwrap_or_else(Platform::any), ..source })
            .collect(),
        launch,
        credentials,
        sandbox,
        signature,
        places: BTreeMap::new(),
        file: file.to_owned(),
    })
}

fn required<T>(
    fields: &Fields,
    name: &str,
    reading: &mut Reading,
    read: impl FnOnce(&mut Reading, &Node, &str) -> Option<T>,
) -> Option<T> {
    let node = fields.required(name, reading)?;
    read(reading, node, &fields.path(name))
}

fn optional<T>(
    fields: &Fields,
    name: &str,
    reading: &mut Reading,
    read: impl FnOnce(&mut Reading, &Node, &str) -> Option<T>,
) -> Option<T> {
    read(reading, fields.optional(name)?, &fields.path(name))
}

fn list(fields: &Fields, name: &str, reading: &mut Reading) -> Vec<String> {
    fields.optional(name).map(|node| reading.texts(node, &fields.path(name))).unwrap_or_default()
}

/// An artefact and the platform it names itself, if any.
type Named = (ArtefactSource, Option<Platform>);

fn artefacts(reading: &mut Reading, node: &Node, field: &str) -> Option<Vec<Named>> {
    match &node.value {
        Value::List(items) => {
            if items.is_empty() || items.len() > limits::PLATFORMS {
                let message = format!("needs one artefact, or one for each of at most {} platforms", limits::PLATFORMS);
                reading.problem(node.at, field, message);
                return None;
            }
            let read: Vec<Option<Named>> = items
                .iter()
                .enumerate()
                .map(|(index, item)| {
                    let field = format!("{field}[{index}]");
                    reading.places.insert(field.clone(), item.at);
                    artefact(reading, item, &field)
                })
                .collect();
            let read: Vec<Named> = read.into_iter().collect::<Option<_>>()?;
            for (index, (_, platform)) in read.iter().enumerate() {
                let field = format!("{field}[{index}]");
                if read.len() > 1 && platform.as_ref().is_none_or(Platform::is_any) {
                    reading.problem(items[index].at, &field, "each of several artefacts needs a platform of its own");
                } else if read[..index].iter().any(|(_, other)| other == platform) {
                    reading.problem(items[index].at, &field, "another artefact of this list has the same platform");
                }
            }
            Some(read)
        }
        _ => artefact(reading, node, field).map(|one| vec![one]),
    }
}

fn artefact(reading: &mut Reading, node: &Node, field: &str) -> Option<Named> {
    let fields = reading.fields(node, field, ARTEFACT)?;
    let url = required(&fields, "url", reading, artefact_url);
    let sha256 = required(&fields, "sha256", reading, Reading::parsed::<Digest>);
    let platform = optional(&fields, "platform", reading, Reading::parsed::<Platform>);
    let commit = optional(&fields, "commit", reading, Reading::parsed::<CommitId>);
    let lock = optional(&fields, "lock", reading, lockfile);
    let python = optional(&fields, "python", reading, Reading::parsed::<PythonVersion>);
    let submodules = optional(&fields, "submodules", reading, truth) == Some(true);
    let lfs = optional(&fields, "lfs", reading, truth) == Some(true);
    let inputs = Inputs { commit, submodules, lfs, lock, python };
    let url = url?;
    inputs_fit(reading, node, field, &url, &inputs, &fields);
    Some((ArtefactSource { platform: Platform::any(), url, sha256: sha256?, inputs }, platform))
}

fn truth(reading: &mut Reading, node: &Node, field: &str) -> Option<bool> {
    match &node.value {
        Value::Bool(wanted) => Some(*wanted),
        other => {
            reading.problem(node.at, field, format!("expected true or false, found {}", other.kind()));
            None
        }
    }
}

/// A path of plain names below the recipe's folder.
fn lockfile(reading: &mut Reading, node: &Node, field: &str) -> Option<String> {
    let text = reading.text(node, field)?;
    if text.split('/').all(|part| mcpfs_trust::name::check_file_name(part).is_ok()) {
        return Some(text);
    }
    reading.problem(node.at, field, "not a path below the recipe's folder, such as NAME.lock.json");
    None
}

/// Each kind of source has the fields that pin it, and no others.
fn inputs_fit(reading: &mut Reading, node: &Node, field: &str, url: &str, inputs: &Inputs, fields: &Fields) {
    let source = match Source::is_one(url) {
        true => match url.parse::<Source>() {
            Ok(source) => Some(source),
            Err(error) => {
                let at = fields.optional("url").map_or(node.at, |url| url.at);
                return reading.problem(at, &fields.path("url"), error.to_string());
            }
        },
        false => None,
    };
    let registry = source.as_ref().and_then(Source::registry);
    let git = source.is_some() && registry.is_none();
    let wanted = [
        ("commit", git, inputs.commit.is_some(), "the full id of the tag's commit"),
        ("lock", registry.is_some(), inputs.lock.is_some(), "the lockfile that `bundle` writes"),
        (
            "python",
            registry == Some(Registry::Pypi),
            inputs.python.is_some(),
            "the version of Python, such as \"3.11\"",
        ),
    ];
    for name in ["submodules", "lfs"] {
        if let Some(node) = fields.optional(name).filter(|_| !git) {
            reading.problem(node.at, field, format!("{name} does not belong to an artefact of this kind"));
        }
    }
    for (name, needed, given, what) in wanted {
        let there = fields.optional(name);
        match (needed, there) {
            (true, None) => reading.problem(node.at, &fields.path(name), format!("missing: {what}")),
            (false, Some(node)) if given => {
                reading.problem(node.at, field, format!("{name} does not belong to an artefact of this kind"));
            }
            _ => {}
        }
    }
}

fn artefact_url(reading: &mut Reading, node: &Node, field: &str) -> Option<String> {
    let text = reading.text(node, field)?;
    let parsed = match Url::parse(&text) {
        Ok(url) => url,
        Err(error) => {
            reading.problem(node.at, field, format!("not a URL such as https://… or file:…: {error}"));
            return None;
        }
    };
    if !SCHEMES.contains(&parsed.scheme()) {
        let message = format!("scheme {:?} is not one of: {}", parsed.scheme(), SCHEMES.join(", "));
        reading.problem(node.at, field, message);
        return None;
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        reading.problem(node.at, field, "must not contain a user or password: it is signed and published");
        return None;
    }
    Some(text)
}

/// `launch.platform` is the platform of a single artefact that names none.
fn apply_launch_platform(artefacts: &mut [Named], launch: Option<&Launch>, reading: &mut Reading) {
    let Some(platform) = launch.and_then(|launch| launch.platform.clone()) else { return };
    let at = super::place(&reading.places, "launch.platform");
    match artefacts {
        [(_, own @ None)] => *own = Some(platform),
        [(_, Some(own))] if *own == platform => {}
        _ => reading.problem(at, "launch.platform", "contradicts artefact: name the platform there only"),
    }
}

fn launch(reading: &mut Reading, node: &Node, field: &str) -> Option<Launch> {
    let fields = reading.fields(node, field, LAUNCH)?;
    let command = required(&fields, "command", reading, Reading::text);
    let args = list(&fields, "args", reading);
    let env = optional(&fields, "env", reading, |reading, node, field| Some(reading.pairs(node, field)));
    let accept_args = optional(&fields, "accept_args", reading, |reading, node, field| match &node.value {
        Value::Bool(all) => Some(AcceptArgs::All(*all)),
        Value::List(_) => Some(AcceptArgs::Matching(reading.texts(node, field))),
        other => {
            reading.problem(
                node.at,
                field,
                format!("expected true, false or a list of patterns, found {}", other.kind()),
            );
            None
        }
    });
    let words = [("host", Runtime::Host), ("image", Runtime::Image)];
    let runtime = optional(&fields, "runtime", reading, |reading, node, field| reading.word(node, field, &words));
    let workdir = optional(&fields, "workdir", reading, Reading::text);
    let platform = optional(&fields, "platform", reading, Reading::parsed);
    Some(Launch {
        command: command?,
        args,
        env: env.unwrap_or_default(),
        accept_args: accept_args.unwrap_or_default(),
        runtime: runtime.unwrap_or_default(),
        workdir,
        platform,
    })
}

fn credentials(reading: &mut Reading, node: &Node, field: &str) -> Option<Vec<Credential>> {
    let Value::List(items) = &node.value else {
        reading.problem(node.at, field, format!("expected a list, found {}", node.value.kind()));
        return None;
    };
    let mut credentials = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let field = format!("{field}[{index}]");
        reading.places.insert(field.clone(), item.at);
        let Some(fields) = reading.fields(item, &field, CREDENTIAL) else { continue };
        let reference = required(&fields, "ref", reading, Reading::text);
        let env = optional(&fields, "env", reading, Reading::text);
        let file = optional(&fields, "file", reading, Reading::text);
        let scope = optional(&fields, "scope", reading, Reading::text);
        if env.is_some() == file.is_some() {
            reading.problem(item.at, &field, "needs either env (a variable) or file (a file name)");
        }
        credentials.extend(reference.map(|reference| Credential { env, file, reference, scope }));
    }
    Some(credentials)
}

/// Hosts start nothing whose credentials replace something, be it another credential.
fn clashes(credentials: &[Credential], launch: Option<&Launch>, reading: &mut Reading) {
    if credentials.len() > limits::CREDENTIALS {
        let at = reading.places.get("credentials[0]").copied().unwrap_or(Position::START);
        reading.problem(at, "credentials", format!("more than {} items", limits::CREDENTIALS));
    }
    for (index, one) in credentials.iter().enumerate() {
        let (field, before) = (format!("credentials[{index}]"), &credentials[..index]);
        let at = reading.places.get(&field).copied().unwrap_or(Position::START);
        if let Some(name) = one.env.as_ref().filter(|name| launch.is_some_and(|launch| launch.env.contains_key(*name)))
        {
            reading.problem(at, &field, format!("{name} is a variable of launch.env already"));
        }
        if one.reference.len() > limits::CREDENTIAL_REF_BYTES {
            let most = limits::CREDENTIAL_REF_BYTES;
            reading.problem(at, &format!("{field}.ref"), format!("longer than {most} bytes"));
        }
        let same = |other: &Credential| (&one.env, &one.file) == (&other.env, &other.file);
        if before.iter().any(same) {
            let place = one.env.as_deref().or(one.file.as_deref()).unwrap_or_default();
            reading.problem(at, &field, format!("{place} is another credential already"));
        }
    }
}

fn sandbox(reading: &mut Reading, node: &Node, field: &str) -> Option<Sandbox> {
    let fields = reading.fields(node, field, SANDBOX)?;
    let words = [("none", Network::None), ("host", Network::Host)];
    let network = optional(&fields, "network", reading, |reading, node, field| reading.word(node, field, &words));
    Some(Sandbox {
        network: network.unwrap_or_default(),
        read: list(&fields, "read", reading),
        write: list(&fields, "write", reading),
    })
}
