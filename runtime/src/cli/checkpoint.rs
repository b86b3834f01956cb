//! `checkpoint`: saves a running container with CRIU, and deletes it unless it is to run on.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

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

/// How CRIU treats control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupsMode {
    Soft,
    Full,
    Strict,
    Ignore,
}

/// The only kind whose properties can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EmptyNamespace {
    Network,
}

/// What `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Directory of the image files; ./checkpoint by default
    #[arg(long, value_name = "DIR", default_value = "checkpoint", hide_default_value = true)]
    image_path: PathBuf,
    /// Directory of the log; that of the images by default
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow Unix sockets whose other end is outside
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow processes on the caller's terminal
    #[arg(long)]
    shell_job: bool,
    /// Save and restore file locks
    #[arg(long)]
    file_locks: bool,
    /// What is done with control groups; soft by default
    #[arg(long, value_enum, value_name = "MODE")]
    manage_cgroups_mode: Option<CgroupsMode>,
    /// Restore the namespace without its properties; those of the network always are left out
    #[arg(long, value_enum, value_name = "KIND")]
    empty_ns: Vec<EmptyNamespace>,
    /// Keep each page of memory in one image only
    #[arg(long)]
    auto_dedup: bool,
    /// Fetch pages of memory when they are used
    #[arg(long)]
    lazy_pages: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    pub(super) id: String,
}

impl Common {
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
            cgroups_mode: match self.manage_cgroups_mode {
                Some(CgroupsMode::Ignore) => 0,
                Some(CgroupsMode::Soft) => 3,
                Some(CgroupsMode::Full) => 4,
                Some(CgroupsMode::Strict) => 5,
                None => 6,
            },
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

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Earlier images, relative to the image path: only memory that has changed since is saved
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Let the processes run on
    #[arg(long)]
    leave_running: bool,
    /// Leave out TCP connections that are not established yet
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Link deleted files that are open to names again
    #[arg(long)]
    link_remap: bool,
    /// Descriptor to which a null byte is written when lazy pages can be fetched
    #[arg(long, value_name = "FD", allow_negative_numbers = true, default_value_t = -1)]
    status_fd: i32,
    /// Send the memory to this page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save the memory only, and let the processes run on
    #[arg(long)]
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
