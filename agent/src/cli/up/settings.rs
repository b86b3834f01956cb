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
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(layout.state())?.sync_all()
        };
        write().map_err(|source| Error::Write { path: path.clone(), source }.into())
    }
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
