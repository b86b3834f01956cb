//! `ResolveImage`: the image by the task's pull policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::api::types::{PullEvent, PullPolicy};
use crate::engine::Task;
use crate::error::chain;
use crate::host::hands::Hands;
use crate::image::{Image, PullRequest};

/// How long a registry may be silent when an image is here already.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) async fn resolve(
    hands: &Arc<Hands>,
    task: &Task,
    container: usize,
) -> Result<Image, String> {
    let fail = |text: String| format!("CannotPullContainerError: {text}");
    let Some(definition) = task.container_definition(container) else {
        return Err(fail("no such container".to_owned()));
    };
    let reference = definition.image.clone();
    let mut here = None;
    if task.pull != PullPolicy::Always {
        let (images, wanted) = (hands.images().clone(), reference.clone());
        here = super::blocking(move || images.find(&wanted).map_err(|e| chain(&e)))
            .await
            .map_err(fail)?;
        // A digest names one image for ever.
        let certain = task.pull != PullPolicy::Refresh || reference.contains('@');
        if certain && let Some(image) = here {
            return Ok(image);
        }
        if task.pull == PullPolicy::Never {
            return Err(fail(format!(
                "image {reference} is not on this host, and the task may not pull it (--pull never)"
            )));
        }
    }
    let (shown, id) = (Arc::clone(hands), task.id.clone());
    let answers = Arc::new(AtomicBool::new(false));
    let answered = Arc::clone(&answers);
    let progress = Arc::new(move |event: PullEvent| {
        if matches!(event, PullEvent::Layer { .. }) {
            answered.store(true, Ordering::Relaxed);
        }
        shown.progress(&id, container, event);
    });
    let login = hands.logins().of(task, container).await?;
    let request = PullRequest { login, ..PullRequest::of(&reference) };
    let pull = hands.images().pull(request, hands.registries(), progress);
    let Some(here) = here else {
        return pull.await.map_err(|error| fail(chain(&error)));
    };
    tokio::pin!(pull);
    let mut first = tokio::time::timeout(ANSWER, &mut pull).await;
    if first.is_err() && answers.load(Ordering::Relaxed) {
        // There is something newer, and it comes.
        first = Ok(pull.await);
    }
    let why = match first {
        Ok(Ok(image)) => return Ok(image),
        Ok(Err(error)) => chain(&error),
        Err(_elapsed) => format!("no answer within {} s", ANSWER.as_secs()),
    };
    tracing::info!(task = %task.id, image = reference, why, "cannot refresh an image; the one that is here will do");
    Ok(here)
}
