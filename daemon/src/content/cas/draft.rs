//! Drafts: how a file comes into the cache. The order of the steps is the parent's theory; here
//! each has one function. Where the kernel or its mounts lack a step (no `O_TMPFILE`, linking by
//! descriptor not allowed) the other way is remembered, so that it is tried once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::VerifyError;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{Cas, hash, place};
use crate::content::gate::Class;
use crate::content::index::{Name, on_disk};
use crate::content::verified::FileKey;
use crate::refusal::Refusal;

/// A file being written; dropped, it never was.
#[derive(Debug)]
pub(in crate::content) struct Draft {
    writer: File,
    /// Where there are no files without a name.
    name: Option<DraftName>,
}

/// A name below `tmp/`, removed when dropped.
#[derive(Debug)]
struct DraftName {
    root: Arc<OwnedFd>,
    name: String,
}

impl Drop for DraftName {
    fn drop(&mut self) {
        // Fails, as it should, once the draft has been renamed.
        let _ = rustix::fs::unlinkat(&self.root, &*self.name, AtFlags::empty());
    }
}

/// Reserved space, and the records of what was published into it. Dropping it writes the
/// records and returns the rest of the space.
#[derive(Debug)]
pub(in crate::content) struct Batch {
    cas: Arc<Cas>,
    reserved: u64,
    /// How much of it counts as room that nobody waits for.
    unhurried: u64,
    records: Vec<u8>,
}

impl Cas {
    /// Reserves space for files that together have `bytes` on disk, evicting if needed.
    pub(in crate::content) fn batch(self: &Arc<Self>, bytes: u64, class: Class) -> Result<Batch, Refusal> {
        self.make_room(bytes, class)?;
        let unhurried = if class == Class::Background { bytes } else { 0 };
        self.unhurried.fetch_add(unhurried, Ordering::SeqCst);
        Ok(Batch { cas: self.clone(), reserved: bytes, unhurried, records: Vec::new() })
    }

    /// A new draft. Its space belongs to a batch.
    pub(in crate::content) fn draft(&self) -> Result<Draft, Refusal> {
        let mode = Mode::from_raw_mode(0o444);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let nameless = || rustix::fs::openat(&self.root, "tmp", flags | OFlags::TMPFILE, mode);
        if !self.named_drafts.load(Ordering::Relaxed) {
            let opened = match self.with_room(0, nameless) {
                Err(Errno::NOENT) if self.restore() => nameless(),
                done => done,
            };
            match opened {
                Ok(fd) => return Ok(Draft { writer: fd.into(), name: None }),
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => self.named_drafts.store(true, Ordering::Relaxed),
                Err(errno) => return Err(self.broken("write to", errno.into())),
            }
        }
        let name = format!("tmp/{}", self.drafts.fetch_add(1, Ordering::Relaxed));
        let named = || rustix::fs::openat(&self.root, &*name, flags | OFlags::CREATE | OFlags::EXCL, mode);
        let opened = match self.with_room(0, named) {
            Err(Errno::NOENT) if self.restore() => named(),
            done => done,
        };
        let fd = opened.map_err(|errno| self.broken("write to", errno.into()))?;
        Ok(Draft { writer: fd.into(), name: Some(DraftName { root: self.root.clone(), name }) })
    }

    /// Writes a piece of a draft.
    pub(in crate::content) fn write(&self, draft: &Draft, offset: u64, bytes: &[u8]) -> Result<(), Refusal> {
        // All of it again: it is written where it was.
        let write = || {
            let written = draft.writer.write_all_at(bytes, offset);
            written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        self.with_room(bytes.len() as u64, write).map_err(|errno| self.broken("write to", errno.into()))
    }

    /// Opens a draft read-only and closes its writer.
    fn reopen(&self, draft: Draft) -> io::Result<(File, Option<DraftName>)> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let reader = match &draft.name {
            None => rustix::fs::open(format!("/proc/self/fd/{}", draft.writer.as_raw_fd()), flags, Mode::empty())
                .inspect_err(|_| self.named_drafts.store(true, Ordering::Relaxed))?,
            Some(draft) => rustix::fs::openat(&self.root, &*draft.name, flags | OFlags::NOFOLLOW, Mode::empty())?,
        };
        drop(draft.writer);
        Ok((reader.into(), draft.name))
    }

    fn link(&self, reader: &File, draft: Option<&DraftName>, name: Name) -> Result<(), Errno> {
        match self.with_room(0, || self.link_once(reader, draft, name)) {
            Err(Errno::NOENT) if self.restore() => self.link_once(reader, draft, name),
            done => done,
        }
    }

    fn link_once(&self, reader: &File, draft: Option<&DraftName>, name: Name) -> Result<(), Errno> {
        let to = place(name);
        if let Some(draft) = draft {
            return rustix::fs::renameat(&self.root, &*draft.name, &self.root, &to);
        }
        if !self.link_by_path.load(Ordering::Relaxed) {
            match rustix::fs::linkat(reader, "", &self.root, &to, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT | Errno::PERM) => self.link_by_path.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        let from = format!("/proc/self/fd/{}", reader.as_fd().as_raw_fd());
        rustix::fs::linkat(CWD, from, &self.root, &to, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Batch {
    /// Somebody waits for it now.
    pub(in crate::content) fn hurry(&mut self) {
        self.cas.unhurried.fetch_sub(std::mem::take(&mut self.unhurried), Ordering::SeqCst);
    }

    /// Writes and publishes a whole file, called `what` in errors.
    pub(in crate::content) fn put(&mut self, name: Name, what: &'static str, bytes: &[u8]) -> Result<File, Refusal> {
        let draft = self.cas.draft()?;
        self.cas.write(&draft, 0, bytes)?;
        self.publish(draft, name, what, bytes.len() as u64)
    }

    /// Verifies a complete draft and gives it its name.
    pub(in crate::content) fn publish(
        &mut self,
        draft: Draft,
        name: Name,
        what: &'static str,
        size: u64,
    ) -> Result<File, Refusal> {
        let cas = self.cas.clone();
        let (reader, draft) = cas.reopen(draft).map_err(|error| cas.broken("read back from", error))?;
        let found = hash(&reader, size).map_err(|error| cas.broken("read back from", error))?;
        if found != Some(name.1) {
            let found = found.unwrap_or(Digest::EMPTY);
            return Err(VerifyError::DigestMismatch { what, expected: name.1, found }.into());
        }
        while let Err(errno) = cas.link(&reader, draft.as_ref(), name) {
            if errno != Errno::EXIST {
                return Err(cas.broken("write to", errno.into()));
            }
            // Somebody was faster, or the walk has not come to it. What fails goes to quarantine.
            let there = cas.ready(name, size).map_or_else(|| cas.verify(name, size), |file| Ok(Some(file)))?;
            if let Some(file) = there {
                return Ok(file);
            }
        }
        let stat = |file: &File| file.metadata().map_err(|error| cas.broken("stat a file of", error));
        let mut metadata = stat(&reader)?;
        if metadata.mode() & 0o777 != 0o444 {
            let mode = Mode::from_raw_mode(0o444);
            rustix::fs::fchmod(&reader, mode).map_err(|errno| cas.broken("protect a file of", errno.into()))?;
            metadata = stat(&reader)?;
        }
        let key = FileKey::of(&metadata);
        let reserved = self.reserved.checked_sub(on_disk(size));
        self.reserved = reserved.unwrap_or(self.reserved);
        cas.index.verify(name, key, reserved.is_some());
        key.record(&name.1, &mut self.records);
        Ok(reader)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.cas.index.release(self.reserved);
        self.hurry();
        if !self.records.is_empty() {
            self.cas.append(&self.records);
        }
    }
}
