//! JSON that readers disagree about, through every decoder of JSON here: none of it is read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "doors/mod.rs"]
mod doors;
mod json_edges;
mod support;

use doors::Door;
use mcpfs_trust::head::HEAD_TYPE;

fn every_edge_is_refused(what: &str, door: Door, sound: &[u8]) {
    assert!(door(sound), "{what}: the sound text is taken");
    let edges = json_edges::of(sound);
    for (change, text) in &edges {
        assert!(!door(text), "{what}: {change} is taken: {}", text.escape_ascii());
    }
    println!("{what}: {} texts, none taken", edges.len());
}

#[test]
fn in_every_signed_or_named_document() {
    let site = support::site("postgres", support::entry("postgres").encode());
    let root = support::root().encode();
    every_edge_is_refused("trust root", doors::trust_root, &root);
    every_edge_is_refused("head's envelope", doors::envelope, &site.head);
    every_edge_is_refused("catalogue", doors::catalogue, &site.catalogue);
    every_edge_is_refused("bin", doors::catalogue, &site.bin);
    every_edge_is_refused("entry", doors::entry, &site.entry);
    let head = support::head_payload(support::head_predicate(&site.catalogue), &site.catalogue);
    assert!(String::from_utf8_lossy(&head).contains(HEAD_TYPE));
    every_edge_is_refused("head's statement", doors::statement, &head);
    let release = support::release_payload(&support::release("postgres", "1.4.2"));
    every_edge_is_refused("release's statement", doors::statement, &release);
    let details = br#"{"schema":"mcpfs.details/v1","check":{"at":"2026-04-20T08:00:00Z","by":"mcpfs-signer 0.1.0",
        "warnings":1,"notes":3,"waivers":["w"],"looks":["trial"],"tools":[{"name":"query","description":"d"}]},
        "carried":[{"platform":"any","packages":[{"ecosystem":"npm","name":"zod","version":"4.1.0","licence":"MIT"}],
        "unreadable":1}]}"#;
    every_edge_is_refused("details", doors::details, details);
}

/// What RFC 8259 lets a writer choose is read: white space, order, escapes, and a surrogate pair for one character.
#[test]
fn the_freedoms_of_json_are_free() {
    let text = String::from_utf8(support::root().encode()).unwrap();
    let spaced = text.replace(':', " \t:\r\n").replace("key 1", "k\\u0065y\\u0020\\ud83d\\ude00");
    assert!(spaced.contains("\\ud83d"), "a comment was changed");
    assert!(doors::trust_root(spaced.as_bytes()));
}
