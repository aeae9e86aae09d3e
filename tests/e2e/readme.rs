//! README.md's commands, typed as they stand there, in their order.
//!
//! The blocks marked `console` are taken from the page itself, so it cannot promise what does
//! not work. Publishing comes later on the page than using, but has to happen first.

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::{Mount, is_mounted};
use mcpfs_tests::scratch;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("readme::its_commands_work", its_commands_work);
}

/// The commands of the section with this heading.
fn commands(section: &str) -> Vec<String> {
    let text = std::fs::read_to_string(scratch::repository().join("README.md")).unwrap();
    let mut inside = (false, false);
    let mut found = Vec::new();
    for line in text.lines() {
        match line {
            heading if heading.starts_with("## ") => inside.0 = &heading[3..] == section,
            "```console" => inside.1 = true,
            "```" => inside.1 = false,
            command if inside == (true, true) => {
                found.push(command.strip_prefix("$ ").expect("each line of a console block is a command").to_owned());
            }
            _ => {}
        }
    }
    assert!(found.len() > 3, "README.md has no commands in {section:?}");
    found
}

fn shell(line: &str) -> Run {
    let bin = mcpfs_tests::binaries::bin("mcpfs");
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    Run::new("sh").args(["-euc", line]).env("PATH", path)
}

fn its_commands_work() {
    let (hsm, dir) = (Hsm::new(), scratch::dir());
    let artefacts = dir.path().join("artefacts");
    std::fs::create_dir_all(dir.path().join("servers")).unwrap();
    std::fs::create_dir_all(&artefacts).unwrap();
    let publish = commands("Publish a server");
    let publisher = |line: &str| -> Ran {
        hsm.with_token(shell(line))
            .env("MODULE", hsm.module())
            .env("MCPFS_PIN_FILE", hsm.pin_file())
            .env("MCPFS_SIGNER_STATE", dir.path().join("signer-state"))
            .dir(dir.path())
            .ok()
    };
    for version in ["1.0.0", "1.1.0"] {
        let artefact = fixture::tar(&fixture::hello_tree(&artefacts, version));
        let recipe = fixture::Recipe::new("hello", version, &artefact).with(fixture::HELLO_LAUNCH);
        std::fs::write(dir.path().join("servers/hello.yaml"), recipe.yaml()).unwrap();
        // Keys and trust root are made once.
        let once = |line: &&String| version == "1.0.0" || !(line.contains(" keys ") || line.contains(" trust "));
        publish.iter().filter(once).for_each(|line| drop(publisher(line)));
    }
    let site = Site::serve(&dir.path().join("site"));
    let host = Host::new(&dir.path().join("trust.json"), &site.url(), Reads::Cached);
    for line in commands("Use a registry") {
        if line == "mcpfs mount" {
            // The test's own mount, so that it is certainly stopped.
            assert!(!is_mounted(&host.mcp()));
            continue;
        }
        if line == "mcpfs config check" {
            shell(&line.replacen("mcpfs", &format!("mcpfs --config {}", host.config().display()), 1)).ok();
            continue;
        }
        let _mount = Mount::start(&host);
        shell(&line.replacen("mcpfs", &format!("mcpfs --config {}", host.config().display()), 1)).ok();
        assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["name"], "hello");
    }
}
