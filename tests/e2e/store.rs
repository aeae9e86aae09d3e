//! Publishing to S3: to hosts and back, two at once, and whatever can get lost on the way.

use mcpfs_tests::cutting::{Cutting, Loss};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::Port;
use mcpfs_tests::suite::Suite;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("store::from_key_to_client_through_s3", from_key_to_client_through_s3);
    suite.plain("store::only_what_changed_is_uploaded", only_what_changed_is_uploaded);
    suite.plain("store::two_publishers_at_once", two_publishers_at_once);
    suite.plain("store::every_cut_leaves_a_site_that_verifies", every_cut_leaves_a_site_that_verifies);
    suite.plain("store::an_answer_that_gets_lost_is_no_failure", an_answer_that_gets_lost_is_no_failure);
    suite.plain("store::what_cannot_be_used_is_said", what_cannot_be_used_is_said);
    suite.plain("store::damage_and_strangers_are_noticed", damage_and_strangers_are_noticed);
    suite.plain("store::a_public_address_is_read_back", a_public_address_is_read_back);
}

/// A command with the keys of `s3` that finds it at `endpoint`.
fn at(s3: &S3, endpoint: &str, run: mcpfs_tests::command::Run) -> mcpfs_tests::command::Run {
    s3.keys(run).args(["--s3-endpoint", endpoint])
}

/// What `verify` counted, if it found nothing wrong.
fn verified(quick: &Quick, place: &str) -> Value {
    let ran = quick.verify(place);
    assert!(ran.code == 0 && ran.json()["problems"].as_array().is_none_or(Vec::is_empty), "{ran}");
    ran.json()
}

fn from_key_to_client_through_s3() {
    let (registry, s3) = (Registry::new(), S3::new());
    let release = |version: &str| {
        let recipe = registry.hello(version);
        std::fs::write(registry.recipe("hello"), recipe.yaml()).unwrap();
        let run = registry.publishing_at("release", &s3.site("mcp/prod")).arg(registry.recipe("hello"));
        let run = run.args(["--key", &registry.hsm().uri(RELEASE_KEY), "--file-root"]).arg(registry.artefacts());
        at(&s3, &s3.endpoint(), run).ok().says("read back  as a host would")
    };
    release("1.0.0");
    let host = Host::new(&registry.trust(), &s3.url("mcp/prod"), Reads::Cached);
    let _mount = Mount::start(&host);
    let version = || McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"].clone();
    assert_eq!(version(), "1.0.0");
    release("1.1.0");
    host.refresh();
    assert_eq!(version(), "1.1.0");
    // Keys from a file, as a service has them.
    let look =
        ["inspect", "hello", "--site", &s3.site("mcp/prod"), "--s3-endpoint", &s3.endpoint(), "--json", "--trust"];
    let run = registry.signer().args(look).arg(registry.trust()).env("HOME", "/nonexistent");
    let shown = run.env("AWS_SHARED_CREDENTIALS_FILE", s3.credentials_file()).ok().json();
    let versions: Vec<_> = shown["releases"].as_array().unwrap().iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, ["1.1.0", "1.0.0"]);
    // What web servers and caches are told.
    let object = s3.requests().into_iter().find(|one| one.name.contains("/objects/")).unwrap().name;
    for (name, content, cache) in [
        ("mcp/prod/head.json", "application/json", "max-age=30"),
        ("mcp/prod/servers/hello.json", "application/json", "max-age=30"),
        (object.as_str(), "application/octet-stream", "immutable"),
    ] {
        let answer = s3.get(name).ok().stdout.to_lowercase();
        let line = |header: &str| answer.lines().find(|line| line.starts_with(header)).unwrap_or_default().to_owned();
        assert!(line("content-type:").contains(content) && line("cache-control:").contains(cache), "{name}: {answer}");
    }
    for word in ["resign", "again"] {
        let run = registry.publishing_at("publish", &s3.site("mcp/prod")).arg("--resign");
        at(&s3, &s3.endpoint(), run).ok().says(if word == "resign" { "head       3" } else { "head       4" });
    }
}

fn only_what_changed_is_uploaded() {
    let (quick, s3) = (Quick::new(), S3::new());
    let site = s3.site("prod");
    // Twelve files that are cut by themselves.
    let files: Vec<(String, Vec<u8>)> =
        (0..12).map(|index| (format!("data/{index:02}"), mcpfs_tests::fixture::bytes(index, 3 << 19))).collect();
    let tree = |changed: usize| -> Vec<(String, Vec<u8>)> {
        let change = |(index, (name, bytes)): (usize, &(String, Vec<u8>))| {
            let mut bytes = bytes.clone();
            if (5..5 + changed).contains(&index) {
                bytes[1000] ^= 0xff;
            }
            (name.clone(), bytes)
        };
        files.iter().enumerate().map(change).collect()
    };
    let release = |version: &str, changed: usize| {
        let tree = tree(changed);
        let files: Vec<(&str, &[u8])> = tree.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let recipe = quick.recipe("big", version, &files);
        let before = s3.requests().len();
        let ran = at(&s3, &s3.endpoint(), quick.release(&recipe, &site).arg("--json")).ok();
        assert!(!ran.stderr.contains("stored") && !ran.stderr.contains("MiB"), "no steps and no progress: {ran}");
        let sent = s3.written_since(before);
        let objects: u64 = sent.iter().filter(|one| one.name.contains("/objects/")).map(|one| one.sent).sum();
        (ran.json(), objects)
    };
    let (first, all) = release("1.0.0", 0);
    let (second, some) = release("1.1.0", 3);
    assert!(all > 3 << 20 && some < all / 3, "{some} of {all} bytes of chunks were uploaded for 3 changed files");
    let artefact = std::fs::metadata(quick.path("artefacts/big-1.1.0.tar")).unwrap().len();
    assert_eq!(first["new_bytes"].as_u64().unwrap(), all + artefact);
    assert_eq!(second["new_bytes"].as_u64().unwrap(), some + artefact);
    let (third, none) = release("1.1.0", 3);
    assert_eq!((none, &third["changed"]), (0, &Value::Bool(false)));
    verified(&quick, &s3.url("prod"));
}

fn two_publishers_at_once() {
    let (s3, folder) = (S3::new(), Quick::new());
    for (site, place) in [(s3.site("prod"), s3.url("prod")), (folder.site(), folder.site())] {
        // Each has its own memory, as on two machines, and the keys of the same registry.
        let publishers: Vec<Quick> = (0..4).map(|_| Quick::new()).collect();
        std::thread::scope(|scope| {
            for (index, publisher) in publishers.iter().enumerate() {
                let (s3, site) = (&s3, &site);
                scope.spawn(move || {
                    for version in ["1.0.0", "1.1.0"] {
                        let name = format!("server-{index}");
                        let recipe = publisher.recipe(&name, version, &[("a.txt", version.as_bytes())]);
                        at(s3, &s3.endpoint(), publisher.release(&recipe, site)).ok();
                    }
                });
            }
        });
        let counts = verified(&publishers[0], &place);
        let run = publishers[0].looking(&["inspect", "head", "--json"], &site);
        let head = at(&s3, &s3.endpoint(), run).ok().json();
        assert_eq!((&head["version"], head["servers"].as_array().unwrap().len()), (&Value::from(8), 4), "{counts}");
        let run = publishers[0].looking(&["inspect", "log", "--json"], &site);
        let log = at(&s3, &s3.endpoint(), run).ok().json();
        let actions: Vec<_> = log["rows"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
        assert_eq!(actions, vec!["release"; 8], "the chain leads from the last head to the first: {log}");
    }
}

/// A site with one release, and the recipe of the next.
fn half_way(quick: &Quick, s3: &S3, prefix: &str) -> std::path::PathBuf {
    let one = quick.recipe("hello", "1.0.0", &[("a.txt", b"one")]);
    at(s3, &s3.endpoint(), quick.release(&one, &s3.site(prefix))).ok();
    quick.recipe("hello", "1.1.0", &[("a.txt", b"two"), ("b.txt", b"new")])
}

/// Requests of one publish that something may happen to: each until the pages begin, and of those, which
/// are all alike, each sixth.
fn places(s3: &S3) -> (usize, Vec<usize>) {
    let quick = Quick::new();
    let recipe = half_way(&quick, s3, "count");
    let before = s3.requests().len();
    let proxy = Cutting::to(s3.port(), Loss::Nothing);
    at(s3, &proxy.endpoint(), quick.release(&recipe, &s3.site("count"))).ok();
    let pages = s3.requests().iter().skip(before).position(|one| one.name.starts_with("count/browse/"));
    let (pages, all) = (pages.unwrap(), proxy.seen());
    assert!(pages > 20 && all > pages + 6, "{pages} of {all} requests");
    // Two less: how many there are depends on whether both versions were checked within one second.
    (pages, (1..=all - 2).filter(|at| *at <= pages || (at - pages) % 6 == 0).collect())
}

fn every_cut_leaves_a_site_that_verifies() {
    let s3 = S3::new();
    let (pages, cuts) = places(&s3);
    let mut moved = 0;
    for cut in cuts.iter().copied() {
        let (quick, prefix) = (Quick::new(), format!("cut-{cut}"));
        let recipe = half_way(&quick, &s3, &prefix);
        let proxy = Cutting::to(s3.port(), Loss::From(cut));
        let run = quick.release(&recipe, &s3.site(&prefix)).args(["--s3-retries", "0"]);
        let ran = at(&s3, &proxy.endpoint(), run).run();
        // While it is compared with what is published, a cut is a finding like every look that failed.
        let found = ran.code == 1 && ran.text().contains("cannot be reached") && ran.text().contains("[published]");
        assert!((found || matches!(ran.code, 3 | 4)) && !ran.text().contains("panicked"), "cut {cut}: {ran}");
        let seen = quick.verify(&s3.url(&prefix)).json();
        let head = seen["head"].as_u64().unwrap();
        // Between the head and the copy for simple clients, that copy is the entry before; nothing else is amiss.
        let problems: Vec<_> = seen["problems"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
        assert!(
            problems.is_empty() || head == 2 && problems == ["servers/hello.json"],
            "cut before request {cut}: {seen}"
        );
        assert_eq!(ran.text().contains("the head has moved"), head == 2, "cut before request {cut}: {ran}");
        moved += u64::from(head == 2);
        at(&s3, &s3.endpoint(), quick.release(&recipe, &s3.site(&prefix))).ok();
        assert_eq!(verified(&quick, &s3.url(&prefix))["head"], 2, "cut before request {cut}");
        let named = s3.json(&format!("{prefix}/servers/hello.json"));
        assert_eq!(named["version"], "1.1.0", "cut before request {cut}");
        if cut > pages {
            let again = at(&s3, &s3.endpoint(), quick.looking(&["pages", "--json"], &s3.site(&prefix))).ok().json();
            assert_eq!(again["files"], 0, "cut before request {cut}: the second run mended the pages");
        }
    }
    let all = cuts.len() as u64;
    assert!(moved > 0 && moved < all, "cuts on both sides of the head: {moved} of {all}");
}

fn an_answer_that_gets_lost_is_no_failure() {
    let s3 = S3::new();
    let (_, places) = places(&s3);
    for number in places {
        let (quick, prefix) = (Quick::new(), format!("lost-{number}"));
        let recipe = half_way(&quick, &s3, &prefix);
        let proxy = Cutting::to(s3.port(), Loss::Answer(number));
        at(&s3, &proxy.endpoint(), quick.release(&recipe, &s3.site(&prefix))).ok();
        assert_eq!(verified(&quick, &s3.url(&prefix))["head"], 2, "the answer to request {number}");
        assert!(proxy.seen() >= number, "the answer to request {number} was asked for");
    }
}

fn what_cannot_be_used_is_said() {
    let (quick, s3) = (Quick::new(), S3::new());
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"one")]);
    let release = |site: &str| quick.release(&recipe, site);
    let endpoint = s3.endpoint();
    let wrong = |run: mcpfs_tests::command::Run, id: &str| {
        run.args(["--s3-endpoint", &endpoint])
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    };
    let ran = wrong(release(&s3.site("prod")), "AKIANOBODY").exits(1).says("credentials");
    assert!(!ran.text().contains("not-the-secret"), "{ran}");
    at(&s3, &endpoint, release("s3://no-such-bucket/prod")).exits(1).says("no such bucket");
    for site in ["s3://mcp/../prod", "s3://", "https://example.com/prod"] {
        at(&s3, &endpoint, release(site)).exits(2).says("s3://bucket/prefix");
    }
    let nobody = Port::reserve();
    let nowhere = format!("http://127.0.0.1:{}", nobody.number());
    at(&s3, &nowhere, release(&s3.site("prod"))).args(["--s3-retries", "1"]).exits(3).says("cannot be reached");
    assert!(s3.written_since(0).is_empty(), "nothing was written");
    // The refusals are rows of the first head.
    at(&s3, &endpoint, release(&s3.site("prod"))).ok();
    let log = at(&s3, &endpoint, quick.looking(&["inspect", "log", "--json"], &s3.site("prod"))).ok().json();
    let refused = log["rows"].as_array().unwrap().iter().filter(|row| row["refused"] == true).count();
    assert_eq!(refused, 6, "{log}");
}

fn damage_and_strangers_are_noticed() {
    let (quick, s3) = (Quick::new(), S3::new());
    let large = mcpfs_tests::fixture::bytes(1, 3 << 19);
    let release =
        |recipe: &std::path::Path, prefix: &str| at(&s3, &s3.endpoint(), quick.release(recipe, &s3.site(prefix)));
    let one = quick.recipe("hello", "1.0.0", &[("large", &large), ("a.txt", b"one")]);
    release(&one, "prod").ok();
    let head = s3.json("prod/head.json");
    let objects: Vec<_> = s3.written_since(0).into_iter().filter(|one| one.name.contains("/objects/")).collect();
    // Somebody wrote over a chunk that the next release uses again.
    let largest = objects.iter().max_by_key(|one| one.sent).unwrap();
    s3.put(&largest.name, b"something else");
    let two = quick.recipe("hello", "1.1.0", &[("large", &large), ("a.txt", b"two")]);
    release(&two, "prod").exits(4).says(&largest.name["prod/".len()..]);
    assert_eq!(s3.json("prod/head.json"), head, "nothing was published");
    // And something lies where a chunk is to be put, of the very same size.
    let name = largest.name.replacen("prod/", "fresh/", 1);
    s3.put(&name, &vec![0; usize::try_from(largest.sent).unwrap()]);
    let one = quick.recipe("hello", "1.0.0", &[("large", &large), ("a.txt", b"one")]);
    let run = release(&one, "fresh").env("MCPFS_SIGNER_STATE", quick.path("other-state"));
    run.exits(4).says("does not hold what its name says");
    assert!(s3.get("fresh/head.json").ok().stdout.contains("404"), "nothing was published");
    // Another signer of the same keys makes head 2, and this one had made its own.
    let (mine, theirs) = (Quick::new(), Quick::new());
    let folder = mine.site();
    let recipe = mine.recipe("hello", "1.0.0", &[("a.txt", b"one")]);
    mine.release(&recipe, &folder).ok();
    let copy = theirs.site();
    mcpfs_tests::scratch::copy_dir(folder.as_ref(), copy.as_ref());
    mine.publishing("publish", &folder).arg("--resign").ok();
    let recipe = theirs.recipe("other", "1.0.0", &[("a.txt", b"one")]);
    theirs.release(&recipe, &copy).ok();
    mine.publishing("publish", &copy).arg("--resign").exits(4).says("two signers are at work");
}

fn a_public_address_is_read_back() {
    let (quick, s3) = (Quick::new(), S3::new());
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"one")]);
    let release = |url: &str| at(&s3, &s3.endpoint(), quick.release(&recipe, &s3.site("prod"))).args(["--public", url]);
    release(&s3.url("elsewhere")).exits(4).says("what hosts read at").says("head.json is not there");
    assert_eq!(verified(&quick, &s3.url("prod"))["head"], 1, "the head has moved all the same");
    let next = quick.recipe("hello", "1.1.0", &[("a.txt", b"two")]);
    let run = at(&s3, &s3.endpoint(), quick.release(&next, &s3.site("prod"))).args(["--public", &s3.url("prod")]);
    run.ok().says("read back  as a host would");
    let entry = s3.json("prod/servers/hello.json");
    assert_eq!(forge::payload(&entry["signature"])["predicate"]["version"], "1.1.0");
}
