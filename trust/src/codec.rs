//! The binary framing that tree and layout share (docs/format.md section 9): eight bytes
//! of magic and version, then records in postcard, one after another, nothing after them.
//!
//! Canonical means that re-encoding gives the input. Each record is re-encoded as it is
//! read and compared, so an overlong varint is refused without a second copy of the whole.

use serde::{Deserialize, Serialize};

use crate::error::VerifyError;

pub(crate) struct Reader<'a> {
    what: &'static str,
    left: &'a [u8],
    again: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, magic: &[u8; 8], bytes: &'a [u8]) -> Result<Self, VerifyError> {
        match bytes.strip_prefix(magic) {
            Some(left) => Ok(Self { what, left, again: Vec::with_capacity(512) }),
            None => Err(VerifyError::malformed(what, "not this format, or another version of it")),
        }
    }

    pub(crate) fn next<T: Serialize + Deserialize<'a>>(&mut self) -> Result<T, VerifyError> {
        let (value, rest) =
            postcard::take_from_bytes::<T>(self.left).map_err(|error| VerifyError::malformed(self.what, error))?;
        let taken = &self.left[..self.left.len() - rest.len()];
        self.again.clear();
        self.again = postcard::to_extend(&value, std::mem::take(&mut self.again))
            .map_err(|error| VerifyError::malformed(self.what, error))?;
        if self.again != taken {
            return Err(VerifyError::malformed(self.what, "not in canonical form"));
        }
        self.left = rest;
        Ok(value)
    }

    pub(crate) fn finish(self) -> Result<(), VerifyError> {
        match self.left.len() {
            0 => Ok(()),
            more => Err(VerifyError::malformed(self.what, format!("{more} bytes after its end"))),
        }
    }
}

pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(magic: &[u8; 8], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(magic);
        Self(bytes)
    }

    pub(crate) fn put<T: Serialize>(&mut self, value: &T) {
        // Writing plain data to memory has no way to fail.
        if let Ok(bytes) = postcard::to_extend(value, std::mem::take(&mut self.0)) {
            self.0 = bytes;
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
