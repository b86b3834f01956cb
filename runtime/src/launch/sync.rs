//! What parent and child say to each other while a process is set up: one seqpacket socket, one
//! fixed message per packet. A closed socket means that the other side is gone, and both then give up.
//!
//! ```text
//! child  → Pid(n)      only with an intermediate process, which says who its sibling is
//! parent → Go          id maps are written
//! child  → Hooks       only with hooks: mounts are done, the root has not changed
//! parent → Go
//! child  → Listener    the filter is in force; its listener comes beside it, and no answer is due
//! child  → Ready       only the program is missing; a terminal's master comes beside it
//! parent → Go          the state is on disk
//! child  → Failed      instead of any of these, and for `exec` after the last one
//! ```

/// Bytes of every message.
pub(super) const SIZE: usize = 12;

/// What the child was doing when it failed. The index says which of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Parent,
    Cgroup,
    Session,
    Join,
    TimeNamespace,
    Clone,
    RootId,
    CgroupNamespace,
    Loopback,
    Hostname,
    Domainname,
    Sysctl,
    Propagation,
    Root,
    Mount,
    Device,
    DeviceLink,
    WorkingDirectoryMake,
    Console,
    MaskedPath,
    ReadonlyPath,
    ReadonlyRoot,
    Pivot,
    RootPropagation,
    Keyring,
    Rlimit,
    IoPriority,
    Personality,
    MemoryPolicy,
    Label,
    Stdio,
    Seccomp,
    NoNewPrivileges,
    BoundingSet,
    Groups,
    User,
    Capabilities,
    WorkingDirectory,
    WorkingDirectoryOutside,
    Program,
    Descriptors,
    Signals,
    Start,
    Exec,
    ChangeRoot,
    OomScore,
}

/// Every stage, in the order of the numbers that travel.
const STAGES: [Stage; 46] = [
    Stage::Parent,
    Stage::Cgroup,
    Stage::Session,
    Stage::Join,
    Stage::TimeNamespace,
    Stage::Clone,
    Stage::RootId,
    Stage::CgroupNamespace,
    Stage::Loopback,
    Stage::Hostname,
    Stage::Domainname,
    Stage::Sysctl,
    Stage::Propagation,
    Stage::Root,
    Stage::Mount,
    Stage::Device,
    Stage::DeviceLink,
    Stage::WorkingDirectoryMake,
    Stage::Console,
    Stage::MaskedPath,
    Stage::ReadonlyPath,
    Stage::ReadonlyRoot,
    Stage::Pivot,
    Stage::RootPropagation,
    Stage::Keyring,
    Stage::Rlimit,
    Stage::IoPriority,
    Stage::Personality,
    Stage::MemoryPolicy,
    Stage::Label,
    Stage::Stdio,
    Stage::Seccomp,
    Stage::NoNewPrivileges,
    Stage::BoundingSet,
    Stage::Groups,
    Stage::User,
    Stage::Capabilities,
    Stage::WorkingDirectory,
    Stage::WorkingDirectoryOutside,
    Stage::Program,
    Stage::Descriptors,
    Stage::Signals,
    Stage::Start,
    Stage::Exec,
    Stage::ChangeRoot,
    Stage::OomScore,
];

/// A message of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Pid(i32),
    Hooks,
    Ready,
    Listener,
    Failed { stage: Stage, index: u32, errno: i32 },
}

impl Message {
    /// As bytes.
    pub(super) fn encode(self) -> [u8; SIZE] {
        let (kind, stage, index, errno) = match self {
            Self::Pid(pid) => (0, 0, 0, pid),
            Self::Hooks => (1, 0, 0, 0),
            Self::Ready => (2, 0, 0, 0),
            Self::Listener => (4, 0, 0, 0),
            Self::Failed { stage, index, errno } => (3, stage as u8, index, errno),
        };
        let mut bytes = [0; SIZE];
        bytes[0] = kind;
        bytes[1] = stage;
        bytes[4..8].copy_from_slice(&index.to_ne_bytes());
        bytes[8..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    /// From bytes; `None` if they are no message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
        let number = |at: usize| Some(u32::from_ne_bytes(bytes[at..at + 4].try_into().ok()?));
        let (index, errno) = (number(4)?, number(8)?.cast_signed());
        Some(match bytes[0] {
            0 => Self::Pid(errno),
            1 => Self::Hooks,
            2 => Self::Ready,
            4 => Self::Listener,
            3 => Self::Failed { stage: *STAGES.get(usize::from(bytes[1]))?, index, errno },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        for (number, stage) in STAGES.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
            let message = Message::Failed { stage, index: 70_000, errno: 13 };
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        for message in [Message::Pid(4711), Message::Hooks, Message::Ready, Message::Listener] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(&[9; SIZE]), None);
        assert_eq!(Message::decode(b"x"), None);
    }
}
