//! Starting and stopping one nginx.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::command::exit_within;
use crate::scratch::{PATIENCE, need, wait_for};

/// Starts one in `dir` with this configuration, and waits until it listens on `port`.
///
/// # Panics
/// If it is missing, or ends instead.
pub(crate) fn start(dir: &Path, configuration: &str, port: u16) -> Child {
    let conf = dir.join("nginx.conf");
    std::fs::write(&conf, configuration).expect("own directory");
    let mut child = Command::new(need("nginx", "nginx-light"))
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&conf)
        .arg("-e")
        .arg(dir.join("error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cannot start nginx");
    wait_for("nginx to listen", || {
        let ended = child.try_wait().expect("own child");
        let log = || std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
        assert!(ended.is_none(), "nginx ended: {}", log());
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    child
}

/// Stops it. QUIT would wait for slow clients, and these are often the ones under test.
pub(crate) fn stop(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    if exit_within(child, PATIENCE).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}
