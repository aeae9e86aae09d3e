//! Vectors of releases: what a host is asked for, and the way from its head to the statement.

use mcpfs_trust::catalogue::{Bin, BinServer, Blob, Catalogue};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::{Entry, Status};
use mcpfs_trust::release::{RELEASE_TYPE, Release, Runtime};
use mcpfs_trust::statement::{Statement, Subject};
use serde_json::{Value, json};

use super::metadata::{Edit, edited_root, root_bytes};
use super::{Add, Bytes, Input, Pinned};
use crate::support::{self, APPROVER, HEAD, NOW, SECOND, STRANGER, TEAM, time};

/// What a host is asked for; the defaults are the good case.
struct Ask {
    name: &'static str,
    pin: Option<Pinned>,
    platform: &'static str,
    published: Option<Digest>,
    trust: Bytes,
    site: support::Site,
}

impl Ask {
    fn of(entry: &Entry) -> Self {
        Self::bytes("postgres", entry.encode())
    }

    fn bytes(name: &'static str, entry: Vec<u8>) -> Self {
        Self {
            name,
            pin: None,
            platform: "linux/amd64",
            published: None,
            trust: Bytes(root_bytes()),
            site: support::site(name, entry),
        }
    }

    fn pinned(mut self, version: &str, artefact: Option<Digest>) -> Self {
        self.pin = Some(Pinned { version: version.parse().unwrap(), artefact });
        self
    }

    fn input(self) -> Input {
        Input::Release {
            trust: self.trust,
            head: Bytes(self.site.head),
            catalogue: Bytes(self.site.catalogue),
            bin: Bytes(self.site.bin),
            entry: Bytes(self.site.entry),
            now: time(NOW),
            name: self.name.parse().unwrap(),
            pin: self.pin,
            platform: self.platform.parse().unwrap(),
            published: self.published,
        }
    }
}

/// An entry of one release that somebody signed.
fn entry_of(release: Release, who: &[usize]) -> Entry {
    Entry { selected: support::listed(release, who), earlier: vec![] }
}

fn named(name: &str, who: &[usize]) -> Vec<u8> {
    entry_of(support::release(name, "1.2.0"), who).encode()
}

pub(crate) fn releases(add: &mut Add<'_>) {
    let mut case = |name: &str, about: &str, outcome: &str, ask: Ask| {
        add(&format!("release-{name}"), about, outcome, ask.input());
    };
    let good = || support::entry("postgres");
    case("good", "the selected release", "ok", Ask::of(&good()));
    let image = |runtime, workdir: &str| {
        let mut release = support::release("postgres", "1.2.0");
        if let Some(launch) = &mut release.launch {
            (launch.runtime, launch.workdir) = (runtime, Some(workdir.to_owned()));
        }
        Ask::of(&entry_of(release, &[TEAM]))
    };
    case("image-workdir", "an image that starts in /usr/src/app", "ok", image(Runtime::Image, "/usr/src/app"));
    case("workdir-climbs", "an image that starts above its root", "Malformed", image(Runtime::Image, "/app/.."));
    case("workdir-host", "a server of the host's root with a workdir", "Malformed", image(Runtime::Host, "/app"));
    case("pinned", "an earlier one, pinned", "ok", Ask::of(&good()).pinned("1.1.0", None));
    let digest = Digest::of(b"postgres 1.1.0");
    case("pinned-digest", "pinned with its artefact's digest", "ok", Ask::of(&good()).pinned("1.1.0", Some(digest)));
    let mut known = Ask::of(&good());
    known.published = Some(good().selected.envelope.statement());
    case("known", "the statement this host has seen", "ok", known);
    case("two-groups", "team and approver signed", "ok", Ask::bytes("pay-roll", named("pay-roll", &[TEAM, APPROVER])));
    case("two-of-two", "both signed", "ok", Ask::bytes("solo", named("solo", &[TEAM, SECOND])));
    let mut extra = good();
    support::sign_more(&mut extra.selected.envelope, STRANGER, support::id(STRANGER));
    case("extra-signature", "a stranger signed too: that changes nothing", "ok", Ask::of(&extra));
    let mut wrong_hint = good();
    wrong_hint.selected.envelope.signatures[0].keyid = support::id(STRANGER);
    case("wrong-key-hint", "a key id is a hint and decides nothing", "ok", Ask::of(&wrong_hint));

    case(
        "stranger",
        "signed by a key nobody knows",
        "KeyNotAuthorised",
        Ask::of(&entry_of(support::release("postgres", "1.2.0"), &[STRANGER])),
    );
    case(
        "head-key",
        "signed by the head key",
        "KeyNotAuthorised",
        Ask::of(&entry_of(support::release("postgres", "1.2.0"), &[HEAD])),
    );
    case("one-of-two", "one of two signed", "ThresholdNotMet", Ask::bytes("solo", named("solo", &[TEAM])));
    let mut twice = entry_of(support::release("solo", "1.2.0"), &[TEAM]);
    support::sign_more(&mut twice.selected.envelope, TEAM, support::id(SECOND));
    case(
        "one-key-twice",
        "one key signed twice, once under another's id",
        "ThresholdNotMet",
        Ask::bytes("solo", twice.encode()),
    );
    case(
        "no-approver",
        "the approver is missing",
        "KeyNotAuthorised",
        Ask::bytes("pay-roll", named("pay-roll", &[TEAM])),
    );
    let mut forged = good();
    forged.selected.envelope.payload[200] ^= 1;
    case("bad-payload", "one bit of the statement", "SignatureInvalid", Ask::of(&forged));
    let mut payload = good();
    payload.selected.envelope.payload_type = "text/plain".into();
    case("payload-type", "another payload type", "WrongPredicate", Ask::of(&payload));
    let mut head = good();
    let catalogue = b"{}\n";
    head.selected.envelope =
        support::sign(support::head_payload(support::head_predicate(catalogue), catalogue), &[TEAM]);
    case("head-as-release", "a head signed by a release key", "WrongPredicate", Ask::of(&head));
    let mut release = support::release("postgres", "1.2.0");
    release.registry = "mcp.example.com/staging".parse().unwrap();
    case("other-registry", "signed for staging", "WrongRegistry", Ask::of(&entry_of(release, &[TEAM])));

    let mut readable = good();
    readable.selected.release.description = "Anything else.".into();
    case("readable-differs", "the readable description is another", "EntryMismatch", Ask::of(&readable));
    let mut swapped = good();
    swapped.selected.envelope = good().earlier[0].envelope.clone();
    case("version-swapped", "1.1.0's statement under 1.2.0", "EntryMismatch", Ask::of(&swapped));
    let mut other = good();
    other.selected.envelope = support::entry("mysql").selected.envelope;
    case("name-swapped", "another server's statement", "EntryMismatch", Ask::of(&other));
    let mut site = Ask::bytes("postgres", support::entry("mysql").encode());
    site.name = "postgres";
    case("entry-swapped", "another server's whole entry", "EntryMismatch", site);
    let mut changed = Ask::of(&good());
    changed.published = Some(Digest::of(b"another statement"));
    case("changed", "this version was published with another statement", "ReleaseChanged", changed);

    let mut withdrawn = good();
    withdrawn.selected.status = Status::Revoked;
    withdrawn.selected.reason = Some("CVE-2026-1234".into());
    case("revoked", "revoked", "Revoked", Ask::of(&withdrawn));
    case("revoked-pinned", "revoked, and pinned", "Revoked", Ask::of(&withdrawn).pinned("1.2.0", None));
    withdrawn.selected.status = Status::Yanked;
    case("yanked", "yanked", "Yanked", Ask::of(&withdrawn));
    case("yanked-pinned", "yanked, and pinned exactly", "ok", Ask::of(&withdrawn).pinned("1.2.0", None));
    case("pin-unknown", "a pin that is not there", "PinUnknown", Ask::of(&good()).pinned("9.9.9", None));
    let pinned = Ask::of(&good()).pinned("1.2.0", Some(Digest::of(b"another artefact")));
    case("pin-digest", "a pin to another artefact", "PinDigestMismatch", pinned);
    let mut arm = support::release("postgres", "1.2.0");
    let mut artefact = arm.artefact.all()[0].clone();
    artefact.platform = "linux/arm64".parse().unwrap();
    arm.artefact = mcpfs_trust::release::Artefacts::new(vec![artefact]).unwrap();
    let mut entry = entry_of(arm, &[TEAM]);
    entry.selected.layout[0].platform = "linux/arm64".parse().unwrap();
    case("platform", "only for another platform", "PlatformMissing", Ask::of(&entry));

    let statement = |edit: fn(&mut Release), subject: fn(&Release) -> Vec<Subject>| {
        let mut release = support::release("postgres", "1.2.0");
        edit(&mut release);
        let payload = Statement { subject: subject(&release), predicate: release.clone() }.encode(RELEASE_TYPE);
        let mut entry = entry_of(release, &[]);
        entry.selected.envelope = support::sign(payload, &[TEAM]);
        Ask::of(&entry)
    };
    case("no-subjects", "a statement about nothing", "Malformed", statement(|_| (), |_| vec![]));
    case(
        "other-subjects",
        "subjects that are not its trees",
        "Malformed",
        statement(
            |_| (),
            |release| {
                let mut subjects = release.subjects();
                subjects[1].digest = Digest::of(b"another tree");
                subjects
            },
        ),
    );
    case(
        "no-reviewers",
        "nobody reviewed it",
        "Malformed",
        statement(|release| release.reviewers.clear(), Release::subjects),
    );
    case(
        "command-outside",
        "a command above the tree",
        "Malformed",
        statement(|release| release.launch.as_mut().unwrap().command = "../../bin/sh".into(), Release::subjects),
    );
    case(
        "loader-variable",
        "LD_PRELOAD in the environment",
        "Malformed",
        statement(
            |release| drop(release.launch.as_mut().unwrap().env.insert("LD_PRELOAD".into(), "x.so".into())),
            Release::subjects,
        ),
    );
    let mut big = good();
    big.selected.envelope.payload = vec![b' '; 5000];
    case("payload-too-large", "5,000 bytes to verify", "PayloadTooLarge", Ask::of(&big));
    case("scope-denied", "a name that no scope covers", "ScopeDenied", {
        let mut ask = Ask::of(&good());
        ask.trust = edited_root(|value| value["release"][0]["scope"] = json!("my-*"));
        ask
    });
    broken_chain(&mut case);
    broken_entries(&mut case);
}

/// Files of the site that are not the ones the head leads to.
fn broken_chain(case: &mut dyn FnMut(&str, &str, &str, Ask)) {
    let with = |edit: fn(&mut support::Site)| {
        let mut ask = Ask::of(&support::entry("postgres"));
        edit(&mut ask.site);
        ask
    };
    case("catalogue-flipped", "one bit of the catalogue", "DigestMismatch", with(|site| site.catalogue[9] ^= 1));
    case("catalogue-longer", "a byte more", "SizeExceeded", with(|site| site.catalogue.push(b' ')));
    case("bin-flipped", "one bit of the bin", "DigestMismatch", with(|site| site.bin[9] ^= 1));
    case("bin-cut", "a byte less", "DigestMismatch", with(|site| _ = site.bin.pop()));
    case("entry-flipped", "one bit of the entry", "DigestMismatch", with(|site| site.entry[9] ^= 1));
    case("entry-longer", "a byte more", "SizeExceeded", with(|site| site.entry.push(b' ')));
    let rebuilt = |catalogue: Catalogue, bin: Bin| {
        let mut ask = Ask::of(&support::entry("postgres"));
        let (mut catalogue, bin) = (catalogue, bin.encode());
        catalogue.bins[0] = Blob { sha256: Digest::of(&bin), size: bin.len() as u64 };
        ask.site.bin = bin;
        ask.site.catalogue = catalogue.encode();
        let head = support::head_payload(support::head_predicate(&ask.site.catalogue), &ask.site.catalogue);
        ask.site.head = support::sign(head, &[HEAD]).encode();
        ask
    };
    let blob = Blob { sha256: Digest::EMPTY, size: 0 };
    let catalogue = |registry: &str| Catalogue::new(registry.parse().unwrap(), vec![blob]);
    let server = |name: &str| BinServer { name: name.parse().unwrap(), sha256: Digest::of(name.as_bytes()), size: 9 };
    let bin = || Bin::new(vec![server("postgres")]);
    let staging = rebuilt(catalogue("mcp.example.com/staging"), bin());
    case("catalogue-registry", "the staging registry's catalogue", "WrongRegistry", staging);
    let mut many = catalogue(support::REGISTRY);
    many.bins = vec![blob; 2];
    case("catalogue-two-bins", "two bins", "Malformed", rebuilt(many, bin()));
    let mut unsorted = Bin::new(vec![]);
    unsorted.servers = vec![server("postgres"), server("mysql")];
    case("bin-unsorted", "names out of order", "Malformed", rebuilt(catalogue(support::REGISTRY), unsorted));
    let mut twice = Bin::new(vec![]);
    twice.servers = vec![server("postgres"), server("postgres")];
    case("bin-duplicate", "one name twice", "Malformed", rebuilt(catalogue(support::REGISTRY), twice));
    let mut large = bin();
    large.servers[0].size = 2 << 20;
    case("bin-large-entry", "an entry of 2 MiB", "SizeExceeded", rebuilt(catalogue(support::REGISTRY), large));
}

/// Entries whose digest is right and whose form is not.
fn broken_entries(case: &mut dyn FnMut(&str, &str, &str, Ask)) {
    let edited = |edit: fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&support::entry("postgres").encode()).unwrap();
        edit(&mut value);
        Ask::bytes("postgres", serde_json::to_vec(&value).unwrap())
    };
    let bad: [Edit; 9] = [
        ("entry-unknown-field", "a field this version does not know", |v| v["extra"] = json!(1)),
        ("entry-schema", "another schema", |v| v["schema"] = json!("mcpfs.entry/v2")),
        ("entry-no-signature", "no signature", |v| drop(v.as_object_mut().unwrap().remove("signature"))),
        ("entry-status", "a status this version does not know", |v| v["status"] = json!("fine")),
        ("entry-duplicate-version", "one version twice", |v| {
            let again = v["earlier"][0].clone();
            v["earlier"].as_array_mut().unwrap().push(again);
        }),
        ("entry-mixed-names", "another server among the earlier ones", |v| v["earlier"][0]["name"] = json!("mysql")),
        ("entry-layout-platform", "a layout for a platform without artefact", |v| {
            v["layout"][0]["platform"] = json!("linux/arm64");
        }),
        ("entry-tree-chunks", "tree chunks that do not add up", |v| v["layout"][0]["tree"] = json!([])),
        ("entry-reserved-name", "a name that is reserved", |v| v["name"] = json!("node_modules")),
    ];
    for (name, about, edit) in bad {
        case(name, about, "Malformed", edited(edit));
    }
    let details = |size: u64| {
        let mut entry = support::entry("postgres");
        entry.selected.details = Some(Blob { sha256: Digest::of(b"details"), size });
        Ask::of(&entry)
    };
    case("entry-details", "an entry that names the details of its release", "ok", details(4 << 20));
    case("entry-details-huge", "details of more than 4 MiB", "SizeExceeded", details((4 << 20) + 1));
    let text = String::from_utf8(support::entry("postgres").encode()).unwrap();
    let twice = text.replacen("\"version\": \"1.2.0\",", "\"version\": \"9\", \"version\": \"1.2.0\",", 1);
    case("entry-duplicate-key", "version twice in the JSON", "Malformed", Ask::bytes("postgres", twice.into_bytes()));
    let html = b"<html><body>Sign in to the guest network</body></html>".to_vec();
    case("entry-html", "a page whose digest somebody put into the bin", "NotARegistry", Ask::bytes("postgres", html));
}
