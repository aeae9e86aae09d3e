//! What a look comes to.

use serde::{Serialize, Serializer};

/// What is looked at. The codes are public and stay; docs/operating.md has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The manual says what each is.
pub enum Check {
    Config,
    User,
    StateOwner,
    StateSpace,
    CacheOwner,
    CacheSpace,
    CacheQuota,
    CacheKind,
    RundirOwner,
    RundirExec,
    Mount,
    OtherMounts,
    Fuse,
    Kernel,
    Landlock,
    Seccomp,
    UserNamespaces,
    Bubblewrap,
    OpenFiles,
    Fapolicyd,
    Selinux,
    Hidepid,
    Access,
    TrustRoot,
    Clock,
    Registry,
    Head,
    Daemon,
    Servers,
    Credentials,
    Takeover,
    Audit,
    Retention,
    MetricsListen,
    MetricsTextfile,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::Config,
        Self::User,
        Self::StateOwner,
        Self::StateSpace,
        Self::CacheOwner,
        Self::CacheSpace,
        Self::CacheQuota,
        Self::CacheKind,
        Self::RundirOwner,
        Self::RundirExec,
        Self::Mount,
        Self::OtherMounts,
        Self::Fuse,
        Self::Kernel,
        Self::Landlock,
        Self::Seccomp,
        Self::UserNamespaces,
        Self::Bubblewrap,
        Self::OpenFiles,
        Self::Fapolicyd,
        Self::Selinux,
        Self::Hidepid,
        Self::Access,
        Self::TrustRoot,
        Self::Clock,
        Self::Registry,
        Self::Head,
        Self::Daemon,
        Self::Servers,
        Self::Credentials,
        Self::Takeover,
        Self::Audit,
        Self::Retention,
        Self::MetricsListen,
        Self::MetricsTextfile,
    ];

    /// Its stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::User => "user",
            Self::StateOwner => "state-owner",
            Self::StateSpace => "state-space",
            Self::CacheOwner => "cache-owner",
            Self::CacheSpace => "cache-space",
            Self::CacheQuota => "cache-quota",
            Self::CacheKind => "cache-kind",
            Self::RundirOwner => "rundir-owner",
            Self::RundirExec => "rundir-exec",
            Self::Mount => "mount",
            Self::OtherMounts => "other-mounts",
            Self::Fuse => "fuse",
            Self::Kernel => "kernel",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::UserNamespaces => "user-namespaces",
            Self::Bubblewrap => "bubblewrap",
            Self::OpenFiles => "open-files",
            Self::Fapolicyd => "fapolicyd",
            Self::Selinux => "selinux",
            Self::Hidepid => "hidepid",
            Self::Access => "access",
            Self::TrustRoot => "trust-root",
            Self::Clock => "clock",
            Self::Registry => "registry",
            Self::Head => "head",
            Self::Daemon => "daemon",
            Self::Servers => "servers",
            Self::Credentials => "credentials",
            Self::Takeover => "takeover",
            Self::Audit => "audit",
            Self::Retention => "retention",
            Self::MetricsListen => "metrics-listen",
            Self::MetricsTextfile => "metrics-textfile",
        }
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, with less than there could be.
    Note,
    /// This user, or this moment, cannot tell.
    Unknown,
    /// Something does not work until it is mended.
    Wrong,
}

/// One thing, how it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which thing.
    pub code: Check,
    /// How it is.
    pub state: State,
    /// What was found, one sentence without a full stop.
    pub found: String,
    /// What to do; there is one unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(code: Check, found: impl Into<String>) -> Self {
        Self { code, state: State::Ok, found: found.into(), fix: None }
    }

    pub(crate) fn note(code: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, state: State::Note, found: found.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn unknown(code: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, state: State::Unknown, found: found.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn wrong(code: Check, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, state: State::Wrong, found: found.into(), fix: Some(fix.into()) }
    }
}
