//! What the rules say of recipes, launches and trees.

use super::*;

#[test]
fn rules_of_the_recipe() {
    let place = Place::new();
    for (from, to, want) in [
        (
            "data_classification: public",
            "data_classification: Confidential",
            "error L5 lawful_basis: missing (required because data_classification is confidential) [lawful-basis]",
        ),
        (
            "data_classification: public",
            "data_classification: confidental",
            "warning L5 data_classification: \"confidental\" is not one of: public, internal, confidential, restricted [classification]",
        ),
        (
            "reviewed_at: 2026-04-15",
            "reviewed_at: 2026-11-23",
            "error L6 reviewed_at: 2026-11-23 is in the future (today is 2026-11-22) [reviewed-at]",
        ),
        (
            "launch: {command: bin/server}",
            "",
            "warning L1 launch: missing: hosts can list and read this server, but not start it [launch-missing]",
        ),
        (
            "command: bin/server",
            "command: bin/other",
            "error L11 launch.command: \"bin/other\" is not in the artefact [launch-command]",
        ),
        (
            "command: bin/server",
            "command: ./README",
            "error L11 launch.command: \"README\" is not executable in the artefact [launch-command]",
        ),
        (
            "command: bin/server",
            "command: bin/",
            "error L11 launch.command: neither a path inside the tree nor the name of a runtime [recipe]",
        ),
        (
            "maintainer",
            "maintaner",
            "error L1 maintainer: missing [recipe]\nerror L3 unknown field \"maintaner\": did you mean maintainer? [recipe]",
        ),
        ("url: file:hello", "url: file:hallo", "error L9 artefact.url:"),
        (
            "url: file:hello",
            "url: oci://r.example.com/x:1",
            "error L9 artefact.url: host https://r.example.com is not listed; if it may be asked, add --allow-host r.example.com [fetch]",
        ),
        ("url: file:hello", "url: file:hello/README", "error L10 artefact.sha256: its SHA-256 is "),
        ("command: bin/server", "command: node", ""),
        (
            "command: bin/server",
            "command: bin/server, args: [\"a\\u202eb\"]",
            "error L11 launch: has the invisible character U+202E [recipe-invisible]",
        ),
        (
            "command: bin/server}",
            "command: bin/server} # \u{200b}",
            "error L11 line 11 has the invisible character U+200B [recipe-invisible]",
        ),
        (
            "command: bin/server",
            "command: node README",
            "error L11 launch.command: \"node README\" is a line of words; a command is one program [launch-command]",
        ),
        (
            "command: bin/server",
            "command: node bin/server",
            "error L11 launch.command: \"node bin/server\" is not in the artefact [launch-command]",
        ),
        (
            "command: bin/server",
            "command: bin/server, args: ['--at=${USER}', '${TREE}', '${}', '$HOME', '${x']",
            "warning L11 launch.args[0]: ${USER} is no variable here: the server would get it as it stands \
             [launch-variable]",
        ),
        (
            "command: bin/server",
            "command: bin/server, env: {A: 'a${TREE}${user_config.key}'}",
            "warning L11 launch.env.A: ${user_config.key} is no variable here: the server would get it as it stands \
             [launch-variable]",
        ),
        (
            "command: bin/server",
            "command: bin/server, args: ['${CREDENTIALS}/pgpass']",
            "warning L11 launch.args[0]: ${CREDENTIALS} is no variable here: the server would get it as it stands \
             [launch-variable]",
        ),
        // The design's own example, word for word but for the file's name.
        (
            "command: bin/server",
            "command: node, args: [bin/server]",
            "error L11 launch.args[0]: \"bin/server\" is a file of the artefact, but the server starts in its state \
             directory and would look there [launch-argument]",
        ),
        (
            "command: bin/server",
            "command: node, args: [--quiet, ./bin/server]",
            "error L11 launch.args[1]: \"./bin/server\" is a file of the artefact, but the server starts in its state \
             directory and would look there [launch-argument]",
        ),
        // Meant as they stand, or no path of the tree at all.
        (
            "command: bin/server",
            "command: node, args: [serve, '${TREE}/bin/server', /bin/server, bin, bin/none, ., ./, '']",
            "",
        ),
        ("command: bin/server", "command: node, args: ['${STATE}/README', a=README, --x=none, --x=/README]", ""),
        // These may be words of the server's own: a reviewer decides.
        (
            "command: bin/server",
            "command: node, args: [./bin]",
            "warning L11 launch.args[0]: \"./bin\" is a directory of the artefact, but the server starts in its state \
             directory and would look there [launch-argument-unclear]",
        ),
        (
            "command: bin/server",
            "command: node, args: [README]",
            "warning L11 launch.args[0]: \"README\" is a file of the artefact, but the server starts in its state \
             directory and would look there [launch-argument-unclear]",
        ),
        (
            "command: bin/server",
            "command: node, args: [--load=bin/server]",
            "warning L11 launch.args[0]: \"--load=bin/server\" is a file of the artefact, but the server starts in its \
             state directory and would look there [launch-argument-unclear]",
        ),
        (
            "command: bin/server",
            "command: bin/server, args: [./README]",
            "warning L11 launch.args[0]: \"./README\" is a file of the artefact, but the server starts in its state \
             directory and would look there [launch-argument-unclear]",
        ),
    ] {
        let found = said(&place, from, to);
        assert!(found.starts_with(want) && found.is_empty() == want.is_empty(), "{to}:\n{found}");
    }
}

#[test]
fn a_relative_argument_is_told_its_exact_replacement() {
    let place = Place::new();
    for (args, want) in [
        (
            "command: node, args: [./bin/server]",
            "fix: write \"${TREE}/bin/server\" for the file of the artefact, or \"${STATE}/bin/server\" for one that the \
             server makes",
        ),
        (
            "command: node, args: [--load=bin/server]",
            "fix: write \"--load=${TREE}/bin/server\" for the file of the artefact, or \"--load=${STATE}/bin/server\" for \
             one that the server makes; leave it if it is not a path",
        ),
    ] {
        let recipe = place.recipe("");
        let text = fs::read_to_string(&recipe).unwrap().replace("command: bin/server", args);
        let found = place.check(&place.save("hello", &text)).to_string();
        assert!(found.ends_with(want), "{found}");
        // The words themselves, put where the argument stood, pass.
        let fixed = found.rsplit("write ").next().unwrap().split(" for ").next().unwrap();
        let old = args.rsplit('[').next().unwrap().trim_end_matches(']');
        place.save("hello", &text.replace(&format!("[{old}]"), &format!("[{fixed}]")));
        assert_eq!(place.check(&recipe).summary(), "check: ok", "{fixed}");
    }
}

#[test]
fn a_line_of_words_is_told_as_command_and_arguments() {
    let place = Place::new();
    for (command, fix) in [
        ("node README", "write command: node and args: [README]"),
        ("node bin/server --x", "write command: node and args: [bin/server, \"--x\"]"),
    ] {
        let path = place.recipe("");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("command: bin/server", &format!("command: {command}"))).unwrap();
        let findings = place.check(&path);
        assert_eq!(findings.all()[0].fix.as_deref(), Some(fix));
        assert_eq!(findings.count(Severity::Error), 1, "{findings}");
    }
}

#[test]
fn names_that_look_alike() {
    let place = Place::new();
    place.save("hel-lo", "");
    place.save("x-y.z", "");
    let recipe = place.recipe("");
    assert_eq!(place.check(&recipe).summary(), "check: ok");
    let text = fs::read_to_string(&recipe).unwrap().replace("name: hello", "name: x.y_z");
    let recipe = place.save("x.y_z", &text);
    assert_eq!(
        place.check(&recipe).to_string(),
        "check: 1 error\n· error L1 name: x.y_z and x-y.z differ only in '-', '_' or '.' [name-similar]\n    \
         fix: choose a name that nobody mistakes for the other"
    );
}

#[test]
fn rules_of_the_content() {
    let place = Place::new();
    place.write("hello/Readme", b"case", 0o644);
    place.write("hello/e\u{301}", b"not NFC", 0o644);
    place.write("hello/a\u{202e}b", b"bidi", 0o644);
    symlink("nothing", place.path("files/hello/dangling")).unwrap();
    symlink("/bin/server", place.path("files/hello/absolute")).unwrap();
    let findings = place.check(&place.recipe(""));
    let all: Vec<String> = findings.all().iter().map(|finding| format!("{finding} [{}]", finding.rule)).collect();
    assert_eq!(
        all,
        [
            "warning L9 dangling: the link to \"nothing\" leads nowhere [link-dangling]",
            "warning L9 Readme: differs from \"README\" beside it only in case or Unicode form [name-case]",
            "warning L9 e\u{301}: is not in Unicode form NFC [name-form]",
            "warning L9 a\\u{202e}b: has the invisible character U+202E [name-bidi]",
            "note L9 absolute: the absolute link to \"/bin/server\" now leads below the tree's root [link-rewritten]",
        ]
    );
    assert_eq!(findings.summary(), "check: 4 warnings, 1 note");
    // Warnings do not keep a release from being staged, and the record names them.
    let staging = place.ingest(&place.recipe(""), "staging");
    assert_eq!(staging.record.findings, Digest::of(&findings.json()));
    staging.recheck(now()).unwrap();
}

#[test]
fn many_findings_of_one_rule_are_counted() {
    let place = Place::new();
    for index in 0..50 {
        symlink("nothing", place.path(&format!("files/hello/l{index}"))).unwrap();
    }
    let findings = place.check(&place.recipe(""));
    assert_eq!(findings.count(Severity::Warning), 21);
    assert_eq!(findings.all()[20].message, "and 30 more like these");
}
