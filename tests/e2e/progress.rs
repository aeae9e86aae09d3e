//! Long work on a terminal: bars that come and go, and nothing of them anywhere else.

use std::path::PathBuf;

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::need;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::terminal::Terminal;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("progress::bars_come_and_go", bars_come_and_go);
    suite.plain("progress::a_narrow_terminal_stays_clean", a_narrow_terminal_stays_clean);
    suite.plain("progress::elsewhere_there_are_none", elsewhere_there_are_none);
}

/// A publisher whose release has enough in it for every bar.
struct Desk {
    quick: Quick,
    recipe: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let quick = Quick::new();
        let large = fixture::bytes(5, 5 << 20);
        let small: Vec<(String, Vec<u8>)> =
            (0..20).map(|number| (format!("{number}.bin"), fixture::bytes(number, 50_000))).collect();
        let mut files: Vec<(&str, &[u8])> = small.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        files.push(("large", &large));
        let recipe = quick.recipe("hello", "1.0.0", &files);
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=x", "-c", "user.email=x@example.com"];
            Run::new(need("git", "git")).args(who).args(args).dir(&quick.path("")).ok()
        };
        git(&["init", "--quiet"]);
        git(&["add", "servers"]);
        git(&["commit", "--quiet", "-m", "hello"]);
        Self { quick, recipe }
    }

    /// Each command that shows how far it is, and the word that its bar begins with. In this order each has
    /// what it needs of those before.
    fn commands(&self) -> Vec<(Run, &'static str)> {
        let (quick, site) = (&self.quick, self.quick.site());
        let elsewhere = |run: Run| run.env("MCPFS_SIGNER_STATE", quick.path("other-state"));
        let check = quick.signer().arg("check").arg(&self.recipe).args(["--file-root", "artefacts"]);
        let publish = quick.publishing("publish", &site).args(["--staging", "staging", "--key", "demo:release"]);
        let rebuild = quick.publishing("rebuild", "rebuilt").args(["--git", ".", "--artefacts", "artefacts"]);
        vec![
            (check.args(["--staging", "staging"]), "file:"),
            (publish.args(["--no-policy", "--recipe"]).arg(&self.recipe), "objects"),
            (elsewhere(quick.release(&self.recipe, "other")), "artefact"),
            (quick.looking(&["pages"], &site), "pages"),
            (quick.looking(&["gc", "--dry-run"], &site), "releases"),
            (quick.looking(&["deps", "lodash", "--all"], &site), "servers"),
            (quick.looking(&["bundle-site", "--out", "site.tar"], &site), "bundle"),
            (quick.looking(&["unbundle-site", "site.tar", "--state", "inside"], "in"), "verify"),
            (rebuild.args(["--log", "site/log", "--state", "rebuilt-state"]), "releases"),
        ]
    }
}

/// Whether this is a bar of that name. A download has no end, so its name comes last.
fn is_bar(line: &str, word: &str) -> bool {
    let counter = line.contains("iB ") && line.contains(word);
    if word == "file:" { counter } else { line.starts_with(word) && line.contains(" [") && !line.contains("[launch") }
}

fn bars_come_and_go() {
    let (shown, piped) = (Desk::new(), Desk::new());
    for ((run, word), (plain, _)) in shown.commands().into_iter().zip(piped.commands()) {
        let shown = Terminal::new(100).env("NO_COLOR", "1").run(run);
        assert_eq!(shown.code, 0, "{word}: {}", shown.written);
        let seen = shown.screens.iter().flatten().any(|line| is_bar(line, word));
        assert!(seen, "{word} is not shown: {:#?}", shown.screens);
        let last = shown.last();
        assert!(!last.iter().any(|line| is_bar(line, word)), "{word} stays: {last:#?}");
        assert!(!shown.written.contains("\u{1b}[3"), "a colour: {:?}", shown.written);
        // What stays is what a pipe gets, line by line, but for digests, times and places.
        let plain = plain.ok();
        let begin = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        let text = format!("{}{}", plain.stderr, plain.stdout);
        let wrapped = text.lines().filter(|line| !line.is_empty()).map(|line| line.chars().count().div_ceil(100));
        assert_eq!(wrapped.sum::<usize>(), last.len(), "{word}: {last:#?}\n{text}");
        let first = text.lines().next().map(begin);
        assert_eq!(last.first().map(|line| begin(line)), first, "{word}: {last:#?}\n{text}");
    }
}

/// A line that is too long for the terminal goes on in the next, and whoever wipes one line leaves the other.
fn a_narrow_terminal_stays_clean() {
    for columns in [40, 24, 12] {
        let desk = Desk::new();
        for (run, word) in desk.commands() {
            let shown = Terminal::new(columns).run(run);
            assert_eq!(shown.code, 0, "{word}: {}", shown.written);
            for screen in &shown.screens {
                let bars = screen.iter().filter(|line| line.contains("[=") || line.contains("[>")).count();
                assert!(bars <= 1, "{columns} columns: {word} is there {bars} times: {screen:#?}");
            }
            // A name of a folder may end in `B/s` where the line does.
            let rate = |line: &String| line.split_whitespace().any(|word| ["B/s", "KiB/s", "MiB/s"].contains(&word));
            let left = shown.last().iter().any(|line| line.contains("=>") || line.contains("==") || rate(line));
            assert!(!left, "{columns} columns: {word} leaves {:#?}", shown.last());
        }
    }
}

fn elsewhere_there_are_none() {
    let signs = |text: &str| text.contains('\u{1b}') || text.contains("[=") || text.contains("[>");
    let (piped, dumb, json) = (Desk::new(), Desk::new(), Desk::new());
    for (run, word) in piped.commands() {
        let ran = run.env("TERM", "xterm-256color").ok();
        assert!(!signs(&ran.text()) && !ran.text().contains('\r'), "{word}: {ran}");
    }
    for (run, word) in dumb.commands() {
        let shown = Terminal::new(100).env("TERM", "dumb").run(run);
        assert!(shown.code == 0 && !signs(&shown.written), "{word}: {:?}", shown.written);
    }
    for (run, word) in json.commands() {
        let shown = Terminal::new(100).run(run.arg("--json"));
        assert!(shown.code == 0 && !signs(&shown.written), "{word}: {:?}", shown.written);
        let last = shown.written.trim_end().lines().next_back().unwrap();
        assert!(serde_json::from_str::<Value>(last).is_ok(), "{word}: {:?}", shown.written);
    }
}
