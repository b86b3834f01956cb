//! The audit log of requests for credentials, one line each, as Amazon's agent writes it (protocol
//! reference §11.3).
//!
//! What a container chooses (path, user agent) is cut and stripped of what would break the line.
//! The file is root's alone. At [`LARGEST`] bytes it becomes `<name>.1`, in place of an older one.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// Bytes of one file.
const LARGEST: u64 = 10 << 20;
/// Characters of a text from outside.
const LONGEST: usize = 256;

/// What is written of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub at: Timestamp,
    pub status: u16,
    pub source: &'a str,
    /// Without the id of credentials.
    pub path: &'a str,
    pub user_agent: &'a str,
    pub role_arn: Option<&'a str>,
    /// 1 or 2, of the request.
    pub version: u8,
    pub cluster: Option<&'a str>,
    pub container_instance_arn: Option<&'a str>,
}

impl Entry<'_> {
    fn line(&self) -> String {
        let clean = |text: &str| -> String {
            let kept = text.chars().filter(|c| !c.is_control() && *c != '"');
            kept.take(LONGEST).collect()
        };
        let or_dash = |text: Option<&str>| match text {
            Some(text) if !text.is_empty() => clean(text),
            _ => "-".to_owned(),
        };
        format!(
            "{} {} {} \"{}\" \"{}\" {} GetCredentials {} {} {}\n",
            self.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            self.status,
            or_dash(Some(self.source)),
            clean(self.path),
            clean(self.user_agent),
            or_dash(self.role_arn),
            self.version,
            or_dash(self.cluster),
            or_dash(self.container_instance_arn),
        )
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Held while a line is written.
    file: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

impl Log {
    /// Nothing is opened before the first line.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: Mutex::new(None) }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line; blocks for as long as the disk does.
    ///
    /// # Errors
    /// If the file cannot be made or written.
    pub(super) fn write(&self, entry: &Entry<'_>) -> io::Result<()> {
        let line = entry.line();
        // What a panic left is a whole file that may end in half a line.
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|open| open.length >= LARGEST) {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            *slot = None;
            std::fs::rename(&self.path, old)?;
        }
        let open = match &mut *slot {
            Some(open) => open,
            None => slot.insert(self.open()?),
        };
        open.file.write_all(line.as_bytes())?;
        open.length = open.length.saturating_add(u64::try_from(line.len()).unwrap_or(0));
        Ok(())
    }

    fn open(&self) -> io::Result<Open> {
        if let Some(directory) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
        let length = file.metadata()?.len();
        Ok(Open { file, length })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(user_agent: &str) -> Entry<'_> {
        Entry {
            at: Timestamp::from_second(1_700_000_000).unwrap(),
            status: 200,
            source: "169.254.170.2",
            path: "/v2/credentials",
            user_agent,
            role_arn: Some("arn:aws:iam::1:role/r"),
            version: 2,
            cluster: Some("default"),
            container_instance_arn: None,
        }
    }

    #[test]
    fn a_line_is_as_amazons() {
        assert_eq!(
            entry("curl/8").line(),
            "2023-11-14T22:13:20Z 200 169.254.170.2 \"/v2/credentials\" \"curl/8\" arn:aws:iam::1:role/r GetCredentials 2 default -\n"
        );
    }

    #[test]
    fn nobody_forges_a_line() {
        let line = entry("a\" x\n2023 200\u{1b}[2J").line();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(line.matches('"').count(), 4);
        assert!(entry(&"x".repeat(10_000)).line().len() < 600);
    }

    #[test]
    fn the_file_is_private_and_made_when_it_is_needed() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let log = Log::new(directory.path().join("a/audit.log"));
        assert!(!log.path().exists());
        log.write(&entry("x")).unwrap();
        log.write(&entry("y")).unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(log.path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
