#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::advice;
use super::events::{Misread, Outcome, Reader};
use super::observe::{Observed, View, Watch, Write};
use super::{Trial, Trouble};

/// A text as the tracer writes it.
fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

fn view() -> View {
    View {
        tree: "/mcp/x/1.0.0/tree".to_owned(),
        state: "/home/mcp/.local/state/mcpfs/x".to_owned(),
        home: "/home/mcp".to_owned(),
        cwd: "/home/mcp/.local/state/mcpfs/x".to_owned(),
        runtime: vec!["/opt/node".to_owned()],
        command: "/usr/bin/node".to_owned(),
        credentials: None,
    }
}

/// What is observed of lines that follow the start of the server.
fn observed(lines: &[String]) -> Observed {
    let (mut reader, mut watch, view) = (Reader::default(), Watch::default(), view());
    let start = [
        format!("10 execve(\"{}\", [\"{}\"], 0x7ffc /* 3 vars */) = 0", hex("/usr/bin/bwrap"), hex("bwrap")),
        format!("11 openat(AT_FDCWD<{}>, \"{}\", O_WRONLY|O_CREAT, 0666) = 3", hex("/"), hex("/newroot/x")),
        format!("12 execve(\"{}\", [\"{}\"], 0x7ffc /* 3 vars */) = 0", hex("/usr/bin/node"), hex("node")),
    ];
    for line in start.iter().chain(lines) {
        if let Some(call) = reader.line(line.as_bytes()).unwrap() {
            watch.take(&call, &view);
        }
    }
    assert!(watch.started);
    watch.finish(&view)
}

fn open(path: &str, flags: &str, result: &str) -> String {
    format!("12 openat(AT_FDCWD<{}>, \"{}\", {flags}) = {result}", hex(&view().state), hex(path))
}

#[test]
fn lines_of_the_tracer() {
    let mut reader = Reader::default();
    let whole = format!(
        "7     openat(AT_FDCWD<{}>, \"{}\", O_RDONLY|O_CLOEXEC) = 3<{}>",
        hex("/"),
        hex("a, \"b) = 1"),
        hex("/a")
    );
    let call = reader.line(whole.as_bytes()).unwrap().unwrap();
    assert_eq!((call.pid, call.name.as_str(), call.args.len()), (7, "openat", 3));
    assert_eq!(call.result, Outcome::Done(Some(b"/a".to_vec())));
    // Two tasks at once.
    let begun = format!("8 mkdir(\"{}\", 0777 <unfinished ...>", hex("/d"));
    assert_eq!(reader.line(begun.as_bytes()), Ok(None));
    assert_eq!(reader.line(b"9 +++ exited with 0 +++"), Ok(None));
    let call = reader.line(b"8 <... mkdir resumed>)          = -1 EROFS (Read-only file system)").unwrap().unwrap();
    assert_eq!((call.name.as_str(), call.args.len()), ("mkdir", 2));
    assert_eq!(call.result, Outcome::Failed("EROFS".to_owned()));
    assert_eq!(reader.line(b"9 connect(4, NULL, 0) = ?").unwrap().unwrap().result, Outcome::Unknown);
    for bad in [
        &b"hello"[..],
        b"x openat() = 0",
        b"8 <... openat resumed>) = 0",
        b"8 open(\"\\x41\"",
        b"8 open(\"\\x41) = 0",
        b"8 open(]) = 0",
        b"8 Open() = 0",
        b"8 open() = nothing",
        b"\xff\xfe",
        b"",
    ] {
        assert!(matches!(Reader::default().line(bad), Err(Misread(_))), "{}", String::from_utf8_lossy(bad));
    }
}

proptest::proptest! {
    #[test]
    fn no_line_panics(line in "[0-9]{1,3} [a-z_]{0,8}[\\PC]{0,60}", rest in "\\PC{0,80}") {
        let mut reader = Reader::default();
        let (mut watch, view) = (Watch::default(), view());
        watch.started = true;
        for line in [line, rest] {
            if let Ok(Some(call)) = reader.line(line.as_bytes()) {
                watch.take(&call, &view);
            }
        }
        watch.finish(&view);
    }
}

#[test]
fn files() {
    let tree = "/mcp/x/1.0.0/tree";
    let found = observed(&[
        open(&format!("{tree}/b.js"), "O_RDONLY", &format!("3<{}>", hex(&format!("{tree}/b.js")))),
        open(&format!("{tree}/a.js"), "O_RDONLY", &format!("3<{}>", hex(&format!("{tree}/a.js")))),
        // Again, by a link, a folder, and what every runtime looks for.
        open(&format!("{tree}/l.js"), "O_RDONLY", &format!("3<{}>", hex(&format!("{tree}/b.js")))),
        open(tree, "O_RDONLY|O_DIRECTORY", &format!("3<{}>", hex(tree))),
        open("/mcp/x/package.json", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        open("/package.json", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        open("/usr/lib/x.so", "O_RDONLY", "3"),
        open("/opt/node/lib/y", "O_RDONLY", "3"),
        open("/opt/nodes", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        open("/home/mcp/.ssh/id_ed25519", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        open("/etc/shadow", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        // Where it may write, by whatever way.
        open("memory.db", "O_RDWR|O_CREAT", "3"),
        open("/tmp/x", "O_WRONLY|O_CREAT", "3"),
        open("/dev/null", "O_WRONLY", "3"),
        open(&format!("{tree}/../../1.0.0/tree/x.log"), "O_WRONLY|O_CREAT", "-1 EROFS (Read-only file system)"),
        format!("12 mkdir(\"{}\", 0777) = -1 EEXIST (File exists)", hex("/home/mcp")),
        format!("12 mkdir(\"{}\", 0777) = -1 EROFS (Read-only file system)", hex("/home/mcp/.cache")),
        format!("12 unlink(\"{}\") = -1 ENOENT (No such file or directory)", hex("/var/old")),
        format!(
            "12 renameat2(AT_FDCWD<{}>, \"{}\", 3<{}>, \"{}\", 0) = -1 EXDEV (x)",
            hex("/tmp"),
            hex("x"),
            hex("/srv"),
            hex("y")
        ),
        "12 io_uring_setup(64, 0x7ffe) = 5".to_owned(),
    ]);
    assert_eq!(found.opened, ["b.js", "a.js"]);
    assert_eq!(found.opened_count, 2);
    assert_eq!(found.reads, ["${HOME}/.ssh/id_ed25519", "/etc/shadow", "/opt/nodes"]);
    let writes: Vec<(&str, &str)> =
        found.writes.iter().map(|write| (write.path.as_str(), write.outcome.as_str())).collect();
    assert_eq!(writes, [("${HOME}/.cache", "EROFS"), ("${TREE}/x.log", "EROFS"), ("/srv/y", "EXDEV")]);
    assert_eq!(found.unseen.len(), 1);
}

#[test]
fn the_network() {
    let connect = |address: &str| format!("12 connect(4<\\x73>, {{{address}}}, 16) = -1 ENETUNREACH (x)");
    let v4 = |host: &str, port: u16| {
        connect(&format!("sa_family=AF_INET, sin_port=htons({port}), sin_addr=inet_addr(\"{}\")", hex(host)))
    };
    let query =
        "\u{0}\u{0}\u{1}\u{0}\u{0}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{3}api\u{7}example\u{0}\u{0}\u{1}\u{0}\u{1}";
    let found = observed(&[
        v4("1.2.3.4", 443),
        v4("127.0.0.1", 53),
        connect(&format!(
            "sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, \"{}\", &sin6_addr)",
            hex("2001:db8::1")
        )),
        connect(&format!("sa_family=AF_UNIX, sun_path=\"{}\"", hex("/var/run/nscd/socket"))),
        connect(&format!("sa_family=AF_UNIX, sun_path=\"{}\"", hex("/run/docker.sock"))),
        format!("12 sendto(4<\\x73>, \"{}\", 30, MSG_NOSIGNAL, NULL, 0) = 30", hex(query)),
        format!("12 sendto(4<\\x73>, \"{}\", 5, 0, NULL, 0) = 5", hex("hello")),
    ]);
    assert_eq!(found.network, ["1.2.3.4:443", "[2001:db8::1]:80", "name api.example", "socket /run/docker.sock"]);
}

#[test]
fn programs() {
    let exec = |path: &str, result: &str| {
        format!("12 execve(\"{}\", [\"{}\", \"{}\"], 0x7f /* 3 vars */) = {result}", hex(path), hex("git"), hex("log"))
    };
    let missing = "-1 ENOENT (No such file or directory)";
    let found = observed(&[
        exec("/usr/local/bin/git", missing),
        exec("/usr/bin/git", "0"),
        exec("/usr/bin/hg", missing),
        exec("/bin/hg", missing),
        exec("/usr/bin/node", "0"),
    ]);
    let programs: Vec<(&str, &str, bool)> =
        found.programs.iter().map(|it| (it.path.as_str(), it.arguments.as_str(), it.began)).collect();
    // A search along PATH is one program, and the server's own runtime none.
    assert_eq!(programs, [("/bin/hg", "git log", false), ("/usr/bin/git", "git log", true)]);
}

#[test]
fn the_fix_names_the_variable() {
    let tree = tempfile::tempdir().unwrap();
    let text = "import path from 'path';\nconst file = process.env.MEMORY_FILE_PATH || path.join(dir, 'memory.jsonl');\n\
                const level = process.env.LOG_LEVEL;\nconst old = 'memory.json';\n";
    std::fs::write(tree.path().join("index.js"), text).unwrap();
    std::fs::write(tree.path().join("lib.py"), "p = os.environ.get(\"NOTES_DIR\", 'notes.db')\n").unwrap();
    let write = |path: &str| Write { path: path.to_owned(), by: "openat".to_owned(), outcome: "EROFS".to_owned() };
    let fixes = |path: &str| {
        let opened = vec!["index.js".to_owned(), "lib.py".to_owned(), "gone.js".to_owned()];
        let observed = Observed { opened, writes: vec![write(path)], ..Observed::default() };
        advice::writes(&observed, tree.path()).remove(path).unwrap()
    };
    for name in ["memory.jsonl", "memory.jsonl.a1b2c3.tmp"] {
        assert!(
            fixes(&format!("${{TREE}}/{name}"))
                .starts_with("under launch.env set MEMORY_FILE_PATH: \"${STATE}/memory.jsonl\""),
            "{name}"
        );
    }
    assert!(fixes("${TREE}/notes.db").contains("NOTES_DIR: \"${STATE}/notes.db\""));
    assert!(fixes("${HOME}/.config").contains("HOME: \"${STATE}\""));
    assert!(fixes("/var/x").contains("${STATE}/x"));
}

#[test]
fn the_fix_names_the_argument() {
    let trial = |text: &str, stderr: &str| {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let troubles = if lines.is_empty() { vec![] } else { vec![Trouble::Text { count: lines.len(), lines }] };
        Trial { troubles, stderr: stderr.to_owned(), ..Trial::default() }
    };
    let args = ["${TREE}/a.js".to_owned()];
    let advise = |text: &str, stderr: &str| advice::arguments(&trial(text, stderr), &args).unwrap_or_default();
    assert_eq!(
        advise("Available transports:\n- stdio\n- sse", ""),
        "pass the argument stdio: under launch, args: [\"${TREE}/a.js\", stdio]"
    );
    let usage = "Usage: mcp-server-filesystem [allowed-directory] [additional-directories...]\nServer running on stdio";
    let usage = advise("", usage);
    assert!(
        usage.starts_with(
            "it needs the argument allowed-directory: under launch, args: [\"${TREE}/a.js\", \"${STATE}\"]"
        ),
        "{usage}"
    );
    assert_eq!(advise("", "usage: x [--verbose] [options]"), "");
    assert_eq!(advise("hello", "running on stdio"), "");
    assert_eq!(advice::arguments(&trial("Available transports: stdio", ""), &["stdio".to_owned()]), None);
}

#[test]
fn an_image_is_the_root() {
    let view = View {
        tree: String::new(),
        state: "/home/mcp/.local/state/mcpfs/x".to_owned(),
        home: "/home/mcp/.local/state/mcpfs/x".to_owned(),
        cwd: "/app".to_owned(),
        runtime: Vec::new(),
        command: "/usr/bin/node".to_owned(),
        credentials: None,
    };
    let (mut reader, mut watch) = (Reader::default(), Watch::default());
    let open = |path: &str, flags: &str, result: &str| format!("12 open(\"{}\", {flags}) = {result}", hex(path));
    let lines = [
        format!("12 execve(\"{}\", [\"{}\"], 0x7ffc /* 3 vars */) = 0", hex("/usr/bin/node"), hex("node")),
        open("/lib/libc.so.6", "O_RDONLY", &format!("3<{}>", hex("/usr/lib/libc.so.6"))),
        open("server.js", "O_RDONLY", &format!("3<{}>", hex("/app/server.js"))),
        // What the sandbox brings, and what the image does not have.
        open("/proc/cpuinfo", "O_RDONLY", &format!("3<{}>", hex("/proc/cpuinfo"))),
        open("/etc/resolv.conf", "O_RDONLY", &format!("3<{}>", hex("/etc/resolv.conf"))),
        open("/root/.ssh/id", "O_RDONLY", "-1 ENOENT (No such file or directory)"),
        open("cache", "O_WRONLY|O_CREAT", "-1 EROFS (Read-only file system)"),
        open(&format!("{}/kept", view.state), "O_WRONLY|O_CREAT", "3"),
        open("/tmp/x", "O_WRONLY|O_CREAT", "3"),
    ];
    for line in &lines {
        if let Some(call) = reader.line(line.as_bytes()).unwrap() {
            watch.take(&call, &view);
        }
    }
    let seen = watch.finish(&view);
    assert_eq!(seen.opened, ["usr/lib/libc.so.6", "app/server.js"]);
    assert_eq!(seen.reads, Vec::<String>::new());
    let writes: Vec<&str> = seen.writes.iter().map(|write| write.path.as_str()).collect();
    assert_eq!(writes, ["${TREE}/app/cache"]);
    assert_eq!(view.shown(&view.state), "${STATE}");
}
