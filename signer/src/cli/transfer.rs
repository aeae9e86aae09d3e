//! `bundle-site` and `unbundle-site`: a site over an air gap.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

use clap::Args;

use super::options::{LookArgs, StoreArgs, now, shown};
use super::{Cli, print};
use crate::files::{self, FileError};
use crate::log::SignerState;
use crate::site::transfer::{self, Moved, Unbundle};
use crate::trust_cmd;

#[derive(Debug, Args)]
pub(super) struct BundleSite {
    #[command(flatten)]
    look: LookArgs,
    /// The .tar to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Leave out what this head led to: the other side has it
    #[arg(long, value_name = "HEAD")]
    since: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct UnbundleSite {
    /// The .tar that `bundle-site` wrote
    bundle: PathBuf,
    /// The site it goes into: a folder, or s3://bucket/prefix
    #[arg(long, value_name = "SITE")]
    site: String,
    #[command(flatten)]
    store: StoreArgs,
    /// The trust root of the hosts on this side
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Where this side remembers its last head
    /// [default: $MCPFS_SIGNER_STATE, $STATE_DIRECTORY or ~/.local/state/mcpfs-signer]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(super) fn bundle(cli: &Cli, args: &BundleSite) -> anyhow::Result<()> {
    let (site, root) = args.look.open()?;
    let mut moved = Ok(Moved::default());
    let written = files::put_durably(&args.out, true, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        moved = transfer::bundle(&site, &root, args.since, &mut out, &shown(cli));
        match &moved {
            Ok(_) => std::io::Write::flush(&mut out),
            // Drops the temporary file; the reason is in `moved`.
            Err(_) => Err(std::io::ErrorKind::Other.into()),
        }
    });
    let moved = moved?;
    written.map_err(FileError::write(&args.out))?;
    print(cli, &moved, || {
        format!("bundled    head {}, {} files, {} bytes\n", moved.head_version, moved.files, moved.bytes)
    });
    Ok(())
}

pub(super) fn unbundle(cli: &Cli, args: &UnbundleSite) -> anyhow::Result<()> {
    let root = trust_cmd::read(&args.trust)?;
    let site = args.store.open(&args.site)?;
    let base = args.state.clone().unwrap_or_else(SignerState::default_base);
    let state = SignerState::new(&base, &root.registry);
    let file = File::open(&args.bundle).map_err(FileError::read(&args.bundle))?;
    let side = Unbundle { site: &site, root: &root, state: &state, now: now()?, shown: shown(cli) };
    let moved = side.take(BufReader::with_capacity(1 << 20, file))?;
    print(cli, &moved, || {
        let what = if moved.changed { "published" } else { "unchanged" };
        format!("{what}  head {}, {} files, {} bytes in the bundle\n", moved.head_version, moved.files, moved.bytes)
    });
    Ok(())
}
