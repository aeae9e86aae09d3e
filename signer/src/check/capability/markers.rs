//! What shows a capability, for each language. docs/patterns.md has the same table.

use super::Capability::{self, Environment, Eval, Exec, Native, Network, Write};

/// How a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Language {
    /// JavaScript and TypeScript.
    JavaScript,
    /// Python.
    Python,
    /// Shells.
    Shell,
    /// Compiled Python.
    Bytecode,
    /// ELF.
    Machine,
    /// Nothing that runs.
    None,
}

impl Language {
    /// By the file's name; `None` if only its content can tell.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        // Declarations of types: nothing runs.
        if [".d.ts", ".d.mts", ".d.cts"].iter().any(|end| name.ends_with(end)) {
            return Some(Self::None);
        }
        Some(match name.rsplit_once('.')?.1 {
            "js" | "mjs" | "cjs" | "jsx" | "ts" | "mts" | "cts" | "tsx" => Self::JavaScript,
            "py" | "pyw" | "pth" => Self::Python,
            "sh" | "bash" | "zsh" | "dash" | "ksh" => Self::Shell,
            "pyc" => Self::Bytecode,
            "json" | "md" | "map" | "txt" | "html" | "css" | "svg" | "png" | "pyi" | "yml" | "yaml" | "toml" => {
                Self::None
            }
            _ => return None,
        })
    }

    /// By the first bytes.
    pub(super) fn of_begin(begin: &[u8]) -> Self {
        if begin.starts_with(b"\x7fELF") {
            return Self::Machine;
        }
        if !begin.starts_with(b"#!") {
            return Self::None;
        }
        let line = begin.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let runs = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if runs(&["node", "deno", "bun", "tsx"]) {
            Self::JavaScript
        } else if runs(&["python", "pypy"]) {
            Self::Python
        } else if line.split(['/', ' ']).any(|word| word.ends_with("sh")) {
            Self::Shell
        } else {
            Self::None
        }
    }
}

/// What must stand around a text for it to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// No word character beside it.
    Word,
    /// A function of that name is called; a method of that name does not count.
    Call,
    /// A function or method of that name is called.
    Method,
    /// A module in quotes behind `from`, `import` or `require(`, or written `node:…`.
    Module,
    /// A word of Python's `import …` or `from …`.
    Import,
    /// `open(` with a mode that writes.
    OpenForWriting,
    /// Just so.
    Text,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Marker {
    pub(super) language: Language,
    pub(super) capability: Capability,
    pub(super) shape: Shape,
    pub(super) text: &'static str,
}

macro_rules! markers {
    ($($language:ident $capability:ident $shape:ident: $($text:literal)*;)*) => {
        /// The table.
        pub(super) const MARKERS: &[Marker] = &[$($(Marker {
            language: Language::$language,
            capability: $capability,
            shape: Shape::$shape,
            text: $text,
        }),*),*];
    };
}

markers! {
    JavaScript Network Module: "http" "https" "http2" "net" "tls" "dgram" "dns" "dns/promises" "undici" "ws" "axios" "node-fetch";
    JavaScript Network Call: "fetch" "WebSocket" "EventSource" "XMLHttpRequest";
    JavaScript Network Text: "navigator.sendBeacon" "Deno.connect" "Deno.listen" "Bun.connect" "Bun.listen";
    JavaScript Exec Word: "child_process" "execa";
    JavaScript Exec Text: "Deno.Command" "Deno.run" "Bun.spawn";
    JavaScript Write Word: "createWriteStream" "mkdtemp" "mkdtempSync" "outputFile" "outputJson";
    JavaScript Write Method: "writeFile" "writeFileSync" "appendFile" "appendFileSync" "mkdir" "mkdirSync" "rmSync"
        "rmdirSync" "unlink" "unlinkSync" "renameSync" "copyFile" "copyFileSync" "cpSync" "chmodSync" "symlinkSync"
        "truncateSync";
    JavaScript Write Text: "Deno.writeFile" "Deno.writeTextFile" "Deno.remove" "Bun.write";
    JavaScript Eval Module: "vm" "module";
    JavaScript Eval Call: "eval";
    JavaScript Eval Text: "new Function(" "runInNewContext" "runInThisContext" "runInContext" ".constructor.constructor(";
    JavaScript Native Text: "process.dlopen" "node-gyp-build" "ffi-napi" "bun:ffi" "Deno.dlopen" "WebAssembly.compile"
        "WebAssembly.instantiate" "new WebAssembly.Module" "process.binding(";
    JavaScript Native Module: "bindings" "koffi" "wasi";
    JavaScript Environment Text: "process.env" "Deno.env" "Bun.env" "keytar" ".npmrc" ".aws/credentials" "id_rsa";
    JavaScript Environment Method: "homedir" "userInfo";

    Python Network Import: "socket" "ssl" "http.client" "urllib.request" "urllib3" "requests" "httpx" "aiohttp" "websockets"
        "ftplib" "smtplib" "telnetlib" "paramiko" "socketserver" "http.server" "xmlrpc" "uvicorn" "httpcore" "anyio";
    Python Network Method: "urlopen" "open_connection" "create_connection" "start_server";
    Python Exec Word: "subprocess" "create_subprocess_exec" "create_subprocess_shell";
    Python Exec Text: "os.system" "os.popen" "os.exec" "os.spawn" "os.posix_spawn" "os.fork" "pty.spawn";
    Python Write OpenForWriting: "open(";
    Python Write Method: "write_text" "write_bytes" "makedirs" "rmtree" "copytree" "copyfile" "NamedTemporaryFile" "mkdtemp"
        "mkstemp";
    Python Write Text: "os.remove(" "os.unlink(" "os.rename(" "os.replace(" "os.mkdir(" "os.chmod(" "os.symlink("
        "shutil.move(" "shutil.copy";
    Python Eval Call: "eval" "exec" "compile" "__import__";
    Python Eval Text: "marshal.loads" "pickle.load" "importlib.import_module" "runpy." "types.CodeType" "types.FunctionType(";
    Python Native Import: "ctypes" "cffi";
    Python Native Text: "cdll.LoadLibrary" "CDLL(" ".dlopen(";
    Python Environment Text: "os.environ" "os.getenv" "getpass." ".netrc" ".aws/credentials" "id_rsa";
    Python Environment Import: "keyring" "netrc";
    Python Environment Method: "expanduser" "getenv";

    Shell Network Word: "curl" "wget" "nc" "ncat" "netcat" "ssh" "scp" "rsync" "socat" "telnet";
    Shell Network Text: "/dev/tcp/" "/dev/udp/" "git clone" "npm install" "npm i " "pip install" "npx " "uvx ";
    Shell Write Word: "rm" "mv" "cp" "mkdir" "tee" "chmod" "chown" "ln" "dd" "install" "touch" "mktemp";
    Shell Eval Word: "eval";
    Shell Eval Text: "sh -c" "base64 -d" "base64 --decode";
    Shell Environment Word: "printenv" "env" "HOME";
    Shell Environment Text: ".ssh/" ".aws/" ".npmrc" ".netrc";
}

impl Shape {
    /// As the table of the documentation shows a text.
    #[cfg(test)]
    pub(super) fn shown(self, text: &str) -> String {
        match self {
            Self::Word | Self::Text => text.to_owned(),
            Self::Call => format!("{text}("),
            Self::Method => format!(".{text}("),
            Self::Module => format!("'{text}'"),
            Self::Import => format!("import {text}"),
            Self::OpenForWriting => "open(…, 'w')".to_owned(),
        }
    }
}
