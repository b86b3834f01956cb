//! The control plane's process and its API.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::ecs::{SIGNING_NAME, TARGET};
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::{self, PAUSE, Process};
use super::settings::Settings;
use crate::backend::credentials::{Keys, Source};
use crate::backend::{CallError, Client, Service, SetupError};
use crate::cli::{Error, Failure, chain};
use crate::layout::Layout;

/// How long it may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where it keeps its state.
pub(super) fn data(layout: &Layout) -> PathBuf {
    layout.state().join("control-plane")
}

/// Its log.
pub(super) fn log(layout: &Layout) -> PathBuf {
    layout.state().join("control-plane.log")
}

/// The process that serves this root, if one does.
pub(super) fn find(layout: &Layout) -> Result<Option<Process>, Failure> {
    let socket = data(layout).join("admin.sock");
    process::listener(&socket)
        .map_err(|error| Failure::said(format!("look at {}: {error}", socket.display())))
}

/// The program: beside this one, else where the shell would find it.
fn program() -> OsString {
    const NAME: &str = "lighter-control-plane";
    std::env::current_exe()
        .ok()
        .map(|path| path.with_file_name(NAME))
        .filter(|path| path.exists())
        .map_or_else(|| NAME.into(), PathBuf::into_os_string)
}

/// Starts it and waits until it answers.
pub(super) async fn start(
    layout: &Layout,
    listen: std::net::SocketAddr,
    endpoint: &str,
) -> Result<Child, Failure> {
    let log = log(layout);
    let program = program();
    let mut command = Command::new(&program);
    // One person watches: a deployment need not settle as long as in production.
    command
        .args(["serve", "--settle", "5s"])
        .arg("--listen")
        .arg(listen.to_string())
        .arg("--data")
        .arg(data(layout));
    let failed = |source| Error::Background { program: PathBuf::from(&program), source };
    let mut child = process::start(&mut command, &log).map_err(failed)?;
    let give_up = Instant::now() + PATIENCE;
    while !(answers(endpoint).await && find(layout)?.is_some()) {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Err(Failure::said(format!(
                "the control plane ended at once ({status}): {}",
                last_line(&log)
            )));
        }
        if Instant::now() > give_up {
            return Err(Failure::said(format!(
                "the control plane did not answer at {endpoint} within {} s: see {}",
                PATIENCE.as_secs(),
                log.display()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(child)
}

/// Whether it serves.
pub(super) async fn answers(endpoint: &str) -> bool {
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()
    else {
        return false;
    };
    let answer = client.get(format!("{endpoint}/healthz")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

fn last_line(log: &Path) -> String {
    let line = process::last_line(log);
    if line.is_empty() { format!("see {}", log.display()) } else { line }
}

/// An access key, as `key create --output json` prints it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}

/// Makes an access key that may do everything.
pub(super) fn create_key(layout: &Layout) -> Result<Key, Failure> {
    let program = program();
    let output = Command::new(&program)
        .args(["key", "create", "--output", "json", "--description", "lighter up", "--data"])
        .arg(data(layout))
        .output()
        .map_err(|source| Error::Background { program: PathBuf::from(&program), source })?;
    if !output.status.success() {
        return Err(Failure::said(format!(
            "make an access key: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    serde_json::from_slice(&output.stdout).map_err(|source| Failure::from(Error::Json { source }))
}

/// The API did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    SetUp(#[from] SetupError),
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Calls the API with the key of `up`.
pub(super) async fn call(
    settings: &Settings,
    operation: &str,
    input: &Value,
) -> Result<Value, Refused> {
    let keys = Keys {
        access_key_id: settings.access_key_id.clone(),
        secret_access_key: settings.secret_access_key.clone(),
        session_token: None,
    };
    let client = Client::new(None, Source::Fixed(Arc::new(keys)), &settings.region)?;
    let endpoint = settings.endpoint();
    let service = Service { signing_name: SIGNING_NAME, target: TARGET, endpoint: &endpoint };
    Ok(client.call(service, operation, input).await?)
}

/// Makes the cluster, if it is not there. False: the key is not known (any more).
pub(super) async fn create_cluster(settings: &Settings) -> Result<bool, Failure> {
    match call(settings, "CreateCluster", &json!({ "clusterName": settings.cluster })).await {
        Ok(_) => Ok(true),
        Err(Refused::Call(error))
            if error.api().is_some_and(|api| api.name == "UnrecognizedClientException") =>
        {
            Ok(false)
        }
        Err(error) => {
            Err(Failure::said(format!("make the cluster {}: {}", settings.cluster, chain(&error))))
        }
    }
}

/// Whether the instance is connected, so that tasks can be placed on it.
pub(super) async fn is_connected(settings: &Settings, instance: &str) -> Result<bool, Refused> {
    let input = json!({ "cluster": settings.cluster, "containerInstances": [instance] });
    let answer = call(settings, "DescribeContainerInstances", &input).await?;
    Ok(answer
        .pointer("/containerInstances/0/agentConnected")
        .and_then(Value::as_bool)
        .unwrap_or(false))
}
