#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::recipe::Recipe;
use crate::unpack::mcpb::Manifest;

fn manifest(server: Value, user_config: Value) -> Manifest {
    let manifest = json!({
        "manifest_version": "0.3", "name": "x", "version": "1", "server": server, "user_config": user_config,
    });
    serde_json::from_value(manifest).unwrap()
}

/// A node bundle with these arguments and variables.
fn with(args: Value, env: Value, user_config: Value) -> Derived {
    let config = json!({"command": "node", "args": args, "env": env});
    derive(&manifest(json!({"type": "node", "entry_point": "dist/main.js", "mcp_config": config}), user_config))
}

fn command(kind: &str, command: &str) -> Derived {
    let config = json!({"command": command});
    derive(&manifest(json!({"type": kind, "entry_point": "server/main", "mcp_config": config}), json!({})))
}

fn launch(derived: &Derived) -> &Launch {
    assert_eq!(derived.problems, []);
    derived.launch.as_ref().unwrap()
}

fn problem(derived: &Derived) -> &str {
    match derived.problems.as_slice() {
        [one] => &one.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_become_places() {
    let args = json!([
        "${__dirname}/dist/main.js",
        "./dist/main.js",
        "dist/main.js",
        "${HOME}${/}x${pathSeparator}y",
        "${DESKTOP}",
        "--docs=${DOCUMENTS}/${DOWNLOADS}",
        "$HOME {HOME} ${HOME",
    ]);
    let derived = with(args, json!({"A": "${__dirname}/lib", "B": "b"}), json!({}));
    let launch = launch(&derived);
    assert_eq!(
        launch.args,
        [
            "${TREE}/dist/main.js",
            "${TREE}/dist/main.js",
            "${TREE}/dist/main.js",
            "${HOME}/x/y",
            "${HOME}/Desktop",
            "--docs=${HOME}/Documents/${HOME}/Downloads",
            "$HOME {HOME} ${HOME",
        ]
    );
    assert_eq!(launch.env["A"], "${TREE}/lib");
    assert_eq!(launch.env["B"], "b");
    for unknown in ["${STATE}", "${TREE}/x", "${PORT:-1}", "${user_config.none}", "${user_config}", "${${HOME}}"] {
        let derived = with(json!([unknown]), json!({}), json!({}));
        assert!(problem(&derived).contains("unknown variable"), "{unknown}");
    }
}

#[test]
fn settings_take_their_defaults() {
    let user_config = json!({
        "text": {"type": "string", "default": "t"},
        "number": {"type": "number", "default": 10.0},
        "half": {"type": "number", "default": 0.5},
        "flag": {"type": "boolean", "default": true, "required": true},
        "one": {"type": "directory", "default": "${HOME}/one"},
        "many": {"type": "directory", "multiple": true, "required": true, "default": ["${DESKTOP}", "/srv"]},
        "none": {"type": "file", "multiple": true, "default": []},
        "open": {"type": "string"},
        "must": {"type": "string", "required": true},
        "empty": {"type": "string", "required": true, "default": ""},
        "wrong": {"type": "number", "default": "ten"},
        "list": {"type": "string", "default": ["a"]},
        "climbs": {"type": "file", "default": "${STATE}"},
        "secret": {"type": "string", "sensitive": true, "default": "s"},
    });
    let setting = |name: &str| format!("${{user_config.{name}}}");
    let args = json!([
        setting("text"),
        setting("number"),
        format!("--half={}", setting("half")),
        setting("many"),
        setting("none"),
        setting("flag"),
        setting("one"),
    ]);
    let env =
        json!({"OPEN": setting("open"), "KEY": setting("secret"), "AUTH": format!("Bearer {}", setting("secret"))});
    let derived = with(args, env, user_config.clone());
    assert_eq!(launch(&derived).args, ["t", "10", "--half=0.5", "${HOME}/Desktop", "/srv", "true", "${HOME}/one"]);
    assert!(launch(&derived).env.is_empty());
    assert_eq!(derived.left_out, ["OPEN"]);
    let secret = |env: &str, around: Option<&str>| Secret {
        env: env.to_owned(),
        key: "secret".to_owned(),
        around: around.map(str::to_owned),
    };
    assert_eq!(derived.secrets, [secret("AUTH", Some("Bearer ${user_config.secret}")), secret("KEY", None)]);

    for (name, reason) in [
        ("open", "argument 1 needs user_config.open, which has no default"),
        ("must", "argument 1 needs user_config.must, which has no default"),
        ("empty", "argument 1 needs user_config.empty, which has no default"),
        ("wrong", "the default of user_config.wrong is not a number"),
        ("list", "the default of user_config.list is not one text (it is not multiple)"),
        ("climbs", "the default of user_config.climbs has the unknown variable ${STATE}"),
        ("secret", "argument 1 has the secret user_config.secret in it"),
    ] {
        let derived = with(json!([setting(name)]), json!({}), user_config.clone());
        assert!(problem(&derived).starts_with(reason), "{name}: {}", problem(&derived));
    }
    for text in [format!("--many={}", setting("many")), format!("{0}{0}", setting("many"))] {
        let derived = with(json!([text]), json!({}), user_config.clone());
        assert!(derived.problems[0].message.contains("user_config.many is a list"), "{text}: {derived:?}");
    }
    let derived = with(json!([]), json!({"A": setting("many")}), user_config.clone());
    assert_eq!(problem(&derived), "the variable A would be a list");
    let derived = with(json!([]), json!({"A": setting("must")}), user_config);
    assert!(problem(&derived).starts_with("the variable A needs user_config.must"));
    assert_eq!(derived.launch.unwrap().env["A"], "<must>", "the draft shows what is missing");
}

#[test]
fn commands_are_programs_of_the_bundle_or_runtimes() {
    for (kind, text, want) in [
        ("node", "node", "node"),
        ("python", "python3", "python3"),
        ("binary", "${__dirname}/server/main", "server/main"),
        ("binary", "${__dirname}${/}server/main", "server/main"),
        ("binary", "server/main", "server/main"),
        ("binary", "./bin/other", "bin/other"),
        ("binary", "${__dirname}/main", "./main"),
        ("python", "${__dirname}/venv/bin/python", "venv/bin/python"),
        ("node", "server/main", "server/main"),
    ] {
        assert_eq!(launch(&command(kind, text)).command, want, "{kind} {text}");
    }
    for (text, reason) in [
        ("/usr/bin/node", "outside the bundle"),
        ("${HOME}/bin/x", "outside the bundle"),
        ("${__dirname}/../x", "neither a path inside the tree"),
        ("", "launch.command"),
        ("${user_config.x}", "unknown variable"),
    ] {
        let derived = command("binary", text);
        assert!(derived.problems.iter().any(|one| one.message.contains(reason)), "{text}: {derived:?}");
    }
    for text in ["npx", "uvx", "docker"] {
        let derived = command("node", text);
        assert!(derived.problems[0].downloads, "{text}: {derived:?}");
    }
    let uv = derive(&manifest(json!({"type": "uv", "entry_point": "src/server.py"}), json!({})));
    assert!(uv.problems[0].downloads && uv.launch.is_none());
}

#[test]
fn linux_overrides_replace_whole_fields() {
    let config = json!({
        "command": "node", "args": ["all"], "env": {"A": "all", "B": "all"},
        "platform_overrides": {"linux": {"args": ["linux"], "env": {"A": "linux"}}, "win32": {"command": "node.exe"}},
    });
    let derived = derive(&manifest(json!({"type": "node", "entry_point": "x", "mcp_config": config}), json!({})));
    let launch = launch(&derived);
    assert_eq!((launch.command.as_str(), launch.args.as_slice()), ("node", ["linux".to_owned()].as_slice()));
    assert_eq!(launch.env.iter().collect::<Vec<_>>(), [(&"A".to_owned(), &"linux".to_owned())]);
}

#[test]
fn what_is_printed_is_what_a_recipe_reads() {
    let hostile = [
        "plain",
        "",
        "yes",
        "NULL",
        "~",
        "10",
        "1e3",
        "a b",
        "a: b",
        "#x",
        "- x",
        "{a}",
        "\"",
        "\\",
        "\u{202e}x",
        "ü日本",
        "\u{e0001}",
        "a\nb\t\r",
        "\u{7f}\u{85}\u{2028}",
        "${TREE}/x",
        "!tag",
        "&a",
        "*a",
        "'",
        "<key>",
        "-",
        "true",
        "n",
    ];
    let env = hostile.iter().enumerate().map(|(index, text)| (format!("V{index}"), (*text).to_owned())).collect();
    let wanted = Launch {
        command: "./main".to_owned(),
        args: hostile.map(str::to_owned).to_vec(),
        env,
        accept_args: mcpfs_trust::release::AcceptArgs::default(),
        runtime: mcpfs_trust::release::Runtime::Host,
        workdir: None,
        platform: None,
    };
    let line = yaml(&wanted);
    assert!(!line.contains(['\n', '\u{202e}', '\u{e0001}', '\u{7f}']), "{line}");
    let text = format!(
        "name: x\nversion: 1.0.0\nmaintainer: m\ndescription: d\ndata_classification: public\nreviewed_at: 2026-04-15\n\
         reviewers: [r]\nartefact: {{url: file:x, sha256: {}}}\n{line}\n",
        mcpfs_trust::digest::Digest::EMPTY
    );
    let recipe = Recipe::parse(&text, "x.yaml").unwrap_or_else(|errors| panic!("{errors}\n{line}"));
    assert_eq!(recipe.launch.unwrap(), wanted);
}
