//! The signing server as a process: who may wake it, what it tells, and what it asks.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use mcpfs_tests::codehost::{Kind, Merge};
use mcpfs_tests::forge;
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::{PATIENCE, wait_for};
use mcpfs_tests::signing::{HOOK_SECRET, Signing};
use mcpfs_tests::suite::{Attack, Suite};
use rustix::process::Signal;

use crate::boundary::SIGNING_HOST;
use crate::desk::{Desk, head_version};

pub(crate) fn register(suite: &mut Suite) {
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "serving::a_forged_webhook_changes_nothing",
            "webhooks and hints that are forged, of another forge, or with another body; a true one that names another repository is a reason to look, and no more",
            &["401"],
        ),
        a_forged_webhook_changes_nothing,
    );
    suite.plain("serving::a_refused_pin_is_not_tried_again", a_refused_pin_is_not_tried_again);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "serving::silent_connections_keep_nobody_out",
            "two hundred connections that say nothing or never end",
            &["answered"],
        ),
        silent_connections_keep_nobody_out,
    );
    suite.plain("serving::a_pass_without_news_reads_only_the_head", a_pass_without_news_reads_only_the_head);
}

/// Only a hint wakes it before an hour has passed.
pub(crate) fn asleep<'a>(desk: &'a Desk, site: &str) -> Signing<'a> {
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
    mcpfs_tests::proof::note("401");
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

fn silent_connections_keep_nobody_out() {
    let desk = Desk::new(Kind::Github);
    let signing = asleep(&desk, "site");
    let running = signing.start(&desk.forge);
    running.pass();
    let connect = |said: &str| {
        let mut stream = TcpStream::connect(running.url().trim_start_matches("http://")).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    // As many as it serves at once say nothing, or begin a request and never end it; others never send
    // the body that they announced.
    let mut silent: Vec<TcpStream> = (0..64).map(|_| connect("")).collect();
    silent.extend((0..64).map(|_| connect("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")));
    let post = "POST /v1/hint HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 99\r\n\r\nx";
    let bodies: Vec<TcpStream> = (0..64).map(|_| connect(post)).collect();
    for _ in 0..3 {
        assert_eq!(running.get("/healthz"), (200, "ok\n".to_owned()));
    }
    assert_eq!(running.ready().0, 200);
    // A message finds no place among the bodies, until those are gone.
    drop(bodies);
    wait_for("a place for a message", || {
        let bearer = format!("Authorization: Bearer {HOOK_SECRET}");
        (running.ask("POST", "/v1/hint", &[&bearer], b"").0 == 202).then_some(())
    });
    // The server hangs up on every one of them.
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "{ended:?}");
    }
    running.stop();
    mcpfs_tests::proof::note("answered");
}

fn a_pass_without_news_reads_only_the_head() {
    let (desk, s3) = (Desk::new(Kind::Github), S3::new());
    let (registry, forge) = (&desk.registry, &desk.forge);
    let mut signing = asleep(&desk, "site");
    signing.extra.site_address = Some(s3.site("prod"));
    signing.extra.site = format!("endpoint = {:?}\nregion = \"us-east-1\"\n", s3.endpoint());
    signing.extra.environment = s3.environment().into();
    let dora = forge.clone_as("dora");
    desk.accept(&dora, "hello", "1.0.0", Merge::Squash);
    // One that is refused is no news either, until its time has come.
    let half = desk.propose(&dora, "half", "1.0.0");
    forge.approve(half, "sec");
    forge.merge(half, "mona", Merge::Squash);
    let running = signing.start(forge);
    let head = || forge::payload(&s3.json("prod/head.json"))["predicate"]["version"].as_u64().unwrap();
    running.pass();
    assert_eq!((head(), running.metric("pending")), (1, Some(1.0)), "{}", running.log());
    // What passes ask since.
    let quiet = |news: bool| {
        let (site, questions) = (s3.requests().len(), forge.asked().len());
        running.pass();
        let asked: BTreeSet<String> =
            s3.requests().into_iter().skip(site).map(|one| format!("{} {}", one.method, one.name)).collect();
        let only_the_head = asked == BTreeSet::from(["GET prod/head.json".to_owned()]);
        assert_eq!((only_the_head, forge.asked().len() == questions), (!news, !news), "{asked:?}");
        assert_eq!((running.ready().0, running.metric("token_usable")), (200, Some(1.0)));
    };
    quiet(false);
    // Somebody else moved the head.
    let run = registry.publishing_at("publish", &s3.site("prod")).arg("--resign");
    s3.keys(run).args(["--s3-endpoint", &s3.endpoint()]).ok();
    quiet(true);
    quiet(false);
    // The branch went on.
    forge.push_past_review("README.md", "A registry.\n", "root@example.com", "Words");
    quiet(true);
    quiet(false);
    // A refused recipe's time has come.
    forge.approve(half, "plat");
    quiet(false);
    let mut journal = signing.journal();
    journal["attempts"]["half.yaml"]["next"] = "2026-01-01T00:00:00Z".into();
    signing.set_journal(&journal);
    running.hint();
    wait_for("the recipe's next try", || (head() == 3).then_some(()));
    running.pass();
    quiet(false);
    running.stop();
}
