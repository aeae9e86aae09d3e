//! The first words of an MCP host, spoken to a server that may answer anything.
//!
//! A small client of our own, since the usual ones trust their server: here each line, each list
//! and each wait has a bound, and what is not an answer is written down instead of being an error.
//! The version of the protocol is the server's choice and decides nothing.

use std::io::{Read, Write as _};
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mcpfs_trust::error::bounded;
use mcpfs_trust::text::visible;
use serde_json::{Value, json};

use super::running::{Limit, is_set};
use super::said::{Called, Tool, Trouble, tool};

/// Longest line of a server, bytes.
const LINE: usize = 8 << 20;
/// All that a server may write to its standard output, bytes.
const OUTPUT: usize = 64 << 20;
/// Lines of a server that are no answers.
const LINES: usize = 100_000;
/// Tools, and pages that list them.
const TOOLS: usize = 1000;
const PAGES: usize = 50;
/// Lines of text on standard output that are kept.
const NOISE: usize = 20;
/// The end of standard error that is kept, bytes.
const STDERR: usize = 16 << 10;
/// How long a server may go on when its input has ended.
const LINGER: Duration = Duration::from_secs(5);

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) server: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) initialized: Option<Duration>,
    pub(super) tools: Vec<Tool>,
    pub(super) resources: Option<usize>,
    pub(super) prompts: Option<usize>,
    pub(super) called: Option<Called>,
    pub(super) troubles: Vec<Trouble>,
    pub(super) stderr: String,
}

/// What comes out of a server.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    TooMuch,
}

/// A server's process, as far as a conversation needs it: in a trial's sandbox, or from a mount.
pub(crate) trait Process {
    /// The ends of its pipes, once.
    fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>);
    /// Where it is noted that it must be stopped, and why.
    fn limit(&self) -> Limit;
    /// How it ended, if it has.
    fn status(&mut self) -> Option<ExitStatus>;
    /// Waits for its end for a while, or until it must be stopped.
    fn ends_within(&mut self, patience: Duration) -> bool {
        let (started, limit) = (Instant::now(), self.limit());
        while self.status().is_none() {
            if started.elapsed() > patience || is_set(&limit) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// One conversation.
pub(super) struct Conversation<'r> {
    running: &'r mut dyn Process,
    stdin: Option<ChildStdin>,
    lines: Option<Receiver<Line>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    listener: Option<JoinHandle<()>>,
    limit: Limit,
    patience: Duration,
    started: Instant,
    next: u64,
    received: usize,
    noise: Vec<String>,
    noises: usize,
    said: Said,
}

/// That the conversation is over; why stands among the troubles.
struct Over;

impl<'r> Conversation<'r> {
    pub(super) fn new(running: &'r mut dyn Process, patience: Duration) -> Self {
        let (stdin, stdout, stderr) = running.pipes();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let listener = stderr.map(|pipe| {
            let kept = kept.clone();
            std::thread::spawn(move || keep_end(pipe, &kept))
        });
        let lines = stdout.map(|pipe| {
            let (sender, lines) = sync_channel(64);
            std::thread::spawn(move || read_lines(pipe, &sender));
            lines
        });
        let limit = running.limit();
        Self {
            running,
            stdin,
            lines,
            stderr: kept,
            listener,
            limit,
            patience,
            started: Instant::now(),
            next: 1,
            received: 0,
            noise: Vec::new(),
            noises: 0,
            said: Said::default(),
        }
    }

    /// Says everything that a host says first, and calls a tool if one is named.
    pub(super) fn hold(&mut self, call: Option<&(String, Value)>) {
        // Why it was over is written down.
        let _ = self.talk(call);
    }

    fn talk(&mut self, call: Option<&(String, Value)>) -> Result<(), Over> {
        let client = json!({"name": "mcpfs-signer", "version": env!("CARGO_PKG_VERSION")});
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client});
        let answer = self.request("initialize", hello)?;
        self.said.initialized = Some(self.started.elapsed());
        let text = |value: &Value| value.as_str().map(bounded);
        self.said.protocol = text(&answer["protocolVersion"]);
        match (text(&answer["serverInfo"]["name"]), text(&answer["serverInfo"]["version"])) {
            (Some(name), version) => self.said.server = Some(format!("{name} {}", version.unwrap_or_default())),
            (None, _) => self.wrong("initialize", "it has no serverInfo.name"),
        }
        let can = answer["capabilities"].clone();
        if !can.is_object() {
            self.wrong("initialize", "it has no capabilities");
        }
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        if can["tools"].is_object() {
            self.tools()?;
        }
        if can["resources"].is_object() {
            self.said.resources = self.count("resources/list", "resources")?;
        }
        if can["prompts"].is_object() {
            self.said.prompts = self.count("prompts/list", "prompts")?;
        }
        if let Some((tool, arguments)) = call {
            let answer = self.request("tools/call", json!({"name": tool, "arguments": arguments}))?;
            let texts = answer["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
            self.said.called = Some(Called {
                tool: bounded(tool),
                failed: answer["isError"] == json!(true),
                answer: bounded(&texts.collect::<Vec<_>>().join("\n")),
            });
        }
        Ok(())
    }

    fn tools(&mut self) -> Result<(), Over> {
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES {
            let params = cursor.as_ref().map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
            let answer = self.request("tools/list", params)?;
            let Some(tools) = answer["tools"].as_array() else {
                self.wrong("tools/list", "it has no list of tools");
                return Ok(());
            };
            for one in tools {
                match tool(one) {
                    Some(tool) if self.said.tools.len() < TOOLS => self.said.tools.push(tool),
                    Some(_) => {
                        self.trouble(Trouble::Flood { what: format!("tools: more than {TOOLS}") });
                        return Ok(());
                    }
                    None => self.wrong("tools/list", "a tool has no name or no inputSchema"),
                }
            }
            match answer["nextCursor"].as_str() {
                Some(next) if !next.is_empty() => cursor = Some(next.chars().take(4096).collect()),
                _ => return Ok(()),
            }
        }
        self.trouble(Trouble::Flood { what: format!("pages of tools: more than {PAGES}") });
        Ok(())
    }

    fn count(&mut self, method: &str, list: &str) -> Result<Option<usize>, Over> {
        let answer = self.request(method, json!({}))?;
        let count = answer[list].as_array().map(Vec::len);
        if count.is_none() {
            self.wrong(method, &format!("it has no list of {list}"));
        }
        Ok(count)
    }

    fn wrong(&mut self, method: &str, problem: &str) {
        self.trouble(Trouble::Answer { method: method.to_owned(), problem: problem.to_owned() });
    }

    fn trouble(&mut self, trouble: Trouble) {
        if !self.said.troubles.contains(&trouble) && self.said.troubles.len() < 50 {
            self.said.troubles.push(trouble);
        }
    }

    /// Asks, and waits for the answer to it; an error of the server is over only for `initialize`.
    fn request(&mut self, method: &str, params: Value) -> Result<Value, Over> {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        let deadline = Instant::now() + self.patience;
        loop {
            let message = self.message(method, deadline)?;
            if message.get("method").is_some() {
                // The server's own requests: nothing here can be asked for, but it is told so.
                if let Some(id) = message.get("id").filter(|id| !id.is_null()) {
                    let answer = match message["method"].as_str() {
                        Some("ping") => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
                        _ => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "not offered"}}),
                    };
                    self.send(&answer)?;
                }
                continue;
            }
            if message["id"] != json!(id) {
                continue;
            }
            if let Some(error) = message.get("error") {
                let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
                self.trouble(Trouble::Refused { method: method.to_owned(), message: bounded(&said) });
                return if method == "initialize" { Err(Over) } else { Ok(Value::Null) };
            }
            return Ok(message["result"].clone());
        }
    }

    /// The next message; everything else that comes is noted.
    fn message(&mut self, method: &str, deadline: Instant) -> Result<Value, Over> {
        loop {
            if is_set(&self.limit) {
                return Err(Over);
            }
            let Some(lines) = &self.lines else { return Err(Over) };
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match lines.recv_timeout(left.min(Duration::from_millis(50))) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let seconds = self.patience.as_secs();
                    self.trouble(Trouble::Silent { method: method.to_owned(), seconds });
                    return Err(Over);
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.running.ends_within(Duration::from_secs(2));
                    let status = if ended { self.running.status().map(|status| status.to_string()) } else { None };
                    self.trouble(Trouble::Gone { method: method.to_owned(), ended: status });
                    return Err(Over);
                }
            };
            let flood = |what: &str| Trouble::Flood { what: what.to_owned() };
            let line = match line {
                Line::Whole(line) => line,
                Line::TooLong => {
                    self.trouble(flood(&format!("output: a line of more than {LINE} bytes")));
                    return Err(Over);
                }
                Line::TooMuch => {
                    self.trouble(flood(&format!("output: more than {OUTPUT} bytes")));
                    return Err(Over);
                }
            };
            self.received += 1;
            if self.received > LINES {
                self.trouble(flood(&format!("output: more than {LINES} lines")));
                return Err(Over);
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(message) if message["jsonrpc"] == json!("2.0") => return Ok(message),
                _ => {
                    let text = String::from_utf8_lossy(&line);
                    if !text.trim().is_empty() {
                        self.noises += 1;
                        if self.noise.len() < NOISE {
                            self.noise.push(bounded(text.trim()));
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<(), Over> {
        let Some(stdin) = &mut self.stdin else { return Err(Over) };
        // Small enough for a pipe that nobody reads. If the server is gone, the answer that does not come says so.
        let _ = writeln!(stdin, "{message}");
        Ok(())
    }

    /// Closes the server's input, as a host does, and sees whether it ends.
    pub(super) fn end(mut self) -> Said {
        drop(self.stdin.take());
        if !is_set(&self.limit) && !self.running.ends_within(LINGER) && !is_set(&self.limit) {
            self.trouble(Trouble::Lingers { seconds: LINGER.as_secs() });
        }
        drop(self.lines.take());
        // What it wrote at its end; a process that it left behind may hold the pipe open.
        let waited = Instant::now();
        while self.listener.as_ref().is_some_and(|listener| !listener.is_finished())
            && self.running.status().is_some()
            && waited.elapsed() < Duration::from_secs(1)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.noises > 0 {
            let (lines, count) = (std::mem::take(&mut self.noise), self.noises);
            self.said.troubles.insert(0, Trouble::Text { lines, count });
        }
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let text: Vec<String> = String::from_utf8_lossy(&stderr).lines().map(visible).collect();
        drop(stderr);
        self.said.stderr = text.join("\n");
        self.said
    }
}

fn read_lines(mut pipe: ChildStdout, sender: &SyncSender<Line>) {
    let (mut buffer, mut line, mut total) = (vec![0; 64 << 10], Vec::new(), 0);
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        total += read;
        let mut rest = &buffer[..read];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if sender.send(Line::Whole(std::mem::take(&mut line))).is_err() {
                return;
            }
        }
        line.extend_from_slice(rest);
        let too = if line.len() > LINE {
            Line::TooLong
        } else if total > OUTPUT {
            Line::TooMuch
        } else {
            continue;
        };
        // Nobody listens any more: as good.
        drop(sender.send(too));
        return;
    }
    if !line.is_empty() {
        drop(sender.send(Line::Whole(line)));
    }
}

/// Reads to the end, and keeps the last of it.
fn keep_end(mut pipe: ChildStderr, kept: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..read]);
                let surplus = kept.len().saturating_sub(STDERR);
                kept.drain(..surplus);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
