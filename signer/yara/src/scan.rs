//! Compiling rules and matching them against one file after the other.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _, Write};
use std::time::Duration;

use yara_x::{Compiler, MetaValue, Rule, Rules, Scanner, SourceCode};

use crate::protocol::{Answer, Ask, FILE_BYTES, Hello, LINE_BYTES, MATCHES, Match, PROTOCOL, RULE_BYTES};

/// Program and version.
pub(crate) const PROGRAM: &str = concat!("mcpfs-yara ", env!("CARGO_PKG_VERSION"));
/// Time that one file may take.
const FILE_LIMIT: Duration = Duration::from_secs(20);
/// Longest text of a match, bytes; longer ones are cut.
const TEXT_BYTES: usize = 1024;
/// Matches of one string that are kept.
const STRING_MATCHES: usize = 10_000;

/// Why it stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The pipes.
    #[error("cannot read or write its pipes: {0}")]
    Io(#[from] io::Error),
    /// A line that is none of [`Ask`].
    #[error("was asked something that protocol {PROTOCOL} does not have: {0}")]
    Ask(String),
}

/// The engine and its version.
pub(crate) fn engine() -> String {
    format!("yara-x {}", env!("YARA_X_VERSION"))
}

/// Answers until the input ends.
pub(crate) fn serve(mut input: impl BufRead, mut output: impl Write) -> Result<(), ServeError> {
    say(&mut output, &Hello { protocol: PROTOCOL, program: PROGRAM.to_owned(), engine: engine() })?;
    let mut compiler = Compiler::new();
    // An include would open files; what is included comes as a file of its own.
    compiler.enable_includes(false).relaxed_re_syntax(true).switch_all_warnings(false);
    loop {
        match ask(&mut input)? {
            Some(Ask::Rules { name, size }) => {
                let source = body(&mut input, size, RULE_BYTES)?;
                compiler.new_namespace(&name);
                let code = SourceCode::from(source.as_slice()).with_origin(name);
                let problem = compiler.add_source(code).err().map(|error| problem(&error.to_string()));
                say(&mut output, &Answer::Rules { problem })?;
            }
            Some(Ask::Ready) => break,
            Some(Ask::Scan { .. }) => return Err(ServeError::Ask("a scan before the rules are ready".to_owned())),
            None => return Ok(()),
        }
    }
    let rules = compiler.build();
    say(&mut output, &Answer::Ready { rules: rules.iter().len() as u64 })?;
    files(&rules, &mut input, &mut output)
}

fn files(rules: &Rules, input: &mut impl BufRead, output: &mut impl Write) -> Result<(), ServeError> {
    let mut scanner = Scanner::new(rules);
    scanner.set_timeout(FILE_LIMIT).max_matches_per_pattern(STRING_MATCHES);
    while let Some(ask) = ask(input)? {
        let Ask::Scan { size } = ask else {
            return Err(ServeError::Ask("rules after the rules were ready".to_owned()));
        };
        let bytes = body(input, size, FILE_BYTES)?;
        let answer = match scanner.scan(&bytes) {
            Ok(results) => {
                let matching = results.matching_rules();
                match matching.len() > MATCHES {
                    true => Answer::Failed(format!("more than {MATCHES} rules match it")),
                    false => Answer::Matches(matching.map(|rule| matched(&rule, &bytes)).collect()),
                }
            }
            Err(error) => Answer::Failed(cut(&error.to_string())),
        };
        say(output, &answer)?;
    }
    Ok(())
}

fn matched(rule: &Rule<'_, '_>, bytes: &[u8]) -> Match {
    let offset = rule.patterns().filter_map(|pattern| Some(pattern.matches().next()?.range().start)).min();
    let line = offset.map(|offset| {
        let lines = bytes[..offset.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count();
        u32::try_from(lines + 1).unwrap_or(u32::MAX)
    });
    let texts = rule.metadata().filter_map(|(name, value)| match value {
        MetaValue::String(text) => Some((cut(name), cut(text))),
        _ => None,
    });
    let meta: BTreeMap<String, String> = texts.take(32).collect();
    Match {
        file: rule.namespace().to_owned(),
        rule: rule.identifier().to_owned(),
        offset: offset.map(|offset| offset as u64),
        line,
        meta,
    }
}

/// The title and the place of a compiler's report.
fn problem(report: &str) -> String {
    let lines: Vec<&str> = report.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
    cut(&lines.join(" "))
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

fn say(output: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

fn ask(input: &mut impl BufRead) -> Result<Option<Ask>, ServeError> {
    let mut line = Vec::new();
    input.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| ServeError::Ask(error.to_string()))
}

fn body(input: &mut impl BufRead, size: u64, limit: u64) -> Result<Vec<u8>, ServeError> {
    if size > limit {
        return Err(ServeError::Ask(format!("{size} bytes where {limit} are allowed")));
    }
    let mut bytes = Vec::new();
    let read = input.by_ref().take(size).read_to_end(&mut bytes)?;
    if (read as u64) < size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}
