//! One thing has one JSON form: every other spelling of every value of every document is refused.
//!
//! serde's derived readers take more than its writers write. Here each value of a document that
//! uses every field is spelt in the other ways that some reader of serde's takes, one at a time;
//! and documents made of each other's parts at random are refused or are what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::LazyLock;

use mcpfs_trust::catalogue::{Bin, Catalogue};
use mcpfs_trust::entry::{Entry, Status};
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::head::{HEAD_TYPE, Head};
use mcpfs_trust::release::{AcceptArgs, Credential, Network, RELEASE_TYPE, Release, Runtime, Sandbox, Source};
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::statement::Statement;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A kind of document: its name, a text that uses all of its fields, and what a reader makes of
/// one, written again.
struct Kind {
    name: &'static str,
    good: Value,
    again: fn(&[u8]) -> Option<Vec<u8>>,
}

fn full_release(version: &str) -> Release {
    let mut release = support::release("postgres", version);
    let launch = release.launch.as_mut().unwrap();
    launch.accept_args = AcceptArgs::Matching(vec!["--port=*".into()]);
    launch.runtime = Runtime::Image;
    launch.platform = Some("linux/amd64".parse().unwrap());
    let credential = |env: Option<&str>, file: Option<&str>| Credential {
        env: env.map(str::to_owned),
        file: file.map(str::to_owned),
        reference: "vault".into(),
        scope: Some("read".into()),
    };
    release.credentials = vec![credential(Some("TOKEN"), None), credential(None, Some("token"))];
    release.sandbox = Some(Sandbox { network: Network::Host, read: vec!["/srv".into()], write: vec!["/tmp".into()] });
    release.source = Some(Source {
        repository: "https://git.example.com/mcp".into(),
        commit: "0123456789abcdef".into(),
        pull_request: Some("https://git.example.com/mcp/1".into()),
        approvals: vec!["security@example.com".into()],
    });
    release
}

fn full_entry() -> Entry {
    let mut selected = support::listed(full_release("1.2.0"), &[support::TEAM]);
    selected.status = Status::Yanked;
    selected.reason = Some("too slow".into());
    Entry { selected, earlier: vec![support::listed(full_release("1.1.0"), &[support::TEAM])] }
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let site = support::site("postgres", full_entry().encode());
    let good = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    let head: Envelope = serde_json::from_slice(&site.head).unwrap();
    vec![
        Kind {
            name: "trust root",
            good: good(&support::root().encode()),
            again: |bytes| TrustRoot::parse(bytes).ok().map(|root| root.encode()),
        },
        Kind {
            name: "envelope",
            good: good(&site.head),
            again: |bytes| Envelope::parse(bytes, 1 << 20, "test").ok().map(|envelope| envelope.encode()),
        },
        Kind {
            name: "head",
            good: good(&head.payload),
            again: |bytes| Statement::<Head>::parse(bytes, HEAD_TYPE).ok().map(|head| head.encode(HEAD_TYPE)),
        },
        Kind {
            name: "catalogue",
            good: good(&site.catalogue),
            again: |bytes| Catalogue::parse(bytes).ok().map(|catalogue| catalogue.encode()),
        },
        Kind {
            name: "bin",
            good: good(&site.bin),
            again: |bytes| Bin::parse(bytes, 0, 1).ok().map(|bin| bin.encode()),
        },
        Kind {
            name: "entry",
            good: good(&site.entry),
            again: |bytes| Entry::parse(bytes).ok().map(|entry| entry.encode()),
        },
        Kind {
            name: "release",
            good: good(&support::release_payload(&full_release("1.2.0"))),
            again: |bytes| {
                Statement::<Release>::parse(bytes, RELEASE_TYPE).ok().map(|release| release.encode(RELEASE_TYPE))
            },
        },
    ]
});

/// The JSON pointers of a value and of all that lies in it.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(name, inner)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            pointers(inner, &format!("{at}/{name}"), out);
        }),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, inner)| pointers(inner, &format!("{at}/{index}"), out));
        }
        _ => (),
    }
}

/// What else a lenient reader would take for `value`.
fn other_spellings(value: &Value) -> Vec<Value> {
    let mut others = vec![json!([value]), json!({"value": value})];
    match value {
        Value::Object(map) => {
            others.push(map.values().cloned().collect());
            // A derived reader wants all fields of the list; those that are absent are null or [].
            for absent in [Value::Null, json!([])] {
                others.extend((1..4).map(|more| map.values().cloned().chain(vec![absent.clone(); more]).collect()));
            }
            others.push(map.iter().map(|(name, value)| json!([name, value])).collect());
        }
        Value::String(text) => {
            others.push(json!({ text.as_str(): null }));
            others.push(text.bytes().map(Value::from).collect());
            others.push(json!(0));
        }
        Value::Number(number) => {
            others.push(Value::String(number.to_string()));
            others.push(json!(number.as_f64().unwrap()));
        }
        _ => (),
    }
    others
}

/// Every value of every kind of document, spelt in every other way.
#[test]
fn no_second_spelling_of_any_value() {
    let mut count = 0;
    for Kind { name, good, again } in KINDS.iter() {
        assert_eq!(form(&again(good.to_string().as_bytes()).expect(name)), *good, "{name}");
        let mut places = Vec::new();
        pointers(good, "", &mut places);
        for place in places {
            for spelling in other_spellings(good.pointer(&place).unwrap()) {
                let mut bad = good.clone();
                *bad.pointer_mut(&place).unwrap() = spelling.clone();
                assert_eq!(again(bad.to_string().as_bytes()), None, "{name}: {place} as {spelling}");
                count += 1;
            }
        }
    }
    assert!(count > 1500, "{count} spellings");
}

/// Every field that is there, absent; and every object with what absent fields stand for.
#[test]
fn absent_has_one_spelling() {
    let absent = [Value::Null, json!([]), json!({}), json!(""), json!(false), json!(0), json!("host"), json!("none")];
    for Kind { name, good, again } in KINDS.iter() {
        let mut places = Vec::new();
        pointers(good, "", &mut places);
        for place in places.iter().filter(|place| !place.is_empty()) {
            let (parent, field) = place.rsplit_once('/').unwrap();
            for stands_for in [None].into_iter().chain(absent.iter().map(Some)) {
                let mut text = good.clone();
                let Value::Object(object) = text.pointer_mut(parent).unwrap() else { continue };
                match stands_for {
                    None => _ = object.shift_remove(field),
                    Some(value) => _ = object.insert(field.to_owned(), value.clone()),
                }
                // Refused, or it says something else and is written as it says it.
                if let Some(again) = again(text.to_string().as_bytes()) {
                    assert_eq!(form(&again), text, "{name}: {place} as {stands_for:?}");
                }
            }
        }
    }
}

fn form(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// An envelope may have what this version does not know; all else is compared as it stands.
fn known_alone(value: &mut Value) {
    const KNOWN: [&str; 5] = ["payloadType", "payload", "signatures", "keyid", "sig"];
    match value {
        Value::Object(map) => {
            if map.contains_key("payloadType") || map.contains_key("keyid") {
                map.retain(|name, _| KNOWN.contains(&name.as_str()));
            }
            map.values_mut().for_each(known_alone);
        }
        Value::Array(list) => list.iter_mut().for_each(known_alone),
        _ => (),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Parts of good documents in each other's places: refused, or the one form of what they say.
    #[test]
    fn what_is_read_is_what_stands_there(
        kind in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..4), 1..4),
    ) {
        let Kind { name, good, again } = kind.get(&KINDS[..]);
        let mut text = good.clone();
        for (from, to, how) in &edits {
            let mut places = Vec::new();
            pointers(&text, "", &mut places);
            let part = text.pointer(&places[from.index(places.len())]).unwrap().clone();
            let place = &places[to.index(places.len())];
            let others = other_spellings(&part);
            let put = if *how == 0 { others[from.index(others.len())].clone() } else { part };
            match (text.pointer_mut(place).unwrap(), how) {
                (Value::Array(list), 1) => list.push(put),
                (Value::Object(map), 1) => _ = map.insert("first".to_owned(), put),
                (Value::Array(list), 2) => _ = list.pop(),
                (Value::Object(map), 2) => {
                    let last = map.keys().next_back().cloned();
                    drop(last.map(|name| map.shift_remove(&name)));
                }
                (there, _) => *there = put,
            }
        }
        if let Some(again) = again(text.to_string().as_bytes()) {
            known_alone(&mut text);
            prop_assert_eq!(form(&again), text, "{}", name);
        }
    }
}
