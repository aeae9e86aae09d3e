//! Names of users, from the host's user database.

use std::num::NonZeroUsize;
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How long a user's name, or the lack of one, is remembered.
const NAME_TTL: Duration = Duration::from_secs(300);
/// How long the host's user database may take: directory services can hang.
const NAME_WAIT: Duration = Duration::from_secs(1);
/// Names remembered, at most.
const NAMES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

type Names = lru::LruCache<u32, (Option<String>, Instant)>;
static USER_NAMES: LazyLock<Mutex<Names>> = LazyLock::new(|| Mutex::new(Names::new(NAMES)));

/// The name of `uid` in the host's user database (files, LDAP, SSSD, …), or `None` if it has none or does not say in time.
pub(super) fn user_name(uid: u32) -> Option<String> {
    let names = || USER_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((name, at)) = names().get(&uid)
        && at.elapsed() < NAME_TTL
    {
        return name.clone();
    }
    // A thread of its own, since a directory service that hangs cannot be interrupted.
    let (answer, answered) = mpsc::sync_channel(1);
    let asked = std::thread::Builder::new().name("user-name".to_owned()).spawn(move || {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
        let name = user.ok().flatten().map(|user| user.name);
        USER_NAMES.lock().unwrap_or_else(PoisonError::into_inner).put(uid, (name.clone(), Instant::now()));
        // The asker may have gone.
        let _ = answer.send(name);
    });
    match asked.ok().and_then(|_| answered.recv_timeout(NAME_WAIT).ok()) {
        Some(name) => name,
        None => {
            // Nobody waits again soon; an answer that comes late is kept for the next question.
            names().put(uid, (None, Instant::now()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_user_database() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(3_999_999_999), None);
    }
}
