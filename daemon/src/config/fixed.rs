//! Settings that hold from the start to the end of a mount.

use super::Config;

impl Config {
    /// Keeps what only a restart changes as it is in `running`, and says which settings that are.
    ///
    /// Where things are and who works with them cannot change under a mount. A worker that takes another's
    /// place keeps to it as well: its predecessor's open files lie in that cache and are read in that way.
    pub fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        let mut keep = |key: &'static str, changed: bool| {
            if changed {
                kept.push(key);
            }
        };
        keep("mount.at", self.mount.at != running.mount.at);
        keep("mount.reads", self.mount.reads != running.mount.reads);
        keep("rundir", self.rundir != running.rundir);
        keep("state", self.state != running.state);
        keep("user", self.user != running.user);
        keep("cache.dir", self.cache.dir != running.cache.dir);
        keep("cache.quota", self.cache.quota != running.cache.quota);
        keep("cache.keep_free", self.cache.keep_free != running.cache.keep_free);
        keep("metrics", self.metrics != running.metrics);
        keep("log.format", self.log != running.log);
        self.mount = running.mount.clone();
        self.rundir.clone_from(&running.rundir);
        self.state.clone_from(&running.state);
        self.user.clone_from(&running.user);
        self.cache = running.cache.clone();
        self.metrics = running.metrics.clone();
        self.log = running.log;
        kept
    }
}
