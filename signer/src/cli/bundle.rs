//! `bundle`: a folder as an artefact.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use mcpfs_trust::digest::Hasher;
use serde_json::json;

use super::{Cli, print};
use crate::{fetch, files};

#[derive(Debug, Args)]
pub(super) struct Bundle {
    /// The folder
    folder: PathBuf,
    /// The .tar to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn bundle(cli: &Cli, args: &Bundle) -> anyhow::Result<()> {
    let mut hasher = Hasher::new();
    let mut bundled = Ok(());
    files::put_durably(&args.out, true, |file| {
        let mut out = std::io::BufWriter::new(file);
        bundled = fetch::bundle(&args.folder, Both(&mut out, &mut hasher));
        if bundled.is_err() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        std::io::Write::flush(&mut out)
    })
    .or_else(|error| bundled.map_err(anyhow::Error::from).and(Err(error.into())))
    .with_context(|| format!("{} was not written", args.out.display()))?;
    let sha256 = hasher.finish();
    print(cli, &json!({"file": args.out, "sha256": sha256}), || format!("{sha256}  {}\n", args.out.display()));
    Ok(())
}

/// Writes to two places.
struct Both<'a, A, B>(&'a mut A, &'a mut B);

impl<A: std::io::Write, B: std::io::Write> std::io::Write for Both<'_, A, B> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
