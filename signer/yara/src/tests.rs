#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use crate::protocol::{Answer, Ask, Hello, Match, PROTOCOL};
use crate::scan;

/// What the engine answers to rules and files, without the greeting.
fn answers(rules: &[(&str, &[u8])], files: &[&[u8]]) -> Vec<Answer> {
    let mut input = Vec::new();
    let mut ask = |ask: &Ask, body: &[u8]| {
        input.extend(serde_json::to_vec(ask).unwrap());
        input.push(b'\n');
        input.extend(body);
    };
    for (name, source) in rules {
        ask(&Ask::Rules { name: (*name).to_owned(), size: source.len() as u64 }, source);
    }
    ask(&Ask::Ready, b"");
    for file in files {
        ask(&Ask::Scan { size: file.len() as u64 }, file);
    }
    let mut output = Vec::new();
    scan::serve(Cursor::new(input), &mut output).unwrap();
    let mut lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let hello: Hello = serde_json::from_slice(lines.next().unwrap()).unwrap();
    assert_eq!(hello.protocol, PROTOCOL);
    assert!(hello.engine.starts_with("yara-x 1."), "{hello:?}");
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn matches(answer: &Answer) -> &[Match] {
    match answer {
        Answer::Matches(matches) => matches,
        other => panic!("{other:?}"),
    }
}

fn below(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
    paths.into_iter().map(named).collect()
}

/// Each rule has a sample, `<rule>.<ending>`, that gives this rule and no other of its weight;
/// and no sample is without its rule.
#[test]
fn each_rule_finds_its_sample() {
    let rules = below("../rules");
    let samples = below("samples");
    let sources: Vec<(&str, &[u8])> = rules.iter().map(|(name, text)| (name.as_str(), text.as_slice())).collect();
    let files: Vec<&[u8]> = samples.iter().map(|(_, content)| content.as_slice()).collect();
    let answers = answers(&sources, &files);
    for (answer, (name, _)) in answers.iter().zip(&rules) {
        assert_eq!(*answer, Answer::Rules { problem: None }, "{name}");
    }
    let Answer::Ready { rules: count } = answers[rules.len()] else { panic!("{answers:?}") };
    let mut found = BTreeSet::new();
    for (answer, (name, _)) in answers[rules.len() + 1..].iter().zip(&samples) {
        let matching: Vec<&str> = matches(answer).iter().map(|one| one.rule.as_str()).collect();
        let wanted = name.split('.').next().unwrap();
        assert_eq!(matching, [wanted], "{name}");
        assert!(matches(answer)[0].line.is_some_and(|line| line > 1), "{name} begins with what makes it harmless");
        found.insert(wanted);
    }
    assert_eq!(found.len() as u64, count, "each rule has a sample: {found:?}");
}

const RULE: &str = r#"
rule one { meta: severity = "error" fix = "x" number = 1 strings: $a = "needle" condition: $a }
"#;

#[test]
fn a_match_is_told_with_its_place() {
    let answers = answers(&[("a.yar", RULE.as_bytes())], &[b"hay\nhay needle needle", b"hay", b""]);
    assert_eq!(answers[0], Answer::Rules { problem: None });
    assert_eq!(answers[1], Answer::Ready { rules: 1 });
    let meta = [("severity", "error"), ("fix", "x")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    let want =
        Match { file: "a.yar".to_owned(), rule: "one".to_owned(), offset: Some(8), line: Some(2), meta: meta.into() };
    assert_eq!(matches(&answers[2]), [want]);
    assert!(matches(&answers[3]).is_empty() && matches(&answers[4]).is_empty());
}

#[test]
fn rules_that_do_not_compile_are_told_and_the_others_count() {
    let broken = format!("{RULE}\nrule two {{ condition: nonsense }}");
    let answers = answers(
        &[
            ("broken.yar", broken.as_bytes()),
            ("binary.yar", b"\xff\xfe\x00"),
            ("includes.yar", b"include \"/etc/passwd\""),
            ("unknown.yar", b"import \"nosuch\" rule x { condition: nosuch.y }"),
            ("b.yar", b"rule one { condition: filesize == 3 }"),
        ],
        &[b"needle", b"abc"],
    );
    for answer in &answers[..4] {
        let Answer::Rules { problem: Some(problem) } = answer else { panic!("{answer:?}") };
        assert!(problem.starts_with("error"), "{problem}");
    }
    assert_eq!(answers[4..6], [Answer::Rules { problem: None }, Answer::Ready { rules: 2 }]);
    assert_eq!(matches(&answers[6])[0].file, "broken.yar");
    let by_size = &matches(&answers[7])[0];
    assert_eq!((by_size.file.as_str(), by_size.offset, by_size.line), ("b.yar", None, None));
}

#[test]
fn what_it_was_not_asked_rightly_ends_it() {
    for input in [
        &b"{}\n"[..],
        b"nonsense\n",
        b"{\"scan\":{\"size\":1}}\nx",
        b"\"ready\"\n\"ready\"\n",
        b"{\"rules\":{\"name\":\"x\",\"size\":99999999}}\n",
        b"{\"rules\":{\"name\":\"x\",\"size\":9}}\nshort",
        b"\"ready\"\n{\"scan\":{\"size\":999999999999}}\n",
    ] {
        let mut output = Vec::new();
        assert!(scan::serve(Cursor::new(input.to_vec()), &mut output).is_err(), "{}", String::from_utf8_lossy(input));
    }
    assert!(scan::serve(Cursor::new(Vec::new()), Vec::new()).is_ok());
}

/// A rule made to take for ever, and a file that feeds it: an answer, not a hang.
#[test]
fn a_rule_that_takes_for_ever_is_stopped() {
    let slow = b"rule slow { condition: for all i in (0..9223372036854775806) : (i * 3 != filesize - 1 or true) }";
    let answers = answers(&[("slow.yar", slow)], &[b"x"]);
    assert!(matches!(&answers[2], Answer::Failed(why) if why.contains("timeout")), "{answers:?}");
}
