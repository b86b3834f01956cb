//! The profile for containers that bring none: Docker's default, as moby has it in 2026.
//!
//! Everything is refused with `EPERM` but what is listed. Some calls depend on the container's
//! capabilities, because without the namespaces' and the kernel's own checks being at stake they
//! widen the attack surface for nothing. Data, and one function that puts it together.
//!
//! `socket` is allowed per address family. `AF_ALG` is not among them: the page cache bug
//! CVE-2026-31431 was reached through it. Nor is `AF_VSOCK`, which reaches other machines' hosts
//! past the network namespace. On i386 `socketcall` hides the family behind a pointer that no filter
//! can read; it stays allowed because 32-bit C libraries know no other way.

use std::borrow::Cow;

use super::profile::{Action, Argument, Operator, Profile, Rule};
use super::tables::Arch;

/// Allowed for every container; sorted.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk",
    "cachestat", "capget", "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime",
    "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range", "connect",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old",
    "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2",
    "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat",
    "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64",
    "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue",
    "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "get_robust_list",
    "get_thread_area", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "getegid32",
    "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer",
    "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom",
    "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr",
    "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    "io_setup", "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lchown32", "lgetxattr", "link", "linkat", "listen", "listmount", "listxattr", "listxattrat",
    "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise",
    "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mkdir",
    "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget",
    "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at",
    "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64",
    "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "pselect6_time64",
    "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat",
    "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages",
    "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "rmdir",
    "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg",
    "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32",
    "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer",
    "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid",
    "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall",
    "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill",
    "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate",
    "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime",
    "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid",
    "write", "writev",
];

/// Allowed beside a capability.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYSLOG", &["syslog"]),
    (SYS_ADMIN, &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
];

const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// Allowed on hosts of one processor family only.
const BY_ARCH: &[(Arch, &[&str])] = &[
    (Arch::X86_64, &["arch_prctl", "modify_ldt"]),
    (
        Arch::Aarch64,
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    ),
];

/// Address families from `AF_UNIX` up to, and without, this one are allowed (`AF_DECnet`).
const FIRST_FAMILY_GAP: u64 = 12;

/// Allowed families above the gap: those that the kernel still implements, without the two of the
/// module's introduction. 13 `NETBEUI` to 18 `ASH`, `RDS`, `SNA`, `PPPOX`, `LLC`, `IB`, `MPLS`, `CAN`,
/// `TIPC`, `BLUETOOTH`, `IUCV`, `RXRPC`, `PHONET`, `IEEE802154`, `NFC`, `KCM`, `QIPCRTR`, `SMC`, `XDP`,
/// `MCTP`.
const FAMILIES: [u64; 25] = [
    13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44,
    45,
];

/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the query.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Namespaces that `clone` may not make without `CAP_SYS_ADMIN`: all but the time namespace, whose
/// bit `clone` does not take.
const CLONE_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// Docker's default profile for a container with certain capabilities (`CAP_CHOWN`).
pub fn default_profile(has_capability: impl Fn(&str) -> bool) -> Profile {
    let allow = |names: &[&'static str], args: Vec<Argument>| Rule {
        names: names.iter().map(|name| Cow::Borrowed(*name)).collect(),
        action: Action::Allow,
        errno_ret: None,
        args,
    };
    let first = |op, value| vec![Argument { index: 0, value, value_two: 0, op }];
    let mut syscalls = Vec::with_capacity(64);
    syscalls.push(allow(ALWAYS, Vec::new()));
    for (arch, names) in BY_ARCH {
        if *arch == Arch::NATIVE {
            syscalls.push(allow(names, Vec::new()));
        }
    }
    for (capability, names) in BY_CAPABILITY {
        if has_capability(capability) {
            syscalls.push(allow(names, Vec::new()));
        }
    }
    syscalls.push(allow(&["socket"], first(Operator::Less, FIRST_FAMILY_GAP)));
    for family in FAMILIES {
        syscalls.push(allow(&["socket"], first(Operator::Equal, family)));
    }
    for personality in PERSONALITIES {
        syscalls.push(allow(&["personality"], first(Operator::Equal, personality)));
    }
    if !has_capability(SYS_ADMIN) {
        syscalls.push(allow(&["clone"], first(Operator::MaskedEqual, CLONE_NAMESPACES)));
        // Its flags lie behind a pointer; C libraries fall back to clone on this error alone.
        syscalls.push(Rule {
            names: vec![Cow::Borrowed("clone3")],
            action: Action::Errno,
            errno_ret: Some(libc::ENOSYS.unsigned_abs()),
            args: Vec::new(),
        });
    }
    let architectures: &[&str] = match Arch::NATIVE {
        Arch::Aarch64 | Arch::Arm => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        Arch::X86_64 | Arch::X86 | Arch::X32 => {
            &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
        }
    };
    Profile {
        default_action: Action::Errno,
        default_errno_ret: Some(libc::EPERM.unsigned_abs()),
        architectures: architectures.iter().map(|name| Cow::Borrowed(*name)).collect(),
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::numbers;
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_their_names_exist() {
        let lists = std::iter::once(ALWAYS)
            .chain(BY_CAPABILITY.iter().map(|(_, names)| *names))
            .chain(BY_ARCH.iter().map(|(_, names)| *names));
        for list in lists {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
            // "umount" is alpha's.
            for name in list.iter().filter(|name| **name != "umount") {
                assert!(numbers(name).is_some(), "{name}");
            }
        }
        assert!(BY_CAPABILITY.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(FAMILIES.is_sorted_by(|a, b| a < b));
    }
}
