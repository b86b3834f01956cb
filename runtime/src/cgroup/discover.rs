//! Which control group hierarchies this process sees, and where.
//!
//! One read of `/proc/self/cgroup` and, unless that is of cgroup v2 alone, one of `/proc/self/mountinfo` (proc(5),
//! cgroups(7)); the parsing is pure.
//! Controllers are named by `/proc/self/cgroup`, because a mount's options also hold words that are none. Of several
//! mounts of one hierarchy the first counts. Paths are taken below the mount point, whatever the mount's root is: in a
//! container that is the part of the tree that it may touch.

use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::Error;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where its root is mounted.
    pub(crate) mount: PathBuf,
    /// Controllers as `/proc/self/cgroup` lists them (`cpu,cpuacct`, `name=systemd`); empty for cgroup v2.
    pub(crate) controllers: String,
}

/// Every hierarchy of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// cgroup v1, in the order of `/proc/self/cgroup`.
    pub(crate) v1: Vec<Hierarchy>,
    /// cgroup v2.
    pub(crate) v2: Option<Hierarchy>,
}

/// Where everybody mounts cgroup v2 if there is no v1.
const UNIFIED: &str = "/sys/fs/cgroup";
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Whether `/proc/self/cgroup` names cgroup v2 alone.
fn is_unified(membership: &[u8]) -> bool {
    membership.starts_with(b"0::") && membership.iter().filter(|&&byte| byte == b'\n').count() == 1
}

impl Hierarchies {
    /// Looks at this process's view of the host.
    pub(crate) fn discover() -> Result<Self, Error> {
        const MEMBERSHIP: &str = "/proc/self/cgroup";
        const MOUNTS: &str = "/proc/self/mountinfo";
        let membership = super::dir::read_piece(MEMBERSHIP.as_ref())
            .map_err(|source| Error::Discover { path: MEMBERSHIP, source })?;
        // Of a host with many mounts the list is long, and the usual one can do without.
        if is_unified(&membership)
            && rustix::fs::statfs(UNIFIED).is_ok_and(|info| info.f_type == CGROUP2_SUPER_MAGIC)
        {
            let v2 = Hierarchy { mount: UNIFIED.into(), controllers: String::new() };
            return Ok(Self { v1: Vec::new(), v2: Some(v2) });
        }
        // The standard library would approach the size of a /proc file in steps from 32 bytes.
        let mounts = super::dir::read_bytes(rustix::fs::CWD, MOUNTS)
            .map_err(|source| Error::Discover { path: MOUNTS, source })?;
        let found = Self::parse(&mounts, &membership);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(Error::NoHierarchy);
        }
        Ok(found)
    }

    /// Reads the two files' contents.
    pub(crate) fn parse(mountinfo: &[u8], membership: &[u8]) -> Self {
        let mut mounts: Vec<(PathBuf, bool, Vec<&[u8]>)> = Vec::new();
        for line in mountinfo.split(|&byte| byte == b'\n') {
            let mut fields = line.split(|&byte| byte == b' ');
            let Some(mount_point) = fields.nth(4) else { continue };
            // The optional fields end with a lone dash.
            let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
            let (Some(kind), Some(_source), Some(options)) =
                (rest.next(), rest.next(), rest.next())
            else {
                continue;
            };
            if kind != b"cgroup" && kind != b"cgroup2" {
                continue;
            }
            mounts.push((
                PathBuf::from(std::ffi::OsString::from_vec(unescape(mount_point))),
                kind == b"cgroup2",
                options.split(|&byte| byte == b',').collect(),
            ));
        }
        let v2 = mounts
            .iter()
            .find(|(_, unified, _)| *unified)
            .map(|(mount, ..)| Hierarchy { mount: mount.clone(), controllers: String::new() });
        let mut v1: Vec<Hierarchy> = Vec::new();
        for line in membership.split(|&byte| byte == b'\n') {
            let mut fields = line.splitn(3, |&byte| byte == b':');
            let (Some(_id), Some(controllers)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                continue;
            }
            let wanted = || controllers.split(|&byte| byte == b',');
            let mount = mounts.iter().find(|(_, unified, options)| {
                !unified && wanted().all(|controller| options.contains(&controller))
            });
            if let (Some((mount, ..)), Ok(controllers)) = (mount, std::str::from_utf8(controllers))
            {
                v1.push(Hierarchy { mount: mount.clone(), controllers: controllers.to_owned() });
            }
        }
        v1.reverse();
        Self { v1, v2 }
    }
}

/// Undoes the kernel's octal escapes of blanks and backslashes in a path.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) =
            (*first, tail)
        {
            plain.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mount: &str, controllers: &str) -> Hierarchy {
        Hierarchy { mount: mount.into(), controllers: controllers.into() }
    }

    #[test]
    fn reads_a_hybrid_host() {
        let mountinfo = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
            36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let membership = b"9:name=systemd:/\n5:devices:/x\n1:cpu,cpuacct:/\n7:blkio:/\n0::/a:b\n";
        let found = Hierarchies::parse(mountinfo, membership);
        assert_eq!(found.v2, Some(hierarchy("/sys/fs/cgroup/unified", "")));
        assert_eq!(
            found.v1,
            [
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
                hierarchy("/sys/fs/cgroup/devices", "devices"),
                hierarchy("/sys/fs/cgroup/systemd", "name=systemd"),
            ]
        );
    }

    #[test]
    fn reads_a_unified_host_and_takes_the_first_mount() {
        let mountinfo =
            b"30 23 0:26 / /sys/fs/cg\\040roup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
            99 23 0:26 / /mnt/again rw - cgroup2 cgroup2 rw\ngarbage\n\n";
        let found = Hierarchies::parse(mountinfo, b"0::/user.slice\n");
        assert_eq!(found, Hierarchies { v1: vec![], v2: Some(hierarchy("/sys/fs/cg roup", "")) });
    }

    #[test]
    fn v2_alone_is_told_from_hybrid() {
        assert!(is_unified(b"0::/user.slice\n"));
        for other in [&b"9:name=systemd:/\n0::/x\n"[..], b"1:cpu:/\n", b"", b"0::/x"] {
            assert!(!is_unified(other));
        }
    }

    #[test]
    fn an_ordinary_backslash_stays() {
        assert_eq!(unescape(b"a\\x\\134\\04"), b"a\\x\\\\04");
    }
}
