//! A site over the years: collected, copied over an air gap, promoted, and made again from its log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::sha256_of;
use mcpfs_tests::forge;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::{copy_dir, need};
use mcpfs_tests::suite::Suite;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("keeping::only_what_nobody_needs_is_collected", only_what_nobody_needs_is_collected);
    suite.plain("keeping::a_bucket_is_collected", a_bucket_is_collected);
    suite.plain("keeping::a_damaged_site_is_not_collected", a_damaged_site_is_not_collected);
    suite.plain("keeping::what_stays_damaged_is_named", what_stays_damaged_is_named);
    suite.plain("keeping::a_site_over_an_air_gap", a_site_over_an_air_gap);
    suite.plain("keeping::nothing_damaged_crosses_an_air_gap", nothing_damaged_crosses_an_air_gap);
    suite.plain("keeping::hostile_bundles_are_refused", hostile_bundles_are_refused);
    suite.plain("keeping::a_release_is_promoted", a_release_is_promoted);
    suite.plain("keeping::a_lost_site_is_made_again", a_lost_site_is_made_again);
    suite.plain("keeping::a_rebuild_that_would_differ_is_refused", a_rebuild_that_would_differ_is_refused);
}

/// Three versions of hello and one of other: heads 1 to 4.
fn published(quick: &Quick, site: &str) {
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        let content = format!("content of {version}\n");
        let recipe = quick.recipe("hello", version, &[("a.txt", content.as_bytes()), ("same.txt", b"same\n")]);
        quick.release(&recipe, site).ok();
    }
    let other = quick.recipe("other", "1.0.0", &[("b.txt", b"other\n")]);
    quick.release(&other, site).ok();
}

/// Makes every file of a folder `days` old, by touch.
fn age(folder: &Path, days: u32) {
    let time = format!("{days} days ago");
    Run::new("find").arg(folder).args(["-type", "f", "-exec", "touch", "-d", &time, "{}", "+"]).ok();
}

fn gc(quick: &Quick, site: &str) -> Run {
    quick.looking(&["gc", "--json"], site)
}

fn removed(collected: &Value) -> Vec<String> {
    let names = collected["removed"].as_array().unwrap().iter();
    names.map(|one| one[0].as_str().unwrap().to_owned()).collect()
}

/// What people and IDEs read, by name.
fn pages(site: &Path) -> BTreeMap<String, Vec<u8>> {
    let ours = |name: &String| {
        matches!(name.as_str(), "index.html" | "deps.json") || name.starts_with("browse/") || name.starts_with("v0.1/")
    };
    let names = files_below(site).into_iter().filter(ours);
    let pages: BTreeMap<_, _> = names.map(|name| (name.clone(), std::fs::read(site.join(&name)).unwrap())).collect();
    assert!(pages.len() > 10, "{:?}", pages.keys());
    pages
}

fn verified(quick: &Quick, place: &str) -> Value {
    let ran = quick.verify(place);
    assert!(ran.code == 0 && ran.json()["problems"].as_array().is_none_or(Vec::is_empty), "{ran}");
    ran.json()
}

fn only_what_nobody_needs_is_collected() {
    let quick = Quick::new();
    let (site, folder) = (quick.site(), quick.path("site"));
    published(&quick, &site);
    // What a publisher left that was never heard of again, and what is somebody else's.
    let stray = "content that no head leads to";
    let sha256 = sha256_of(&{
        let file = quick.path("stray");
        std::fs::write(&file, stray).unwrap();
        file
    });
    let object = format!("objects/{}/{sha256}", &sha256[..2]);
    std::fs::create_dir_all(folder.join(&object).parent().unwrap()).unwrap();
    for name in [object.as_str(), "index.html", "objects/notes.txt"] {
        std::fs::write(folder.join(name), stray).unwrap();
    }
    let before = files_below(&folder);
    // Everything is new.
    assert!(removed(&gc(&quick, &site).ok().json()).is_empty());
    age(&folder, 40);
    // Old enough, but the heads of all four states are still valid: only the stray object goes.
    let dry = gc(&quick, &site).arg("--dry-run").ok().json();
    assert_eq!((removed(&dry), &dry["heads"], &dry["bytes"]), (vec![object.clone()], &4.into(), &stray.len().into()));
    assert_eq!(files_below(&folder), before, "a dry run removes nothing");
    assert_eq!(removed(&gc(&quick, &site).ok().json()), [object.as_str()]);
    verified(&quick, &site);
    // Heads that have expired: what only they led to goes.
    for name in files_below(&folder.join("heads")) {
        let file = folder.join("heads").join(name);
        let mut head = forge::read(&file);
        let mut statement = forge::payload(&head);
        statement["predicate"]["issued"] = Value::from("2020-01-01T00:00:00Z");
        statement["predicate"]["expires"] = Value::from("2020-01-08T00:00:00Z");
        head["payload"] = Value::from(base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            serde_json::to_vec(&statement).unwrap(),
        ));
        forge::write(&file, &head);
    }
    age(&folder, 40);
    let gone = removed(&gc(&quick, &site).ok().json());
    let of = |folder: &str| gone.iter().filter(|name| name.starts_with(folder)).count();
    // Of three states: three catalogues and bins, the entries of hello before the last, and the heads.
    assert_eq!((of("catalogue/bins/"), of("catalogue/"), of("entries/"), of("heads/")), (3, 6, 2, 3), "{gone:?}");
    assert_eq!((of("objects/"), of("artefacts/"), of("log/"), of("servers/")), (0, 0, 0, 0), "earlier releases stay");
    assert_eq!(verified(&quick, &site)["counts"]["releases"], 4);
    assert!(folder.join("index.html").exists() && folder.join("objects/notes.txt").exists());
    // Pins: what every host has is there, and one that is not keeps everything.
    let pins = quick.path("90-pins.toml");
    std::fs::write(&pins, "[pins]\nhello = \"1.0.0\"\n").unwrap();
    gc(&quick, &site).arg("--pins").arg(&pins).ok();
    std::fs::write(&pins, "[pins]\nhello = \"0.9.0\"\n").unwrap();
    gc(&quick, &site).arg("--pins").arg(&pins).exits(1).says("hello 0.9.0");
    // And it goes on.
    let next = quick.recipe("hello", "1.3.0", &[("a.txt", b"next\n")]);
    quick.release(&next, &site).ok();
    verified(&quick, &site);
}

fn a_bucket_is_collected() {
    let (quick, s3) = (Quick::new(), S3::new());
    let site = s3.site("prod");
    let at = |run: Run| s3.keys(run).args(["--s3-endpoint", &s3.endpoint()]);
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"one")]);
    at(quick.release(&recipe, &site)).ok();
    s3.put(&format!("prod/objects/e3/{}", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), b"x");
    let collected = at(gc(&quick, &site).args(["--grace", "1h"])).ok().json();
    assert_eq!((removed(&collected).len(), &collected["young"]), (0, &Value::from(1)), "a publisher may be at work");
    assert!(collected["kept"].as_u64().unwrap() >= 8, "{collected}");
    verified(&quick, &s3.url("prod"));
}

fn a_damaged_site_is_not_collected() {
    let quick = Quick::new();
    let (site, folder) = (quick.site(), quick.path("site"));
    published(&quick, &site);
    age(&folder, 40);
    let before = files_below(&folder);
    let object = before.iter().find(|name| name.starts_with("objects/")).unwrap();
    std::fs::write(folder.join(object), b"damaged").unwrap();
    gc(&quick, &site).exits(4);
    assert_eq!(files_below(&folder), before, "nothing was removed");
    gc(&quick, &quick.path("empty").display().to_string()).exits(1).says("no head.json");
}

/// Sizes are known from the listing; to read every chunk is what `verify` and `bundle-site` are for.
fn what_stays_damaged_is_named() {
    let quick = Quick::new();
    let (site, folder) = (quick.site(), quick.path("site"));
    published(&quick, &site);
    let names = files_below(&folder);
    let mut artefacts = names.iter().filter(|name| name.starts_with("artefacts/"));
    let (cut, gone) = (artefacts.next().unwrap(), artefacts.next().unwrap());
    std::fs::write(folder.join(cut), b"cut").unwrap();
    std::fs::remove_file(folder.join(gone)).unwrap();
    let collected = gc(&quick, &site).ok().json();
    let mut damaged = [cut.clone(), gone.clone()];
    damaged.sort();
    assert_eq!(collected["damaged"], serde_json::json!(damaged), "{collected}");
    let text = quick.looking(&["gc"], &site).ok();
    assert!(text.stdout.contains(&format!("damaged: {cut} is missing or cut; restore it")), "{text}");
}

fn bundle(quick: &Quick, site: &str, name: &str, more: &[&str]) -> PathBuf {
    let file = quick.path(name);
    quick.looking(&["bundle-site"], site).args(more).arg("--out").arg(&file).ok();
    file
}

fn unbundle(quick: &Quick, file: &Path, site: &str) -> Run {
    quick.looking(&["unbundle-site"], site).arg(file).args(["--state"]).arg(quick.path("other-side"))
}

fn a_site_over_an_air_gap() {
    let quick = Quick::new();
    let (site, inside) = (quick.site(), quick.path("inside").display().to_string());
    published(&quick, &site);
    let full = bundle(&quick, &site, "full.tar", &[]);
    assert_eq!(sha256_of(&full), sha256_of(&bundle(&quick, &site, "again.tar", &[])), "the same bytes every time");
    unbundle(&quick, &full, &inside).ok().says("published  head 4");
    assert_eq!(verified(&quick, &inside)["counts"]["releases"], 4);
    let named = |site: &str| std::fs::read(Path::new(site).join("servers/hello.json")).unwrap();
    assert_eq!(named(&site), named(&inside));
    assert_eq!(pages(Path::new(&site)), pages(Path::new(&inside)), "what people read is the same on both sides");
    unbundle(&quick, &full, &inside).ok().says("unchanged  head 4");
    // Only what is new goes the second time.
    let next = quick.recipe("hello", "1.3.0", &[("a.txt", b"next\n"), ("same.txt", b"same\n")]);
    quick.release(&next, &site).ok();
    let update = bundle(&quick, &site, "update.tar", &["--since", "4"]);
    let size = |file: &Path| std::fs::metadata(file).unwrap().len();
    assert!(size(&update) < size(&full), "{} and {} bytes", size(&update), size(&full));
    // It is of no use where that head is not known.
    let elsewhere = quick.path("elsewhere").display().to_string();
    let ran = quick.looking(&["unbundle-site"], &elsewhere).arg(&update).arg("--state").arg(quick.path("third")).run();
    assert!(matches!(ran.code, 1 | 4) && !Path::new(&elsewhere).join("head.json").exists(), "{ran}");
    unbundle(&quick, &update, &inside).ok().says("published  head 5");
    assert_eq!(verified(&quick, &inside)["counts"]["releases"], 5);
    // Never back, not even after the site on this side was lost.
    unbundle(&quick, &full, &inside).exits(4).says("older than head 5");
    std::fs::remove_dir_all(&inside).unwrap();
    unbundle(&quick, &full, &inside).exits(4);
    // A signer on this side reads the whole log.
    let log = quick.looking(&["inspect", "log", "--json"], &site).ok().json();
    assert_eq!(log["segments"], 5);
}

/// A byte of any file is turned: the same size, another content. Nothing of it goes out.
fn nothing_damaged_crosses_an_air_gap() {
    let quick = Quick::new();
    let (site, folder, out) = (quick.site(), quick.path("site"), quick.path("out.tar"));
    let files: &[(&str, &[u8])] = &[("a.txt", b"content\n"), ("b.txt", b"more\n")];
    quick.release(&quick.recipe("hello", "1.0.0", files), &site).ok();
    let names = files_below(&folder);
    let mut turned = 0;
    for name in names
        .iter()
        .filter(|name| ["objects/", "artefacts/", "entries/", "catalogue/"].iter().any(|place| name.starts_with(place)))
    {
        let whole = std::fs::read(folder.join(name)).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(folder.join(name), &bytes).unwrap();
        let ran = quick.looking(&["bundle-site"], &site).arg("--out").arg(&out).exits(4);
        assert!(ran.stderr.contains(name.as_str()) && !out.exists(), "{name}: {ran}");
        std::fs::write(folder.join(name), whole).unwrap();
        turned += 1;
    }
    assert!(turned >= 7, "chunks of content, tree and layout, artefact, entry, bin, catalogue: {names:?}");
    bundle(&quick, &site, "out.tar", &[]);
}

fn hostile_bundles_are_refused() {
    let quick = Quick::new();
    let site = quick.site();
    published(&quick, &site);
    let full = bundle(&quick, &site, "full.tar", &[]);
    // Each is the true bundle with one thing changed, by Python's tarfile.
    let script = r#"
import io, sys, tarfile
source, folder = sys.argv[1:]
members = [(m, tarfile.open(source).extractfile(m).read()) for m in tarfile.open(source).getmembers()]
def write(name, change):
    with tarfile.open(f"{folder}/{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in change([(m.name, m.type, d) for m, d in members]):
            info = tarfile.TarInfo(member[0]); info.type = member[1]; info.size = len(data)
            if info.type == tarfile.SYMTYPE: info.linkname, info.size = "/etc/passwd", 0
            tar.addfile(info, io.BytesIO(data))
def each(list): return [((n, t), d) for n, t, d in list]
first = lambda list, prefix: next(i for i, one in enumerate(list) if one[0].startswith(prefix))
def flip(prefix):
    def change(list):
        i = first(list, prefix); n, t, d = list[i]
        list[i] = (n, t, d[:-1] + bytes([d[-1] ^ 1])); return each(list)
    return change
def without(prefix):
    return lambda list: each([one for i, one in enumerate(list) if i != first(list, prefix)])
def more(name, type=tarfile.REGTYPE, data=b"x"):
    return lambda list: each([(name, type, data)] + list)
for prefix in ["objects/", "artefacts/", "entries/", "catalogue/bins/", "log/", "head.json"]:
    key = prefix.strip("/").replace("/", "-")
    write("flip-" + key, flip(prefix)); write("without-" + key, without(prefix))
write("parent", more("../evil")); write("absolute", more("/tmp/evil")); write("other", more("servers/hello.json"))
write("link", more("head.json", tarfile.SYMTYPE, b"")); write("directory", more("objects", tarfile.DIRTYPE, b""))
write("behind", lambda list: each(list + [("artefacts/" + "0" * 64, tarfile.REGTYPE, b"x")]))
data = open(source, "rb").read(); open(f"{folder}/cut.tar", "wb").write(data[:len(data) // 2])
open(f"{folder}/empty.tar", "wb").close()
"#;
    let folder = quick.path("hostile");
    std::fs::create_dir(&folder).unwrap();
    Run::new(need("python3", "python3")).args(["-c", script]).arg(&full).arg(&folder).ok();
    let names = files_below(&folder);
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let inside = quick.path(&format!("in-{name}"));
        let ran = unbundle(&quick, &folder.join(&name), &inside.display().to_string()).run();
        assert!(matches!(ran.code, 1 | 4) && !ran.text().contains("panicked"), "{name}: {ran}");
        assert!(!inside.join("head.json").exists(), "{name}: nothing was published");
    }
    assert!(!Path::new("/tmp/evil").exists() && !quick.path("evil").exists());
}

fn a_release_is_promoted() {
    let (staging, production) = (Quick::named("demo/staging"), Quick::named("demo/production"));
    let (from, site) = (staging.site(), production.site());
    published(&staging, &from);
    let promote = |what: &str| {
        let run = production.publishing("promote", &site).args([what, "--from", &from, "--key", "demo:release"]);
        run.arg("--from-trust").arg(staging.trust())
    };
    let without = |what: &str| promote(what).arg("--no-policy");
    promote("hello@1.1.0").exits(2).says("no policy is named");
    assert!(!Path::new(&site).join("head.json").exists());
    without("hello@1.1.0").ok().says("released   hello 1.1.0");
    verified(&production, &site);
    let predicate = |site: &str| {
        let entry = forge::read(&Path::new(site).join("servers/hello.json"));
        let all = std::iter::once(&entry).chain(entry["earlier"].as_array().into_iter().flatten());
        let listed = all.into_iter().find(|one| one["version"] == "1.1.0").unwrap();
        (forge::payload(&listed["signature"])["predicate"].clone(), listed["layout"].clone())
    };
    let ((mut there, layout), (mut here, same)) = (predicate(&from), predicate(&site));
    assert_eq!(layout, same, "the same trees, in the same chunks");
    assert_eq!((there["registry"].take(), here["registry"].take()), ("demo/staging".into(), "demo/production".into()));
    assert_eq!(there, here, "all else is signed as it was");
    let log = production.looking(&["inspect", "log", "--json"], &site).ok().json();
    let row = &log["rows"][0];
    assert_eq!((&row["action"], &row["from"]["registry"]), (&"promote".into(), &"demo/staging".into()), "{row}");
    // This registry's own demands, and what the other side would refuse itself.
    let policy = production.path("policy.yaml");
    std::fs::write(&policy, "reviewers: {allowed: [nobody@example.com]}\n").unwrap();
    promote("hello@1.2.0").arg("--policy").arg(&policy).exits(1).says("policy-reviewer");
    without("hello@9.9.9").exits(4).says("not in the registry");
    staging.publishing("revoke", &from).arg("--publish").args(["hello@1.0.0", "--reason", "bad"]).ok();
    without("hello@1.0.0").exits(4).says("revoked");
    let wrong = production.publishing("promote", &site).args(["hello@1.2.0", "--from", &from, "--key", "demo:release"]);
    wrong.arg("--no-policy").arg("--from-trust").arg(production.trust()).exits(4).says("belongs to registry");
    assert_eq!(verified(&production, &site)["counts"]["releases"], 1);
}

/// A repository with recipes of three versions, released, one yanked, from its commits.
fn with_history(quick: &Quick) -> PathBuf {
    let git = |args: &[&str]| {
        let run = Run::new(need("git", "git")).dir(&quick.path("servers")).args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b.c",
        ]);
        run.args(args).ok();
    };
    git(&["init", "--quiet", "."]);
    git(&["remote", "add", "origin", "https://git.example.com/servers.git"]);
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        let content = format!("content of {version}\n");
        let recipe = quick.recipe("hello", version, &[("a.txt", content.as_bytes())]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "-m", version]);
        quick.release(&recipe, &quick.site()).ok();
    }
    let other = quick.recipe("other", "1.0.0", &[("b.txt", b"other\n")]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "other"]);
    quick.release(&other, &quick.site()).ok();
    quick.publishing("yank", &quick.site()).arg("--publish").args(["hello@1.1.0", "--reason", "slow"]).ok();
    quick.publishing("publish", &quick.site()).arg("--resign").ok();
    quick.path("servers")
}

fn rebuild(quick: &Quick, log: &Path, artefacts: &Path, site: &Path) -> Run {
    let run = quick.publishing("rebuild", &site.display().to_string()).arg("--git").arg(quick.path("servers"));
    run.arg("--artefacts").arg(artefacts).arg("--log").arg(log)
}

fn a_lost_site_is_made_again() {
    let quick = Quick::new();
    with_history(&quick);
    let (old, new) = (quick.path("site"), quick.path("new"));
    // A second key signed all of it later: its signatures are in the log, too.
    quick.signer().args(["trust", "edit"]).arg(quick.trust()).args(["--add-release-key", "demo:second"]).ok();
    quick.publishing("countersign", &quick.site()).args(["--all", "--key", "demo:second"]).ok();
    assert_eq!(forge::read(&old.join("servers/hello.json"))["signature"]["signatures"].as_array().unwrap().len(), 2);
    // What is kept elsewhere: the log, and the artefacts where they were made.
    let log = quick.path("log-copy");
    copy_dir(&old.join("log"), &log);
    let artefacts = quick.path("artefacts");
    // Half of it first: an artefact is not found yet.
    let hidden = artefacts.join("other-1.0.0.tar");
    let away = quick.path("away.tar");
    std::fs::rename(&hidden, &away).unwrap();
    rebuild(&quick, &log, &artefacts, &new).exits(1).says("other 1.0.0");
    assert!(!new.join("head.json").exists());
    std::fs::rename(&away, &hidden).unwrap();
    rebuild(&quick, &log, &artefacts, &new).ok().says("head       8");
    assert_eq!(verified(&quick, &new.display().to_string())["counts"]["releases"], 4);
    for name in ["hello", "other"] {
        let read = |site: &Path| forge::read(&site.join(format!("servers/{name}.json")));
        assert_eq!(read(&old), read(&new), "identical statements, trees and states of {name}");
    }
    assert_eq!(pages(&old), pages(&new), "pages say nothing of when or where they were made");
    let names = |site: &Path, folder: &str| files_below(&site.join(folder));
    for folder in ["objects", "artefacts", "details"] {
        assert_eq!(names(&old, folder), names(&new, folder), "{folder}");
    }
    // The chain goes on from the last head of the log, so a host with the old one accepts the new one.
    let seen = forge::payload(&forge::read(&old.join("head.json")));
    let head = forge::payload(&forge::read(&new.join("head.json")));
    assert_eq!(head["predicate"]["version"].as_u64(), seen["predicate"]["version"].as_u64().map(|version| version + 1));
    let log = quick.looking(&["inspect", "log", "--json"], &new.display().to_string()).ok().json();
    let actions: Vec<_> = log["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["refused"] != true)
        .map(|row| row["action"].clone())
        .collect();
    let before = ["release", "release", "release", "release", "yank", "resign"];
    // One row of the head, and one of each release.
    assert_eq!(actions, [&before[..], &["countersign"; 5], &["rebuild"]].concat());
    // And it goes on from there.
    let next = quick.recipe("hello", "1.3.0", &[("a.txt", b"next\n")]);
    quick.release(&next, &new.display().to_string()).ok();
    verified(&quick, &new.display().to_string());
}

fn a_rebuild_that_would_differ_is_refused() {
    let quick = Quick::new();
    with_history(&quick);
    let old = quick.path("site");
    let new = quick.path("new");
    // Another repository knows none of the recipes.
    let empty = quick.path("empty");
    std::fs::create_dir(&empty).unwrap();
    Run::new(need("git", "git")).dir(&empty).args(["init", "--quiet", "."]).ok();
    let run = quick.publishing("rebuild", &new.display().to_string()).arg("--git").arg(&empty).arg("--artefacts");
    run.arg(old.join("artefacts")).arg("--log").arg(&old).exits(1).says("is not in the repository");
    // A log in which somebody changed a time: the chain breaks, or the statement would be another one.
    let log = quick.path("log-copy");
    copy_dir(&old.join("log"), &log);
    let newest = files_below(&log).into_iter().find(|name| name.starts_with("4-")).unwrap();
    let text = std::fs::read_to_string(log.join(&newest)).unwrap();
    std::fs::write(log.join(&newest), text.replacen("\"issued\":\"20", "\"issued\":\"19", 1)).unwrap();
    rebuild(&quick, &log, &old.join("artefacts"), &new).exits(4).says("signing log is broken");
    assert!(!new.join("head.json").exists(), "nothing was published");
    rebuild(&quick, &old, &old.join("artefacts"), &old).exits(1).says("has a head already");
}
