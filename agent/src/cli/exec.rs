//! `lighter exec`: a further process in a running container.
//!
//! The agent is asked which container that is; the process is the monitor's, with which this
//! command speaks directly, so it goes on when the agent ends. The container never gets a
//! descriptor of ours: pipes are copied, or a terminal made by the monitor, because with ours it
//! could read what is typed and reopen files it was never given.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::ids::TaskId;
use protocol::monitor::{Call, Change, Exec, Exit, FailureKind};
use rustix::termios::{OptionalActions, Termios};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::agents::{AGENTS, ask};
use super::connect::Connection;
use super::signals::Signals;
use super::users::{self, UserError};
use super::{Error, Failure, OURS};
use crate::api::types::{ContainerView, TaskView};
use crate::layout::Layout;
use crate::monitor::{self, client::Client};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    detach: bool,
    /// The container; otherwise the task's first essential one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Run as this user of the container
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Run in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set a variable, or pass our own on
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The task's id, or its beginning
    task: String,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Running the process failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("read the container's configuration {path}")]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error("the container's configuration {path} has no process")]
    Config { path: PathBuf },
    #[error("resolve the user of the command")]
    User(#[from] UserError),
    #[error("reach the task's monitor")]
    Connect { source: monitor::Error },
    #[error("run {command:?} in container {container}")]
    Run { command: String, container: String, source: monitor::Error },
    #[error("make pipes for the command")]
    Pipe { source: io::Error },
    #[error("set up the terminal")]
    Terminal { source: io::Error },
    #[error("copy the command's output")]
    Copy { source: io::Error },
    #[error("the monitor's answer has no terminal")]
    NoTerminal,
    #[error("the monitor ended before the command did; the command's exit code is not known")]
    Gone,
    #[error("the command's exit code is not known")]
    UnknownCode,
}

pub(super) async fn run(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    start(arguments, layout).await.map_err(|failure| {
        let refused = match &failure.error {
            Error::Exec(error) => match error.as_ref() {
                ExecError::Run { source: monitor::Error::Refused(refused), .. } => Some(refused),
                _ => None,
            },
            _ => None,
        };
        let code = match refused.map(|refused| refused.kind) {
            Some(FailureKind::CommandNotFound) => 127,
            Some(FailureKind::CommandNotExecutable) => 126,
            _ => OURS,
        };
        failure.with_code(code)
    })
}

async fn start(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    if arguments.tty && arguments.interactive && !io::stdin().is_terminal() {
        return Err(Failure::said("the input device is not a terminal: use -i without -t"));
    }
    let open = async || Connection::open(layout.clone()).await;
    let known = async |connection: &Connection| {
        connection.client.task(&arguments.task).await.map_err(Failure::from)
    };
    let (connection, view) = ask(AGENTS, open, known).await?;
    connection.close().await?;
    let container = choose(&view, arguments.container.as_deref())?;
    let id: TaskId = view
        .task_id
        .parse()
        .map_err(|error| Failure::said(format!("understand the agent: {error}")))?;

    let user = match (&arguments.user, container.pid) {
        (Some(user), Some(pid)) => Some(users::resolve(pid, user).map_err(ExecError::from)?),
        _ => None,
    };
    let path = layout.task(&id).join(&container.name).join("bundle/config.json");
    let text = std::fs::read(&path)
        .map_err(|source| ExecError::ReadConfig { path: path.clone(), source })?;
    let config: Value = serde_json::from_slice(&text)
        .map_err(|error| ExecError::ReadConfig { path: path.clone(), source: error.into() })?;
    let base = config.get("process").filter(|process| process.is_object());
    let base = base.ok_or(ExecError::Config { path })?;
    let terminal = arguments.tty && !arguments.detach;
    let own = |name: &str| std::env::var(name).ok();
    let process = process(base, &arguments, user.as_ref(), terminal, own);

    let (client, events) =
        Client::connect(&layout.task_run(&id)).map_err(|source| ExecError::Connect { source })?;
    client.subscribe().await.map_err(|source| ExecError::Connect { source })?;
    let session = Session {
        client,
        container: container.name.clone(),
        exec: uuid::Uuid::new_v4().simple().to_string(),
        command: arguments.command.first().cloned().unwrap_or_default(),
        process,
    };
    if arguments.detach {
        session.detached().await
    } else if terminal {
        session.with_terminal(events, arguments.interactive).await
    } else {
        session.with_pipes(events, arguments.interactive).await
    }
}

/// The container that was named, or the first essential one.
fn choose<'a>(view: &'a TaskView, name: Option<&str>) -> Result<&'a ContainerView, Failure> {
    let found = match name {
        Some(name) => view.containers.iter().find(|container| container.name == name),
        None => view.containers.iter().find(|container| container.essential),
    };
    let Some(container) = found else {
        let names = view.containers.iter().map(|container| container.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let name = name.unwrap_or("essential");
        return Err(Failure::said(format!("no container {name:?} in the task: it has {names}")));
    };
    if container.last_status != "RUNNING" {
        let status = container.last_status.to_lowercase();
        return Err(Failure::said(format!(
            "container {} is not running: {status}",
            container.name
        )));
    }
    Ok(container)
}

/// The container's own process with what the arguments change.
fn process(
    base: &Value,
    arguments: &Args,
    user: Option<&users::User>,
    terminal: bool,
    own: impl Fn(&str) -> Option<String>,
) -> Value {
    let mut process = base.clone();
    let mut env: Vec<String> = base["env"]
        .as_array()
        .map(|env| env.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    if let Some(user) = user {
        process["user"] = json!({
            "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids,
        });
        set(&mut env, "HOME", user.home.as_deref().unwrap_or("/"));
    }
    if terminal && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        set(&mut env, "TERM", "xterm");
    }
    for entry in &arguments.env {
        match entry.split_once('=') {
            Some((name, value)) => set(&mut env, name, value),
            None => match own(entry) {
                Some(value) => set(&mut env, entry, &value),
                None => env.retain(|other| name_of(other) != entry),
            },
        }
    }
    process["env"] = json!(env);
    process["args"] = json!(arguments.command);
    process["terminal"] = json!(terminal);
    if let Some(directory) = &arguments.workdir {
        process["cwd"] = json!(directory);
    }
    if let Some(object) = process.as_object_mut() {
        object.remove("consoleSize");
    }
    process
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn set(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|other| name_of(other) == name) {
        Some(other) => *other = entry,
        None => env.push(entry),
    }
}

/// One process to run.
#[derive(Debug)]
struct Session {
    client: Client,
    container: String,
    exec: String,
    command: String,
    process: Value,
}

impl Session {
    async fn call(&mut self, descriptors: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, ExecError> {
        let call = Call::Exec(Exec {
            container: self.container.clone(),
            exec: self.exec.clone(),
            process: self.process.take(),
        });
        match self.client.call(call, descriptors).await {
            Ok((_, descriptors)) => Ok(descriptors),
            Err(source) => Err(ExecError::Run {
                command: self.command.clone(),
                container: self.container.clone(),
                source,
            }),
        }
    }

    async fn detached(mut self) -> Result<u8, Failure> {
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|source| ExecError::Pipe { source })?;
        self.call(&[null.as_fd(), null.as_fd(), null.as_fd()]).await?;
        Ok(0)
    }

    async fn with_pipes(
        mut self,
        events: mpsc::Receiver<Change>,
        interactive: bool,
    ) -> Result<u8, Failure> {
        let pipe = || pipe().map_err(|source| ExecError::Pipe { source });
        let (their_input, our_input) = pipe()?;
        let (our_output, their_output) = pipe()?;
        let (our_errors, their_errors) = pipe()?;
        let theirs = [their_input.as_fd(), their_output.as_fd(), their_errors.as_fd()];
        self.call(&theirs).await?;
        drop((their_input, their_output, their_errors));
        if interactive {
            // Ends with the process: a read of standard input cannot be called off.
            std::thread::spawn(move || send(io::stdin(), File::from(our_input)));
        } else {
            drop(our_input);
        }
        let (done_seen, done) = pipe()?;
        let done_too = done_seen.try_clone().map_err(|source| ExecError::Pipe { source })?;
        let output = spawn_receive(our_output, done_seen, io::stdout());
        let errors = spawn_receive(our_errors, done_too, io::stderr());
        let exit = self.exit(events).await?;
        drop(done);
        received(output).await?;
        received(errors).await?;
        code(exit)
    }

    async fn with_terminal(
        mut self,
        events: mpsc::Receiver<Change>,
        interactive: bool,
    ) -> Result<u8, Failure> {
        let mut signals = Signals::open()?;
        let terminal_error = |source| ExecError::Terminal { source };
        let mut resized = signal(SignalKind::window_change()).map_err(terminal_error)?;
        let master = self.call(&[]).await?.into_iter().next().ok_or(ExecError::NoTerminal)?;
        self.resize().await;
        let raw = if interactive { Some(Raw::enter().map_err(terminal_error)?) } else { None };
        if interactive {
            let writer = File::from(master.try_clone().map_err(terminal_error)?);
            std::thread::spawn(move || send(io::stdin(), writer));
        }
        let (done_seen, done) = pipe().map_err(|source| ExecError::Pipe { source })?;
        let output = spawn_receive(master, done_seen, io::stdout());
        let client = self.client.clone();
        let (container, exec) = (self.container.clone(), self.exec.clone());
        let exit = {
            let mut exit = std::pin::pin!(self.exit(events));
            loop {
                tokio::select! {
                    exit = &mut exit => break exit?,
                    _ = resized.recv() => resize(&client, &container, &exec).await,
                    // The command gets SIGHUP when the terminal goes.
                    signal = signals.next() => return Ok(128 + signal),
                }
            }
        };
        drop(done);
        received(output).await?;
        drop(raw);
        code(exit)
    }

    async fn resize(&self) {
        resize(&self.client, &self.container, &self.exec).await;
    }

    /// Waits for the process's end.
    async fn exit(&self, mut events: mpsc::Receiver<Change>) -> Result<Exit, ExecError> {
        while let Some(change) = events.recv().await {
            match change {
                Change::ExecExited { container, exec, exit }
                    if container == self.container && exec == self.exec =>
                {
                    return Ok(exit);
                }
                Change::ExecExited { .. } | Change::Container(_) => {}
            }
        }
        Err(ExecError::Gone)
    }
}

/// Gives the command's terminal the size of ours. Without one there is nothing to say, and a
/// command that has ended needs none.
async fn resize(client: &Client, container: &str, exec: &str) {
    let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) else { return };
    let call = Call::Resize {
        container: container.to_owned(),
        exec: Some(exec.to_owned()),
        rows: size.ws_row,
        columns: size.ws_col,
    };
    if let Err(error) = client.call(call, &[]).await {
        tracing::debug!(error = super::chain(&error), "resize the terminal");
    }
}

fn code(exit: Exit) -> Result<u8, Failure> {
    let code = exit.code.ok_or(ExecError::UnknownCode)?;
    Ok(u8::try_from(code & 0xff).unwrap_or(OURS))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// Copies until either side ends.
fn send(mut from: impl io::Read, mut to: File) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

fn spawn_receive(
    from: OwnedFd,
    done: OwnedFd,
    to: impl io::Write + Send + 'static,
) -> JoinHandle<io::Result<()>> {
    tokio::task::spawn_blocking(move || receive(File::from(from), &done, to))
}

async fn received(copy: JoinHandle<io::Result<()>>) -> Result<(), Failure> {
    match copy.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(Error::Output { source }.into()),
        Err(panicked) => Err(ExecError::Copy { source: io::Error::other(panicked) }.into()),
    }
}

/// Copies until the end, or until `done` is closed at its other end and nothing is left: what the
/// command started may keep its output open for ever.
fn receive(mut from: File, done: &OwnedFd, mut to: impl io::Write) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut ended = false;
    loop {
        let timeout = if ended { PollTimeout::ZERO } else { PollTimeout::NONE };
        let (readable, now_ended) = {
            let mut both = [
                PollFd::new(from.as_fd(), PollFlags::POLLIN),
                PollFd::new(done.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut both, timeout) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            (both[0].any().unwrap_or(true), both[1].any().unwrap_or(true))
        };
        if readable {
            let length = match from.read(&mut buffer) {
                Ok(length) => length,
                // A terminal whose last process is gone.
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => 0,
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..length])?;
            to.flush()?;
        } else if ended {
            return Ok(());
        }
        ended |= now_ended;
    }
}

/// Our terminal in raw mode; restored when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
