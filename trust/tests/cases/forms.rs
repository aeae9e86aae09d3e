//! Vectors of JSON that has the meaning of a good text and another form: each is refused, so that
//! two readers never see two things in one text (docs/format.md section 2).

use mcpfs_trust::catalogue::{Bin, Catalogue};
use mcpfs_trust::digest::Digest;
use mcpfs_trust::entry::Entry;
use mcpfs_trust::release::{Network, Release, Sandbox};
use serde_json::{Value, json};

use super::{Add, Bytes, Input};
use crate::support::{self, HEAD, NOW, TEAM, time};

/// A file name, what is wrong, and the change of the good JSON that makes it so.
type Edit = (&'static str, &'static str, fn(&mut Value));

/// A file name, what is wrong, what the release says, and how its JSON spells it.
type Spelling = (&'static str, &'static str, fn(&mut Release), fn(&mut Value));

/// The object's values without their names: what a derived reader also takes for the object.
fn positional(object: &Value) -> Value {
    object.as_object().unwrap().values().cloned().collect()
}

/// A release as a list, in the order of docs/format.md section 8, absent fields as null or [].
fn release_list(release: &Value) -> Value {
    const NAMES: [(&str, &str); 16] = [
        ("registry", ""),
        ("name", ""),
        ("version", ""),
        ("maintainer", ""),
        ("description", ""),
        ("scope", "[]"),
        ("data_classification", ""),
        ("lawful_basis", "null"),
        ("reviewed_at", ""),
        ("reviewers", ""),
        ("artefact", ""),
        ("launch", "null"),
        ("credentials", "[]"),
        ("sandbox", "null"),
        ("source", "null"),
        ("issued", ""),
    ];
    let value = |(name, absent): (&str, &str)| match release.get(name) {
        Some(value) => value.clone(),
        None => serde_json::from_str(absent).unwrap(),
    };
    NAMES.into_iter().map(value).collect()
}

pub(crate) fn all(add: &mut Add<'_>) {
    trust_roots(add);
    heads(add);
    releases(add);
}

fn trust_roots(add: &mut Add<'_>) {
    let mut root = |name: &str, about: &str, bytes: Vec<u8>| {
        add(&format!("trust-{name}"), about, "Malformed", Input::TrustRoot { bytes: Bytes(bytes), seen: None });
    };
    let good: Value = serde_json::from_slice(&support::root().encode()).unwrap();
    let edits: [Edit; 8] = [
        ("as-array", "the root as a list of its values", |v| *v = positional(v)),
        ("key-as-array", "a key as a list of its values", |v| v["keys"][0] = positional(&v["keys"][0])),
        ("role-as-array", "the head role as a list of its values", |v| v["head"] = positional(&v["head"])),
        ("rule-as-array", "a rule as a list of its values", |v| v["release"][0] = positional(&v["release"][0])),
        ("group-as-array", "a group of a rule as a list of its values", |v| {
            let group = &mut v["release"][0]["require"][0];
            *group = positional(group);
        }),
        ("algorithm-object", "a word as an object with that one name", |v| {
            v["keys"][0]["algorithm"] = json!({"ed25519": null});
        }),
        ("comment-empty", "a comment that says nothing instead of none", |v| v["keys"][0]["comment"] = json!("")),
        ("threshold-text", "a number as a text", |v| v["head"]["threshold"] = json!("1")),
    ];
    for (name, about, edit) in edits {
        let mut value = good.clone();
        edit(&mut value);
        root(name, about, serde_json::to_vec_pretty(&value).unwrap());
    }
    let text = String::from_utf8(support::root().encode()).unwrap();
    let with = |what: &str, other: &str| text.replacen(what, other, 1).into_bytes();
    root("number-exponent", "3 as 3e0", with("\"version\": 3,", "\"version\": 3e0,"));
    root("number-fraction", "3 as 3.0", with("\"version\": 3,", "\"version\": 3.0,"));
    root("duplicate-deep", "a threshold twice", with("\"threshold\": 1", "\"threshold\": 1, \"threshold\": 1"));
}

fn heads(add: &mut Add<'_>) {
    let catalogue = b"{}\n";
    let payload = support::head_payload(support::head_predicate(catalogue), catalogue);
    let mut head = |name: &str, about: &str, head: Vec<u8>| {
        let trust = Bytes(support::root().encode());
        let input = Input::Head { trust, head: Bytes(head), floor: None, signed_time: None, now: time(NOW) };
        add(&format!("head-{name}"), about, "Malformed", input);
    };
    let envelopes: [Edit; 3] = [
        ("as-array", "the envelope as a list of its values", |v| *v = positional(v)),
        ("signature-as-array", "a signature as a list of its values", |v| {
            v["signatures"][0] = positional(&v["signatures"][0]);
        }),
        ("signatures-null", "null for the signatures", |v| v["signatures"] = Value::Null),
    ];
    for (name, about, edit) in envelopes {
        let mut envelope = serde_json::to_value(support::sign(payload.clone(), &[HEAD])).unwrap();
        edit(&mut envelope);
        head(name, about, serde_json::to_vec(&envelope).unwrap());
    }
    let statements: [Edit; 5] = [
        ("statement-as-array", "the statement as a list of its values", |v| *v = positional(v)),
        ("predicate-as-array", "the predicate as a list of its values", |v| {
            v["predicate"] = positional(&v["predicate"])
        }),
        ("subject-as-array", "a subject as a list of its values", |v| v["subject"][0] = positional(&v["subject"][0])),
        ("size-as-array", "the catalogue's size as a list", |v| {
            v["predicate"]["catalogue"] = positional(&v["predicate"]["catalogue"]);
        }),
        ("previous-null", "null for no head before it", |v| v["predicate"]["previous"] = Value::Null),
    ];
    for (name, about, edit) in statements {
        let mut statement: Value = serde_json::from_slice(&payload).unwrap();
        edit(&mut statement);
        head(name, about, support::sign(serde_json::to_vec(&statement).unwrap(), &[HEAD]).encode());
    }
}

fn releases(add: &mut Add<'_>) {
    let mut case = |name: &str, about: &str, site: support::Site| {
        let input = Input::Release {
            trust: Bytes(support::root().encode()),
            head: Bytes(site.head),
            catalogue: Bytes(site.catalogue),
            bin: Bytes(site.bin),
            entry: Bytes(site.entry),
            now: time(NOW),
            name: "postgres".parse().unwrap(),
            pin: None,
            platform: "linux/amd64".parse().unwrap(),
            published: None,
        };
        add(&format!("release-{name}"), about, "Malformed", input);
    };
    let good = support::site("postgres", support::entry("postgres").encode());
    let edited = |bytes: &[u8], edit: fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(bytes).unwrap();
        edit(&mut value);
        serde_json::to_vec(&value).unwrap()
    };
    let linked = |catalogue: Vec<u8>, bin: Vec<u8>| {
        let payload = support::head_payload(support::head_predicate(&catalogue), &catalogue);
        support::Site { head: support::sign(payload, &[HEAD]).encode(), catalogue, bin, entry: good.entry.clone() }
    };
    case(
        "catalogue-as-array",
        "the catalogue as a list of its values",
        linked(edited(&good.catalogue, |v| *v = positional(v)), good.bin.clone()),
    );
    case(
        "catalogue-bin-as-array",
        "a bin's digest and size as a list",
        linked(edited(&good.catalogue, |v| v["bins"][0] = positional(&v["bins"][0])), good.bin.clone()),
    );
    let with_bin = |edit: fn(&mut Value)| {
        let bin = edited(&good.bin, edit);
        Bin::parse(&good.bin, 0, 1).unwrap();
        let mut catalogue = Catalogue::parse(&good.catalogue).unwrap();
        catalogue.bins[0].sha256 = Digest::of(&bin);
        catalogue.bins[0].size = bin.len() as u64;
        linked(catalogue.encode(), bin)
    };
    case("bin-as-array", "the bin as a list of its values", with_bin(|v| *v = positional(v)));
    case(
        "bin-server-as-array",
        "a server of a bin as a list of its values",
        with_bin(|v| v["servers"][0] = positional(&v["servers"][0])),
    );

    let entries: [Edit; 12] = [
        ("entry-as-array", "the entry as a list of its values", |v| *v = positional(v)),
        ("entry-envelope-as-array", "its envelope as a list of its values", |v| {
            v["signature"] = positional(&v["signature"]);
        }),
        ("entry-layout-as-array", "a layout as a list of its values", |v| {
            v["layout"][0] = positional(&v["layout"][0]);
        }),
        ("entry-chunk-as-array", "a chunk as a list of its values", |v| {
            v["layout"][0]["tree"][0] = positional(&v["layout"][0]["tree"][0]);
        }),
        ("entry-artefact-as-array", "the readable artefact as a list of its values", |v| {
            v["artefact"] = positional(&v["artefact"]);
        }),
        ("entry-tree-as-array", "the readable summary of the tree as a list", |v| {
            v["artefact"]["tree"] = positional(&v["artefact"]["tree"]);
        }),
        ("entry-launch-as-array", "the readable launch as a list of its values", |v| {
            let launch = &v["launch"];
            v["launch"] = json!([launch["command"], launch["args"], launch["env"], false, "host", null]);
        }),
        ("entry-status-object", "a word as an object with that one name", |v| v["status"] = json!({"active": null})),
        ("entry-earlier-empty", "an empty list instead of none", |v| v["earlier"] = json!([])),
        ("entry-first-empty", "no first chunks, written out", |v| v["layout"][0]["first"] = json!([])),
        ("entry-details-null", "null for no details", |v| v["details"] = Value::Null),
        ("entry-reason-null", "null for no reason", |v| v["reason"] = Value::Null),
    ];
    for (name, about, edit) in entries {
        case(name, about, support::site("postgres", edited(&good.entry, edit)));
    }

    // The same in what is signed, beside a readable part that says it in the one form: readers that
    // differ here would run different things.
    let predicates: [Spelling; 7] = [
        ("predicate-as-array", "the signed predicate as a list of its values", |_| (), |v| *v = release_list(v)),
        ("artefact-list-of-one", "one artefact in a list", |_| (), |v| v["artefact"] = json!([v["artefact"]])),
        (
            "lawful-basis-null",
            "null for no legal ground",
            |release| release.lawful_basis = None,
            |v| v["lawful_basis"] = Value::Null,
        ),
        (
            "args-empty",
            "an empty list of arguments instead of none",
            |release| release.launch.as_mut().unwrap().args.clear(),
            |v| v["launch"]["args"] = json!([]),
        ),
        ("runtime-default", "the usual runtime, written out", |_| (), |v| v["launch"]["runtime"] = json!("host")),
        (
            "sandbox-empty",
            "a sandbox whose fields are missing",
            |release| release.sandbox = Some(sandbox(Network::None)),
            |v| v["sandbox"] = json!({}),
        ),
        (
            "network-object",
            "a word as an object with that one name",
            |release| release.sandbox = Some(sandbox(Network::Host)),
            |v| v["sandbox"]["network"] = json!({"host": null}),
        ),
    ];
    for (name, about, say, spell) in predicates {
        let mut release = support::release("postgres", "1.2.0");
        say(&mut release);
        let mut statement: Value = serde_json::from_slice(&support::release_payload(&release)).unwrap();
        spell(&mut statement["predicate"]);
        let mut listed = support::listed(release, &[]);
        listed.envelope = support::sign(serde_json::to_vec(&statement).unwrap(), &[TEAM]);
        let entry = Entry { selected: listed, earlier: vec![] };
        case(name, about, support::site("postgres", entry.encode()));
    }
}

fn sandbox(network: Network) -> Sandbox {
    Sandbox { network, read: vec![], write: vec![] }
}
