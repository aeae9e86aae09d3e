//! What may stand in the log, which everybody can read: the rule, the object, the reason, and not
//! where things lie on the machine that signs.
//!
//! Errors are written for who sits there, so they name files by their paths. Of such a path only the
//! last part is kept. Paths that a command was given are known; others are told by their form. Of an
//! address that somebody typed with a login in it, the login is left out.

use std::path::Path;

use crate::secret::without_logins;

/// What a file is called in public: `servers/x.yaml` as in its repository, else its name alone.
/// An address such as `s3://bucket/prefix` is one already.
pub fn name(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains("://") {
        return without_logins(&text).into_owned();
    }
    let Some(name) = path.file_name() else { return String::new() };
    let name = name.to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(folder) if folder == "servers" => format!("servers/{name}"),
        _ => name.into_owned(),
    }
}

/// A text in which the paths in `known`, and what looks like an absolute or climbing path, are cut to
/// their last part.
pub fn without_paths(text: &str, known: &[&Path]) -> String {
    let mut text = without_logins(text).into_owned();
    let mut known: Vec<String> = known.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    known.retain(|path| path.contains('/') && !path.contains("://"));
    // The longest first: one may lie in another.
    known.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in &known {
        text = text.replace(path.as_str(), &name(Path::new(path)));
    }
    let mut public = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.char_indices().find(|(at, _)| begins_path(&rest[..*at], &rest[*at..])) {
        let (before, from) = rest.split_at(start.0);
        public.push_str(before);
        let end = end_of_path(from, before.chars().next_back());
        public.push_str(from[..end].trim_end_matches('/').rsplit('/').next().unwrap_or_default());
        rest = &from[end..];
    }
    public + rest
}

/// Whether a path of this machine begins at `from`, after `before`.
fn begins_path(before: &str, from: &str) -> bool {
    let path = ["/", "~/", "./", "../"].iter().any(|begin| from.starts_with(begin));
    let Some(last) = before.chars().next_back() else { return path };
    // `https://host/…` is no path; `file:///srv/…` and `module-path=/usr/…` hold one.
    let address = from.starts_with("//") || (last == '/' && !before.ends_with("://"));
    path && !address && (last.is_whitespace() || "\"'`(=:,;[{</".contains(last))
}

/// Where the path that begins here ends: at its closing quote, else at a blank or a mark.
fn end_of_path(from: &str, quote: Option<char>) -> usize {
    if let Some(quote) = quote.filter(|quote| "\"'`".contains(*quote)) {
        return from.find(quote).unwrap_or(from.len());
    }
    let mut end = from.find(|c: char| c.is_whitespace() || "\"'`,;)]}>".contains(c)).unwrap_or(from.len());
    end = from[..end].find(':').unwrap_or(end);
    from[..end].trim_end_matches('.').len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_machine_stay_there() {
        let known = [Path::new("/home/an na/site"), Path::new("../registry/servers/hello.yaml")];
        for (text, public) in [
            ("https://u:p@h/x is no site", "https://…@h/x is no site"),
            ("cannot read /srv/mcp/site/head.json: permission denied", "cannot read head.json: permission denied"),
            ("/home/an na/site/head.json is damaged", "site/head.json is damaged"),
            ("../registry/servers/hello.yaml did not pass", "servers/hello.yaml did not pass"),
            ("../../x/y.yaml: line 3", "y.yaml: line 3"),
            ("\"/home/an na/keys\" is no folder", "\"keys\" is no folder"),
            (
                "pkcs11:token=mcpfs;object=a?module-path=/usr/lib/softhsm/libsofthsm2.so has no such key",
                "pkcs11:token=mcpfs;object=a?module-path=libsofthsm2.so has no such key",
            ),
            ("https://mcp.example.com/prod/head.json: 404", "https://mcp.example.com/prod/head.json: 404"),
            ("file:///srv/a/x.tar and file:/srv/b/y.tar.", "file://x.tar and file:y.tar."),
            ("s3://bucket/prefix: objects/aa/bb is not there", "s3://bucket/prefix: objects/aa/bb is not there"),
            ("hello 1.0.0 is published: 1/2 of ${TREE}/bin", "hello 1.0.0 is published: 1/2 of ${TREE}/bin"),
            ("/", ""),
            ("(~/.config/mcpfs/trust.json)", "(trust.json)"),
            ("", ""),
        ] {
            assert_eq!(without_paths(text, &known), public);
            assert_eq!(without_paths(public, &known), public, "again");
        }
    }

    #[test]
    fn names_of_files() {
        for (path, public) in [
            ("servers/hello.yaml", "servers/hello.yaml"),
            ("/home/anna/registry/servers/hello.yaml", "servers/hello.yaml"),
            ("/home/anna/hello.yaml", "hello.yaml"),
            ("s3://bucket/log", "s3://bucket/log"),
            ("..", ""),
            ("/", ""),
        ] {
            assert_eq!(name(Path::new(path)), public);
        }
    }
}
