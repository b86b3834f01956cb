//! `LIGHTER_USERNS_REMAP`: whose ids the containers of this host get, as with Docker's
//! `userns-remap`. [`Remap::parse`] and the reading of the files' text are pure.
//!
//! `default`, `user[:group]` or `uid[:gid]`. The user's ranges in `/etc/subuid` are the container's
//! user ids from 0 on, in the order of their numbers, those in `/etc/subgid` its group ids: the
//! group's, where one is given and has some, else the user's. Entries are found by name or number,
//! and need no entry in `/etc/passwd`. Where Docker makes the user of `default` and its ranges, we say
//! how: a range that somebody else is given later must not overlap, and only the host's administrator
//! knows who that will be.
//!
//! A task keeps the maps with which it was admitted (`engine::Task::user_maps`), whatever a later
//! agent's setting: its files on disk have their ids. What a mapped task is not given, as with
//! Docker, `host::bundle` refuses.

use std::io;
use std::path::{Path, PathBuf};

use protocol::monitor::{IdRange, UserMaps};

use crate::image::passwd::{entries, groups};

/// The user that `default` stands for.
pub const DEFAULT_USER: &str = "lighter";
/// Most ranges that the kernel takes in a map.
const MOST: usize = 340;

/// Why ids cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{file} has no range for {who}; give it one that nobody else has, such as by: {}",
        advice(file, who)
    )]
    NoRange { file: &'static str, who: String },
    #[error("{file}: the range {line:?} {rule}")]
    BadRange { file: &'static str, line: String, rule: &'static str },
    #[error("{file} has {count} ranges for {who}, the kernel takes {MOST}")]
    TooMany { file: &'static str, who: String, count: usize },
}

fn advice(file: &str, who: &str) -> String {
    let option = if file == SUBUID { "--add-subuids" } else { "--add-subgids" };
    let make = if who == DEFAULT_USER {
        format!("useradd --system --no-create-home --shell /usr/sbin/nologin {who}; ")
    } else {
        String::new()
    };
    format!("{make}usermod {option} 1000000-1065535 {who}")
}

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// Whose ranges are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remap {
    user: String,
    group: Option<String>,
}

/// What the files say.
#[derive(Debug, Default)]
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Remap {
    /// Reads the setting's value; `None` if it has another form.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |part: &str| {
            !part.is_empty() && !part.contains(|c: char| c == ':' || c == ',' || c.is_whitespace())
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if !plain(user) || !group.is_none_or(plain) {
            return None;
        }
        let user = if text == "default" { DEFAULT_USER } else { user };
        Some(Self { user: user.to_owned(), group: group.map(str::to_owned) })
    }

    /// The maps, by the files of the host.
    ///
    /// # Errors
    /// If a file cannot be read, has no range for the user, or one that cannot be mapped.
    pub fn maps(&self) -> Result<UserMaps, Error> {
        self.maps_in(&Files {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            subuid: read(SUBUID)?,
            subgid: read(SUBGID)?,
        })
    }

    fn maps_in(&self, files: &Files) -> Result<UserMaps, Error> {
        let number = |text: &str| text.parse::<u32>().ok();
        let user = {
            let id = number(&self.user);
            let entry = entries(&files.passwd)
                .find(|entry| entry.name == self.user || id == Some(entry.uid));
            names(&self.user, entry.map(|entry| (entry.name, entry.uid)))
        };
        let mut gids = Vec::new();
        if let Some(group) = &self.group {
            let id = number(group);
            let entry =
                groups(&files.group).find(|entry| entry.name == group || id == Some(entry.gid));
            gids = ranges(SUBGID, &files.subgid, &names(group, entry.map(|e| (e.name, e.gid))))?;
        }
        if gids.is_empty() {
            gids = ranges(SUBGID, &files.subgid, &user)?;
        }
        Ok(UserMaps {
            uids: map(SUBUID, &self.user, ranges(SUBUID, &files.subuid, &user)?)?,
            gids: map(SUBGID, &self.user, gids)?,
        })
    }
}

fn read(path: &str) -> Result<String, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(Error::Read { path: Path::new(path).to_owned(), source }),
    }
}

/// By what a line may begin: what was given, and the entry's name and number.
fn names(given: &str, entry: Option<(&str, u32)>) -> Vec<String> {
    let mut names = vec![given.to_owned()];
    names.extend(entry.into_iter().flat_map(|(name, id)| [name.to_owned(), id.to_string()]));
    names
}

/// First number and count of each range of these names, in the order of the numbers.
fn ranges(file: &'static str, text: &str, names: &[String]) -> Result<Vec<(u32, u32)>, Error> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        if !names.iter().any(|name| name == owner) {
            continue;
        }
        let bad = |rule| Error::BadRange { file, line: line.to_owned(), rule };
        let (first, count) = (fields.next(), fields.next());
        let number = |field: Option<&str>| field.and_then(|field| field.parse::<u32>().ok());
        let (Some(first), Some(count), None) = (number(first), number(count), fields.next()) else {
            return Err(bad("is not name:first:count"));
        };
        if first == 0 {
            return Err(bad("holds the host's root"));
        }
        // The last number is nobody's: the kernel keeps it for "no id".
        if count == 0 || first.checked_add(count).is_none() {
            return Err(bad("is empty or ends beyond the largest id"));
        }
        found.push((first, count));
    }
    found.sort_unstable();
    found.dedup();
    let overlap = found.windows(2).find(|pair| pair[1].0 - pair[0].0 < pair[0].1);
    if let Some([_, (first, count)]) = overlap {
        let line = format!("{first}:{count}");
        return Err(Error::BadRange { file, line, rule: "overlaps another of the same user" });
    }
    Ok(found)
}

/// The ranges one after another from 0 on.
fn map(file: &'static str, who: &str, ranges: Vec<(u32, u32)>) -> Result<Vec<IdRange>, Error> {
    if ranges.is_empty() {
        return Err(Error::NoRange { file, who: who.to_owned() });
    }
    if ranges.len() > MOST {
        return Err(Error::TooMany { file, who: who.to_owned(), count: ranges.len() });
    }
    let mut inside = 0_u32;
    Ok(ranges
        .into_iter()
        .map(|(outside, size)| {
            // Ranges that do not overlap hold fewer ids than there are.
            let range = IdRange { inside, outside, size };
            inside = inside.saturating_add(size);
            range
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn files() -> Files {
        Files {
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:700:701::/:/bin/sh\n".into(),
            group: "root:x:0:\nwebs:x:701:\nweb:x:702:\n".into(),
            subuid: "web:200000:1000\n\n700:100000:65536\nlighter:300000:65536\n".into(),
            subgid: "web:100000:65536\nwebs:500000:10\nlighter:300000:65536\n".into(),
        }
    }

    fn range(inside: u32, outside: u32, size: u32) -> IdRange {
        IdRange { inside, outside, size }
    }

    fn maps(setting: &str) -> Result<UserMaps, Error> {
        Remap::parse(setting).unwrap().maps_in(&files())
    }

    #[test]
    fn the_setting_is_a_user_with_or_without_a_group() {
        let remap = |user: &str, group: Option<&str>| {
            Some(Remap { user: user.into(), group: group.map(Into::into) })
        };
        assert_eq!(Remap::parse("default"), remap(DEFAULT_USER, None));
        assert_eq!(Remap::parse("web"), remap("web", None));
        assert_eq!(Remap::parse("web:webs"), remap("web", Some("webs")));
        assert_eq!(Remap::parse("700:701"), remap("700", Some("701")));
        for bad in ["", ":", "web:", ":webs", "a:b:c", "a b", "a,b"] {
            assert_eq!(Remap::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ranges_follow_each_other_by_name_and_number() {
        let both = vec![range(0, 100_000, 65536), range(65536, 200_000, 1000)];
        for setting in ["web", "700"] {
            let maps = maps(setting).unwrap();
            assert_eq!(maps.uids, both, "{setting}");
            assert_eq!(maps.gids, [range(0, 100_000, 65536)], "{setting}");
        }
        assert_eq!(maps("default").unwrap().uids, [range(0, 300_000, 65536)]);
    }

    #[test]
    fn a_groups_ranges_stand_above_the_users() {
        for setting in ["web:webs", "700:701", "web:701"] {
            assert_eq!(maps(setting).unwrap().gids, [range(0, 500_000, 10)], "{setting}");
        }
        assert_eq!(maps("web:nogroup").unwrap().gids, [range(0, 100_000, 65536)]);
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let text = maps("root").unwrap_err().to_string();
        assert!(text.contains("/etc/subuid has no range for root"), "{text}");
        let text = |subuid: &str| {
            let files = Files { subuid: subuid.into(), ..files() };
            Remap::parse("web").unwrap().maps_in(&files).unwrap_err().to_string()
        };
        assert!(text("").contains("usermod --add-subuids"), "{}", text(""));
        for (line, rule) in [
            ("web:0:65536", "the host's root"),
            ("web:1:0", "empty"),
            ("web:4294967295:1", "beyond the largest id"),
            ("web:x:1", "not name:first:count"),
            ("web:1:2:3", "not name:first:count"),
            ("web:10:5\nweb:14:5", "overlaps"),
        ] {
            assert!(text(line).contains(rule), "{line}: {}", text(line));
        }
        let many: String = (1..=341).map(|n| format!("web:{}:1\n", n * 2)).collect();
        assert!(text(&many).contains("341 ranges"), "{}", text(&many));
    }

    #[test]
    fn the_user_of_default_is_to_be_made() {
        let files = Files::default();
        let error = Remap::parse("default").unwrap().maps_in(&files).unwrap_err().to_string();
        assert!(error.contains("useradd --system"), "{error}");
    }
}
