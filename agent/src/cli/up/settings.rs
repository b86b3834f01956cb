//! What an `up` decided, for the next one and for `down` and `status`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cli::{Error, Failure};
use crate::layout::Layout;

/// `up.json`: holds a secret, so only root reads it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) listen: SocketAddr,
    pub(super) region: String,
    pub(super) cluster: String,
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}

impl Settings {
    /// Where a client on this host reaches the control plane.
    pub(super) fn endpoint(&self) -> String {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }

    /// The same for the shell, one `export` a line; a token that belongs to other keys goes.
    pub(super) fn shell(&self, token_is_set: bool) -> String {
        let line = |(name, value): (&str, String)| format!("export {name}={}\n", quoted(&value));
        let mut lines: String = self.environment().into_iter().map(line).collect();
        if token_is_set {
            lines.push_str("unset AWS_SESSION_TOKEN\n");
        }
        lines
    }

    /// What the `aws` CLI and the SDKs need.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", self.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_access_key.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
        ]
    }

    fn path(layout: &Layout) -> PathBuf {
        layout.state().join("up.json")
    }

    /// What the last `up` left, if there was one.
    pub(super) fn load(layout: &Layout) -> Result<Option<Self>, Failure> {
        let path = Self::path(layout);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Failure::said(format!(
                    "read {}: {error}; remove it, and the next `lighter up` makes a new one",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }.into()),
        }
    }

    /// Stores it, whole or not at all.
    pub(super) fn save(&self, layout: &Layout) -> Result<(), Failure> {
        let path = Self::path(layout);
        let temporary = path.with_extension("json.new");
        let write = || -> io::Result<()> {
            // One that a killed `up` left, or somebody else, may be readable by others.
            match std::fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(layout.state())?.sync_all()
        };
        write().map_err(|source| Error::Write { path: path.clone(), source }.into())
    }
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One `up` or `down` of a root at a time.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held")] File);

impl Lock {
    /// Makes the state directory and takes the lock.
    pub(super) fn take(layout: &Layout) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let directory = layout.state();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| Error::Write { path: directory.clone(), source })?;
        let path = directory.join("up.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::said(format!(
                "another `lighter up` or `down` of this root is at work: {} is locked",
                path.display()
            ))),
            Err(error) => Err(Error::Write { path, source: error.into() }.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn settings() -> Settings {
        Settings {
            listen: "[::]:4780".parse().unwrap(),
            region: "it's $(touch /tmp/x); `id`".to_owned(),
            cluster: "default".to_owned(),
            access_key_id: "AKIA".to_owned(),
            secret_access_key: "a/b+c=".to_owned(),
        }
    }

    #[test]
    fn a_shell_takes_every_value_as_it_is() {
        let settings = settings();
        let script = format!(
            "AWS_SESSION_TOKEN=old; {}printf '%s\\n' \"$AWS_ENDPOINT_URL\" \"$AWS_ACCESS_KEY_ID\" \
             \"$AWS_SECRET_ACCESS_KEY\" \"$AWS_DEFAULT_REGION\" \"${{AWS_SESSION_TOKEN-gone}}\"",
            settings.shell(true)
        );
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "http://[::1]:4780\nAKIA\na/b+c=\nit's $(touch /tmp/x); `id`\ngone\n"
        );
        assert!(!settings.shell(false).contains("unset"));
    }

    #[test]
    fn what_lies_in_the_way_of_the_secret_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(directory.path().to_owned()));
        std::fs::create_dir_all(layout.state()).unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, layout.state().join("up.json.new")).unwrap();
        settings().save(&layout).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
        let mode = std::fs::metadata(Settings::path(&layout)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(layout.state().join("up.json.new"), "left").unwrap();
        settings().save(&layout).unwrap();
        let mode = std::fs::metadata(Settings::path(&layout)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::fs::symlink(&victim, layout.state().join("up.lock")).unwrap();
        assert!(Lock::take(&layout).is_err());
    }
}
