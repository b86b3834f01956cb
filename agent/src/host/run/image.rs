//! `ResolveImage`: the image by the task's pull policy, with ECS's words for why there is none.

use std::sync::Arc;
use std::time::Duration;

use crate::api::types::{PullEvent, PullPolicy};
use crate::backend::backoff::{self, Schedule};
use crate::engine::Task;
use crate::error::chain;
use crate::host::hands::Hands;
use crate::host::pulls::{AtHand, Error, Failure, Leased};
use crate::image::{self, PullRequest, auth};

/// As Amazon's agent: attempts for a task of a control plane, and the pauses between them.
const ATTEMPTS: u32 = 5;
const PAUSES: Schedule = Schedule {
    first: Duration::from_millis(1100),
    last: Duration::from_secs(5),
    factor: 2.0,
    jitter: 0.2,
};

pub(super) async fn resolve(
    hands: &Arc<Hands>,
    task: &Task,
    container: usize,
) -> Result<Leased, String> {
    let Some(definition) = task.container_definition(container) else {
        return Err("CannotPullContainerError: no such container".to_owned());
    };
    let reference = definition.image.as_str();
    let pulls = hands.pulls();
    let AtHand { image: here, enough, doubt } = if task.pull == PullPolicy::Always {
        AtHand::default()
    } else {
        let failed = |error| reason(&Failure { error, resolved: true }, task.pull, reference, "");
        pulls.at_hand(task.pull, reference).await.map_err(failed)?
    };
    let here = match here {
        Some(here) if enough => return in_use(hands, here).await,
        here => here,
    };
    if task.pull == PullPolicy::Never {
        let why = doubt.map_or_else(
            || format!("image {reference} is not on this host"),
            |doubt| chain(&doubt),
        );
        return Err(format!(
            "CannotPullContainerError: {why}, and the task may not pull it (--pull never)"
        ));
    }
    // Without its registry it will not do.
    let alone = doubt.map_or_else(String::new, |doubt| {
        format!("; the image that is on this host may not be used instead: {}", chain(&doubt))
    });
    let (shown, id) = (Arc::clone(hands), task.id.clone());
    let progress: image::Progress =
        Arc::new(move |event: PullEvent| shown.progress(&id, container, event));
    // Who waits at a terminal tries again himself.
    let attempts = if task.ecs.is_some() && here.is_none() { ATTEMPTS } else { 1 };
    let login = match hands.logins().of(task, container).await {
        Ok(login) => login,
        Err(error) => {
            let why = format!("{}: {}", error.name(), chain(&error));
            // As with Amazon's agent, a secret that cannot be read ends the task, image or not.
            return match here.filter(|_| !matches!(error, auth::Error::Secret(_))) {
                Some(here) if task.pull == PullPolicy::Refresh => {
                    will_do(task, reference, &why);
                    in_use(hands, here).await
                }
                _ => Err(format!("{why}{alone}")),
            };
        }
    };
    let request = PullRequest { login, ..PullRequest::of(reference) };
    let mut failures = 0;
    let failure = loop {
        match pulls.pull(request.clone(), Arc::clone(&progress)).await {
            Ok(pulled) => return in_use(hands, pulled).await,
            Err(failure) => {
                failures += 1;
                let again = matches!(&failure.error, Error::Image(error) if error.is_transient());
                if failures >= attempts || !again {
                    break failure;
                }
            }
        }
        tokio::time::sleep(PAUSES.pause(failures, backoff::random())).await;
    };
    // What is here may be older than the policy.
    let untrusted = matches!(&failure.error, Error::Image(error) if error.is_untrusted());
    match here {
        Some(here) if task.pull == PullPolicy::Refresh && !untrusted => {
            will_do(task, reference, &chain(&failure.error));
            in_use(hands, here).await
        }
        _ => {
            let advice = match &failure.error {
                Error::Image(error) if error.is_refusal() => hands.logins().advice(task, reference),
                _ => String::new(),
            };
            let alone = if untrusted { "" } else { alone.as_str() };
            Err(format!("{}{alone}", reason(&failure, task.pull, reference, &advice)))
        }
    }
}

fn will_do(task: &Task, image: &str, why: &str) {
    tracing::info!(task = %task.id, image, why, "cannot refresh an image; the one that is here will do");
}

async fn in_use(hands: &Arc<Hands>, leased: Leased) -> Result<Leased, String> {
    note_use(hands, &leased.image.id).await;
    Ok(leased)
}

/// Notes the use of an image, which only the order of collection depends on.
pub(super) async fn note_use(hands: &Arc<Hands>, image: &str) {
    let (images, id) = (hands.images().clone(), image.to_owned());
    let noted = super::blocking(move || images.note_use(&id).map_err(|error| chain(&error))).await;
    if let Err(error) = noted {
        tracing::warn!(image, error, "the use of an image is not noted");
    }
}

/// The error's name in ECS, and its text with advice before it.
fn reason(failure: &Failure, policy: PullPolicy, reference: &str, advice: &str) -> String {
    let strict = matches!(policy, PullPolicy::Always | PullPolicy::Once);
    let login = match &failure.error {
        Error::Image(error) => error.login(),
        Error::Inactive | Error::Timeout { .. } | Error::Internal(_) => None,
    };
    let name = match (&failure.error, login) {
        (_, Some(login)) => login.name(),
        (Error::Timeout { .. }, _) => "DockerTimeoutError",
        // It has the digest by then, and fails at the pull itself.
        (Error::Image(error), _) if error.is_of_manifest() => "CannotPullContainerError",
        // Where a pull's failure ends the task, Amazon's agent asks for the manifest first.
        _ if strict && !failure.resolved && !reference.contains('@') => {
            "CannotPullImageManifestError"
        }
        _ => "CannotPullContainerError",
    };
    format!("{name}: {advice}{}", chain(&failure.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_amazons_name() {
        let of_manifest = || {
            let (wanted, offered) = ("linux/amd64".to_owned(), "linux/arm64".to_owned());
            Error::Image(image::Error::NoPlatform { reference: "a".to_owned(), wanted, offered })
        };
        let late =
            || Error::Timeout { to: "MANIFEST_PULLED", after: std::time::Duration::from_secs(60) };
        let manifest = "CannotPullImageManifestError";
        let other = "CannotPullContainerError";
        for (error, resolved, policy, reference, name) in [
            (Error::Inactive, false, PullPolicy::Always, "a:1", manifest),
            (Error::Inactive, false, PullPolicy::Once, "a:1", manifest),
            (Error::Inactive, true, PullPolicy::Always, "a:1", other),
            (Error::Inactive, false, PullPolicy::Always, "a@sha256:1", other),
            (Error::Inactive, false, PullPolicy::Refresh, "a:1", other),
            (Error::Inactive, false, PullPolicy::Missing, "a:1", other),
            (of_manifest(), false, PullPolicy::Always, "a:1", other),
            (late(), false, PullPolicy::Always, "a:1", "DockerTimeoutError"),
        ] {
            let text = reason(&Failure { error, resolved }, policy, reference, "Look. ");
            assert!(text.starts_with(&format!("{name}: Look. ")), "{text}");
        }
    }
}
