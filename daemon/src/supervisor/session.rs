//! The FUSE session that outlives its workers: the descriptor, and what was agreed at INIT.
//!
//! The kernel says INIT once per mount, and fuser insists on hearing it. So the supervisor reads
//! it, keeps it, and gives every worker the same one; each worker's answer comes back here, the
//! first goes to the kernel, and a later one must be the same to the byte: a worker that would
//! have agreed to something else cannot take over. The same holds for two things that the kernel
//! is not told and keeps all the same ([`Ground`]): which release an inode number stands for, and
//! whether it reads a file itself. All of it lies in a memory file, so that a new supervisor finds
//! it with systemd.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::wire::{Ground, INIT_REPLY};
use super::{device, service};
use crate::mount::{MountError, Mountpoint};

/// The first bytes of the record; the number changes with its shape.
const MAGIC: &[u8; 8] = b"mcpfs\0\0\x03";
/// Longest INIT request kept: fuse_in_header and fuse_init_in are 104 bytes.
const INIT: usize = 256;
/// Bytes of the ground: its two numbers.
const GROUND: usize = 16;
/// Longest mount point kept, bytes.
const PATH: usize = 4096;
/// Bytes of the record.
const RECORD: usize = 8 + 8 + 4 + INIT + 4 + INIT_REPLY + 4 + GROUND + 4 + PATH;
/// Behind the record stands a byte: whether its supervisor has been asked to end.
const END: u64 = RECORD as u64;
const NOT_ASKED: u8 = 1;
const ASKED: u8 = 2;
/// What systemd keeps the record as.
pub(super) const NAME: &str = "session";

/// How long the kernel may take to say INIT after a mount.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a read of the device must have room for: the kernel refuses less than one write.
const REQUEST: usize = (16 << 20) + 4096;

/// fuse_in_header: length, operation and number stand at its beginning.
const HEADER: usize = 40;
/// Where the upper half of the flags stands in an answer to INIT: behind fuse_out_header and 32 bytes of fuse_init_out.
const FLAGS2: usize = 16 + 32;
/// Operations without an answer: FORGET, INTERRUPT, BATCH_FORGET of <linux/fuse.h>.
const UNANSWERED: [u32; 3] = [2, 36, 42];
/// FUSE_NOTIFY_RESEND of <linux/fuse.h>.
const NOTIFY_RESEND: i32 = 7;

/// A mounted session.
#[derive(Debug)]
pub(super) struct Session {
    point: Mountpoint,
    fuse: File,
    record: File,
    init: Vec<u8>,
    reply: Option<[u8; INIT_REPLY]>,
    ground: Option<Ground>,
    generation: u64,
}

impl Session {
    /// Mounts at `point` and hears the kernel's INIT.
    ///
    /// # Errors
    /// Every reason not to mount; nothing stays mounted then.
    pub(super) fn mount(point: Mountpoint, generation: u64) -> Result<Self, MountError> {
        let fuse = File::from(point.mount()?);
        let heard = hear(&fuse).and_then(|init| {
            let record = rustix::fs::memfd_create("mcpfs-session", MemfdFlags::CLOEXEC)?.into();
            let session = Self { point: point.clone(), fuse, record, init, reply: None, ground: None, generation };
            session.keep().map(|()| session)
        });
        heard.map_err(|error| {
            if let Err(left) = point.unmount() {
                tracing::warn!(at = %point.path().display(), error = %left, "a mount that never served was left behind");
            }
            MountError::io("the FUSE handshake failed", point.path(), error)
        })
    }

    /// The session that an earlier supervisor left with systemd, if it is one of this program and
    /// mounted at `point`.
    pub(super) fn adopt(point: Mountpoint, fuse: OwnedFd, record: OwnedFd) -> io::Result<Self> {
        let (fuse, record) = (File::from(fuse), File::from(record));
        let mut bytes = vec![0; RECORD];
        record.read_exact_at(&mut bytes, 0)?;
        let stored = Stored::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        if std::path::Path::new(std::ffi::OsStr::new(&stored.at)) != point.path() {
            return Err(io::Error::other(format!("it is mounted at {}", stored.at)));
        }
        device::is_of(&fuse, &point)?;
        let Stored { generation, init, reply, ground, .. } = stored;
        Ok(Self { point, fuse, record, init, reply, ground, generation })
    }

    /// Notes whether this supervisor has been asked to end, for the one after it ([`Left`]).
    ///
    /// # Errors
    /// What memory says.
    pub(super) fn note_end(&self, asked: bool) -> io::Result<()> {
        self.record.write_all_at(&[if asked { ASKED } else { NOT_ASKED }], END)
    }

    /// The next worker's number.
    ///
    /// # Errors
    /// If it cannot be noted for the supervisor after this one.
    pub(super) fn next_generation(&mut self) -> io::Result<u64> {
        self.generation += 1;
        // The flags of the device are everybody's who has it; a predecessor may have set O_NONBLOCK.
        rustix::fs::fcntl_setfl(&self.fuse, rustix::fs::OFlags::RDWR)?;
        self.keep()?;
        Ok(self.generation)
    }

    /// Where it is mounted.
    pub(super) fn point(&self) -> &Mountpoint {
        &self.point
    }

    /// Whether a worker has agreed with the kernel on how it is served.
    pub(super) fn is_agreed(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether the first answer to the kernel's INIT has FUSE_PASSTHROUGH of <linux/fuse.h>, a flag of the upper
    /// half; every other answer must have it then, or none.
    pub(super) fn asked_for_passthrough(&self) -> Option<bool> {
        const PASSTHROUGH: u32 = 1 << 5;
        let flags: [u8; 4] = self.reply?.get(FLAGS2..)?.first_chunk().copied()?;
        Some(u32::from_ne_bytes(flags) & PASSTHROUGH != 0)
    }

    /// The kernel's INIT, for a worker.
    pub(super) fn init(&self) -> &[u8] {
        &self.init
    }

    /// The device and the record, for a worker and for systemd.
    pub(super) fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.fuse.as_fd(), self.record.as_fd())
    }

    /// A worker would answer INIT like this. The first answer goes to the kernel.
    ///
    /// # Errors
    /// EPROTO for an answer other than the first; what the kernel says to the first.
    pub(super) fn answer_init(&mut self, reply: [u8; INIT_REPLY]) -> Result<(), Errno> {
        let broken = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        match self.reply {
            Some(first) if first == reply => Ok(()),
            Some(_) => Err(Errno::PROTO),
            None => {
                self.fuse.write_all(&reply).map_err(broken)?;
                self.reply = Some(reply);
                self.keep().map_err(broken)
            }
        }
    }

    /// A worker stands on this. What the first one stands on holds for all.
    ///
    /// # Errors
    /// EPROTO if the session stands on something else: what the kernel keeps would mean something else.
    pub(super) fn stands_on(&mut self, ground: Ground) -> Result<Ground, Errno> {
        let known = self.ground.unwrap_or(Ground { passthrough: None, ..ground });
        let differs =
            known.passthrough.is_some() && ground.passthrough.is_some_and(|one| known.passthrough != Some(one));
        if known.slots != ground.slots || differs {
            return Err(Errno::PROTO);
        }
        let now = Ground { passthrough: known.passthrough.or(ground.passthrough), ..known };
        if self.ground != Some(now) {
            self.ground = Some(now);
            self.keep().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        Ok(now)
    }

    /// Asks the kernel to send again what the dead worker had taken and not answered.
    ///
    /// # Errors
    /// `InvalidInput` of a kernel before 6.9: then those who wait would wait for ever.
    pub(super) fn resend(&self) -> io::Result<()> {
        // Length, notification, no request's number.
        let mut header = [0; 16];
        header[..4].copy_from_slice(&16u32.to_le_bytes());
        header[4..8].copy_from_slice(&NOTIFY_RESEND.to_le_bytes());
        (&self.fuse).write_all(&header)
    }

    /// Answers everything that waits with EIO, after [`Self::resend`]. How many there were.
    pub(super) fn refuse_pending(&self) -> usize {
        let mut buffer = vec![0; REQUEST];
        let mut refused = 0;
        // Whoever asked may be killed between the look and the read, which then would wait for the next
        // one who asks. The next worker's flags are set before it starts.
        if let Err(error) = rustix::fs::fcntl_setfl(&self.fuse, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK)
        {
            tracing::warn!(%error, "the device cannot be read without waiting");
        }
        while waiting(&self.fuse, Duration::ZERO) {
            let length = match (&self.fuse).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(_) => break,
            };
            let Some(header) = buffer.get(..length).and_then(|request| request.get(..HEADER)) else { break };
            let (operation, unique) = (&header[4..8], &header[8..16]);
            if UNANSWERED.iter().any(|one| one.to_le_bytes() == operation) {
                continue;
            }
            let mut answer = [0; 16];
            answer[..4].copy_from_slice(&16u32.to_le_bytes());
            answer[4..8].copy_from_slice(&(-libc::EIO).to_le_bytes());
            answer[8..].copy_from_slice(unique);
            // ENOENT: whoever asked was killed meanwhile.
            drop((&self.fuse).write_all(&answer));
            refused += 1;
        }
        refused
    }

    /// Whether the mount is gone: somebody unmounted it, or the connection was aborted.
    pub(super) fn is_over(&self) -> bool {
        let mut asked = [PollFd::new(&self.fuse, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Takes the mount away from everybody, whatever they wait for.
    pub(super) fn abort(&self) {
        if let Err(error) = self.point.abort() {
            tracing::error!(%error, at = %self.point.path().display(), "the mount could not be taken away; clear it: umount -l");
        }
    }

    fn keep(&self) -> io::Result<()> {
        let at = self.point.path().to_string_lossy().into_owned();
        let (generation, init, reply, ground) = (self.generation, self.init.clone(), self.reply, self.ground);
        let stored = Stored { generation, init, reply, ground, at };
        self.record.write_all_at(&stored.encode(), 0)
    }
}

/// What the supervisor before this one has left, if it left a session.
#[derive(Debug)]
pub(crate) struct Left(File);

impl Left {
    /// Looks at what systemd handed on. Where the mount is gone, systemd has let go of its device, and nothing was left.
    pub(crate) fn find() -> Option<Self> {
        service::NAMES
            .iter()
            .all(|name| service::handed_on(name).is_some())
            .then(|| service::handed_on(NAME).map(Self))?
    }

    /// Whether that supervisor ended without being asked to: it was killed, hung or crashed.
    pub(crate) fn died(&self) -> bool {
        let mut end = [0];
        self.0.read_exact_at(&mut end, END).is_ok() && end[0] == NOT_ASKED
    }

    /// Notes that this process, which never had a session, was asked to end: the next one reads the disk.
    pub(crate) fn note_end(&self) {
        if let Err(error) = self.0.write_all_at(&[ASKED], END) {
            tracing::warn!(%error, "the next process will take this one's end for a crash");
        }
    }
}

/// Waits for INIT and takes it.
fn hear(fuse: &File) -> io::Result<Vec<u8>> {
    if !waiting(fuse, PATIENCE) {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not say INIT"));
    }
    let mut buffer = vec![0; REQUEST];
    let length = (&*fuse).read(&mut buffer)?;
    buffer.truncate(length);
    if !(HEADER..=INIT).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an INIT of {length} bytes")));
    }
    Ok(buffer)
}

fn waiting(fuse: &File, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut asked = [PollFd::new(fuse, PollFlags::IN)];
        match poll(&mut asked, Some(&left)) {
            Err(Errno::INTR) => {}
            Ok(found) => return found > 0 && asked.iter().all(|one| one.revents().contains(PollFlags::IN)),
            Err(_) => return false,
        }
    }
}

/// The record as it lies in memory.
#[derive(Debug, PartialEq)]
struct Stored {
    generation: u64,
    init: Vec<u8>,
    reply: Option<[u8; INIT_REPLY]>,
    ground: Option<Ground>,
    at: String,
}

impl Stored {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        let mut field = |value: &[u8], room: usize| {
            let value = value.get(..room).unwrap_or(value);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len() + room - value.len(), 0);
        };
        field(&self.init, INIT);
        field(self.reply.as_ref().map_or(&[], |reply| reply), INIT_REPLY);
        let ground = self.ground.map(|ground| <[u64; 2]>::from(ground.numbers()).map(u64::to_le_bytes));
        field(ground.as_ref().map_or(&[], |numbers| numbers.as_flattened()), GROUND);
        field(self.at.as_bytes(), PATH);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let generation = u64::from_le_bytes(rest.split_off(..8)?.try_into().ok()?);
        let mut field = |room: usize| {
            let length = u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?);
            rest.split_off(..room)?.get(..usize::try_from(length).ok()?)
        };
        let (init, reply, ground, at) = (field(INIT)?.to_vec(), field(INIT_REPLY)?, field(GROUND)?, field(PATH)?);
        let ground = match ground.as_chunks().0 {
            [passthrough, slots] => Some(Ground::of((u64::from_le_bytes(*passthrough), u64::from_le_bytes(*slots)))?),
            _ => None,
        };
        let reply = match reply {
            [] => None,
            reply => Some(reply.try_into().ok()?),
        };
        Some(Self { generation, init, reply, ground, at: std::str::from_utf8(at).ok()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_record_is_found_again() {
        let ground = Ground { passthrough: Some(false), slots: u64::MAX };
        for (reply, ground) in [(None, None), (Some([9; INIT_REPLY]), Some(ground))] {
            let stored = Stored { generation: 7, init: vec![1; 104], reply, ground, at: "/mcp".to_owned() };
            let bytes = stored.encode();
            assert_eq!(bytes.len(), RECORD);
            assert_eq!(Stored::decode(&bytes), Some(stored));
            let mut other = bytes.clone();
            other[7] = 1;
            assert_eq!(Stored::decode(&other), None, "another version's record");
            let mut long = bytes.clone();
            long[16..20].fill(0xff);
            assert_eq!(Stored::decode(&long), None);
            assert_eq!(Stored::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
