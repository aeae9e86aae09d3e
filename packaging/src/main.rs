//! Man pages and shell completions out of the command line itself, for packages: no part of the product.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap_complete::Shell;

/// `mcpfs-pages DIR`: pages go to DIR/man1, completions to DIR/completions.
fn main() -> anyhow::Result<()> {
    let out: PathBuf = std::env::args_os().nth(1).context("usage: mcpfs-pages DIR")?.into();
    let (pages, completions) = (out.join("man1"), out.join("completions"));
    for dir in [&pages, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    clap_mangen::generate_to(mcpfs::cli::command(), &pages).context("cannot write the pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = mcpfs::cli::command();
        clap_complete::generate_to(shell, &mut command, "mcpfs", &completions)
            .with_context(|| format!("cannot write completions for {shell}"))?;
    }
    Ok(())
}
