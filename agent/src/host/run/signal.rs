//! `Signal`: the image's stop signal, or SIGKILL.

use std::str::FromStr;
use std::sync::Arc;

use nix::sys::signal::Signal;
use protocol::monitor::{Call, FailureKind};

use crate::engine::{Image, Task};
use crate::error::chain;
use crate::host::hands::Hands;
use crate::monitor::Error;

pub(super) async fn send(hands: &Arc<Hands>, task: &Task, container: usize, kill: bool) {
    let Some(definition) = task.container_definition(container) else { return };
    let signal = if kill { libc::SIGKILL } else { stop_signal(hands, task, container).await };
    let call = Call::Kill { container: definition.name.clone(), signal, all: kill };
    let sent = match hands.link(task).await {
        Ok(link) => link.call(call).await.map(drop),
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) => {}
        // It was never created, or is gone already; its end is observed either way.
        Err(Error::Refused(failure)) if failure.kind == FailureKind::NotFound => {}
        Err(error) => {
            tracing::warn!(
                task = %task.id, container = definition.name, signal, error = chain(&error),
                "cannot signal a container"
            );
        }
    }
}

async fn stop_signal(hands: &Arc<Hands>, task: &Task, container: usize) -> i32 {
    let Some(Image::Ready { id, .. }) = task.containers.get(container).map(|c| c.image.clone())
    else {
        return libc::SIGTERM;
    };
    let images = hands.images().clone();
    let image = super::blocking(move || images.find(&id).map_err(|error| chain(&error))).await;
    let name = image.ok().flatten().and_then(|image| image.config.stop_signal);
    match name.as_deref().map(parse) {
        Some(Some(signal)) => signal,
        Some(None) => {
            tracing::warn!(task = %task.id, ?name, "unknown stop signal of the image, SIGTERM is sent");
            libc::SIGTERM
        }
        None => libc::SIGTERM,
    }
}

/// Docker's forms: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
fn parse(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(offset), _) => Some((libc::SIGRTMIN(), offset)),
        (_, Some(offset)) => Some((libc::SIGRTMAX(), offset)),
        (None, None) => None,
    };
    if let Some((base, offset)) = real_time {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
        let number = base.checked_add(offset)?;
        return (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_form_docker_takes() {
        for (text, signal) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("rtmax-1", Some(libc::SIGRTMAX() - 1)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+99", None),
            ("SIGNONSENSE", None),
            ("", None),
        ] {
            assert_eq!(parse(text), signal, "{text}");
        }
    }
}
