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

/// The one block of the page in this language.
fn block(language: &str) -> String {
    let text = std::fs::read_to_string(scratch::repository().join("README.md")).unwrap();
    let mut blocks = text.split("\n```").filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'));
    let block = blocks.next().unwrap_or_else(|| panic!("README.md has no {language} block")).to_owned();
    assert!(blocks.next().is_none(), "more than one {language} block");
    block
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
    let recipe = block("yaml");
    for version in ["1.0.0", "1.1.0"] {
        // The reader's own server, and the next version of it under the page's own words.
        std::fs::rename(fixture::hello_tree(dir.path(), version), dir.path().join("hello")).unwrap();
        for line in &publish {
            // Keys and trust root are made once.
            if version != "1.0.0" && (line.contains(" keys ") || line.contains(" trust ")) {
                continue;
            }
            let ran = publisher(&line.replace("1.0.0", version));
            if line.contains(" bundle ") {
                let digest = ran.stdout.split(' ').next().unwrap();
                assert!(recipe.contains("sha256: 3f9a…\n"), "{recipe}");
                let recipe = recipe.replace("1.0.0", version).replace("3f9a…", digest);
                std::fs::write(dir.path().join("servers/hello.yaml"), recipe).unwrap();
            }
        }
        std::fs::remove_dir_all(dir.path().join("hello")).unwrap();
    }
    let site = Site::serve(&dir.path().join("site"));
    let host = Host::new(&dir.path().join("trust.json"), &site.url(), Reads::Cached);
    the_configuration_is_complete(&host, &site.url());
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

/// mcpfs.toml as the page shows it, but for the address; and what it tells an MCP host.
fn the_configuration_is_complete(host: &Host, url: &str) {
    let page = block("toml");
    let toml = page.replace("https://mcp.example.com/prod/", url);
    assert_ne!(page, toml);
    let place = scratch::dir();
    std::fs::write(place.path().join("mcpfs.toml"), toml).unwrap();
    std::fs::copy(host.trust(), place.path().join("trust.json")).unwrap();
    let config = place.path().join("mcpfs.toml");
    shell(&format!("mcpfs --config {} config check", config.display())).ok().says(url);
    let settings: serde_json::Value = serde_json::from_str(&block("json")).unwrap();
    assert_eq!(settings["mcpServers"]["hello"]["command"], "/mcp/hello/run");
}
