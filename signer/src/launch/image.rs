//! From an image's config to a launch.
//!
//! `Entrypoint` and `Cmd` are one command line, looked up now as an engine would at the start: in
//! the image's own `PATH`, or from its `WorkingDir`. So what is signed names a file of the tree.
//! Texts go over as they are; one that has `${TREE}` and the like in it is a problem, since a host
//! would replace what the image's author meant literally.

use std::collections::BTreeMap;

use mcpfs_trust::release::{AcceptArgs, Launch, Runtime};
use mcpfs_trust::tree::{Kind, Tree};

use super::{Derived, Problem};
use crate::image::Start;

/// Where engines look if an image has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PLACES: [&str; 3] = ["${TREE}", "${STATE}", "${HOME}"];

/// The launch that an image's config describes.
pub fn derive_image(start: &Start, tree: &Tree) -> Derived {
    let mut derived = Derived::default();
    let env = variables(start, &mut derived);
    let workdir = start.working_dir.as_deref().unwrap_or_default();
    let workdir = if workdir.is_empty() { Some("/".to_owned()) } else { normal(workdir, "/") };
    if workdir.is_none() {
        problem(&mut derived, format!("the image's WorkingDir {:?} is no directory of it", start.working_dir), "");
    }
    let workdir = workdir.unwrap_or("/".to_owned());
    let mut words = start.entrypoint.iter().chain(&start.cmd).flatten();
    let Some(program) = words.next() else {
        problem(&mut derived, "the image says neither Entrypoint nor Cmd".to_owned(), "write launch in the recipe");
        return derived;
    };
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let command = command(program, &workdir, path, tree, &mut derived);
    let args: Vec<String> = words.cloned().collect();
    let literal = |text: &String| PLACES.iter().any(|place| text.contains(place));
    if let Some(text) = args.iter().chain(env.values()).find(|text| literal(text)) {
        problem(&mut derived, format!("{text:?} has a variable in it that hosts replace"), "");
    }
    let workdir = (workdir != "/").then_some(workdir);
    let launch = Launch {
        command,
        args,
        env,
        accept_args: AcceptArgs::default(),
        runtime: Runtime::Image,
        workdir,
        platform: None,
    };
    if let Err(error) = launch.validate() {
        problem(&mut derived, error.to_string(), "");
    }
    derived.launch = Some(launch);
    derived
}

/// What an image asks for and is not given, in words.
pub fn unmet(start: &Start) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(user) = start.user.as_ref().filter(|user| !user.is_empty()) {
        found.push(format!("it asks to run as the user {user:?}; a server runs as whoever starts it"));
    }
    if let Some(volumes) = start.volumes.as_ref().filter(|volumes| !volumes.is_empty()) {
        let paths = volumes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.push(format!("it expects to write to {paths}, which is read-only; only ${{STATE}} can be written"));
    }
    if let Some(ports) = start.exposed_ports.as_ref().filter(|ports| !ports.is_empty()) {
        let ports = ports.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.push(format!("it listens on {ports}; servers here speak on standard input and output"));
    }
    found
}

/// The executable file called `name` in the directories of `path`, as a path below the root.
pub fn in_path(name: &str, path: &str, tree: &Tree) -> Option<String> {
    let places = path.split(':').filter_map(|directory| directory.strip_prefix('/'));
    let mut files = places.map(|directory| match directory.trim_end_matches('/') {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    });
    files.find(|file| {
        let kind = tree.resolve(file).and_then(|id| tree.node(id)).map(|node| node.kind);
        matches!(kind, Some(Kind::File { executable: true, .. }))
    })
}

fn command(program: &str, workdir: &str, path: &str, tree: &Tree, derived: &mut Derived) -> String {
    let found = match program.contains('/') {
        true => normal(program, workdir).map(|path| path.trim_start_matches('/').to_owned()),
        false => in_path(program, path, tree),
    };
    let Some(found) = found else {
        problem(derived, format!("the image starts {program:?}, which is not in it"), "name the program in launch");
        return program.to_owned();
    };
    // A name without '/' and '.' would be looked up.
    if found.contains(['/', '.']) { found } else { format!("./{found}") }
}

/// A path as one spelling, from `base` if it is relative; `None` if it climbs.
fn normal(path: &str, base: &str) -> Option<String> {
    let full = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let parts: Vec<&str> = full.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then(|| format!("/{}", parts.join("/")))
}

fn variables(start: &Start, derived: &mut Derived) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for text in start.env.iter().flatten() {
        match text.split_once('=') {
            Some((name, value)) => drop(env.insert(name.to_owned(), value.to_owned())),
            None => problem(derived, format!("the image's variable {text:?} has no value"), ""),
        }
    }
    env
}

fn problem(derived: &mut Derived, message: String, fix: &str) {
    derived.problems.push(Problem { downloads: false, message, fix: fix.to_owned() });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use mcpfs_trust::digest::Digest;
    use mcpfs_trust::tree::TreeBuilder;
    use serde_json::{Value, json};

    use super::*;

    fn tree() -> Tree {
        let mut builder = TreeBuilder::new();
        for (path, executable) in [
            ("usr/bin/node", true),
            ("app/server.js", false),
            ("app/run.sh", true),
            ("init", true),
            ("usr/bin/data", false),
        ] {
            builder.file(path, executable, 1, Digest::of(b"x")).unwrap();
        }
        builder.link("bin", "usr/bin").unwrap();
        builder.build().unwrap()
    }

    fn derived(start: Value) -> Derived {
        derive_image(&serde_json::from_value(start).unwrap(), &tree())
    }

    #[test]
    fn what_an_engine_would_start() {
        for (start, command, args, workdir) in [
            (
                json!({"Cmd": ["node", "server.js"], "WorkingDir": "/app"}),
                "usr/bin/node",
                vec!["server.js"],
                Some("/app"),
            ),
            (json!({"Entrypoint": ["/bin/node"], "Cmd": ["a", "b"]}), "bin/node", vec!["a", "b"], None),
            (json!({"Entrypoint": ["./run.sh"], "WorkingDir": "/app/"}), "app/run.sh", vec![], Some("/app")),
            (json!({"Entrypoint": ["/init"], "WorkingDir": ""}), "./init", vec![], None),
            (json!({"Entrypoint": ["init"], "Env": ["PATH=/"]}), "./init", vec![], None),
            (
                json!({"Entrypoint": null, "Cmd": ["node"], "Env": ["PATH=/app::/bin", "X=a=b"]}),
                "bin/node",
                vec![],
                None,
            ),
        ] {
            let derived = derived(start.clone());
            assert!(derived.problems.is_empty(), "{start}: {:?}", derived.problems);
            let launch = derived.launch.unwrap();
            assert_eq!(launch.command, command, "{start}");
            assert_eq!(launch.args, args, "{start}");
            assert_eq!(launch.workdir.as_deref(), workdir, "{start}");
            assert_eq!(launch.runtime, Runtime::Image);
        }
        let env = derived(json!({"Cmd": ["node"], "Env": ["X=a=b", "Y="]})).launch.unwrap().env;
        assert_eq!(env, [("X".to_owned(), "a=b".to_owned()), ("Y".to_owned(), String::new())].into());
    }

    #[test]
    fn what_is_left_open() {
        for (start, words) in [
            (json!({}), "neither Entrypoint nor Cmd"),
            (json!({"Entrypoint": [], "Cmd": []}), "neither"),
            (json!({"Cmd": ["data"]}), "not in it"),
            (json!({"Cmd": ["../../bin/sh"]}), "not in it"),
            (json!({"Cmd": ["node", "${STATE}"]}), "hosts replace"),
            (json!({"Cmd": ["node"], "Env": ["A=x${HOME}"]}), "hosts replace"),
            (json!({"Cmd": ["node"], "Env": ["LD_PRELOAD=/x.so"]}), "loader"),
            (json!({"Cmd": ["node"], "Env": ["A"]}), "has no value"),
            (json!({"Cmd": ["node"], "WorkingDir": "/a/../.."}), "no directory of it"),
        ] {
            let derived = derived(start.clone());
            let all: Vec<&str> = derived.problems.iter().map(|problem| problem.message.as_str()).collect();
            assert!(all.iter().any(|message| message.contains(words)), "{start}: {all:?} say nothing of {words}");
        }
    }

    #[test]
    fn what_is_not_given() {
        let start = json!({"User": "node", "Volumes": {"/data": {}}, "ExposedPorts": {"3000/tcp": {}}});
        let found = unmet(&serde_json::from_value(start).unwrap());
        assert_eq!(found.len(), 3);
        assert!(found[1].contains("/data") && found[2].contains("3000/tcp"), "{found:?}");
        assert!(unmet(&Start::default()).is_empty());
    }
}
