//! Nothing is visible before it is whole, asserted from the order of system calls.
//!
//! A power cut keeps some prefix of what the daemon told the kernel, in the kernel's order or
//! not; what it never told cannot be there. So a name may appear only after the last byte was
//! written, the only writer was closed and all was read back; and what a cut then tears on
//! the disk is hashed again before its first use, because the list of verified files is of one boot.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use mcpfs_tests::audit;
use mcpfs_tests::command::exit_within;
use mcpfs_tests::host::Reads;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::scratch::{PATIENCE, dir_for, is_root, need, wait_for};
use mcpfs_tests::suite::Suite;

use crate::world::World;

pub(crate) fn register(suite: &mut Suite) {
    if is_root() {
        // Another user's process is traced.
        suite.plain("whole::a_name_comes_after_the_last_byte", a_name_comes_after_the_last_byte);
    }
    suite.mounted("whole::what_a_power_cut_tore_is_hashed_again", what_a_power_cut_tore_is_hashed_again);
}

/// One finished call.
#[derive(Debug)]
struct Call {
    thread: String,
    began: f64,
    ended: f64,
    text: String,
}

fn a_name_comes_after_the_last_byte() {
    let world = World::new(Reads::Cached);
    let mount = Mount::start(&world.host);
    world.host.refresh();
    let traces = dir_for("strace");
    let calls =
        "trace=open,openat,write,pwrite64,pread64,read,close,link,linkat,rename,renameat,renameat2,ftruncate,creat";
    let mut tracer = Command::new(need("strace", "strace"))
        .args(["-ff", "-ttt", "-T", "-y", "-s", "8", "-e", calls, "-o"])
        .arg(traces.path().join("trace"))
        .args(["-p", &mount.server().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("strace to attach", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.server())).ok()?;
        let traced = |task: std::path::PathBuf| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        tasks.flatten().all(|task| traced(task.path())).then_some(())
    });
    let tree = world.host.at("files/1.0.0/tree");
    for file in ["large", "size-4096", "many/000.txt", "size-131073"] {
        std::fs::read(tree.join(file)).unwrap();
    }
    // The rest of the release comes by itself.
    wait_for("what is fetched ahead", || (world.host.cached_files().len() > 120).then_some(()));
    let pid = rustix::process::Pid::from_child(&tracer);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    exit_within(&mut tracer, PATIENCE).expect("strace ends");
    let calls = calls_in(traces.path());
    mount.stop();
    let named = names_that_appeared(&calls, &world.host.path("cache").display().to_string());
    assert!(named > 100, "only {named} of {} calls gave a file its name", calls.len());
}

fn calls_in(dir: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let thread = entry.file_name().to_string_lossy().into_owned();
        for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
            // 1700000000.123456 openat(…) = 3 <0.000012>
            let parsed = line.split_once(' ').and_then(|(at, text)| {
                let (text, took) = text.rsplit_once(" <")?;
                let (began, took): (f64, f64) = (at.parse().ok()?, took.trim_end_matches('>').parse().ok()?);
                Some(Call { thread: thread.clone(), began, ended: began + took, text: text.to_owned() })
            });
            calls.extend(parsed);
        }
    }
    calls.sort_by(|a, b| a.began.total_cmp(&b.began));
    calls
}

/// The file without a name that a call's text is about: `…/tmp/#123`.
fn draft(text: &str) -> Option<u64> {
    let at = text.find("/tmp/#")? + "/tmp/#".len();
    let digits = text[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - at);
    text[at..at + digits].parse().ok()
}

fn returned(text: &str) -> Option<i64> {
    let result = text.rsplit_once(" = ")?.1;
    let end = result.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(result.len());
    result[..end].parse().ok()
}

/// Checks the story of every file that got its name; how many there were.
fn names_that_appeared(calls: &[Call], cache: &str) -> usize {
    let mut named = 0;
    // The last description that each thread opened of a draft, for reading.
    let mut reopened: HashMap<&str, (u64, usize)> = HashMap::new();
    for (index, call) in calls.iter().enumerate() {
        let (name, done) = (call.text.split('(').next().unwrap_or_default(), returned(&call.text));
        let is_name = call.text.contains("\"files/") || call.text.contains("\"metadata/");
        match name {
            "open" | "openat" if call.text.contains("/proc/self/fd/") && done.is_some_and(|fd| fd >= 0) => {
                if let Some(draft) = draft(&call.text) {
                    assert!(call.text.contains("O_RDONLY"), "{call:?}");
                    reopened.insert(&call.thread, (draft, index));
                }
            }
            "openat" if call.text.contains(cache) && is_name => {
                assert!(!call.text.contains("O_CREAT") && !call.text.contains("O_TRUNC"), "made by its name: {call:?}");
                assert!(call.text.contains("O_RDONLY"), "{call:?}");
            }
            "linkat" | "renameat" | "renameat2" if is_name && done == Some(0) => {
                assert_eq!(name, "linkat", "{call:?}");
                let Some((draft, opened)) = reopened.remove(&*call.thread) else {
                    let before: Vec<_> = calls[..index].iter().filter(|other| other.thread == call.thread).collect();
                    panic!("not opened for reading by the same thread: {call:?} {before:#?}");
                };
                told(calls, draft, opened, index);
                named += 1;
            }
            _ => {}
        }
    }
    named
}

/// The story of one draft: written, opened for reading, its writer closed, all of it read, named, never written again.
fn told(calls: &[Call], draft: u64, opened: usize, linked: usize) {
    let link = &calls[linked];
    // The number is used again once a draft is gone: this one begins with the last `O_TMPFILE` before.
    let made = calls[..opened]
        .iter()
        .rposition(|call| call.text.contains("O_TMPFILE") && self::draft(&call.text) == Some(draft));
    let made = made.unwrap_or_else(|| panic!("nobody made {draft}: {link:?}"));
    let again = calls[linked..]
        .iter()
        .position(|call| call.text.contains("O_TMPFILE") && self::draft(&call.text) == Some(draft));
    let end = again.map_or(calls.len(), |more| linked + more);
    let about = || calls[made..end].iter().filter(|call| self::draft(&call.text) == Some(draft));
    let written: Vec<_> =
        about().filter(|call| call.text.starts_with("pwrite64(") || call.text.starts_with("write(")).collect();
    let size: i64 = written.iter().filter_map(|call| returned(&call.text)).sum();
    for call in &written {
        assert!(call.ended <= calls[opened].began, "written after it was opened for reading: {call:?} {link:?}");
    }
    let mut read = 0;
    for call in about().filter(|call| call.text.starts_with("pread64(") && call.thread == link.thread) {
        if call.ended <= link.began {
            read += returned(&call.text).unwrap_or(0);
        }
    }
    assert!(read >= size, "{read} of {size} bytes were read back before {link:?}");
    let closed = about().find(|call| call.text.starts_with("close(") && call.began >= calls[opened].began);
    let closed = closed.unwrap_or_else(|| panic!("its writer stays open: {link:?}"));
    assert!(closed.ended <= link.began, "named while its writer was open: {link:?}");
}

/// What a disk may hold after a cut: names without their bytes. A boot empties the run directory.
fn what_a_power_cut_tore_is_hashed_again(reads: Reads) {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(reads);
    let files = ["size-65536", "size-131073", "size-4096"];
    let mount = Mount::start(&world.host);
    let source = |file: &str| std::fs::read(world.source("files").join(file)).unwrap();
    let tree = world.host.at("files/1.0.0/tree");
    for file in files {
        assert!(std::fs::read(tree.join(file)).unwrap() == source(file));
    }
    mount.stop();
    let cached = world.host.cached_files();
    for (index, file) in files.into_iter().enumerate() {
        let content = source(file);
        let path = cached.iter().find(|path| std::fs::read(path).unwrap() == content).expect("in the cache");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        let torn = match index {
            0 => Vec::new(),
            1 => content[..content.len() / 2].to_vec(),
            _ => vec![0; content.len()],
        };
        std::fs::write(path, torn).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
    }
    std::fs::remove_dir_all(world.host.rundir().join("content")).unwrap();
    let _mount = Mount::start(&world.host);
    for file in files {
        assert!(std::fs::read(tree.join(file)).unwrap() == source(file), "{file} was torn");
    }
    audit::wait(&world.host, "DigestMismatch", None);
}
