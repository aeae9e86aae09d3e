//! A zoo of archives, good and hostile, built byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(super) mod tars;
mod zips;

use std::io::Write as _;

use super::*;

/// Reads bytes as an artefact.
fn open(bytes: &[u8]) -> Result<Archive, UnpackError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    unpack(file, &std::env::temp_dir())
}

/// `path`, and what it is: `d`, `f644:content`, `f755:content` or `l:target`.
pub(super) fn listing(archive: &Archive) -> Vec<(String, String)> {
    let kind = |entry: &Unpacked| match &entry.kind {
        UnpackedKind::Directory => "d".to_owned(),
        UnpackedKind::Link { target } => format!("l:{target}"),
        UnpackedKind::File { executable, size, sha256 } => {
            let mut content = Vec::new();
            archive.spool.reader(sha256).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content.len() as u64, *size);
            assert_eq!(Digest::of(&content), *sha256);
            format!("f{}:{}", if *executable { 755 } else { 644 }, String::from_utf8_lossy(&content))
        }
    };
    archive.entries.iter().map(|entry| (entry.path.clone(), kind(entry))).collect()
}

fn shows(archive: &Archive, want: &[(&str, &str)]) {
    let want: Vec<(String, String)> = want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(listing(archive), want);
}

/// Reads bytes that must be refused for `reason`.
fn refused(name: &str, bytes: &[u8], reason: &str) {
    match open(bytes) {
        Ok(archive) => panic!("{name}: taken, {} entries", archive.entries.len()),
        Err(error) => {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            assert!(text.contains(reason), "{name}: {text:?} does not say {reason:?}");
        }
    }
}

#[test]
fn formats_are_told_by_content() {
    refused("empty", b"", "begins with nothing");
    refused("text", b"#!/bin/sh\necho hello", "not a .tar");
    refused("elf", b"\x7fELF\x02\x01\x01\0", "7f 45 4c 46");
    refused("zeros", &[0; 10_240], "not a .tar");
    refused("gzip of text", &tars::gzip(b"just a text, long enough to be a header block".repeat(20).as_slice()), "");
    refused("empty tar in gzip", &tars::gzip(&[0; 1024]), "empty");
    refused("random behind a gzip magic", b"\x1f\x8b\x08\0\0\0\0\0\0\0\xff\xff\xff", "damaged");
    refused("cut zstd", b"\x28\xb5\x2f\xfd\x04", "damaged");
}
