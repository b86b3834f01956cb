//! `exec`: a further process in a container; in the foreground the exit code is the process's.
//!
//! The process is described by a file (`--process`), or it is the bundle's with another command line
//! and what the options change. Options end at the container id: what follows belongs to the command.
//! Our own failures end with exit code 255, as runc's.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::arguments::{Given, Misuse, Opt, number, owned};
use super::console::{self, Proxy};
use super::{Error, create, run as foreground};
use crate::cgroup::SubGroup;
use crate::container::{Container, Created, Exec, Stdio};
use crate::{seal, spec, sys};

/// Why the process could not be described; in runc's words where it has some.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("process args cannot be empty")]
    NoCommand,
    #[error("read the process from {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("parse the process in {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{} has no process; give one with --process", path.display())]
    NoProcess { path: PathBuf },
    #[error("bad {what} {text:?}: --user takes UID[:GID] as numbers")]
    User { what: &'static str, text: String, source: std::num::ParseIntError },
    #[error("invalid --cgroup argument: {argument}{hint}")]
    Cgroup { argument: String, hint: &'static str },
}

pub(super) const OPTIONS: &[Opt] = &[
    create::CONSOLE_SOCKET,
    Opt::value("cwd", "DIR", "Current working directory in the container"),
    Opt::value("env", "NAME=VALUE", "Set an environment variable; may be repeated").short('e'),
    Opt::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Opt::value("user", "UID[:GID]", "User to run as").short('u'),
    Opt::value("additional-gids", "GID", "Add a supplementary group; may be repeated").short('g'),
    Opt::value("process", "FILE", "File with the process as JSON").short('p'),
    Opt::switch("detach", "Do not wait for the process").short('d'),
    Opt::value("pidfd-socket", "SOCKET", "Unix socket that receives a descriptor of the process"),
    create::PID_FILE,
    Opt::value("process-label", "LABEL", "SELinux label of the process"),
    Opt::value("apparmor", "PROFILE", "AppArmor profile of the process"),
    Opt::switch(
        "no-new-privs",
        "Whether the process may gain no privileges by executing programs; the bundle's by default",
    ),
    Opt::value("cap", "CAP", "Add a capability; may be repeated").short('c'),
    Opt::value(
        "preserve-fds",
        "N",
        "Pass this many descriptors from 3 on to the process [default: 0]",
    ),
    Opt::value(
        "cgroup",
        "[CONTROLLER:]PATH",
        "Existing group below the container's to run the process in; may be repeated with controllers",
    ),
    Opt::switch(
        "ignore-paused",
        "Allow it in a paused container: the process waits until that is resumed",
    ),
];

#[derive(Debug)]
pub(super) struct Arguments {
    console_socket: Option<PathBuf>,
    cwd: Option<String>,
    env: Vec<String>,
    tty: bool,
    user: Option<String>,
    additional_gids: Vec<u32>,
    process: Option<PathBuf>,
    detach: bool,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    process_label: Option<String>,
    apparmor: Option<String>,
    no_new_privs: Option<bool>,
    cap: Vec<String>,
    preserve_fds: u32,
    cgroup: Vec<String>,
    ignore_paused: bool,
    /// The container, the command and its arguments.
    words: Vec<String>,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        let texts = |name| given.each(name, |text| Ok(text.to_owned()));
        let parts = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let numbers = |text: &str| text.split(',').map(number).collect::<Result<Vec<u32>, _>>();
        let words = given.words.iter().map(|word| owned("an argument of the command", word));
        Ok(Self {
            console_socket: given.path("console-socket")?,
            cwd: given.text("cwd")?,
            env: texts("env")?,
            tty: given.is_on("tty"),
            user: given.text("user")?,
            additional_gids: given.each("additional-gids", numbers)?.concat(),
            process: given.path("process")?,
            detach: given.is_on("detach"),
            pidfd_socket: given.path("pidfd-socket")?,
            pid_file: given.path("pid-file")?,
            process_label: given.text("process-label")?,
            apparmor: given.text("apparmor")?,
            no_new_privs: given.switch("no-new-privs"),
            cap: given.each("cap", |text| Ok(parts(text)))?.concat(),
            preserve_fds: given.parsed("preserve-fds", number)?.unwrap_or(0),
            cgroup: texts("cgroup")?,
            ignore_paused: given.is_on("ignore-paused"),
            words: words.collect::<Result<_, _>>()?,
        })
    }
}

pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<u8, Error> {
    execute(root, arguments).map_err(|error| Error::Exec(Box::new(error)))
}

fn execute(root: &Path, arguments: &Arguments) -> Result<u8, Error> {
    seal::ensure()?;
    create::preserved(arguments.preserve_fds)?;
    let container = Container::load(root, arguments.words.first().map_or("", String::as_str))?;
    let process = arguments.process(&container)?;
    let cgroups = sub_groups(&arguments.cgroup)?;
    let detach = arguments.detach;
    let stdio = match (process.terminal, &arguments.console_socket) {
        (true, None) if detach => return Err(console::Error::Required.into()),
        (false, Some(_)) => return Err(console::Error::NotWanted.into()),
        (true, Some(_)) if !detach => return Err(console::Error::Foreground.into()),
        (true, _) => Stdio::Terminal,
        (false, None) => Stdio::Inherit,
    };
    let socket = arguments.console_socket.as_deref().map(console::connect).transpose()?;
    // Until it executes the program, nothing in the container may trace or dump us.
    nix::sys::prctl::set_dumpable(false).map_err(Error::Dumpable)?;
    // Before it runs: a signal that comes as soon as it does is for it, and must not end us. The
    // process itself begins with none blocked.
    let signals = if detach { None } else { Some(foreground::block_signals()?) };
    let mut created = container.exec(
        &process,
        Exec {
            stdio,
            preserve_fds: arguments.preserve_fds,
            cgroups: &cgroups,
            ignore_paused: arguments.ignore_paused,
        },
    )?;
    let mut terminal = created.terminal.take();
    let begin = || {
        if let Some(socket) = &socket
            && let Some(master) = terminal.take()
        {
            console::send(socket, &master)?;
        }
        let Arguments { pidfd_socket, pid_file, .. } = arguments;
        create::tell(&created, pidfd_socket.as_deref(), pid_file.as_deref())?;
        terminal.map(Proxy::new).transpose().map_err(Error::from)
    };
    match begin() {
        Ok(proxy) => match &signals {
            None => Ok(0),
            Some(signals) => {
                let send = |signal| signal_process(&created, signal);
                foreground::wait(&send, &created, signals, proxy, None)
            }
        },
        Err(error) => {
            // Nobody would know of it.
            signal_process(&created, libc::SIGKILL);
            if let Err(error) = foreground::reap(&created.pidfd) {
                log::debug!("{}", super::describe(&error));
            }
            Err(error)
        }
    }
}

fn signal_process(created: &Created, signal: i32) {
    use std::os::fd::AsFd as _;
    // It may have ended just now; its end is told by the pidfd.
    if let Err(errno) = sys::process::pidfd_send_signal(created.pidfd.as_fd(), signal) {
        log::debug!("forward signal {signal}: {errno}");
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Invalid> {
    let bytes =
        std::fs::read(path).map_err(|source| Invalid::Read { path: path.to_owned(), source })?;
    crate::spec::read(&bytes).map_err(|source| Invalid::Parse { path: path.to_owned(), source })
}

/// What `--cgroup` says.
fn sub_groups(arguments: &[String]) -> Result<Vec<SubGroup>, Invalid> {
    let invalid = |argument: &String, hint| Invalid::Cgroup { argument: argument.clone(), hint };
    let mut groups = Vec::new();
    for argument in arguments {
        match argument.split_once(':') {
            None if arguments.len() > 1 => {
                return Err(invalid(argument, " (missing <controller>: prefix)"));
            }
            None => groups.push(SubGroup { controller: None, path: argument.clone() }),
            Some((_, path)) if path.contains(':') => {
                return Err(invalid(argument, ""));
            }
            Some((controllers, path)) => {
                groups.extend(controllers.split(',').map(|controller| SubGroup {
                    controller: Some(controller.to_owned()),
                    path: path.to_owned(),
                }));
            }
        }
    }
    Ok(groups)
}

impl Arguments {
    fn process(&self, container: &Container) -> Result<spec::Process, Invalid> {
        if let Some(path) = &self.process {
            return read(path);
        }
        let command = self.words.get(1..).unwrap_or_default();
        if command.is_empty() {
            return Err(Invalid::NoCommand);
        }
        #[derive(serde::Deserialize)]
        struct Bundle {
            process: Option<spec::Process>,
        }
        let path = container.bundle().join("config.json");
        let Some(mut process) = read::<Bundle>(&path)?.process else {
            return Err(Invalid::NoProcess { path });
        };
        process.args = command.to_vec();
        self.change(&mut process)?;
        Ok(process)
    }

    /// What the options change of the bundle's process.
    fn change(&self, process: &mut spec::Process) -> Result<(), Invalid> {
        process.terminal = self.tty;
        if let Some(cwd) = self.cwd.as_ref().filter(|cwd| !cwd.is_empty()) {
            process.cwd.clone_from(cwd);
        }
        if let Some(profile) = &self.apparmor {
            process.apparmor_profile = Some(profile.clone());
        }
        if let Some(label) = &self.process_label {
            process.selinux_label = Some(label.clone());
        }
        if let Some(no_new_privileges) = self.no_new_privs {
            process.no_new_privileges = no_new_privileges;
        }
        if !self.cap.is_empty() {
            let sets = process.capabilities.get_or_insert_default();
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend_from_slice(&self.cap);
            }
            // Never inheritable (CVE-2022-29162); and ambient is what is inheritable too.
            if !sets.inheritable.is_empty() {
                sets.ambient.extend_from_slice(&self.cap);
            }
        }
        process.env.extend_from_slice(&self.env);
        if let Some(user) = &self.user {
            let number = |what, text: &str| {
                text.parse().map_err(|source| Invalid::User { what, text: text.to_owned(), source })
            };
            let (uid, gid) = match user.split_once(':') {
                Some((uid, gid)) => (uid, Some(gid)),
                None => (user.as_str(), None),
            };
            if let Some(gid) = gid {
                process.user.gid = number("gid", gid)?;
            }
            process.user.uid = number("uid", uid)?;
        }
        process.user.additional_gids.extend_from_slice(&self.additional_gids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Command;
    use super::*;

    fn try_parse(words: &[&str]) -> Result<Arguments, String> {
        let words = ["exec"].iter().chain(words).map(Into::into);
        match super::super::parse(words).map_err(|error| error.to_string())?.command {
            Command::Exec(arguments) => Ok(arguments),
            other => Err(format!("{other:?}")),
        }
    }

    fn parse(words: &[&str]) -> Arguments {
        try_parse(words).unwrap()
    }

    #[test]
    fn options_end_at_the_container() {
        let arguments = parse(&["-t", "-e", "A=1", "box", "sh", "-c", "-t", "--", "--env", "x"]);
        assert!(arguments.tty);
        assert_eq!(arguments.words, ["box", "sh", "-c", "-t", "--", "--env", "x"]);
        assert_eq!(parse(&["box", "-d", "--help"]).words, ["box", "-d", "--help"]);
        assert!(!parse(&["--tty=false", "--detach=true", "box"]).tty);
        assert!(parse(&["--process", "/p", "--detach", "--pid-file", "/f", "box"]).detach);
        assert!(try_parse(&["-d"]).is_err());
        let arguments = parse(&["-td", "-uroot", "-e=A=1", "--", "box", "--", "-x"]);
        assert!(arguments.tty && arguments.detach);
        assert_eq!((arguments.user.as_deref(), &arguments.env[0][..]), (Some("root"), "A=1"));
        assert_eq!(arguments.words, ["box", "--", "-x"]);
    }

    #[test]
    fn options_change_the_process() {
        let arguments = parse(&[
            "--cwd",
            "/tmp",
            "-e",
            "A=1",
            "--env",
            "B=2",
            "-u",
            "5:6",
            "-g",
            "7",
            "-g",
            "8,9",
            "--no-new-privs",
            "--cap",
            "CAP_KILL",
            "--apparmor",
            "a",
            "--process-label",
            "l",
            "id",
            "x",
        ]);
        let mut process: spec::Process = serde_json::from_value(serde_json::json!({
            "terminal": true, "env": ["PATH=/bin"], "user": {"gid": 1, "additionalGids": [3]},
        }))
        .unwrap();
        arguments.change(&mut process).unwrap();
        assert!(!process.terminal && process.no_new_privileges);
        assert_eq!(process.cwd, "/tmp");
        assert_eq!(process.env, ["PATH=/bin", "A=1", "B=2"]);
        assert_eq!((process.user.uid, process.user.gid), (5, 6));
        assert_eq!(process.user.additional_gids, [3, 7, 8, 9]);
        let sets = process.capabilities.unwrap();
        assert_eq!(sets.bounding, ["CAP_KILL"]);
        assert_eq!((sets.inheritable.len(), sets.ambient.len()), (0, 0));
        for bad in ["root", "5:", "5:x", "-1", ":5"] {
            let user = format!("--user={bad}");
            let mut process = spec::Process::default();
            assert!(parse(&[&user, "id"]).change(&mut process).is_err(), "{bad}");
        }
    }

    #[test]
    fn sub_groups_are_of_all_or_of_named_controllers() {
        let parse = |arguments: &[&str]| {
            sub_groups(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        let group = |controller: Option<&str>, path: &str| SubGroup {
            controller: controller.map(str::to_owned),
            path: path.to_owned(),
        };
        assert_eq!(parse(&["a/b"]).unwrap(), [group(None, "a/b")]);
        assert_eq!(
            parse(&["cpu,memory:a", "pids:b"]).unwrap(),
            [group(Some("cpu"), "a"), group(Some("memory"), "a"), group(Some("pids"), "b")]
        );
        for bad in [&["a", "cpu:b"][..], &["cpu:a:b"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
