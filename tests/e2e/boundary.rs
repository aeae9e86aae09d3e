//! Where an attack comes from: the sections of docs/threat-model.md whose tables the tests write.

pub(crate) const NETWORK: &str = "The network";
pub(crate) const SITE: &str = "The site's host";
pub(crate) const HEAD_THIEF: &str = "A head key";
pub(crate) const RELEASE_THIEF: &str = "A release key";
pub(crate) const LOCAL_USER: &str = "A local user";
pub(crate) const LOCAL_ROOT: &str = "Local root";
pub(crate) const CONFIGURATION: &str = "The configuration channel";
pub(crate) const SIGNING_HOST: &str = "The signing host";
pub(crate) const FORGE: &str = "The forge";
pub(crate) const WORKER: &str = "The worker";
