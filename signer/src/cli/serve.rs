//! `serve`: the signing server.

use std::path::PathBuf;

use clap::Args;

use super::options::{Usage, now};
use super::{Cli, print};
use crate::mirror::is_commit_id;
use crate::serve;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// What it watches, whom it believes, what it signs with
    #[arg(long, value_name = "FILE", default_value = "/etc/mcpfs-signer/serve.toml")]
    config: PathBuf,
    /// Look once and end: 0 if everything at the tip is released
    #[arg(long)]
    once: bool,
    /// Only say what is wrong with the configuration
    #[arg(long, conflicts_with_all = ["once", "accept_tip"])]
    check_config: bool,
    /// Look once and take this tip although the branch was rewritten
    #[arg(long, value_name = "COMMIT")]
    accept_tip: Option<String>,
}

pub(super) fn serve(cli: &Cli, args: &Serve) -> anyhow::Result<()> {
    if args.check_config {
        let config = serve::check_config(&args.config)?;
        let repository = &config.repository;
        let facts = serde_json::json!({"repository": repository.url, "branch": repository.branch,
            "reviewers": config.reviewers.len(), "site": config.site.address});
        print(cli, &facts, || {
            let (url, branch) = (&repository.url, &repository.branch);
            format!(
                "good       {branch} of {url}, {} reviewers, site {}\n",
                config.reviewers.len(),
                config.site.address
            )
        });
        return Ok(());
    }
    if let Some(tip) = args.accept_tip.as_ref().filter(|tip| !is_commit_id(tip)) {
        return Err(Usage(format!("{tip:?} is not a full commit id")).into());
    }
    let (clock, say) = (|| now().ok(), |text: &str| tell!("mcpfs-signer: {text}"));
    match args.once || args.accept_tip.is_some() {
        true => serve::once(&args.config, clock, say, args.accept_tip.as_deref())?,
        false => serve::run(&args.config, clock, say)?,
    }
    Ok(())
}
