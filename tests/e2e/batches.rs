//! Several merges at once, and what a signing server survives while it works through them: the token
//! goes, or it is killed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use mcpfs_tests::binaries::bin;
use mcpfs_tests::codehost::{Kind, Merge};
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::scratch::wait_for;
use mcpfs_tests::signing::HOOK_SECRET;
use mcpfs_tests::suite::Suite;
use serde_json::Value;

use crate::desk::{Desk, head_version, segment, statement, verify};
use crate::serving::asleep;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("batches::several_merges_at_once_are_all_released", several_merges_at_once_are_all_released);
    suite.plain("batches::a_token_that_goes_comes_back", a_token_that_goes_comes_back);
    suite.plain("batches::killed_anywhere_nothing_is_twice_or_half", killed_anywhere_nothing_is_twice_or_half);
    suite.plain("batches::killed_between_releases_all_are_done_once", killed_between_releases_all_are_done_once);
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

/// Behind the head, the copy for simple clients may not be there yet; nothing else may be amiss.
fn verify_after_a_kill(site: &Path, trust: &Path) {
    let seen = Run::new(bin("mcpfs")).args(["verify", "--json"]).arg(site).arg("--trust").arg(trust);
    let problems = seen.run().json()["problems"].as_array().cloned().unwrap_or_default();
    let amiss = problems.iter().filter(|one| !one["path"].as_str().is_some_and(|path| path.starts_with("servers/")));
    assert_eq!(amiss.count(), 0, "{problems:?}");
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
    // What was seen when it was checked carries the time of the check, and the check is made again.
    let entry = |file: &Path| -> Value {
        let mut entry: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert!(entry.as_object_mut().unwrap().remove("details").is_some());
        entry
    };
    let wanted = entry(&whole.join("servers/hello.json"));
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
            verify_after_a_kill(&site, &registry.trust());
        }
        signing.once(forge).ok();
        signing.once(forge).ok();
        verify(&site, &registry.trust());
        assert_eq!(head_version(&site), 1, "killed at {point}");
        assert_eq!(count(&site.join("servers")), 1, "{point}");
        assert!(segment(&site, 1).contains("\"action\":\"release\""), "{point}");
        // The same keys over the same facts: nothing but the times of check and head may differ. An entry and
        // a segment that were written for a head that never came stay, unseen; they say nothing else.
        let written = std::fs::read_dir(site.join("entries")).unwrap().flatten().filter(named).map(|file| file.path());
        for file in written.chain([site.join("servers/hello.json")]) {
            assert!(entry(&file) == wanted, "killed at {point}: {}", entry(&file));
        }
        assert_eq!(count(&signing.path("state/work")), 0, "{point}");
    }
}

/// Four are merged; the server is killed after the first, the second, the third of them.
fn killed_between_releases_all_are_done_once() {
    let desk = Desk::new(Kind::Gitea);
    let (registry, forge) = (&desk.registry, &desk.forge);
    let dora = forge.clone_as("dora");
    let names = ["alpha", "beta", "delta", "gamma"];
    for name in names {
        desk.accept(&dora, name, "1.0.0", Merge::Squash);
    }
    for head in 1..=3 {
        let name = format!("site-{head}");
        let (signing, site) = (asleep(&desk, &name), registry.site().with_file_name(&name));
        let running = signing.start(forge);
        wait_for("some of the batch", || (head_version(&site) >= head).then_some(()));
        running.kill();
        verify_after_a_kill(&site, &registry.trust());
        // Its successor finds the rest by itself; nobody tells it.
        let running = signing.start(forge);
        wait_for("the rest of the batch", || (head_version(&site) == 4).then_some(()));
        running.pass();
        assert_eq!((running.ready().0, running.metric("pending")), (200, Some(0.0)), "{}", running.log());
        running.stop();
        verify(&site, &registry.trust());
        assert_eq!(head_version(&site), 4, "killed after head {head}");
        assert!(signing.journal()["attempts"].as_object().unwrap().is_empty(), "{}", signing.journal());
        // By the log that the head leads to, each was released once.
        let log = registry.signer().args(["inspect", "log", "--json", "--site"]).arg(&site).arg("--trust");
        let log = log.arg(registry.trust()).ok().json();
        let rows = log["rows"].as_array().unwrap().iter().filter(|row| row["refused"] != true);
        let mut released: Vec<&Value> = rows.map(|row| &row["name"]).collect();
        released.sort_by_key(|name| name.to_string());
        assert_eq!(released, names, "killed after head {head}: {log}");
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
