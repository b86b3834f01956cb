//! `lighter status`

use super::control_plane;
use super::settings::Settings;
use super::start::agent;
use crate::cli::{Failure, output};
use crate::layout::Layout;

/// Not everything is up, as `systemctl status` has it.
const DOWN: u8 = 3;

pub(in crate::cli) async fn run(layout: Layout) -> Result<u8, Failure> {
    let settings = Settings::load(&layout)?;
    let mut code = 0;
    let mut text = String::new();
    let mut line = |name: &str, up: bool, state: &str| {
        text.push_str(&format!("{name:<14} {state}\n"));
        if !up {
            code = DOWN;
        }
    };
    match (control_plane::find(&layout)?, &settings) {
        (Some(process), Some(settings)) => {
            let endpoint = settings.endpoint();
            let answers = control_plane::answers(&endpoint).await;
            let how = if answers { "serves" } else { "does not answer at" };
            line("control plane", answers, &format!("process {} {how} {endpoint}", process.pid));
        }
        (Some(process), None) => {
            line(
                "control plane",
                true,
                &format!("process {} (not started by lighter up)", process.pid),
            );
        }
        (None, _) => line("control plane", false, "not running"),
    }
    match agent(&layout).await? {
        Some(info) => {
            let pid = info.pid;
            match (info.cluster, info.container_instance) {
                (Some(cluster), Some(instance)) => {
                    let connected = match &settings {
                        Some(settings) => {
                            control_plane::is_connected(settings, &instance).await.unwrap_or(false)
                        }
                        None => false,
                    };
                    let how = if connected { "connected" } else { "disconnected" };
                    let state = format!("process {pid} in cluster {cluster}, {how}: {instance}");
                    line("agent", connected, &state);
                }
                (Some(cluster), None) => {
                    line(
                        "agent",
                        false,
                        &format!("process {pid} registers with cluster {cluster}"),
                    );
                }
                (None, _) => line("agent", false, &format!("process {pid} on no control plane")),
            }
        }
        None => line("agent", false, "not running"),
    }
    output::print(&text)?;
    Ok(code)
}
