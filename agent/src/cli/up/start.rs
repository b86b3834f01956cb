//! `lighter up`

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::process::{self, PAUSE};
use super::settings::{Lock, Settings};
use super::{control_plane, down};
use crate::api::client::{Client, ClientError};
use crate::api::types::AgentInfo;
use crate::cli::signals::Signals;
use crate::cli::{Error, Failure, chain, output};
use crate::layout::Layout;

/// How long the agent may take until tasks can be placed on it.
const PATIENCE: Duration = Duration::from_secs(30);
/// In the foreground: how often the two are looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Return when tasks can be run, and leave everything running
    #[arg(short = 'd', long)]
    detach: bool,
    /// Cluster that this host joins; made if it is not there [default: default]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Region of the ARNs [default: us-east-1]
    #[arg(long, value_name = "REGION", env = "AWS_DEFAULT_REGION", hide_env_values = true)]
    region: Option<String>,
    /// Address and port of the API [default: 127.0.0.1:4780]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
}

pub(in crate::cli) async fn run(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    let mut signals = Signals::open()?;
    let lock = Lock::take(&layout)?;
    let before = Settings::load(&layout)?;
    let default_listen = SocketAddr::from(([127, 0, 0, 1], 4780));
    let listen = arguments.listen.or(before.as_ref().map(|b| b.listen)).unwrap_or(default_listen);
    if listen.port() == 0 {
        return Err(Failure::said("--listen needs a port"));
    }
    let pick = |given: Option<String>, stored: Option<&String>, default: &str| {
        given.or_else(|| stored.cloned()).unwrap_or_else(|| default.to_owned())
    };
    let before = before.as_ref();
    let mut settings = Settings {
        listen,
        region: pick(arguments.region, before.map(|b| &b.region), "us-east-1"),
        cluster: pick(arguments.cluster, before.map(|b| &b.cluster), "default"),
        access_key_id: before.map(|b| b.access_key_id.clone()).unwrap_or_default(),
        secret_access_key: before.map(|b| b.secret_access_key.clone()).unwrap_or_default(),
    };
    let mut children = Vec::new();
    tokio::select! {
        ready = bring_up(&layout, &mut settings, &mut children) => ready?,
        signal = signals.next() => return Ok(128 + signal),
    }
    output::print(&settings.shell(std::env::var_os("AWS_SESSION_TOKEN").is_some()))?;
    output::tell(&format!(
        "lighter: cluster {} is up at {}; versions of the aws CLI before 2.13 need --endpoint-url",
        settings.cluster,
        settings.endpoint()
    ));
    if arguments.detach {
        return Ok(0);
    }
    output::tell("lighter: Ctrl-C stops the tasks of this host and ends it");
    loop {
        tokio::select! {
            _ = signals.next() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        // Ended ones must not stay as zombies.
        children.retain_mut(|child: &mut Child| matches!(child.try_wait(), Ok(None)));
        // Cheap, as it is done each second: only what is missing is worth calls.
        let serves = matches!(control_plane::find(&layout), Ok(Some(_)));
        if serves && matches!(agent(&layout).await, Ok(Some(_))) {
            continue;
        }
        if let Err(failure) = bring_up(&layout, &mut settings, &mut children).await {
            output::tell(&format!("lighter: {}", chain(&failure.error)));
        }
    }
    let code = tokio::select! {
        code = down::bring_down(&layout, &lock) => code?,
        signal = signals.next() => 128 + signal,
    };
    Ok(code)
}

/// Starts what is missing and waits until tasks can be placed. Does nothing where all is there.
async fn bring_up(
    layout: &Layout,
    settings: &mut Settings,
    children: &mut Vec<Child>,
) -> Result<(), Failure> {
    // Before anything is made for what cannot be.
    if let Some(info) = agent(layout).await? {
        check_membership(&info, settings)?;
    }
    let endpoint = settings.endpoint();
    if control_plane::find(layout)?.is_none() {
        children.push(control_plane::start(layout, settings.listen, &endpoint).await?);
    } else if !control_plane::answers(&endpoint).await {
        return Err(Failure::said(format!(
            "the control plane of this root runs, but does not answer at {endpoint}: it may listen \
             elsewhere; `lighter down` ends it"
        )));
    }
    let known =
        !settings.access_key_id.is_empty() && control_plane::create_cluster(settings).await?;
    if !known {
        let key = control_plane::create_key(layout)?;
        settings.access_key_id = key.access_key_id;
        settings.secret_access_key = key.secret_access_key;
        if !control_plane::create_cluster(settings).await? {
            return Err(Failure::said("the control plane does not know the key that it has made"));
        }
    }
    // The key is kept at once, the rest when it has proved right.
    let stored = Settings::load(layout)?;
    let keyed = Settings {
        access_key_id: settings.access_key_id.clone(),
        secret_access_key: settings.secret_access_key.clone(),
        ..stored.clone().unwrap_or_else(|| settings.clone())
    };
    if stored.as_ref() != Some(&keyed) {
        keyed.save(layout)?;
    }
    join(layout, settings, children).await?;
    if keyed != *settings {
        settings.save(layout)?;
    }
    Ok(())
}

/// Refuses an agent that is in another cluster than the one to join.
fn check_membership(info: &AgentInfo, settings: &Settings) -> Result<(), Failure> {
    let Some(cluster) = &info.cluster else { return Ok(()) };
    let other = |what: &str, is: &str, wanted: &str| {
        Err(Failure::said(format!(
            "the agent of this root (process {}) is in the {what} {is}, not in {wanted}: `lighter \
             deregister` and `lighter down`, then it can join another",
            info.pid
        )))
    };
    if *cluster != settings.cluster {
        return other("cluster", cluster, &settings.cluster);
    }
    let region = info.container_instance.as_deref().and_then(|arn| arn.split(':').nth(3));
    match region {
        Some(region) if region != settings.region => other("region", region, &settings.region),
        _ => Ok(()),
    }
}

/// Makes an agent serve that is in the cluster.
async fn join(
    layout: &Layout,
    settings: &Settings,
    children: &mut Vec<Child>,
) -> Result<(), Failure> {
    let give_up = Instant::now() + PATIENCE;
    let mut started = false;
    loop {
        match agent(layout).await? {
            Some(info) if info.cluster.as_deref() == Some(&settings.cluster) => {
                check_membership(&info, settings)?;
                if let Some(instance) = &info.container_instance
                    && control_plane::is_connected(settings, instance).await.unwrap_or(false)
                {
                    return Ok(());
                }
            }
            Some(info @ AgentInfo { cluster: Some(_), .. }) => check_membership(&info, settings)?,
            Some(AgentInfo { embedded: true, pid, .. }) => {
                return Err(Failure::said(format!(
                    "a command (process {pid}) runs tasks of this root itself: wait for its end"
                )));
            }
            // It serves tasks of `lighter run --detach`; they live on with the next agent.
            Some(AgentInfo { .. }) if !started => end_agent(layout).await?,
            Some(_) => {}
            None if started => {
                if children.last_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                    return Err(Failure::said(format!(
                        "the agent ended at once, see {}: {}",
                        log(layout).display(),
                        process::last_line(&log(layout))
                    )));
                }
            }
            None => {
                children.push(start_agent(layout, settings)?);
                started = true;
            }
        }
        if Instant::now() > give_up {
            return Err(Failure::said(format!(
                "the agent did not join the cluster within {} s: see {}",
                PATIENCE.as_secs(),
                log(layout).display()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The agent that serves the root, if one answers.
pub(super) async fn agent(layout: &Layout) -> Result<Option<AgentInfo>, Failure> {
    match Client::connect(&layout.api_socket()).await {
        Ok((_, info)) => Ok(Some(info)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(ClientError::Directory { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends the agent that serves the root; its tasks live on.
pub(super) async fn end_agent(layout: &Layout) -> Result<(), Failure> {
    const GRACE: Duration = Duration::from_secs(30);
    let socket = layout.api_socket();
    let failed = |error| Failure::said(format!("end the agent: {error}"));
    let Some(process) = process::listener(&socket).map_err(failed)? else { return Ok(()) };
    if !process.end(GRACE).await.map_err(failed)? {
        return Err(Failure::said(format!(
            "the agent (process {}) did not end within {} s",
            process.pid,
            GRACE.as_secs()
        )));
    }
    Ok(())
}

fn log(layout: &Layout) -> std::path::PathBuf {
    layout.state().join("agent.log")
}

fn start_agent(layout: &Layout, settings: &Settings) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(|source| Error::Background {
        program: std::path::PathBuf::from("/proc/self/exe"),
        source,
    })?;
    let mut command = Command::new(&program);
    if let Some(root) = layout.root() {
        command.arg("--root").arg(root);
    }
    command.arg("agent").env("ECS_CLUSTER", &settings.cluster);
    command.env("ECS_BACKEND_HOST", settings.endpoint());
    for (name, value) in settings.environment() {
        command.env(name, value);
    }
    // Of the caller's own account: with our key they would be refused, or lead logs elsewhere.
    // Other services of AWS are not where our control plane is.
    for name in ["AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"] {
        command.env_remove(name);
    }
    process::start(&mut command, &log(layout))
        .map_err(|source| Error::Background { program, source }.into())
}
