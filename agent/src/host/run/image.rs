//! `ResolveImage`: the image by the task's pull policy.

use std::sync::Arc;

use crate::api::types::{PullEvent, PullPolicy};
use crate::engine::Task;
use crate::host::chain;
use crate::host::hands::Hands;
use crate::image::Image;

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
    if task.pull != PullPolicy::Always {
        let (images, wanted) = (hands.images().clone(), reference.clone());
        let found = super::blocking(move || images.find(&wanted).map_err(|e| chain(&e)))
            .await
            .map_err(fail)?;
        if let Some(image) = found {
            return Ok(image);
        }
        if task.pull == PullPolicy::Never {
            return Err(fail(format!(
                "image {reference} is not on this host, and the task may not pull it (--pull never)"
            )));
        }
    }
    let (shown, id) = (Arc::clone(hands), task.id.clone());
    let progress = Arc::new(move |event: PullEvent| shown.progress(&id, container, event));
    hands
        .images()
        .pull(&reference, None, hands.auth(), progress)
        .await
        .map_err(|error| fail(chain(&error)))
}
