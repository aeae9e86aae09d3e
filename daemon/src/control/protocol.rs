//! The messages of the control socket, and their lines.
//!
//! A request is `{"v":1,"op":…}`, an answer `{"v":1,"ok":…}` or `{"v":1,"error":…}`. Fields
//! are added, never changed in meaning; a new meaning is a new `v`. Requests are strict
//! (an unknown field is an error: nobody believes an option was honoured that was not);
//! answers are read leniently, so that a newer daemon can say more to an older client.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mcpfs_trust::error::{Code, bounded};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::audit::Act;
use crate::refusal::Exit;

/// The protocol's version.
pub const VERSION: u64 = 1;
/// The longest request with its newline, bytes: a host's own arguments fit.
pub const REQUEST_BYTES: usize = 64 << 10;
/// The longest answer, bytes: a page of [`PAGE`] servers with the longest texts.
pub const ANSWER_BYTES: usize = 1 << 20;
/// Deeds in one `record`, which is within [`REQUEST_BYTES`] then.
pub const ACTS: usize = 50;
/// Descriptors with one answer.
pub const DESCRIPTORS: usize = mcpfs_trust::limits::CREDENTIALS;
/// Servers in one answer to `list`.
pub const PAGE: usize = 100;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How to start one release; commits the launch row first.
    Launch {
        /// From the first line of `run`.
        identity: String,
        /// What the host added behind `run`.
        #[serde(default)]
        args: Vec<String>,
    },
    /// The launched process that says it could not become its server, and ends.
    Unstarted {
        /// What stopped it, for the audit: this user's word.
        reason: String,
    },
    /// The state of the mount.
    Status {},
    /// Up to [`PAGE`] servers, in name order.
    List {
        /// Refused ones too.
        #[serde(default)]
        all: bool,
        /// Only names behind this one.
        #[serde(default)]
        after: Option<String>,
    },
    /// Why a name, path or process is or is not what it is.
    Explain {
        /// What is meant.
        target: Target,
    },
    /// Ask the registry now.
    Refresh {},
    /// Read the configuration again (after pins changed).
    Reload {},
    /// Record what a command of the administrator who asks did by itself; up to [`ACTS`].
    Record {
        /// In the order in which they were done.
        acts: Vec<Act>,
    },
}

impl Request {
    /// Longest that a caller waits for the daemon's word: an MCP host gives a launch some seconds,
    /// but who asks for a look at the site means one that ends, within all the deadlines of a slow one.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Refresh {} | Self::Reload {} => Duration::from_secs(60),
            _ => Duration::from_secs(10),
        }
    }
}

/// What `explain` is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A server, or one version of it as `name@version`.
    Name(String),
    /// An absolute path in the mount.
    Path(PathBuf),
    /// A process.
    Pid(u32),
}

/// How to start a release. `${TREE}`, `${STATE}` and `${HOME}` are left to the launcher,
/// which knows the user's directories and replaces all three in one pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The release, for messages.
    pub name: String,
    /// The release, for messages.
    pub version: String,
    /// The absolute path to execute.
    pub command: PathBuf,
    /// The release's own arguments; the host's come behind them, never expanded.
    pub args: Vec<String>,
    /// Declared variables.
    pub env: BTreeMap<String, String>,
    /// What `${TREE}` stands for.
    pub tree: PathBuf,
    /// The state directory below the user's: two file names.
    pub state: [String; 2],
    /// What it is confined to; without it, it runs unconfined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Confinement>,
    /// What of the descriptors that come with this goes where.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Given>,
    /// One line to show although it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A credential of a launch. Its value is in the memory that a descriptor stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// What the release calls it.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The variable that it becomes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// or the name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which of the descriptors, from 0.
    pub descriptor: usize,
}

/// The walls around a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// bubblewrap.
    pub program: PathBuf,
    /// Whether the release's tree is its root, and `command` a path or a name in there.
    pub image: bool,
    /// Where it starts in an image; `/` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Whether it sees the host's network.
    pub network: bool,
    /// Host paths that it may read, with places in them.
    pub read: Vec<String>,
    /// Host paths that it may write, with places in them.
    pub write: Vec<String>,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code} ({message})")]
pub struct Refused {
    /// An outcome code of docs/format.md, or one of [`Fault`].
    pub code: String,
    /// What happened, one line.
    pub message: String,
    /// What to do next, one sentence without a full stop.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// What can be wrong with a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not this protocol.
    BadRequest,
    /// Another version of it.
    UnknownVersion,
    /// The caller may not do this.
    NotPermitted,
    /// Too many connections of this user; try again.
    Busy,
    /// There is no such thing.
    NotFound,
    /// The `run` that was started is older than what this host knows now.
    Outdated,
    /// The daemon's own failure.
    Internal,
}

impl Refused {
    /// An outcome code with its words; control characters are escaped, lengths bounded.
    pub fn new(code: Code, message: &str, advice: impl Into<String>) -> Self {
        Self { code: code.to_string(), message: bounded(message.trim_end_matches('.')), advice: advice.into() }
    }

    /// A fault of the request itself.
    pub fn fault(fault: Fault, message: &str, advice: impl Into<String>) -> Self {
        Self { code: format!("{fault:?}"), message: bounded(message), advice: advice.into() }
    }

    /// Whether it is this fault.
    pub fn is(&self, fault: Fault) -> bool {
        self.code == format!("{fault:?}")
    }

    /// The outcome code, if it is one.
    pub fn outcome(&self) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.to_string() == self.code)
    }

    /// The exit code of a command that met this: 1 refused, 2 usage, 3 unreachable, 4 integrity.
    pub fn exit_code(&self) -> u8 {
        match self.outcome() {
            Some(code) => Exit::of(code) as u8,
            None if self.is(Fault::BadRequest) || self.is(Fault::UnknownVersion) => 2,
            None => 1,
        }
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u64,
    #[serde(flatten)]
    request: &'a T,
}

#[derive(Serialize, Deserialize)]
struct Answer<T> {
    v: u64,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    ok: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Refused>,
}

fn none<T>() -> Option<T> {
    None
}

impl Request {
    /// The request as one line with its newline.
    ///
    /// # Errors
    /// `BadRequest` if it is longer than [`REQUEST_BYTES`].
    pub fn to_line(&self) -> Result<Vec<u8>, Refused> {
        let line = to_line(&Versioned { v: VERSION, request: self });
        match line.len() > REQUEST_BYTES {
            true => Err(Refused::fault(
                Fault::BadRequest,
                &format!("the request has {} bytes, at most {REQUEST_BYTES} are allowed", line.len()),
                "use fewer or shorter arguments",
            )),
            false => Ok(line),
        }
    }

    /// Reads a request line.
    ///
    /// # Errors
    /// `UnknownVersion` before anything else is looked at, else `BadRequest`.
    pub fn from_line(line: &[u8]) -> Result<Self, Refused> {
        let bad = |message: String| Refused::fault(Fault::BadRequest, &message, "");
        // Bounded, without duplicate keys and not deep before any type is given to it.
        let mut value: serde_json::Value =
            mcpfs_trust::json::value(line, REQUEST_BYTES as u64, "request").map_err(|error| bad(error.to_string()))?;
        let Some(fields) = value.as_object_mut() else { return Err(bad("request: not a JSON object".to_owned())) };
        match fields.remove("v").and_then(|v| v.as_u64()) {
            Some(VERSION) => serde_json::from_value(value).map_err(|error| bad(format!("request: {error}"))),
            Some(other) => Err(Refused::fault(
                Fault::UnknownVersion,
                &format!("protocol version {other} was asked, this daemon speaks {VERSION}"),
                "use the mcpfs program of the running daemon",
            )),
            None => Err(bad("request: the version \"v\" is missing or not a number".to_owned())),
        }
    }
}

/// An answer as one line with its newline.
pub fn answer_line<T: Serialize>(answer: Result<T, Refused>) -> Vec<u8> {
    let answer = match answer {
        Ok(ok) => Answer { v: VERSION, ok: Some(ok), error: None },
        Err(error) => Answer { v: VERSION, ok: None, error: Some(error) },
    };
    to_line(&answer)
}

/// Reads an answer line.
///
/// # Errors
/// What the daemon refused, or `BadRequest` if the line is no answer of this protocol.
pub fn parse_answer<T: DeserializeOwned>(line: &[u8]) -> Result<T, Refused> {
    let bad = |message: &str| Refused::fault(Fault::BadRequest, message, "is daemon and program of one version?");
    let value = mcpfs_trust::json::value(line, ANSWER_BYTES as u64, "answer of the daemon")
        .map_err(|error| bad(&error.to_string()))?;
    // A newer daemon's answer may have more fields than this program knows.
    let answer: Answer<T> =
        serde_json::from_value(value).map_err(|error| bad(&format!("answer of the daemon: {error}")))?;
    match answer {
        Answer { error: Some(error), .. } => Err(error),
        Answer { ok: Some(ok), v: VERSION, .. } => Ok(ok),
        Answer { v, .. } => Err(bad(&format!("answer of the daemon: neither ok nor error (version {v})"))),
    }
}

fn to_line<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own messages have string keys and no failing serialisers; an empty line is an error to any reader.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn requests_round_trip() {
        for request in [
            Request::Launch { identity: "a@1#00".to_owned(), args: vec!["--x=\n\u{1}\"".to_owned()] },
            Request::Launch { identity: "a@!".to_owned(), args: vec![] },
            Request::Unstarted { reason: "No such file".to_owned() },
            Request::Status {},
            Request::List { all: true, after: Some("b".to_owned()) },
            Request::Explain { target: Target::Name("a@1.0".to_owned()) },
            Request::Explain { target: Target::Path("/mcp/a/run".into()) },
            Request::Explain { target: Target::Pid(7) },
            Request::Refresh {},
            Request::Reload {},
        ] {
            let line = request.to_line().unwrap();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "one line");
            assert_eq!(Request::from_line(&line), Ok(request));
        }
    }

    #[test]
    fn hostile_requests_get_a_reason() {
        let deep = format!("{{\"v\":1,\"op\":\"status\",\"x\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        let long = format!("{{\"v\":1,\"op\":\"launch\",\"identity\":\"{}\"}}", "a".repeat(REQUEST_BYTES));
        for (line, fault, part) in [
            ("", Fault::BadRequest, "request"),
            ("[]", Fault::BadRequest, "not a JSON object"),
            ("{}", Fault::BadRequest, "\"v\" is missing"),
            ("{\"v\":\"1\",\"op\":\"status\"}", Fault::BadRequest, "not a number"),
            ("{\"v\":2,\"op\":\"status\"}", Fault::UnknownVersion, "version 2"),
            ("{\"v\":2,\"v\":1,\"op\":\"status\"}", Fault::BadRequest, "request"),
            ("{\"v\":1}", Fault::BadRequest, "op"),
            ("{\"v\":1,\"op\":\"reboot\"}", Fault::BadRequest, "reboot"),
            ("{\"v\":1,\"op\":\"status\",\"force\":true}", Fault::BadRequest, "force"),
            ("{\"v\":1,\"op\":\"launch\"}", Fault::BadRequest, "identity"),
            ("{\"v\":1,\"op\":\"launch\",\"identity\":\"a@1\",\"args\":[1]}", Fault::BadRequest, "string"),
            ("{\"v\":1,\"op\":\"explain\",\"target\":{\"pid\":-1}}", Fault::BadRequest, "-1"),
            ("{\"v\":1,\"op\":\"status\"} {}", Fault::BadRequest, "request"),
            ("{\"v\":1,\"op\":\"status\"", Fault::BadRequest, "request"),
            (&deep, Fault::BadRequest, "request"),
            (&long, Fault::BadRequest, "larger"),
        ] {
            let refused = Request::from_line(line.as_bytes()).expect_err(line);
            assert!(refused.is(fault), "{refused:?}");
            assert!(refused.message.contains(part), "{refused:?} says nothing about {part}");
        }
    }

    #[test]
    fn long_requests_are_not_sent() {
        let request = Request::Launch { identity: "a@1#0".to_owned(), args: vec!["x".repeat(REQUEST_BYTES)] };
        assert!(request.to_line().is_err_and(|refused| refused.is(Fault::BadRequest)));
    }

    #[test]
    fn answers_round_trip() {
        let ok = answer_line(Ok("fine"));
        assert_eq!(parse_answer::<String>(&ok), Ok("fine".to_owned()));
        let refused = Refused::new(Code::Revoked, "CVE\n1", "Ask");
        assert_eq!(refused.message, "CVE\\n1");
        assert_eq!(parse_answer::<String>(&answer_line::<String>(Err(refused.clone()))), Err(refused));
        for bad in ["{}", "{\"v\":1}", "{\"v\":9,\"ok\":\"x\"}", "<html>", "{\"v\":1,\"ok\":1}"] {
            assert!(parse_answer::<String>(bad.as_bytes()).is_err(), "{bad}");
        }
        // A newer daemon may say more.
        assert_eq!(parse_answer::<String>(b"{\"v\":1,\"ok\":\"x\",\"more\":[]}"), Ok("x".to_owned()));
    }

    #[test]
    fn exit_codes() {
        let of = |code| Refused::new(code, "", "").exit_code();
        assert_eq!(of(Code::Revoked), 1);
        assert_eq!(of(Code::Unreachable), 3);
        assert_eq!(of(Code::SignatureInvalid), 4);
        assert_eq!(of(Code::DigestMismatch), 4);
        assert_eq!(Refused::fault(Fault::BadRequest, "", "").exit_code(), 2);
        assert_eq!(Refused::fault(Fault::NotPermitted, "", "").exit_code(), 1);
    }
}
