//! docs/format.md says what the code does: its tables are compared with the constants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::path::Path;

use mcpfs_trust::error::Code;
use mcpfs_trust::limits;
use mcpfs_trust::name::RESERVED;

fn text() -> String {
    page("format.md")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).unwrap()
}

/// What docs/threat-model.md names as proof is there: vectors, end-to-end tests, codes and steps. Its tables, and what
/// tests assert of them, are compared where the tests are (tests/e2e/tables.rs).
#[test]
fn the_threat_models_proofs_exist() {
    let text = page("threat-model.md");
    let spans: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut vectors, mut tests) = (0, 0);
    for span in spans {
        let kind = span.split('-').next().unwrap_or_default();
        if let Some((room, _)) = span.split_once("::").filter(|(room, _)| *room != "room") {
            let file = root.join(format!("../tests/e2e/{room}.rs"));
            if room != "tuf" {
                let source = std::fs::read_to_string(file).unwrap();
                assert!(source.contains(&format!("\"{span}\"")), "no test {span} is registered in tests/e2e/{room}.rs");
            }
            tests += 1;
        } else if span.contains('-') && ["trust", "head", "release", "tree", "layout", "chunk"].contains(&kind) {
            assert!(root.join(format!("testdata/vectors/{span}.json")).exists(), "no vector {span}");
            vectors += 1;
        } else if span.starts_with(char::is_uppercase) && span.chars().any(char::is_lowercase) {
            assert!(Code::ALL.iter().any(|code| code.to_string() == span), "no outcome {span}");
        }
    }
    assert!(vectors > 30 && tests > 20, "{vectors} vectors, {tests} tests");
    let format = page("format.md");
    let (_, steps) = format.split_once("## 13. Verification").unwrap();
    let last = steps.lines().filter_map(|line| line.split_once(". ")?.0.parse::<u32>().ok()).max();
    assert_eq!(last, Some(20), "docs/threat-model.md cites the steps by number");
}

#[test]
fn the_table_of_errors_is_the_code() {
    let text = text();
    let (_, section) = text.split_once("## 12. Errors").unwrap();
    let (section, _) = section.split_once("## 13.").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: Vec<(String, String)> =
        rows.map(|(code, rest)| (code.to_owned(), rest.split(" | ").next().unwrap().to_owned())).collect();
    let coded: Vec<_> = Code::ALL.iter().map(|code| (code.to_string(), code.group().to_string())).collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_limits_are_the_constants() {
    let text = text();
    for words in [
        format!("{} KiB, {} keys", limits::TRUST_ROOT_BYTES >> 10, limits::TRUST_ROOT_KEYS),
        format!(
            "| signatures in an envelope | {}, each of {} to {} bytes |",
            limits::SIGNATURES,
            limits::SIGNATURE_BYTES.start(),
            limits::SIGNATURE_BYTES.end()
        ),
        format!("| `head.json` | {} KiB |", limits::HEAD_BYTES >> 10),
        format!("| a head's lifetime | {} days |", limits::HEAD_LIFETIME_SECONDS / 86_400),
        format!(
            "| credentials of a release that starts | {}, each `ref` of {} bytes |",
            limits::CREDENTIALS,
            limits::CREDENTIAL_REF_BYTES
        ),
        format!("| clock skew | {} minutes |", limits::CLOCK_SKEW_SECONDS / 60),
        format!("| catalogue | {} KiB", limits::CATALOGUE_BYTES >> 10),
        format!("| bin | {} MiB |", limits::BIN_BYTES >> 20),
        format!(
            "| entry | {} MiB, {} releases, {} chunks listed for a tree or layout, {} first chunks |",
            limits::ENTRY_BYTES >> 20,
            limits::ENTRY_RELEASES,
            limits::LISTED_CHUNKS,
            limits::FIRST_CHUNKS
        ),
        format!("| platforms of a release | {} |", limits::PLATFORMS),
        format!("| chunk | {} MiB plain", limits::CHUNK_PLAIN_BYTES >> 20),
        format!("{} levels, path 4,096 bytes, name {} bytes", limits::TREE_DEPTH, limits::NAME_BYTES),
        format!("| links followed for one path | {};", limits::LINK_DEPTH),
        format!("| the first line of `run` | {} bytes |", limits::SHEBANG_BYTES),
        format!("up to {} servers, else 256", limits::ONE_BIN_SERVERS),
    ] {
        assert!(text.contains(&words), "docs/format.md does not say: {words}");
    }
    for name in RESERVED {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
}
