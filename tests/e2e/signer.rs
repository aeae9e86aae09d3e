//! Faults at the signer, and their rows in its log.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mcpfs_tests::command::Run;
use mcpfs_tests::forge;
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::registry::{HEAD_KEY, RELEASE_KEY, Registry};
use mcpfs_tests::suite::Suite;
use serde_json::{Value, json};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("signer::a_wrong_pin_has_its_row", a_wrong_pin_has_its_row);
    suite.plain("signer::a_missing_token_or_key_has_its_row", a_missing_token_or_key_has_its_row);
    suite.plain("signer::a_refused_recipe_has_its_row", a_refused_recipe_has_its_row);
    suite.plain("signer::the_log_says_nothing_of_the_machine", the_log_says_nothing_of_the_machine);
    suite.plain("signer::segments_are_chained", segments_are_chained);
    suite.plain("signer::a_tokens_keys_are_listed", a_tokens_keys_are_listed);
    suite.plain("signer::several_at_once_share_a_token", several_at_once_share_a_token);
    suite.plain("signer::a_missing_folder_is_named", a_missing_folder_is_named);
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// Refusals that wait for the next head, as docs/publishing.md says where.
fn waiting(registry: &Registry) -> Vec<Value> {
    let name = registry.name().replace('/', "%2F");
    let file = registry.site().with_file_name("signer-state").join(name).join("refused.jsonl");
    rows(&std::fs::read_to_string(&file).unwrap_or_default())
}

/// The file of a head's log segment.
fn segment_file(registry: &Registry, head: u64) -> PathBuf {
    let log = registry.site().join("log");
    let names = mcpfs_tests::registry::files_below(&log);
    let mut found = names.iter().filter(|name| name.starts_with(&format!("{head}-")));
    let name = found.next().unwrap_or_else(|| panic!("no segment of head {head}: {names:?}"));
    assert!(found.next().is_none(), "one segment for each head: {names:?}");
    log.join(name)
}

/// The log segment of a head.
fn segment(registry: &Registry, head: u64) -> Vec<Value> {
    rows(&std::fs::read_to_string(segment_file(registry, head)).unwrap())
}

/// Expects that the last waiting row is a refused release with these words.
fn expect_row(registry: &Registry, words: &str) {
    let rows = waiting(registry);
    let row = rows.last().unwrap_or_else(|| panic!("no row for {words:?}"));
    assert_eq!((&row["refused"], &row["action"]), (&Value::Bool(true), &Value::from("release")), "{row}");
    assert!(row["reason"].as_str().unwrap().contains(words), "expected {words:?}: {row}");
    assert!(row["request"].as_str().unwrap().ends_with("hello.yaml") && row["time"].is_string(), "{row}");
}

fn a_wrong_pin_has_its_row() {
    let registry = Registry::new();
    let hsm = registry.hsm();
    registry.release(&registry.hello("1.0.0"));
    let head = std::fs::read(registry.site().join("head.json")).unwrap();
    std::fs::write(registry.recipe("hello"), registry.hello("1.1.0").yaml()).unwrap();
    let pin = std::fs::read(hsm.pin_file()).unwrap();
    std::fs::write(hsm.pin_file(), "000000\n").unwrap();
    let ran = registry.release_command("hello").exits(1);
    assert!(ran.stderr.contains("refused the PIN") && !ran.text().contains("000000"), "{ran}");
    expect_row(&registry, "refused the PIN");
    // One login was tried: the token's flag for more than one is not set.
    let slots = hsm.pkcs11_tool().arg("--list-token-slots").run().text();
    assert!(!slots.contains("final user PIN try") && !slots.contains("user PIN locked"), "{slots}");
    // No PIN at all, and a PIN that others can read.
    std::fs::remove_file(hsm.pin_file()).unwrap();
    registry.release_command("hello").exits(1).says(hsm.pin_file().to_str().unwrap());
    expect_row(&registry, "PIN file");
    std::fs::write(hsm.pin_file(), &pin).unwrap();
    std::fs::set_permissions(hsm.pin_file(), PermissionsExt::from_mode(0o644)).unwrap();
    registry.release_command("hello").exits(1).says(hsm.pin_file().to_str().unwrap());
    expect_row(&registry, "PIN file");
    assert_eq!(waiting(&registry).len(), 3);
    assert_eq!(std::fs::read(registry.site().join("head.json")).unwrap(), head, "nothing was published");

    // The right PIN works at once, and the next segment tells what was refused before it.
    std::fs::set_permissions(hsm.pin_file(), PermissionsExt::from_mode(0o600)).unwrap();
    registry.release_command("hello").ok();
    let rows = segment(&registry, 2);
    assert_eq!(rows.len(), 4, "{rows:?}");
    assert!(rows[0].get("refused").is_none() && rows[0]["version"] == "1.1.0", "{}", rows[0]);
    assert!(rows[1..].iter().all(|row| row["refused"] == true && row["head_version"] == 2), "{rows:?}");
    assert!(!serde_json::to_string(&rows).unwrap().contains("000000"), "a PIN is in the log");
    assert!(waiting(&registry).is_empty());
}

fn a_missing_token_or_key_has_its_row() {
    let registry = Registry::new();
    let hsm = registry.hsm();
    std::fs::write(registry.recipe("hello"), registry.hello("1.0.0").yaml()).unwrap();
    let release = |head_key: &str, key: &str| {
        registry
            .signer()
            .arg("release")
            .arg(registry.recipe("hello"))
            .arg("--site")
            .arg(registry.site())
            .arg("--trust")
            .arg(registry.trust())
            .args(["--head-key", head_key, "--key", key])
            .arg("--file-root")
            .arg(registry.artefacts())
    };
    let (head, key) = (hsm.uri(HEAD_KEY), hsm.uri(RELEASE_KEY));
    for (from, to) in [("token=mcpfs", "token=elsewhere"), ("object=", "object=no-"), ("libsofthsm2.so", "libnone.so")]
    {
        let words = to.rsplit('=').next().unwrap();
        for (head, key) in [(head.replace(from, to), key.clone()), (head.clone(), key.replace(from, to))] {
            release(&head, &key).exits(1).says(words);
            expect_row(&registry, words);
        }
    }
    // A key that is there, but that the trust root does not name for this.
    release(&key, &head).exits(4);
    assert_eq!(waiting(&registry).len(), 7);
    assert!(!registry.site().join("head.json").exists(), "nothing was published");
    release(&head, &key).ok();
    assert_eq!(segment(&registry, 1).len(), 8);
}

fn a_refused_recipe_has_its_row() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let good = registry.hello("1.1.0").yaml();
    for (bad, words) in [
        (good.replace("name: hello", "name: hello\nnmae: x"), "hello.yaml"),
        (good.replace("reviewed_at: 2026-04-15", "reviewed_at: 2126-04-15"), "hello.yaml"),
        (good.replace("1.1.0\n", "1.0.0\n"), "1.0.0"),
    ] {
        std::fs::write(registry.recipe("hello"), bad).unwrap();
        registry.release_command("hello").exits(1);
        expect_row(&registry, words);
    }
    // Only `release` writes rows: a check signs nothing.
    let before = waiting(&registry).len();
    registry.signer().arg("check").arg(registry.recipe("hello")).run();
    assert_eq!(waiting(&registry).len(), before);
    registry.publishing("yank").arg("--publish").args(["hello@7.7.7", "--reason", "x"]).exits(1);
    assert_eq!(waiting(&registry).last().unwrap()["action"], "yank");
}

/// The log is public: the rule and the object stand in it, and no path of the machine that signs.
fn the_log_says_nothing_of_the_machine() {
    let registry = Registry::new();
    let root = registry.site().parent().unwrap().display().to_string();
    let reason = || waiting(&registry).last().unwrap()["reason"].as_str().unwrap().to_owned();
    let good = registry.hello("1.0.0");
    // A rule.
    std::fs::write(registry.recipe("hello"), good.yaml().replace("reviewed_at: 2026", "reviewed_at: 2126")).unwrap();
    registry.release_command("hello").exits(1).says(&root);
    assert_eq!(reason(), "servers/hello.yaml did not pass: [reviewed-at] reviewed_at");
    // Files that are not there, or not what they should be.
    let missing = registry.site().with_file_name("no policy.yaml");
    registry.release_command("hello").arg("--policy").arg(&missing).exits(1);
    assert_eq!(reason(), "servers/hello.yaml did not pass: [policy-file]; [reviewed-at] reviewed_at");
    let publish = |staging: &str| {
        let run = registry
            .publishing("publish")
            .arg("--no-policy")
            .arg("--staging")
            .arg(registry.site().with_file_name(staging));
        run.arg("--key").arg(registry.hsm().uri(RELEASE_KEY)).exits(1).says(&root)
    };
    publish("absent");
    assert!(reason().starts_with("absent is not a folder that check --staging left"), "{}", reason());
    let uri = registry.hsm().uri(HEAD_KEY).replace("libsofthsm2.so", "libnone.so");
    let run = registry.signer().args(["publish", "--resign", "--head-key", &uri, "--trust"]).arg(registry.trust());
    run.arg("--site").arg(registry.site()).exits(1);
    assert!(reason().contains("libnone.so") && !reason().contains("/usr"), "{}", reason());

    std::fs::write(registry.recipe("hello"), good.yaml()).unwrap();
    registry.release_command("hello").ok();
    let rows = segment(&registry, 1);
    let requests: Vec<&Value> = rows.iter().map(|row| &row["request"]).collect();
    let recipe = "servers/hello.yaml";
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert_eq!(requests, [&json!(recipe), &json!(recipe), &json!(recipe), &json!("absent"), &Value::Null]);
    let text = std::fs::read_to_string(segment_file(&registry, 1)).unwrap();
    assert!(!text.contains(&root) && !text.contains("/tmp") && !text.contains("/usr"), "{text}");
}

fn segments_are_chained() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    registry.release(&registry.hello("1.1.0"));
    registry.publishing("publish").arg("--resign").ok();
    registry.publishing("yank").arg("--publish").args(["hello@1.1.0", "--reason", "slow"]).ok();
    let actions: Vec<Value> = (1..=4).map(|head| segment(&registry, head)[0]["action"].clone()).collect();
    assert_eq!(actions, ["release", "release", "resign", "yank"]);
    assert!(segment(&registry, 1)[0].get("previous").is_none());
    for head in 2..=4 {
        let before = segment_file(&registry, head - 1);
        assert_eq!(segment(&registry, head)[0]["previous"], mcpfs_tests::fixture::sha256_of(&before));
    }
    let entry = forge::read(&registry.site().join("servers/hello.json"));
    let payload = entry["signature"]["payload"].as_str().unwrap();
    let computed = Run::new("sh").args(["-c", "base64 -d | sha256sum"]).stdin(payload).ok().stdout;
    assert_eq!(computed.split(' ').next(), segment(&registry, 2)[0]["statement"].as_str());
    assert_eq!(segment(&registry, 2)[0]["keys"], serde_json::json!([registry.hsm().key_id(RELEASE_KEY)]));
    assert_eq!(segment(&registry, 2)[0]["head_keys"], serde_json::json!([registry.hsm().key_id(HEAD_KEY)]));
}

fn a_tokens_keys_are_listed() {
    let hsm = Hsm::new();
    let module = hsm.module().display();
    let token = format!("pkcs11:token=mcpfs?module-path={module}");
    let list = |uri: &str| hsm.signer().args(["keys", "list", "--token", uri]).ok().stdout;
    assert_eq!(list(&token), "no keys\n");
    for name in ["release", "head"] {
        hsm.signer().args(["keys", "generate", "--key", &hsm.uri(name)]).ok();
    }
    // OpenSC's client makes one that can be taken out, and one of another kind.
    hsm.pkcs11_tool()
        .args(["--keypairgen", "--key-type", "EC:edwards25519", "--label", "loose", "--id", "0a", "--extractable"])
        .ok();
    hsm.pkcs11_tool().args(["--keypairgen", "--key-type", "rsa:2048", "--label", "other", "--id", "0b"]).ok();
    let text = list(&token);
    let rows: Vec<Vec<&str>> =
        text.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect();
    assert_eq!(rows[0], ["label", "id", "algorithm", "extractable", "public key (SHA-256)"], "{text}");
    assert_eq!(
        rows.iter().skip(1).map(|row| row[0]).collect::<Vec<_>>(),
        ["head", "loose", "other", "release"],
        "{text}"
    );
    for (row, extractable) in [(1, "never"), (2, "yes"), (4, "never")] {
        let key = rows[row][0];
        assert_eq!((rows[row][2], rows[row][3]), ("ed25519", extractable), "{text}");
        assert_eq!(rows[row][4], hsm.key_id(key), "{text}");
    }
    assert_eq!((rows[2][1], rows[3][1]), ("0a", "0b"), "{text}");
    assert_eq!((rows[3][2], rows[3][4]), ("CKK_RSA", "none"), "{text}");

    // For programs, of one key, and by what the list itself says.
    let id = format!(
        "%{}",
        rows[1][1].as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap()).collect::<Vec<_>>().join("%")
    );
    let one = format!("pkcs11:token=mcpfs;id={id}?module-path={module}");
    let json: Value =
        serde_json::from_str(&hsm.signer().args(["--json", "keys", "list", "--token", &one]).ok().stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1, "{json}");
    assert_eq!(
        (&json[0]["label"], &json[0]["fit"], &json[0]["extractable"]),
        (&Value::from("head"), &Value::Bool(true), &Value::Bool(false))
    );
    assert_eq!(json[0]["public_id"], hsm.key_id("head"));
    hsm.signer()
        .args(["keys", "list", "--token", &token.replace("mcpfs", "elsewhere")])
        .exits(1)
        .says("tokens here: mcpfs");
    hsm.signer().args(["keys", "list", "--token", "demo:x"]).exits(1);
}

/// SoftHSM rewrites a token's file at each login. Who looks just then is told a general error, or
/// that there is no such token: that is waited for. Who logs in just then fails, for a PIN is never
/// tried twice, and is told what to do.
fn several_at_once_share_a_token() {
    let hsm = Hsm::new();
    hsm.signer().args(["keys", "generate", "--key", &hsm.uri("k")]).ok();
    for _ in 0..8 {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let ran = hsm.signer().args(["keys", "show", "--key", &hsm.uri("k")]).run();
                    let told = ran.stderr.contains("logging in failed") && ran.stderr.contains("repeat the command");
                    assert!(ran.code == 0 || (ran.code == 1 && told), "{ran}");
                });
            }
        });
    }
}

fn a_missing_folder_is_named() {
    let dir = mcpfs_tests::scratch::dir();
    let missing = dir.path().join("no-such-folder");
    let bundle = |out: &str| {
        Run::new(mcpfs_tests::binaries::bin("mcpfs-signer"))
            .arg("bundle")
            .arg(&missing)
            .arg("--out")
            .arg(dir.path().join(out))
    };
    bundle("x.tar").exits(1).says(missing.to_str().unwrap());
    assert!(!dir.path().join("x.tar").exists());
    std::fs::write(&missing, "a file").unwrap();
    bundle("x.tar").exits(1).says(missing.to_str().unwrap());
}
