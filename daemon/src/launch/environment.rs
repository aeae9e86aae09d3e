//! The environment and arguments of a server, made from nothing.
//!
//! Hosts differ: some pass their whole environment with every secret in it, some almost
//! nothing. A server sees the same from all of them: where the user lives and how they
//! read text, what the statement declares, and no more. `XDG_RUNTIME_DIR`, `DBUS_*`,
//! `DISPLAY` and `SSH_AUTH_SOCK` are left out on purpose: they lead to the user's keyring,
//! screen and agent, which no reviewer approved. `TMPDIR` stays: where a site forbids
//! writing to /tmp, a server without it would fail.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::secrets::VARIABLE;

/// What is taken over from the caller; besides, every `LC_*`.
const KEPT: [&str; 8] = ["HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR"];

/// Only directories that root alone can write to, on every distribution (`/usr/local` is not
/// one on all of them). Other interpreters are named by host configuration, in full.
const PATH: &str = "/usr/bin:/bin";

/// Where engines look in an image that says nothing itself.
const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Python would otherwise import from the user's home and from where it was started, and
/// try to write beside the read-only sources.
const PYTHON: [&str; 3] = ["PYTHONNOUSERSITE", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE"];

/// What the variables of a recipe stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// `${TREE}`: the release's files.
    pub(super) tree: &'a Path,
    /// `${STATE}`: this user's directory for this server.
    pub(super) state: &'a Path,
    /// `${HOME}`.
    pub(super) home: &'a Path,
    /// `${CREDENTIALS}`: those that are files, if its release declares any.
    pub(super) credentials: Option<&'a Path>,
}

/// The root file system that a server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// The host's.
    Host,
    /// The host's without homes and temporary files.
    HiddenHost,
    /// The release's own.
    Image,
}

/// Whether a server's variable of this name is made here, whatever its release declares.
pub(crate) fn sets(name: &str) -> bool {
    kept(OsStr::new(name)) || PYTHON.contains(&name) || ["PATH", VARIABLE].contains(&name)
}

/// The whole environment of a server. Declared variables win: they are signed.
pub(super) fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    declared: &BTreeMap<String, String>,
    places: Places<'_>,
    root: Root,
) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> =
        inherited.into_iter().filter(|(name, value)| kept(name) && !function(value)).collect();
    env.insert("HOME".into(), places.home.into());
    if root != Root::Host {
        // In a sandbox only /tmp is there to be written.
        env.remove(OsStr::new("TMPDIR"));
    }
    if root == Root::Image {
        env.insert("PATH".into(), IMAGE_PATH.into());
        // Nothing there is the user's; an image's own scripts import from where they lie.
        env.insert("PYTHONDONTWRITEBYTECODE".into(), "1".into());
    } else {
        env.insert("PATH".into(), PATH.into());
        env.extend(PYTHON.map(|name| (name.into(), "1".into())));
    }
    if let Some(directory) = places.credentials {
        env.insert(VARIABLE.into(), directory.into());
    }
    env.extend(declared.iter().map(|(name, value)| (name.into(), expand(value, places))));
    env
}

/// Replaces `${TREE}`, `${STATE}` and `${HOME}`, and `${CREDENTIALS}` where there are any, in one pass: what a place's own name contains
/// is never expanded again, and any other text stays as it is.
pub(super) fn expand(text: &str, places: Places<'_>) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.extend_from_slice(before.as_bytes());
        let always = [("TREE}", places.tree), ("STATE}", places.state), ("HOME}", places.home)];
        let place = always
            .into_iter()
            .chain(places.credentials.map(|place| ("CREDENTIALS}", place)))
            .find_map(|(name, place)| after.strip_prefix(name).map(|left| (place, left)));
        match place {
            Some((place, left)) => {
                // Of the root only its slash, and not twice.
                let root = place == Path::new("/") && left.starts_with('/');
                out.extend_from_slice(if root { b"" } else { place.as_os_str().as_bytes() });
                rest = left;
            }
            None => {
                out.extend_from_slice(b"${");
                rest = after;
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    OsString::from_vec(out)
}

fn kept(name: &OsStr) -> bool {
    KEPT.iter().any(|kept| name == *kept) || name.as_bytes().starts_with(b"LC_")
}

/// An exported shell function: old shells executed it on start.
fn function(value: &OsStr) -> bool {
    value.as_bytes().starts_with(b"()")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn places() -> Places<'static> {
        let (tree, state, home) = (Path::new("/mcp/a/1/tree"), Path::new("/s/${HOME}"), Path::new("/home/u"));
        Places { tree, state, home, credentials: None }
    }

    fn env(inherited: &[(&str, &str)], declared: &[(&str, &str)]) -> BTreeMap<String, String> {
        let inherited = inherited.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let declared = declared.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment(inherited, &declared, places(), Root::Host)
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect()
    }

    const FIXED: [(&str, &str); 5] = [
        ("HOME", "/home/u"),
        ("PATH", "/usr/bin:/bin"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONNOUSERSITE", "1"),
        ("PYTHONSAFEPATH", "1"),
    ];

    #[test]
    fn environments() {
        let nothing: &[(&str, &str)] = &[];
        for (inherited, declared, more) in [
            (nothing, nothing, nothing),
            (
                &[("USER", "u"), ("LC_ALL", "C"), ("TZ", "UTC")],
                nothing,
                &[("USER", "u"), ("LC_ALL", "C"), ("TZ", "UTC")],
            ),
            // Secrets, sockets, and what would make an interpreter load other code.
            (
                &[
                    ("AWS_SECRET_ACCESS_KEY", "x"),
                    ("XDG_RUNTIME_DIR", "/run/user/1"),
                    ("SSH_AUTH_SOCK", "x"),
                    ("LD_PRELOAD", "/tmp/x.so"),
                    ("NODE_OPTIONS", "--require /tmp/x"),
                    ("PYTHONPATH", "/tmp"),
                    ("PYTHONSTARTUP", "/tmp/x"),
                    ("BASH_ENV", "/tmp/x"),
                    ("PATH", "/tmp"),
                    ("PYTHONSAFEPATH", ""),
                    ("LCX", "1"),
                ],
                nothing,
                nothing,
            ),
            (&[("TERM", "() { :; }; x"), ("LC_X", "() { x")], nothing, nothing),
            (
                nothing,
                &[("M", "${STATE}/m.jsonl"), ("PYTHONPATH", "${TREE}/lib")],
                &[("M", "/s/${HOME}/m.jsonl"), ("PYTHONPATH", "/mcp/a/1/tree/lib")],
            ),
            // What is signed wins.
            (&[("TZ", "UTC")], &[("TZ", "Europe/Paris")], &[("TZ", "Europe/Paris")]),
        ] {
            let want: BTreeMap<String, String> =
                FIXED.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(env(inherited, declared), want);
        }
        assert_eq!(env(&[], &[("HOME", "${STATE}")])["HOME"], "/s/${HOME}");
    }

    #[test]
    fn environments_of_sandboxes() {
        let inherited = || [("TMPDIR", "/scratch"), ("TERM", "x")].map(|(name, value)| (name.into(), value.into()));
        let names = |root| {
            let env = environment(inherited(), &BTreeMap::new(), places(), root);
            env.into_keys().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        let python = ["PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH"];
        assert_eq!(names(Root::HiddenHost), [&["HOME", "PATH"], python.as_slice(), &["TERM"]].concat());
        assert_eq!(names(Root::Image), ["HOME", "PATH", "PYTHONDONTWRITEBYTECODE", "TERM"]);
        let declared = [("PATH".to_owned(), "/opt/bin:${TREE}/bin".to_owned())].into();
        let image = Places { tree: Path::new("/"), ..places() };
        assert_eq!(environment([], &declared, image, Root::Image)[OsStr::new("PATH")], "/opt/bin:/bin");
        assert_eq!(expand("${TREE}", image), "/");
        assert_eq!(expand("${TREE}x/${TREE}/y", image), "/x//y");
    }

    #[test]
    fn expansions() {
        for (text, want) in [
            ("", ""),
            ("${TREE}", "/mcp/a/1/tree"),
            ("--x=${HOME}:${HOME}", "--x=/home/u:/home/u"),
            ("${STATE}", "/s/${HOME}"),
            ("$TREE {TREE} ${TREE", "$TREE {TREE} ${TREE"),
            ("${OTHER}${TREE}", "${OTHER}/mcp/a/1/tree"),
            ("${${TREE}}", "${/mcp/a/1/tree}"),
            ("ü${TREE}ü", "ü/mcp/a/1/treeü"),
        ] {
            assert_eq!(expand(text, places()), want, "{text}");
        }
    }

    /// A release without any gets the text as hosts of before left it.
    #[test]
    fn credentials_have_a_place_where_there_are_any() {
        let with = Places { credentials: Some(Path::new("/c/${HOME}")), ..places() };
        assert_eq!(expand("${CREDENTIALS}/pgpass", places()), "${CREDENTIALS}/pgpass");
        assert_eq!(expand("${CREDENTIALS}/pgpass:${TREE}", with), "/c/${HOME}/pgpass:/mcp/a/1/tree");
        let declared = [("PGPASSFILE".to_owned(), "${CREDENTIALS}/pgpass".to_owned())].into();
        let env = environment([], &declared, with, Root::HiddenHost);
        assert_eq!(env[OsStr::new("PGPASSFILE")], "/c/${HOME}/pgpass");
        assert_eq!(env[OsStr::new("CREDENTIALS_DIRECTORY")], "/c/${HOME}");
        for own in ["HOME", "PATH", "LC_X", "TERM", "PYTHONSAFEPATH", "CREDENTIALS_DIRECTORY"] {
            assert!(sets(own), "{own}");
        }
        assert!(!sets("PGPASSWORD") && !sets("LCX"));
    }
}
