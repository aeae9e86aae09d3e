//! Running somebody else's program: a clean environment, a folder of its own, a time limit, and
//! as much of its output as is read.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mcpfs_trust::error::bounded;

/// Longest output that is read, bytes.
const OUTPUT_BYTES: u64 = 32 << 20;
/// Longest error output that is kept, bytes.
const ERROR_BYTES: u64 = 256 << 10;

/// Variables that a program gets: where programs and the operator's settings are, and how the
/// network is reached. Nothing else, so neither tokens of a pipeline nor `NODE_OPTIONS`.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_USERCONFIG",
    "NPM_CONFIG_GLOBALCONFIG",
];

/// What a program left.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// The last line of the error output, bounded and escaped.
    pub(super) complaint: String,
}

/// Runs `program` (which the Debian or PyPI package `package` brings) in `folder` to its end.
pub(super) fn run(
    program: &str,
    package: &str,
    args: &[&str],
    folder: &Path,
    limit: Duration,
) -> Result<Ended, String> {
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(kept)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} cannot be started ({error}): install {package}"))?;
    let (done, ended) = channel();
    reader(child.stdout.take(), OUTPUT_BYTES, 0, done.clone());
    reader(child.stderr.take(), ERROR_BYTES, 1, done);
    let until = Instant::now() + limit;
    // Both pipes close when it, and all that it started, have ended or closed them.
    let mut outputs = [None, None];
    while outputs.contains(&None) {
        match ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((which, bytes)) => outputs[which] = Some(bytes),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => break,
        }
    }
    let status = if outputs.contains(&None) { None } else { wait(&mut child, until) };
    if status.is_none() {
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _reaped = child.wait();
    }
    let [stdout, stderr] = outputs.map(Option::unwrap_or_default);
    let Some(status) = status else {
        return Err(format!("{program} did not end within {} seconds", limit.as_secs()));
    };
    if stdout.len() as u64 > OUTPUT_BYTES {
        return Err(format!("{program} wrote more than {OUTPUT_BYTES} bytes"));
    }
    let text = String::from_utf8_lossy(&stderr);
    let complaint = bounded(text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default());
    Ok(Ended { code: status.code(), stdout, complaint })
}

/// Reads a pipe to its end in a thread of its own, keeps what is within the bound, and sends it.
fn reader(pipe: Option<impl Read + Send + 'static>, limit: u64, which: usize, done: Sender<(usize, Vec<u8>)>) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before a pipe broke is judged by its reader.
            let _broken = pipe.by_ref().take(limit + 1).read_to_end(&mut bytes);
            let _rest = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        // Nobody waits any more if it was late.
        let _late = done.send((which, bytes));
    });
}

fn wait(child: &mut std::process::Child, until: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}
