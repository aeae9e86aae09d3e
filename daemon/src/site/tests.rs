#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use mcpfs_trust::chunk;
use mcpfs_trust::digest::Digest;
use tokio::time::{sleep, timeout};
use url::Url;

use super::client::{REDIRECTS, stays};
use super::toxic::{Toxic, Trouble};
use super::*;

const BODY: &[u8] = b"the right bytes, and a few more of them";

/// So long that no test ends by it: a machine that stands still for some seconds would rightly
/// make the site ask again, and a test that counts requests would see it.
const NEVER: Duration = Duration::from_secs(3600);

fn settings(mirrors: &[&Toxic]) -> SiteSettings {
    SiteSettings {
        metadata_deadline: NEVER,
        object_deadline: NEVER,
        rate_window: NEVER,
        min_rate: 100,
        backoff: Duration::from_millis(10),
        sulk: NEVER,
        ..SiteSettings::with_mirrors(mirrors.iter().map(|toxic| toxic.url.clone()))
    }
}

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

fn site(mirrors: &[&Toxic]) -> Site {
    Site::new(settings(mirrors), Handle::current()).unwrap()
}

async fn server() -> Toxic {
    let server = Toxic::start().await;
    server.put("head.json", BODY);
    server
}

fn check(bytes: Vec<u8>) -> Result<Vec<u8>, VerifyError> {
    chunk::expect("chunk", &Digest::of(BODY), &bytes).map(|()| bytes)
}

async fn read(site: &Site) -> Result<Vec<u8>, Refusal> {
    site.get_checked("head.json", 1000, "head", check).await
}

#[tokio::test]
async fn pauses_double_and_differ() {
    let backoff = Duration::from_millis(100);
    let settings = SiteSettings { retries: 4, backoff, ..SiteSettings::with_mirrors(["http://localhost/"]) };
    let shared = Site::new(settings, Handle::current()).unwrap().shared().unwrap();
    for (left, mean) in [(5, backoff), (4, 2 * backoff), (3, 4 * backoff), (2, 8 * backoff)] {
        let pauses: Vec<Duration> = (0..200).map(|_| shared.pause(left)).collect();
        assert!(pauses.iter().all(|pause| (mean / 2..=mean + mean / 2).contains(pause)), "{mean:?}: {pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "hosts that failed together come back together");
    }
    assert!(shared.pause(0) <= 48 * backoff);
}

#[tokio::test]
async fn plain_reads_reuse_their_site() {
    let server = server().await;
    let site = site(&[&server]);
    assert_eq!(site.get("head.json", BODY.len() as u64, "head").await.unwrap(), BODY);
    let refused = site.get("nowhere.json", 10, "head").await.unwrap_err();
    assert_eq!(refused.code, Code::Unreachable);
    assert!(refused.message.contains("404") && refused.message.contains(&server.url), "{refused}");
    assert_eq!(server.count("nowhere.json"), 1, "a 404 is final");
}

/// What passes is retried on the same mirror; each of these troubles happens twice.
#[tokio::test]
async fn passing_troubles_are_survived() {
    let troubles = [Trouble::Status(500), Trouble::Status(429), Trouble::Reset, Trouble::Half, Trouble::WrongLength];
    for trouble in troubles {
        let server = server().await;
        server.once("head.json", [trouble.clone(), trouble.clone()]);
        assert_eq!(read(&site(&[&server])).await.as_deref(), Ok(BODY), "{trouble:?}");
        assert_eq!(server.count("head.json"), 3, "{trouble:?}");
    }
}

/// What stays is refused with its own code and within the deadline, and the next mirror serves.
#[tokio::test]
async fn lasting_troubles_are_named_and_the_next_mirror_serves() {
    let troubles = [
        (Trouble::Status(404), Code::Unreachable),
        (Trouble::Status(403), Code::Unreachable),
        (Trouble::Status(500), Code::Unreachable),
        (Trouble::Reset, Code::Unreachable),
        (Trouble::Half, Code::Unreachable),
        (Trouble::WrongLength, Code::Unreachable),
        (Trouble::Claim(10 << 30), Code::SizeExceeded),
        (Trouble::Endless, Code::SizeExceeded),
        (Trouble::Trickle, Code::TooSlow),
        (Trouble::Silence, Code::TooSlow),
        (Trouble::Html, Code::NotARegistry),
        (Trouble::Redirect("http://elsewhere.invalid/head.json".into()), Code::Unreachable),
        (Trouble::Corrupt, Code::DigestMismatch),
    ];
    for (trouble, code) in troubles {
        let (bad, good) = (server().await, server().await);
        bad.always("head.json", trouble.clone());
        // What is too slow is found out by its rate and long before the deadline; everything else
        // is no matter of time.
        let slow = code == Code::TooSlow;
        let site = |mirrors: &[&Toxic]| {
            let rate_window = if slow { Duration::from_millis(100) } else { NEVER };
            Site::new(SiteSettings { rate_window, ..settings(mirrors) }, Handle::current()).unwrap()
        };
        let refused = timeout(PATIENCE, read(&site(&[&bad]))).await.expect("found out").unwrap_err();
        assert_eq!(refused.code, code, "{trouble:?}: {refused}");
        assert!(refused.message.contains(&bad.url), "{refused}");
        // The good one may be too slow for a moment too, as this machine may be.
        let served = async {
            loop {
                match read(&site(&[&bad, &good])).await {
                    Err(refused) if slow && refused.code == Code::TooSlow => {}
                    done => break done,
                }
            }
        };
        let served = timeout(PATIENCE, served).await.expect("served");
        assert_eq!(served.as_deref(), Ok(BODY), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_failed_check_is_asked_once_more_around_caches() {
    let server = server().await;
    server.once("head.json", [Trouble::Corrupt]);
    assert_eq!(read(&site(&[&server])).await.as_deref(), Ok(BODY));
    let fresh: Vec<_> = server.requests().iter().map(|r| r.head.contains("cache-control: no-cache")).collect();
    assert_eq!(fresh, [false, true]);
    server.always("head.json", Trouble::Corrupt);
    assert_eq!(read(&site(&[&server])).await.unwrap_err().code, Code::DigestMismatch);
    assert_eq!(server.count("head.json"), 4, "once more means once");
}

#[tokio::test]
async fn a_mirror_that_failed_is_asked_last_for_a_while() {
    let (bad, good) = (server().await, server().await);
    bad.always("head.json", Trouble::Status(503));
    let site = site(&[&bad, &good]);
    for _ in 0..3 {
        assert_eq!(read(&site).await.as_deref(), Ok(BODY));
    }
    assert_eq!((bad.count("head.json"), good.count("head.json")), (1, 3));
}

/// Nobody listens on the address of a server that is gone; the deadline covers all tries.
#[tokio::test]
async fn unreachable_and_deadline() {
    let gone = Toxic::start().await;
    let site = site(&[&gone]);
    drop(gone);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(read(&site).await.unwrap_err().code, Code::Unreachable);

    let slow = server().await;
    slow.always("head.json", Trouble::Silence);
    let hasty = SiteSettings { metadata_deadline: Duration::from_millis(100), ..settings(&[&slow]) };
    let refused = read(&Site::new(hasty, Handle::current()).unwrap()).await.unwrap_err();
    assert_eq!(refused.code, Code::TooSlow, "{refused}");
}

#[test]
fn redirects_stay_on_the_host_and_keep_tls() {
    let stays = |from: &str, to: &str| stays(&Url::parse(from).unwrap(), &Url::parse(to).unwrap());
    assert!(stays("http://a/x", "http://a/y"));
    assert!(stays("http://a/x", "https://a/x"));
    assert!(!stays("https://a/x", "http://a/x"));
    assert!(!stays("http://a/x", "http://b/x"));
    assert!(!stays("http://a/x", "http://a:8080/x"));
}

#[tokio::test]
async fn redirects_on_the_same_server_are_followed() {
    let server = server().await;
    server.put("old.json", "");
    server.always("old.json", Trouble::Redirect("/head.json".into()));
    assert_eq!(site(&[&server]).get("old.json", 1000, "head").await.as_deref(), Ok(BODY));
    server.put("loop.json", "");
    server.always("loop.json", Trouble::Redirect("/loop.json".into()));
    assert_eq!(site(&[&server]).get("loop.json", 1000, "head").await.unwrap_err().code, Code::Unreachable);
    assert_eq!(server.count("loop.json"), REDIRECTS + 1);
}

#[tokio::test]
async fn a_directory_is_a_site() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("head.json"), BODY).unwrap();
    let url = Url::from_directory_path(directory.path()).unwrap();
    let site = Site::new(SiteSettings::with_mirrors([url]), Handle::current()).unwrap();
    assert_eq!(site.get("head.json", 1000, "head").await.as_deref(), Ok(BODY));
    assert_eq!(site.get("head.json", 5, "head").await.unwrap_err().code, Code::SizeExceeded);
    assert_eq!(site.get("other.json", 5, "head").await.unwrap_err().code, Code::Unreachable);
    for escape in ["../head.json", "/etc/hostname", "a//b", "a?b", ""] {
        assert_eq!(site.get(escape, 5, "head").await.unwrap_err().code, Code::Malformed, "{escape}");
    }
}

/// A secret as it should lie there.
fn private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Who can write a token sends us elsewhere; who can read it is us.
#[tokio::test]
async fn a_secret_that_others_can_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    private(&file, "token");
    let settings =
        SiteSettings { token_file: Some(file.clone()), ..SiteSettings::with_mirrors(["https://localhost/"]) };
    let certificate = SiteSettings { token_file: None, client_certificate: Some(file.clone()), ..settings.clone() };
    let refused = |settings: &SiteSettings| match Site::new(settings.clone(), Handle::current()) {
        Err(error @ SiteError::Unsafe { .. }) => with_cause(&error),
        other => panic!("{other:?}"),
    };
    assert!(Site::new(settings.clone(), Handle::current()).is_ok());
    for mode in [0o644, 0o666, 0o620] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        for settings in [&settings, &certificate] {
            let said = refused(settings);
            assert!(said.contains("by others") && said.contains("chmod "), "{mode:o}: {said}");
        }
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&settings).contains(&directory.path().display().to_string()));
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // A token that was good stays when its file is spoilt later; the new text is not believed.
    let server = server().await;
    let site =
        Site::new(SiteSettings { token_file: Some(file.clone()), ..self::settings(&[&server]) }, Handle::current());
    let site = site.unwrap();
    std::fs::write(&file, "planted").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    server.once("head.json", [Trouble::Status(401)]);
    assert!(read(&site).await.is_err());
    assert!(read(&site).await.is_ok());
    assert!(server.requests().iter().all(|request| !request.head.contains("planted")));
}

#[tokio::test]
async fn secrets_stay_secret() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    private(&token_file, "s3cret-token\n");
    let server = server().await;
    let with_token = SiteSettings { token_file: Some(token_file.clone()), ..settings(&[&server]) };
    assert_eq!(read(&Site::new(with_token.clone(), Handle::current()).unwrap()).await.as_deref(), Ok(BODY));
    assert!(server.requests()[0].head.contains("authorization: Bearer s3cret-token"));

    let open = SiteSettings { mirrors: vec!["http://registry.example/".into()], ..with_token };
    assert!(matches!(Site::new(open, Handle::current()), Err(SiteError::TokenInTheClear { .. })));

    let url = server.url.replace("http://", "http://joe:hunter2@");
    let site = Site::new(SiteSettings { mirrors: vec![url], ..settings(&[]) }, Handle::current()).unwrap();
    let refused = site.get("nowhere.json", 10, "head").await.unwrap_err();
    assert!(!refused.message.contains("hunter2") && !refused.message.contains("joe"), "{refused}");
    assert!(!site.mirrors()[0].contains("hunter2"));
}

/// A rotated token is read again after the server refused the old one.
#[tokio::test]
async fn a_refused_token_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    private(&token_file, "old");
    let server = server().await;
    let site =
        Site::new(SiteSettings { token_file: Some(token_file.clone()), ..settings(&[&server]) }, Handle::current())
            .unwrap();
    std::fs::write(&token_file, "new").unwrap();
    server.once("head.json", [Trouble::Status(401)]);
    assert!(read(&site).await.unwrap_err().message.contains("check token"));
    assert_eq!(read(&site).await.as_deref(), Ok(BODY));
    let sent: Vec<_> = server.requests().iter().map(|request| request.head.contains("Bearer new")).collect();
    assert_eq!(sent, [false, true]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for bad in ["ftp://a/", "nonsense", "file:relative", "https://a/?q", "https://a/#f"] {
        let refused = Site::new(SiteSettings::with_mirrors([bad]), runtime.handle().clone());
        assert!(matches!(refused, Err(SiteError::BadUrl { .. })), "{bad}");
    }
    assert!(matches!(Site::new(SiteSettings::default(), runtime.handle().clone()), Err(SiteError::NoMirror)));
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("ca.pem");
    std::fs::write(&empty, "").unwrap();
    let without = SiteSettings { ca_file: Some(empty), ..SiteSettings::with_mirrors(["https://localhost/"]) };
    assert!(matches!(Site::new(without, runtime.handle().clone()), Err(SiteError::NoCertificate { .. })));
}

#[tokio::test]
async fn all_clones_become_the_other_site() {
    let (old, new) = (server().await, server().await);
    let site = site(&[&old]);
    let clone = site.clone();
    assert_eq!(read(&clone).await.as_deref(), Ok(BODY));
    site.become_like(self::site(&[&new]));
    assert_eq!(read(&clone).await.as_deref(), Ok(BODY));
    assert_eq!((old.count("head.json"), new.count("head.json")), (1, 1));
    assert_eq!(clone.mirrors().len(), 1);
}

/// A server that is overrun says when to come back: it is asked no sooner, and a read that cannot wait so long says so.
#[tokio::test]
async fn retry_after_is_honoured_within_the_deadline() {
    let hour = |server: &Toxic| SiteSettings { sulk: Duration::ZERO, ..settings(&[server]) };
    let waits = async |status| {
        let server = server().await;
        let site = Site::new(hour(&server), Handle::current()).unwrap();
        server.once("head.json", [Trouble::Later(status, 1)]);
        let began = Instant::now();
        assert_eq!(read(&site).await.as_deref(), Ok(BODY));
        assert!(began.elapsed() >= Duration::from_secs(1), "{status}: {:?}", began.elapsed());
        assert_eq!(server.count("head.json"), 2);
    };
    tokio::join!(waits(429), waits(503));
    // A year is a minute, so that nobody can silence a host; and longer than this read may take.
    let server = server().await;
    let brief = SiteSettings { metadata_deadline: Duration::from_secs(10), ..hour(&server) };
    let site = Site::new(brief, Handle::current()).unwrap();
    server.once("head.json", [Trouble::Later(503, 365 * 86_400)]);
    let before = server.count("head.json");
    let refused = read(&site).await.unwrap_err();
    assert!(refused.message.contains("left alone for 60 s"), "{refused}");
    let refused = read(&site).await.unwrap_err();
    assert!(refused.message.contains("s more (Retry-After)"), "{refused}");
    assert_eq!(server.count("head.json"), before + 1, "it was left alone");
}

/// Another mirror is asked at once, whatever the first one wishes.
#[tokio::test]
async fn a_resting_mirror_holds_nobody_up() {
    let (busy, good) = (server().await, server().await);
    busy.always("head.json", Trouble::Later(503, 3600));
    let site = site(&[&busy, &good]);
    for _ in 0..3 {
        assert_eq!(timeout(PATIENCE, read(&site)).await.expect("at once").as_deref(), Ok(BODY));
    }
    assert_eq!((busy.count("head.json"), good.count("head.json")), (1, 3));
}

/// Each mirror is known by its own entity tags, and what a `304` stands for is checked like everything else.
#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let server = server().await;
    server.tag("head.json", "\"one\"");
    let site = site(&[&server]);
    for _ in 0..3 {
        assert_eq!(read(&site).await.as_deref(), Ok(BODY));
    }
    let asked: Vec<_> = server.requests().iter().map(|r| r.head.contains("if-none-match: \"one\"")).collect();
    assert_eq!(asked, [false, true, true]);
    assert_eq!(server.not_modified(), 2);
    // Who does not believe the bytes any more asks for them anew.
    let refuse = |_| Err(chunk::expect("chunk", &Digest::EMPTY, BODY).unwrap_err());
    let refused = site.get_checked::<()>("head.json", 1000, "head", refuse).await.unwrap_err();
    assert_eq!(refused.code, Code::DigestMismatch);
    let last = server.requests().pop().unwrap();
    assert!(last.head.contains("no-cache") && !last.head.contains("if-none-match"), "{}", last.head);
    // Nothing but the head is asked for in this way.
    server.put("bin.json", BODY);
    server.tag("bin.json", "\"two\"");
    for _ in 0..2 {
        site.get("bin.json", 1000, "bin").await.unwrap();
    }
    assert_eq!(server.not_modified(), 3);
}

#[tokio::test]
async fn a_pipe_in_a_directory_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("head.json"), kind, 0o600.into(), 0).unwrap();
    let url = Url::from_directory_path(dir.path()).unwrap().to_string();
    let site = Site::new(SiteSettings::with_mirrors([url]), Handle::current()).unwrap();
    let refusal = timeout(PATIENCE, read(&site)).await.expect("nobody waits").unwrap_err();
    assert!(refusal.code == Code::Unreachable && refusal.message.contains("not a regular file"), "{refusal}");
}
