//! Names and numbers of system calls, and the architectures that we know them for.
//!
//! `syscalls` is generated (see `generate.py` beside it for how and from what) and committed. A call
//! that is newer than the table is unknown by name, which for a profile means that it gets `ENOSYS`
//! like everything newer than what the profile names.

mod syscalls;

use self::syscalls::{NONE, SYSCALLS};

/// Set in the number of every call made through the x32 ABI.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// An ABI through which a process can call the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 32-bit pointers on 64-bit x86.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
}

/// All of them, in the order of the table's columns.
pub(crate) const ARCHES: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];

impl Arch {
    /// What this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Self = Self::X86_64;
    /// What this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Self = Self::Aarch64;

    /// The specification's name; `None` for an architecture that no process on a host of ours can use.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_ARM" => Self::Arm,
            _ => return None,
        })
    }

    /// `AUDIT_ARCH_*`, as `seccomp_data.arch` has it.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xC000_003E,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments have 32 bits; the kernel hands over zeros above.
    pub(crate) const fn narrow(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }
}

/// What stands behind `SCMP_ARCH_` in the names of architectures that no process on a host of ours can use.
const FOREIGN: [&str; 18] = [
    "LOONGARCH64",
    "M68K",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PARISC",
    "PARISC64",
    "PPC",
    "PPC64",
    "PPC64LE",
    "RISCV64",
    "S390",
    "S390X",
    "SH",
    "SHEB",
];

/// Whether a name is that of another machine's architecture.
pub(crate) fn is_foreign(name: &str) -> bool {
    name.strip_prefix("SCMP_ARCH_").is_some_and(|name| FOREIGN.contains(&name))
}

/// Numbers of one call on every architecture.
pub(crate) struct Numbers(&'static [u32; 5]);

impl Numbers {
    /// The number as `seccomp_data.nr` has it.
    pub(crate) fn on(&self, arch: Arch) -> Option<u32> {
        let [x86_64, x86, x32, aarch64, arm] = *self.0;
        let number = match arch {
            Arch::X86_64 => x86_64,
            Arch::X86 => x86,
            Arch::X32 => x32,
            Arch::Aarch64 => aarch64,
            Arch::Arm => arm,
        };
        (number != NONE).then_some(if arch == Arch::X32 { number | X32_BIT } else { number })
    }
}

/// Looks a name up.
pub(crate) fn numbers(name: &str) -> Option<Numbers> {
    Lookup::default().numbers(name)
}

/// Looks names up one after the other, fastest if they come more or less in order, as profiles do.
#[derive(Default)]
pub(crate) struct Lookup {
    /// Row behind the last one found.
    next: usize,
}

impl Lookup {
    pub(crate) fn numbers(&mut self, name: &str) -> Option<Numbers> {
        const NEAR: usize = 4;
        let ahead = SYSCALLS.get(self.next..).unwrap_or_default();
        let row = match ahead.iter().take(NEAR).position(|(known, _)| *known == name) {
            Some(distance) => self.next + distance,
            None => SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?,
        };
        self.next = row + 1;
        SYSCALLS.get(row).map(|(_, numbers)| Numbers(numbers))
    }
}

/// Every name, for comparison with another table.
#[cfg(all(test, feature = "libseccomp-oracle"))]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SYSCALLS.iter().map(|(name, _)| *name)
}

/// Calls that i386 also reaches through a multiplexer: (name, multiplexer, its first argument).
// include/uapi/linux/net.h and ipc.h
const MULTIPLEXED: [(&str, &str, u64); 32] = [
    ("accept", "socketcall", 5),
    ("accept4", "socketcall", 18),
    ("bind", "socketcall", 2),
    ("connect", "socketcall", 3),
    ("getpeername", "socketcall", 7),
    ("getsockname", "socketcall", 6),
    ("getsockopt", "socketcall", 15),
    ("listen", "socketcall", 4),
    ("msgctl", "ipc", 14),
    ("msgget", "ipc", 13),
    ("msgrcv", "ipc", 12),
    ("msgsnd", "ipc", 11),
    ("recv", "socketcall", 10),
    ("recvfrom", "socketcall", 12),
    ("recvmmsg", "socketcall", 19),
    ("recvmsg", "socketcall", 17),
    ("semctl", "ipc", 3),
    ("semget", "ipc", 2),
    ("semop", "ipc", 1),
    ("semtimedop", "ipc", 4),
    ("send", "socketcall", 9),
    ("sendmmsg", "socketcall", 20),
    ("sendmsg", "socketcall", 16),
    ("sendto", "socketcall", 11),
    ("setsockopt", "socketcall", 14),
    ("shmat", "ipc", 21),
    ("shmctl", "ipc", 24),
    ("shmdt", "ipc", 22),
    ("shmget", "ipc", 23),
    ("shutdown", "socketcall", 13),
    ("socket", "socketcall", 1),
    ("socketpair", "socketcall", 8),
];

/// The multiplexer of a call on i386, and the first argument that selects the call.
pub(crate) fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    let row = MULTIPLEXED.binary_search_by(|(known, ..)| (*known).cmp(name)).ok()?;
    MULTIPLEXED.get(row).map(|&(_, multiplexer, value)| (multiplexer, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(SYSCALLS.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(MULTIPLEXED.is_sorted_by(|(a, ..), (b, ..)| a < b));
        assert!(SYSCALLS.len() > 470, "{}", SYSCALLS.len());
        for (name, numbers) in SYSCALLS {
            assert!(numbers.iter().any(|&number| number != NONE), "{name}");
        }
    }

    #[test]
    fn numbers_agree_with_this_platform_s_headers() {
        for (name, number) in [
            ("read", libc::SYS_read),
            ("execve", libc::SYS_execve),
            ("clone3", libc::SYS_clone3),
            ("seccomp", libc::SYS_seccomp),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("newfstatat", libc::SYS_newfstatat),
        ] {
            let found = numbers(name).unwrap().on(Arch::NATIVE).unwrap();
            assert_eq!(libc::c_long::from(found), number, "{name}");
        }
    }

    #[test]
    fn x32_has_its_bit_and_its_own_numbers() {
        let on = |name: &str| numbers(name).unwrap().on(Arch::X32);
        assert_eq!(on("read"), Some(X32_BIT));
        assert_eq!(on("execve"), Some(X32_BIT | 520));
        assert_eq!(on("uretprobe"), None);
        assert_eq!(on("mseal"), Some(X32_BIT | 462));
        assert!(numbers("no_such_call").is_none());
    }

    #[test]
    fn lookups_in_any_order_find_the_same() {
        let mut lookup = Lookup::default();
        let names = || SYSCALLS.iter().map(|(name, _)| *name);
        for name in names().chain(names().rev()).chain(["read", "read", "zzz", "accept"]) {
            let found = lookup.numbers(name).map(|numbers| numbers.0);
            let row = SYSCALLS.iter().find(|(known, _)| *known == name);
            assert_eq!(found, row.map(|(_, numbers)| numbers), "{name}");
        }
    }

    #[test]
    fn arm_has_its_private_calls() {
        assert_eq!(numbers("set_tls").unwrap().on(Arch::Arm), Some(0xf_0005));
    }
}
