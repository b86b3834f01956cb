//! Mount options of the configuration, as runc and mount(8) name them.

use std::ffi::CString;

use crate::sys::mount::Attributes;

/// Options of one mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `MS_*` for the mount itself.
    pub flags: u64,
    /// `MS_*` that the options ask to be off.
    pub cleared: u64,
    /// `bind` or `rbind` was among them.
    pub bind: Option<Bind>,
    /// Propagation to set once mounted, `MS_*`, in order.
    pub propagation: Vec<u64>,
    /// Attributes for the mount and all below it (`rro` and the like), `MOUNT_ATTR_*`.
    pub recursive: Attributes,
    /// Fill a tmpfs with what the image has at its destination.
    pub copy_up: bool,
    /// `idmap` or `ridmap` was among them: whether for the mounts below too.
    pub id_map: Option<bool>,
    /// What the file system itself is told.
    pub data: Option<CString>,
    /// Options that are in none of the tables; the file system's own.
    pub unknown: Vec<String>,
}

/// Which kind of bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    Plain,
    Recursive,
}

const SLAVE: u64 = libc::MS_SLAVE;
const REC: u64 = libc::MS_REC;

/// Name, flag, whether the option takes it away. Sorted by name.
const FLAGS: [(&str, u64, bool); 25] = [
    ("acl", libc::MS_POSIXACL, false),
    ("async", libc::MS_SYNCHRONOUS, true),
    ("atime", libc::MS_NOATIME, true),
    ("defaults", 0, false),
    ("dev", libc::MS_NODEV, true),
    ("diratime", libc::MS_NODIRATIME, true),
    ("dirsync", libc::MS_DIRSYNC, false),
    ("exec", libc::MS_NOEXEC, true),
    ("iversion", libc::MS_I_VERSION, false),
    ("lazytime", libc::MS_LAZYTIME, false),
    ("loud", libc::MS_SILENT, true),
    ("noacl", libc::MS_POSIXACL, true),
    ("noatime", libc::MS_NOATIME, false),
    ("nodev", libc::MS_NODEV, false),
    ("nodiratime", libc::MS_NODIRATIME, false),
    ("noexec", libc::MS_NOEXEC, false),
    ("noiversion", libc::MS_I_VERSION, true),
    ("nolazytime", libc::MS_LAZYTIME, true),
    ("norelatime", libc::MS_RELATIME, true),
    ("nostrictatime", libc::MS_STRICTATIME, true),
    ("nosuid", libc::MS_NOSUID, false),
    ("relatime", libc::MS_RELATIME, false),
    ("ro", libc::MS_RDONLY, false),
    ("rw", libc::MS_RDONLY, true),
    ("silent", libc::MS_SILENT, false),
];

/// The rest of the flags; two tables, as the first is full of pairs.
const MORE_FLAGS: [(&str, u64, bool); 8] = [
    ("mand", libc::MS_MANDLOCK, false),
    ("nomand", libc::MS_MANDLOCK, true),
    ("nosymfollow", 256, false),
    ("remount", libc::MS_REMOUNT, false),
    ("strictatime", libc::MS_STRICTATIME, false),
    ("suid", libc::MS_NOSUID, true),
    ("symfollow", 256, true),
    ("sync", libc::MS_SYNCHRONOUS, false),
];

/// Propagation by name.
pub const PROPAGATION: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | REC),
    ("rshared", libc::MS_SHARED | REC),
    ("rslave", SLAVE | REC),
    ("runbindable", libc::MS_UNBINDABLE | REC),
    ("shared", libc::MS_SHARED),
    ("slave", SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Name, attribute, whether the option takes it away: for a whole tree of mounts.
const RECURSIVE: [(&str, u64, bool); 18] = [
    ("ratime", libc::MOUNT_ATTR_NOATIME, true),
    ("rdev", libc::MOUNT_ATTR_NODEV, true),
    ("rdiratime", libc::MOUNT_ATTR_NODIRATIME, true),
    ("rexec", libc::MOUNT_ATTR_NOEXEC, true),
    ("rnoatime", libc::MOUNT_ATTR_NOATIME, false),
    ("rnodev", libc::MOUNT_ATTR_NODEV, false),
    ("rnodiratime", libc::MOUNT_ATTR_NODIRATIME, false),
    ("rnoexec", libc::MOUNT_ATTR_NOEXEC, false),
    ("rnorelatime", libc::MOUNT_ATTR_RELATIME, true),
    ("rnostrictatime", libc::MOUNT_ATTR_STRICTATIME, true),
    ("rnosuid", libc::MOUNT_ATTR_NOSUID, false),
    ("rnosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, false),
    ("rrelatime", libc::MOUNT_ATTR_RELATIME, false),
    ("rro", libc::MOUNT_ATTR_RDONLY, false),
    ("rrw", libc::MOUNT_ATTR_RDONLY, true),
    ("rstrictatime", libc::MOUNT_ATTR_STRICTATIME, false),
    ("rsuid", libc::MOUNT_ATTR_NOSUID, true),
    ("rsymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, true),
];

/// `MS_*` and the `MOUNT_ATTR_*` of the same meaning, access times apart.
const SAME: [(u64, u64); 6] = [
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (256, libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// An option that cannot become a C string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mount option {option:?} contains a null byte")]
pub struct NulByte {
    option: String,
}

impl MountOptions {
    /// Reads the options of one mount; a later option overrides an earlier one.
    ///
    /// # Errors
    /// If one contains a null byte.
    pub fn parse(options: &[String]) -> Result<Self, NulByte> {
        let mut parsed = Self::default();
        let mut data: Vec<&str> = Vec::new();
        for option in options {
            let name = option.as_str();
            let flag = FLAGS.iter().chain(&MORE_FLAGS).find(|row| row.0 == name);
            if let Some(&(_, flag, clear)) = flag {
                let (on, off) = (&mut parsed.flags, &mut parsed.cleared);
                let (to, from) = if clear { (off, on) } else { (on, off) };
                *to |= flag;
                *from &= !flag;
            } else if let Some(&(_, flags)) = PROPAGATION.iter().find(|row| row.0 == name) {
                parsed.propagation.push(flags);
            } else if let Some(&(_, attribute, clear)) = RECURSIVE.iter().find(|row| row.0 == name)
            {
                parsed.recursive_attribute(attribute, clear);
            } else {
                match name {
                    "bind" => parsed.bind = Some(Bind::Plain),
                    "rbind" => parsed.bind = Some(Bind::Recursive),
                    "idmap" => parsed.id_map = Some(false),
                    "ridmap" => parsed.id_map = Some(true),
                    "tmpcopyup" => parsed.copy_up = true,
                    "" => {}
                    _ => {
                        data.push(name);
                        parsed.unknown.push(option.clone());
                    }
                }
            }
        }
        if !data.is_empty() {
            let joined = data.join(",");
            parsed.data = Some(CString::new(joined).map_err(|error| NulByte {
                option: String::from_utf8_lossy(&error.into_vec()).into_owned(),
            })?);
        }
        Ok(parsed)
    }

    fn recursive_attribute(&mut self, attribute: u64, clear: bool) {
        let is_time = attribute & libc::MOUNT_ATTR__ATIME != 0 || attribute == 0;
        if is_time {
            // Access times are one field with three values, not flags: set means replace.
            self.recursive.set &= !libc::MOUNT_ATTR__ATIME;
            self.recursive.clear |= libc::MOUNT_ATTR__ATIME;
            if !clear {
                self.recursive.set |= attribute;
            }
        } else if clear {
            self.recursive.clear |= attribute;
            self.recursive.set &= !attribute;
        } else {
            self.recursive.set |= attribute;
            self.recursive.clear &= !attribute;
        }
    }

    /// The flags as a change to an existing mount, which a bind mount is.
    pub fn attributes(&self) -> Attributes {
        let mut change = Attributes::default();
        for (flag, attribute) in SAME {
            if self.flags & flag != 0 {
                change.set |= attribute;
            }
            if self.cleared & flag != 0 {
                change.clear |= attribute;
            }
        }
        let time = if self.flags & libc::MS_NOATIME != 0 {
            Some(libc::MOUNT_ATTR_NOATIME)
        } else if self.flags & libc::MS_STRICTATIME != 0 {
            Some(libc::MOUNT_ATTR_STRICTATIME)
        } else if (self.flags | self.cleared)
            & (libc::MS_RELATIME | libc::MS_NOATIME | libc::MS_STRICTATIME)
            != 0
        {
            Some(libc::MOUNT_ATTR_RELATIME)
        } else {
            None
        };
        if let Some(time) = time {
            change.clear |= libc::MOUNT_ATTR__ATIME;
            change.set |= time;
        }
        change
    }
}

/// Options that are no flag; [`MountOptions::parse`] knows them by name.
const WORDS: [&str; 5] = ["bind", "idmap", "rbind", "ridmap", "tmpcopyup"];

/// Every option that is acted on here, whatever the file system; in no order.
pub fn names() -> impl Iterator<Item = &'static str> {
    let flags = FLAGS.iter().chain(&MORE_FLAGS).chain(&RECURSIVE).map(|row| row.0);
    flags.chain(PROPAGATION.iter().map(|row| row.0)).chain(WORDS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> MountOptions {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        MountOptions::parse(&list).unwrap()
    }

    #[test]
    fn tables_are_sorted() {
        assert!(FLAGS.is_sorted_by_key(|row| row.0));
        assert!(MORE_FLAGS.is_sorted_by_key(|row| row.0));
        assert!(PROPAGATION.is_sorted_by_key(|row| row.0));
        assert!(RECURSIVE.is_sorted_by_key(|row| row.0));
    }

    #[test]
    fn later_options_override_earlier_ones() {
        let options = parse("ro,nosuid,rw");
        assert_eq!(options.flags, libc::MS_NOSUID);
        assert_eq!(options.cleared, libc::MS_RDONLY);
        assert_eq!(options.attributes().clear, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn the_rest_is_the_file_systems() {
        let options = parse("nosuid,mode=755,,size=65536k,rslave,rbind,rro,");
        assert_eq!(options.data.unwrap().to_str().unwrap(), "mode=755,size=65536k");
        assert_eq!(options.propagation, [libc::MS_SLAVE | libc::MS_REC]);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(options.recursive.set, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn access_times_replace_each_other() {
        let change = parse("noatime").attributes();
        assert_eq!(change.set, libc::MOUNT_ATTR_NOATIME);
        assert_eq!(change.clear, libc::MOUNT_ATTR__ATIME);
        assert_eq!(parse("ro").attributes().clear, 0);
    }
}
