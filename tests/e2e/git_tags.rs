//! A tag of a git repository as an artefact, over git's own smart HTTP.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, sha256_of};
use mcpfs_tests::git::{GitHost, LOGIN, Repository, SigningKey};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::lfs::Lie;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{Registry, files_below};
use mcpfs_tests::scratch;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use serde_json::json;

use crate::bundles::{bundle, check, recipe_lines, write_recipe};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("git_tags::a_tag_runs_from_the_mount", a_tag_runs_from_the_mount);
    suite.plain("git_tags::a_moved_tag_is_refused", a_moved_tag_is_refused);
    suite.plain("git_tags::signatures_are_reported", signatures_are_reported);
    suite.plain("git_tags::submodules_come_when_asked", submodules_come_when_asked);
    suite.plain("git_tags::files_of_lfs_come_when_asked", files_of_lfs_come_when_asked);
    suite.plain("git_tags::private_repositories_ask_for_a_login", private_repositories_ask_for_a_login);
    suite.plain("git_tags::attributes_change_nothing", attributes_change_nothing);
    suite.plain("git_tags::hostile_repositories_are_refused", hostile_repositories_are_refused);
    suite.plain("git_tags::only_the_listed_host_is_asked", only_the_listed_host_is_asked);
}

/// The address of a tag, as recipes write it.
fn address(repository: &Repository, tag: &str) -> String {
    format!("git+{}#{tag}", repository.url())
}

/// `bundle` of a tag that this host serves.
fn bundled(registry: &Registry, host: &GitHost, address: &str, out: &Path) -> Run {
    asking(bundle(registry, address, out), host)
}

/// Lets a command of the signer ask this host.
fn asking(run: Run, host: &GitHost) -> Run {
    run.arg("--allow-host").arg(host.name()).arg("--ca-file").arg(host.authority())
}

/// A repository with the demo's server, tagged v1.
fn hello(registry: &Registry, host: &GitHost) -> (Repository, String) {
    let repository = host.repository("hello");
    let commit = repository.commit(&fixture::hello_tree(&registry.artefacts(), "1.0.0"));
    repository.tag("v1", &commit);
    (repository, commit)
}

/// Bundles v1 and writes the recipe with what was printed.
fn hello_recipe(registry: &Registry, host: &GitHost, repository: &Repository) -> Ran {
    let out = registry.artefacts().join("git.tar");
    let ran = bundled(registry, host, &address(repository, "v1"), &out).ok();
    write_recipe(registry, "hello", "1.0.0", &format!("{}{}", recipe_lines(&ran, &out), fixture::HELLO_LAUNCH));
    std::fs::remove_file(out).unwrap();
    ran
}

fn a_tag_runs_from_the_mount(reads: Reads) {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (repository, commit) = hello(&registry, &git);
    let ran = hello_recipe(&registry, &git, &repository);
    assert!(ran.stdout.contains(&format!("  commit: {commit}\n")), "{ran}");
    assert!(ran.stdout.contains(&format!("  platform: linux/{}", machine())), "{ran}");
    let released = asking(registry.release_command("hello"), &git).ok();
    assert!(released.stderr.contains("the tag v1 is not signed"), "{released}");
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), reads);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    assert_eq!(client.initialize()["serverInfo"], json!({"name": "hello", "version": "1.0.0"}));
    client.end();
    assert!(!host.at("hello/1.0.0/tree/.git").exists());
    let signed = std::fs::read_to_string(registry.site().join("servers/hello.json")).unwrap();
    assert!(signed.contains(&address(&repository, "v1")), "the statement says where it came from");
}

fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn a_moved_tag_is_refused() {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (repository, pinned) = hello(&registry, &git);
    hello_recipe(&registry, &git, &repository);
    asking(check(&registry, "hello"), &git).ok();
    let tree = fixture::hello_tree(&registry.artefacts(), "1.0.1");
    let moved = repository.commit(&tree);
    repository.tag("v1", &moved);
    let refused = asking(check(&registry, "hello"), &git).exits(1).says("[tag-moved]");
    assert!(refused.stdout.contains(&pinned) && refused.stdout.contains(&moved), "{refused}");
    asking(registry.release_command("hello"), &git).exits(1);
    assert!(!registry.site().join("head.json").exists());
    let out = registry.artefacts().join("git.tar");
    bundled(&registry, &git, &address(&repository, "v1"), &out).args(["--commit", &pinned]).exits(1).says("was moved");
    bundled(&registry, &git, &address(&repository, "v1"), &out).args(["--commit", &moved]).ok();
    // Gone is not moved.
    repository.git(["tag", "-d", "v1"]).ok();
    asking(check(&registry, "hello"), &git).exits(1).says("there is no tag v1");
    bundled(&registry, &git, &address(&repository, "main"), &out).exits(1).says("there is no tag main");
}

fn signatures_are_reported() {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (repository, commit) = hello(&registry, &git);
    let (alice, mallory) = (SigningKey::new(), SigningKey::new());
    repository.signed_tag("v1", &commit, &alice);
    let ran = hello_recipe(&registry, &git, &repository);
    let reported = format!("has an SSH signature by the key {}; not verified", alice.fingerprint());
    assert!(ran.stderr.contains(&reported), "{ran}");
    let checked = |signers: &Path| asking(check(&registry, "hello"), &git).arg("--allowed-signers").arg(signers);
    let (good, bad) = (alice.allowed("alice@example.com"), mallory.allowed("mallory@example.com"));
    checked(&good).ok().says(&format!("is signed by alice@example.com by the key {}", alice.fingerprint()));
    checked(&bad).exits(1).says("which the file does not name");
    // The same key under a signature of something else.
    let tag = repository.git(["cat-file", "tag", "v1"]).ok().stdout.replace("tagger Alice", "tagger Alicia");
    let forged = repository.object("tag", tag.as_bytes());
    repository.git(["update-ref", "refs/tags/v1", &forged]).ok();
    checked(&good).exits(1).says("which does not fit");
    repository.tag("v1", &commit);
    checked(&good).exits(1).says("has no signature");
    // A light tag is no object that could have one.
    repository.git(["tag", "-f", "v1", &commit]).ok();
    asking(check(&registry, "hello"), &git).ok().says("the tag v1 is not signed");
}

fn submodules_come_when_asked() {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (library, inner, work) = (git.repository("library"), git.repository("inner"), scratch::dir());
    let put = |name: &str, text: &str| {
        let path = work.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("inner/deep.txt", "deep\n");
    let deep = inner.commit(&work.path().join("inner"));
    put("library/lib.txt", "library\n");
    put("library/.gitmodules", "[submodule \"i\"]\n\tpath = in ner\n\turl = ../inner.git\n");
    library.commit(&work.path().join("library"));
    library.git(["update-index", "--add", "--cacheinfo", &format!("160000,{deep},in ner")]).ok();
    let pinned = library.commit_index("with a submodule");
    // The tip moves on; what is pinned stays.
    put("library/lib.txt", "changed\n");
    library.commit(&work.path().join("library"));
    let (repository, _) = hello(&registry, &git);
    let with = |url: &str| {
        put("outer/.gitmodules", &format!("[submodule \"a.b\"]\n\tpath = vendor/lib\n\turl = {url}\n"));
        repository.commit(&work.path().join("outer"));
        repository.git(["update-index", "--add", "--cacheinfo", &format!("160000,{pinned},vendor/lib")]).ok();
        repository.tag("v1", &repository.commit_index("with a submodule"));
    };
    with("../library.git");
    let out = registry.artefacts().join("git.tar");
    bundled(&registry, &git, &address(&repository, "v1"), &out).exits(1).says("\"vendor/lib\" is a submodule");
    let ran = bundled(&registry, &git, &address(&repository, "v1"), &out).arg("--submodules").ok();
    assert!(ran.stderr.contains(&format!("vendor/lib is the submodule {pinned} of {}", library.url())), "{ran}");
    let read = |name: &str| Run::new("tar").arg("-xOf").arg(&out).arg(name).ok().stdout;
    assert_eq!(read("vendor/lib/lib.txt"), "library\n");
    assert_eq!(read("vendor/lib/in ner/deep.txt"), "deep\n");
    write_recipe(&registry, "hello", "1.0.0", &recipe_lines(&ran, &out));
    asking(check(&registry, "hello"), &git).ok().says(&format!("the submodule {deep} of"));
    // Where they come from is not pinned, so the places are those that are listed.
    for (url, says) in [
        ("https://other.example.com/library.git", "host https://other.example.com is not listed"),
        ("/etc", "is a submodule without a https: address"),
        ("ext::sh -c true", "is a submodule without a https: address"),
    ] {
        with(url);
        bundled(&registry, &git, &address(&repository, "v1"), &out).arg("--submodules").exits(1).says(says);
    }
}

fn files_of_lfs_come_when_asked() {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (library, work) = (git.repository("library"), scratch::dir());
    let put = |name: &str, text: &str| {
        let path = work.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("library/data.bin", &library.lfs_pointer("data.bin", b"of the library"));
    let pinned = library.commit(&work.path().join("library"));
    let (repository, _) = hello(&registry, &git);
    let model = vec![b'm'; 100_000];
    put("outer/model.bin", &repository.lfs_pointer("model.bin", &model));
    put("outer/again.bin", &repository.lfs_pointer("again.bin", &model));
    put("outer/plain.txt", "plain\n");
    put("outer/.lfsconfig", "[lfs]\n\turl = https://elsewhere.example.com/\n");
    put("outer/.gitmodules", "[submodule \"l\"]\n\tpath = lib\n\turl = ../library.git\n");
    repository.commit(&work.path().join("outer"));
    repository.git(["update-index", "--add", "--cacheinfo", &format!("160000,{pinned},lib")]).ok();
    repository.tag("v1", &repository.commit_index("with large files"));
    let out = registry.artefacts().join("git.tar");
    let address = address(&repository, "v1");
    let bundled = || bundled(&registry, &git, &address, &out).arg("--submodules");
    bundled().exits(1).says("is a pointer of Git LFS");
    let ran = bundled().arg("--lfs").ok();
    assert!(ran.stderr.contains("2 files of Git LFS (100000 bytes)"), "{ran}");
    let read = |name: &str| Run::new("tar").arg("-xOf").arg(&out).arg(name).ok().stdout_bytes;
    assert_eq!((read("model.bin"), read("again.bin")), (model.clone(), model));
    assert_eq!((read("lib/data.bin"), read("plain.txt")), (b"of the library".to_vec(), b"plain\n".to_vec()));
    // By the recipe, whose digest is that of the content.
    let recipe = recipe_lines(&ran, &out);
    assert!(recipe.contains("  submodules: true\n  lfs: true\n"), "{recipe}");
    write_recipe(&registry, "hello", "1.0.0", &recipe);
    asking(check(&registry, "hello"), &git).ok().says("1 files of Git LFS (14 bytes)");
    for (lie, says) in [
        (Lie::Bytes, "came as other bytes"),
        (Lie::Short, "came as other bytes"),
        (Lie::Long, "larger than"),
        (Lie::Elsewhere, "host https://elsewhere.example.com is not listed"),
        (Lie::Clear, "wants a login to be sent without TLS"),
        (Lie::Missing, "is refused by its Git LFS: no such object"),
        (Lie::Garbage, "something that is not Git LFS's"),
    ] {
        git.lfs().lies(lie);
        asking(check(&registry, "hello"), &git).exits(1).says(says);
    }
    // A repository on this machine has its own store.
    let local = registry.artefacts().join("local.tar");
    let run = || bundle(&registry, "git+file:library.git#v2", &local).arg("--lfs").arg("--file-root").arg(git.root());
    library.tag("v2", &pinned);
    run().ok();
    assert_eq!(Run::new("tar").arg("-xOf").arg(&local).arg("data.bin").ok().stdout, "of the library");
    std::fs::remove_dir_all(git.root().join("library.git/lfs")).unwrap();
    run().exits(1).says("git lfs fetch --all brings it there");
    // What only looks like a pointer.
    put("odd/x", "version https://git-lfs.github.com/spec/v1\nnothing\n");
    library.tag("v2", &library.commit(&work.path().join("odd")));
    run().exits(1).says("is a pointer of Git LFS that is none");
}

fn private_repositories_ask_for_a_login() {
    let (registry, git) = (Registry::new(), GitHost::private());
    let repository = git.repository("hello");
    let tree = fixture::hello_tree(&registry.artefacts(), "1.0.0");
    std::fs::write(tree.join("model.bin"), repository.lfs_pointer("model.bin", b"a model")).unwrap();
    repository.tag("v1", &repository.commit(&tree));
    let out = registry.artefacts().join("git.tar");
    let run = || bundled(&registry, &git, &address(&repository, "v1"), &out).arg("--lfs");
    run().exits(1).says("wants a login: name a file of logins (--registry-auth)");
    let wrong = run().arg("--registry-auth").arg(git.logins("wrong-horse")).exits(1);
    assert!(wrong.text().contains("refuses the login") && !wrong.text().contains("wrong-horse"), "{wrong}");
    let logins = git.logins(LOGIN.1);
    let ran = run().arg("--registry-auth").arg(&logins).ok();
    assert!(!ran.text().contains(LOGIN.1), "{ran}");
    write_recipe(&registry, "hello", "1.0.0", &format!("{}{}", recipe_lines(&ran, &out), fixture::HELLO_LAUNCH));
    asking(check(&registry, "hello"), &git).exits(1).says("wants a login");
    let staging = registry.artefacts().join("staging");
    let run = asking(check(&registry, "hello"), &git).env("MCPFS_REGISTRY_AUTH_FILE", &logins);
    run.arg("--staging").arg(&staging).ok();
    for file in files_below(&staging) {
        let bytes = std::fs::read(staging.join(&file)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(LOGIN.1) && !text.contains("Authorization"), "{file:?}");
    }
    // A file that others can read is not used.
    std::fs::set_permissions(&logins, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let run = asking(check(&registry, "hello"), &git).arg("--registry-auth").arg(&logins);
    run.exits(1).says("can be read or written by others");
}

fn attributes_change_nothing() {
    let (registry, git) = (Registry::shared(), GitHost::serve());
    let (repository, work) = (git.repository("attributes"), scratch::dir());
    let put = |name: &str, text: &str| std::fs::write(work.path().join(name), text).unwrap();
    put(".gitattributes", "secret export-ignore\nsubst export-subst\n* text=auto eol=crlf\nx filter=lfs\n");
    put("secret", "left in\n");
    put("subst", "$Format:%H$\n");
    put("x", "filtered\n");
    put(".gitmodules", "");
    std::fs::create_dir_all(work.path().join("a.d/empty")).unwrap();
    put("a.d/größe", "names\n");
    put("a-file", "sorted by its bytes\n");
    std::os::unix::fs::symlink("a.d/größe", work.path().join("link")).unwrap();
    std::fs::set_permissions(work.path().join("x"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let commit = repository.commit(work.path());
    repository.tag("v1", &commit);
    // What git does not keep.
    std::fs::remove_dir(work.path().join("a.d/empty")).unwrap();
    let (out, plain) = (work.path().with_extension("git.tar"), work.path().with_extension("dir.tar"));
    bundled(&registry, &git, &address(&repository, "v1"), &out).umask("077").ok();
    registry.signer().arg("bundle").arg(work.path()).arg("--out").arg(&plain).ok();
    assert_eq!(sha256_of(&out), sha256_of(&plain), "the folder as it was committed");
    // The same from a repository on the disk.
    let local = work.path().with_extension("local.tar");
    let file = "git+file:attributes.git#v1";
    bundle(&registry, file, &local).exits(1).says("add --file-root");
    bundle(&registry, file, &local).arg("--file-root").arg(git.root()).ok();
    assert_eq!(sha256_of(&local), sha256_of(&plain));
    bundle(&registry, "git+file:../attributes.git#v1", &local)
        .arg("--file-root")
        .arg(git.root())
        .exits(1)
        .says("climb");
    for file in [out, plain, local] {
        std::fs::remove_file(file).unwrap();
    }
}

fn hostile_repositories_are_refused() {
    let (registry, git) = (Registry::shared(), GitHost::serve());
    let (repository, work) = (git.repository("hostile"), scratch::dir());
    let out = work.path().join("out.tar");
    let refused = |commit: &str, says: &str| {
        repository.tag("v1", commit);
        bundled(&registry, &git, &address(&repository, "v1"), &out).exits(1).says(says);
        assert!(!out.exists(), "{says}: nothing half made");
    };
    let tree = |name: &str| {
        let tree = work.path().join(name);
        std::fs::create_dir(&tree).unwrap();
        tree
    };
    let pointer = tree("lfs");
    let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    std::fs::write(pointer.join("model.bin"), text).unwrap();
    refused(&repository.commit(&pointer), "\"model.bin\" is a pointer of Git LFS");
    let plain = tree("plain");
    std::fs::write(plain.join("x"), "x").unwrap();
    let commit = repository.commit(&plain);
    repository.git(["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor/lib")]).ok();
    refused(&repository.commit_index("with a submodule"), "\"vendor/lib\" is a submodule");
    repository.git(["rm", "-q", "--cached", "vendor/lib"]).ok();
    let escape = tree("escape");
    std::os::unix::fs::symlink("../../etc/passwd", escape.join("link")).unwrap();
    refused(&repository.commit(&escape), "out of the tree");
    let names = tree("names");
    std::fs::write(names.join(std::ffi::OsStr::from_bytes(b"bad-\xff")), "x").unwrap();
    refused(&repository.commit(&names), "not UTF-8");
    // Objects that git does not make.
    let blob = repository.object("blob", b"x");
    let id: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).unwrap()).collect();
    for (mode, name) in [("100644", ".."), ("100644", ".git"), ("40000", "."), ("100644", "a/b")] {
        let raw = [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &id].concat();
        let tree = repository.object("tree", &raw);
        refused(&repository.commit_tree(&tree, "hostile"), "git failed");
    }
}

fn only_the_listed_host_is_asked() {
    let (registry, git) = (Registry::new(), GitHost::serve());
    let (repository, _) = hello(&registry, &git);
    hello_recipe(&registry, &git, &repository);
    check(&registry, "hello").exits(1).says("is not listed; if it may be asked, add --allow-host");
    check(&registry, "hello").args(["--allow-host", "git.example.com"]).exits(1).says("is not listed");
    // Listed, but its certificate is of nobody known.
    check(&registry, "hello").arg("--allow-host").arg(git.name()).exits(1).says("certificate");
    asking(check(&registry, "hello"), &git).ok();
    // A redirect, were it to the same host.
    let moved = address(&repository, "v1").replace("/hello.git", "/moved/hello.git");
    let out = registry.artefacts().join("git.tar");
    bundled(&registry, &git, &moved, &out).exits(1).says("git failed");
    // Another content under the pinned digest.
    let yaml = std::fs::read_to_string(registry.recipe("hello")).unwrap();
    let at = yaml.find("sha256: ").unwrap() + 8;
    let other = format!("{}{}{}", &yaml[..at], "0".repeat(64), &yaml[at + 64..]);
    std::fs::write(registry.recipe("hello"), other).unwrap();
    asking(check(&registry, "hello"), &git).exits(1).says("[digest]");
    std::fs::write(registry.recipe("hello"), yaml.replace("  commit: ", "  commit: 0")).unwrap();
    asking(check(&registry, "hello"), &git).exits(1).says("is not the full id of a commit");
}
