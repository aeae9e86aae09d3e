//! The two sockets to the supervisor, spoken without manners.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mcpfs::config::Config;
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::credentials;

/// As `supervisor::wire` has it; written down again, since this side is not to be believed.
const BYTES: usize = 512;
const READY: u32 = 4;
const BEAT: u32 = 5;
const STATUS: u32 = 6;
const INIT: u32 = 8;
const BACK: u32 = 9;
const UNBACK: u32 = 10;
const EXECUTABLE: u32 = 11;
pub(crate) const DONE: u32 = 12;
const BACKED: u32 = 13;
pub(crate) const NO: u32 = 15;
const MOUNT: u32 = 16;
const SECRET: u32 = 18;
const AGAIN: u32 = 20;
const JUDGED: u32 = 22;

pub(crate) struct Door {
    pub(crate) generation: u64,
    line: OwnedFd,
    pub(crate) door: OwnedFd,
    pub(crate) listener: OwnedFd,
    fuse: Option<OwnedFd>,
    table: Option<OwnedFd>,
    counts: Option<OwnedFd>,
}

pub(crate) type Act = fn(&mut Door, &Config);

/// What must cost a worker its place.
pub(crate) fn acts() -> Vec<(&'static str, Act)> {
    let mut acts: Vec<(&'static str, Act)> = vec![
        ("nothing, until somebody kills it", |door, _| door.stay()),
        ("garbage at the door", |door, _| door.raw(true, &[0xff; BYTES], &[])),
        ("a short message at the door", |door, _| door.raw(true, &[0; 8], &[])),
        ("a long message at the door", |door, _| door.raw(true, &[0; BYTES * 4], &[])),
        ("garbage on the line", |door, _| door.raw(false, &[0xee; BYTES], &[])),
        ("an empty message on the line", |door, _| door.raw(false, &[], &[])),
        ("a question on the line", |door, _| door.raw(false, &message(MOUNT, 0, &[]), &[])),
        ("an answer at the door", |door, _| door.raw(true, &message(DONE, 0, &[]), &[])),
        ("a configuration that nobody offered, in force", |door, _| door.raw(false, &message(JUDGED, 1, &[]), &[])),
        ("ready twice", |door, _| door.raw(false, &message(READY, 0, b"again"), &[])),
        ("a text longer than its message", |door, _| {
            let mut bytes = message(STATUS, 0, &[]);
            bytes[4..8].fill(0xff);
            door.raw(false, &bytes, &[]);
        }),
        ("many descriptors", |door, _| {
            let null = File::open("/dev/null").unwrap();
            door.raw(true, &message(MOUNT, 0, &[]), &vec![null.as_fd(); 200]);
        }),
        ("a descriptor on the line", |door, _| {
            let null = File::open("/dev/null").unwrap();
            door.raw(false, &message(BEAT, 0, &[]), &[null.as_fd()]);
        }),
        ("two files for one id", |door, config| {
            let file = door.cached(config, "two");
            door.raw(true, &message(BACK, 9, &[]), &[file.as_fd(), file.as_fd()]);
        }),
        ("a flood at the door", |door, _| {
            for _ in 0..100_000 {
                if door.try_raw(true, &message(EXECUTABLE, 1, &[]), &[]).is_err() {
                    return;
                }
            }
        }),
        ("a flood on the line", |door, _| {
            for _ in 0..100_000 {
                if door.try_raw(false, &message(STATUS, 0, b"x\nMAINPID=1"), &[]).is_err() {
                    return;
                }
            }
        }),
        ("a closed door", |door, _| rustix::net::shutdown(&door.door, rustix::net::Shutdown::Both).unwrap()),
        ("silence", |_, _| {}),
        ("flags on the device, seals and O_APPEND on the counts, a shut control socket", |door, _| {
            let (fuse, counts) = (door.fuse.as_ref().unwrap(), door.counts.as_ref().unwrap());
            rustix::fs::fcntl_setfl(fuse, rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::RDWR).unwrap();
            rustix::fs::fcntl_setfl(counts, rustix::fs::OFlags::APPEND).unwrap();
            rustix::net::shutdown(&door.listener, rustix::net::Shutdown::Both).unwrap();
            door.raw(true, &[1], &[]);
        }),
        ("every id there is", |door, config| {
            let file = door.cached(config, "all");
            let made = (1..=70_000).take_while(|ino| {
                // On a slow machine this takes longer than a worker may be silent.
                if ino % 8192 == 0 {
                    door.raw(false, &message(BEAT, 0, &[]), &[]);
                }
                door.back(*ino << 20, &file).is_ok()
            });
            let made = made.count();
            crate::say(&format!("made {made} ids"));
            door.raw(true, &[1], &[]);
        }),
    ];
    acts.extend(credentials::acts());
    acts
}

pub(crate) fn message(kind: u32, number: u64, text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes[24..24 + text.len()].copy_from_slice(text);
    bytes
}

pub(crate) fn receive(socket: impl AsFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let length = rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let mut with = vec![];
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            with.extend(descriptors);
        }
    }
    bytes.truncate(length);
    (bytes, with)
}

pub(crate) fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Door {
    pub(crate) fn welcome() -> Self {
        let line = io::stdin().as_fd().try_clone_to_owned().unwrap();
        // What it is to decide by; it has read that itself.
        receive(&line);
        let (welcome, mut with) = receive(&line);
        let (listener, door) = (with.pop().unwrap(), with.pop().unwrap());
        Self { generation: number(&welcome, 8), line, door, listener, fuse: None, table: None, counts: None }
    }

    pub(crate) fn try_raw(&self, door: bool, bytes: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(with.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(with)));
        let socket = if door { &self.door } else { &self.line };
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The supervisor may have hung up already: that is what is wanted.
    pub(crate) fn raw(&self, door: bool, bytes: &[u8], with: &[BorrowedFd<'_>]) {
        drop(self.try_raw(door, bytes, with));
    }

    pub(crate) fn ask(
        &self,
        kind: u32,
        number: u64,
        text: &[u8],
        with: &[BorrowedFd<'_>],
    ) -> (u32, Vec<u8>, Vec<OwnedFd>) {
        self.try_raw(true, &message(kind, number, text), with).unwrap();
        let (answer, with) = receive(&self.door);
        let kind = u32::from_le_bytes(answer[..4].try_into().unwrap());
        (kind, answer, with)
    }

    /// Takes the session, and answers INIT as a worker with passthrough does; or like another one.
    pub(crate) fn mount(&mut self, otherwise: bool) {
        let (_, answer, mut with) = self.ask(MOUNT, 0, &[], &[]);
        self.counts = with.pop();
        self.table = with.pop();
        self.fuse = with.pop();
        let init = &answer[24..];
        if std::env::args().nth(3).as_deref() == Some("mute") && self.generation > 1 {
            // It lives, and never gets ready.
            self.stay();
            std::process::exit(0);
        }
        let mut reply = [0; 80];
        reply[..4].copy_from_slice(&80u32.to_le_bytes());
        reply[8..16].copy_from_slice(&init[8..16]);
        let out = &mut reply[16..];
        out[..4].copy_from_slice(&7u32.to_le_bytes());
        out[4..8].copy_from_slice(&init[44..48]);
        out[8..12].copy_from_slice(&(if otherwise { 4096u32 } else { 131_072 }).to_le_bytes());
        // FUSE_INIT_EXT, and FUSE_PASSTHROUGH of the second word.
        out[12..16].copy_from_slice(&(1u32 << 30).to_le_bytes());
        out[16..20].copy_from_slice(&[16, 0, 12, 0]);
        out[20..24].copy_from_slice(&131_072u32.to_le_bytes());
        out[24..28].copy_from_slice(&1u32.to_le_bytes());
        out[32..36].copy_from_slice(&(1u32 << 5).to_le_bytes());
        out[36..40].copy_from_slice(&1u32.to_le_bytes());
        let (kind, answer, _) = self.ask(INIT, 0, &reply, &[]);
        assert!(kind == DONE || otherwise, "INIT: errno {}", number(&answer, 8));
    }

    pub(crate) fn ready(&self) {
        let said = format!("hostile {} mounted at", self.generation);
        self.try_raw(false, &message(READY, 0, said.as_bytes()), &[]).unwrap();
        // What was said on the line before a question is heard before the next question.
        self.ask(EXECUTABLE, 1, &[], &[]);
    }

    /// Waits for one request of the kernel and does not answer.
    pub(crate) fn take_one(&self) {
        let mut request = vec![0; (16 << 20) + 4096];
        rustix::io::read(self.fuse.as_ref().unwrap(), &mut request).unwrap();
    }

    /// Lives on, and says so, until the supervisor has had enough or says Stop.
    pub(crate) fn stay(&self) {
        loop {
            if self.try_raw(false, &message(BEAT, 0, &[]), &[]).is_err() {
                return;
            }
            let mut asked = [rustix::event::PollFd::new(&self.line, rustix::event::PollFlags::IN)];
            let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut asked, Some(&second)).is_ok_and(|found| found > 0) {
                return;
            }
        }
    }

    /// Is still there after a time in which it should have been replaced: says so.
    pub(crate) fn wait_for_death(&self, name: &str) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(100));
        }
        crate::say(&format!("survived: {name}"));
    }

    fn cached(&self, config: &Config, name: &str) -> File {
        let path = config.cache.dir.join(name);
        std::fs::write(&path, name).unwrap();
        File::open(path).unwrap()
    }

    fn back(&self, ino: u64, file: impl AsFd) -> Result<(), i32> {
        match self.ask(BACK, ino, &[], &[file.as_fd()]) {
            (BACKED, ..) => Ok(()),
            (NO, answer, _) => Err(i32::try_from(number(&answer, 8)).unwrap()),
            (kind, ..) => panic!("kind {kind}"),
        }
    }

    /// What the supervisor must refuse without ending anybody.
    pub(crate) fn refusals(&self, config: &Config) -> Vec<(String, String)> {
        let mut found = vec![];
        let mut note = |name: &str, outcome: Result<(), i32>| {
            let said =
                outcome.map_or_else(|errno| io::Error::from_raw_os_error(errno).to_string(), |()| "allowed".to_owned());
            found.push((name.to_owned(), said));
        };
        // Room, after a predecessor has taken every place.
        for ino in 1..=70_000u64 {
            drop(self.ask(UNBACK, ino << 20, &[], &[]));
        }
        let own = self.cached(config, "own");
        note("back a file of the cache", self.back(9, &own));
        note("back it a second time for one inode", self.back(9, &own));
        let writable = File::options().read(true).write(true).open(config.cache.dir.join("own")).unwrap();
        note("back a writable file", self.back(10, writable));
        note("back a directory", self.back(10, File::open(&config.cache.dir).unwrap()));
        note("back a pipe", self.back(10, io::pipe().unwrap().0));
        note("back a device", self.back(10, File::open("/dev/null").unwrap()));
        note("back the kernel's FUSE device", self.back(10, self.fuse.as_ref().unwrap()));
        note("back the table of ids", self.back(10, self.table.as_ref().unwrap()));
        note("back the counts", self.back(10, self.counts.as_ref().unwrap()));
        note("back a socket", self.back(10, &self.listener));
        note("back a file outside of the cache", self.back(10, File::open("/etc/passwd").unwrap()));
        let state = config.state.join("own");
        std::fs::write(&state, "x").unwrap();
        note("back a file of its own outside of the cache", self.back(10, File::open(&state).unwrap()));
        note(
            "back another user's file in the cache",
            self.back(10, File::open(config.cache.dir.join("others")).unwrap()),
        );
        let path = rustix::fs::open(config.cache.dir.join("own"), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
        note("back a file it cannot read", self.back(10, path.unwrap()));
        let asked = |kind, number| match self.ask(kind, number, &[], &[]) {
            (NO, answer, _) => Err(i32::try_from(self::number(&answer, 8)).unwrap()),
            _ => Ok(()),
        };
        note("open the file of an id that there is not", asked(AGAIN, 77));
        note("give back an id that there is not", asked(UNBACK, 77));
        note("give back its own id", asked(UNBACK, 9));
        note("ask for a secret that is not configured", asked(SECRET, 0));
        note("ask for the program of a process that there is not", asked(EXECUTABLE, u64::from(u32::MAX >> 1)));
        let errno = |done: rustix::io::Result<usize>| done.map(drop).map_err(rustix::io::Errno::raw_os_error);
        let table = self.table.as_ref().unwrap();
        note("write the table of ids", errno(rustix::io::write(table, &[1])));
        let again = File::options().write(true).open(format!("/proc/self/fd/{}", table.as_raw_fd()));
        note("open the table of ids for writing", again.map(drop).map_err(|error| error.raw_os_error().unwrap()));
        let grown = rustix::fs::ftruncate(self.counts.as_ref().unwrap(), 1 << 40);
        note("make the counts a terabyte", grown.map_err(rustix::io::Errno::raw_os_error));
        let sealed = rustix::fs::fcntl_add_seals(self.counts.as_ref().unwrap(), rustix::fs::SealFlags::WRITE);
        note("seal the counts", sealed.map_err(rustix::io::Errno::raw_os_error));
        let flags = rustix::fs::fcntl_getfl(self.fuse.as_ref().unwrap()).unwrap();
        note(
            "find a predecessor's flags on the device",
            match flags.contains(rustix::fs::OFlags::NONBLOCK) {
                true => Ok(()),
                false => Err(libc::ENOENT),
            },
        );
        let flags = rustix::fs::fcntl_getfl(self.counts.as_ref().unwrap()).unwrap();
        note(
            "find a predecessor's flags on the counts",
            match flags.contains(rustix::fs::OFlags::APPEND) {
                true => Ok(()),
                false => Err(libc::ENOENT),
            },
        );
        found
    }
}
