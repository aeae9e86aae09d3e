//! The launcher as the kernel starts it: the real binary under its other name, a `run` with
//! a first line, and a socket that answers what each test wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use mcpfs::control::protocol::{Launch, Refused, Request, answer_line};
use mcpfs_trust::error::Code;
use tempfile::TempDir;

const SHA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A run directory with the launcher, a `run`, a home, and a tree with a server in shell.
struct Host(TempDir);

impl Host {
    fn new(identity: &str) -> Self {
        // Short and outside any long build path: the first line of `run` has 255 bytes.
        let host = Self(tempfile::Builder::new().prefix("l").tempdir_in("/tmp").unwrap());
        symlink(env!("CARGO_BIN_EXE_mcpfs"), host.path("launch")).unwrap();
        let line = match identity.is_empty() {
            true => format!("#!{}\n", host.path("launch").display()),
            false => format!("#!{} {identity}\n", host.path("launch").display()),
        };
        host.script("run", &line);
        std::fs::create_dir_all(host.path("tree/bin")).unwrap();
        std::fs::create_dir(host.path("home")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Written by another process: while this one has a program open for writing, a child that
    /// another test's thread has just forked has it open too, and it cannot be started (`ETXTBSY`).
    fn script(&self, name: &str, text: &str) {
        let write = "cat >\"$1\" && chmod 555 \"$1\"";
        let mut child =
            Command::new("sh").args(["-euc", write, "sh"]).arg(self.path(name)).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn launch(&self) -> Launch {
        Launch {
            name: "hello".to_owned(),
            version: "1.0.0".to_owned(),
            command: self.path("tree/bin/server"),
            args: vec!["--tree=${TREE}".to_owned(), "${STATE}".to_owned()],
            env: [("DECLARED".to_owned(), "${HOME}/x".to_owned())].into(),
            tree: self.path("tree"),
            state: ["mcp.example.com+prod".to_owned(), "hello".to_owned()],
            sandbox: None,
            credentials: vec![],
            warning: None,
        }
    }

    /// Starts `run` while a daemon gives one answer (none: it says nothing and hangs up).
    /// Gives back what the daemon was asked.
    fn run(&self, args: &[&str], answer: Option<Vec<u8>>) -> (Request, Output) {
        let listener = UnixListener::bind(self.path("control.sock")).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
            if let Some(answer) = answer {
                stream.write_all(&answer).unwrap();
            }
            Request::from_line(&line).unwrap()
        });
        let output = self.alone(args);
        (daemon.join().unwrap(), output)
    }

    /// Starts `run` with nobody at the socket, or with whoever is there.
    fn alone(&self, args: &[&str]) -> Output {
        Command::new(self.path("run"))
            .args(args)
            .env_clear()
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .env("SECRET", "1")
            .env("NODE_OPTIONS", "--require /tmp/x")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(output.stdout.is_empty(), "stdout belongs to the server: {output:?}");
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
    assert!(line.starts_with("mcpfs: hello ") && line.ends_with('\n'), "{line}");
    line
}

fn identity() -> String {
    format!("hello@1.0.0#{SHA}")
}

#[test]
fn becomes_the_server() {
    let host = Host::new(&identity());
    // What the shell itself was given: it adds to what it passes on.
    host.script("tree/bin/server", "#!/bin/sh\nprintf '%s\\n' \"$@\"; pwd -P; ls /proc/$$/fd; cat /proc/$$/environ\n");
    let (request, output) = host.run(&["--mine", "${HOME}"], Some(answer_line(Ok(host.launch()))));
    assert_eq!(request, Request::Launch { identity: identity(), args: vec!["--mine".into(), "${HOME}".into()] });
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let root = host.0.path().display();
    let state = format!("{root}/home/.local/state/mcpfs/mcp.example.com+prod/hello");
    assert_eq!(lines.next(), Some(&*format!("--tree={root}/tree")));
    assert_eq!(lines.next(), Some(&*state));
    assert_eq!(lines.next(), Some("--mine"));
    assert_eq!(lines.next(), Some("${HOME}"), "a host's own arguments are not ours to expand");
    assert_eq!(lines.next(), Some(&*state), "the working directory");
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);

    let rest: Vec<&str> = lines.collect();
    let (descriptors, environment) = rest.split_at(rest.len() - 1);
    // The shell keeps its own script open at 10 (dash) or 255 (bash); everything else would be inherited.
    assert!(descriptors.iter().all(|fd| ["0", "1", "2", "10", "255"].contains(fd)), "{descriptors:?}");
    let mut variables: Vec<&str> = environment[0].split_terminator('\0').collect();
    variables.sort_unstable();
    assert_eq!(
        variables,
        [
            &*format!("DECLARED={root}/home/x"),
            &*format!("HOME={root}/home"),
            "LC_ALL=C.UTF-8",
            "PATH=/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE=1",
            "PYTHONNOUSERSITE=1",
            "PYTHONSAFEPATH=1",
        ]
    );
}

#[test]
fn inherited_files_stay_behind() {
    let host = Host::new(&identity());
    host.script("tree/bin/server", "#!/bin/sh\nif { true >&7; } 2>/dev/null; then echo open; else echo closed; fi\n");
    host.script("host", &format!("#!/bin/sh\nexec 7>/dev/null\nexec {} \"$@\"\n", host.path("run").display()));
    let listener = UnixListener::bind(host.path("control.sock")).unwrap();
    let answer = answer_line(Ok(host.launch()));
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&answer).unwrap();
        BufReader::new(&stream).read_until(b'\n', &mut Vec::new()).unwrap();
    });
    let output = Command::new(host.path("host")).env("HOME", host.path("home")).output().unwrap();
    daemon.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "closed\n", "{output:?}");
}

#[test]
fn a_warning_does_not_stop_it() {
    let host = Host::new(&identity());
    host.script("tree/bin/server", "#!/bin/sh\nexit 5\n");
    let launch = Launch { warning: Some("the registry was last seen 28 days ago".to_owned()), ..host.launch() };
    let (_, output) = host.run(&[], Some(answer_line(Ok(launch))));
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "mcpfs: hello 1.0.0: the registry was last seen 28 days ago\n");
}

#[test]
fn refusals_are_one_line() {
    let host = Host::new(&identity());
    let no = Refused::new(Code::Revoked, "CVE-2026-1234\nby security", "current is 1.2.1: restart your MCP host");
    let (_, output) = host.run(&[], Some(answer_line::<Launch>(Err(no))));
    assert_eq!(
        refused(&output),
        "mcpfs: hello 1.0.0 refused: Revoked (CVE-2026-1234\\nby security). Current is 1.2.1: restart your MCP host. \
         Details: mcpfs explain hello@1.0.0\n"
    );
}

#[test]
fn a_refused_name_asks_for_the_reason() {
    let host = Host::new("hello@!");
    let no = Refused::new(Code::KeyNotAuthorised, "key ab may not sign this", "tell your security team");
    let (request, output) = host.run(&[], Some(answer_line::<Launch>(Err(no))));
    assert_eq!(request, Request::Launch { identity: "hello@!".to_owned(), args: vec![] });
    assert_eq!(
        refused(&output),
        "mcpfs: hello refused: KeyNotAuthorised (key ab may not sign this). Tell your security team. \
         Details: mcpfs explain hello\n"
    );
}

#[test]
fn no_daemon_and_bad_daemons() {
    let host = Host::new(&identity());
    let line = refused(&host.alone(&[]));
    assert!(line.contains("no mcpfs daemon answers at") && line.contains("mcpfs mount"), "{line}");
    for answer in [None, Some(b"<html>\n".to_vec()), Some(b"{\"v\":1}\n".to_vec()), Some(b"{\"v\":1,\"ok\"".to_vec())] {
        let _ = std::fs::remove_file(host.path("control.sock"));
        let (_, output) = host.run(&[], answer);
        refused(&output);
    }
}

#[test]
fn what_cannot_start_says_so() {
    let host = Host::new(&identity());
    let (_, output) = host.run(&[], Some(answer_line(Ok(host.launch()))));
    let line = refused(&output);
    assert!(line.contains("tree/bin/server: No such file") && line.contains("lacks"), "{line}");
}

#[test]
fn what_cannot_start_is_reported() {
    let host = Host::new(&identity());
    let listener = UnixListener::bind(host.path("control.sock")).unwrap();
    let answers = [answer_line(Ok(host.launch())), answer_line(Ok(()))];
    let daemon = std::thread::spawn(move || {
        answers.map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
            stream.write_all(&answer).unwrap();
            Request::from_line(&line).unwrap()
        })
    });
    refused(&host.alone(&[]));
    let [_, report] = daemon.join().unwrap();
    let Request::Unstarted { reason } = report else { panic!("{report:?}") };
    assert!(reason.contains("tree/bin/server: No such file"), "{reason}");
}

#[test]
fn a_planted_state_directory_is_refused() {
    let host = Host::new(&identity());
    host.script("tree/bin/server", "#!/bin/sh\necho started\n");
    std::fs::create_dir_all(host.path("home/.local/state")).unwrap();
    symlink("/tmp", host.path("home/.local/state/mcpfs")).unwrap();
    let (_, output) = host.run(&[], Some(answer_line(Ok(host.launch()))));
    assert!(refused(&output).contains("symbolic link"));
}

#[test]
fn by_hand() {
    for identity in ["", "hello", "hello@1.0.0", "--help"] {
        let output = Host::new(identity).alone(&[]);
        assert_eq!(output.status.code(), Some(2), "{identity}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("/mcp/<name>/run"), "{output:?}");
    }
}
