//! What monitoring sees: metrics by file and by endpoint, logs as JSON, dashboard and alert rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use mcpfs_tests::command::Run;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{self, Port, is_root, wait_for};
use mcpfs_tests::suite::Suite;
use serde_json::Value;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("monitoring::metrics_by_both_ways", metrics_by_both_ways);
    suite.plain("monitoring::a_way_that_cannot_be_had", a_way_that_cannot_be_had);
    suite.plain("monitoring::the_log_as_json", the_log_as_json);
    if is_root() {
        suite.plain("monitoring::a_crash_as_written", a_crash_as_written);
    }
    suite.plain("monitoring::dashboard_and_rules_use_what_is_there", dashboard_and_rules_use_what_is_there);
}

/// What the endpoint answers to a request line and a `Host`.
fn ask(port: u16, line: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(scratch::PATIENCE)).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn page(port: u16) -> String {
    let answer = ask(port, "GET /metrics", "127.0.0.1");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("version=0.0.4"), "{head}");
    body.to_owned()
}

/// Reads a page as Prometheus' own client library does, and gives its samples.
fn parsed(page: &str) -> BTreeMap<String, f64> {
    let script = "import sys, json\n\
        from prometheus_client.parser import text_string_to_metric_families as families\n\
        for family in families(sys.stdin.read()):\n\
        \x20   assert family.type in ('gauge', 'counter') and family.documentation, family\n\
        \x20   assert family.samples or family.name.startswith('mcpfs_'), family\n\
        \x20   for s in family.samples:\n\
        \x20       print(json.dumps([s.name + ''.join(f'|{k}={v}' for k, v in sorted(s.labels.items())), s.value]))\n";
    let ran = Run::new("/usr/bin/python3").args(["-c", script]).stdin(page.to_owned()).run();
    assert!(ran.code == 0, "python3 needs python3-prometheus-client (tests/setup)? {ran}");
    ran.stdout.lines().map(|line| serde_json::from_str::<(String, f64)>(line).unwrap()).collect()
}

fn metrics_by_both_ways() {
    let mut world = World::new(Reads::usual());
    let port = Port::reserve();
    let file = world.host.path("metrics/mcpfs.prom");
    world
        .host
        .drop_in("50-metrics", &format!("[metrics]\nlisten = \"127.0.0.1:{}\"\ntextfile = {file:?}\n", port.number()));
    let number = port.number();
    let mount = Mount::start(&world.host);
    let before = parsed(&page(number));
    assert_eq!(before["mcpfs_servers_admitted"], 2.0, "{before:?}");
    let named = format!("mcpfs_build_info|reads={}|registry=mcp.example.com/test|version=", Reads::usual().word());
    assert!(before.keys().any(|key| key.starts_with(&named)), "{before:?}");
    assert_eq!(
        (before["mcpfs_stale"], before["mcpfs_audit_failing"], before["mcpfs_takeovers_total"]),
        (0.0, 0.0, 0.0)
    );
    assert!(before["mcpfs_head_version"] > 0.0 && before["mcpfs_head_age_seconds"] < 86_400.0);

    // What is done is counted.
    McpClient::start(&world.run("hello")).initialize();
    std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap();
    let after = parsed(&page(number));
    assert_eq!(after["mcpfs_launches_total|outcome=ok"], 1.0, "{after:?}");
    assert!(after["mcpfs_opens_total|outcome=ok"] > before["mcpfs_opens_total|outcome=ok"]);
    let mirror = format!("mirror={}/", world.site.url().trim_end_matches('/'));
    assert!(after[&format!("mcpfs_fetch_bytes_total|{mirror}")] > 0.0, "{after:?}");
    assert!(after[&format!("mcpfs_fetch_seconds_total|{mirror}")] > 0.0);
    assert!(after["mcpfs_cache_bytes"] > 0.0 && after["mcpfs_audit_last_row"] > before["mcpfs_audit_last_row"]);

    // The file is one that a parser reads, and node_exporter may.
    let written = wait_for("the file", || std::fs::read_to_string(&file).ok());
    assert!(parsed(&written).contains_key("mcpfs_head_version"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);

    // Only for this host.
    for (line, host, status) in [
        ("GET /metrics", "rebound.example.com", "421"),
        ("GET /", "127.0.0.1", "404"),
        ("POST /metrics", "localhost", "405"),
        ("GARBAGE", "localhost", "400"),
    ] {
        assert!(ask(number, line, host).starts_with(&format!("HTTP/1.1 {status} ")), "{line} {host}");
    }
    // Who says nothing keeps nobody else out.
    let silent: Vec<_> =
        (0..4).map(|_| TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], number))).unwrap()).collect();
    page(number);
    drop(silent);

    // A mirror that is gone, by its code.
    world.site.stop();
    world.host.refresh_fails("Unreachable");
    let gone = parsed(&page(number));
    assert!(
        gone.iter().any(|(key, count)| key.starts_with("mcpfs_fetch_failures_total|code=Unreachable|") && *count > 0.0)
    );
    assert_eq!((gone["mcpfs_refresh_success"], gone["mcpfs_stale"]), (0.0, 1.0));

    if is_root() {
        // The next worker answers at the same place.
        mount.kill_worker();
        let next = parsed(&page(number));
        assert_eq!((next["mcpfs_worker_generation"], next["mcpfs_takeovers_total"]), (2.0, 1.0));
        // And the worker still may not listen.
        let status = std::fs::read_to_string(format!("/proc/{}/status", mount.server())).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
    mount.stop();
}

fn a_way_that_cannot_be_had() {
    let world = World::new(Reads::Cached);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let others = world.host.path("others");
    std::fs::create_dir(&others).unwrap();
    std::fs::set_permissions(&others, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let textfile = others.join("mcpfs.prom");
    world.host.drop_in(
        "50-metrics",
        &format!("[metrics]\nlisten = \"{}\"\ntextfile = {textfile:?}\n", taken.local_addr().unwrap()),
    );
    let mount = Mount::start(&world.host);
    assert!(mount.log().contains("metrics.listen is not answered"), "{}", mount.log());
    assert!(mount.log().contains("--collector.textfile.directory"), "{}", mount.log());
    assert!(!textfile.exists());
    mount.stop();
    world.host.drop_in("50-metrics", "[metrics]\nlisten = \"0.0.0.0:9911\"\n");
    world.host.mcpfs(["config", "check"]).exits(2).says("no loopback address");
}

fn the_log_as_json() {
    let world = World::new(Reads::Cached);
    world.host.drop_in("50-log", "[log]\nformat = \"json\"\n");
    let mount = Mount::start(&world.host);
    if is_root() {
        mount.kill_worker();
    }
    let log = mount.log();
    mount.stop();
    // An ordinary user's daemon says that it serves on standard output, too, for whoever started it.
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.len() + 2 >= log.lines().count() && !lines.is_empty(), "{log}");
    for line in &lines {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().contains(" mounted at ")), "{log}");
    // A start that fails, as such a line.
    std::fs::write(world.host.trust(), "{").unwrap();
    let ran = world.host.mcpfs(["mount", "--foreground", "--log-format", "json"]).run();
    let last: Value =
        serde_json::from_str(ran.stderr.lines().rfind(|line| line.contains("trust.json")).unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR", "{ran}");
    let text = world.host.mcpfs(["mount", "--foreground", "--log-format", "text"]).run();
    assert!(text.stderr.lines().any(|line| line.starts_with("mcpfs: ")), "{text}");
}

/// The commands of the manual's section about a crash, against a daemon that systemd did not start.
fn a_crash_as_written() {
    let section = crate::docs::section("operating.md", "A crash");
    let blocks = crate::docs::blocks_of(&section, "```sh");
    let [of_the_worker, of_all] = blocks.as_slice() else { panic!("{section}") };
    let world = World::new(Reads::Passthrough);
    let mount = Mount::start(&world.host);
    let bin = mcpfs_tests::binaries::bin("mcpfs");
    let typed = |block: &str, pid: u32| {
        let script = block
            .replace("$(systemctl show -p MainPID --value mcpfs)", &pid.to_string())
            .replace("mcpfs ", &format!("{} --config {} ", bin.display(), world.host.config().display()))
            .replace("/mcp/hello", world.host.at("hello").to_str().unwrap());
        Run::new("sh").args(["-euc", &script]).ok()
    };
    let mut session = McpClient::start(&world.run("hello"));
    session.initialize();
    let worker = mount.server();
    let ran = typed(of_the_worker, mount.pid());
    assert!(ran.stdout.contains("takeover: yes"), "{ran}");
    assert_ne!(mount.server(), worker);
    assert_eq!(session.call("echo", &serde_json::json!({"message": "still here"})), "still here");
    drop(session);
    mount.kill();
    // What the kernel still knows by itself it goes on to say, and what was under way is cut off (ECONNABORTED).
    let closed = Some(rustix::io::Errno::NOTCONN.raw_os_error());
    wait_for("ENOTCONN", || {
        let error = std::fs::read(world.host.at("files/1.0.0/tree/twin")).err()?;
        (error.raw_os_error() == closed).then_some(())
    });
    let ran = typed(of_all, 0);
    assert!(ran.stdout.contains("WRONG    mount ") && ran.stdout.contains(" mounted at "), "{ran}");
    std::fs::read(world.host.at("files/1.0.0/tree/twin")).unwrap();
    world.host.mcpfs(["unmount"]).ok();
    wait_for("the daemon's end", || (!mcpfs_tests::mount::is_mounted(&world.host.mcp())).then_some(()));
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mcpfs_") || word.starts_with("process_")).map(str::to_owned).collect()
}

fn dashboard_and_rules_use_what_is_there() {
    let monitoring = scratch::repository().join("monitoring");
    let manual = std::fs::read_to_string(scratch::repository().join("docs/operating.md")).unwrap();
    let listed = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next());
    let documented: BTreeSet<String> = listed.map(str::to_owned).collect();
    let text = std::fs::read_to_string(monitoring.join("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 8, "{}", panels.len());
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()) && panel["title"].is_string(), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(!names(target["expr"].as_str().unwrap()).is_empty(), "{target}");
        }
    }
    let rules = monitoring.join("alerts.yaml");
    let written = std::fs::read_to_string(&rules).unwrap();
    let parse = "import sys, yaml, json; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let parsed: Value = Run::new("/usr/bin/python3").args(["-c", parse]).stdin(written.clone()).ok().json();
    let alerts = parsed["groups"][0]["rules"].as_array().unwrap();
    assert!(alerts.len() >= 5);
    let mut used = BTreeSet::new();
    for alert in alerts {
        used.extend(names(alert["expr"].as_str().unwrap()));
        for part in ["summary", "description"] {
            assert!(alert["annotations"][part].is_string(), "{alert}");
        }
        assert!(alert["alert"].as_str().unwrap().starts_with("Mcpfs") && alert["labels"]["severity"].is_string());
    }
    used.extend(
        panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap())
            .flat_map(|target| names(target["expr"].as_str().unwrap())),
    );
    let unknown: Vec<_> = used.difference(&documented).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    // Prometheus' own word on the rules, and on what the panels ask, which is a rule as good as any.
    let asked = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let asked: Vec<Value> = asked
        .enumerate()
        .map(|(at, target)| serde_json::json!({"record": format!("panel:{at}"), "expr": target["expr"]}))
        .collect();
    let dir = scratch::dir();
    let of_panels = dir.path().join("panels.yaml");
    let groups = serde_json::json!({"groups": [{"name": "panels", "rules": asked}]});
    std::fs::write(&of_panels, groups.to_string()).unwrap();
    let promtool = scratch::need("promtool", "prometheus");
    Run::new(promtool)
        .args(["check", "rules"])
        .arg(&rules)
        .arg(&of_panels)
        .ok()
        .says(&format!("{} rules found", asked.len()));
}
