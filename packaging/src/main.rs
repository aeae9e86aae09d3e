//! Man pages and shell completions out of the command lines themselves, for packages: no part of the product.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap_complete::Shell;

/// `mcpfs-pages DIR`: pages go to DIR/NAME/man1, completions to DIR/NAME/completions.
fn main() -> anyhow::Result<()> {
    let out: PathBuf = std::env::args_os().nth(1).context("usage: mcpfs-pages DIR")?.into();
    for command in [mcpfs::cli::command(), mcpfs_signer::cli::command()] {
        let name = command.get_name().to_owned();
        let (pages, completions) = (out.join(&name).join("man1"), out.join(&name).join("completions"));
        for dir in [&pages, &completions] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command.clone(), &name, &completions)
                .with_context(|| format!("cannot write completions of {name} for {shell}"))?;
        }
        clap_mangen::generate_to(command, &pages).with_context(|| format!("cannot write the pages of {name}"))?;
    }
    Ok(())
}
