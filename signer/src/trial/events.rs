//! What the tracer writes, line by line, as system calls.
//!
//! `strace -f -xx -y` gives each string, and each path behind a descriptor, in hexadecimal. So the
//! only brackets, commas and quotes in a line are the tracer's own, and a line that does not fit
//! the few forms below is not skipped but told: a watcher that does not understand must not say
//! "nothing happened".
//!
//! ```text
//! 12 openat(AT_FDCWD<\x2f>, "\x61", O_RDONLY) = 3<\x2f\x61>
//! 12 openat(AT_FDCWD<\x2f>, "\x61", O_RDONLY <unfinished ...>
//! 12 <... openat resumed>) = -1 ENOENT (No such file or directory)
//! ```

use std::collections::HashMap;

/// One system call that has returned, or a program that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// The task that made it.
    pub(super) pid: u32,
    /// Its name.
    pub(super) name: String,
    /// Its arguments as the tracer writes them.
    pub(super) args: Vec<String>,
    /// What it gave.
    pub(super) result: Outcome,
}

/// What a system call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A number, and the path behind it if it is a descriptor.
    Done(Option<Vec<u8>>),
    /// An error such as `ENOENT`.
    Failed(String),
    /// The task ended in it.
    Unknown,
}

/// Reads lines; holds what is unfinished, by task.
#[derive(Debug, Default)]
pub(super) struct Reader {
    unfinished: HashMap<u32, String>,
}

/// A line that is none of the forms; bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misread(pub(super) String);

/// Unfinished calls that are held at most.
const HELD: usize = 4096;

impl Reader {
    /// One line, without its end. `None` if it finishes no call.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<Call>, Misread> {
        let misread = || Misread(mcpfs_trust::error::bounded(&String::from_utf8_lossy(line)));
        let text = std::str::from_utf8(line).map_err(|_| misread())?;
        let (pid, rest) = text.split_once(' ').ok_or_else(misread)?;
        let pid: u32 = pid.parse().map_err(|_| misread())?;
        // After a short number the tracer fills up with blanks.
        let rest = rest.trim_start_matches(' ');
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (name, end) = resumed.split_once(" resumed>").ok_or_else(misread)?;
            let Some(begin) = self.unfinished.remove(&pid) else { return Err(misread()) };
            if !begin.starts_with(&format!("{name}(")) {
                return Err(misread());
            }
            return parse(pid, &format!("{begin}{end}")).map(Some).ok_or_else(misread);
        }
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            if self.unfinished.len() >= HELD {
                return Err(misread());
            }
            self.unfinished.insert(pid, begin.trim_end_matches(' ').to_owned());
            return Ok(None);
        }
        // Ends of tasks, and signals where they are not switched off.
        if rest.starts_with("+++ ") || rest.starts_with("--- ") {
            self.unfinished.remove(&pid);
            return Ok(None);
        }
        // A task that ended inside of a call: `exit_group(0) = ?`, or with <unfinished ...> above.
        parse(pid, rest).map(Some).ok_or_else(misread)
    }
}

fn parse(pid: u32, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return None;
    }
    // The result stands behind the last " = " outside of everything: arguments have " = " never.
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end_matches(' ').strip_suffix(')')?;
    Some(Call { pid, name: name.to_owned(), args: split(args)?, result: outcome(result)? })
}

/// Splits at the commas that stand inside of nothing.
fn split(text: &str) -> Option<Vec<String>> {
    let (mut parts, mut depth, mut quoted, mut start) = (Vec::new(), 0_usize, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth > 0 || quoted {
        return None;
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim().to_owned());
    }
    Some(parts)
}

fn outcome(text: &str) -> Option<Outcome> {
    let text = text.trim();
    if text.starts_with('?') {
        return Some(Outcome::Unknown);
    }
    if let Some(error) = text.strip_prefix("-1 ") {
        return Some(Outcome::Failed(error.split(' ').next()?.to_owned()));
    }
    let number = text.split(['<', ' ']).next()?;
    let number = number.strip_prefix("0x").unwrap_or(number);
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(Outcome::Done(behind(text)))
}

/// The path behind a descriptor: `3<\x2f>`, also `AT_FDCWD<\x2f>`.
pub(super) fn behind(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once('<')?;
    unhex(rest.split_once('>')?.0)
}

/// The first string of an argument.
pub(super) fn string(argument: &str) -> Option<Vec<u8>> {
    let (_, rest) = argument.split_once('"')?;
    unhex(rest.split_once('"')?.0)
}

/// All strings of an argument.
pub(super) fn strings(argument: &str) -> Vec<Vec<u8>> {
    argument.split('"').skip(1).step_by(2).filter_map(unhex).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let [b'\\', b'x', high, low, left @ ..] = rest {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = left;
    }
    rest.is_empty().then_some(bytes)
}
