//! The binary framing that tree and layout share (docs/format.md section 9): eight bytes
//! of magic and version, then records in postcard's wire format, one after another, nothing
//! after them.
//!
//! Canonical means that writing what was read gives the same bytes. It is proven while
//! reading, because only two things have more than one spelling in this format: a number
//! with more bytes than it needs, and a flag that is neither 0 nor 1. Both are refused where
//! they are read, so nothing is encoded a second time.
//!
//! Rejected: deserializing with the postcard crate and encoding each record again to compare
//! (twice the work for each node, and a digest goes through it byte by byte). The format stays
//! postcard's: `tests/canonical.rs` compares both directions with that crate.

use crate::digest::Digest;
use crate::error::VerifyError;

/// Reads the one spelling of each value and nothing else.
pub(crate) struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, magic: &[u8; 8], bytes: &'a [u8]) -> Result<Self, VerifyError> {
        match bytes.strip_prefix(magic) {
            Some(left) => Ok(Self { what, left }),
            None => Err(VerifyError::malformed(what, "not this format, or another version of it")),
        }
    }

    /// A number: seven bits in a byte, the lowest first, the high bit set in all but the last.
    pub(crate) fn u64(&mut self) -> Result<u64, VerifyError> {
        let mut value = 0;
        for (at, byte) in self.left.iter().enumerate() {
            // The tenth byte has room for one bit, and it must be the last.
            if at == 9 && *byte > 1 {
                return Err(self.bad("a number of more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if *byte == 0 && at > 0 {
                    return Err(self.bad("not in canonical form: a number with more bytes than it needs"));
                }
                self.left = &self.left[at + 1..];
                return Ok(value);
            }
        }
        Err(self.cut_short())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, VerifyError> {
        u32::try_from(self.u64()?).map_err(|_| self.bad("a number of more than 32 bits"))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, VerifyError> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.bad("not in canonical form: a flag that is neither 0 nor 1")),
        }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, VerifyError> {
        let len = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        std::str::from_utf8(self.take(len)?).map_err(|_| self.bad("a text that is not UTF-8"))
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, VerifyError> {
        match self.left.split_first_chunk() {
            Some((bytes, rest)) => {
                self.left = rest;
                Ok(Digest::from_bytes(*bytes))
            }
            None => Err(self.cut_short()),
        }
    }

    pub(crate) fn finish(self) -> Result<(), VerifyError> {
        match self.left.len() {
            0 => Ok(()),
            more => Err(VerifyError::malformed(self.what, format!("{more} bytes after its end"))),
        }
    }

    pub(crate) fn bad(&self, detail: &'static str) -> VerifyError {
        VerifyError::malformed(self.what, detail)
    }

    fn cut_short(&self) -> VerifyError {
        self.bad("it ends in the middle of a record")
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], VerifyError> {
        let (taken, rest) = self.left.split_at_checked(len).ok_or_else(|| self.cut_short())?;
        self.left = rest;
        Ok(taken)
    }
}

/// Writes what [`Reader`] reads.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(magic: &[u8; 8], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(magic);
        Self(bytes)
    }

    pub(crate) fn u64(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.0.extend_from_slice(digest.as_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
