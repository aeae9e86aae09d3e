//! What to type about the daemon: root's is a service of systemd, and a user has started their own.

/// The words of advice.
#[derive(Debug)]
pub(super) struct Orders {
    /// Starts one.
    pub(super) start: &'static str,
    /// Another one where none answers any more.
    pub(super) anew: &'static str,
    /// Another one in the place of one that answers.
    pub(super) restart: &'static str,
    /// Takes over what the configuration says.
    pub(super) reload: &'static str,
    /// Where it says what it does.
    pub(super) log: &'static str,
    /// Lets it have more files open.
    pub(super) open_files: &'static str,
}

/// Of root's.
pub(super) const SERVICE: Orders = Orders {
    start: "systemctl start mcpfs, or mcpfs mount",
    anew: "systemctl restart mcpfs, or mcpfs mount",
    restart: "systemctl restart mcpfs",
    reload: "systemctl reload mcpfs",
    log: "journalctl -u mcpfs",
    open_files: "LimitNOFILE=65536 in the unit (systemctl edit mcpfs), or ulimit -n in the shell that starts it",
};

/// Of a user's own.
pub(super) const OWN: Orders = Orders {
    start: "mcpfs mount",
    anew: "mcpfs mount",
    restart: "pkill -o -x -u \"$USER\" mcpfs, then mcpfs mount",
    reload: "pkill -HUP -o -x -u \"$USER\" mcpfs",
    log: "mcpfs.log in rundir",
    open_files: "a higher hard limit: a line `NAME hard nofile 65536` in /etc/security/limits.conf, and a new login",
};
