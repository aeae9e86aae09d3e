#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rules;

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::scratch;
use crate::staging::StagingError;

pub(crate) fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// A folder with `servers/`, and `files/` that artefacts come from.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::made(scratch::in_memory())
    }

    /// For programs that are started, and for what is large.
    pub(crate) fn on_disk() -> Self {
        Self::made(tempfile::tempdir().unwrap())
    }

    fn made(folder: tempfile::TempDir) -> Self {
        fs::create_dir_all(folder.path().join("servers")).unwrap();
        fs::create_dir_all(folder.path().join("files/hello/bin")).unwrap();
        let place = Self { folder };
        place.write("hello/bin/server", b"#!/bin/sh\necho hello\n", 0o755);
        place.write("hello/README", b"read me", 0o644);
        place
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, content: &[u8], mode: u32) {
        let path = self.path("files").join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        fetch::bundle(&self.path("files/hello"), &mut bytes).unwrap();
        Digest::of(&bytes)
    }

    pub(crate) fn recipe(&self, more: &str) -> PathBuf {
        let text = format!(
            "name: hello\nversion: 1.0.0\nmaintainer: m@example.com\ndescription: says hello\n\
             data_classification: public\nreviewed_at: 2026-04-15\nreviewers: [r@example.com]\n\
             artefact:\n  url: file:hello\n  sha256: {}\nlaunch: {{command: bin/server}}\n{more}",
            self.digest()
        );
        self.save("hello", &text)
    }

    pub(crate) fn save(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("servers").join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn options(&self) -> CheckOptions {
        CheckOptions {
            registry: Some("demo/test".parse().unwrap()),
            fetch: FetchPolicy { file_root: Some(self.path("files")), ..FetchPolicy::default() },
            known: KnownChunks::none(),
            level: 3,
            now: now(),
            published: None,
            trial: None,
            patterns: None,
            gate: Gate::default(),
            lookups: Lookups::default(),
        }
    }

    pub(crate) fn check(&self, recipe: &Path) -> Findings {
        check(recipe, &self.options()).unwrap().findings
    }

    pub(crate) fn ingest(&self, recipe: &Path, to: &str) -> Staging {
        let checked = ingest(recipe, &self.path(to), &self.options()).unwrap();
        checked.staging.unwrap_or_else(|| panic!("{}", checked.findings))
    }
}

/// Changes the text of a recipe and returns what check says, without the fixes.
fn said(place: &Place, from: &str, to: &str) -> String {
    let path = place.recipe("");
    let text = fs::read_to_string(&path).unwrap().replace(from, to);
    fs::write(&path, text).unwrap();
    let all: Vec<String> =
        place.check(&path).all().iter().map(|finding| format!("{finding} [{}]", finding.rule)).collect();
    all.join("\n")
}

#[test]
fn a_clean_release_is_staged_and_read_back() {
    let place = Place::new();
    let staging = place.ingest(&place.recipe(""), "staging");
    assert_eq!(staging.findings.summary(), "check: ok");
    assert_eq!(staging.record.verdict, Verdict::Pass);
    let read = Staging::read(&place.path("staging")).unwrap();
    assert_eq!(read.record, staging.record);
    assert_eq!(read.recipe, staging.recipe);
    assert_eq!(read.artefacts[0].tree, staging.artefacts[0].tree);
    assert_eq!(read.artefacts[0].listed, staging.artefacts[0].listed);
    let recipe = read.recheck(now()).unwrap().recipe;
    assert_eq!(recipe.name.as_str(), "hello");
    for chunk in read.artefacts[0].all_chunks() {
        let stored = read.chunk(&chunk).unwrap().expect("nothing is published yet");
        assert_eq!(Digest::of(&stored), chunk.sha256);
    }
    let source = &recipe.artefact[0];
    let release = recipe
        .release(
            &"demo/test".parse().unwrap(),
            vec![read.artefacts[0].artefact(&source.url)],
            None,
            "2026-11-22T12:00:00Z".parse().unwrap(),
        )
        .unwrap();
    assert_eq!(release.artefact.all()[0].tree, read.artefacts[0].tree.summary());
}

#[test]
fn the_same_artefact_gives_the_same_tree_anywhere() {
    let (one, two) = (Place::new(), Place::new());
    let a = one.ingest(&one.recipe(""), "a");
    let b = two.ingest(&two.recipe(""), "elsewhere/b");
    assert_eq!(a.artefacts[0].tree.summary(), b.artefacts[0].tree.summary());
    assert_eq!(a.artefacts[0].listed, b.artefacts[0].listed);
    assert_eq!(a.record, b.record);
}

#[test]
fn published_chunks_are_not_stored_again() {
    let place = Place::new();
    let recipe = place.recipe("");
    let first = place.ingest(&recipe, "first");
    let known: KnownChunks = first.artefacts[0].all_chunks().into_iter().collect();
    let options = CheckOptions { known, level: 19, ..place.options() };
    let again = ingest(&recipe, &place.path("again"), &options).unwrap().staging.unwrap();
    assert_eq!(again.artefacts[0].listed, first.artefacts[0].listed);
    assert_eq!(fs::read_dir(place.path("again/chunks")).unwrap().count(), 0);
    assert_eq!(again.chunk(&again.artefacts[0].layout.chunks[0]).unwrap(), None);
    again.recheck(now()).unwrap();
}

#[test]
fn nothing_in_staging_is_trusted() {
    let place = Place::new();
    let recipe = place.recipe("");
    let alter = |what: &str, change: &dyn Fn(&Path)| {
        let _none = fs::remove_dir_all(place.path("staging"));
        let staging = place.ingest(&recipe, "staging");
        let folder = place.path("staging");
        change(&folder);
        drop(staging);
        let error = match Staging::read(&folder) {
            Err(error) => error,
            Ok(read) => match read.recheck(now()) {
                Err(error) => error,
                Ok(_) => panic!("{what}: not noticed"),
            },
        };
        assert!(!error.to_string().is_empty());
        error
    };
    let edit = |name: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            assert!(text.contains(from), "{name} has no {from}");
            fs::write(folder.join(name), text.replace(from, to)).unwrap();
        }
    };
    let flip = |below: &'static str| {
        move |folder: &Path| {
            for entry in fs::read_dir(folder.join(below)).unwrap() {
                let path = entry.unwrap().path();
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(path, bytes).unwrap();
            }
        }
    };
    alter("recipe", &edit("recipe.yaml", "says hello", "says hallo"));
    alter("verdict", &edit("check.json", "pass", "fail"));
    alter("policy", &edit("check.json", "\"policy\": \"", "\"policy\": \"0"));
    alter("findings", &|folder| fs::write(folder.join("findings.json"), b"[{}]").unwrap());
    alter("index", &edit("staging.json", "hello.yaml", "hallo.yaml"));
    alter("unknown field", &edit("staging.json", "\"schema\"", "\"more\": 1, \"schema\""));
    let error = alter("artefact", &flip("artefacts"));
    assert!(matches!(error, StagingError::Differs(_)), "{error}");
    alter("tree", &flip("trees"));
    alter("layout", &flip("layouts"));
    alter("chunks", &flip("chunks"));
    // What opens without end, and what never ends.
    let pipe = |path: &Path| {
        fs::remove_file(path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    let first = |folder: &Path, below: &str| fs::read_dir(folder.join(below)).unwrap().next().unwrap().unwrap().path();
    for name in ["staging.json", "recipe.yaml", "check.json", "findings.json"] {
        alter(name, &|folder| pipe(&folder.join(name)));
    }
    for below in ["artefacts", "trees", "layouts", "chunks"] {
        alter(below, &|folder| pipe(&first(folder, below)));
        alter(below, &|folder| {
            let path = first(folder, below);
            fs::remove_file(&path).unwrap();
            symlink("/dev/zero", path).unwrap();
        });
    }
    alter("no index", &|folder| fs::remove_file(folder.join("staging.json")).unwrap());
    // A whole other, valid artefact in place of the reviewed one.
    alter("another release", &|folder| {
        let other = Place::new();
        other.write("hello/README", b"evil", 0o644);
        let staging = other.ingest(&other.recipe(""), "staging");
        let keep = fs::read(folder.join("recipe.yaml")).unwrap();
        for name in ["staging.json", "check.json", "findings.json"] {
            fs::copy(staging.folder.join(name), folder.join(name)).unwrap();
        }
        for below in ["artefacts", "trees", "layouts", "chunks"] {
            for entry in fs::read_dir(staging.folder.join(below)).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, folder.join(below).join(path.file_name().unwrap())).unwrap();
            }
        }
        fs::write(folder.join("recipe.yaml"), keep).unwrap();
    });
}

#[test]
fn a_forged_verdict_is_found_out() {
    let place = Place::new();
    let staging = place.ingest(&place.recipe(""), "staging");
    // Somebody who can write to the folder clears the findings and makes a record that fits.
    let mut forged = staging;
    forged.recipe = forged.recipe.replace("data_classification: public", "data_classification: restricted");
    forged.recipe_sha256 = Digest::of(forged.recipe.as_bytes());
    forged.record = forged.expected_record();
    forged.write().unwrap();
    let error = Staging::read(&place.path("staging")).unwrap().recheck(now()).unwrap_err().to_string();
    assert!(error.contains("a rule finds error L5 lawful_basis: missing"), "{error}");
}

#[test]
fn other_folders_are_left_alone() {
    let place = Place::new();
    fs::create_dir_all(place.path("site/artefacts")).unwrap();
    fs::write(place.path("site/artefacts/precious"), "x").unwrap();
    let error = ingest(&place.recipe(""), &place.path("site"), &place.options()).unwrap_err();
    assert!(error.to_string().contains("not a staging folder"), "{error}");
    assert!(place.path("site/artefacts/precious").exists());
    // A staging folder is replaced, also after a run that failed.
    place.ingest(&place.recipe(""), "staging");
    let broken = place.save("hello", "name: hello");
    assert!(ingest(&broken, &place.path("staging"), &place.options()).unwrap().staging.is_none());
    assert!(Staging::read(&place.path("staging")).is_err());
    place.ingest(&place.recipe(""), "staging");
}

#[test]
fn a_statement_that_no_key_service_could_sign() {
    let place = Place::new();
    let args = vec![format!("'{}'", "a".repeat(900)); 5].join(", ");
    let found =
        said(&place, "launch: {command: bin/server}", &format!("launch: {{command: bin/server, args: [{args}]}}"));
    assert!(found.contains("bytes to sign, at most 4096 are allowed [statement-size]"), "{found}");
}

#[test]
fn refused_archives_and_files_are_findings() {
    let place = Place::new();
    place.write("x.tar", b"not an archive", 0o644);
    let recipe = place.recipe("");
    let text = fs::read_to_string(&recipe).unwrap();
    let text = text.replace("file:hello", "file:x.tar");
    let text = text.replace(&place.digest().to_string(), &Digest::of(b"not an archive").to_string());
    fs::write(&recipe, text).unwrap();
    let checked = ingest(&recipe, &place.path("staging"), &place.options()).unwrap();
    assert!(checked.staging.is_none());
    assert_eq!(
        checked.findings.all()[0].to_string(),
        "error L9 artefact: not a .tar, .tar.gz, .tar.zst or .zip archive (it begins with 6e 6f 74 20 61 6e 20 61)"
    );
    assert!(!place.path("staging/staging.json").exists());
    fs::write(&recipe, b"\xff").unwrap();
    assert_eq!(place.check(&recipe).all()[0].message, "the file is not UTF-8");
    assert!(check(&place.path("servers/none.yaml"), &place.options()).is_err());
}

#[test]
fn findings_as_json() {
    let place = Place::new();
    let path = place.recipe("");
    let text =
        fs::read_to_string(&path).unwrap().replace("data_classification: public", "data_classification: restricted");
    fs::write(&path, text).unwrap();
    let findings = place.check(&path);
    let json: serde_json::Value = serde_json::from_slice(&findings.json()).unwrap();
    let first = &json[0];
    for (key, want) in [("severity", "error"), ("rule", "lawful-basis"), ("subject", "lawful_basis")] {
        assert_eq!(first[key], want);
    }
    assert_eq!(first["line"], 5);
    assert_eq!(first["file"], path.display().to_string());
    let back: Findings = serde_json::from_slice(&findings.json()).unwrap();
    assert_eq!(back, findings);
}

#[test]
fn several_platforms_in_one_release() {
    let place = Place::new();
    place.write("arm/bin/server", b"arm", 0o755);
    let mut arm = Vec::new();
    fetch::bundle(&place.path("files/arm"), &mut arm).unwrap();
    let path = place.recipe("");
    let text = fs::read_to_string(&path).unwrap();
    let one = format!("artefact:\n  url: file:hello\n  sha256: {}\n", place.digest());
    let two = format!(
        "artefact:\n  - {{url: file:hello, sha256: {}, platform: linux/arm64}}\n  - {{url: file:arm, sha256: {}, platform: linux/amd64}}\n",
        place.digest(),
        Digest::of(&arm)
    );
    assert!(text.contains(&one));
    fs::write(&path, text.replace(&one, &two)).unwrap();
    let staging = place.ingest(&path, "staging");
    let platforms: Vec<&str> = staging.artefacts.iter().map(|artefact| artefact.platform.as_str()).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    Staging::read(&place.path("staging")).unwrap().recheck(now()).unwrap();
}

#[test]
fn rule_ids_are_unique_and_documented() {
    let text = include_str!("../../../docs/publishing.md");
    for (index, rule) in RULES.iter().enumerate() {
        assert!(RULES[..index].iter().all(|other| other.id != rule.id), "{}", rule.id);
        let row = format!("| `{}` | {} | {} |", rule.id, rule.severity, rule.about);
        assert!(text.contains(&row), "docs/publishing.md lacks: {row}");
    }
}
