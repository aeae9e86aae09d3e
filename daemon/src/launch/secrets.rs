//! Credentials on their last way: from the memory that came with the daemon's answer into the server.
//!
//! This process is the first and only one of the user's that sees a value before the server does. It can leave no
//! image of itself from then on, and the server leaves none on the disk either.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::control::protocol::Given;
use crate::credentials::{VALUE_BYTES, without_traces};

/// Where a server finds those that are files: the directory's name is systemd's way.
pub(super) const DIRECTORY: &str = "/run/credentials/mcpfs";
/// The variable that names it.
pub(super) const VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// What one server gets.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    variables: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// By name, to be read from the start.
    pub(super) files: Vec<(String, File)>,
}

impl Secrets {
    /// Opens what the descriptors stand for, as this user.
    ///
    /// # Errors
    /// If one is missing, or is not this user's.
    pub(super) fn open(given: &[Given], with: &[OwnedFd]) -> io::Result<Self> {
        let mut secrets = Self::default();
        if given.is_empty() {
            return Ok(secrets);
        }
        without_traces()?;
        for one in given {
            let memory = with.get(one.descriptor).ok_or(io::ErrorKind::NotFound)?;
            let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
            let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
            match (&one.env, &one.file) {
                (Some(name), None) => secrets.variables.push((name.clone(), variable(file)?)),
                (None, Some(name)) => secrets.files.push((name.clone(), file)),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(secrets)
    }

    /// The directory of its files, if there is one.
    pub(super) fn directory(&self) -> Option<&'static Path> {
        (!self.files.is_empty()).then_some(Path::new(DIRECTORY))
    }

    /// The variables, once.
    pub(super) fn variables(&mut self) -> Vec<(OsString, OsString)> {
        let value = |(name, value): (String, Zeroizing<Vec<u8>>)| (name.into(), OsString::from_vec(value.to_vec()));
        self.variables.drain(..).map(value).collect()
    }
}

fn variable(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::with_capacity(VALUE_BYTES + 1));
    file.take(VALUE_BYTES as u64 + 1).read_to_end(&mut value)?;
    match value.len() > VALUE_BYTES || value.contains(&0) {
        true => Err(io::ErrorKind::InvalidData.into()),
        false => Ok(value),
    }
}
