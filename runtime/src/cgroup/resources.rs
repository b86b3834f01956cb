//! What a container may use, as plain data.
//!
//! Owns the types that the rest of the runtime fills from the specification's `linux.resources` (runtime-spec
//! config-linux.md, "Control groups") or from the arguments of `update`. A field that is `None` or empty was not asked
//! for and is left as the kernel has it. Nothing here does I/O; the translation into files is in `v1` and `v2`.

/// Limits and rules of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor time and placement.
    pub cpu: Cpu,
    /// Memory and swap.
    pub memory: Memory,
    /// Most processes and threads together; negative is unlimited, 0 is "not asked for" as in runc.
    pub pids: Option<i64>,
    /// Device access, in order: a later rule overrides an earlier one. Empty leaves device access alone.
    pub devices: Vec<DeviceRule>,
    /// Block I/O weights and rates.
    pub block_io: BlockIo,
    /// Huge page limits, one per page size.
    pub hugepages: Vec<HugepageLimit>,
    /// Traffic class and priorities; cgroup v1 only.
    pub network: Network,
    /// RDMA limits, one per device.
    pub rdma: Vec<RdmaLimit>,
    /// cgroup v2 files and their contents (`linux.resources.unified`), written last.
    pub unified: Vec<(String, String)>,
}

/// Processor time and placement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Relative weight on the scale of cgroup v1, 2 to 262144.
    pub shares: Option<u64>,
    /// Microseconds of processor time per period; zero or negative is unlimited.
    pub quota: Option<i64>,
    /// Length of the quota's period in microseconds.
    pub period: Option<u64>,
    /// Microseconds that may be saved up for later periods.
    pub burst: Option<u64>,
    /// 1 runs the group only when nothing else wants the processor.
    pub idle: Option<i64>,
    /// Real-time microseconds per real-time period; cgroup v1 only.
    pub realtime_runtime: Option<i64>,
    /// Real-time period in microseconds; cgroup v1 only.
    pub realtime_period: Option<u64>,
    /// Processors in the kernel's list format (`0-3,7`).
    pub cpus: Option<String>,
    /// Memory nodes in the kernel's list format.
    pub mems: Option<String>,
}

/// Memory and swap, in bytes; -1 is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Hard limit.
    pub limit: Option<i64>,
    /// Soft limit: protected from reclaim as far as possible.
    pub reservation: Option<i64>,
    /// Memory plus swap, as in cgroup v1 and in the specification.
    pub swap: Option<i64>,
    /// Kernel memory: no current kernel limits it by itself, so a limit is refused.
    pub kernel: Option<i64>,
    /// TCP buffer memory; cgroup v1 only.
    pub kernel_tcp: Option<i64>,
    /// 0 to 100; cgroup v1 only.
    pub swappiness: Option<u64>,
    /// Makes processes wait instead of being killed; cgroup v1 only.
    pub disable_oom_killer: Option<bool>,
    /// Counts what the groups below use; always so on cgroup v2 and on v1 from Linux 5.11 on.
    pub use_hierarchy: Option<bool>,
    /// Refuses an update to a limit below what is used now.
    pub check_before_update: bool,
}

/// One device rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allows, or else denies.
    pub allow: bool,
    /// Which kind of device.
    pub kind: DeviceKind,
    /// Major number; `None` is every one.
    pub major: Option<u32>,
    /// Minor number; `None` is every one.
    pub minor: Option<u32>,
    /// What is allowed or denied.
    pub access: DeviceAccess,
}

/// Kind of device a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Every device: the rule replaces all earlier rules, whatever its numbers and access say.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// Set of accesses to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceAccess(u8);

impl DeviceAccess {
    /// Create the node.
    pub const MKNOD: Self = Self(1);
    /// Read.
    pub const READ: Self = Self(2);
    /// Write.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Reads the specification's form, any mixture of `r`, `w` and `m`; `None` on another letter.
    pub fn parse(text: &str) -> Option<Self> {
        text.bytes().try_fold(Self(0), |set, letter| {
            Some(Self(
                set.0
                    | match letter {
                        b'r' => Self::READ.0,
                        b'w' => Self::WRITE.0,
                        b'm' => Self::MKNOD.0,
                        _ => return None,
                    },
            ))
        })
    }

    /// The bits as `BPF_DEVCG_ACC_*` has them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set without another's members.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both sets' members.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have a member in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, letter) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')] {
            if self.overlaps(bit) {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Block I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Weight against child groups, 10 to 1000; cgroup v1 only.
    pub leaf_weight: Option<u16>,
    /// Weights per device.
    pub weight_devices: Vec<WeightDevice>,
    /// Bytes per second read.
    pub read_bps: Vec<Throttle>,
    /// Bytes per second written.
    pub write_bps: Vec<Throttle>,
    /// Reads per second.
    pub read_iops: Vec<Throttle>,
    /// Writes per second.
    pub write_iops: Vec<Throttle>,
}

/// Weight of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightDevice {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Weight against child groups; cgroup v1 only.
    pub leaf_weight: Option<u16>,
}

/// Rate of one block device; 0 takes the limit away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// Limit for one huge page size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// As the kernel writes it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// Network class and priorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Class of the packets (`net_cls.classid`).
    pub class_id: Option<u32>,
    /// Priority per interface (`net_prio.ifpriomap`).
    pub priorities: Vec<(String, u32)>,
}

/// RDMA limit of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdmaLimit {
    /// Device name.
    pub device: String,
    /// Most handles.
    pub hca_handles: Option<u32>,
    /// Most objects.
    pub hca_objects: Option<u32>,
}

/// The rules every container starts with: nothing but making nodes and the devices that the specification promises
/// (config-linux.md, "Default Devices"), with pseudo terminals; no `/dev/net/tun`.
///
/// The specification's own rules go after these.
pub fn default_device_rules() -> Vec<DeviceRule> {
    let rule = |kind, major, minor, access| DeviceRule { allow: true, kind, major, minor, access };
    let open = |major, minor| rule(DeviceKind::Char, Some(major), minor, DeviceAccess::ALL);
    vec![
        DeviceRule {
            allow: false,
            kind: DeviceKind::All,
            major: None,
            minor: None,
            access: DeviceAccess::ALL,
        },
        rule(DeviceKind::Char, None, None, DeviceAccess::MKNOD),
        rule(DeviceKind::Block, None, None, DeviceAccess::MKNOD),
        open(1, Some(3)), // null
        open(1, Some(5)), // zero
        open(1, Some(7)), // full
        open(1, Some(8)), // random
        open(1, Some(9)), // urandom
        open(5, Some(0)), // tty
        open(5, Some(2)), // ptmx
        open(136, None),  // pts
    ]
}
