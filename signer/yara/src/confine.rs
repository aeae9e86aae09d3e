//! Giving up all rights that looking at bytes does not need.
//!
//! After [`confine`] the process can read and write what is open, and manage its own memory and
//! threads. It cannot open a file, reach a network, start a program or signal another process,
//! and it has bounds of memory and time. The list says what is allowed: whatever a kernel learns
//! later is denied. A denied call fails with ENOSYS, so that the C library takes its older way
//! (`clone` for `clone3`) where there is one.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Memory that is written to, bytes. The engine also reserves address space that it never touches.
const DATA_BYTES: u64 = 2 << 30;
/// Time of the processor, seconds. The signer has its own clock; this is for when it is gone.
const CPU_SECONDS: u64 = 1200;

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    /// A bound cannot be set.
    #[error("cannot bound its resources: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// The filter of system calls cannot be made.
    #[error("cannot make its filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter of system calls cannot be set.
    #[error("cannot set its filter of system calls (a kernel with seccomp is needed): {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Gives up all rights, for good.
pub(crate) fn confine() -> Result<(), ConfineError> {
    for (resource, bound) in
        [(Resource::Core, 0), (Resource::Fsize, 0), (Resource::Data, DATA_BYTES), (Resource::Cpu, CPU_SECONDS)]
    {
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let new_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![new_thread])?]);
    let denied = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter_all_threads(&program)?;
    Ok(())
}

/// Memory, threads, time, signals of its own, and the descriptors that are open.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
];

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::Command;

    use super::*;

    const CHILD: &str = "MCPFS_YARA_TEST_CONFINED";

    /// The body of the process that the test below starts: what works, and what does not.
    #[test]
    fn confined_child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        confine().expect("confined");
        assert!(std::thread::spawn(|| vec![1_u8; 1 << 20].len()).join().is_ok_and(|length| length == 1 << 20));
        let refused = [
            std::fs::read("/etc/hostname").map(drop),
            std::fs::write("/tmp/mcpfs-yara-was-here", "x"),
            std::net::TcpStream::connect("127.0.0.1:1").map(drop),
            std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
            Command::new("/bin/true").status().map(drop),
            std::os::unix::net::UnixStream::connect("/run/x").map(drop),
        ];
        for result in refused {
            assert_eq!(result.expect_err("refused").raw_os_error(), Some(libc::ENOSYS));
        }
        // Not through the harness: it wants more than a confined process may.
        println!("confined as it should be");
        std::process::exit(0);
    }

    #[test]
    fn a_confined_process_can_only_compute() {
        let own = std::env::current_exe().expect("this test");
        let ran = Command::new(own)
            .args(["--exact", "--nocapture", "confine::tests::confined_child"])
            .env(CHILD, "1")
            .output()
            .expect("this test starts");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains("confined as it should be"),
            "{said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}
