//! What supervisor and worker say to each other: messages of one fixed size.
//!
//! Two sockets, both SOCK_SEQPACKET, so that a message arrives whole or not at all. On the *line*
//! each side tells the other what happens; on the *door* the worker asks and gets one answer. The
//! supervisor takes every byte for hostile: a message has one length, its kind is one of a list,
//! its numbers mean nothing until they are looked up, and what does not decode ends the worker.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Bytes of every message.
const BYTES: usize = 512;
/// Kind, length of the text, and two numbers stand before the text.
const TEXT_AT: usize = 24;
/// Longest text, bytes.
const TEXT: usize = BYTES - TEXT_AT;
/// Descriptors that a message may carry.
const DESCRIPTORS: usize = 6;

/// The kernel's answer to INIT: fuse_out_header and fuse_init_out of <linux/fuse.h>, since 7.23.
pub(crate) const INIT_REPLY: usize = 16 + 64;

/// A file of the configuration that is root's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secret {
    /// `registry.token_file`
    Token,
    /// `registry.client_certificate`
    ClientCertificate,
}

/// What all workers of one session have in common, beside what was agreed with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ground {
    /// Whether the kernel reads the cache's files itself; nothing as long as nobody has tried.
    pub(crate) passthrough: Option<bool>,
    /// Which table of slots the inode numbers are made of.
    pub(crate) slots: u64,
}

impl Ground {
    /// As it is written: 0 for what is not known.
    pub(crate) fn numbers(self) -> (u64, u64) {
        (number(self.passthrough), self.slots)
    }

    /// From what is written.
    pub(crate) fn of((passthrough, slots): (u64, u64)) -> Option<Self> {
        Some(Self { passthrough: known(passthrough)?, slots })
    }
}

fn number(known: Option<bool>) -> u64 {
    known.map_or(0, |yes| if yes { 1 } else { 2 })
}

fn known(number: u64) -> Option<Option<bool>> {
    match number {
        0 => Some(None),
        1 => Some(Some(true)),
        2 => Some(Some(false)),
        _ => None,
    }
}

/// One message. What travels with it as descriptors is said at each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Line, to the worker: with its end of the door, and the control socket.
    Welcome {
        /// Which worker of this session this is, from 1.
        generation: u64,
    },
    /// Line, to the worker, before its welcome: what it decides by, in memory ([`super::charge`]). Door, a question:
    /// the same as it is on the disk now.
    Configuration,
    /// Line, to the worker: take over the configuration that is on the disk now.
    Reload,
    /// Line, to the worker: finish what is being written and end.
    Stop,
    /// Line, from the worker: it serves; with the one line for people.
    Ready(String),
    /// Line, from the worker, every second: it still serves.
    Beat,
    /// Line, from the worker: what it has to say of itself now.
    Status(String),
    /// Line, from the worker: a reload has ended, well or not.
    Reloaded,
    /// Line, from the worker: what has become of the configuration that it asked for.
    Judged {
        /// Whether it is in force.
        config: bool,
        /// Whether its trust root is too; without, the one of before stays in force. If it alone is, then it is the
        /// one that the worker's predecessor was offered.
        trust: bool,
    },
    /// Door, a question: mount, if it is not mounted yet.
    Mount,
    /// Door, an answer: it is mounted; with the device, the tables of backing ids and of open handles.
    Mounted {
        /// The kernel's INIT.
        init: Vec<u8>,
        /// Whether the first answer to it asked for passthrough; nothing as long as nobody has answered.
        passthrough: Option<bool>,
    },
    /// Door, a question: this is how I would answer the kernel's INIT.
    Init([u8; INIT_REPLY]),
    /// Door, a question: this is what I stand on. And its answer: this is what the session stands on.
    Ground(Ground),
    /// Door, a question: a backing id for this inode; with the file, open for reading.
    Back {
        /// The inode's number in the mount.
        ino: u64,
    },
    /// Door, a question: give this inode's backing id back.
    Unback {
        /// The inode's number in the mount.
        ino: u64,
    },
    /// Door, a question: the file that this inode's backing id stands for, which may have lost its path.
    Again {
        /// The inode's number in the mount.
        ino: u64,
    },
    /// Door, a question: the executable of this process.
    Executable {
        /// The process.
        pid: u32,
    },
    /// Door, a question: open the token file or the client certificate of the configuration.
    Secret(Secret),
    /// Door, a question: have a credential read for whoever is at the other end of a connection; with that
    /// connection, and the socket that the answer goes to.
    Credential {
        /// Which entry of the configuration it is, as the worker knows it.
        mark: u64,
        /// Whether it becomes a variable.
        env: bool,
        /// What recipes call it.
        reference: String,
    },
    /// Door, an answer: here it is, open for reading; with the file.
    Opened,
    /// Door, an answer: it is done.
    Done,
    /// Door, an answer: the id, and its place in the table.
    Backed {
        /// As the kernel numbers it.
        id: u32,
        /// Its place.
        cell: u32,
    },
    /// Door, an answer: a path, not necessarily UTF-8.
    Path(Vec<u8>),
    /// Door, an answer: no, by this error of the system.
    No(i32),
}

impl Message {
    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let (kind, numbers, text): (u32, (u64, u64), &[u8]) = match self {
            Self::Welcome { generation } => (1, (*generation, 0), &[]),
            Self::Reload => (2, (0, 0), &[]),
            Self::Stop => (3, (0, 0), &[]),
            Self::Ready(line) => (4, (0, 0), cut(line)),
            Self::Beat => (5, (0, 0), &[]),
            Self::Status(text) => (6, (0, 0), cut(text)),
            Self::Reloaded => (7, (0, 0), &[]),
            Self::Init(reply) => (8, (0, 0), reply),
            Self::Back { ino } => (9, (*ino, 0), &[]),
            Self::Unback { ino } => (10, (*ino, 0), &[]),
            Self::Executable { pid } => (11, (u64::from(*pid), 0), &[]),
            Self::Done => (12, (0, 0), &[]),
            Self::Backed { id, cell } => (13, (u64::from(*id), u64::from(*cell)), &[]),
            Self::Path(path) => (14, (0, 0), path.get(..TEXT).unwrap_or(path)),
            Self::Secret(secret) => (18, (*secret as u64, 0), &[]),
            Self::Opened => (19, (0, 0), &[]),
            Self::Again { ino } => (20, (*ino, 0), &[]),
            Self::Ground(ground) => (23, ground.numbers(), &[]),
            Self::Mount => (16, (0, 0), &[]),
            Self::Mounted { init, passthrough } => (17, (number(*passthrough), 0), init.get(..TEXT).unwrap_or(init)),
            Self::Configuration => (21, (0, 0), &[]),
            Self::Credential { mark, env, reference } => (24, (*mark, u64::from(*env)), cut(reference)),
            Self::Judged { config, trust } => (22, (u64::from(*config), u64::from(*trust)), &[]),
            Self::No(errno) => (15, (u64::from(errno.unsigned_abs()), 0), &[]),
        };
        let mut bytes = [0; BYTES];
        let length = text.len() as u32;
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&numbers.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&numbers.1.to_le_bytes());
        bytes[TEXT_AT..TEXT_AT + text.len()].copy_from_slice(text);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let four = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let eight = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let text = bytes.get(TEXT_AT..TEXT_AT + usize::try_from(four(4)?).ok().filter(|length| *length <= TEXT)?)?;
        let (first, second) = (eight(8)?, eight(16)?);
        let small = |number: u64| u32::try_from(number).ok();
        Some(match four(0)? {
            1 => Self::Welcome { generation: first },
            2 => Self::Reload,
            3 => Self::Stop,
            4 => Self::Ready(plain(text)),
            5 => Self::Beat,
            6 => Self::Status(plain(text)),
            7 => Self::Reloaded,
            8 => Self::Init(text.try_into().ok()?),
            9 => Self::Back { ino: first },
            10 => Self::Unback { ino: first },
            11 => Self::Executable { pid: small(first)? },
            12 => Self::Done,
            13 => Self::Backed { id: small(first)?, cell: small(second)? },
            14 => Self::Path(text.to_vec()),
            15 => Self::No(i32::try_from(first).ok()?),
            16 => Self::Mount,
            17 => Self::Mounted { init: text.to_vec(), passthrough: known(first)? },
            18 if first == Secret::Token as u64 => Self::Secret(Secret::Token),
            18 if first == Secret::ClientCertificate as u64 => Self::Secret(Secret::ClientCertificate),
            19 => Self::Opened,
            20 => Self::Again { ino: first },
            21 => Self::Configuration,
            22 if first <= 1 && second <= 1 => Self::Judged { config: first == 1, trust: second == 1 },
            23 => Self::Ground(Ground::of((first, second))?),
            24 if second <= 1 => Self::Credential { mark: first, env: second == 1, reference: plain(text) },
            _ => return None,
        })
    }
}

/// A text as one line: it goes to systemd, where the next line would be another statement, and to terminals.
fn plain(text: &[u8]) -> String {
    let mut words: String =
        String::from_utf8_lossy(text).chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    // What stands for a byte that is no text takes three.
    words.truncate(words.floor_char_boundary(TEXT));
    words
}

/// Closes what nobody asked for, in a thread of its own: closing a file of somebody's FUSE mount
/// waits for that mount's server.
pub(super) fn put_away(with: Vec<OwnedFd>) {
    if !with.is_empty() {
        drop(std::thread::Builder::new().name("put-away".to_owned()).spawn(move || drop(with)));
    }
}

/// As much of a text as fits, whole characters only.
fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(TEXT)]
}

/// The two ends of a new socket; both close on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message. Never blocks for want of room: a peer that does not read is a dead one.
///
/// # Errors
/// `WouldBlock` if the peer has not read what was sent before; `BrokenPipe` if it is gone.
pub(crate) fn send(socket: impl AsFd, message: &Message, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = message.encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for one message, with what came along; as long as the socket's own timeout says.
///
/// # Errors
/// `UnexpectedEof` if the peer is gone, `InvalidData` if it talks nonsense, `WouldBlock` at a timeout.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<(Message, Vec<OwnedFd>)> {
    // One byte more than a message, so that a longer one is seen to be one.
    let mut bytes = [0; BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let (received, cut) = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // It ended before it had read everything.
            Err(Errno::CONNRESET) => break (0, false),
            other => {
                let found = other?;
                break (found.bytes, found.flags.contains(ReturnFlags::CTRUNC));
            }
        }
    };
    let mut with = vec![];
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            with.extend(descriptors);
        }
    }
    if received == 0 {
        put_away(with);
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match bytes.get(..received).and_then(Message::decode) {
        Some(message) if !cut && with.len() <= DESCRIPTORS => Ok((message, with)),
        _ => {
            put_away(with);
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn all() -> Vec<Message> {
        vec![
            Message::Welcome { generation: u64::MAX },
            Message::Configuration,
            Message::Reload,
            Message::Judged { config: true, trust: true },
            Message::Judged { config: true, trust: false },
            Message::Judged { config: false, trust: true },
            Message::Judged { config: false, trust: false },
            Message::Stop,
            Message::Ready("mcp.example.com mounted at /mcp · head 3".to_owned()),
            Message::Beat,
            Message::Status(String::new()),
            Message::Reloaded,
            Message::Secret(Secret::Token),
            Message::Secret(Secret::ClientCertificate),
            Message::Credential { mark: u64::MAX, env: true, reference: "finance-dw/readonly".to_owned() },
            Message::Credential { mark: 0, env: false, reference: String::new() },
            Message::Opened,
            Message::Mount,
            Message::Mounted { init: vec![1; 104], passthrough: None },
            Message::Mounted { init: vec![1; 104], passthrough: Some(false) },
            Message::Init([7; INIT_REPLY]),
            Message::Ground(Ground { passthrough: None, slots: u64::MAX }),
            Message::Ground(Ground { passthrough: Some(true), slots: 1 }),
            Message::Ground(Ground { passthrough: Some(false), slots: 0 }),
            Message::Back { ino: 1 << 40 },
            Message::Unback { ino: 9 },
            Message::Again { ino: 9 },
            Message::Executable { pid: 1 },
            Message::Done,
            Message::Backed { id: 3, cell: u32::MAX },
            Message::Path(b"/usr/bin/\xff".to_vec()),
            Message::No(libc::EPERM),
        ]
    }

    #[test]
    fn every_message_arrives_with_its_descriptors() {
        let (here, there) = pair().unwrap();
        for message in all() {
            send(&here, &message, &[here.as_fd(), there.as_fd()]).unwrap();
            let (got, with) = receive(&there).unwrap();
            assert_eq!((got, with.len()), (message, 2));
        }
        drop(here);
        assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(send(&there, &Message::Beat, &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let (here, there) = pair().unwrap();
        send(&here, &Message::Status("ü".repeat(TEXT)), &[]).unwrap();
        assert_eq!(receive(&there).unwrap().0, Message::Status("ü".repeat(TEXT / 2)));
    }

    #[test]
    fn a_text_is_one_line() {
        let (here, there) = pair().unwrap();
        send(&here, &Message::Status("fine\nMAINPID=1\u{1b}[2J".to_owned()), &[]).unwrap();
        assert_eq!(receive(&there).unwrap().0, Message::Status("fine MAINPID=1 [2J".to_owned()));
    }

    #[test]
    fn more_descriptors_than_a_message_carries_are_nonsense() {
        let (here, there) = pair().unwrap();
        let many = vec![here.as_fd(); DESCRIPTORS + 1];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS + 1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        let beat = Message::Beat.encode();
        rustix::net::sendmsg(&here, &[IoSlice::new(&beat)], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_peer_that_does_not_read_blocks_nobody() {
        let (here, _there) = pair().unwrap();
        let error = (0..100_000).find_map(|_| send(&here, &Message::Beat, &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn other_lengths_and_kinds_are_nonsense() {
        let (here, there) = pair().unwrap();
        let whole = Message::Beat.encode();
        let unknown = {
            let mut bytes = whole;
            bytes[0] = 99;
            bytes
        };
        let too_long = {
            let mut bytes = Message::Path(vec![1]).encode();
            bytes[4..8].fill(0xff);
            bytes
        };
        for bad in [&whole[..BYTES - 1], &[whole.as_slice(), &[0]].concat(), &whole[..1], &unknown, &too_long] {
            rustix::net::send(&here, bad, SendFlags::empty()).unwrap();
            assert_eq!(receive(&there).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), BYTES)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
