//! A terminal of a given size with a command on it: what it shows on the way, and at the end.
//!
//! `script` makes a real pseudo-terminal, so the command believes what it is told; a parser of terminal sequences
//! then plays what was written.

use std::ffi::OsStr;
use std::num::NonZeroU16;

use crate::command::Run;
use crate::scratch::need;

/// Rows of every terminal here: more than a command writes, so that nothing scrolls away.
const ROWS: u16 = 120;

/// A command about to run on a terminal.
#[derive(Debug)]
pub struct Terminal {
    columns: u16,
    variables: Vec<(String, String)>,
}

/// What came of it.
#[derive(Debug)]
pub struct Shown {
    /// The bytes that reached the terminal.
    pub written: String,
    /// Every state of the screen, as its lines that are not empty; the last is what stays.
    pub screens: Vec<Vec<String>>,
    /// The exit code.
    pub code: i32,
}

impl Terminal {
    /// A usual terminal, so many columns wide.
    pub fn new(columns: u16) -> Self {
        Self { columns, variables: vec![("TERM".to_owned(), "xterm-256color".to_owned())] }
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a command on it.
    pub fn run(&self, run: Run) -> Shown {
        let variables: Vec<String> =
            self.variables.iter().map(|(name, value)| quoted(&format!("{name}={value}"))).collect();
        let size = format!("stty columns {} rows {ROWS}", self.columns);
        let before = format!("{size} && exec env -u NO_COLOR {}", variables.join(" "));
        let ran = run
            .behind(|words| {
                let words: Vec<String> = words.iter().map(|word| quoted(word.to_str().expect("UTF-8"))).collect();
                let line = format!("{before} {}", words.join(" "));
                [need("script", "bsdutils").as_os_str(), "--quiet".as_ref(), "--return".as_ref(), "--command".as_ref()]
                    .into_iter()
                    .map(OsStr::to_owned)
                    .chain([line.into(), "/dev/null".into()])
                    .collect()
            })
            .run();
        Shown { screens: play(&ran.stdout_bytes, self.columns), written: ran.stdout, code: ran.code }
    }
}

impl Shown {
    /// What is left on the screen.
    pub fn last(&self) -> &[String] {
        self.screens.last().map_or(&[], Vec::as_slice)
    }
}

fn size(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("a terminal has rows and columns")
}

/// The screens, one for each piece that begins with a sequence or a new line.
fn play(bytes: &[u8], columns: u16) -> Vec<Vec<String>> {
    let mut parser = vt100::Parser::new(size(ROWS), size(columns), 0);
    let mut screens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let next = bytes[at + 1..].iter().position(|byte| matches!(byte, b'\x1b' | b'\r'));
        let end = next.map_or(bytes.len(), |next| at + 1 + next);
        parser.process(&bytes[at..end]);
        let rows = parser.screen().rows(0, columns).map(|row| row.trim_end().to_owned());
        let lines: Vec<String> = rows.filter(|row| !row.is_empty()).collect();
        if screens.last() != Some(&lines) {
            screens.push(lines);
        }
        at = end;
    }
    screens
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
