//! docs/keys.md: the life of keys and trust roots, by the commands that stand there, on a host that
//! must never meet what it does not believe.

use mcpfs_tests::audit;
use mcpfs_tests::forge;
use mcpfs_tests::host::Host;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::suite::Suite;

use crate::keepers::{self, Keepers};
use crate::world::errno;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("lifecycle::two_of_three_keys_in_two_tokens", two_of_three_keys_in_two_tokens);
    suite.plain("lifecycle::no_key_leaves_its_token", no_key_leaves_its_token);
    suite.plain("lifecycle::team_and_approver", team_and_approver);
    suite.plain("lifecycle::a_rotation_that_no_host_notices", a_rotation_that_no_host_notices);
    suite.plain("lifecycle::a_stolen_head_key", a_stolen_head_key);
    suite.plain("lifecycle::a_theft_that_was_noticed_late", a_theft_that_was_noticed_late);
    suite.plain("lifecycle::a_stolen_release_key", a_stolen_release_key);
    suite.plain("lifecycle::a_full_envelope_makes_room", a_full_envelope_makes_room);
    suite.plain("lifecycle::a_lost_token", a_lost_token);
    suite.plain("lifecycle::unsafe_trust_roots_are_refused", unsafe_trust_roots_are_refused);
}

/// What the mount starts says its version.
fn runs(host: &Host, version: &str) {
    let mut client = McpClient::start(&host.at("hello/run"));
    assert_eq!(client.initialize()["serverInfo"]["version"], version);
    client.end();
}

fn two_of_three_keys_in_two_tokens() {
    let keepers = Keepers::from_the_first_day();
    let entry = keepers.entry();
    let signers: Vec<&str> =
        entry["signature"]["signatures"].as_array().unwrap().iter().map(|one| one["keyid"].as_str().unwrap()).collect();
    assert_eq!(signers, [keepers.id("hsm-a", "release"), keepers.id("hsm-b", "release")]);
    let (_site, host) = keepers.host();
    let _mount = Mount::start(&host);
    host.refresh();
    runs(&host, "1.0.0");
    // One of them alone publishes nothing, nor does one key twice.
    keepers.recipe("hello", "1.1.0");
    let before = std::fs::read(keepers.path("site/head.json")).unwrap();
    for keys in [&[("hsm-c", "release")][..], &[("hsm-c", "release"), ("hsm-c", "release")]] {
        keepers.release("hello", "hsm-b", keys).exits(4).says("1 of the 2 required signatures");
    }
    assert_eq!(std::fs::read(keepers.path("site/head.json")).unwrap(), before);
    // Any two do, and any head key.
    keepers.release("hello", "hsm-b", &[("hsm-c", "release"), ("hsm-a", "release")]).ok();
    keepers.verified();
    host.refresh();
    runs(&host, "1.1.0");
    audit::no_refusals(&host);
}

/// By a client that others wrote: everything PKCS#11 has to get a key out. The same steps get one out that
/// was made to be extractable, so they are the right ones.
fn no_key_leaves_its_token() {
    let keepers = Keepers::new();
    for (label, algorithm) in [("edwards", "ed25519"), ("nist", "ecdsa-p256")] {
        let generate = format!("mcpfs-signer keys generate --algorithm {algorithm} --key \"$(key hsm-a {label})\"");
        keepers.shell(&generate).ok();
    }
    let script = r#"
import os, json, PyKCS11
from PyKCS11 import *
lib = PyKCS11Lib()
lib.load(os.environ["MODULE"])
slot = [s for s in lib.getSlotList(tokenPresent=True) if lib.getTokenInfo(s).label.strip() == os.environ["LABEL"]][0]
session = lib.openSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION)
session.login(os.environ["PIN"])
# One of our own making that may leave.
session.generateKeyPair(
    [(CKA_CLASS, CKO_PUBLIC_KEY), (CKA_KEY_TYPE, CKK_EC), (CKA_TOKEN, False), (CKA_LABEL, "loose"),
     (CKA_EC_PARAMS, bytes.fromhex("06082a8648ce3d030107"))],
    [(CKA_CLASS, CKO_PRIVATE_KEY), (CKA_KEY_TYPE, CKK_EC), (CKA_TOKEN, False), (CKA_LABEL, "loose"),
     (CKA_SENSITIVE, False), (CKA_EXTRACTABLE, True)],
    mecha=Mechanism(CKM_EC_KEY_PAIR_GEN, None))
wrapping = session.generateKey([(CKA_CLASS, CKO_SECRET_KEY), (CKA_KEY_TYPE, CKK_AES), (CKA_VALUE_LEN, 32),
    (CKA_TOKEN, False), (CKA_WRAP, True), (CKA_ENCRYPT, True), (CKA_LABEL, "wrapping")],
    mecha=Mechanism(CKM_AES_KEY_GEN, None))
def value(key):
    got = session.getAttributeValue(key, [CKA_VALUE])[0]
    return bool(got)
def wrap(key):
    return len(session.wrapKey(wrapping, key, Mechanism(CKM_AES_KEY_WRAP_PAD, None))) > 0
def unlock(key):
    session.setAttributeValue(key, [(CKA_SENSITIVE, False), (CKA_EXTRACTABLE, True)])
    return True
def copy(key):
    return session.copyObject(key, [(CKA_EXTRACTABLE, True), (CKA_SENSITIVE, False)]) is not None
result = {}
for label in ["edwards", "nist", "loose"]:
    key = session.findObjects([(CKA_CLASS, CKO_PRIVATE_KEY), (CKA_LABEL, label)])[0]
    out = {}
    for step in [value, wrap, unlock, copy]:
        try:
            out[step.__name__] = "out" if step(key) else "nothing"
        except (PyKCS11Error, AttributeError) as error:
            out[step.__name__] = str(error) if isinstance(error, PyKCS11Error) else "no such call"
    result[label] = out
print(json.dumps(result))
"#;
    let found = keepers.hsm.pykcs11("hsm-a").args(["-c", script]).ok().json();
    for way in ["value", "wrap"] {
        assert_eq!(found["loose"][way], "out", "the way {way} is none: {found}");
        for key in ["edwards", "nist"] {
            assert_ne!(found[key][way], "out", "{key} left its token: {found}");
        }
    }
    for key in ["edwards", "nist"] {
        assert!(found[key]["wrap"].as_str().unwrap().contains("UNEXTRACTABLE"), "{found}");
        assert_ne!(found[key]["unlock"], "out", "{found}");
        assert_ne!(found[key]["copy"], "out", "{found}");
    }
    keepers.shell("mcpfs-signer keys prove --key \"$(key hsm-a edwards)\"").ok().says("refused by the token");
}

fn team_and_approver() {
    let keepers = Keepers::from_the_first_day();
    keepers.recipe("payments-api", "1.0.0");
    keepers.types("Team and approver", 0);
    let (_site, host) = keepers.host();
    let _mount = Mount::start(&host);
    host.refresh();
    assert!(host.at("payments-api/1.0.0/tree/README").exists());
    keepers.recipe("payments-api", "1.1.0");
    for keys in [
        &[("hsm-b", "payments-team")][..],
        &[("hsm-c", "approver")],
        // All keys of the widest scope do not help here.
        &[("hsm-a", "release"), ("hsm-b", "release"), ("hsm-c", "release")],
    ] {
        keepers.release("payments-api", "hsm-a", keys).exits(4);
    }
    // And those two sign nothing else.
    keepers.recipe("hello", "1.1.0");
    keepers
        .release("hello", "hsm-a", &[("hsm-b", "payments-team"), ("hsm-c", "approver")])
        .exits(4)
        .says("may not sign this");
    keepers.release("payments-api", "hsm-a", &[("hsm-b", "payments-team"), ("hsm-c", "approver")]).ok();
    host.refresh();
    assert!(host.at("payments-api/1.1.0/tree/README").exists());
}

fn a_rotation_that_no_host_notices() {
    let keepers = Keepers::from_the_first_day();
    keepers.recipe("hello", "1.1.0");
    keepers.release("hello", "hsm-a", &[("hsm-a", "release"), ("hsm-b", "release")]).ok();
    let statements = |entry: &serde_json::Value| {
        let earlier = entry["earlier"].as_array().unwrap().iter();
        std::iter::once(entry).chain(earlier).map(|one| one["signature"]["payload"].clone()).collect::<Vec<_>>()
    };
    let before = statements(&keepers.entry());
    let (_site, host) = keepers.host();
    let mount = Mount::start(&host);
    host.refresh();
    runs(&host, "1.1.0");

    keepers.types("Rotation", 0);
    // Too early: what only the old keys signed would stop verifying.
    let trust = std::fs::read(keepers.path("trust.json")).unwrap();
    let ran = keepers.shell(&keepers::blocks("Rotation")[2]).exits(1);
    let ran = ran.says("hello 1.0.0").says("hello 1.1.0").says("the head");
    assert!(ran.text().contains("countersign"), "{ran}");
    assert_eq!(std::fs::read(keepers.path("trust.json")).unwrap(), trust);
    keepers.roll_out(&host, &mount);

    // A host that was not reached goes on all the same.
    keepers.types("Rotation", 1);
    assert_eq!(statements(&keepers.entry()), before, "what is signed never changes");
    assert_eq!(keepers.entry()["signature"]["signatures"].as_array().unwrap().len(), 3);
    keepers.verified();
    host.refresh();
    runs(&host, "1.1.0");
    // Again: nothing is left to do, and no head is made.
    let head = std::fs::read(keepers.path("site/head.json")).unwrap();
    keepers.types("Rotation", 1);
    assert_eq!(std::fs::read(keepers.path("site/head.json")).unwrap(), head);

    keepers.types("Rotation", 2);
    keepers.verified();
    let (old_head, old_release) = (keepers.id("hsm-a", "head"), keepers.id("hsm-a", "release"));
    let ids = keepers.root()["keys"].to_string();
    assert!(!ids.contains(&old_head) && !ids.contains(&old_release), "{ids}");
    keepers.roll_out(&host, &mount);
    host.refresh();
    runs(&host, "1.1.0");
    audit::no_refusals(&host);
    // The old keys sign nothing any more.
    keepers.recipe("hello", "1.2.0");
    keepers.release("hello", "hsm-a", &[("hsm-d", "release"), ("hsm-b", "release")]).exits(4);
    keepers.release("hello", "hsm-d", &[("hsm-a", "release"), ("hsm-b", "release")]).exits(4);
    keepers.release("hello", "hsm-d", &[("hsm-d", "release"), ("hsm-b", "release")]).ok();
    host.refresh();
    runs(&host, "1.2.0");
}

fn a_stolen_head_key() {
    let keepers = Keepers::from_the_first_day();
    keepers.recipe("hello", "1.1.0");
    keepers.release("hello", "hsm-a", &[("hsm-a", "release"), ("hsm-b", "release")]).ok();
    let revoke = "mcpfs-signer revoke hello@1.0.0 --publish --reason CVE-2026-1 --site $SITE --trust trust.json \
                  --head-key \"$(key hsm-a head)\"";
    keepers.shell(revoke).ok();
    let good = keepers.head()["version"].as_u64().unwrap();
    let (_site, host) = keepers.host();
    let mount = Mount::start(&host);
    host.refresh();
    runs(&host, "1.1.0");

    // The thief makes a head behind which no other has a number.
    let id = keepers.id("hsm-a", "head");
    forge::resign(&keepers.path("site/head.json"), &keepers.hsm, "hsm-a/head", &id, |statement| {
        statement["predicate"]["version"] = u64::MAX.into();
    });
    host.refresh();
    keepers
        .shell("mcpfs-signer publish --resign --site $SITE --trust trust.json --head-key \"$(key hsm-b head)\"")
        .exits(4);

    keepers.types("A head key was stolen", 0);
    assert_eq!((keepers.head()["version"].clone(), keepers.head()["epoch"].clone()), (100.into(), 2.into()));
    assert!(good < 100);
    keepers.verified();
    // A host without the new root refuses the new head, and goes on with what it has.
    host.refresh_fails("HeadRollback");
    runs(&host, "1.1.0");
    keepers.roll_out(&host, &mount);
    host.refresh();
    runs(&host, "1.1.0");
    // The revocation came back with the entry.
    let explained = host.mcpfs(["explain", "hello@1.0.0"]).run();
    assert!(explained.text().contains("Revoked") && explained.text().contains("CVE-2026-1"), "{explained}");
    // The thief is outside: his key signs, and nobody listens.
    keepers
        .shell("mcpfs-signer publish --resign --site $SITE --trust trust.json --head-key \"$(key hsm-a head)\"")
        .exits(4);
    let ours = std::fs::read(keepers.path("site/head.json")).unwrap();
    std::fs::copy(keepers.path("head-found.json"), keepers.path("site/head.json")).unwrap();
    host.refresh_fails("KeyNotAuthorised");
    runs(&host, "1.1.0");
    // No second first head is made, which would have the number of the first.
    let again = "mcpfs-signer publish --resign --new-epoch trust-before.json --site $SITE --trust trust.json \
                 --head-key \"$(key hsm-b head)\"";
    keepers.shell(again).exits(1).says("began epoch 2");
    let kept = keepers.path("state/mcp.example.com%2Fprod/head.json");
    assert_eq!(std::fs::read(&kept).unwrap(), ours, "as it was told");
    std::fs::copy(kept, keepers.path("site/head.json")).unwrap();
    keepers.shell(again).exits(1).says("has begun");
    // The log can be read across the gap in numbers.
    keepers.shell("mcpfs-signer inspect log --site $SITE --trust trust.json").ok().says("new-epoch").says("revoke");
}

/// The daily timer signs what the thief left in head.json. Without a word the next epoch would begin with it.
fn a_theft_that_was_noticed_late() {
    let keepers = Keepers::from_the_first_day();
    let first = keepers.statement();
    keepers.recipe("hello", "1.1.0");
    keepers.release("hello", "hsm-a", &[("hsm-a", "release"), ("hsm-b", "release")]).ok();
    let good = forge::payload_sha256(&forge::read(&keepers.path("site/head.json")));
    let resign = "mcpfs-signer publish --resign --site $SITE --trust trust.json --head-key \"$(key hsm-b head)\"";
    let quiet = keepers.shell(resign).ok();
    assert!(!quiet.text().contains("not made by this signer"), "{quiet}");
    let good_now = forge::payload_sha256(&forge::read(&keepers.path("site/head.json")));
    assert_ne!(good, good_now);

    // The thief's head names the catalogue of before 1.1.0, and the timer signs it again, day after day.
    let id = keepers.id("hsm-a", "head");
    forge::resign(&keepers.path("site/head.json"), &keepers.hsm, "hsm-a/head", &id, |statement| {
        statement["subject"] = first["subject"].clone();
        let (head, size) = (&mut statement["predicate"], first["predicate"]["catalogue"].clone());
        head["catalogue"] = size;
        head["version"] = (head["version"].as_u64().unwrap() + 1).into();
        head["previous"] = good_now.clone().into();
    });
    keepers.shell(resign).ok().says("not made by this signer");
    let again = keepers.shell(resign).ok();
    assert!(!again.text().contains("not made by this signer"), "its own one: {again}");

    let script = &keepers::blocks("A head key was stolen")[0];
    let refused = keepers.shell(script).exits(1).says("it did not make").says(&good_now);
    assert!(!refused.text().contains(&good), "{refused}");
    keepers
        .shell(&format!(
            "mcpfs-signer publish --resign --new-epoch trust-before.json --good-head {good_now} --site $SITE \
             --trust trust.json --head-key \"$(key hsm-b head)\""
        ))
        .ok();
    keepers.verified();
    let (_site, host) = keepers.host();
    let _mount = Mount::start(&host);
    host.refresh();
    runs(&host, "1.1.0");
}

fn a_stolen_release_key() {
    let keepers = Keepers::from_the_first_day();
    keepers.edit("--release-threshold 1").ok();
    keepers.recipe("hello", "1.1.0");
    keepers.release("hello", "hsm-b", &[("hsm-a", "release")]).ok();
    keepers.recipe("hello", "6.6.6");
    keepers.release("hello", "hsm-b", &[("hsm-a", "release")]).ok();
    let (_site, host) = keepers.host();
    let mount = Mount::start(&host);
    host.refresh();
    runs(&host, "6.6.6");

    keepers.recipe("hello", "1.0.0");
    keepers.types("A release key was stolen", 0);
    keepers.roll_out(&host, &mount);
    host.refresh();
    runs(&host, "1.0.0");
    // 1.1.0 was not looked at: it is signed by nobody whom the host believes.
    for (release, code) in [("hello@1.1.0", "KeyNotAuthorised"), ("hello@6.6.6", "Revoked")] {
        let explained = host.mcpfs(["explain", release]).run();
        assert!(explained.text().contains(code), "{explained}");
    }
    assert_eq!(errno(std::fs::read(host.at("hello/6.6.6/tree/README"))), libc::EACCES);
    // Nor does signing everything anew take it in.
    let all = keepers.shell(
        "mcpfs-signer --json countersign --all --site $SITE --trust trust.json --head-key \"$(key hsm-b head)\" \
         --key \"$(key hsm-d release)\"",
    );
    assert_eq!(all.ok().json()["signed"], serde_json::json!([]));
    // The revoked one is not signed by name either, and no other scope's key signs.
    let by_name = |what: &str, key: &str| {
        keepers.shell(&format!(
            "mcpfs-signer countersign {what} --site $SITE --trust trust.json --head-key \"$(key hsm-b head)\" --key \"$(key {key})\""
        ))
    };
    by_name("hello@6.6.6", "hsm-d release").exits(1).says("final");
    by_name("hello@1.1.0", "hsm-a release").exits(1).says("KeyNotAuthorised");
    by_name("hello@7.7.7", "hsm-d release").exits(1).says("7.7.7");
    by_name("nobody@1.0.0", "hsm-d release").exits(1).says("nobody");
}

/// Whoever has a head key can fill an envelope with copies of its one signature; the next key signs all the same.
fn a_full_envelope_makes_room() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    registry.generate("next");
    let next = registry.hsm().uri("next");
    registry.signer().args(["trust", "edit"]).arg(registry.trust()).args(["--add-release-key", &next]).ok();
    forge::replace_entry(&registry.site(), &registry, "hello", |entry| {
        let signatures = entry["signature"]["signatures"].as_array_mut().unwrap();
        *signatures = vec![signatures[0].clone(); 16];
    });
    registry.publishing("countersign").args(["--all", "--key", &next]).ok();
    let entry = forge::read(&registry.site().join("servers/hello.json"));
    let signers: Vec<&str> =
        entry["signature"]["signatures"].as_array().unwrap().iter().map(|one| one["keyid"].as_str().unwrap()).collect();
    assert_eq!(signers, [registry.hsm().key_id(RELEASE_KEY), registry.hsm().key_id("next")]);
}

fn a_lost_token() {
    let keepers = Keepers::from_the_first_day();
    let (head, release) = (keepers.id("hsm-a", "head"), keepers.id("hsm-a", "release"));
    let (_site, host) = keepers.host();
    let mount = Mount::start(&host);
    host.refresh();
    keepers.hsm.lose_token("hsm-a");
    keepers.release("hello", "hsm-a", &[]).exits(1).says("hsm-a");
    let script = &keepers::blocks("A token is lost")[0];
    keepers.shell(script).env("LOST_HEAD", &head[..12]).env("LOST_RELEASE", &release[..12]).ok();
    keepers.verified();
    host.refresh();
    keepers.roll_out(&host, &mount);
    host.refresh();
    runs(&host, "1.0.0");
    keepers.recipe("hello", "1.1.0");
    keepers.release("hello", "hsm-d", &[("hsm-b", "release"), ("hsm-d", "release")]).ok();
    host.refresh();
    runs(&host, "1.1.0");
    audit::no_refusals(&host);
}

fn unsafe_trust_roots_are_refused() {
    let keepers = Keepers::from_the_first_day();
    let before = std::fs::read(keepers.path("trust.json")).unwrap();
    for (options, code) in [
        ("--head-threshold 3", "threshold-unmet"),
        ("--remove-key \"$(key hsm-a head)\" --remove-key \"$(key hsm-b head)\"", "no-key"),
        ("--add-release-key \"$(key hsm-a head)\"", "both-roles"),
        ("--remove-scope '*'", "no-scope"),
        ("--to-version 1 --minimum-head 5", "version-not-raised"),
        ("--scope \"x = 1 of $(key hsm-a release) and 1 of $(key hsm-a release)\"", "one-for-two-groups"),
    ] {
        let ran = keepers.edit(options).exits(1);
        assert_eq!(ran.json()["problems"][0]["code"], code, "{ran}");
        assert_eq!(ran.json()["written"], false);
    }
    // A key that anybody can sign for, and one that is not there.
    keepers.edit("--add-head-key AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").exits(2).says("neither");
    keepers.edit("--remove-key 00000000").exits(2).says("no key of this trust root");
    assert_eq!(std::fs::read(keepers.path("trust.json")).unwrap(), before);
    // Shown and not written; then written, and taken by a host.
    let wanted = "--add-head-key \"$(key hsm-c release)\" --remove-key \"$(key hsm-c release)\"";
    // A key may move from one role to the other, in one step.
    let moved = keepers.edit(&format!("{wanted} --dry-run")).ok().json();
    assert!(moved["changes"].to_string().contains("~ heads"), "{moved}");
    keepers
        .edit(&wanted.replace(" --remove-key", " --comment x --remove-scope x --remove-key"))
        .exits(2)
        .says("no scope x");
    let dry = keepers.edit("--minimum-head 2 --dry-run").ok().json();
    assert_eq!((&dry["written"], &dry["version"]), (&false.into(), &2.into()));
    assert_eq!(std::fs::read(keepers.path("trust.json")).unwrap(), before);
    let done = keepers.edit("--minimum-head 1 --comment x").ok().json();
    assert_eq!((&done["written"], &done["changes"]), (&false.into(), &serde_json::json!([])));
    std::fs::write(keepers.path("old.json"), &before).unwrap();
    keepers.edit("--head-threshold 2").ok();
    let diff = keepers.shell("mcpfs-signer --json trust diff old.json trust.json").ok().json();
    assert_eq!(diff["changes"].as_array().unwrap().len(), 2, "{diff}");
    keepers.shell("mcpfs-signer trust diff trust.json old.json").exits(1).says("version-not-raised");
    // The head that the site offers has one signature.
    let ran = keepers.shell("mcpfs-signer trust diff old.json trust.json --site $SITE").exits(1);
    let ran = ran.says("1 of the 2 required signatures");
    assert!(ran.text().contains("the head"), "{ran}");
}
