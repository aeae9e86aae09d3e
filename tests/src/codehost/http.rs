//! HTTP, as far as a forge needs it: one request for each connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Kind, Shared, gitea, github, gitlab};
use crate::command::Run;
use crate::scratch::need;

/// A request as it came.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What is answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<String>,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, headers: Vec::new(), body }
    }

    pub(super) fn created(body: Value) -> Self {
        Self { status: 201, ..Self::ok(body) }
    }

    pub(super) fn not_found() -> Self {
        Self { status: 404, ..Self::ok(json!({"message": "Not Found"})) }
    }
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: no JSON: {error}", self.path))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }

    /// The page of `all` that was asked for, and whether another follows.
    pub(super) fn page(&self, shared: &Shared, all: Vec<Value>) -> Answer {
        let (sized, usual) = if shared.kind == Kind::Gitea { ("limit", 30) } else { ("per_page", 30) };
        let most = shared.state().page_limit.unwrap_or(100);
        let size = self.number(sized).unwrap_or(usual).min(most).max(1);
        let (page, total) = (self.number("page").unwrap_or(1).max(1), all.len());
        let more = page * size < total;
        let items: Vec<Value> = all.into_iter().skip((page - 1) * size).take(size).collect();
        let mut answer = Answer::ok(Value::Array(items));
        let next = format!("<{}{}?{sized}={size}&page={}>; rel=\"next\"", shared.url(), self.path, page + 1);
        match shared.kind {
            Kind::Github if more => answer.headers.push(format!("Link: {next}")),
            Kind::Github => {}
            Kind::Gitlab => {
                let next_page = if more { (page + 1).to_string() } else { String::new() };
                answer.headers.extend([format!("X-Next-Page: {next_page}"), format!("X-Total: {total}")]);
                answer.headers.push(format!("Link: {next}"));
            }
            Kind::Gitea => answer.headers.push(format!("X-Total-Count: {total}")),
        }
        answer
    }
}

pub(super) fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let asked = read(&stream)?;
    if asked.path.ends_with("/info/refs") || asked.path.ends_with("-pack") {
        return git(shared, &asked, stream);
    }
    let answer = api(shared, &asked);
    let body = answer.body.to_string();
    let mut head = format!(
        "HTTP/1.1 {} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        body.len()
    );
    for line in answer.headers {
        head.push_str(&format!("{line}\r\n"));
    }
    (&stream).write_all(format!("{head}\r\n{body}").as_bytes())
}

fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or("/").to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
    let mut asked = Asked { method, path, query, headers, body: Vec::new() };
    if asked.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        let mut stream = stream;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if asked.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            asked.body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = asked.header("content-length").and_then(|value| value.parse().ok()) {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.body = body;
    }
    Ok(asked)
}

/// git's own CGI program; whoever it is for must be known.
fn git(shared: &Shared, asked: &Asked, mut stream: TcpStream) -> std::io::Result<()> {
    let Some(login) = basic_login(shared, asked) else {
        let refuse = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refuse.as_bytes());
    };
    let mut command = Command::new(need("git", "git"));
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", shared.root.join("git"))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("PATH_INFO", &asked.path)
        .env("QUERY_STRING", &asked.query)
        .env("REQUEST_METHOD", &asked.method)
        .env("CONTENT_TYPE", asked.header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", asked.body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("REMOTE_USER", login)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (header, variable) in [("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")] {
        if let Some(value) = asked.header(header) {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    let body = asked.body.clone();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let mut output = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut output)?;
    writer.join().expect("writer");
    child.wait()?;
    if asked.path.ends_with("/git-receive-pack") {
        shared.pushed();
    }
    let split = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len().saturating_sub(4));
    let head = String::from_utf8_lossy(&output[..split]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let lines: String =
        head.lines().filter(|line| !line.starts_with("Status: ")).map(|line| format!("{line}\r\n")).collect();
    let body = &output[split + 4..];
    stream.write_all(
        format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes(),
    )?;
    stream.write_all(body)
}

fn basic_login(shared: &Shared, asked: &Asked) -> Option<String> {
    let pair = asked.header("authorization")?.strip_prefix("Basic ")?;
    let pair = base64::engine::general_purpose::STANDARD.decode(pair).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    shared.state().tokens.get(pair.split_once(':')?.1).cloned()
}

/// The three APIs.
fn api(shared: &Shared, asked: &Asked) -> Answer {
    let line = format!("{} {}", asked.method, asked.path);
    let fault = {
        let mut state = shared.state();
        state.asked.push(line);
        state.fault
    };
    if let Some((status, lines)) = fault {
        let headers = lines.lines().map(str::to_owned).collect();
        return Answer { status, headers, body: json!({"message": "as the test wants it"}) };
    }
    let token = match shared.kind {
        Kind::Github => asked.header("authorization").and_then(|value| value.strip_prefix("Bearer ")),
        Kind::Gitlab => asked.header("private-token"),
        Kind::Gitea => asked.header("authorization").and_then(|value| value.strip_prefix("token ")),
    };
    let login = token.and_then(|token| shared.state().tokens.get(token).cloned());
    let Some(login) = login else {
        return Answer { status: 401, headers: Vec::new(), body: json!({"message": "Bad credentials"}) };
    };
    let prefix = format!("/{}/", shared.kind.api());
    let Some(path) = asked.path.strip_prefix(&prefix) else { return Answer::not_found() };
    match shared.kind {
        Kind::Github => github::answer(shared, asked, path, &login),
        Kind::Gitlab => gitlab::answer(shared, asked, path, &login),
        Kind::Gitea => gitea::answer(shared, asked, path, &login),
    }
}

/// Sends a message with curl; the status that came back.
pub(super) fn post(url: &str, headers: &[String], body: &str) -> u16 {
    let mut run =
        Run::new(need("curl", "curl")).args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"]);
    for header in headers {
        run = run.arg("-H").arg(header);
    }
    let ran = run.args(["-H", "Content-Type: application/json", "--data-binary", "@-", url]).stdin(body).ok();
    ran.stdout.trim().parse().unwrap_or_else(|_| panic!("no status: {ran}"))
}
