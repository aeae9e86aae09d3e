//! A node as it is encoded (docs/format.md section 9).

use crate::codec::{Reader, Writer};
use crate::digest::Digest;
use crate::error::VerifyError;

/// A node; the root's name is empty.
pub(super) struct Record<'a> {
    pub(super) name: &'a str,
    pub(super) kind: RecordKind<'a>,
}

pub(super) enum RecordKind<'a> {
    Directory { children: u32 },
    File { executable: bool, size: u64, sha256: Digest },
    Link { target: &'a str },
}

impl<'a> Record<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, VerifyError> {
        let name = reader.text()?;
        let kind = match reader.u32()? {
            0 => RecordKind::Directory { children: reader.u32()? },
            1 => RecordKind::File { executable: reader.flag()?, size: reader.u64()?, sha256: reader.digest()? },
            2 => RecordKind::Link { target: reader.text()? },
            _ => return Err(reader.bad("a node of an unknown kind")),
        };
        Ok(Self { name, kind })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.text(self.name);
        match &self.kind {
            RecordKind::Directory { children } => {
                writer.u32(0);
                writer.u32(*children);
            }
            RecordKind::File { executable, size, sha256 } => {
                writer.u32(1);
                writer.flag(*executable);
                writer.u64(*size);
                writer.digest(sha256);
            }
            RecordKind::Link { target } => {
                writer.u32(2);
                writer.text(target);
            }
        }
    }
}
