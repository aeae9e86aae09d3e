//! A minimal MCP client over stdio.
//!
//! Real clients are tested in the suite `clients`; this one starts in a millisecond, sets
//! exactly the environment a test wants, and insists that every line the server writes is JSON.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{collect, exit_within};
use crate::scratch::PATIENCE;

/// A running server and the conversation with it.
#[derive(Debug)]
pub struct McpClient {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    next: u64,
    started: Instant,
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; 128 + signal if it was killed.
    pub code: i32,
    /// Its standard error.
    pub stderr: String,
}

impl McpClient {
    /// Starts `program` as MCP hosts do: no arguments, few variables. A server keeps its state in
    /// the home of the test's own user, below the host whose mount it is started from.
    pub fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", home_of(program));
        for name in ["USER", "LOGNAME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self::start_with(command)
    }

    /// Starts a command that the caller prepared.
    pub fn start_with(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().to_string_lossy()));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = Some(collect(child.stderr.take().expect("piped")));
        let stdin = child.stdin.take();
        Self { child, stdin, lines, stderr, next: 1, started }
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Since the process was started.
    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// The handshake; gives the server's answer.
    pub fn initialize(&mut self) -> Value {
        let client = json!({"name": "mcpfs-tests", "version": "1"});
        let answer = self
            .request("initialize", &json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}));
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        answer
    }

    /// The names of the server's tools, sorted.
    pub fn tools(&mut self) -> Vec<String> {
        let answer = self.request("tools/list", &json!({}));
        let tools = answer["tools"].as_array().unwrap_or_else(|| panic!("no tools in {answer}"));
        let mut names: Vec<String> = tools.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// Calls a tool; gives the text of its first content.
    pub fn call(&mut self, tool: &str, arguments: &Value) -> String {
        let answer = self.request("tools/call", &json!({"name": tool, "arguments": arguments}));
        let text = answer["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
    }

    /// A request and its result.
    pub fn request(&mut self, method: &str, params: &Value) -> Value {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("no answer to {method} within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.end();
                    panic!("the server ended with {} during {method}: {}", ended.code, ended.stderr)
                }
            };
            let message: Value = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("the server wrote something else than JSON: {line}"));
            // Notifications and the server's own requests are not what was asked for.
            if message["id"] == json!(id) && message.get("method").is_none() {
                assert!(message.get("error").is_none(), "{method} failed: {message}");
                return message["result"].clone();
            }
        }
    }

    /// Closes its standard input, as clients do, and waits until it ends.
    pub fn end(&mut self) -> Ended {
        self.stdin.take();
        let code = exit_within(&mut self.child, PATIENCE);
        if code.is_none() {
            self.child.kill().expect("own child");
            self.child.wait().expect("own child");
        }
        let stderr = self.stderr.take().map(|thread| thread.join().expect("reader")).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ended { code: code.unwrap_or_else(|| panic!("it does not end when its input closes: {stderr}")), stderr }
    }

    fn send(&mut self, message: &Value) {
        let stdin = self.stdin.as_mut().expect("the conversation is over");
        // If the server is gone, reading its answer says so, and why.
        drop(writeln!(stdin, "{message}"));
    }
}

/// The home of [`crate::host::Host::home`] if `program` lies in a host's mount; else nobody's.
fn home_of(program: &Path) -> PathBuf {
    let mount = program.ancestors().find(|above| above.file_name().is_some_and(|name| name == "mcp"));
    let host = mount.and_then(Path::parent).filter(|host| host.join("etc/mcpfs.toml").is_file());
    let Some(host) = host else { return PathBuf::from("/nonexistent") };
    let home = host.join("user");
    std::fs::create_dir_all(&home).expect("own directory");
    home
}

impl Drop for McpClient {
    fn drop(&mut self) {
        self.stdin.take();
        if exit_within(&mut self.child, Duration::from_secs(20)).is_none() {
            // Already ended is as good.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
