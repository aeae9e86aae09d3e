//! A cache, a release and a server for it.

use std::collections::HashMap;

use mcpfs_trust::layout::{Extent, Layout};
use mcpfs_trust::tree::{Tree, TreeBuilder};
use tempfile::TempDir;

use super::super::*;
use crate::site::SiteSettings;
use crate::site::toxic::Toxic;

/// Incompressible enough to be told apart, compressible enough to be small.
pub(super) fn text(seed: usize, len: usize) -> Vec<u8> {
    format!("{seed:08} some words of file {seed}, ").into_bytes().into_iter().cycle().take(len).collect()
}

pub(super) fn files(count: usize, len: usize) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|index| (format!("f/{index:02}"), text(index, len))).collect()
}

/// The stored form of plain bytes.
pub(super) fn chunk(plain: &[u8]) -> (Chunk, Vec<u8>) {
    let stored = zstd::bulk::compress(plain, 3).unwrap();
    let chunk = Chunk {
        sha256: Digest::of(&stored),
        size: stored.len() as u32,
        plain_sha256: Digest::of(plain),
        plain_size: plain.len() as u32,
    };
    (chunk, stored)
}

/// A content that fills a chunk begins a new one and runs over several; smaller ones share.
pub(super) fn pack(files: &[(String, Vec<u8>)], most: usize) -> (Tree, Layout, Vec<(Digest, Vec<u8>)>) {
    let mut builder = TreeBuilder::new();
    let mut by_digest = HashMap::new();
    for (path, bytes) in files {
        builder.file(path, false, bytes.len() as u64, Digest::of(bytes)).unwrap();
        by_digest.insert(Digest::of(bytes), bytes.as_slice());
    }
    let tree = builder.build().unwrap();
    let (mut plains, mut contents) = (vec![Vec::new()], Vec::new());
    for index in 0..tree.contents().len() {
        let bytes = by_digest[&tree.content(index as u32).unwrap().1];
        if plains.last().unwrap().len() + bytes.len() > most && !plains.last().unwrap().is_empty() {
            plains.push(Vec::new());
        }
        contents.push(Extent { chunk: plains.len() as u32 - 1, offset: plains.last().unwrap().len() as u32 });
        let mut pieces = bytes.chunks(most);
        plains.last_mut().unwrap().extend_from_slice(pieces.next().unwrap());
        plains.extend(pieces.map(<[u8]>::to_vec));
        if bytes.len() > most {
            plains.push(Vec::new());
        }
    }
    plains.retain(|plain| !plain.is_empty());
    let (chunks, objects): (Vec<_>, Vec<_>) =
        plains.iter().map(|plain| chunk(plain)).map(|(chunk, stored)| (chunk, (chunk.sha256, stored))).unzip();
    let layout = Layout::decode(&Layout { chunks, contents }.encode(), &tree).unwrap();
    (tree, layout, objects)
}

/// Longest wait for what must come; what works takes a small part of it on any machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// The deadlines of what is not about deadlines: a machine that stands still for some seconds
/// would rightly make the daemon ask again, and a test that counts requests would see it.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) struct Room {
    pub(super) server: Toxic,
    pub(super) release: Arc<ReleaseContent>,
    pub(super) content: Content,
    pub(super) events: mpsc::Receiver<ContentEvent>,
    home: Home,
}

/// What remains when the daemon is stopped.
pub(super) struct Home {
    directory: TempDir,
    settings: ContentSettings,
    mirrors: Vec<String>,
    /// How long the site may say nothing.
    stall: Duration,
}

impl Room {
    pub(super) async fn new(files: &[(String, Vec<u8>)], most: usize) -> Self {
        Self::with(files, most, |_| ()).await
    }

    pub(super) async fn with(
        files: &[(String, Vec<u8>)],
        most: usize,
        change: impl FnOnce(&mut ContentSettings),
    ) -> Self {
        let server = Toxic::start().await;
        let mirrors = vec![server.url.clone()];
        Self::on(server, mirrors, files, most, change)
    }

    /// With a site that is given up after a moment of silence.
    pub(super) async fn hasty(
        files: &[(String, Vec<u8>)],
        most: usize,
        change: impl FnOnce(&mut ContentSettings),
    ) -> Self {
        let mut stopped = Self::with(files, most, change).await.stopped().await;
        stopped.home.stall = Duration::from_millis(200);
        stopped.started("boot")
    }

    pub(super) fn on(
        server: Toxic,
        mirrors: Vec<String>,
        files: &[(String, Vec<u8>)],
        most: usize,
        change: impl FnOnce(&mut ContentSettings),
    ) -> Self {
        let directory = crate::scratch::in_memory();
        let (tree, layout, objects) = pack(files, most);
        for (sha256, stored) in objects {
            server.put(&mcpfs_trust::site::object(&sha256), stored);
        }
        let mut settings = ContentSettings::new(directory.path().join("cache"), directory.path().join("run"));
        settings.open_deadline = NEVER;
        change(&mut settings);
        let home = Home { directory, settings, mirrors, stall: NEVER };
        let (content, events) = home.again("boot").unwrap();
        Self { server, release: Arc::new(ReleaseContent::new(tree, layout, None)), content, events, home }
    }

    /// Stores a blob in chunks of `size` plain bytes.
    pub(super) fn store(&self, blob: &[u8], size: usize) -> Vec<Chunk> {
        let store = |plain: &[u8]| {
            let (chunk, stored) = chunk(plain);
            self.server.put(&mcpfs_trust::site::object(&chunk.sha256), stored);
            chunk
        };
        blob.chunks(size).map(store).collect()
    }

    pub(super) fn node(&self, path: &str) -> NodeId {
        self.release.tree.resolve(path).unwrap()
    }

    /// Bytes fetched, and the content.
    pub(super) async fn open(&self, path: &str) -> Result<(u64, Vec<u8>), Refusal> {
        read(&self.content, &self.release, self.node(path)).await
    }

    pub(super) fn wanted(&self) -> Vec<(Digest, u64)> {
        let tree = &self.release.tree;
        (0..tree.contents().len()).map(|index| tree.content(index as u32).unwrap()).map(|(s, d)| (d, s)).collect()
    }

    /// Waits until nothing is in flight.
    pub(super) async fn settled(&self) {
        let settled = async {
            while self.content.usage().in_flight > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, settled).await.expect("all transfers end");
    }

    pub(super) async fn all_ready(&self) {
        let all = async {
            for (sha256, size) in self.wanted() {
                while self.content.ready(&sha256, size).is_none() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            self.settled().await;
        };
        timeout(PATIENCE, all).await.expect("all files come");
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.home.cache()
    }

    pub(super) fn again(&self, boot: &str) -> Result<(Content, mpsc::Receiver<ContentEvent>), ContentError> {
        self.home.again(boot)
    }

    /// Stops the daemon and waits until its last task has let go of the cache.
    pub(super) async fn stopped(self) -> Stopped {
        let alive = Arc::downgrade(&self.content.0);
        drop(self.content);
        while alive.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Stopped { server: self.server, release: self.release, home: self.home }
    }
}

/// A room without its daemon.
pub(super) struct Stopped {
    pub(super) server: Toxic,
    pub(super) release: Arc<ReleaseContent>,
    home: Home,
}

impl Stopped {
    pub(super) fn cache(&self) -> PathBuf {
        self.home.cache()
    }

    pub(super) fn verified_log(&self) -> PathBuf {
        self.home.settings.run.join("verified")
    }

    pub(super) fn file_of(&self, path: &str) -> PathBuf {
        let wanted = self.release.wanted(self.release.tree.resolve(path).unwrap()).unwrap();
        let name = wanted.sha256.to_string();
        self.cache().join("files").join(&name[..2]).join(name)
    }

    pub(super) fn again(&self, boot: &str) -> Result<(Content, mpsc::Receiver<ContentEvent>), ContentError> {
        self.home.again(boot)
    }

    pub(super) fn started(self, boot: &str) -> Room {
        let (content, events) = self.home.again(boot).unwrap();
        Room { server: self.server, release: self.release, content, events, home: self.home }
    }
}

impl Home {
    fn cache(&self) -> PathBuf {
        assert!(self.directory.path().exists());
        self.settings.cache.clone()
    }

    fn again(&self, boot: &str) -> Result<(Content, mpsc::Receiver<ContentEvent>), ContentError> {
        let site = SiteSettings {
            backoff: Duration::from_millis(5),
            rate_window: self.stall,
            object_deadline: self.stall.saturating_mul(10),
            metadata_deadline: self.stall.saturating_mul(10),
            ..SiteSettings::with_mirrors(self.mirrors.clone())
        };
        let site = Site::new(site, Handle::current()).unwrap();
        let (events, received) = mpsc::channel(16);
        Content::open_in_boot(self.settings.clone(), site, Handle::current(), events, boot)
            .inspect(Content::walk)
            .map(|content| (content, received))
    }
}

pub(super) async fn read(
    content: &Content,
    release: &Arc<ReleaseContent>,
    node: NodeId,
) -> Result<(u64, Vec<u8>), Refusal> {
    let opened = content.file(release, node).await?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &opened.file, &mut bytes).unwrap();
    Ok((opened.fetched_bytes, bytes))
}
