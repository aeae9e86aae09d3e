#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A configuration directory of this test alone; `files` are (name, text).
fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = crate::scratch::in_memory();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    dir
}

fn load(files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&written(files).path().join("mcpfs.toml"))
}

const URL: &str = "[registry]\nurl = \"https://mcp.example.com/prod\"\n";

#[test]
fn a_url_is_enough() {
    let config = load(&[("mcpfs.toml", URL)]).unwrap();
    assert_eq!(config.registry.mirrors, vec![Url::parse("https://mcp.example.com/prod/").unwrap()]);
    assert_eq!(config.trust.file_name().unwrap(), "trust.json");
    assert_eq!(config.registry.refresh, Duration::from_secs(300));
    assert_eq!(config.registry.max_stale, Duration::from_secs(30 * 86_400));
    assert_eq!(config.policy.sandbox, SandboxPolicy::Required);
    assert!(!config.policy.allow_root);
}

#[test]
fn every_key_is_read() {
    let text = r#"
trust = "/t/trust.json"
state = "/s"
rundir = "/r"
[registry]
url = ["https://a.example.com", "file:///srv/site/"]
refresh = "10s"
max_stale = "2d"
ca_file = "/ca.pem"
token_file = "/token"
client_certificate = "/client.pem"
proxy = "http://proxy.example.com:3128"
[mount]
at = "/m"
reads = "cached"
[cache]
dir = "/c"
quota = "2GiB"
[network]
connect = "1s"
stall = "2s"
metadata = "3s"
object = "4s"
[pins]
default = "none"
hello = "1.0.0"
other = "2@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
[policy]
sandbox = "off"
allow_root = true
downgrade = "pin-only"
tree_exec = "allow"
expose = ["a*"]
hide = ["ab"]
scanners = ["updatedb"]
[access]
default = "staff"
contact = "it@example.com"
[access.servers]
hello = 5000
notes = "*"
[runtimes]
deno = "/opt/deno"
"#;
    let config = load(&[("mcpfs.toml", text)]).unwrap();
    assert_eq!(config.registry.mirrors.len(), 2);
    assert_eq!(config.cache.quota, 2 << 30);
    assert_eq!(config.mount.reads, ReadsWanted::Cached);
    assert_eq!(config.network.object, Duration::from_secs(4));
    assert_eq!(config.pins.default, PinsDefault::None);
    assert_eq!(config.pins.by_name[&"other".parse().unwrap()].sha256, Some(Digest::EMPTY));
    assert_eq!(config.policy.downgrade, DowngradePolicy::PinOnly);
    let group = |name: &str| config.access.group_of(&name.parse().unwrap()).map(|group| (group.name, group.gid));
    assert_eq!(group("hello"), Some(("5000".to_owned(), Some(5000))));
    assert_eq!((group("notes"), group("other")), (None, Some(("staff".to_owned(), None))));
    assert_eq!(config.runtimes["deno"], Path::new("/opt/deno"));
    let exposed = |name: &str| config.policy.exposes(&name.parse().unwrap());
    assert_eq!((exposed("a"), exposed("abc"), exposed("ab"), exposed("b")), (true, true, false, false));
}

#[test]
fn drop_ins_win_in_name_order() {
    let config = load(&[
        ("mcpfs.toml", &format!("{URL}refresh = \"1m\"\n[pins]\na = \"1\"\nb = \"1\"\n")),
        ("conf.d/10-first.toml", "[pins]\nb = \"2\"\nc = \"2\"\n[registry]\nmax_stale = \"1d\"\n"),
        ("conf.d/90-pins.toml", "[pins]\nc = \"3\"\n"),
        ("conf.d/notes.txt", "not configuration"),
    ])
    .unwrap();
    let pins: Vec<_> = config.pins.by_name.iter().map(|(name, pin)| format!("{name}={pin}")).collect();
    assert_eq!(pins, ["a=1", "b=2", "c=3"]);
    assert_eq!(config.registry.refresh, Duration::from_secs(60));
    assert_eq!(config.registry.max_stale, Duration::from_secs(86_400));
}

#[test]
fn a_bad_file_names_itself_its_line_and_a_way_out() {
    for (text, line, says) in [
        ("[registry]\nurl = \"https://a\"\n\n[polcy]\n", 4, "did you mean \"policy\""),
        ("[registry]\nurll = \"https://a\"\n", 2, "did you mean \"url\""),
        ("[registry]\nzzz = 1\n", 2, "max_stale"),
        (
            "[registry]\nurl = \"https://a\"\n[mount]\nreads = \"passthrough\"\n",
            4,
            "cannot stand here; it is one of: auto, cached",
        ),
        ("[registry]\nurl = \"gopher://a\"\n", 2, "https:"),
        ("[registry]\nurl = \"https://me:secret@a\"\n", 2, "token_file"),
        ("[registry]\nurl = \"https://a\"\nrefresh = \"soon\"\n", 3, "time span"),
        ("[cache]\nquota = \"lots\"\n", 2, "size"),
        ("[registry]\nurl = \"mcp.example.com/prod\"\n", 2, "write https://mcp.example.com/prod/"),
        ("[registry]\nurl = \"\"\n", 2, "such as https://"),
        ("\n[pins]\ndefault = \"all\"\n", 3, "\"catalogue\" (what the registry selects) or \"none\""),
        ("[pins]\ndefault = \"1.0\"\n", 2, "pins.default is"),
        ("\n[pins]\nhello = \"latest\"\n", 3, "not a version"),
        ("[pins]\nhello = \"1@md5:00\"\n", 2, "sha256:"),
        ("[pins]\nHELLO = \"1\"\n", 2, "not a server name"),
        ("[policy]\nsandbox = \"maybe\"\n", 2, "off"),
        ("[metrics]\nlisten = \"localhost\"\n", 2, "an address and a port"),
        ("[log]\nformat = \"xml\"\n", 2, "json"),
        ("\n[retention]\naudit = \"12h\"\n", 3, "the least is \"1d\""),
        ("[retention]\naudit = \"never\"\n", 2, "or \"forever\""),
        ("[retention]\naudit = 400\n", 2, "400d"),
        ("[retention]\nlog = \"1d\"\n", 2, "audit"),
        ("[cache]\nquota = 1.5\n", 2, "such as \"20GiB\" or a whole number of bytes"),
        ("[registry]\nproxy = \"nonsense\"\n", 2, "a proxy is such as"),
        ("[registry]\nproxy = \"socks5://u:secret@x:1\"\n", 2, "a proxy is such as"),
        ("[registry]\nurl = 7\n", 2, "a list of addresses"),
        ("[access]\n\nhello = \"finance\"\n", 3, "unknown key \"hello\"; here can stand: default, servers, contact"),
        ("[access.servers]\nhello = [\"a\", \"b\"]\n", 2, "one group: its name"),
        ("[access]\nservers = \"finance\"\n", 2, "map"),
        ("[access.servers]\nHELLO = \"finance\"\n", 2, "not a server name"),
        ("a = = 1\n", 1, ""),
    ] {
        match load(&[("mcpfs.toml", URL), ("conf.d/50.toml", text)]) {
            Err(error @ ConfigError::Invalid { .. }) => {
                let shown = error.to_string();
                assert!(shown.contains(&format!("conf.d/50.toml:{line}: ")), "{text:?}: {shown}");
                assert!(shown.contains(says), "{text:?}: {shown}");
                assert!(!shown.contains("secret"), "{shown}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn what_no_single_value_can_know() {
    for (text, says) in [
        ("[mount]\nat = \"/m\"\n", "registry"),
        (&format!("{URL}[mount]\nat = \"m\"\n") as &str, "mount.at"),
        (&format!("rundir = \"/run/{}\"\n{URL}", "x".repeat(48)), "rundir"),
        (&format!("rundir = \"/run/my dir\"\n{URL}"), "rundir"),
        (&format!("{URL}[pins]\nhello = \"none\"\n"), "pins.hello"),
        (&format!("{URL}[cache]\nquota = \"0\"\n"), "the least is 8.0 MiB"),
        (&format!("{URL}[cache]\nquota = \"8191KiB\"\n"), "cache.quota"),
        (&format!("{URL}[metrics]\nlisten = \"0.0.0.0:9911\"\n"), "no loopback address"),
        (&format!("{URL}[metrics]\nlisten = \"[::]:9911\"\n"), "no loopback address"),
        (&format!("{URL}[metrics]\ntextfile = \"/x/mcpfs.txt\"\n"), ".prom"),
        (&format!("{URL}[metrics]\ntextfile = \"mcpfs.prom\"\n"), "absolute"),
        (&format!("{URL}[policy]\nhide = [\"a*b\"]\n"), "policy.hide"),
        (&format!("{URL}max_stale = \"1s\"\n"), "shorter than registry.refresh"),
        (&format!("{URL}[mount]\nat = \"/\"\n"), "root directory"),
        (&format!("rundir = \"/mcp/run\"\n{URL}[mount]\nat = \"/mcp\"\n"), "below the mount point"),
        (&format!("state = \"/c/state\"\n{URL}[cache]\ndir = \"/c\"\n"), "lie in each other"),
        (&format!("state = \"/c\"\n{URL}[cache]\ndir = \"/c\"\n"), "lie in each other"),
        (&format!("{URL}[runtimes]\nnode = \"node\"\n"), "runtimes.node"),
    ] {
        match load(&[("mcpfs.toml", text)]) {
            Err(ConfigError::Incomplete { problem, .. } | ConfigError::Invalid { problem, .. }) => {
                assert!(problem.contains(says), "{text:?}: {problem}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn files_that_others_can_write_are_refused() {
    let dir = written(&[("mcpfs.toml", URL), ("conf.d/50.toml", "[pins]\n")]);
    let main = dir.path().join("mcpfs.toml");
    assert!(Config::load(&main).is_ok());
    for (path, good, bad) in [("mcpfs.toml", 0o644, 0o664), ("conf.d/50.toml", 0o644, 0o666), ("conf.d", 0o755, 0o777)]
    {
        let path = dir.path().join(path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bad)).unwrap();
        assert!(matches!(Config::load(&main), Err(ConfigError::File(OwnedError::Unsafe { .. }))), "{path:?}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(good)).unwrap();
    }
    assert!(matches!(Config::load(&dir.path().join("none")), Err(ConfigError::Incomplete { .. })));
}

/// What is read and not enforced would be worse than none.
#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    let more = "[policy]\ntree_exec = \"deny\"\n";
    let whole = format!("{URL}{more}");
    for files in [&[("mcpfs.toml", whole.as_str())][..], &[("mcpfs.toml", URL), ("conf.d/50-more.toml", more)]] {
        let error = load(files).unwrap_err().to_string();
        assert!(error.contains("tree_exec") && error.contains("not enforced"), "{error}");
    }
    assert!(load(&[("mcpfs.toml", &format!("{URL}[policy]\ntree_exec = \"allow\"\n"))]).is_ok());
    let error = load(&[("mcpfs.toml", &format!("{URL}access = 1\n"))]).unwrap_err().to_string();
    assert!(error.contains("unknown key"), "a table's name is no key of another: {error}");
}

#[test]
fn what_is_wrong_together_is_told_with_its_place() {
    for (text, line, problem) in [
        ("[cache]\nquota = 0\n", 2, "the least is 8.0 MiB"),
        ("[registry]\nrefresh = \"5m\"\nmax_stale = \"1s\"\n", 3, "shorter than registry.refresh"),
        ("[metrics]\nlisten = \"0.0.0.0:9911\"\n", 2, "no loopback address"),
        ("\n[mount]\nat = \"/\"\n", 3, "root directory"),
        ("state = \"relative\"\n", 1, "not an absolute path"),
        ("\n[credentials.\"dw/ro\"]\nfile = \"/x\"\n", 2, "needs servers"),
    ] {
        let error = load(&[("mcpfs.toml", URL), ("conf.d/50-a.toml", text)]).unwrap_err().to_string();
        let place = format!("conf.d/50-a.toml:{line}: ");
        assert!(error.contains(&place) && error.contains(problem), "{text}: {error}");
    }
    // It is the last file that counts, wherever else the setting stands.
    let files = [
        ("mcpfs.toml", URL),
        ("conf.d/10-a.toml", "[cache]\nquota = 1\n"),
        ("conf.d/20-b.toml", "[cache]\nquota = 2\n"),
    ];
    assert!(load(&files).unwrap_err().to_string().contains("20-b.toml:2: "));
}

#[test]
fn groups_are_looked_up_for_whoever_decides_by_them() {
    let dir = written(&[("mcpfs.toml", URL), ("conf.d/20-access.toml", "[access]\ndefault = \"root\"\n")]);
    let main = dir.path().join("mcpfs.toml");
    let group = |config: &Config| config.access.group_of(&"hello".parse().unwrap()).unwrap();
    assert_eq!(group(&Config::load(&main).unwrap()).gid, None);
    let texts = Texts::read(&main).unwrap().with_groups().unwrap();
    assert_eq!(group(&texts.config().unwrap()).gid, Some(0));
    // What is handed to another process has them with it.
    let handed: Texts = serde_json::from_slice(&serde_json::to_vec(&texts).unwrap()).unwrap();
    assert_eq!(group(&handed.config().unwrap()).gid, Some(0));
    std::fs::write(dir.path().join("conf.d/20-access.toml"), "[access.servers]\nhello = \"no-such-group\"\n").unwrap();
    let error = Texts::read(&main).unwrap().with_groups().unwrap_err().to_string();
    assert!(error.contains("conf.d/20-access.toml:2: this host has no group no-such-group"), "{error}");
    assert!(Config::load(&main).is_ok(), "who only asks the daemon need not know");
}

#[test]
fn a_runtime_directory_is_ones_own() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let uid = dir.path().metadata().unwrap().uid();
    let found = |dir: PathBuf, uid| value::runtime_dir(Some(dir.clone()), uid) == Some(dir);
    assert!(found(dir.path().into(), uid));
    assert!(!found(dir.path().into(), uid + 1), "after su it is another user's");
    assert!(!found(dir.path().join("gone"), uid), "after the last logout");
}

const PAGE: &str = include_str!("../../../packaging/mcpfs/mcpfs.toml.5");

/// The keys of each table that the manual page explains: the bold words of its entries.
fn explained() -> BTreeMap<String, BTreeSet<String>> {
    let (mut tables, mut table, mut before) = (BTreeMap::<String, BTreeSet<String>>::new(), None, "");
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix(".SH ") {
            let named = heading.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            table = named.or((heading == "TOP LEVEL").then_some("")).map(str::to_owned);
        } else if let (Some(table), ".TP", Some((".B" | ".BR", keys))) = (&table, before, line.split_once(' ')) {
            tables.entry(table.clone()).or_default().extend(keys.split(" \", \" ").map(str::to_owned));
        }
        before = line;
    }
    tables
}

#[test]
fn the_manual_page_explains_every_key_and_no_other() {
    let explained = explained();
    let (mut tables, mut seen) = (vec![String::new()], 0);
    while let Some(table) = tables.pop() {
        let heading = if table.is_empty() { String::new() } else { format!("[{}]\n", table.replace("\"REF\"", "x")) };
        let unknown = format!("{heading}qqq = 1\n");
        let said = load(&[("mcpfs.toml", URL), ("conf.d/10.toml", &unknown)]).unwrap_err().to_string();
        let known = said.split_once("here can stand: ").unwrap_or_else(|| panic!("[{table}]: {said}")).1;
        let known: Vec<&str> = known.lines().next().unwrap().split(", ").collect();
        let keys = explained.get(&table).cloned().unwrap_or_default();
        for key in &known {
            let inner = if table.is_empty() { (*key).to_owned() } else { format!("{table}.{key}") };
            match inner.as_str() {
                "registry" | "mount" | "cache" | "network" | "policy" | "access" | "metrics" | "log" | "retention" => {
                    tables.push(inner);
                }
                "credentials" => tables.push("credentials.\"REF\"".to_owned()),
                // Their keys are names of an administrator's choice.
                "pins" | "stops" | "runtimes" | "access.servers" => {
                    assert!(PAGE.contains(&format!(".SH [{inner}]")), "man mcpfs.toml has no [{inner}]");
                }
                _ => assert!(keys.contains(*key), "man mcpfs.toml does not explain {inner}"),
            }
            seen += 1;
        }
        let others: Vec<_> = keys.iter().filter(|key| !known.contains(&key.as_str())).collect();
        assert!(others.is_empty(), "man mcpfs.toml explains what is no key of [{table}]: {others:?}");
    }
    assert!(seen > 40, "{seen}");
}
