//! The mount against the disk, and a cold launch against what one would write without it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mcpfs_tests::bench::{Figure, Pair, cpu_seconds, interleave, resident_mib};
use mcpfs_tests::command::Run;
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::link::Link;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::{RELEASE_KEY, Registry};
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;

const ROUNDS: usize = 9;
const MEGABITS: f64 = 100.0;
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// A registry with what is measured, and where it came from.
pub(super) struct Bench {
    registry: Registry,
    large: PathBuf,
    everything: PathBuf,
}

/// For what takes milliseconds.
const SHORT_ROUNDS: usize = 41;
const LARGE_MIB: usize = 192;
const MANY: usize = 50_000;

impl Bench {
    pub(super) fn new() -> Self {
        let registry = Registry::new();
        let large = registry.artefacts().join("large");
        std::fs::create_dir_all(&large).expect("own directory");
        std::fs::write(large.join("data"), fixture::bytes(1, LARGE_MIB << 20)).expect("own directory");
        registry.release(&Recipe::new("large", "1.0.0", &fixture::tar(&large)));
        let everything = servers::everything();
        let recipe = servers::everything_recipe(&registry);
        registry.release(&recipe);
        let idle = Recipe::new("idle", "1.0.0", &fixture::tar(&fixture::hello_tree(&registry.artefacts(), "1.0.0")));
        registry.release(&idle.with("launch:\n  command: idle\n"));
        Self { registry, large: large.join("data"), everything }
    }

    fn host(&self, url: &str) -> Host {
        self.host_reading(url, Reads::Passthrough)
    }

    pub(super) fn host_reading(&self, url: &str, reads: Reads) -> Host {
        Host::new(&self.registry.trust(), url, reads)
    }

    pub(super) fn site(&self) -> PathBuf {
        self.registry.site()
    }
}

/// Warm reads of a large file against a copy of it on the disk.
pub(super) fn read(bench: &Bench) -> Vec<Figure> {
    let site = Site::serve(&bench.registry.site());
    let host = bench.host(&site.url());
    let mount = Mount::start(&host);
    let mounted = host.at("large/1.0.0/tree/data");
    let sequential = |path: &Path| {
        let mut file = File::open(path).expect("readable");
        let mut buffer = vec![0; 1 << 20];
        let started = Instant::now();
        while file.read(&mut buffer).expect("readable") > 0 {}
        started.elapsed()
    };
    // Python's find runs in C over the mapping; the byte is not in the file, so all is touched.
    let mapped = |path: &Path| {
        let code = "import mmap,sys,time\nf=open(sys.argv[1],'rb')\nt=time.perf_counter()\n\
                    m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nassert m.find(b'\\xff')<0\nprint(time.perf_counter()-t)";
        let ran = Run::new("python3").arg("-c").arg(code).arg(path).ok();
        Duration::from_secs_f64(ran.stdout.trim().parse().expect("seconds"))
    };
    sequential(&mounted);
    // Who wrote a file decides how large the kernel's pieces of it in memory are, and that is no
    // cost of the mount: both are read anew from the disk, as after a start of the host.
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "1").expect("root");
    sequential(&mounted);
    sequential(&bench.large);
    let seq = interleave(SHORT_ROUNDS, || sequential(&mounted), || sequential(&bench.large));
    let map = interleave(SHORT_ROUNDS, || mapped(&mounted), || mapped(&bench.large));
    mount.stop();
    let rate = |time: Duration| format!("{:.0} MB/s", (LARGE_MIB << 20) as f64 / 1e6 / time.as_secs_f64());
    vec![
        seq.figure(&format!("read {LARGE_MIB} MiB, 1 MiB each, warm"), "ext4", rate, "<= 1.15"),
        map.figure(&format!("mmap {LARGE_MIB} MiB, warm"), "ext4", rate, "<= 1.15"),
    ]
}

fn initialize(program: &Path) -> Duration {
    answered(McpClient::start(program))
}

fn answered(mut client: McpClient) -> Duration {
    client.initialize();
    let took = client.since_start();
    client.end();
    took
}

/// Starting a real server from the mount against starting it from the disk.
pub(super) fn warm(bench: &Bench) -> Vec<Figure> {
    let site = Site::serve(&bench.registry.site());
    let host = bench.host(&site.url());
    let mount = Mount::start(&host);
    let run = host.at("everything/run");
    let native = || answered(McpClient::start_with(servers::native(&bench.everything)));
    initialize(&run);
    native();
    let pair = interleave(ROUNDS, || initialize(&run), native);
    let counts = requests(&site);
    let files = host.cached_files().len();
    mount.stop();
    vec![
        pair.figure("server-everything, start to initialize, warm", "from ext4", millis, "<= 1.15"),
        Figure::plain(
            "requests for objects, all these launches",
            format!("{} for {} objects, {files} files cached", counts.0, counts.1),
            "one each",
        ),
    ]
}

/// Requests for objects, and how many objects they were for.
fn requests(site: &Site) -> (usize, usize) {
    let paths = site.requests().into_iter().map(|one| one.path).filter(|path| path.starts_with("/objects/"));
    let mut paths: Vec<String> = paths.collect();
    let all = paths.len();
    paths.sort();
    paths.dedup();
    (all, paths.len())
}

/// What a launch from the mount costs beside the server's own start, and its parts.
pub(super) fn launch(bench: &Bench) -> Vec<Figure> {
    let site = Site::serve(&bench.registry.site());
    let host = bench.host(&site.url());
    host.drop_in("idle", "[runtimes]\nidle = \"/bin/true\"\n");
    let mount = Mount::start(&host);
    let run = host.at("idle/run");
    let ended = |program: &Path, args: &[&str]| {
        let started = Instant::now();
        let status = Command::new(program).args(args).stdout(Stdio::null()).status().expect("it starts");
        let took = started.elapsed();
        assert!(status.success());
        took
    };
    ended(&run, &[]);
    let whole = interleave(SHORT_ROUNDS, || ended(&run, &[]), || ended(Path::new("/bin/true"), &[]));
    let program = mcpfs_tests::binaries::bin("mcpfs");
    let start = interleave(SHORT_ROUNDS, || ended(&program, &["--version"]), || ended(Path::new("/bin/true"), &[]));
    let ask = || {
        let started = Instant::now();
        let mut socket = UnixStream::connect(host.rundir().join("control.sock")).expect("it listens");
        socket.write_all(b"{\"v\":1,\"op\":\"status\"}\n").expect("it reads");
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).expect("it answers");
        let took = started.elapsed();
        assert!(answer.contains("\"ok\""), "{answer}");
        took
    };
    let mut log = File::create(host.path("state/page")).expect("own directory");
    let mut sync = || {
        let started = Instant::now();
        log.write_all(&[1; 4096]).expect("own file");
        log.sync_data().expect("own file");
        started.elapsed()
    };
    let parts = interleave(SHORT_ROUNDS, ask, &mut sync);
    mount.stop();
    vec![
        whole.figure("launch of a program that ends at once", "the program alone", fine_millis, "-"),
        start.figure("of it: start of the mcpfs program (--version)", "/bin/true", fine_millis, "-"),
        parts.figure("of it: one question to the socket (status)", "write and fdatasync of 4 KiB", fine_millis, "-"),
    ]
}

/// The first launch on a host that has nothing, over a shaped line, against the verifying wrapper.
pub(super) fn cold(bench: &Bench) -> Vec<Figure> {
    let site = Site::serve(&bench.registry.site());
    let port = site.url().trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let wrapper = servers::Wrapper::new(&bench.registry, RELEASE_KEY, &bench.everything);
    let wrapped = Site::serve(wrapper.root());
    let wrapped_port =
        wrapped.url().trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut carried = (0, 0);
    let (mut load, mut asked) = ((0.0, 0.0), (0, 0, 0));
    let mut with_mount = Vec::new();
    // Removed at the end: ext4 passes over inodes deleted in the last minutes one by one, so the
    // thousands of a removed cache would make each new file of the next round cost ten times as much.
    let mut hosts = Vec::new();
    let mut ours = || {
        let link = Link::to(port, MEGABITS, ROUND_TRIP);
        let host = bench.host(&link.url());
        let from_nothing = Instant::now();
        let mount = Mount::start(&host);
        let run = host.at("everything/run");
        // The daemon knows its entries before anybody launches; that is measured apart.
        let ready = from_nothing.elapsed();
        let (cpu, before) = (cpu_seconds(mount.server()), Instant::now());
        let log = site.requests().len();
        let took = initialize(&run);
        with_mount.push(ready + took);
        // What nobody waits for any more arrives, and its files are stored.
        std::thread::sleep(Duration::from_millis(500));
        let mut objects: Vec<String> = site.requests().into_iter().skip(log).map(|one| one.path).collect();
        let all = objects.len();
        objects.sort();
        objects.dedup();
        asked = (all, objects.len(), host.cached_files().len());
        load = (cpu_seconds(mount.server()) - cpu, before.elapsed().as_secs_f64());
        carried.0 = link.carried();
        mount.stop();
        hosts.push(host);
        took
    };
    let mut theirs = || {
        let link = Link::to(wrapped_port, MEGABITS, ROUND_TRIP);
        let took = wrapper.launch(&link.url());
        carried.1 = link.carried();
        took
    };
    let pair: Pair = interleave(ROUNDS, &mut ours, &mut theirs);
    with_mount.sort();
    vec![
        pair.figure("server-everything, cold, 100 Mbit/s and 20 ms", "verify-and-launch wrapper", millis, "< 1.00"),
        Figure::plain("the same with the daemon's own start", millis(with_mount[with_mount.len() / 2]), "-"),
        Figure::plain(
            "bytes carried: mcpfs, wrapper",
            format!("{:.2} MB, {:.2} MB", carried.0 as f64 / 1e6, carried.1 as f64 / 1e6),
            "-",
        ),
        Figure::plain(
            "requests in that launch",
            format!("{} for {} objects, {} files cached", asked.0, asked.1, asked.2),
            "one each",
        ),
        Figure::plain("daemon's CPU seconds in that launch", format!("{:.2} of {:.2} s", load.0, load.1), "-"),
        transfer_load(bench, port),
    ]
}

/// The daemon's share of one core while it fetches a large release at line rate.
fn transfer_load(bench: &Bench, port: u16) -> Figure {
    let link = Link::to(port, MEGABITS, ROUND_TRIP);
    let host = bench.host(&link.url());
    let mount = Mount::start(&host);
    let (cpu, started) = (cpu_seconds(mount.server()), Instant::now());
    drop(File::open(host.at("large/1.0.0/tree/data")).expect("readable"));
    let (spent, wall) = (cpu_seconds(mount.server()) - cpu, started.elapsed().as_secs_f64());
    let rate = link.carried() as f64 / 1e6 / wall;
    mount.stop();
    Figure::plain(
        "fetch, verify and decompress a large file at line rate",
        format!("{:.1} % of a core at {rate:.1} MB/s stored", 100.0 * spent / wall),
        "< 10 %",
    )
}

/// Decoding a tree of 100,000 files.
pub(super) fn tree(_: &Bench) -> Vec<Figure> {
    use mcpfs_trust::digest::Digest;
    use mcpfs_trust::tree::{Tree, TreeBuilder};
    let mut builder = TreeBuilder::new();
    for at in 0..100_000_u64 {
        let path = format!("node_modules/package-{}/dist/lib/file-{at}.js", at / 100);
        builder.file(&path, false, at + 1, Digest::of(&at.to_le_bytes())).expect("a tree");
    }
    let bytes = builder.build().expect("a tree").encode();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            Tree::parse(&bytes).expect("just encoded");
            started.elapsed()
        })
        .collect();
    times.sort();
    let took = millis(times[ROUNDS / 2]);
    vec![Figure::plain(
        "decode a tree of 100,000 files",
        format!("{took}, {:.1} MB encoded", bytes.len() as f64 / 1e6),
        "< 100 ms",
    )]
}

/// The daemon's memory with many files visible, all of them looked up.
pub(super) fn memory(bench: &Bench) -> Vec<Figure> {
    let many = bench.registry.artefacts().join("many");
    for at in 0..MANY {
        let dir = many.join(format!("d{}", at / 250));
        if at % 250 == 0 {
            std::fs::create_dir_all(&dir).expect("own directory");
        }
        std::fs::write(dir.join(format!("file-{at}.txt")), format!("file {at}\n")).expect("own directory");
    }
    bench.registry.release(&Recipe::new("many", "1.0.0", &fixture::tar(&many)));
    let site = Site::serve(&bench.registry.site());
    let host = bench.host(&site.url());
    let mount = Mount::start(&host);
    let walk = |path: &Path| {
        let started = Instant::now();
        let found = Run::new("find").arg(path).args(["-type", "f"]).ok().stdout.lines().count();
        assert_eq!(found, MANY);
        started.elapsed()
    };
    let tree = host.at("many/1.0.0/tree");
    let first = walk(&tree);
    let read = Run::new("sh").arg("-c").arg(format!("cat {}/d1/* > /dev/null", tree.display()));
    read.ok();
    let pair = interleave(ROUNDS, || walk(&tree), || walk(&many));
    let resident = resident_mib(mount.server());
    mount.stop();
    vec![
        Figure::plain("resident memory, 50,000 files visible", format!("{resident:.1} MiB"), "< 64 MiB"),
        Figure::plain("find -type f over them, first time", millis(first), "-"),
        pair.figure("find -type f over them, warm", "ext4", millis, "-"),
    ]
}

fn fine_millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}
