//! The whole life of a pull request: opened, checked, approved, merged, signed, published,
//! shown by a host and launched by real clients. And the way without a network.

use std::path::Path;

use mcpfs_tests::codehost::{BOT_TOKEN, CodeHost, Kind, Merge, REPOSITORY};
use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{HEAD_KEY, RELEASE_KEY};
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::{self, need, wait_for};
use mcpfs_tests::signing::{HOOK_SECRET, Signing};
use mcpfs_tests::suite::{Attack, Suite};
use mcpfs_tests::{forge, servers};

use crate::boundary::SIGNING_HOST;
use crate::desk::{Desk, statement, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("pull_request::from_request_to_launch", from_request_to_launch);
    suite.plain("pull_request::the_check_comments_at_each_forge", the_check_comments_at_each_forge);
    suite.plain("pull_request::signing_needs_no_network", signing_needs_no_network);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "pull_request::staging_edited_after_the_check_is_refused",
            "a staging folder edited on its way to the key, in ten places: all of it is computed again, by the publisher's own policy",
            &["refused"],
        ),
        staging_edited_after_the_check_is_refused,
    );
    suite.plain("pull_request::the_unit_and_the_image_are_sound", the_unit_and_the_image_are_sound);
}

/// Puts the template's files into the registry's repository, with what is ours in `ci/options`
/// and the policy.
fn start_from_the_template(desk: &Desk) {
    let admin = desk.forge.clone_as("admin");
    admin.branch("template");
    let template = scratch::repository().join("signer/templates/registry");
    Run::new("cp").arg("-a").arg(format!("{}/.", template.display())).arg(admin.path("")).ok();
    std::fs::remove_file(admin.path("servers/hello.yaml")).unwrap();
    let options = format!("--registry={}\n--file-root={}\n", desk.registry.name(), desk.registry.artefacts().display());
    std::fs::write(admin.path("ci/options"), options).unwrap();
    let policy = std::fs::read_to_string(admin.path("policy.yaml")).unwrap();
    std::fs::write(admin.path("policy.yaml"), policy.replace("hosts: [artefacts.example.com]", "hosts: [\"file:\"]"))
        .unwrap();
    admin.commit("ci/README", "The check.\n", "Start from the template");
    admin.push("template").ok();
    let number = desk.forge.open("admin", "template", "Start from the template");
    desk.forge.approve(number, "sec");
    desk.forge.merge(number, "mona", Merge::Squash);
}

/// What the forge's runner does for a request: a fresh checkout, and the template's own script
/// with the variables of its workflow.
fn run_ci(forge: &CodeHost, number: u64, branch: &str) -> Ran {
    let runner = forge.clone_as("runner");
    runner.git(["checkout", "--quiet", "--detach", &format!("origin/{branch}")]).ok();
    let bin = mcpfs_tests::binaries::bin("mcpfs-signer");
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    Run::new(runner.path("ci/check.sh"))
        .dir(&runner.path(""))
        .env("PATH", path)
        .env("MCPFS_BASE", "origin/main")
        .env("MCPFS_FORGE", forge.kind().word())
        .env("MCPFS_API", forge.api_url())
        .env("MCPFS_REPOSITORY", REPOSITORY)
        .env("MCPFS_REQUEST", number.to_string())
        .env("MCPFS_FORGE_TOKEN", BOT_TOKEN)
        .run()
}

fn from_request_to_launch(reads: Reads) {
    let desk = Desk::new(Kind::Github);
    let (registry, codehost, s3) = (&desk.registry, &desk.forge, S3::new());
    start_from_the_template(&desk);
    let mut signing = Signing::new(registry);
    signing.extra.top = "poll = \"1h\"\n".to_owned();
    signing.extra.site_address = Some(s3.site("prod"));
    signing.extra.site =
        format!("endpoint = {:?}\nregion = \"us-east-1\"\npublic = {:?}\n", s3.endpoint(), s3.url("prod"));
    // The keys of the bucket, as the unit hands them over.
    let credentials = signing.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(s3.credentials_file(), credentials.join("mcpfs-s3")).unwrap();
    signing.extra.environment = vec![("CREDENTIALS_DIRECTORY", credentials.display().to_string())];
    let running = signing.start(codehost);
    running.pass();
    let head = || {
        let found = s3.get("prod/head.json").ok().stdout.starts_with("HTTP/1.1 200");
        found.then(|| forge::payload(&s3.json("prod/head.json"))["predicate"]["version"].as_u64().unwrap())
    };

    // Opened, with a mistake: CI says what is wrong, on the request.
    let dora = codehost.clone_as("dora");
    let number = desk.propose(&dora, "hello", "1.0.0");
    dora.commit(
        "servers/hello.yaml",
        &desk.recipe("hello", "1.0.0").replace("data_classification: internal", "data_classification: secret"),
        "hello",
    );
    dora.push("hello-1.0.0").ok();
    let ran = run_ci(codehost, number, "hello-1.0.0");
    assert_eq!(ran.code, 1, "{ran}");
    let comments = codehost.comments(number);
    assert_eq!(comments.len(), 1, "{ran}");
    assert!(
        comments[0].body.contains("## mcpfs check: refused") && comments[0].body.contains("policy-data"),
        "{}",
        comments[0].body
    );
    assert!(!ran.text().contains(BOT_TOKEN), "{ran}");
    // Mended: the same comment says so.
    dora.commit("servers/hello.yaml", &desk.recipe("hello", "1.0.0"), "hello");
    dora.push("hello-1.0.0").ok();
    let ran = run_ci(codehost, number, "hello-1.0.0");
    assert_eq!(ran.code, 0, "{ran}");
    let comments = codehost.comments(number);
    assert_eq!((comments.len(), comments[0].author.as_str()), (1, "mcpfs-bot"));
    assert!(comments[0].body.contains("## mcpfs check: passed"), "{}", comments[0].body);

    // Approved and merged; nobody but the webhook tells the signing server.
    for reviewer in ["sec", "plat"] {
        codehost.approve(number, reviewer);
    }
    assert_eq!(head(), None);
    codehost.merge(number, "mona", Merge::Commit);
    assert_eq!(codehost.send_webhook(&running.url(), HOOK_SECRET), 202);
    wait_for("the release", || (head() == Some(1)).then_some(()));
    verify(&s3.url("prod"), &registry.trust());

    // A host that knew nothing of it.
    let host = Host::new(&registry.trust(), &s3.url("prod"), reads);
    host.drop_in("50-refresh", "[registry]\nrefresh = \"1s\"\n");
    let _mount = Mount::start(&host);
    wait_for("the host to show it", || std::fs::metadata(host.at("hello/run")).ok());
    assert_eq!(std::fs::read_dir(host.mcp()).unwrap().count(), 1);
    let mut client = McpClient::start(&host.at("hello/run"));
    client.initialize();
    assert_eq!(client.tools(), ["add", "digest", "echo", "whoami"]);
    assert_eq!(client.end().code, 0);

    // The next version, while it serves: the host shows it by itself, when it has looked again.
    desk.accept(&dora, "hello", "1.1.0", Merge::Squash);
    assert_eq!(codehost.send_webhook(&running.url(), HOOK_SECRET), 202);
    let release = wait_for("the host to show the next version", || {
        std::fs::read_to_string(host.at("hello/1.1.0/release.json")).ok()
    });
    assert_eq!(head(), Some(2));
    assert!(release.contains(&codehost.git_url()) && release.contains("security@example.com"), "{release}");
    let listed =
        servers::inspector().env("HOME", host.home()).arg(host.at("hello/run")).args(["--method", "tools/list"]).ok();
    assert!(listed.stdout.contains("whoami"), "{listed}");
    running.stop();
}

fn the_check_comments_at_each_forge() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let forge = &desk.forge;
        start_from_the_template(&desk);
        let dora = forge.clone_as("dora");
        let number = desk.propose(&dora, "hello", "1.0.0");
        for _ in 0..2 {
            let ran = run_ci(forge, number, "hello-1.0.0");
            assert_eq!(ran.code, 0, "{kind:?}: {ran}");
            let comments = forge.comments(number);
            assert_eq!(comments.len(), 1, "{kind:?}: one comment, written anew: {ran}");
            assert!(
                comments[0].body.starts_with("<!-- mcpfs-signer check -->\n## mcpfs check: passed"),
                "{}",
                comments[0].body
            );
        }
        // A request that changes no recipe, and one that only removes one.
        dora.branch("words");
        dora.commit("docs/words.md", "Words.\n", "Words");
        dora.push("words").ok();
        let words = forge.open("dora", "words", "Words");
        assert!(run_ci(forge, words, "words").stdout.contains("No recipe changes."));
        assert!(forge.comments(words).is_empty());
        forge.merge(number, "mona", Merge::Squash);
        dora.branch("gone");
        dora.git(["rm", "--quiet", "servers/hello.yaml"]).ok();
        dora.git(["commit", "--quiet", "-m", "gone"]).ok();
        dora.push("gone").ok();
        let gone = forge.open("dora", "gone", "Remove hello");
        assert_eq!(run_ci(forge, gone, "gone").code, 0);
        assert!(forge.comments(gone)[0].body.contains("stay published"));
        // Without a working token the gate still says what it found.
        forge.set_fault(Some((401, "")));
        let ran = run_ci(forge, gone, "gone");
        assert!(ran.code == 0 && ran.text().contains("could not be written"), "{ran}");
    }
}

/// `check --staging` where there is a network.
fn stage(desk: &Desk, work: &Path) {
    let servers = work.join("servers");
    std::fs::create_dir_all(&servers).unwrap();
    std::fs::write(work.join("policy.yaml"), "reviewers: {minimum: 2}\n").unwrap();
    std::fs::write(servers.join("hello.yaml"), desk.recipe("hello", "1.0.0")).unwrap();
    desk.registry
        .signer()
        .arg("check")
        .arg(servers.join("hello.yaml"))
        .arg("--file-root")
        .arg(desk.registry.artefacts())
        .arg("--staging")
        .arg(work.join("staging"))
        .ok();
}

/// `publish --staging` on a machine whose only network is itself.
fn publish_offline(desk: &Desk, policy: &Path, staging: &Path, site: &Path) -> Ran {
    let (registry, hsm) = (&desk.registry, desk.registry.hsm());
    let mut run = Run::new(need("unshare", "util-linux"));
    if !scratch::is_root() {
        run = run.args(["--map-root-user"]);
    }
    run = run.args(["--net", "--"]).arg(mcpfs_tests::binaries::bin("mcpfs-signer"));
    for (name, value) in hsm.environment() {
        run = run.env(name, value);
    }
    run.env("MCPFS_SIGNER_STATE", staging.with_extension("state"))
        .args(["publish", "--staging"])
        .arg(staging)
        .arg("--policy")
        .arg(policy)
        .arg("--site")
        .arg(site)
        .arg("--trust")
        .arg(registry.trust())
        .args(["--head-key", &hsm.uri(HEAD_KEY), "--key", &hsm.uri(RELEASE_KEY)])
        .run()
}

fn signing_needs_no_network() {
    let desk = Desk::new(Kind::Github);
    let work = scratch::dir();
    stage(&desk, work.path());
    // Carried to the machine with the token, which has the policy, and nothing else with it.
    let policy = work.path().join("policy.yaml");
    let carried = work.path().join("carried");
    scratch::copy_dir(&work.path().join("staging"), &carried);
    let links = Run::new(need("unshare", "util-linux"));
    let links = if scratch::is_root() { links } else { links.arg("--map-root-user") };
    let links = links.args(["--net", "--", "cat", "/proc/net/dev"]).ok().stdout;
    let outside = links.lines().skip(2).filter(|line| !line.trim_start().starts_with("lo:")).count();
    assert_eq!(outside, 0, "there is no way out: {links}");
    let site = work.path().join("site");
    let ran = publish_offline(&desk, &policy, &carried, &site);
    assert!(ran.code == 0 && ran.stdout.contains("released   hello 1.0.0"), "{ran}");
    // And the site is carried back.
    let published = work.path().join("published");
    scratch::copy_dir(&site, &published);
    verify(&published, &desk.registry.trust());
    assert_eq!(statement(&published, "hello")["predicate"]["version"], "1.0.0");
}

fn staging_edited_after_the_check_is_refused() {
    let desk = Desk::new(Kind::Github);
    let work = scratch::dir();
    stage(&desk, work.path());
    let (policy, staging) = (work.path().join("policy.yaml"), work.path().join("staging"));
    let first = |folder: &str| {
        std::fs::read_dir(staging.join(folder)).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap()
    };
    let in_folder = |folder: &str| format!("{folder}/{}", first(folder));
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{from}: {text}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        }
    };
    type Edit<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    let edits: Vec<(String, Edit<'_>)> = vec![
        ("recipe.yaml".to_owned(), Box::new(replace("A server for tests.", "Something else."))),
        (in_folder("artefacts"), Box::new(flip)),
        (in_folder("trees"), Box::new(flip)),
        (in_folder("layouts"), Box::new(flip)),
        (in_folder("chunks"), Box::new(flip)),
        ("check.json".to_owned(), Box::new(replace("\"verdict\": \"pass\"", "\"verdict\": \"fail\""))),
        ("findings.json".to_owned(), Box::new(|bytes: &mut Vec<u8>| *bytes = b"[]".to_vec())),
        ("policy.yaml".to_owned(), Box::new(replace("minimum: 2", "minimum: 1"))),
        ("waivers.yaml".to_owned(), Box::new(|bytes: &mut Vec<u8>| *bytes = b"waivers: []\n".to_vec())),
        ("staging.json".to_owned(), Box::new(replace("\"platform\": \"any\"", "\"platform\": \"linux/amd64\""))),
    ];
    for (index, (file, edit)) in edits.iter().enumerate() {
        let edited = work.path().join(format!("edited-{index}"));
        scratch::copy_dir(&staging, &edited);
        let mut bytes = std::fs::read(edited.join(file)).unwrap_or_default();
        let before = bytes.clone();
        edit(&mut bytes);
        if file == "findings.json" && bytes == before {
            bytes = b"[{}]".to_vec();
        }
        std::fs::write(edited.join(file), &bytes).unwrap();
        let site = work.path().join(format!("site-{index}"));
        let ran = publish_offline(&desk, &policy, &edited, &site);
        assert_ne!(ran.code, 0, "{file} was edited: {ran}");
        assert!(!site.join("head.json").exists() && !site.join("servers/hello.json").exists(), "{file}: {ran}");
    }
    // Untouched it passes.
    let ran = publish_offline(&desk, &policy, &staging, &work.path().join("site"));
    assert_eq!(ran.code, 0, "{ran}");
    mcpfs_tests::proof::note("refused");
}

fn the_unit_and_the_image_are_sound() {
    let (signer, work) = (scratch::repository().join("signer"), scratch::dir());
    let unit = std::fs::read_to_string(signer.join("systemd/mcpfs-signer.service")).unwrap();
    // verify wants the program at its place.
    let here = work.path().join("mcpfs-signer.service");
    let bin = mcpfs_tests::binaries::bin("mcpfs-signer");
    std::fs::write(&here, unit.replace("/usr/bin/mcpfs-signer", bin.to_str().unwrap())).unwrap();
    let analyze = || Run::new(need("systemd-analyze", "systemd"));
    let ran = analyze().args(["verify", "--man=no"]).arg(&here).run();
    let said = ran.text();
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("mcpfs-signer.service")).collect();
    assert!(ran.code == 0 && complaints.is_empty(), "{ran}");
    // The higher, the more an attacker could do; 10.0 is a service without any of it.
    let ran = analyze().args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&here).run();
    assert_eq!(ran.code, 0, "{ran}");
    for line in
        ["LoadCredential=mcpfs-pin:", "LoadCredential=forge-token:", "LoadCredential=hook-secret:", "User=mcpfs-signer"]
    {
        assert!(unit.contains(line), "{line}");
    }
    let users = Run::new(need("systemd-sysusers", "systemd"))
        .arg("--dry-run")
        .arg(signer.join("systemd/mcpfs-signer.sysusers"))
        .run();
    assert_eq!(users.code, 0, "{users}");

    // The image: no engine here builds it, so what it would run is looked at.
    let text = std::fs::read_to_string(signer.join("Containerfile")).unwrap();
    let steps: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for step in &steps {
        let (word, rest) = step.split_once(' ').unwrap();
        match word {
            "RUN" => drop(Run::new("sh").args(["-n", "-c", rest]).ok()),
            "ENTRYPOINT" | "CMD" => drop(serde_json::from_str::<Vec<String>>(rest).unwrap()),
            "FROM" | "WORKDIR" | "COPY" | "USER" | "ENV" | "EXPOSE" => {}
            other => panic!("unknown step {other}"),
        }
    }
    let user = steps.iter().rposition(|step| step.starts_with("USER ")).unwrap();
    assert_eq!(steps[user], "USER mcpfs-signer");
    assert!(!steps[user..].iter().any(|step| step.starts_with("RUN")), "nothing runs as root after it");
    for secret in ["PIN=", "TOKEN=", "SECRET=", "COPY serve.toml"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let build = steps.iter().find_map(|step| step.strip_prefix("RUN cargo ")).unwrap();
    assert_eq!(build, "build --release --locked -p mcpfs-signer");
    Run::new("cargo")
        .args(["metadata", "--locked", "--no-deps", "--offline", "--format-version=1"])
        .dir(scratch::repository())
        .ok();
    // The example is a configuration: all but what it names on the machine is right.
    let example = work.path().join("serve.toml");
    std::fs::copy(signer.join("systemd/serve.toml"), &example).unwrap();
    Run::new(bin)
        .args(["serve", "--check-config", "--config"])
        .arg(&example)
        .run()
        .says("/etc/mcpfs-signer/trust.json");
}
