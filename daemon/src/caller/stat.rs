//! What `/proc/PID/stat` says of a process.

use std::fs;
use std::io::Read;

/// Largest file of /proc that is read, bytes.
const PROC_BYTES: u64 = 16 * 1024;

/// USER_HZ: /proc counts start times in hundredths of a second on every platform mcpfs runs on.
const TICK_US: u64 = 10_000;

/// The fields of /proc/PID/stat that are used.
#[derive(Debug, PartialEq)]
pub(super) struct Stat {
    pub(super) comm: String,
    pub(super) parent: u32,
    /// PF_… of <linux/sched.h>.
    pub(super) flags: u32,
    /// Clock ticks after boot.
    pub(super) start: u64,
}

impl Stat {
    pub(super) fn read(proc: &str, pid: u32) -> Option<Self> {
        Self::parse(&read(&format!("{proc}/{pid}/stat"))?)
    }

    pub(super) fn start_us(&self) -> u64 {
        self.start.saturating_mul(TICK_US)
    }

    /// `pid (comm) state ppid …`: comm may hold spaces and parentheses, so it ends at the last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let mut fields = tail.split_whitespace();
        // After comm: state is field 3, the parent field 4, the flags field 9, the start time field 22.
        let parent = fields.nth(1)?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let start = fields.nth(12)?.parse().ok()?;
        Some(Self { comm: comm.to_owned(), parent, flags, start })
    }
}

/// A small file of /proc as text; names of processes need not be UTF-8.
pub(super) fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(PROC_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_parse() {
        let stat = |comm: &str| Stat::parse(&format!("7 ({comm}) S 3 {}99 0", "0 ".repeat(17)));
        for comm in ["node", "a b", "((", ") S 1 (", "tmux: server", "", "x) R 9", "\u{fffd}"] {
            assert_eq!(stat(comm), Some(Stat { comm: comm.to_owned(), parent: 3, flags: 0, start: 99 }), "{comm:?}");
        }
        for bad in ["", "7", "7 (x", "7 (x)", "7 (x) S", "7 (x) S y", ")(", "7 (x) S 3 0 0"] {
            assert_eq!(Stat::parse(bad), None, "{bad:?}");
        }
    }
}
