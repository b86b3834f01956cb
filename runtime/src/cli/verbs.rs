//! The commands, and what may be said to all of them.

use super::arguments::{Opt, Verb};
use super::{
    Command, checkpoint, create, delete, events, exec, kill, list, ps, restore, run, spec, update,
};

pub(super) const ABOUT: &str = "OCI container runtime";

/// Before the verb or after it.
pub(super) const GLOBAL: &[Opt] = &[
    Opt::switch("debug", "Log at level debug"),
    Opt::value("log", "FILE", "File to append log entries to; standard error by default"),
    Opt::value("log-format", "FORMAT", "Form of the log entries: text or json [default: text]"),
    Opt::value("root", "DIR", "Directory for the state of containers; should be on a tmpfs"),
    Opt::switch(
        "systemd-cgroup",
        "Have systemd make the cgroup of a new container; cgroupsPath is slice:prefix:name then",
    ),
    Opt::value(
        "criu",
        "FILE",
        "Name or path of the criu program, for checkpoint and restore [default: criu]",
    ),
];

/// Before the verb only: `spec` has an option of the same name.
pub(super) const OUTER: &[Opt] = &[
    Opt::value(
        "rootless",
        "BOOL",
        "Whether cgroups are done without where they are not permitted and no limit is asked for: \
         true, false, or auto, which is for all but the root of the host [default: auto]",
    ),
    Opt::switch("version", "Print the version").short('v'),
];

const ID: &[(&str, &str)] = &[("<container-id>", "Name of the container")];

pub(super) static VERBS: [Verb; 17] = [
    Verb {
        name: "checkpoint",
        about: "Save the state of a running container",
        options: &[checkpoint::OPTIONS, checkpoint::SHARED],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Checkpoint(Box::new(checkpoint::Arguments::read(given)?))),
    },
    Verb {
        name: "create",
        about: "Create a container",
        options: &[create::OPTIONS],
        words: create::WORDS,
        trailing: false,
        read: |given| Ok(Command::Create(create::Common::read(given)?)),
    },
    Verb {
        name: "delete",
        about: "Delete any resources held by the container",
        options: &[delete::OPTIONS],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Delete(delete::Arguments::read(given)?)),
    },
    Verb {
        name: "events",
        about: "Display events of the container: OOM notifications and usage statistics",
        options: &[events::OPTIONS],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Events(events::Arguments::read(given)?)),
    },
    Verb {
        name: "exec",
        about: "Execute a further process in a container",
        options: &[exec::OPTIONS],
        words: &[
            ("<container-id>", "Name of the container"),
            ("[command...]", "The command and its arguments; options of ours come before the name"),
        ],
        trailing: true,
        read: |given| Ok(Command::Exec(exec::Arguments::read(given)?)),
    },
    Verb {
        name: "features",
        about: "Show the enabled features as JSON",
        options: &[],
        words: &[],
        trailing: false,
        read: |_| Ok(Command::Features),
    },
    Verb {
        name: "kill",
        about: "Send a signal to the container's init process",
        options: &[kill::OPTIONS],
        words: &[
            ("<container-id>", "Name of the container"),
            ("[SIGNAL]", "Signal by name or number [default: SIGTERM]"),
        ],
        trailing: false,
        read: |given| Ok(Command::Kill(kill::Arguments::read(given)?)),
    },
    Verb {
        name: "pause",
        about: "Suspend all processes of a container",
        options: &[],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Pause(given.id()?)),
    },
    Verb {
        name: "restore",
        about: "Restore a container from a checkpoint",
        options: &[restore::OPTIONS, checkpoint::SHARED],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Restore(Box::new(restore::Arguments::read(given)?))),
    },
    Verb {
        name: "resume",
        about: "Resume all processes of a paused container",
        options: &[],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Resume(given.id()?)),
    },
    Verb {
        name: "list",
        about: "List the containers below the state root",
        options: &[list::OPTIONS],
        words: &[],
        trailing: false,
        read: |given| Ok(Command::List(list::Arguments::read(given)?)),
    },
    Verb {
        name: "ps",
        about: "Display the processes inside a container",
        options: &[ps::OPTIONS],
        words: &[
            ("<container-id>", "Name of the container"),
            ("[ps options...]", "Options of ps(1) [default: -ef]"),
        ],
        trailing: true,
        read: |given| Ok(Command::Ps(ps::Arguments::read(given)?)),
    },
    Verb {
        name: "run",
        about: "Create and run a container",
        options: &[create::OPTIONS, run::OPTIONS],
        words: create::WORDS,
        trailing: false,
        read: |given| Ok(Command::Run(run::Arguments::read(given)?)),
    },
    Verb {
        name: "spec",
        about: "Create a starter config.json",
        options: &[spec::OPTIONS],
        words: &[],
        trailing: false,
        read: |given| Ok(Command::Spec(spec::Arguments::read(given)?)),
    },
    Verb {
        name: "start",
        about: "Execute the user defined process in a created container",
        options: &[],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Start(given.id()?)),
    },
    Verb {
        name: "state",
        about: "Output the state of a container",
        options: &[],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::State(given.id()?)),
    },
    Verb {
        name: "update",
        about: "Update the resource limits of a container",
        options: &[update::OPTIONS],
        words: ID,
        trailing: false,
        read: |given| Ok(Command::Update(Box::new(update::Arguments::read(given)?))),
    },
];
