//! Publishing: how long a check and a release take, what goes over the line, and a lost site.

use std::path::Path;
use std::time::{Duration, Instant};

use mcpfs_tests::bench::Figure;
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{Recipe, tar};
use mcpfs_tests::history::History;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::s3::S3;
use mcpfs_tests::scratch::copy_dir;
use mcpfs_tests::servers::{self, EVERYTHING_MAIN};

/// Enough for a median of what takes seconds.
const ROUNDS: usize = 3;
const SERVERS: usize = 1_000;
const VERSIONS: usize = 10;

/// Checking and releasing server-everything, and what a new version of it uploads.
pub(super) fn publish() -> Vec<Figure> {
    let quick = Quick::new();
    let tree = quick.path("artefacts/everything");
    copy_dir(&servers::everything(), &tree);
    let launch = format!("launch:\n  command: node\n  args: [\"${{TREE}}/{EVERYTHING_MAIN}\", stdio]\n");
    let first = quick.recipe_of(&Recipe::new("everything", "1.0.0", &tar(&tree)).with(&launch));
    let check = || {
        let run = quick.signer().arg("check").arg(&first).arg("--file-root").arg(quick.path("artefacts"));
        timed(run)
    };
    let release = |site: usize| {
        let site = quick.path(&format!("site-{site}")).display().to_string();
        timed(quick.release(&first, &site).env("MCPFS_SIGNER_STATE", format!("{site}-state")))
    };
    let (checked, released) = (median((0..ROUNDS).map(|_| check())), median((0..ROUNDS).map(release)));
    let s3 = S3::new();
    let upload = |recipe: &Path| {
        let before = s3.requests().len();
        let run = quick.release(recipe, &s3.site("prod")).args(["--s3-endpoint", &s3.endpoint()]);
        let took = timed(s3.keys(run));
        let sent = s3.written_since(before);
        let artefact = sent.iter().filter(|one| one.name.contains("/artefacts/")).map(|one| one.sent).sum::<u64>();
        (took, sent.iter().map(|one| one.sent).sum::<u64>() - artefact, artefact)
    };
    let (whole, all, archive) = upload(&first);
    for file in ["package.json", EVERYTHING_MAIN, "node_modules/zod/package.json"] {
        let file = tree.join(file);
        let mut text = std::fs::read(&file).expect("a file of the server");
        text.extend(b"\n\n");
        std::fs::write(&file, text).expect("own copy");
    }
    let second = quick.recipe_of(&Recipe::new("everything", "1.1.0", &tar(&tree)).with(&launch));
    let (update, some, again) = upload(&second);
    let megabytes = |bytes: u64| format!("{:.2} MB", bytes as f64 / 1e6);
    vec![
        Figure::plain("check of server-everything", seconds(checked), "< 5 s"),
        Figure::plain("release of server-everything into a folder", seconds(released), "< 10 s"),
        Figure::plain("release of server-everything into an S3 bucket", seconds(whole), "< 10 s"),
        Figure::plain(
            "uploaded for it: all that hosts read, and the original artefact",
            format!("{}, {}", megabytes(all), megabytes(archive)),
            "-",
        ),
        Figure::plain("release of a version that changes 3 files", seconds(update), "< 10 s"),
        Figure::plain(
            "uploaded for it: all that hosts read, and the original artefact",
            format!("{}, {}", megabytes(some), megabytes(again)),
            "what changed",
        ),
    ]
}

/// A lost site of many small releases, made again.
pub(super) fn rebuild() -> Vec<Figure> {
    let history = History::new(SERVERS, VERSIONS);
    let took = timed(history.rebuild(&history.path("site")).limit(Duration::from_secs(3_600)));
    let each = took.as_secs_f64() * 1e3 / (SERVERS * VERSIONS) as f64;
    vec![Figure::plain(
        &format!("rebuild of {SERVERS} servers with {VERSIONS} versions each"),
        format!("{}, {each:.1} ms a release", seconds(took)),
        "minutes",
    )]
}

fn timed(run: Run) -> Duration {
    let started = Instant::now();
    run.ok();
    started.elapsed()
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times[times.len() / 2]
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
