//! How many files this process may have open: as many as the unit gives to root's daemon.
//!
//! Every open file of a server is a descriptor here. A login gives a process 1,024 of them and
//! leaves it to raise that, for the sake of programs that would not survive more; this one does.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `LimitNOFILE=` of systemd/mcpfs.service.
const WANTED: u64 = 65536;

/// To be called before anything is served. Where it cannot be, `mcpfs doctor` tells.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |most| most.min(WANTED));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(error = %error, "the number of open files stays as it is");
    }
}
