//! The recipe's text.

use std::fmt::Write as _;

use mcpfs_trust::name::ServerName;
use mcpfs_trust::release::{Launch, Runtime};

use super::guess::{Guess, Guesses};
use crate::launch::quoted;
use crate::recipe::ArtefactSource;

/// A recipe before people have seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The server's name.
    pub name: ServerName,
    /// Where the artefact comes from, its digest, and what else pins it.
    pub source: ArtefactSource,
    /// The text of the lock that the source names; it belongs beside the recipe.
    pub lock: Option<String>,
    /// What it says of itself.
    pub guesses: Guesses,
}

/// What marks a field that only people can fill in. The field is empty, so `check` refuses it.
const FILL_IN: &str = "FILL IN";

/// What people must say, and how.
const OPEN: [(&str, &str); 4] = [
    ("maintainer", "who answers for this server here, such as platform@example.com"),
    ("data_classification", "public, internal, confidential or restricted; the last two need lawful_basis as well"),
    ("reviewed_at", "the day of the review, such as 2026-04-15"),
    ("reviewers", "who reviewed it, such as [security@example.com]"),
];

impl Draft {
    /// The recipe with what only people know left open.
    pub fn yaml(&self) -> String {
        self.text(None)
    }

    /// The recipe with worthless values in what is open: for a demonstration on this machine.
    pub fn filled(&self, today: &str) -> String {
        self.text(Some(today))
    }

    fn text(&self, today: Option<&str>) -> String {
        let guesses = &self.guesses;
        let mut text = String::from(
            "# Written by mcpfs-signer init. Look at each guess, fill in the rest, then: mcpfs-signer check\n",
        );
        for remark in &guesses.remarks {
            let _ = writeln!(text, "# note: {remark}");
        }
        let open = |field: &str| {
            let how = OPEN.iter().find(|(name, _)| *name == field).map(|(_, how)| *how).unwrap_or_default();
            match (today, field) {
                (None, _) => format!("{field}:  # {FILL_IN}: {how}\n"),
                (Some(today), "reviewed_at") => format!("{field}: {today}\n"),
                (Some(_), "reviewers") => format!("{field}: [nobody@localhost]\n"),
                (Some(_), "data_classification") => format!("{field}: public\n"),
                (Some(_), _) => format!("{field}: nobody@localhost\n"),
            }
        };
        let _ = writeln!(text, "name: {}", quoted(self.name.as_str()));
        match (&guesses.version, today) {
            (Some(version), _) => guessed(&mut text, "version", quoted(version.value.as_str()), &version.from),
            (None, Some(_)) => text.push_str("version: \"0\"\n"),
            (None, None) => {
                let _ = writeln!(text, "version:  # {FILL_IN}: it never changes once it is published, such as 1.0.0");
            }
        }
        match &guesses.maintainer {
            Some(maintainer) => guessed(&mut text, "maintainer", quoted(&maintainer.value), &maintainer.from),
            None => text.push_str(&open("maintainer")),
        }
        match (&guesses.description, today) {
            (Some(description), _) => {
                guessed(&mut text, "description", quoted(&description.value), &description.from);
            }
            (None, Some(_)) => text.push_str("description: A server on trial.\n"),
            (None, None) => {
                let _ = writeln!(text, "description:  # {FILL_IN}: one line for people");
            }
        }
        if let Some(licence) = &guesses.licence {
            let _ = writeln!(text, "# licence: {}  # guessed: from {}", quoted(&licence.value), licence.from);
        }
        text.push_str("# scope: [read:something]  # what it may do, in your company's own words\n");
        for field in ["data_classification", "reviewed_at", "reviewers"] {
            text.push_str(&open(field));
        }
        let ArtefactSource { url, sha256, inputs, .. } = &self.source;
        let _ = writeln!(text, "artefact:\n  url: {}\n  sha256: {sha256}", quoted(url));
        let pins = [
            ("commit", inputs.commit.as_ref().map(ToString::to_string)),
            ("submodules", inputs.submodules.then(|| "true".to_owned())),
            ("lfs", inputs.lfs.then(|| "true".to_owned())),
            ("lock", inputs.lock.as_deref().map(quoted)),
            ("python", inputs.python.map(|python| format!("\"{python}\""))),
        ];
        for (name, value) in pins {
            if let Some(value) = value {
                let _ = writeln!(text, "  {name}: {value}");
            }
        }
        if let Some(platform) = &guesses.platform {
            let _ = writeln!(text, "  platform: {}  # guessed: from {}", platform.value, platform.from);
        }
        match (&guesses.launch, today) {
            (Some(launch), _) => self.launch(&mut text, launch),
            (None, Some(_)) => {}
            (None, None) => {
                let _ =
                    writeln!(text, "launch:  # {FILL_IN}: such as {{command: node, args: [\"${{TREE}}/server.js\"]}}");
            }
        }
        self.credentials(&mut text);
        text
    }

    fn launch(&self, text: &mut String, guess: &Guess<Launch>) {
        let launch = &guess.value;
        let _ = writeln!(text, "launch:  # guessed: from {}", guess.from);
        let _ = writeln!(text, "  command: {}", quoted(&launch.command));
        if launch.runtime == Runtime::Image {
            let _ = writeln!(text, "  runtime: image");
        }
        if let Some(workdir) = &launch.workdir {
            let _ = writeln!(text, "  workdir: {}", quoted(workdir));
        }
        if !launch.args.is_empty() {
            let args: Vec<String> = launch.args.iter().map(|arg| quoted(arg)).collect();
            let _ = writeln!(text, "  args: [{}]", args.join(", "));
        }
        if !launch.env.is_empty() {
            let _ = writeln!(text, "  env:");
            for (name, value) in &launch.env {
                let _ = writeln!(text, "    {}: {}", quoted(name), quoted(value));
            }
        }
    }

    /// A host that cannot grant a credential does not start the server, so what was only guessed
    /// from a program's text is offered and not set.
    fn credentials(&self, text: &mut String) {
        for (index, guess) in self.guesses.credentials.iter().enumerate() {
            if index == 0 {
                text.push_str("# credentials:\n");
            }
            let reference = format!("{}/{}", self.name, guess.value.to_lowercase());
            let item = format!("{{env: {}, ref: {}}}", quoted(&guess.value), quoted(&reference));
            let _ = writeln!(text, "#   - {item}  # guessed: from {}", guess.from);
        }
    }
}

fn guessed(text: &mut String, field: &str, value: String, from: &str) {
    let _ = writeln!(text, "{field}: {value}  # guessed: from {from}");
}

/// The lines of a recipe that people must fill in, from 1.
pub fn open_lines(yaml: &str) -> Vec<usize> {
    let mark = format!("# {FILL_IN}: ");
    yaml.lines().enumerate().filter(|(_, line)| line.contains(&mark)).map(|(index, _)| index + 1).collect()
}

/// How many lines were guessed.
pub fn guessed_lines(yaml: &str) -> usize {
    yaml.lines().filter(|line| line.contains("# guessed: from ")).count()
}
