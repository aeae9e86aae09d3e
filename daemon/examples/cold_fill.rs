//! How long a cold launch waits for its content: 4,000 small files (20 MB) from a web server
//! on this host, opened one after another as an interpreter does, and the rest behind them.
//!
//! `cargo run --release -p mcpfs --example cold_fill [DIRECTORY]`; the cache is made below
//! DIRECTORY (default: the present one) on the file system that is to be measured. ext4 gives
//! out inodes slowly after thousands of deletions: all rounds are kept until the end, and a
//! second run soon after the first shows that effect instead of ours.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use mcpfs::content::{Content, ContentSettings, ReleaseContent};
use mcpfs::site::{Site, SiteSettings};
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::Digest;
use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::site::object;
use mcpfs_trust::tree::TreeBuilder;

const FILES: usize = 4000;
/// Files that a launch touches, spread over the tree.
const TOUCHED: usize = 300;
const FILE: usize = 5000;
const CHUNK: usize = 1 << 20;

type Objects = HashMap<String, Vec<u8>>;

fn main() -> Result<()> {
    let (release, objects) = release()?;
    let stored: usize = objects.values().map(Vec::len).sum();
    println!("{FILES} files, {} bytes, {} objects of {stored} bytes", FILES * FILE, objects.len());
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let objects = Arc::new(objects);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = objects.clone();
            std::thread::spawn(move || serve(stream, &objects));
        }
    });
    let below = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let runtime = tokio::runtime::Runtime::new()?;
    let mut kept = Vec::new();
    for round in 1..=5 {
        let directory = tempfile::tempdir_in(&below)?;
        let (events, _events) = tokio::sync::mpsc::channel(16);
        let site = Site::new(SiteSettings::with_mirrors([url.as_str()]), runtime.handle().clone())?;
        let settings = ContentSettings::new(directory.path().join("cache"), directory.path().join("run"));
        let content = Content::open(settings, site, runtime.handle().clone(), events)?;
        runtime.block_on(launch(
            round,
            &content,
            &Arc::new(ReleaseContent::new(release.0.clone(), release.1.clone(), None)),
        ))?;
        kept.push(directory);
    }
    Ok(())
}

async fn launch(round: usize, content: &Content, release: &Arc<ReleaseContent>) -> Result<()> {
    let begin = Instant::now();
    let nodes = release.tree.contents();
    content.file(release, nodes[0]).await?;
    let first = begin.elapsed();
    content.prefetch(release);
    for node in nodes.iter().step_by(FILES / TOUCHED) {
        content.file(release, *node).await?;
    }
    let touched = begin.elapsed();
    while content.usage().files < FILES || content.usage().in_flight > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    println!("round {round}: first {first:.1?}, {TOUCHED} touched {touched:.1?}, all {:.1?}", begin.elapsed());
    Ok(())
}

/// Text that compresses about as well as JavaScript does.
fn release() -> Result<((mcpfs_trust::tree::Tree, Layout), Objects)> {
    let words = ["const", "module", "exports", "require", "function", "return", "(", ")", ";", "\n", "this.", "= "];
    let mut seed = 1_u64;
    let mut contents = HashMap::new();
    let mut builder = TreeBuilder::new();
    for index in 0..FILES {
        let mut bytes = Vec::with_capacity(FILE + 32);
        while bytes.len() < FILE {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(words[(seed >> 33) as usize % words.len()].as_bytes());
        }
        bytes.truncate(FILE);
        let digest = Digest::of(&bytes);
        builder.file(&format!("package{:03}/lib/file{index:04}.js", index / 20), false, FILE as u64, digest)?;
        contents.insert(digest, bytes);
    }
    let tree = builder.build()?;
    let (mut layout, mut objects, mut plain) = (Layout { chunks: vec![], contents: vec![] }, Objects::new(), vec![]);
    let mut close = |plain: &mut Vec<u8>, chunks: &mut Vec<Chunk>| -> Result<()> {
        let stored = zstd::bulk::compress(plain, 12)?;
        let (sha256, plain_sha256) = (Digest::of(&stored), Digest::of(plain));
        chunks.push(Chunk { sha256, size: stored.len() as u32, plain_sha256, plain_size: plain.len() as u32 });
        objects.insert(object(&sha256), stored);
        plain.clear();
        Ok(())
    };
    for index in 0..tree.contents().len() {
        let (_, digest) = tree.content(index as u32).context("a content")?;
        let bytes = contents.get(&digest).context("a content")?;
        if plain.len() + bytes.len() > CHUNK {
            close(&mut plain, &mut layout.chunks)?;
        }
        layout.contents.push(Extent { chunk: layout.chunks.len() as u32, offset: plain.len() as u32 });
        plain.extend_from_slice(bytes);
    }
    close(&mut plain, &mut layout.chunks)?;
    Ok(((tree, layout), objects))
}

fn serve(stream: TcpStream, objects: &Objects) {
    let Ok(mut writer) = stream.try_clone() else { return };
    drop(writer.set_nodelay(true));
    let mut path = None;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Some(rest) = line.strip_prefix("GET /") {
            path = rest.split(' ').next().map(str::to_owned);
        }
        if line.is_empty() {
            let body = path.take().and_then(|path| objects.get(&path)).map_or(&[][..], Vec::as_slice);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)).is_err() {
                return;
            }
        }
    }
}
