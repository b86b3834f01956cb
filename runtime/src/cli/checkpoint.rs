//! `checkpoint`: saves a running container with CRIU, and deletes it unless it is to run on.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::arguments::{Given, Misuse, Opt, choice, number};
use super::{Error, create::give_back};
use crate::container::{Checkpoint, Container, CriuOptions};
use crate::sys;

/// Why a checkpoint or a restore was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("{operation} the directory {}", path.display())]
    Directory { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("--parent-path {} must be relative to the image path", path.display())]
    AbsoluteParent { path: PathBuf },
    #[error("--parent-path: {} is no directory", path.display())]
    Parent { path: PathBuf },
    #[error("--page-server {text:?}: give ADDRESS:PORT")]
    PageServer { text: String },
    #[error("--status-fd {number} is not an open descriptor that can be written to")]
    StatusFd { number: u32 },
}

/// What `checkpoint` and `restore` share.
pub(super) const SHARED: &[Opt] = &[
    Opt::value("image-path", "DIR", "Directory of the image files; ./checkpoint by default"),
    Opt::value("work-path", "DIR", "Directory of the log; that of the images by default"),
    Opt::switch("tcp-established", "Allow open TCP connections"),
    Opt::switch("ext-unix-sk", "Allow Unix sockets whose other end is outside"),
    Opt::switch("shell-job", "Allow processes on the caller's terminal"),
    Opt::switch("file-locks", "Save and restore file locks"),
    Opt::value(
        "manage-cgroups-mode",
        "MODE",
        "What is done with control groups: soft, full, strict or ignore; soft by default",
    ),
    Opt::value(
        "empty-ns",
        "KIND",
        "Restore the namespace (network) without its properties; those of the network always are left out",
    ),
    Opt::switch("auto-dedup", "Keep each page of memory in one image only"),
    Opt::switch("lazy-pages", "Fetch pages of memory when they are used"),
];

pub(super) const OPTIONS: &[Opt] = &[
    Opt::value(
        "parent-path",
        "DIR",
        "Earlier images, relative to the image path: only memory that has changed since is saved",
    ),
    Opt::switch("leave-running", "Let the processes run on"),
    Opt::switch("tcp-skip-in-flight", "Leave out TCP connections that are not established yet"),
    Opt::switch("link-remap", "Link deleted files that are open to names again"),
    Opt::value(
        "status-fd",
        "FD",
        "Descriptor to which a null byte is written when lazy pages can be fetched",
    ),
    Opt::value("page-server", "ADDRESS:PORT", "Send the memory to this page server"),
    Opt::switch("pre-dump", "Save the memory only, and let the processes run on"),
];

/// CRIU's number of each way to treat control groups.
const CGROUPS_MODES: [(&str, u64); 4] = [("soft", 3), ("full", 4), ("strict", 5), ("ignore", 0)];
/// The default, which CRIU has no name for.
const DEFAULT_MODE: u64 = 6;

/// What `checkpoint` and `restore` share.
#[derive(Debug)]
pub(super) struct Common {
    image_path: PathBuf,
    work_path: Option<PathBuf>,
    tcp_established: bool,
    ext_unix_sk: bool,
    shell_job: bool,
    file_locks: bool,
    cgroups_mode: u64,
    auto_dedup: bool,
    lazy_pages: bool,
    pub(super) id: String,
}

impl Common {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        // The only kind whose properties can be left out.
        given.each("empty-ns", |text| choice(&[("network", ())], text))?;
        let mode = given.parsed("manage-cgroups-mode", |text| choice(&CGROUPS_MODES, text))?;
        Ok(Self {
            image_path: given.path("image-path")?.unwrap_or_else(|| "checkpoint".into()),
            work_path: given.path("work-path")?,
            tcp_established: given.is_on("tcp-established"),
            ext_unix_sk: given.is_on("ext-unix-sk"),
            shell_job: given.is_on("shell-job"),
            file_locks: given.is_on("file-locks"),
            cgroups_mode: mode.unwrap_or(DEFAULT_MODE),
            auto_dedup: given.is_on("auto-dedup"),
            lazy_pages: given.is_on("lazy-pages"),
            id: given.id()?,
        })
    }

    /// In the terms of CRIU.
    pub(super) fn options<'a>(&'a self, criu: &'a Path) -> CriuOptions<'a> {
        if !nix::unistd::geteuid().is_root() {
            log::warn!("checkpoint and restore are not tested without root's privileges");
        }
        CriuOptions {
            program: criu,
            images: &self.image_path,
            work: self.work_path.as_deref(),
            tcp_established: self.tcp_established,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            cgroups_mode: self.cgroups_mode,
        }
    }

    /// Makes the directory for the log.
    pub(super) fn make_work(&self) -> Result<(), Invalid> {
        self.work_path.as_deref().map_or(Ok(()), make)
    }

    /// Refuses a directory without images before anything is made.
    pub(super) fn find_images(&self) -> Result<(), Invalid> {
        let path = &self.image_path;
        match std::fs::metadata(path.join("inventory.img")) {
            Ok(_) => Ok(()),
            Err(source) => {
                let operation = "find a checkpoint (inventory.img) in";
                Err(Invalid::Directory { operation, path: path.clone(), source })
            }
        }
    }
}

/// The images hold the memory of processes: they are the caller's only.
fn make(path: &Path) -> Result<(), Invalid> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Invalid::Directory { operation: "create", path: path.to_owned(), source })
}

#[derive(Debug)]
pub(super) struct Arguments {
    common: Common,
    parent_path: Option<PathBuf>,
    leave_running: bool,
    tcp_skip_in_flight: bool,
    link_remap: bool,
    status_fd: i32,
    page_server: Option<String>,
    pre_dump: bool,
}

pub(super) fn run(root: &Path, criu: &Path, arguments: &Arguments) -> Result<u8, Error> {
    let Arguments { common, leave_running, pre_dump, .. } = arguments;
    let status = arguments.status()?;
    let mut container = Container::load(root, &common.id)?;
    make(&common.image_path)?;
    common.make_work()?;
    container.checkpoint(Checkpoint {
        options: common.options(criu),
        parent: arguments.parent()?,
        leave_running: *leave_running,
        tcp_skip_in_flight: arguments.tcp_skip_in_flight,
        link_remap: arguments.link_remap,
        pre_dump: *pre_dump,
        page_server: arguments.page_server.as_deref().map(page_server).transpose()?,
        status,
    })?;
    if !leave_running && !pre_dump {
        give_back(container);
    }
    Ok(0)
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self {
            common: Common::read(given)?,
            parent_path: given.path("parent-path")?,
            leave_running: given.is_on("leave-running"),
            tcp_skip_in_flight: given.is_on("tcp-skip-in-flight"),
            link_remap: given.is_on("link-remap"),
            status_fd: given.parsed("status-fd", number)?.unwrap_or(-1),
            page_server: given.text("page-server")?,
            pre_dump: given.is_on("pre-dump"),
        })
    }

    fn parent(&self) -> Result<Option<&Path>, Invalid> {
        let Some(path) = &self.parent_path else { return Ok(None) };
        if path.is_absolute() {
            return Err(Invalid::AbsoluteParent { path: path.clone() });
        }
        let whole = self.common.image_path.join(path);
        if !whole.is_dir() {
            return Err(Invalid::Parent { path: whole });
        }
        Ok(Some(path))
    }

    /// Before anything is opened that may get its number.
    fn status(&self) -> Result<Option<File>, Invalid> {
        let Ok(number) = u32::try_from(self.status_fd) else { return Ok(None) };
        let path = format!("/proc/self/fd/{number}");
        let file = sys::fd::is_inherited(number)
            .then(|| File::options().write(true).open(path).ok())
            .flatten();
        file.map(Some).ok_or(Invalid::StatusFd { number })
    }
}

fn page_server(text: &str) -> Result<(&str, u16), Invalid> {
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        let address =
            address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        (!address.is_empty()).then_some((address, port.parse().ok()?))
    });
    parsed.ok_or_else(|| Invalid::PageServer { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn page_servers() {
        assert_eq!(page_server("10.0.0.1:80").unwrap(), ("10.0.0.1", 80));
        assert_eq!(page_server("[::1]:80").unwrap(), ("::1", 80));
        for bad in ["", "x", ":80", "x:", "x:y", "x:65536"] {
            assert!(page_server(bad).is_err(), "{bad}");
        }
    }
}
