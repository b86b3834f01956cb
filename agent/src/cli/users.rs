//! `exec --user`: names and numbers against the container's own `/etc/passwd` and `/etc/group`.
//! Both belong to the image and are hostile: they are opened below the container's root without
//! leaving it, without waiting for a FIFO, and up to a limit. The rest is pure.

use std::io::{self, Read as _};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use pathrs::Root;
use pathrs::flags::OpenFlags;

/// Longest file that is read.
const LIMIT: u64 = 4 << 20;

/// Who the process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
    pub(super) home: Option<String>,
}

/// The user cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("open the container's root {path}")]
    Root { path: PathBuf, source: io::Error },
    #[error("read {file} of the container")]
    Read { file: &'static str, source: io::Error },
    #[error("no user {0:?} in the container's /etc/passwd")]
    NoUser(String),
    #[error("no group {0:?} in the container's /etc/group")]
    NoGroup(String),
}

/// Resolves `user[:group]` in the container whose init is `pid`.
pub(super) fn resolve(pid: i32, user: &str) -> Result<User, UserError> {
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    // The kernel's link, which pathrs itself would not follow.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(&path, flags, Mode::empty())
        .map_err(|source| UserError::Root { path, source: source.into() })?;
    let root = Root::from_fd(root);
    find(user, &read(&root, "/etc/passwd")?, &read(&root, "/etc/group")?)
}

/// Empty where there is no such file.
fn read(root: &Root, file: &'static str) -> Result<String, UserError> {
    let flags = OpenFlags::O_RDONLY | OpenFlags::O_NONBLOCK | OpenFlags::O_NOCTTY;
    let failed = |source| UserError::Read { file, source };
    let opened = match root.open_subpath(file, flags) {
        Ok(opened) => opened,
        Err(error) => {
            let source = match error.kind() {
                pathrs::error::ErrorKind::OsError(Some(number)) => {
                    io::Error::from_raw_os_error(number)
                }
                _ => io::Error::other(error),
            };
            return match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(String::new()),
                _ => Err(failed(source)),
            };
        }
    };
    if !opened.metadata().map_err(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    opened.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let mut entries = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        Some((name, uid, gid, fields.nth(1)))
    });
    let number: Option<u32> = user.parse().ok();
    // A name wins over a number, as in Docker.
    let entry = entries
        .clone()
        .find(|(name, ..)| *name == user)
        .or_else(|| entries.find(|(_, uid, ..)| Some(*uid) == number));
    let (name, uid, gid, home) = match (entry, number) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, home),
        (None, Some(uid)) => (None, uid, 0, None),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let groups = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid: u32 = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    });
    let home = home.filter(|home| !home.is_empty()).map(str::to_owned);
    if let Some(wanted) = wanted_group {
        let number: Option<u32> = wanted.parse().ok();
        let mut groups = groups;
        let named = groups.find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
        let gid = named.or(number).ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?;
        return Ok(User { uid, gid, additional_gids: Vec::new(), home });
    }
    let member = |members: &str| name.is_some_and(|name| members.split(',').any(|m| m == name));
    let mut additional_gids: Vec<u32> =
        groups.filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect();
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids, home })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\nbroken:x:\nweb:x:33:34::/srv:/bin/false\n1000:x:7:8::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web,root\nwww:x:34:\ntape:x:26:web\nbad:x\n";

    fn user(uid: u32, gid: u32, additional: &[u32], home: Option<&str>) -> User {
        let home = home.map(str::to_owned);
        User { uid, gid, additional_gids: additional.to_vec(), home }
    }

    #[test]
    fn table() {
        for (text, expected) in [
            ("web", user(33, 34, &[4, 26], Some("/srv"))),
            ("33", user(33, 34, &[4, 26], Some("/srv"))),
            ("web:adm", user(33, 4, &[], Some("/srv"))),
            ("web:99", user(33, 99, &[], Some("/srv"))),
            ("5", user(5, 0, &[], None)),
            ("5:6", user(5, 6, &[], None)),
            ("1000", user(7, 8, &[], Some("/seven"))),
            ("root", user(0, 0, &[4], Some("/root"))),
            (":4", user(0, 4, &[], Some("/root"))),
        ] {
            assert_eq!(find(text, PASSWD, GROUP).unwrap(), expected, "{text}");
        }
        assert!(matches!(find("nobody", PASSWD, GROUP), Err(UserError::NoUser(_))));
        assert!(matches!(find("web:none", PASSWD, GROUP), Err(UserError::NoGroup(_))));
        assert_eq!(find("3", "", "").unwrap(), user(3, 0, &[], None));
    }

    #[test]
    fn a_fifo_in_place_of_passwd_does_not_hold_us_up() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&directory.path().join("etc/passwd"), Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/etc/group", directory.path().join("etc/group")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(read(&root, "/etc/passwd").unwrap(), "");
        assert!(read(&root, "/etc/group").is_err(), "a link to itself, not the host's file");
    }
}
