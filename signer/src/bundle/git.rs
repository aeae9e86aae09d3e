//! A commit of a git repository, by the tag that people call it and the id that does not move.
//!
//! Only git's protocol is used, into a bare repository: nothing is checked out, so no filter,
//! hook, attribute or submodule of the repository is ever looked at, and `export-ignore` and
//! `export-subst` change nothing: what is bundled is each file of the commit's tree, byte for
//! byte as it was committed, without `.git`. git connects by itself, so the address that was
//! checked is pinned for it, redirects are refused, and its settings are ours alone.

mod lfs;
mod submodule;
mod tag;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mcpfs_trust::text::{bounded, visible};
use url::{Host, Url};

use super::workshop::{self, Job, Program, Workshop};
use super::{Built, Order, SourceError, write};
use crate::fetch::{self, FetchError, FetchPolicy};

use tree::{Entry, Listing};

/// A repository, and the tag that is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its address, without `git+`.
    pub address: String,
    /// The tag.
    pub tag: String,
}

/// The full id of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitId(String);

/// Why a commit is not bundled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum GitError {
    #[error("{0:?} is not the full id of a commit (40 or 64 lowercase hexadecimal digits)")]
    CommitId(String),
    #[error("the tag {tag} was moved: it points to {found}, the recipe pins {pinned}")]
    Moved { tag: String, pinned: CommitId, found: CommitId },
    #[error("there is no tag {0}")]
    NoTag(String),
    #[error("git said something unexpected: {0}")]
    Odd(String),
    #[error("git is {0}; 2.37 or later is needed, which can be told the address to connect to")]
    TooOld(String),
    #[error("{path:?} is a submodule: its content is not in this repository")]
    Submodule { path: String },
    #[error("{path:?} is a pointer of Git LFS: its content is not in this repository")]
    Lfs { path: String },
    #[error("{path:?} {problem}")]
    Entry { path: String, problem: &'static str },
    #[error("the tag {tag} {problem}, and --allowed-signers demands a good one")]
    Signature { tag: String, problem: String },
}

impl GitError {
    pub(super) fn fix(&self) -> Option<String> {
        let text = match self {
            Self::Moved { found, .. } => {
                return Some(format!(
                    "find out who moved it; if {found} was reviewed, pin it and its digest as a new version"
                ));
            }
            Self::NoTag(_) => "name a tag of the repository behind '#'",
            Self::Submodule { .. } => "ask for it: submodules: true in the recipe, or bundle --submodules",
            Self::Lfs { .. } => "ask for it: lfs: true in the recipe, or bundle --lfs",
            Self::Signature { .. } => "have the tag signed by somebody whom the file names, with an SSH key",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl Repository {
    /// `git+https://host/repository#tag`, or `git+file:path#tag`
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, tag) = text.strip_prefix("git+")?.split_once('#')?;
        let url = Url::parse(address).ok()?;
        let plain = url.query().is_none() && url.username().is_empty() && url.password().is_none();
        let fine = match url.scheme() {
            "https" => url.has_host() && address.starts_with("https://"),
            _ => !address.contains(['%', '?']),
        };
        (plain && fine && is_tag(tag)).then(|| Self { address: address.to_owned(), tag: tag.to_owned() })
    }
}

/// Names that need no quoting anywhere, and that git takes for a tag.
fn is_tag(tag: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._/+-@".contains(&byte);
    let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(['.']);
    tag.len() <= 200
        && tag.bytes().all(fine)
        && tag.split('/').all(|one| part(one) && !one.ends_with(".lock"))
        && !tag.contains("..")
        && tag != "@"
}

impl FromStr for CommitId {
    type Err = GitError;

    fn from_str(text: &str) -> Result<Self, GitError> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match hexadecimal && matches!(text.len(), 40 | 64) {
            true => Ok(Self(text.to_owned())),
            false => Err(GitError::CommitId(bounded(text))),
        }
    }
}

impl CommitId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is fetched: the commit's objects.
#[derive(Debug)]
pub(super) struct Gathered {
    git: Git,
    commit: CommitId,
    entries: Vec<Entry>,
    /// Where the content of Git LFS lies, by its digest.
    store: PathBuf,
    notes: Vec<String>,
}

/// git, and where its repository lies.
#[derive(Debug)]
struct Git {
    program: Program,
    folder: PathBuf,
    settings: PathBuf,
    authorities: Option<PathBuf>,
}

impl Git {
    fn job<'a>(&'a self, arguments: &[&str]) -> Job<'a> {
        Job::new(&self.program, &self.folder)
            .arguments(arguments)
            .variable("GIT_CONFIG_GLOBAL", &self.settings)
            .variable("GIT_CONFIG_NOSYSTEM", "1")
            .variable("GIT_CONFIG_SYSTEM", "/dev/null")
            .variable("GIT_ALLOW_PROTOCOL", "https:file")
            .variable("GIT_TERMINAL_PROMPT", "0")
            .variable("GIT_DIR", &self.folder)
            .variable("GIT_LITERAL_PATHSPECS", "1")
            .variable("GIT_NO_REPLACE_OBJECTS", "1")
            .variable("GIT_NO_LAZY_FETCH", "1")
    }

    /// Writes the settings for this place.
    fn set(&self, place: &Place) -> Result<(), SourceError> {
        write(&self.settings, &settings(place, self.authorities.as_deref()))?;
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&self.settings, own).map_err(workshop::at(&self.settings))?;
        Ok(())
    }

    /// The objects of these entries, in their order, as `cat-file --batch` prints them.
    fn objects(&self, entries: &mut dyn Iterator<Item = &Entry>, workshop: &Workshop) -> Result<File, SourceError> {
        let input = workshop.path("objects");
        let list: String = entries.map(|entry| format!("{}\n", entry.object)).collect();
        write(&input, &list)?;
        let list = File::open(&input).map_err(workshop::at(&input))?;
        Ok(workshop.run(Job { input: Some(list), ..self.job(&["cat-file", "--batch"]) })?)
    }

    fn text(&self, workshop: &Workshop, job: Job<'_>) -> Result<String, SourceError> {
        let bytes = workshop.read(job, 64 << 20)?;
        String::from_utf8(bytes).map_err(|_| GitError::Odd("something that is not UTF-8".to_owned()).into())
    }
}

pub(super) fn gather(
    repository: &Repository,
    order: &Order<'_>,
    policy: &FetchPolicy,
    workshop: &Workshop,
) -> Result<Gathered, SourceError> {
    let pinned = order.commit;
    let mut program = Program::find("git", "git")?;
    let allowed = |error| SourceError::Fetch(Box::new(error));
    let place = match repository.address.starts_with("file:") {
        true => {
            let path = fetch::folder_beneath(&repository.address, policy).map_err(allowed)?;
            program.sees.push(path.clone());
            Place { address: path.to_string_lossy().into_owned(), pinned: None, login: None }
        }
        false => {
            let odd = || SourceError::NotASource(repository.address.clone());
            let url = Url::parse(&repository.address).map_err(|_| odd())?;
            Place::remote(&url, policy).map_err(allowed)?
        }
    };
    let authorities = authorities(policy, workshop)?;
    let git = Git { program, folder: workshop.make("repository")?, settings: workshop.path("gitconfig"), authorities };
    git.set(&place)?;
    let sha256 = pinned.is_some_and(|pinned| pinned.0.len() == 64);
    check_version(&git.text(workshop, git.job(&["version"]))?)?;
    let format = if sha256 { "--object-format=sha256" } else { "--object-format=sha1" };
    workshop.run(git.job(&["init", "--quiet", "--bare", "--template=", format]))?;
    let reference = format!("refs/tags/{}", repository.tag);
    let peeled = format!("{reference}^{{}}");
    let listed = git.job(&["ls-remote", "--quiet", "--", &place.address, &reference, &peeled]);
    let listed = git.text(workshop, listed.network(place.is_remote())).map_err(|error| place.explain(error, policy))?;
    let moved = |found: &CommitId| match pinned {
        Some(pinned) if pinned != found => {
            Err(GitError::Moved { tag: repository.tag.clone(), pinned: pinned.clone(), found: found.clone() })
        }
        _ => Ok(()),
    };
    let named = pointed_to(&listed, &reference).ok_or_else(|| GitError::NoTag(repository.tag.clone()))?;
    moved(&named)?;
    let wanted = format!("+{reference}:{reference}");
    let fetched = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"];
    let fetched = git.job(&fetched).arguments(["--", &place.address, &wanted]);
    workshop.run(fetched.network(place.is_remote()))?;
    // It may have been moved in between.
    let commit = git
        .text(workshop, git.job(&["rev-parse", "--verify", "--end-of-options", &format!("{reference}^{{commit}}")]))?;
    let commit: CommitId = commit.trim().parse()?;
    moved(&commit)?;
    let signature = tag::signature(repository, &reference, &git, policy, workshop)?;
    let Listing { mut entries, links } = list(&git, &commit, policy, workshop)?;
    let mut notes = vec![format!("commit {commit}"), signature];
    let store = workshop.make("lfs")?;
    if order.lfs {
        notes.extend(lfs::fetch(&git, &place, &mut entries, policy, workshop)?);
    }
    if let Some(link) = links.first().filter(|_| !order.submodules) {
        return Err(GitError::Submodule { path: visible(&link.path) }.into());
    }
    let (more, said) = submodule::fetch(&git, (&place, &commit), links, order.lfs, policy, workshop)?;
    entries.extend(more);
    notes.extend(said);
    Ok(Gathered { git, commit, entries, store, notes })
}

/// What a commit that is here holds.
fn list(git: &Git, commit: &CommitId, policy: &FetchPolicy, workshop: &Workshop) -> Result<Listing, SourceError> {
    let listed = git.job(&["ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", &commit.0]);
    Ok(tree::entries(&workshop.read(listed, 256 << 20)?, policy.limit)?)
}

impl Gathered {
    pub(super) fn commit(&self) -> &CommitId {
        &self.commit
    }

    pub(super) fn build(&self, workshop: &Workshop, folder: PathBuf) -> Result<Built, SourceError> {
        let objects = self.git.objects(&mut self.entries.iter(), workshop)?;
        tree::write(&self.entries, objects, &folder, &self.store)?;
        let notes = self.notes.clone();
        Ok(Built { folder, launch: None, native: std::collections::BTreeSet::new(), notes })
    }
}

/// Where git connects to.
struct Place {
    address: String,
    pinned: Option<String>,
    /// The header that says who asks, and for which address.
    login: Option<(String, String)>,
}

impl Place {
    /// One that is reached over https, by a host that is listed.
    fn remote(url: &Url, policy: &FetchPolicy) -> Result<Self, FetchError> {
        let addresses = fetch::resolve(url, policy)?;
        let header = policy.logins.basic(url)?;
        let header = header.and_then(|header| header.to_str().ok().map(str::to_owned));
        let login = header.map(|header| (format!("{}/", url.origin().ascii_serialization()), header));
        Ok(Self { address: url.to_string(), pinned: pinned_address(url, &addresses), login })
    }

    /// git asks for a name where a host wants one; nobody answers it here.
    fn explain(&self, error: SourceError, policy: &FetchPolicy) -> SourceError {
        let asked = matches!(&error, SourceError::Tool(workshop::ToolError::Failed { said, .. })
            if said.contains("could not read Username") || said.contains("Authentication failed"));
        match Url::parse(&self.address) {
            Ok(url) if asked => SourceError::Fetch(Box::new(policy.logins.wanted(&url))),
            _ => error,
        }
    }

    fn is_remote(&self) -> bool {
        self.address.starts_with("https:")
    }
}

/// `host:port:address,address`, as curl takes it.
fn pinned_address(url: &Url, addresses: &[SocketAddr]) -> Option<String> {
    let Some(Host::Domain(name)) = url.host() else { return None };
    let shown = |address: &SocketAddr| match address.ip() {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    let addresses: Vec<String> = addresses.iter().map(shown).collect();
    Some(format!("{name}:{}:{}", url.port_or_known_default()?, addresses.join(",")))
}

/// git's settings: everything that could lead elsewhere or run something is off.
fn settings(place: &Place, authorities: Option<&Path>) -> String {
    let mut text = String::from(
        "[core]\n\thooksPath = /dev/null\n\taskPass = \n\tfsmonitor = false\n\tattributesFile = /dev/null\n\
         [credential]\n\thelper = \n[protocol]\n\tversion = 2\n[safe]\n\tdirectory = *\n\
         [transfer]\n\tfsckObjects = true\n\tbundleURI = false\n[fetch]\n\trecurseSubmodules = false\n\tunpackLimit = 1\n\
         [submodule]\n\trecurse = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n\
         [http]\n\tfollowRedirects = false\n\tproxy = \n\tsslVerify = true\n\tlowSpeedLimit = 1000\n\tlowSpeedTime = 30\n",
    );
    if let Some(pinned) = &place.pinned {
        text.push_str(&format!("\tcurloptResolve = \"{pinned}\"\n"));
    }
    if let Some(file) = authorities {
        text.push_str(&format!("\tsslCAInfo = \"{}\"\n", file.display()));
    }
    if let Some((origin, header)) = &place.login {
        // In a file of this workshop alone, and sent to this origin alone.
        text.push_str(&format!("[http \"{origin}\"]\n\textraHeader = \"Authorization: {header}\"\n"));
    }
    text
}

/// The system's authorities and the operator's in one file, if there are any of the operator's.
fn authorities(policy: &FetchPolicy, workshop: &Workshop) -> Result<Option<PathBuf>, SourceError> {
    if policy.authorities.is_empty() {
        return Ok(None);
    }
    let system = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
    let mut all = system.iter().find_map(|file| std::fs::read(file).ok()).unwrap_or_default();
    for pem in &policy.authorities {
        all.push(b'\n');
        all.extend_from_slice(pem);
    }
    let path = workshop.path("authorities.pem");
    std::fs::write(&path, all).map_err(workshop::at(&path))?;
    Ok(Some(path))
}

/// `git version 2.47.3`
fn check_version(text: &str) -> Result<(), GitError> {
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (2, 37) => Ok(()),
        _ => Err(GitError::TooOld(bounded(version))),
    }
}

/// The commit behind a tag, from what `ls-remote` lists: an annotated one has a second line.
fn pointed_to(listed: &str, reference: &str) -> Option<CommitId> {
    let find = |name: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, found)| *found == name).and_then(|(id, _)| id.parse().ok())
    };
    find(&format!("{reference}^{{}}")).or_else(|| find(reference))
}

fn odd(what: &str) -> GitError {
    GitError::Odd(visible(what))
}
