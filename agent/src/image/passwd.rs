//! Docker's `user[:group]` against the image's `/etc/passwd` and `/etc/group`; the parsing is pure.
//!
//! As Docker: names or numbers; a number needs no entry; without a group, the entry's group and
//! every group that lists the user; with one, that group only.

use super::{Error, Image};

/// The largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Docker's range.
const MAX_ID: u32 = i32::MAX as u32;

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// `/` without an entry in passwd.
    pub home: String,
}

impl Image {
    /// Resolves `user[:group]`, each a name or a number; empty is root.
    pub fn resolve_user(&self, user: &str) -> Result<User, Error> {
        let passwd = self.read_file("/etc/passwd", MAX_FILE)?.unwrap_or_default();
        let group = self.read_file("/etc/group", MAX_FILE)?.unwrap_or_default();
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        resolve(user, &text(&passwd), &text(&group)).map_err(|reason| Error::User {
            id: self.id.clone(),
            user: user.to_owned(),
            reason,
        })
    }
}

pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) uid: u32,
    gid: u32,
    home: &'a str,
}

pub(crate) struct Group<'a> {
    pub(crate) name: &'a str,
    pub(crate) gid: u32,
    members: Vec<&'a str>,
}

/// The entries of a passwd file.
pub(crate) fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or("/") })
    })
}

/// The entries of a group file.
pub(crate) fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        let members = fields.next().unwrap_or("").split(',').filter(|name| !name.is_empty());
        Some(Group { name, gid, members: members.collect() })
    })
}

fn number(text: &str, what: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(format!("{what} {text} is above {MAX_ID}")),
    }
}

fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let uid = number(user, "user id")?;
    let entry = entries(passwd).find(|entry| entry.name == user || uid == Some(entry.uid));
    let (name, uid, mut gid, home) = match (entry, uid) {
        (Some(entry), _) => (Some(entry.name), entry.uid, entry.gid, entry.home),
        (None, Some(uid)) => (None, uid, 0, "/"),
        (None, None) => {
            return Err(format!("unable to find user {user}: no matching entries in passwd file"));
        }
    };
    let mut additional_gids = Vec::new();
    if wanted_group.is_empty() {
        for group in groups(group) {
            let listed = name.is_some_and(|name| group.members.contains(&name));
            if listed && !additional_gids.contains(&group.gid) {
                additional_gids.push(group.gid);
            }
        }
    } else {
        let id = number(wanted_group, "group id")?;
        let found = groups(group).find(|group| group.name == wanted_group || id == Some(group.gid));
        gid = found.map(|group| group.gid).or(id).ok_or_else(|| {
            format!("unable to find group {wanted_group}: no matching entries in group file")
        })?;
    }
    if uid > MAX_ID || gid > MAX_ID || additional_gids.iter().any(|gid| *gid > MAX_ID) {
        return Err(format!("an id of it is above {MAX_ID}"));
    }
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    Ok(User { uid, gid, additional_gids, home })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        daemon:x:1:1::/usr/sbin:/bin/false\n\
        app:x:1000:1001:App,,,:/home/app:/bin/sh\n\
        1000:x:7:8::/seven:\n\
        big:x:4294967295:0::/:\n\
        homeless:x:9:9";
    const GROUP: &str =
        "root:x:0:\nadm:x:4:app,daemon\napp:x:1001:\nvideo:x:44:app\nagain:x:44:app\nbroken\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, String> {
        Ok(User { uid, gid, additional_gids: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_are_resolved_as_docker_does() {
        for (spec, expected) in [
            ("", user(0, 0, &[], "/root")),
            ("root", user(0, 0, &[], "/root")),
            ("0", user(0, 0, &[], "/root")),
            ("app", user(1000, 1001, &[4, 44], "/home/app")),
            ("app:video", user(1000, 44, &[], "/home/app")),
            ("app:12", user(1000, 12, &[], "/home/app")),
            (":4", user(0, 4, &[], "/root")),
            ("app:", user(1000, 1001, &[4, 44], "/home/app")),
            ("1", user(1, 1, &[4], "/usr/sbin")),
            // The first entry that matches by name or by number.
            ("1000", user(1000, 1001, &[4, 44], "/home/app")),
            ("4242", user(4242, 0, &[], "/")),
            ("4242:4243", user(4242, 4243, &[], "/")),
            ("homeless", user(9, 9, &[], "/")),
        ] {
            assert_eq!(resolve(spec, PASSWD, GROUP), expected, "{spec:?}");
        }
        for (spec, text) in [
            ("nobody", "unable to find user nobody"),
            ("app:nogroup", "unable to find group nogroup"),
            ("2147483648", "above 2147483647"),
            ("1:99999999999", "above 2147483647"),
            ("big", "above 2147483647"),
            ("-1", "unable to find user -1"),
        ] {
            let error = resolve(spec, PASSWD, GROUP).unwrap_err();
            assert!(error.contains(text), "{error} does not say {text}");
        }
        assert_eq!(resolve("5", "", ""), user(5, 0, &[], "/"));
    }

    proptest! {
        #[test]
        fn no_files_panic(spec in "\\PC{0,20}", passwd in "[a-z0-9:,\n]{0,200}", group in "[a-z0-9:,\n]{0,200}") {
            let _ = resolve(&spec, &passwd, &group);
        }
    }
}
