//! What a worker that was taken over would try on the host.

use std::fs::File;
use std::io;

use mcpfs::config::Config;

/// The numbers that this process was started with.
pub(crate) fn descriptors() -> Vec<u32> {
    let listed = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut found: Vec<u32> =
        listed.filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok()).collect();
    // Of the listing itself.
    found.retain(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
    found.sort_unstable();
    found
}

fn call(number: libc::c_long, arguments: [u64; 6]) -> io::Result<()> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: none of these calls may come to pass; where one does, the test fails.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn call1(number: libc::c_long, first: u64) -> io::Result<()> {
    call(number, [first, 0, 0, 0, 0, 0])
}

fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    let number = |value: libc::c_int| u64::from(value.unsigned_abs());
    call(libc::SYS_socket, [number(family), number(kind), number(protocol), 0, 0, 0])
}

/// A clone that would start a process; one that came to be ends at once.
fn clone(flags: u64) -> io::Result<()> {
    let flags = flags | u64::from(libc::SIGCHLD.unsigned_abs());
    // SAFETY: without CLONE_VM the child has memory of its own, and leaves at once.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

pub(crate) fn refusals(config: &Config) -> Vec<(String, String)> {
    let supervisor = u64::from(std::os::unix::process::parent_id());
    let parent = std::os::unix::process::parent_id();
    let neighbour = std::fs::read_to_string(config.state.join("neighbour")).unwrap().trim().parse::<u64>().unwrap();
    let flags = |flag: libc::c_int| u64::from(flag.cast_unsigned());
    let outside = config.file.parent().and_then(|etc| etc.parent()).unwrap().to_owned();
    let tried: Vec<(&str, io::Result<()>)> = vec![
        ("open /etc/shadow", File::open("/etc/shadow").map(drop)),
        ("read a file of the world that is out of reach", File::open(outside.join("readable")).map(drop)),
        ("list a directory that is out of reach", std::fs::read_dir(&outside).map(drop)),
        ("list /root", std::fs::read_dir("/root").map(drop)),
        ("write to /tmp", std::fs::write("/tmp/hostile-worker", "x")),
        ("write beside the configuration", std::fs::write(config.file.with_file_name("x"), "x")),
        ("write into the run directory", std::fs::write(config.rundir.join("x"), "x")),
        ("replace the control socket", std::fs::remove_file(config.rundir.join("control.sock"))),
        ("open /dev/fuse", File::options().read(true).write(true).open("/dev/fuse").map(drop)),
        ("open /dev/tty", File::open("/dev/tty").map(drop)),
        ("write /proc/self/mem", File::options().write(true).open("/proc/self/mem").map(drop)),
        ("read the supervisor's memory", File::open(format!("/proc/{parent}/mem")).map(drop)),
        ("list the supervisor's descriptors", std::fs::read_dir(format!("/proc/{parent}/fd")).map(drop)),
        ("read the supervisor's environment", File::open(format!("/proc/{parent}/environ")).map(drop)),
        ("read a neighbour's memory", File::open(format!("/proc/{neighbour}/mem")).map(drop)),
        ("follow a neighbour's descriptor", std::fs::read_link(format!("/proc/{neighbour}/fd/0")).map(drop)),
        ("open a neighbour's descriptor", File::open(format!("/proc/{neighbour}/fd/0")).map(drop)),
        ("exec", std::process::Command::new("/bin/true").status().map(drop)),
        ("execve", call(libc::SYS_execve, [c"/bin/true".as_ptr() as u64, 0, 0, 0, 0, 0])),
        ("execveat", call(libc::SYS_execveat, [flags(libc::AT_FDCWD), c"/bin/true".as_ptr() as u64, 0, 0, 0, 0])),
        ("fork", clone(0)),
        ("clone into a user namespace", clone(flags(libc::CLONE_NEWUSER))),
        ("clone into a mount namespace", clone(flags(libc::CLONE_NEWNS))),
        ("clone3", call(libc::SYS_clone3, [0, 88, 0, 0, 0, 0])),
        ("unshare", call1(libc::SYS_unshare, flags(libc::CLONE_NEWUSER))),
        ("setns", call(libc::SYS_setns, [0, 0, 0, 0, 0, 0])),
        (
            "mount",
            call(libc::SYS_mount, [c"x".as_ptr() as u64, c"/mnt".as_ptr() as u64, c"tmpfs".as_ptr() as u64, 0, 0, 0]),
        ),
        ("umount", call1(libc::SYS_umount2, c"/proc".as_ptr() as u64)),
        ("fsopen", call1(libc::SYS_fsopen, c"tmpfs".as_ptr() as u64)),
        ("chroot", call1(libc::SYS_chroot, c"/".as_ptr() as u64)),
        ("setuid(0)", call1(libc::SYS_setuid, 0)),
        ("setresuid(0)", call1(libc::SYS_setresuid, 0)),
        ("setgid(0)", call1(libc::SYS_setgid, 0)),
        ("setgroups", call1(libc::SYS_setgroups, 0)),
        ("capset", call1(libc::SYS_capset, 0)),
        ("kill the supervisor", call(libc::SYS_kill, [supervisor, flags(libc::SIGKILL), 0, 0, 0, 0])),
        ("kill a neighbour", call(libc::SYS_kill, [neighbour, flags(libc::SIGKILL), 0, 0, 0, 0])),
        ("tgkill a neighbour", call(libc::SYS_tgkill, [neighbour, neighbour, flags(libc::SIGKILL), 0, 0, 0])),
        ("rt_sigqueueinfo", call(libc::SYS_rt_sigqueueinfo, [neighbour, flags(libc::SIGKILL), 0, 0, 0, 0])),
        ("pidfd_send_signal", call(libc::SYS_pidfd_send_signal, [0, flags(libc::SIGKILL), 0, 0, 0, 0])),
        ("pidfd_getfd", call(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0, 0])),
        ("limits of a neighbour", call(libc::SYS_prlimit64, [neighbour, 0, 0, 0, 0, 0])),
        ("priority of a neighbour", call(libc::SYS_setpriority, [0, neighbour, 19, 0, 0, 0])),
        ("processors of a neighbour", call(libc::SYS_sched_setaffinity, [neighbour, 0, 0, 0, 0, 0])),
        ("ptrace", call(libc::SYS_ptrace, [16, supervisor, 0, 0, 0, 0])),
        ("process_vm_readv", call1(libc::SYS_process_vm_readv, supervisor)),
        ("keyctl", call1(libc::SYS_keyctl, 0)),
        ("io_uring", call1(libc::SYS_io_uring_setup, 1)),
        ("bpf", call1(libc::SYS_bpf, 0)),
        ("perf_event_open", call1(libc::SYS_perf_event_open, 0)),
        ("userfaultfd", call1(libc::SYS_userfaultfd, 0)),
        ("init_module", call1(libc::SYS_init_module, 0)),
        ("reboot", call1(libc::SYS_reboot, 0)),
        ("personality", call1(libc::SYS_personality, 0)),
        ("mknod", call(libc::SYS_mknodat, [flags(libc::AT_FDCWD), c"x".as_ptr() as u64, 0o20_666, 0x0103, 0, 0])),
        ("outlive the supervisor", call(libc::SYS_prctl, [flags(libc::PR_SET_PDEATHSIG), 0, 0, 0, 0, 0])),
        ("become dumpable", call(libc::SYS_prctl, [flags(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0])),
        ("another seccomp filter", call(libc::SYS_seccomp, [1, 0, 0, 0, 0, 0])),
        ("type into root's terminal", call(libc::SYS_ioctl, [2, 0x5412, c"x".as_ptr() as u64, 0, 0, 0])),
        ("a packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
        ("a raw socket", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
        ("a netlink socket of the firewall", socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)),
        ("a socket of virtual machines", socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
        ("a socket of the kernel's ciphers", socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
        ("listen for TCP", std::net::TcpListener::bind("127.0.0.1:0").map(drop)),
    ];
    tried
        .into_iter()
        .map(|(name, outcome)| {
            (name.to_owned(), outcome.map_or_else(|error| error.to_string(), |()| "allowed".to_owned()))
        })
        .collect()
}
