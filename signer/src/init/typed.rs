//! What a person types for a source, and what an address says by itself.

use std::path::Path;

use mcpfs_trust::name::ServerName;

use super::{InitError, Source};
use crate::{bundle, secret};

/// Schemes of addresses.
const SCHEMES: [&str; 8] = ["https", "http", "file", "oci", "git+https", "git+file", "npm", "pypi"];

impl Source {
    /// What a person typed: an address, or a file or folder.
    ///
    /// # Errors
    /// If it is neither, or lies outside of `file_root`.
    pub fn parse(text: &str, file_root: Option<&Path>) -> Result<Self, InitError> {
        if secret::has_login(text) {
            return Err(InitError::Login);
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        if let Some(scheme) = scheme.filter(|scheme| SCHEMES.contains(scheme)) {
            let url = spelled(scheme, text);
            return match url.strip_prefix("git+file:").and_then(|rest| rest.split_once('#')) {
                Some((path, tag)) if file_root.is_none() => {
                    let (below, root) = local(path.strip_prefix("//").unwrap_or(path), None)?;
                    Ok(Self { url: format!("git+file:{below}#{tag}"), file_root: Some(root) })
                }
                _ => Ok(Self { url, file_root: file_root.map(Path::to_owned) }),
            };
        }
        let (below, root) = local(text, file_root)?;
        Ok(Self { url: format!("file:{below}"), file_root: Some(root) })
    }
}

/// The spelling of recipes: `oci://host/…` for `oci:host/…`, and `…#tag` for the `…@tag` of pip.
fn spelled(scheme: &str, text: &str) -> String {
    match text.strip_prefix("oci:") {
        Some(rest) if !rest.starts_with('/') => return format!("oci://{rest}"),
        _ => {}
    }
    match text.rsplit_once('@') {
        Some((address, tag)) if scheme.starts_with("git+") && !text.contains('#') && !tag.contains('/') => {
            format!("{address}#{tag}")
        }
        _ => text.to_owned(),
    }
}

/// A file or folder, as what a URL says of it below a root.
fn local(text: &str, file_root: Option<&Path>) -> Result<(String, std::path::PathBuf), InitError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    let path = Path::new(text);
    if path.symlink_metadata().is_err() {
        return Err(InitError::Source(text.to_owned()));
    }
    let path = path.canonicalize().map_err(io(path))?;
    let root = match file_root {
        Some(root) => root.canonicalize().map_err(io(root))?,
        None => path.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let Ok(below) = path.strip_prefix(&root) else { return Err(InitError::Outside { path, root }) };
    let address = url::Url::from_file_path(Path::new("/").join(below)).ok();
    let below = address.as_ref().and_then(|url| url.path().strip_prefix('/')).unwrap_or_default();
    Ok((if below.is_empty() { "." } else { below }.to_owned(), root))
}

/// What an address says of what is there, for what that does not say itself.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// The package, project, repository or image.
    pub(super) name: Option<String>,
    /// The version or tag.
    pub(super) version: Option<String>,
    /// The project of PyPI, in its one spelling.
    pub(super) project: Option<String>,
}

impl Named {
    pub(super) fn of(url: &str) -> Self {
        let both = |name: &str, version: &str| Self {
            name: Some(name.to_owned()),
            version: Some(version.to_owned()),
            project: None,
        };
        match url.parse() {
            Ok(bundle::Source::Npm(package)) => return both(&package.name, &package.version),
            Ok(bundle::Source::Pypi(project)) => {
                let normal = bundle::pypi::normal(&project.name);
                return Self { project: Some(normal.clone()), ..both(&normal, &project.version) };
            }
            Ok(bundle::Source::Git(repository)) => {
                let last = repository.address.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                return both(last.trim_end_matches(".git"), &repository.tag);
            }
            Err(_) => {}
        }
        let Some(rest) = url.strip_prefix("oci://") else { return Self::default() };
        let rest = rest.split_once('@').map_or(rest, |(rest, _)| rest);
        let last = rest.rsplit_once('/').map_or(rest, |(_, last)| last);
        match last.split_once(':') {
            Some((name, tag)) => both(name, tag),
            None => Self { name: Some(last.to_owned()), ..Self::default() },
        }
    }
}

/// How the lock of a recipe is called.
pub(super) fn lock_name(name: &ServerName, url: &str) -> String {
    let ending = if url.starts_with("npm:") { "json" } else { "txt" };
    format!("{name}.lock.{ending}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn addresses_as_people_type_them() {
        let sha = "a".repeat(64);
        for (typed, url) in [
            ("oci:registry.example.com/team/x:1", "oci://registry.example.com/team/x:1".to_owned()),
            ("oci://registry.example.com/team/x:1", "oci://registry.example.com/team/x:1".to_owned()),
            (&format!("oci:r.example.com/x@sha256:{sha}"), format!("oci://r.example.com/x@sha256:{sha}")),
            ("git+https://git.example.com/x.git@v1.2.0", "git+https://git.example.com/x.git#v1.2.0".to_owned()),
            ("git+https://git.example.com/x.git#a@b", "git+https://git.example.com/x.git#a@b".to_owned()),
            ("npm:@a/b@1.0.0", "npm:@a/b@1.0.0".to_owned()),
        ] {
            assert_eq!(Source::parse(typed, None).unwrap().url, url, "{typed}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("repo")).unwrap();
        let typed = format!("git+file:{}@v1", folder.path().join("repo").display());
        let source = Source::parse(&typed, None).unwrap();
        assert_eq!(source.url, "git+file:repo#v1");
        assert_eq!(source.file_root, Some(folder.path().canonicalize().unwrap()));
        assert!(matches!(Source::parse("git+file:nowhere#v1", None), Err(InitError::Source(_))));
        for typed in
            ["git+https://user@git.example.com/x", "https://u:p@example.com/x.tar", "oci://u:p@example.com/x:1"]
        {
            assert!(matches!(Source::parse(typed, None), Err(InitError::Login)), "{typed}");
        }
    }

    #[test]
    fn what_addresses_say() {
        for (url, name, version) in [
            ("npm:@a/b@1.0.0", Some("@a/b"), Some("1.0.0")),
            ("pypi:Some_Server==1.2", Some("some-server"), Some("1.2")),
            ("git+https://git.example.com/team/notes.git#v1.2.0", Some("notes"), Some("v1.2.0")),
            ("oci://localhost:5000/team/x:1.0", Some("x"), Some("1.0")),
            ("oci://localhost:5000/x@sha256:00", Some("x"), None),
            ("https://example.com/x.tar", None, None),
        ] {
            let named = Named::of(url);
            assert_eq!((named.name.as_deref(), named.version.as_deref()), (name, version), "{url}");
        }
    }
}
