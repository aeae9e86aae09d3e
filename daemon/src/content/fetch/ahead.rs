//! What is fetched before anybody waits for it: what a launch will want first, and the rest of a small
//! release after its first open.

use std::sync::Arc;

use mcpfs_trust::chunk::Chunk;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::{Fetcher, died};
use crate::content::gate::Class;
use crate::content::index::Area;
use crate::content::release::{ReleaseContent, Wanted};
use crate::refusal::Refusal;

/// After a failed prefetch, before a later open may start it again.
const PREFETCH_PAUSE: Duration = Duration::from_secs(30);

impl Fetcher {
    /// Starts the transfer of chunks before it is known what lies in them. Each stays in
    /// memory, for whoever wants it, until `release` says that; if it never does, it is dropped.
    pub(in crate::content) fn ahead(
        self: &Arc<Self>,
        chunks: &[Chunk],
        release: &watch::Receiver<Option<Arc<ReleaseContent>>>,
    ) {
        let mut sum = 0;
        let fits = |chunk: &&Chunk| {
            sum += u64::from(chunk.size);
            sum <= self.settings.prefetch_limit
        };
        for chunk in chunks.iter().take_while(fits).copied() {
            let (this, mut release) = (self.clone(), release.clone());
            let key = (chunk.sha256, chunk.plain_sha256);
            let class = Class::Background;
            // Whoever wants it takes a seat of its own.
            let _ = self.chunks.join(
                &self.runtime,
                key,
                class,
                || true,
                move |landing| async move {
                    match this.transfer(chunk, class, &landing).await {
                        Err(refusal) => landing.end(Err(refusal)),
                        Ok(plain) => {
                            landing.publish(Ok(plain.clone()));
                            let told = release.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
                            if let Some(release) = told
                                && let Some(index) = release.index_of(&chunk)
                            {
                                this.follow(release, index, plain).await;
                            }
                            drop(landing);
                        }
                    }
                },
            );
        }
    }

    /// Fetches what is missing of a small release, chunk by chunk, behind everything else.
    pub(in crate::content) fn prefetch(self: &Arc<Self>, release: &Arc<ReleaseContent>) {
        if release.stored_bytes() > self.settings.prefetch_limit || !release.begin_prefetch() {
            return;
        }
        let (this, release) = (self.clone(), release.clone());
        self.runtime.spawn(async move {
            if let Err(refusal) = this.fetch_rest(&release).await {
                tracing::info!(%refusal, "prefetch stopped");
                sleep(PREFETCH_PAUSE).await;
                release.prefetch_failed();
            }
        });
    }

    async fn fetch_rest(self: &Arc<Self>, release: &Arc<ReleaseContent>) -> Result<(), Refusal> {
        let (this, of) = (self.clone(), release.clone());
        let mut missing = self.blocking(move || Ok(this.missing_firsts(&of))).await?.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < self.settings.transfers {
                let Some(wanted) = missing.next() else { break };
                let (this, release) = (self.clone(), release.clone());
                let work = async move { this.file(&release, wanted, Class::Background).await.map(drop) };
                under_way.spawn_on(work, &self.runtime);
            }
            match under_way.join_next().await {
                None => return Ok(()),
                Some(ended) => ended.unwrap_or_else(|_| Err(died()))?,
            }
        }
    }

    /// One missing content of each chunk, which brings the chunk's others, and every missing large one.
    fn missing_firsts(&self, release: &ReleaseContent) -> Vec<Wanted> {
        let mut firsts = Vec::new();
        for chunk in 0..release.layout.chunks.len() {
            let mut small = false;
            for wanted in release.beginning_in(chunk) {
                if self.cas.holds((Area::Files, wanted.sha256)) {
                    continue;
                }
                let whole = release.pieces(&wanted).is_some_and(|pieces| pieces.len() == 1);
                if !whole || !std::mem::replace(&mut small, true) {
                    firsts.push(wanted);
                }
            }
        }
        firsts
    }
}
