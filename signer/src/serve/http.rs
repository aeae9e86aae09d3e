//! The few questions that the signing server answers over HTTP.
//!
//! It listens on this machine by default; a reverse proxy gives TLS and lets only `/hooks/` in.
//! Everything has a bound: connections, header time, bodies at once, body, and messages in a minute.
//! Whoever fills those keeps webhooks out, not the server from its work: it looks at the branch
//! anyway. Nor does he keep out who asks for its health: a connection that has asked for nothing
//! yet gives way to a newcomer, and bodies can never have all places.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::Shared;
use super::hook::{Pending, Way};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// Of them those whose bodies are being read.
const BODIES: usize = CONNECTIONS / 2;
/// Longest connection.
const LIFE: Duration = Duration::from_secs(60);
/// Longest wait for the headers of a request.
const HEADERS: Duration = Duration::from_secs(10);
/// Longest webhook, bytes: a little more than GitHub sends.
const BODY: u64 = 26 << 20;
/// Messages in a minute.
const MESSAGES: u32 = 120;

type Answer = Response<Full<Bytes>>;

/// Answers on `listener` and listens for signals until the server stops, in a thread of its own.
pub(super) fn spawn(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<std::thread::JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (hangup, terminate, interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || runtime.block_on(run(listener, shared, [hangup, terminate, interrupt])))
}

async fn run(
    listener: tokio::net::TcpListener,
    shared: Arc<Shared>,
    [mut hangup, mut terminate, mut interrupt]: [tokio::signal::unix::Signal; 3],
) {
    let (mut places, bodies) = (Places::default(), Arc::new(Semaphore::new(BODIES)));
    loop {
        tokio::select! {
            _ = hangup.recv() => shared.ring(|bell| bell.reload = true),
            _ = terminate.recv() => return shared.ring(|bell| bell.stop = true),
            _ = interrupt.recv() => return shared.ring(|bell| bell.stop = true),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let asked = Arc::new(AtomicBool::new(false));
                    let served = serve(stream, Arc::clone(&shared), Arc::clone(&bodies), Arc::clone(&asked));
                    places.take(asked, || tokio::spawn(served).abort_handle());
                }
                // Out of descriptors, most likely: not at once again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

/// Who is connected, oldest first, and whether he has asked for something.
#[derive(Default)]
struct Places(VecDeque<(Arc<AtomicBool>, AbortHandle)>);

impl Places {
    /// Gives a newcomer a place; where there is none, that of who has been silent for longest.
    fn take(&mut self, asked: Arc<AtomicBool>, start: impl FnOnce() -> AbortHandle) {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() >= CONNECTIONS {
            let silent = self.0.iter().position(|(asked, _)| !asked.load(Ordering::Relaxed));
            if let Some((_, task)) = self.0.remove(silent.unwrap_or(0)) {
                task.abort();
            }
        }
        self.0.push_back((asked, start()));
    }
}

/// One connection, one request.
async fn serve(stream: TcpStream, shared: Arc<Shared>, bodies: Arc<Semaphore>, asked: Arc<AtomicBool>) {
    let seen = Arc::clone(&asked);
    let service = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        answer(Arc::clone(&shared), Arc::clone(&bodies), request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A client that went away or was too slow is no concern of ours. Who sends nothing at all is not
    // within a request's headers yet, so that time is taken here, too.
    if tokio::time::timeout(HEADERS, &mut connection).await.is_err() && asked.load(Ordering::Relaxed) {
        let _ = tokio::time::timeout(LIFE, connection).await;
    }
}

async fn answer(shared: Arc<Shared>, bodies: Arc<Semaphore>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path();
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    Ok(match (path, Way::of(path)) {
        ("/healthz", _) if get => text(StatusCode::OK, "ok\n"),
        ("/readyz", _) if get => ready(&shared),
        ("/metrics", _) if get => match shared.now() {
            Some(now) => {
                let mut page = text(StatusCode::OK, shared.status().metrics(now));
                let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                page.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
                page
            }
            None => text(StatusCode::SERVICE_UNAVAILABLE, "the clock is not set\n"),
        },
        (_, Some(way)) if request.method() == Method::POST => match bodies.try_acquire() {
            Ok(_place) => message(&shared, way, request).await,
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many messages at once\n"),
        },
        ("/healthz" | "/readyz" | "/metrics", _) | (_, Some(_)) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "wrong method\n")
        }
        _ => text(StatusCode::NOT_FOUND, "there is only /healthz, /readyz, /metrics, /hooks/… and /v1/hint\n"),
    })
}

/// Ready, or why not; the state for people and programs either way.
fn ready(shared: &Shared) -> Answer {
    let status = shared.status();
    let alarms = match shared.now() {
        Some(now) => status.alarms(now, shared.poll()),
        None => vec!["the clock is not set".to_owned()],
    };
    let code = if alarms.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({"ready": alarms.is_empty(), "alarms": alarms, "status": status});
    let mut answer = text(code, format!("{body}\n"));
    let kind = hyper::header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    answer
}

/// A webhook or a hint.
async fn message(shared: &Shared, way: Way, request: Request<Incoming>) -> Answer {
    let (code, result, said) = judge(shared, way, request).await;
    shared.update(|status| *status.counts.hooks.entry(result).or_default() += 1);
    if code == StatusCode::ACCEPTED {
        shared.ring(|bell| bell.look = true);
    }
    text(code, said)
}

async fn judge(shared: &Shared, way: Way, request: Request<Incoming>) -> (StatusCode, &'static str, &'static str) {
    if !shared.budget().take(Instant::now()) {
        return (
            StatusCode::TOO_MANY_REQUESTS,
            "too-many",
            "too many messages; the branch is looked at regularly anyway\n",
        );
    }
    let Some(secret) = shared.hook_secret() else {
        return (StatusCode::FORBIDDEN, "no-secret", "no secret is configured (hooks.secret_file)\n");
    };
    let forged = (StatusCode::UNAUTHORIZED, "forged", "not proven by the shared secret\n");
    let given =
        way.headers().iter().find_map(|name| request.headers().get(*name)).and_then(|value| value.to_str().ok());
    let Some(proof) = given.map(str::to_owned) else { return forged };
    let (mut pending, mut body, mut size) = (Pending::new(way, secret), request.into_body(), 0_u64);
    loop {
        match body.frame().await {
            None => break,
            Some(Err(_)) => return (StatusCode::BAD_REQUEST, "broken", "the body ended early\n"),
            Some(Ok(frame)) => {
                let Some(bytes) = frame.data_ref() else { continue };
                size += bytes.len() as u64;
                if size > BODY {
                    return (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is too large\n");
                }
                pending.update(bytes);
            }
        }
    }
    match pending.proven_by(&proof) {
        true => (StatusCode::ACCEPTED, "accepted", "the branch will be looked at\n"),
        false => forged,
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    answer
}

/// How many messages are read in a minute.
#[derive(Debug, Default)]
pub(super) struct Budget {
    minute: Option<Instant>,
    spent: u32,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if self.minute.is_none_or(|minute| now.duration_since(minute) >= Duration::from_secs(60)) {
            *self = Self { minute: Some(now), spent: 0 };
        }
        self.spent += 1;
        self.spent <= MESSAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_the_longest_silent() {
        let mut places = Places::default();
        let mut come = |has_asked| {
            let asked = Arc::new(AtomicBool::new(has_asked));
            let task = tokio::spawn(std::future::pending::<()>());
            places.take(asked, || task.abort_handle());
            task
        };
        let mut tasks: Vec<_> = (0..CONNECTIONS).map(|index| come(index < BODIES)).collect();
        tasks.extend((0..3).map(|_| come(false)));
        for (index, task) in tasks.into_iter().enumerate() {
            let gone = (BODIES..BODIES + 3).contains(&index);
            if gone {
                assert!(task.await.is_err_and(|error| error.is_cancelled()), "{index}");
            } else {
                assert!(!task.is_finished(), "{index}");
                task.abort();
            }
        }
    }

    #[test]
    fn a_minute_has_a_budget() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        assert!((0..MESSAGES).all(|_| budget.take(now)));
        assert!(!budget.take(now) && !budget.take(now + Duration::from_secs(59)));
        assert!(budget.take(now + Duration::from_secs(60)));
    }
}
