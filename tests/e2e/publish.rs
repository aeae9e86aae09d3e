//! Publishing by hand, as README.md tells it, and what the signer refuses.

use std::path::{Path, PathBuf};

use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{RELEASE_KEY, Registry, files_below};
use mcpfs_tests::scratch::need;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::{Attack, Suite};

use crate::boundary::SIGNING_HOST;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("publish::from_key_to_client", from_key_to_client);
    suite.plain("publish::keys_cannot_be_taken_out", keys_cannot_be_taken_out);
    suite.plain("publish::a_published_version_never_changes", a_published_version_never_changes);
    suite.plain("publish::the_same_artefact_gives_the_same_tree", the_same_artefact_gives_the_same_tree);
    suite.plain("publish::a_wrong_digest_is_refused", a_wrong_digest_is_refused);
    suite.attack(
        Attack::new(
            SIGNING_HOST,
            "publish::hostile_archives_are_refused",
            "a hostile archive: it is parsed here alone, and a tree has no way out",
            &["exit 1"],
        ),
        hostile_archives_are_refused,
    );
    suite.plain("publish::the_articles_recipe_passes", the_articles_recipe_passes);
    suite.plain("publish::yank_and_revoke_reach_hosts", yank_and_revoke_reach_hosts);
}

fn from_key_to_client() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    let mut client = McpClient::start(&host.at("hello/run"));
    assert_eq!(client.initialize()["serverInfo"]["version"], "1.0.0");
    // The next version arrives without a restart.
    registry.release(&registry.hello("1.1.0"));
    host.refresh();
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.1.0");
    // Rolling back is publishing the older recipe again.
    registry.release(&registry.hello("1.0.0"));
    host.refresh();
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.0.0");
    let log = files_below(&registry.site().join("log"));
    assert_eq!(log.len(), 3, "one segment for each head: {log:?}");
}

fn keys_cannot_be_taken_out() {
    // Not the shared one: the signer logs in by itself, and other tests use that token now.
    let registry = Registry::new();
    let hsm = registry.hsm();
    assert_eq!(hsm.access(RELEASE_KEY), "sensitive, always sensitive, never extractable, local");
    hsm.signer().args(["keys", "prove", "--key"]).arg(hsm.uri(RELEASE_KEY)).ok().says("refused");
    let shown = hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri(RELEASE_KEY)).ok();
    assert!(shown.stdout.contains(&hsm.key_id(RELEASE_KEY)), "{shown}");
}

fn a_published_version_never_changes() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let before = std::fs::read(registry.site().join("head.json")).unwrap();
    let changed = registry.hello("1.0.0").yaml().replace("A server for tests.", "Something else.");
    std::fs::write(registry.recipe("hello"), changed).unwrap();
    registry.release_command("hello").exits(1).says("1.0.0");
    assert_eq!(std::fs::read(registry.site().join("head.json")).unwrap(), before, "nothing was published");
}

fn the_same_artefact_gives_the_same_tree() {
    let [one, two] = [Registry::new(), Registry::new()];
    let tree = |registry: &Registry| {
        registry.release(&registry.files());
        let entry = forge::read(&registry.site().join("servers/files.json"));
        forge::payload(&entry["signature"])["predicate"]["artefact"]["tree"].clone()
    };
    assert_eq!(tree(&one), tree(&two));
}

fn a_wrong_digest_is_refused() {
    let registry = Registry::new();
    let mut recipe = registry.hello("1.0.0");
    recipe.sha256 = "0".repeat(64);
    std::fs::write(registry.recipe("hello"), recipe.yaml()).unwrap();
    registry.release_command("hello").run().says("sha256");
    assert!(!registry.site().join("head.json").exists(), "nothing was published");
}

/// Archives that nobody packs by mistake, made by Python's tarfile.
fn hostile(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let script = r#"
import io, sys, tarfile
def make(name, *members):
    with tarfile.open(f"{sys.argv[1]}/{name}.tar", "w") as tar:
        for path, kind, target in members:
            info = tarfile.TarInfo(path)
            info.type, info.linkname, info.mode = kind, target, 0o755
            data = b"" if kind != tarfile.REGTYPE else b"x"
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
F, S, L, D, C, P = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE
make("parent", ("../evil", F, ""))
make("inside", ("a/../../evil", F, ""))
make("escape", ("link", S, "../../etc/passwd"))
make("through", ("dir", S, "/tmp"), ("dir/evil", F, ""))
make("loop", ("a", S, "b"), ("b", S, "a"))
make("device", ("null", C, ""))
make("fifo", ("pipe", P, ""))
make("twice", ("a", F, ""), ("a", F, ""))
make("deep", ("/".join(["d"] * 70) + "/f", F, ""))
make("control", ("a\nb", F, ""))
"#;
    Run::new(need("python3", "python3")).args(["-c", script]).arg(dir).ok();
    let names = ["parent", "inside", "escape", "through", "loop", "device", "fifo", "twice", "deep", "control"];
    names.map(|name| (name, dir.join(format!("{name}.tar")))).to_vec()
}

fn hostile_archives_are_refused() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    let before = std::fs::read(registry.site().join("head.json")).unwrap();
    for (name, file) in hostile(&registry.artefacts()) {
        let recipe = Recipe::new("hostile", "1.0.0", &file).with("launch:\n  command: bin/x\n");
        std::fs::write(registry.recipe("hostile"), recipe.yaml()).unwrap();
        let ran = registry.release_command("hostile").run();
        assert!(ran.code == 1 && !ran.text().contains("panicked"), "{name}: {ran}");
    }
    assert_eq!(std::fs::read(registry.site().join("head.json")).unwrap(), before, "nothing was published");
    // A file that is no archive, and one cut in the middle.
    let cut = registry.artefacts().join("cut.tar.gz");
    std::fs::write(&cut, [0x1f, 0x8b, 8, 0, 0]).unwrap();
    let recipe = Recipe::new("hostile", "1.0.0", &cut).with("launch:\n  command: bin/x\n");
    std::fs::write(registry.recipe("hostile"), recipe.yaml()).unwrap();
    registry.release_command("hostile").exits(1);
}

fn the_articles_recipe_passes() {
    let registry = Registry::new();
    let artefact = fixture::tar(&fixture::hello_tree(&registry.artefacts(), "1.2.0"));
    let yaml = format!(
        "# servers/internal-postgres.yaml\nname: internal-postgres\nversion: 1.2.0\nmaintainer: data-platform@example.com\n\
         description: Read-only access to the finance data warehouse.\nscope:\n  - read:finance.*\n\
         data_classification: confidential\nlawful_basis: contract\nreviewed_at: 2026-04-15\nreviewers:\n  \
         - security@example.com\n  - data-platform@example.com\nartefact:\n  url: file://{}\n  sha256: {}\n\
         signature: base64:...\n",
        artefact.display(),
        fixture::sha256_of(&artefact),
    );
    std::fs::write(registry.recipe("internal-postgres"), yaml).unwrap();
    registry.release_command("internal-postgres").ok();
    let entry = forge::read(&registry.site().join("servers/internal-postgres.json"));
    assert_eq!(entry["lawful_basis"], "contract");
    assert_eq!(entry["scope"][0], "read:finance.*");
}

fn yank_and_revoke_reach_hosts() {
    let registry = Registry::new();
    registry.release(&registry.hello("1.0.0"));
    registry.release(&registry.hello("1.1.0"));
    let site = Site::serve(&registry.site());
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    registry.publishing("yank").arg("--publish").args(["hello@1.1.0", "--reason", "slow"]).ok();
    host.refresh();
    Run::new(host.at("hello/run")).exits(77).says("Yanked");
    host.mcpfs(["pin", "hello", "1.1.0"]).ok();
    assert_eq!(McpClient::start(&host.at("hello/run")).initialize()["serverInfo"]["version"], "1.1.0");
    registry.publishing("revoke").arg("--publish").args(["hello@1.1.0", "--reason", "CVE-2026-1234"]).ok();
    host.refresh();
    Run::new(host.at("hello/run")).exits(77).says("CVE-2026-1234");
    host.mcpfs(["unpin", "hello"]).ok();
}
