//! `mcpfs verify`: a whole site, as a host would see it, and every byte of it.
//!
//! A host verifies what it uses. Before a site goes live, or after an incident, somebody
//! wants to know about all of it: every listed release, every platform, every chunk, the
//! copies for simple clients. This walks head, catalogue, bins, entries, trees and layouts
//! through the same functions as a host, reports each problem with the path and its typed
//! error, and goes on where it can. Of a directory it also hashes what nothing names any
//! more, as far as names are digests.
//!
//! Memory is bounded: one tree and layout, and a few chunks at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcpfs_trust::catalogue::BinServer;
use mcpfs_trust::chunk::Chunk;
use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::entry::{Entry, PlatformLayout, Status};
use mcpfs_trust::envelope::Envelope;
use mcpfs_trust::error::{Code, VerifyError, bounded};
use mcpfs_trust::layout::Layout;
use mcpfs_trust::release::Artefact;
use mcpfs_trust::root::TrustRoot;
use mcpfs_trust::time::Timestamp;
use mcpfs_trust::tree::Tree;
use mcpfs_trust::verify::{self, AcceptedHead, Seen, Verified};
use mcpfs_trust::{limits, site};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::Global;
use crate::config;
use crate::refusal::{Exit, Refusal};
use crate::registry::now;
use crate::site::{Site, SiteSettings};
use crate::words::count;

/// Chunks fetched at once.
const PARALLEL: usize = 8;
/// Largest artefact that is checked over a network, where it has to fit into memory.
const ARTEFACT_BYTES: u64 = 512 << 20;

/// Options of `mcpfs verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  mcpfs verify ./site --trust trust.json                     before publishing it
  mcpfs verify https://mcp.example.com/prod                  with this host's own trust root
  mcpfs verify ./site --trust trust.json --full --json       for a report")]
pub struct Args {
    /// The site: its address, or a directory.
    #[arg(value_name = "SITE_URL|DIR")]
    pub site: String,
    /// The trust root to verify with; by default this host's.
    #[arg(long, value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Also put every file together from its chunks and compare it with its tree.
    #[arg(long)]
    pub full: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file in the site.
    pub path: String,
    /// The typed error.
    pub code: String,
    /// For people.
    pub message: String,
    #[serde(skip)]
    exit: Exit,
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // The names are what is printed.
pub struct Counts {
    pub servers: u64,
    pub releases: u64,
    pub trees: u64,
    pub files: u64,
    pub chunks: u64,
    pub artefacts: u64,
    pub other_files: u64,
    pub bytes: u64,
}

/// All that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The head's version, if it verified.
    pub head: Option<u64>,
    /// What was looked at.
    pub counts: Counts,
    /// What is wrong, in path order.
    pub problems: Vec<Problem>,
    /// What was not looked at, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// How the command ends: by the worst problem.
    pub fn exit(&self) -> Exit {
        self.problems.iter().map(|problem| problem.exit).max().unwrap_or(Exit::Ok)
    }

    fn add(&mut self, path: impl Into<String>, refusal: impl Into<Refusal>) {
        let (path, refusal) = (path.into(), refusal.into());
        let exit = Exit::of(refusal.code);
        let problem = Problem { path, code: refusal.code.to_string(), message: bounded(&refusal.message), exit };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Verifies a site and prints what it found.
pub fn run(global: &Global, args: &Args) -> Exit {
    let report = match verify(args) {
        Ok(report) => report,
        Err((exit, message)) => {
            eprintln!("mcpfs: {message}");
            return exit;
        }
    };
    if global.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
        return report.exit();
    }
    for problem in &report.problems {
        println!("{}: {} ({})", problem.path, problem.code, problem.message);
    }
    for skipped in &report.skipped {
        println!("not checked: {skipped}");
    }
    if global.quiet == 0 {
        let head = report.head.map_or_else(|| "not verified".to_owned(), |version| version.to_string());
        let Counts { servers, releases, trees, files, chunks, artefacts, other_files, bytes } = report.counts;
        let counted = [
            (servers, "server"),
            (releases, "release"),
            (trees, "tree"),
            (files, "file"),
            (chunks, "chunk"),
            (artefacts, "artefact"),
            (other_files, "other file"),
            (bytes, "byte"),
        ];
        let counted = counted.map(|(number, thing)| count(number, thing)).join(", ");
        println!("{}; head {head}, {counted}", count(report.problems.len() as u64, "problem"));
    }
    report.exit()
}

/// Verifies a site.
///
/// # Errors
/// What keeps it from even beginning: the exit and a line for people.
pub fn verify(args: &Args) -> Result<Report, (Exit, String)> {
    let trust = args.trust.clone().unwrap_or_else(|| config::default_file().with_file_name("trust.json"));
    let bytes = std::fs::read(&trust).map_err(|error| {
        (Exit::Usage, format!("cannot read the trust root {}: {error}; see --trust", trust.display()))
    })?;
    let root =
        TrustRoot::parse(&bytes).map_err(|error| (Exit::of(error.code()), format!("{}: {error}", trust.display())))?;
    let directory = Path::new(&args.site).is_dir().then(|| PathBuf::from(&args.site));
    let url = match &directory {
        Some(directory) => {
            let absolute =
                directory.canonicalize().map_err(|error| (Exit::Usage, format!("{}: {error}", args.site)))?;
            url::Url::from_directory_path(absolute).map_err(|()| (Exit::Usage, format!("{}: not a path", args.site)))?
        }
        None => {
            config::mirror(&args.site).map_err(|error| (Exit::Usage, format!("{error} (and it is not a directory)")))?
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| (Exit::Refused, format!("cannot start: {error}")))?;
    let settings = SiteSettings {
        // An artefact may be large, and nobody waits in a launch.
        object_deadline: Duration::from_secs(600),
        metadata_deadline: Duration::from_secs(60),
        ..SiteSettings::with_mirrors([url.to_string()])
    };
    let site = Site::new(settings, runtime.handle().clone())
        .map_err(|error| (Exit::Usage, crate::refusal::with_cause(&error)))?;
    let walk = Walk {
        site,
        directory: directory.or_else(|| url.to_file_path().ok()),
        root,
        full: args.full,
        report: Report::default(),
        chunks: HashSet::new(),
        artefacts: HashMap::new(),
        trees: HashSet::new(),
    };
    Ok(runtime.block_on(walk.run(now())))
}

struct Walk {
    site: Site,
    /// The site's files themselves, if they are here.
    directory: Option<PathBuf>,
    root: TrustRoot,
    full: bool,
    report: Report,
    /// Chunk records that were checked, good or bad.
    chunks: HashSet<(Digest, Digest)>,
    /// Artefacts to check, with their size.
    artefacts: HashMap<Digest, u64>,
    /// Tree and layout pairs that were checked.
    trees: HashSet<(Digest, Digest)>,
}

impl Walk {
    async fn run(mut self, at: Timestamp) -> Report {
        if let Some(accepted) = self.head(at).await {
            self.report.head = Some(accepted.head.version);
            for listed in self.servers(&accepted).await {
                self.server(listed.0, &listed.1).await;
            }
            let artefacts: BTreeMap<Digest, u64> = self.artefacts.drain().collect();
            for (sha256, size) in artefacts {
                self.artefact(&sha256, size).await;
            }
        }
        if let Some(directory) = self.directory.clone() {
            self.strays(&directory);
        }
        self.report.problems.sort();
        self.report
    }

    async fn get<T>(
        &mut self,
        path: &str,
        limit: u64,
        what: &'static str,
        check: impl Fn(&[u8]) -> Result<T, VerifyError>,
    ) -> Option<(T, Vec<u8>)> {
        let checked = |bytes: Vec<u8>| check(&bytes).map(|value| (value, bytes));
        match self.site.get_checked(path, limit, what, checked).await {
            Ok((value, bytes)) => {
                self.report.counts.bytes += bytes.len() as u64;
                Some((value, bytes))
            }
            Err(refusal) => {
                self.report.add(path, refusal);
                None
            }
        }
    }

    async fn head(&mut self, at: Timestamp) -> Option<AcceptedHead> {
        let bytes = self.get(site::HEAD, limits::HEAD_BYTES, "head", |_| Ok(())).await?.1;
        self.head_form(&bytes);
        let mut outcome = verify::head(&bytes, &self.root, &Seen::default(), at);
        if let Err(error @ VerifyError::HeadExpired { expires }) = &outcome {
            // Worth a complaint, but no reason not to look at the rest.
            let (error, last) = (error.clone(), expires.plus(-1));
            self.report.add(site::HEAD, error);
            outcome = verify::head(&bytes, &self.root, &Seen::default(), last);
        }
        outcome.map_err(|error| self.report.add(site::HEAD, error)).ok()
    }

    /// What a host overlooks in a head: another spelling of it, and signatures beside those
    /// that are enough. Nothing covers these bytes by a digest.
    fn head_form(&mut self, bytes: &[u8]) {
        let Ok(envelope) = Envelope::parse(bytes, limits::HEAD_BYTES, "head") else { return };
        if envelope.encode() != bytes {
            self.report.add(site::HEAD, VerifyError::malformed("head", "not in the form in which it was written"));
        }
        let signed = envelope.signed_bytes();
        for signature in &envelope.signatures {
            let key = signature.keyid;
            let genuine = match self.root.key(&key) {
                Some(public) => public.verify(&signed, &signature.sig),
                // A key of a later trust root is fine, a wrong name for one of this root is not.
                None => !self.root.keys().any(|(_, public, _)| public.verify(&signed, &signature.sig)),
            };
            if !genuine {
                self.report.add(site::HEAD, VerifyError::SignatureInvalid { key });
            }
        }
    }

    /// All servers that a head lists, each with its bin.
    async fn servers(
        &mut self,
        accepted: &AcceptedHead,
    ) -> Vec<(BinServer, Arc<Verified<mcpfs_trust::catalogue::Bin>>)> {
        let mut servers = Vec::new();
        let path = site::catalogue(&accepted.catalogue);
        let size = accepted.head.catalogue.size;
        let found = self.get(&path, size, "catalogue", |bytes| verify::catalogue(bytes, accepted)).await;
        let Some((catalogue, _)) = found else { return servers };
        for (index, blob) in catalogue.bins.iter().enumerate() {
            let path = site::bin(&blob.sha256);
            let found = self.get(&path, blob.size, "bin", |bytes| verify::bin(bytes, &catalogue, index)).await;
            if let Some((bin, _)) = found {
                let bin = Arc::new(bin);
                servers.extend(bin.servers.iter().map(|server| (server.clone(), Arc::clone(&bin))));
            }
        }
        servers
    }

    async fn server(&mut self, listed: BinServer, bin: &Verified<mcpfs_trust::catalogue::Bin>) {
        self.report.counts.servers += 1;
        let copy = site::server(&listed.name);
        let same = |bytes: &[u8]| mcpfs_trust::chunk::expect("entry", &listed.sha256, bytes);
        self.get(&copy, listed.size, "copy of the entry", same).await;
        let path = site::entry(&listed.sha256);
        let found = self.get(&path, listed.size, "entry", |bytes| verify::entry(bytes, bin, &listed.name)).await;
        let Some((entry, _)) = found else { return };
        for one in entry.releases() {
            self.report.counts.releases += 1;
            let version = &one.release.version;
            if let Err(error) = verify::release(&entry, version, &self.root, None) {
                let refusal = Refusal::from(error).of(format!("{} {version}", listed.name));
                self.report.add(path.as_str(), refusal);
                continue;
            }
            // A withdrawn release may be cleared away; nobody gets to see it.
            if one.status == Status::Revoked {
                continue;
            }
            self.platforms(&entry, version).await;
        }
    }

    async fn platforms(&mut self, entry: &Entry, version: &mcpfs_trust::name::Version) {
        let Some(one) = entry.find(version) else { return };
        for (artefact, stored) in one.release.artefact.all().iter().zip(&one.layout) {
            self.artefacts.insert(artefact.sha256, artefact.size);
            if self.trees.insert((artefact.tree.sha256, stored.layout.sha256)) {
                self.report.counts.trees += 1;
                self.tree(artefact, stored).await;
            }
        }
    }

    async fn tree(&mut self, artefact: &Artefact, stored: &PlatformLayout) {
        let encoded = self.joined("tree", &stored.tree, artefact.tree.size).await;
        let layout = self.joined("layout", &stored.layout.chunks, stored.layout.size).await;
        self.check_chunks(stored.first.clone()).await;
        let Some(encoded) = encoded else { return };
        let named = format!("tree {}", artefact.tree.sha256);
        let tree = match Tree::decode(&encoded, &artefact.tree) {
            Ok(tree) => tree,
            Err(error) => return self.report.add(named, error),
        };
        self.report.counts.files += artefact.tree.files;
        let Some(layout) = layout else { return };
        let named = format!("layout {}", stored.layout.sha256);
        let decoded = mcpfs_trust::chunk::expect("layout", &stored.layout.sha256, &layout)
            .and_then(|()| Layout::decode(&layout, &tree));
        let layout = match decoded {
            Ok(layout) => layout,
            Err(error) => return self.report.add(named, error),
        };
        self.check_chunks(layout.chunks.clone()).await;
        if self.full {
            self.files(&tree, &layout).await;
        }
    }

    /// The plain bytes of a tree or layout, from its chunks.
    async fn joined(&mut self, what: &'static str, chunks: &[Chunk], size: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut whole = true;
        for chunk in chunks {
            match self.chunk(chunk).await {
                Some(plain) if bytes.len() as u64 + plain.len() as u64 <= size => bytes.extend_from_slice(&plain),
                Some(_) => {
                    self.report.add(site::object(&chunk.sha256), VerifyError::SizeExceeded { what, limit: size });
                    whole = false;
                }
                None => whole = false,
            }
        }
        whole.then_some(bytes)
    }

    /// One chunk, fetched and verified whether or not it was before.
    async fn chunk(&mut self, chunk: &Chunk) -> Option<Vec<u8>> {
        let path = site::object(&chunk.sha256);
        let found = self.get(&path, u64::from(chunk.size), "chunk", |bytes| chunk.decode(bytes)).await;
        if self.chunks.insert((chunk.sha256, chunk.plain_sha256)) {
            self.report.counts.chunks += 1;
        }
        found.map(|(plain, _)| plain)
    }

    /// Each chunk once, several at a time.
    async fn check_chunks(&mut self, chunks: Vec<Chunk>) {
        let mut fetches = JoinSet::new();
        let mut chunks = chunks.into_iter();
        loop {
            while fetches.len() < PARALLEL
                && let Some(chunk) = chunks.next()
            {
                if !self.chunks.insert((chunk.sha256, chunk.plain_sha256)) {
                    continue;
                }
                self.report.counts.chunks += 1;
                let site = self.site.clone();
                fetches.spawn(async move {
                    let path = site::object(&chunk.sha256);
                    let check = |bytes: Vec<u8>| chunk.decode(&bytes).map(|_| ());
                    let outcome = site.get_checked(&path, u64::from(chunk.size), "chunk", check).await;
                    (path, chunk.size, outcome)
                });
            }
            match fetches.join_next().await {
                Some(Ok((_, size, Ok(())))) => self.report.counts.bytes += u64::from(size),
                Some(Ok((path, _, Err(refusal)))) => self.report.add(path, refusal),
                Some(Err(_)) => self.report.add("objects/", Refusal::new(Code::Malformed, "a check was aborted")),
                None => return,
            }
        }
    }

    /// Every distinct file content, put together as the layout says.
    async fn files(&mut self, tree: &Tree, layout: &Layout) {
        // Contents lie in chunk order, so the last chunk is nearly always wanted again.
        let mut last: Option<(usize, Vec<u8>)> = None;
        for (index, (node, extent)) in tree.contents().iter().zip(&layout.contents).enumerate() {
            let Some((size, sha256)) = u32::try_from(index).ok().and_then(|index| tree.content(index)) else {
                continue;
            };
            let path = format!("file {}", bounded(&tree.path(*node)));
            let Some(span) = layout.span(*extent, size) else {
                self.report.add(path, VerifyError::malformed("layout", "an extent outside of its chunks"));
                continue;
            };
            let (mut hasher, mut left, mut skip) = (Hasher::new(), size, extent.offset as usize);
            for at in span {
                if last.as_ref().is_none_or(|(held, _)| *held != at) {
                    let Some(chunk) = layout.chunks.get(at).cloned() else { break };
                    last = self.chunk(&chunk).await.map(|plain| (at, plain));
                }
                let Some((_, plain)) = &last else { break };
                let piece = plain.get(skip..).unwrap_or_default();
                let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                hasher.update(&piece[..take]);
                left -= take as u64;
                skip = 0;
            }
            let found = hasher.finish();
            // A chunk that could not be had has been reported under its own name.
            if left == 0 && found != sha256 {
                self.report.add(path, VerifyError::DigestMismatch { what: "file", expected: sha256, found });
            }
        }
    }

    /// The copy of an artefact for simple clients.
    async fn artefact(&mut self, sha256: &Digest, size: u64) {
        let path = site::artefact(sha256);
        self.report.counts.artefacts += 1;
        if let Some(directory) = &self.directory {
            let checked =
                hash_file(&directory.join(&path)).map(|(found, read)| (found == *sha256 && read == size, found, read));
            match checked {
                Ok((true, _, read)) => self.report.counts.bytes += read,
                Ok((false, found, _)) => {
                    self.report.add(path, VerifyError::DigestMismatch { what: "artefact", expected: *sha256, found });
                }
                Err(error) => self.report.add(path, Refusal::new(Code::Unreachable, error.to_string())),
            }
        } else if size > ARTEFACT_BYTES {
            self.report.skipped.push(format!("{path}: {size} bytes are too many to check over a network"));
        } else {
            let same = |bytes: &[u8]| mcpfs_trust::chunk::expect("artefact", sha256, bytes);
            self.get(&path, size, "artefact", same).await;
        }
    }

    /// Of a directory: everything that is named by its digest, whether anything names it or not.
    fn strays(&mut self, directory: &Path) {
        for part in ["catalogue", "entries", "objects", "artefacts"] {
            let mut waiting = vec![directory.join(part)];
            while let Some(path) = waiting.pop() {
                let Ok(entries) = std::fs::read_dir(&path) else { continue };
                for entry in entries.flatten() {
                    let path = entry.path();
                    match entry.file_type() {
                        Ok(kind) if kind.is_dir() => waiting.push(path),
                        Ok(kind) if kind.is_file() => self.stray(directory, &path),
                        _ => {}
                    }
                }
            }
        }
    }

    fn stray(&mut self, directory: &Path, path: &Path) {
        let shown = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().into_owned();
        let stem = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = stem.strip_suffix(".json").unwrap_or(&stem);
        // A name that is no digest is none of ours.
        let Ok(expected) = stem.parse::<Digest>() else { return };
        let known = self.report.problems.iter().any(|problem| problem.path == shown);
        self.report.counts.other_files += 1;
        match hash_file(path) {
            Ok((found, _)) if found == expected || known => {}
            Ok((found, _)) => self.report.add(shown, VerifyError::DigestMismatch { what: "file", expected, found }),
            Err(error) => self.report.add(shown, Refusal::new(Code::Unreachable, error.to_string())),
        }
    }
}

fn hash_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer, mut total) = (Hasher::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finish(), total)),
            read => {
                hasher.update(&buffer[..read]);
                total += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests;
