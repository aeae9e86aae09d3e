//! The signing server as a process: who may wake it, what it tells, and what it survives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::codehost::{Kind, Merge};
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::signing::{HOOK_SECRET, Signing};
use mcpfs_tests::suite::Suite;
use rustix::process::Signal;

use crate::desk::{Desk, head_version, segment, statement, verify};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("serving::a_forged_webhook_changes_nothing", a_forged_webhook_changes_nothing);
    suite.plain("serving::a_token_that_goes_comes_back", a_token_that_goes_comes_back);
    suite.plain("serving::a_refused_pin_is_not_tried_again", a_refused_pin_is_not_tried_again);
    suite.plain("serving::killed_anywhere_nothing_is_twice_or_half", killed_anywhere_nothing_is_twice_or_half);
    suite.plain("serving::several_merges_at_once_are_all_released", several_merges_at_once_are_all_released);
}

/// Only a hint wakes it before an hour has passed.
fn asleep<'a>(desk: &'a Desk, site: &str) -> Signing<'a> {
    let mut signing = Signing::new(&desk.registry);
    signing.extra.top = "poll = \"1h\"\n".to_owned();
    signing.extra.site_path = Some(desk.registry.site().with_file_name(site));
    signing
}

fn a_forged_webhook_changes_nothing() {
    for kind in Kind::ALL {
        let desk = Desk::new(kind);
        let forge = &desk.forge;
        let signing = asleep(&desk, "site");
        let site = desk.registry.site();
        let running = signing.start(forge);
        running.pass();
        assert_eq!((running.get("/healthz").0, running.ready().0), (200, 200), "{}", running.log());
        let dora = forge.clone_as("dora");
        desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
        let passes = || running.metric("passes_total{result=\"done\"}");
        let (before, hook) = (passes(), format!("/hooks/{}", kind.word()));
        let body = r#"{"ref":"refs/heads/main","repository":{"clone_url":"http://127.0.0.1:9/evil.git"}}"#;
        let good = forge.webhook_headers(HOOK_SECRET, body);
        let forged = forge.webhook_headers("guessed", body);
        let send = |path: &str, headers: &[String], body: &str| {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            running.ask("POST", path, &headers, body.as_bytes()).0
        };
        assert_eq!(send(&hook, &[], body), 401);
        assert_eq!(send(&hook, &forged, body), 401);
        assert_eq!(send("/v1/hint", &["Authorization: Bearer guessed".to_owned()], ""), 401);
        let others: Vec<&str> = Kind::ALL.iter().filter(|other| **other != kind).map(|other| other.word()).collect();
        for other in others {
            assert_eq!(send(&format!("/hooks/{other}"), &good, body), 401, "{other}");
        }
        if kind != Kind::Gitlab {
            assert_eq!(send(&hook, &good, &body.replace("main", "evil")), 401, "another body");
        }
        assert_eq!(send("/hooks/elsewhere", &good, body), 404);
        assert_eq!(running.get(&hook).0, 405);
        assert_eq!(running.get("/etc/passwd").0, 404);
        let large = format!("Content-Length: {}", 64 << 20);
        assert!(matches!(running.ask("POST", &hook, &[&large, &good[1]], b"").0, 400 | 413));
        assert_eq!((passes(), head_version(&site)), (before, 0), "nothing was looked at, nothing was signed");
        // The right one: it is only a reason to look, whatever address its body names.
        assert_eq!(send(&hook, &good, body), 202);
        wait_for("the release", || (head_version(&site) == 1).then_some(()));
        running.pass();
        assert_eq!(running.ready().0, 200);
        assert_eq!(running.metric("releases_total"), Some(1.0));
        assert_eq!(running.metric("head_version"), Some(1.0));
        assert!(running.metric("hooks_total{result=\"forged\"}") >= Some(5.0));
        assert!(!running.log().contains(HOOK_SECRET));

        // SIGHUP reads again, and keeps the old configuration if the new one is wrong.
        let file = signing.path("serve.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("nonsense = 1\n{text}")).unwrap();
        running.signal(Signal::HUP);
        wait_for("the refusal", || running.log().contains("the old configuration stays").then_some(()));
        std::fs::write(&file, &text).unwrap();
        std::fs::write(signing.path("secret"), "another\n").unwrap();
        running.signal(Signal::HUP);
        wait_for("the new configuration", || running.log().contains("was read again").then_some(()));
        assert_eq!(send(&hook, &good, body), if kind == Kind::Gitlab { 401 } else { send(&hook, &forged, body) });
        running.stop();
    }
}

/// Serves one file once; before it answers, `act` happens.
fn serve_once(bytes: Vec<u8>, act: impl FnOnce() + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut act = Some(act);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut asked, mut byte) = (Vec::new(), [0]);
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            if let Some(act) = act.take() {
                act();
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    port
}

fn a_token_that_goes_comes_back() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge, site) = (&desk.registry, &desk.forge, desk.registry.site());
    let mut signing = asleep(&desk, "site");
    let dora = forge.clone_as("dora");
    // The second artefact of the batch comes over HTTP: when it is asked for, the token goes.
    let tar = fixture::tar(&fixture::hello_tree(&registry.artefacts(), "2.0.0"));
    let (tokens, away) = (registry.hsm().tokens(), registry.hsm().tokens().with_extension("away"));
    let (from, to) = (tokens.clone(), away.clone());
    let port = serve_once(std::fs::read(&tar).unwrap(), move || std::fs::rename(from, to).unwrap());
    signing.extra.artefacts = format!("allow_hosts = [\"http://127.0.0.1:{port}\"]\n");
    desk.accept(&dora, "alpha", "1.0.0", Merge::Squash);
    let recipe = Recipe::new("beta", "2.0.0", &tar).with(fixture::HELLO_LAUNCH).yaml();
    let recipe = recipe.replace(&format!("file://{}", tar.display()), &format!("http://127.0.0.1:{port}/beta.tar"));
    dora.branch("beta");
    dora.commit("servers/beta.yaml", &recipe, "beta");
    dora.push("beta").ok();
    let number = forge.open("dora", "beta", "beta");
    ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
    forge.merge(number, "mona", Merge::Squash);

    let running = signing.start(forge);
    wait_for("the server to miss its token", || running.log().contains("waiting: ").then_some(()));
    assert_eq!(head_version(&site), 1, "the first of the batch is published, whole: {}", running.log());
    verify(&site, &registry.trust());
    assert!(!site.join("servers/beta.json").exists());
    let (status, ready) = running.ready();
    assert_eq!((status, &ready["ready"], &ready["status"]["token"]), (503, &false.into(), &false.into()), "{ready}");
    assert_eq!(ready["status"]["pending"][0]["recipe"], "beta.yaml", "{ready}");
    assert_eq!(ready["status"]["pending"].as_array().unwrap().len(), 1);
    assert!(signing.journal()["attempts"].as_object().unwrap().is_empty(), "nothing is held against the recipe");
    running.pass();
    assert_eq!((running.ready().0, running.metric("token_usable")), (503, Some(0.0)));

    std::fs::rename(&away, &tokens).unwrap();
    running.hint();
    wait_for("the rest of the batch", || (head_version(&site) == 2).then_some(()));
    running.pass();
    assert_eq!((running.ready().0, running.metric("token_usable")), (200, Some(1.0)), "{}", running.log());
    assert_eq!(statement(&site, "beta")["predicate"]["version"], "2.0.0");
    verify(&site, &registry.trust());
    running.stop();
}

/// Tokens lock after a few wrong PINs, and a server would try for ever.
fn a_refused_pin_is_not_tried_again() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge, site) = (&desk.registry, &desk.forge, desk.registry.site());
    let (hsm, signing) = (registry.hsm(), asleep(&desk, "site"));
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    let pin = std::fs::read(hsm.pin_file()).unwrap();
    std::fs::write(hsm.pin_file(), "000000\n").unwrap();
    signing.once(forge).exits(1).says("refused the PIN");
    for _ in 0..4 {
        signing.once(forge).exits(1).says("the PIN is still the same");
    }
    let slots = hsm.pkcs11_tool().arg("--list-token-slots").run().text();
    assert!(!slots.contains("final user PIN try") && !slots.contains("user PIN locked"), "{slots}");
    std::fs::write(hsm.pin_file(), &pin).unwrap();
    signing.once(forge).ok();
    assert_eq!(head_version(&site), 1);
}

fn killed_anywhere_nothing_is_twice_or_half() {
    let desk = Desk::new(Kind::Github);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    let reference = asleep(&desk, "site-reference");
    reference.once(forge).ok();
    let whole = registry.site().with_file_name("site-reference");
    // A file that was being written when its writer was killed keeps its hidden name; nobody is served it.
    let named = |entry: &std::fs::DirEntry| !entry.file_name().to_string_lossy().starts_with(".new-");
    let count = |folder: &Path| std::fs::read_dir(folder).map_or(0, |entries| entries.flatten().filter(named).count());
    let wanted = std::fs::read(whole.join("servers/hello.json")).unwrap();
    for (index, point) in ["state", "objects", "artefacts", "entries", "catalogue/bins", "log", "head.json", "servers"]
        .into_iter()
        .enumerate()
    {
        let name = format!("site-{index}");
        let (signing, site) = (asleep(&desk, &name), registry.site().with_file_name(&name));
        let seen = if point == "state" { signing.path("state/work") } else { site.join(point) };
        let running = signing.start(forge);
        wait_for(point, || (seen.is_file() || count(&seen) > 0).then_some(()));
        running.kill();
        if site.join("head.json").exists() {
            // Right behind the head, the copy for simple clients may not be there yet; nothing else is amiss.
            let seen =
                Run::new(bin("mcpfs")).args(["verify", "--json"]).arg(&site).arg("--trust").arg(registry.trust());
            let problems = seen.run().json()["problems"].as_array().cloned().unwrap_or_default();
            assert!(problems.iter().all(|one| one["path"] == "servers/hello.json"), "{point}: {problems:?}");
        }
        signing.once(forge).ok();
        signing.once(forge).ok();
        verify(&site, &registry.trust());
        assert_eq!(head_version(&site), 1, "killed at {point}");
        // A segment is named after its head: one that was written for a head that never came stays, unseen.
        assert_eq!((count(&site.join("entries")), count(&site.join("servers"))), (1, 1), "{point}");
        assert!(segment(&site, 1).contains("\"action\":\"release\""), "{point}");
        // The same keys over the same facts: nothing but the head's time may differ.
        assert_eq!(std::fs::read(site.join("servers/hello.json")).unwrap(), wanted, "killed at {point}");
        assert_eq!(count(&signing.path("state/work")), 0, "{point}");
    }
}

fn several_merges_at_once_are_all_released() {
    let desk = Desk::new(Kind::Gitlab);
    let (registry, forge, site) = (&desk.registry, &desk.forge, desk.registry.site());
    let signing = asleep(&desk, "site");
    let running = signing.start(forge);
    running.pass();
    let dora = forge.clone_as("dora");
    // One request with two recipes, and two with one, merged before anybody looks.
    dora.branch("two");
    for name in ["one", "two"] {
        dora.commit(&format!("servers/{name}.yaml"), &desk.recipe(name, "1.0.0"), name);
    }
    dora.push("two").ok();
    let number = forge.open("dora", "two", "Two servers");
    ["sec", "plat"].iter().for_each(|reviewer| forge.approve(number, reviewer));
    forge.merge(number, "mona", Merge::Rebase);
    desk.accept(&dora, "three", "1.0.0", Merge::Commit);
    desk.accept(&dora, "four", "1.0.0", Merge::Squash);
    for _ in 0..3 {
        assert_eq!(forge.send_webhook(&running.url(), HOOK_SECRET), 202);
    }
    wait_for("four heads", || (head_version(&site) == 4).then_some(()));
    running.pass();
    assert_eq!((running.metric("pending"), running.metric("releases_total")), (Some(0.0), Some(4.0)));
    verify(&site, &registry.trust());
    for name in ["one", "two", "three", "four"] {
        assert_eq!(statement(&site, name)["predicate"]["version"], "1.0.0");
    }
    // A recipe that is gone changes nothing on the site; a second server is refused.
    signing.once(forge).exits(1).says("another signing server");
    running.stop();
}
