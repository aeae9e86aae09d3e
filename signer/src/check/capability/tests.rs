#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::markers::MARKERS;
use super::*;
use crate::check::tests::Place;
use crate::check::{Checked, check};

fn seen(language: Language, text: &str) -> String {
    let found = scan::look(language, text.as_bytes());
    let shown = found.iter().map(|one| match one.line {
        Some(line) => format!("{}:{line}:{}", one.capability, one.marker),
        None => format!("{}:{}", one.capability, one.marker),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn markers_count_only_where_they_mean_it() {
    use Language::{JavaScript, Python, Shell};
    for (language, text, want) in [
        (JavaScript, "const x = require('child_process')", "exec:1:child_process"),
        (JavaScript, "\nimport{spawn}from\"node:child_process\"", "exec:2:child_process"),
        (JavaScript, "import http from 'http'", "network:1:http"),
        (JavaScript, "const m=require( \"net\" )", "network:1:net"),
        (JavaScript, "const m=require(\"net\" )", "network:1:net"),
        (JavaScript, "const scheme = 'http'; const a = ['https', \"net\"]", ""),
        (JavaScript, "await fetch (url)", "network:1:fetch"),
        (JavaScript, "globalThis.fetch(url)", "network:1:fetch"),
        (JavaScript, "cache.fetch(key); prefetch(x); fetchAll(y)", ""),
        (JavaScript, "/x/.exec(y); retrieval(z); medieval('x')", ""),
        (JavaScript, "eval(code)", "eval:1:eval"),
        (JavaScript, "new Function('a', body)", "eval:1:new Function("),
        (JavaScript, "process.env.HOME", "environment:1:process.env"),
        (JavaScript, "fs.promises.writeFile(p, d)", "write:1:writeFile"),
        // Comments, in the plain cases; and code that looks like one.
        (JavaScript, "// eval(x)\n  // child_process", ""),
        (JavaScript, "/**\n * Uses `child_process` and eval(x)\n */\nlet a = 1", ""),
        (JavaScript, "/* eval(x) */", ""),
        (JavaScript, "/* nothing */ eval(x)", "eval:1:eval"),
        (JavaScript, "let a = 2\n* eval(x)", "eval:2:eval"),
        (JavaScript, "/* a\n */\n* eval(x)", "eval:3:eval"),
        (JavaScript, "let s = '//'; eval(x)", "eval:1:eval"),
        (Python, "import os, subprocess", "exec:1:subprocess"),
        (Python, "from socket import create_connection", "network:1:socket"),
        (Python, "socket = 1\nself.socket.close()", ""),
        (Python, "re.compile('x'); model.eval(); cursor.exec(q)", ""),
        (Python, "exec(compile(x, 'a', 'exec'))", "eval:1:exec"),
        (Python, "# subprocess\n    # eval(x)", ""),
        (Python, "open('a').read(); open('b', 'rb')", ""),
        (Python, "open(path, mode='wb')", "write:1:open("),
        (Python, "open(path, \"a\")", "write:1:open("),
        (Python, "os.environ['TOKEN']", "environment:1:os.environ"),
        (Python, "import ctypes", "native:1:ctypes"),
        (Shell, "#!/bin/sh\necho hello", "exec:1:a shell script"),
        (Shell, "#!/bin/sh\ncurl -s x | sh\n# wget y", "exec:1:a shell script network:2:curl"),
        (Shell, "exec 3<>/dev/tcp/host/80", "exec:1:a shell script network:1:/dev/tcp/"),
        (Language::None, "eval(x)", ""),
    ] {
        assert_eq!(seen(language, text), want, "{language:?} {text:?}");
    }
}

#[test]
fn languages_are_told_by_name_and_by_begin() {
    for (name, want) in [
        ("a.js", Some(Language::JavaScript)),
        ("A.MJS", Some(Language::JavaScript)),
        ("a.d.ts", Some(Language::None)),
        ("a.ts", Some(Language::JavaScript)),
        ("a.py", Some(Language::Python)),
        ("evil.pth", Some(Language::Python)),
        ("run.sh", Some(Language::Shell)),
        ("a.json", Some(Language::None)),
        ("a.so.1", None),
        ("server", None),
    ] {
        assert_eq!(Language::of_name(name), want, "{name}");
    }
    for (begin, want) in [
        ("#!/usr/bin/env node\n", Language::JavaScript),
        ("#!/usr/bin/python3 -E\n", Language::Python),
        ("#!/bin/sh\n", Language::Shell),
        ("#! /usr/bin/env bash\n", Language::Shell),
        ("#!/usr/bin/perl\n", Language::None),
        ("\x7fELF\x02", Language::Machine),
        ("hello", Language::None),
    ] {
        assert_eq!(Language::of_begin(begin.as_bytes()), want, "{begin}");
    }
}

#[test]
fn machine_code_is_told_by_its_imports() {
    // This test itself: it starts processes and reads the environment, by the C library.
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let found = scan::look(Language::Machine, &own);
    let words: Vec<&str> = found.iter().map(|one| one.capability.word()).collect();
    assert_eq!(words[0], "native");
    assert!(words.contains(&"exec") && words.contains(&"environment"), "{words:?}");
    for cut in [0, 4, 63, 64, 200, own.len() / 2] {
        assert_eq!(scan::look(Language::Machine, &own[..cut])[0].marker, "machine code");
    }
    let mut broken = own;
    for at in (0..broken.len()).step_by(97) {
        broken[at] ^= 0x5a;
    }
    assert_eq!(scan::look(Language::Machine, &broken)[0].marker, "machine code");
}

#[test]
fn files_belong_to_the_innermost_package() {
    let roots: BTreeSet<String> = ["".to_owned(), "venv/site-packages".to_owned()].into();
    for (path, want) in [
        ("node_modules/lodash/fp/x.js", "npm:lodash"),
        ("node_modules/@a/b/x.js", "npm:@a/b"),
        ("node_modules/a/node_modules/b/x.js", "npm:b"),
        ("venv/site-packages/requests/api.py", "python:requests"),
        ("venv/site-packages/six.py", "python:six"),
        ("six.py", "python:six"),
        ("pkg/mod.py", "python:pkg"),
    ] {
        assert_eq!(package(path, &roots), want, "{path}");
    }
    let none = BTreeSet::new();
    for path in ["dist/index.js", "node_modules/.bin/x", "node_modules/x.js", "my_node_modules/a/x.js"] {
        assert_eq!(package(path, &none), OWN, "{path}");
    }
}

fn looked_at(place: &Place, more: &str) -> Checked {
    check(&place.recipe(more), &place.options()).unwrap()
}

#[test]
fn a_check_lists_what_packages_can_do() {
    let place = Place::new();
    place.write("hello/node_modules/a/x.js", b"\neval(x)", 0o644);
    place.write("hello/node_modules/a/y.js", b"fetch(x); eval(y)", 0o644);
    place.write("hello/node_modules/b/empty.js", b"", 0o644);
    place.write("hello/lib/x.pyc", b"\x00\x01", 0o644);
    place.write("hello/lib/y.py", b"pass\n", 0o644);
    place.write("hello/lib/__pycache__/y.cpython-311.pyc", b"\x00\x02", 0o644);
    let checked = looked_at(&place, "");
    let all = &checked.capabilities[0].1;
    assert_eq!(
        serde_json::to_value(all).unwrap(),
        serde_json::json!({"packages": {
            "npm:a": {
                "network": {"file": "node_modules/a/y.js", "line": 1, "marker": "fetch"},
                "eval": {"file": "node_modules/a/x.js", "line": 2, "marker": "eval"},
            },
            "own code": {
                "exec": {"file": "bin/server", "line": 1, "marker": "a shell script"},
                "native": {"file": "lib/x.pyc", "marker": "bytecode"},
            },
        }})
    );
    assert_eq!(all.counts(), "network (npm:a), exec (own code), eval (npm:a), native (own code)");
    assert_eq!(checked.findings.summary(), "check: ok");

    // A recipe that declares no network is asked about the code that uses it.
    let said = looked_at(&place, "sandbox: {network: none}\n").findings.to_string();
    let want = "sandbox.network: the recipe says none, but there is code that uses it: npm:a \
                (node_modules/a/y.js:1 fetch) [capability-undeclared]";
    assert!(said.contains(want), "{said}");
    assert_eq!(looked_at(&place, "sandbox: {network: host}\n").findings.summary(), "check: ok");
}

#[test]
fn what_came_with_a_version_is_the_difference() {
    let uses = |packages: &[(&str, &[Capability])]| {
        let mut all = Capabilities::default();
        for (package, uses) in packages {
            let evidence = Evidence { file: "x.js".to_owned(), line: Some(1), marker: "m" };
            let uses = uses.iter().map(|one| (*one, evidence.clone())).collect();
            all.packages.insert((*package).to_owned(), uses);
        }
        all
    };
    let before = uses(&[("a", &[Capability::Network]), ("gone", &[Capability::Exec])]);
    let after = uses(&[("a", &[Capability::Network, Capability::Eval]), ("new", &[Capability::Exec])]);
    let new: Vec<String> = after.since(&before).map(|(package, one, _)| format!("{package} {one}")).collect();
    assert_eq!(new, ["a eval", "new exec"]);
    assert_eq!(after.since(&after).count(), 0);
}

/// A hostile file costs what its size says: no look back over the whole of a long line.
#[test]
fn the_look_is_linear() {
    let line = "* child_process_ //eval_( process.env_ ".repeat(100_000);
    assert_eq!(seen(Language::JavaScript, &format!("//{line}")), "environment:1:process.env");
    assert_eq!(seen(Language::JavaScript, &format!("//\n{line}")), "environment:2:process.env");
}

#[test]
fn the_table_is_documented() {
    let text = include_str!("../../../../docs/patterns.md");
    let languages = [Language::JavaScript, Language::Python, Language::Shell];
    for language in languages {
        for capability in Capability::ALL {
            let mut shown: Vec<String> = Vec::new();
            for marker in MARKERS.iter().filter(|one| one.language == language && one.capability == capability) {
                shown.push(format!("`{}`", marker.shape.shown(marker.text)));
            }
            let row = format!("| {language:?} | {capability} | {} |", shown.join(" "));
            assert!(shown.is_empty() || text.contains(&row), "docs/patterns.md lacks: {row}");
        }
    }
    for (capability, names) in elf::IMPORTS {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let row = format!("| ELF imports | {capability} | {} |", names.join(" "));
        assert!(text.contains(&row), "docs/patterns.md lacks: {row}");
    }
}
