//! `lighter-runtime monitor`: the hidden verb that the agent starts a task's monitor with.

use std::path::PathBuf;

use crate::monitor::{self, Options};

/// Arguments of `monitor`.
#[derive(Debug, clap::Args)]
pub struct Monitor {
    /// Durable directory of the task.
    #[arg(long, value_name = "DIR")]
    task_dir: PathBuf,
    /// Run directory of the task.
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Inherited descriptor of the listening control socket (`SOCK_SEQPACKET`).
    #[arg(long, value_name = "FD")]
    listen_fd: i32,
    /// Give the task a network namespace of its own.
    #[arg(long)]
    new_network: bool,
    /// Cgroup for the monitor's own processes, from the root of every hierarchy.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Take over the containers that an earlier monitor of the run directory left.
    #[arg(long)]
    adopt: bool,
}

impl Monitor {
    /// Runs until the monitor is shut down.
    ///
    /// # Errors
    /// If the monitor cannot be set up.
    pub fn run(self) -> Result<(), monitor::Error> {
        monitor::run(&Options {
            task: self.task_dir,
            run: self.run_dir,
            listen: self.listen_fd,
            new_network: self.new_network,
            cgroup: self.cgroup,
            adopt: self.adopt,
        })
    }
}
