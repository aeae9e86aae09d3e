//! The content-addressed cache on disk.
//!
//! ```text
//! <cache>/files/<aa>/<sha256>   decoded contents of files, 0444 in 0700
//! <cache>/metadata/<sha256>     encoded trees and layouts
//! <cache>/quarantine/<sha256>   what did not hash to its name, a few of them, for inspection
//! <cache>/tmp/                  drafts where O_TMPFILE is missing; emptied at start
//! ```
//!
//! A file appears whole or not at all, and is verified by the same read-only description
//! that becomes the backing file, after its only writer is closed: write without a name
//! (`O_TMPFILE`), open the inode again read-only, close the writer, hash what that
//! description reads, link it to its name, and only then take its key, because linking
//! changes the change time. The bytes are hashed once: chunks were checked as they came, so
//! hashing a file before writing it would tell nothing that reading it back does not.
//!
//! There is no fsync. After a power cut a file may be torn or empty under its name, but it
//! is hashed before its first use in every boot, so that costs one transfer; an fsync for
//! each of thousands of small files would cost every cold launch seconds.
//!
//! Drafts are written completely or thrown away; a sparse file would serve zeros.
//!
//! Rejected: naming the file first and renaming it (two directory updates, and a name to
//! clean up after a crash), keeping compressed chunks (passthrough needs plain files), and
//! locks between processes beyond one `flock` on the directory.

mod draft;
pub(super) mod room;

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mcpfs_trust::digest::{Digest, Hasher};
use mcpfs_trust::error::Code;
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::watch;

use self::room::Floor;
use super::index::{Area, Index, Name};
use super::verified::{FileKey, VerifiedLog};
use super::{ContentError, ContentEvent, Events};
use crate::refusal::Refusal;

/// Most files and bytes in quarantine; what does not fit is removed.
const QUARANTINE_FILES: usize = 16;
const QUARANTINE_BYTES: u64 = 64 << 20;
/// How often, and how long each time, an open waits for a lease to end.
const LEASE_TURNS: u32 = 200;
const LEASE_PAUSE: Duration = Duration::from_millis(5);

/// Lets go of descriptors that are kept only for speed.
type LetGo = Box<dyn Fn() + Send + Sync>;

pub(super) struct Cas {
    path: PathBuf,
    root: Arc<OwnedFd>,
    index: Index,
    log: Mutex<VerifiedLog>,
    /// Held while evicting, so that two do not take twice what is needed.
    evicting: Mutex<()>,
    /// How many wait for room.
    calling: AtomicU64,
    /// Counts their calls on those who have room that nobody waits for.
    calls: watch::Sender<u64>,
    /// Bytes of such room.
    unhurried: AtomicU64,
    quota: u64,
    /// Bytes and files of its file system that are left to others.
    floor: Floor,
    events: Events,
    /// The file system has no O_TMPFILE, or /proc is missing.
    named_drafts: AtomicBool,
    /// Linking by descriptor is not allowed, so it goes through /proc.
    link_by_path: AtomicBool,
    drafts: AtomicU64,
    /// Asked when eviction finds everything in use.
    let_go: OnceLock<LetGo>,
}

impl std::fmt::Debug for Cas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cas").field("path", &self.path).field("quota", &self.quota).finish_non_exhaustive()
    }
}

impl Cas {
    pub(super) fn open(
        path: &Path,
        run: &Path,
        boot: &str,
        quota: u64,
        keep_free: Option<u64>,
        events: Events,
    ) -> Result<Self, ContentError> {
        let failed = |what| move |source| ContentError::Io { what, path: path.to_owned(), source };
        let directory = |at: &Path| DirBuilder::new().recursive(true).mode(0o700).create(at);
        directory(path).map_err(failed("create"))?;
        let metadata = std::fs::metadata(path).map_err(failed("stat"))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(ContentError::Unsafe { path: path.to_owned() });
        }
        let open = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, open, Mode::empty()).map_err(|errno| failed("open")(errno.into()))?;
        crate::lock::exclusive(&root).map_err(|errno| match errno {
            Errno::WOULDBLOCK => ContentError::InUse { path: path.to_owned() },
            errno => failed("lock")(errno.into()),
        })?;
        lay_out(&root).map_err(|errno| failed("create the directories of")(errno.into()))?;
        let floor = Floor::of(&root, keep_free);
        for entry in std::fs::read_dir(path.join("tmp")).map_err(failed("read"))?.flatten() {
            std::fs::remove_file(entry.path()).map_err(failed("clear"))?;
        }
        directory(run).map_err(failed("create"))?;
        let (log, verified) = VerifiedLog::open(&run.join("verified"), boot)?;
        Ok(Self {
            path: path.to_owned(),
            root: Arc::new(root),
            index: Index::new(quota, verified),
            log: Mutex::new(log),
            evicting: Mutex::new(()),
            calling: AtomicU64::new(0),
            calls: watch::Sender::new(0),
            unhurried: AtomicU64::new(0),
            quota,
            floor,
            events,
            named_drafts: AtomicBool::new(false),
            link_by_path: AtomicBool::new(false),
            drafts: AtomicU64::new(0),
            let_go: OnceLock::new(),
        })
    }

    /// Learns what is there. Writers wait for its end; readers do not.
    pub(super) fn walk(&self) {
        let mut directories = vec![(Area::Metadata, self.path.join("metadata"))];
        directories.extend((0..=255_u8).map(|byte| (Area::Files, self.path.join(format!("files/{byte:02x}")))));
        for (area, directory) in directories {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries.flatten() {
                let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
                if let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) {
                    self.index.found((area, digest), metadata.len(), u64::try_from(metadata.mtime()).unwrap_or(0));
                }
            }
        }
        self.index.walk_ended();
    }

    pub(super) fn usage(&self) -> (u64, usize) {
        self.index.usage()
    }

    /// Whether drafts have names below `tmp/`.
    #[cfg(test)]
    pub(super) fn name_drafts(&self, named: bool) {
        self.named_drafts.store(named, std::sync::atomic::Ordering::Relaxed);
    }

    /// What to ask, once, before an eviction that finds everything in use gives up.
    pub(super) fn when_scarce(&self, let_go: LetGo) {
        if self.let_go.set(let_go).is_err() {
            tracing::error!("a cache serves one mount");
        }
    }

    pub(super) fn keep(&self, kept: HashSet<Digest>) {
        self.index.keep(kept);
    }

    pub(super) fn hold(&self, sha256: Digest) {
        self.index.hold(sha256);
    }

    pub(super) fn end_hold(&self, sha256: Digest) {
        self.index.end_hold(sha256);
    }

    pub(super) fn inherit(&self) {
        self.index.inherit();
    }

    /// The file, if it was verified in this boot and has not changed since. One open, one fstat.
    pub(super) fn ready(&self, name: Name, size: u64) -> Option<File> {
        let key = self.index.verified(name).filter(|key| key.size == size)?;
        self.unchanged(name, key, self.open_file(name))
    }

    /// Files that an earlier process of this boot verified, by inode number.
    pub(super) fn verified_before(&self, inodes: &HashSet<u64>, most: usize) -> HashMap<u64, Arc<File>> {
        let known = self.index.earlier(inodes).into_iter();
        known.filter_map(|(name, key)| Some((key.ino, Arc::new(self.ready(name, key.size)?)))).take(most).collect()
    }

    /// The same for whoever may wait for an eviction to end. `None` also if it is not verified.
    pub(super) fn ready_patiently(&self, name: Name, size: u64) -> Result<Option<File>, Refusal> {
        let Some(key) = self.index.verified(name) else { return Ok(None) };
        if key.size != size {
            return Err(other_size(key.size, size));
        }
        match self.open_patiently(name) {
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => Err(self.broken("open a file of", errno.into())),
            opened => Ok(self.unchanged(name, key, opened)),
        }
    }

    /// What was opened, if it is in the state of `key`.
    fn unchanged(&self, name: Name, key: FileKey, opened: Result<File, Errno>) -> Option<File> {
        let state = opened.and_then(|file| Ok((FileKey::of(&file.metadata().map_err(|_| Errno::IO)?), file)));
        match state {
            Ok((now, file)) if now == key => {
                self.index.touch(name);
                Some(file)
            }
            Err(Errno::MFILE | Errno::NFILE | Errno::INTR | Errno::AGAIN) => None,
            _ => {
                self.index.changed(name, key);
                None
            }
        }
    }

    /// Believed to be verified, without looking at the disk.
    pub(super) fn is_verified(&self, name: Name) -> bool {
        self.index.verified(name).is_some()
    }

    /// The whole file, if it was verified in this boot and has not changed since.
    pub(super) fn read(&self, name: Name, size: u64) -> Result<Option<Vec<u8>>, Refusal> {
        self.ready(name, size).map(|file| self.bytes(&file, size)).transpose()
    }

    /// All that is in a verified file.
    pub(super) fn bytes(&self, file: &File, size: u64) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0).map_err(|error| self.broken("read a file of", error))?;
        Ok(bytes)
    }

    /// Known to hold nothing of that name. Touches no disk.
    pub(super) fn surely_lacks(&self, name: Name) -> bool {
        self.index.holds(name) == Some(false)
    }

    /// Whether a file of that name is there, verified or not.
    pub(super) fn holds(&self, name: Name) -> bool {
        self.index
            .holds(name)
            .unwrap_or_else(|| rustix::fs::accessat(&self.root, place(name), Access::EXISTS, AtFlags::empty()).is_ok())
    }

    /// Hashes what is cached under that name. `None` if nothing is there any more, which is
    /// also the end of a file that is not what its name says: it goes to quarantine.
    pub(super) fn verify(&self, name: Name, size: u64) -> Result<Option<File>, Refusal> {
        let last_use = self.index.last_use(name);
        let file = match self.open_patiently(name) {
            Ok(file) => file,
            Err(Errno::NOENT) => {
                self.index.missing(name, last_use);
                return Ok(None);
            }
            // A link or a device where our file should be.
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return self.quarantine(name, None, None).map(|()| None),
            Err(errno) => return Err(self.broken("open a file of", errno.into())),
        };
        let before = file.metadata().map_err(|error| self.broken("stat a file of", error))?;
        if !before.is_file() || before.uid() != rustix::process::geteuid().as_raw() {
            return self.quarantine(name, Some(before.ino()), None).map(|()| None);
        }
        let found = hash(&file, before.len()).map_err(|error| self.broken("read a file of", error))?;
        let key = FileKey::of(&before);
        let after = file.metadata().map_err(|error| self.broken("stat a file of", error))?;
        if found != Some(name.1) || FileKey::of(&after) != key {
            return self.quarantine(name, Some(before.ino()), found).map(|()| None);
        }
        if before.len() != size {
            return Err(other_size(before.len(), size));
        }
        self.index.verify(name, key, false);
        let mut record = Vec::new();
        key.record(&name.1, &mut record);
        self.append(&record);
        Ok(Some(file))
    }

    fn open_file(&self, name: Name) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(&self.root, place(name), flags, Mode::empty()).map(File::from)
    }

    /// The same for whoever may wait: eviction holds a lease on a file for a moment, until the
    /// file is gone or was found to be in use.
    fn open_patiently(&self, name: Name) -> Result<File, Errno> {
        for _ in 0..LEASE_TURNS {
            match self.open_file(name) {
                Err(Errno::AGAIN) => std::thread::sleep(LEASE_PAUSE),
                done => return done,
            }
        }
        self.open_file(name)
    }

    /// Moves the bad file `ino` away; another one of that name is somebody's good copy.
    fn quarantine(&self, name: Name, ino: Option<u64>, found: Option<Digest>) -> Result<(), Refusal> {
        let there = rustix::fs::statat(&self.root, place(name), AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino);
        if ino.is_some_and(|bad| there != Ok(bad)) {
            return Ok(());
        }
        let directory = self.path.join("quarantine");
        let mut held = (0, self.stat_size(name));
        self.restore();
        for entry in std::fs::read_dir(&directory).map_err(|error| self.broken("read", error))?.flatten() {
            held = (held.0 + 1, held.1 + entry.metadata().map_or(0, |metadata| metadata.len()));
        }
        let kept = held.0 < QUARANTINE_FILES && held.1 <= QUARANTINE_BYTES;
        let moved = match kept {
            true => rustix::fs::renameat(&self.root, place(name), &self.root, format!("quarantine/{}", name.1)),
            false => rustix::fs::unlinkat(&self.root, place(name), AtFlags::empty()),
        };
        self.index.forget(name);
        self.events.tell(ContentEvent::Quarantined { sha256: name.1, found, kept });
        match moved {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.broken("quarantine a file of", errno.into())),
        }
    }

    fn stat_size(&self, name: Name) -> u64 {
        let stat = rustix::fs::statat(&self.root, place(name), AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Makes the directories that somebody removed below a running daemon, and forgets what went
    /// with them. Whether all are there now, so that another try makes sense: somebody else may
    /// have made them since.
    fn restore(&self) -> bool {
        match lay_out(&self.root) {
            Ok(0) => true,
            Ok(made) => {
                tracing::warn!(made, "directories of the cache {} were gone; made again", self.path.display());
                for (name, last_use) in self.index.names() {
                    if rustix::fs::accessat(&self.root, place(name), Access::EXISTS, AtFlags::empty()).is_err() {
                        self.index.missing(name, last_use);
                    }
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "directories of the cache {} are gone", self.path.display());
                false
            }
        }
    }

    fn append(&self, records: &[u8]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = log.append(records).and_then(|()| {
            let known = self.index.known();
            if log.is_long(known) { log.rewrite(self.index.keys().into_iter()) } else { Ok(()) }
        });
        if let Err(error) = appended {
            tracing::warn!(%error, "cannot note verified files; they will be hashed again after a restart");
        }
    }

    /// What the file system says: it is full, or something is wrong with it.
    fn broken(&self, action: &str, error: io::Error) -> Refusal {
        let (code, advice) = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => (Code::CacheFull, "free space or inodes there, or lower cache.quota"),
            Some(libc::EMFILE | libc::ENFILE) => (Code::CacheFault, "allow more open files"),
            _ => (Code::CacheFault, "check its directories and the disk below them"),
        };
        Refusal::new(code, format!("cannot {action} the cache {}: {error}; {advice}", self.path.display()))
    }
}

fn other_size(found: u64, signed: u64) -> Refusal {
    Refusal::new(Code::DigestMismatch, format!("the cached content has {found} bytes, not {signed} as signed"))
}

/// Makes what is missing of the cache's directories; how many there were.
fn lay_out(root: &OwnedFd) -> Result<usize, Errno> {
    let mut made = 0;
    let mut make = |part: &str| {
        match rustix::fs::mkdirat(root, part, Mode::RWXU) {
            Ok(()) => made += 1,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    };
    for part in ["metadata", "quarantine", "tmp", "files"] {
        make(part)?;
    }
    // One look instead of 256 tries, each time that somebody starts.
    let files = rustix::fs::openat(root, "files", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut there = HashSet::new();
    for entry in rustix::fs::Dir::new(files)? {
        there.insert(entry?.file_name().to_bytes().to_vec());
    }
    for byte in 0..=255_u8 {
        let part = format!("files/{byte:02x}");
        if !there.contains(&part.as_bytes()["files/".len()..]) {
            make(&part)?;
        }
    }
    Ok(made)
}

/// A file's path below the cache.
fn place((area, sha256): Name) -> String {
    let text = sha256.to_string();
    match area {
        Area::Files => format!("files/{}/{text}", &text[..2]),
        Area::Metadata => format!("metadata/{text}"),
    }
}

/// The digest of the first `size` bytes; `None` if the file is shorter or longer.
fn hash(file: &File, size: u64) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::new();
    // One byte more, so that a longer file shows without another call for small ones.
    let mut buffer = vec![0; usize::try_from(size.saturating_add(1)).unwrap_or(usize::MAX).min(256 << 10)];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok((at == size).then(|| hasher.finish())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
                if at > size {
                    return Ok(None);
                }
                // A read that ends before the buffer does ended at the end of the file.
                if read < buffer.len() {
                    return Ok((at == size).then(|| hasher.finish()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
