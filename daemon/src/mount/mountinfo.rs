//! `/proc/self/mountinfo`, the one source that tells what is mounted where without touching it.
//!
//! A stat of a mount point whose daemon is dead fails, and of one whose daemon is not serving
//! yet never returns. Mountinfo asks neither.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// One line of mountinfo, as far as it matters here (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Field 3, `major:minor`: names the file system, and is never used twice while it lives.
    pub device: String,
    /// Field 5, where it is mounted, unescaped.
    pub at: PathBuf,
    /// The file system's type, such as `ext4` or `fuse.mcpfs`.
    pub kind: OsString,
    /// The mount's source, such as `/dev/sda1` or `mcpfs`.
    pub source: OsString,
    /// Field 6 and the file system's own options, joined by a comma.
    pub options: String,
}

impl MountEntry {
    /// Whether it was mounted with this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }
}

/// Everything that is mounted in this process's namespace, in the order of mounting.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read.
pub fn mounted() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// What lies on top at `at`, an absolute path without links; `None` if it is no mount point.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read.
pub fn mounted_at(at: &Path) -> io::Result<Option<MountEntry>> {
    // Later lines cover earlier ones.
    Ok(mounted()?.into_iter().rfind(|entry| entry.at == at))
}

/// The lines that can be understood; the kernel writes no others.
pub(crate) fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let at = PathBuf::from(unescape(fields.nth(1)?));
    let own = String::from_utf8_lossy(fields.next()?).into_owned();
    // Any number of optional fields, then a hyphen.
    fields.find(|field| *field == b"-")?;
    let kind = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let options = match fields.next() {
        Some(more) => format!("{own},{}", String::from_utf8_lossy(more)),
        None => own,
    };
    Some(MountEntry { device, at, kind, source, options })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'\\'
            && let Some(digits) = tail.get(..3)
            && let Some(value) = octal(digits)
        {
            out.push(value);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = b"22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n\
            95 28 0:52 / /mcp\\040a\\134b ro,nosuid,nodev - fuse.mcpfs mcpfs ro,user_id=0\n\
            97 28 8:1 /sub /no\\011tab rw shared:1 master:2 - ext4 /dev/sd\\040a rw\n\
            a broken line\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].at, Path::new("/mcp a\\b"));
        assert_eq!((entries[1].kind.to_str(), entries[1].device.as_str()), (Some("fuse.mcpfs"), "0:52"));
        assert!(entries[1].has("nosuid") && entries[1].has("user_id=0") && !entries[1].has("noexec"));
        assert_eq!((entries[2].at.as_path(), entries[2].source.to_str()), (Path::new("/no\ttab"), Some("/dev/sd a")));
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (from, to) in
            [("a\\", "a\\"), ("\\04", "\\04"), ("\\999", "\\999"), ("\\777", "\\777"), ("\\134040", "\\040")]
        {
            assert_eq!(unescape(from.as_bytes()), OsStr::new(to), "{from}");
        }
    }

    #[test]
    fn this_process_sees_its_proc() {
        assert_eq!(mounted_at(Path::new("/proc")).unwrap().expect("/proc is mounted").kind, "proc");
        assert_eq!(mounted_at(Path::new("/proc/self")).unwrap(), None);
    }
}
