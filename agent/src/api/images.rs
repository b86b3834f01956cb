//! Images over the API: handlers of `/v1/image` and `/v1/images`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path as Captured, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::server::{Api, Given, Refusal, lines, off_reactor};
use super::types::{
    GivenLogin, HistoryView, ImageDetail, KeepImage, PruneImages, PrunedImages, PullEvent,
    PullImage, PushEvent, PushImage, SaveImages, TagImage,
};
use crate::error::chain;
use crate::image::{Error, Loaded, PullRequest, Store};

/// Progress lines that wait for a slow reader; more are dropped, the last one never.
const PROGRESS: usize = 1024;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/image", get(inspect))
        .route("/v1/image/history", get(history))
        .route("/v1/images", get(images))
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/keep", post(keep))
        .route("/v1/images/load", post(load))
        .route("/v1/images/save", post(save))
        .route("/v1/images/push", post(push))
        .route("/v1/images/tag", post(tag))
        .route("/v1/images/prune", post(prune))
        .route("/v1/images/{*reference}", delete(remove_image))
}

/// Asks the store; an image that is not there is no fault of the agent's.
async fn ask<T: Send + 'static>(
    api: &Api,
    question: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, Refusal> {
    let store = api.hands.images().clone();
    match tokio::task::spawn_blocking(move || question(&store)).await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(error @ Error::Unknown { .. })) => Err(Refusal::not_found(chain(&error))),
        Ok(Err(error)) => Err(Refusal::internal(chain(&error))),
        Err(failed) => Err(Refusal::internal(failed.to_string())),
    }
}

#[derive(Debug, Deserialize)]
struct ReferenceQuery {
    reference: String,
}

async fn inspect(
    State(api): State<Api>,
    Query(ReferenceQuery { reference }): Query<ReferenceQuery>,
) -> Result<Json<ImageDetail>, Refusal> {
    ask(&api, move |store| store.inspect(&reference)).await
}

async fn history(
    State(api): State<Api>,
    Query(ReferenceQuery { reference }): Query<ReferenceQuery>,
) -> Result<Json<Vec<HistoryView>>, Refusal> {
    ask(&api, move |store| store.history(&reference)).await
}

async fn tag(
    State(api): State<Api>,
    Given(TagImage { source, target }): Given<TagImage>,
) -> Result<Json<()>, Refusal> {
    ask(&api, move |store| store.tag(&source, &target)).await
}

/// The work ends with the connection.
async fn save(
    State(api): State<Api>,
    Given(SaveImages { references, path }): Given<SaveImages>,
) -> Result<Json<()>, Refusal> {
    let cancel = tokio_util::sync::CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let path = PathBuf::from(path);
    ask(&api, move |store| store.save(&references, &path, &|| cancel.is_cancelled())).await
}

async fn prune(
    State(api): State<Api>,
    Given(request): Given<PruneImages>,
) -> Result<Json<PrunedImages>, Refusal> {
    let snapshots = api.snapshots.clone();
    ask(&api, move |store| store.prune(&request, &|id| snapshots.borrow().images.contains(id)))
        .await
}

async fn images(State(api): State<Api>) -> Result<Response, Refusal> {
    let store = api.hands.images().clone();
    let images = off_reactor(move || store.list().map_err(|error| chain(&error))).await?;
    Ok(Json(images).into_response())
}

async fn pull(State(api): State<Api>, Given(request): Given<PullImage>) -> Response {
    progress(move |report| async move {
        let PullImage { reference, platform, login, keep, all_tags } = request;
        let login = match login.map(GivenLogin::into_login).transpose() {
            Ok(login) => login,
            Err(error) => {
                let _ = report.send(PullEvent::Failed { reference, message: chain(&error) }).await;
                return;
            }
        };
        let registries = api.hands.pulls().registries();
        let names = match all_tags {
            true => Store::tags_at_registry(&reference, login.clone(), registries).await,
            false => Ok(vec![reference.clone()]),
        };
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                let _ = report.send(PullEvent::Failed { reference, message: chain(&error) }).await;
                return;
            }
        };
        for name in names {
            let (platform, login) = (platform.clone(), login.clone());
            let request = PullRequest { platform, login, ..PullRequest::of(&name) };
            let last = pull_one(&api, request, keep, &report).await;
            let failed = matches!(last, PullEvent::Failed { .. });
            if report.send(last).await.is_err() || failed {
                return;
            }
        }
    })
}

async fn pull_one(
    api: &Api,
    request: PullRequest,
    keep: bool,
    report: &mpsc::Sender<PullEvent>,
) -> PullEvent {
    let reference = request.reference.clone();
    match api.hands.pulls().pull(request, sink(report.clone())).await {
        Ok(pulled) => {
            let name = reference.clone();
            let kept =
                ask(api, move |store| if keep { store.keep(&name, true) } else { Ok(false) });
            match kept.await {
                Ok(_changed) => PullEvent::Done { reference, digest: pulled.image.digest },
                Err(refusal) => PullEvent::Failed { reference, message: refusal.message() },
            }
        }
        Err(failure) => PullEvent::Failed { reference, message: chain(&failure.error) },
    }
}

async fn keep(
    State(api): State<Api>,
    Given(KeepImage { reference, keep }): Given<KeepImage>,
) -> Result<Json<bool>, Refusal> {
    ask(&api, move |store| {
        // While it is leased nothing takes it before the mark stands.
        let found = store.lease(&reference)?;
        let changed = (!keep || found.is_some()) && store.keep(&reference, keep)?;
        if changed || found.is_some() { Ok(changed) } else { Err(Error::Unknown { reference }) }
    })
    .await
}

async fn push(State(api): State<Api>, Given(request): Given<PushImage>) -> Response {
    progress(move |report| async move {
        let PushImage { reference, all_tags, login } = request;
        let registries = api.hands.pulls().registries();
        let pushed = async {
            let login = login.map(GivenLogin::into_login).transpose()?;
            let images = api.hands.images();
            images.push(&reference, all_tags, login, registries, report.clone()).await
        };
        if let Err(error) = pushed.await {
            let _ = report.send(PushEvent::Failed { message: chain(&error) }).await;
        }
    })
}

#[derive(Debug, Deserialize)]
struct LoadQuery {
    path: PathBuf,
}

async fn load(State(api): State<Api>, Query(LoadQuery { path }): Query<LoadQuery>) -> Response {
    progress(move |report| async move {
        let reference = path.display().to_string();
        match api
            .hands
            .images()
            .load(&path, api.hands.pulls().registries(), sink(report.clone()))
            .await
        {
            Ok(all) => {
                for (reference, digest) in all.iter().flat_map(Loaded::told) {
                    let _ = report.send(PullEvent::Done { reference, digest }).await;
                }
            }
            Err(error) => {
                let failed = PullEvent::Failed { reference, message: chain(&error) };
                let _ = report.send(failed).await;
            }
        }
    })
}

/// `Done` and `Failed` are the handler's to say, once and last.
fn sink(report: mpsc::Sender<PullEvent>) -> crate::image::Progress {
    Arc::new(move |event| {
        if !matches!(event, PullEvent::Done { .. } | PullEvent::Failed { .. }) {
            let _ = report.try_send(event);
        }
    })
}

/// Streams what the work reports. The work ends with the connection.
fn progress<T, F, W>(work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PROGRESS);
    let work = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(work(sender)));
    lines(stream::unfold((receiver, work), |(mut receiver, work)| async move {
        receiver.recv().await.map(|event| (event, (receiver, work)))
    }))
}

#[derive(Debug, Deserialize)]
struct RemoveImageQuery {
    force: Option<String>,
}

async fn remove_image(
    State(api): State<Api>,
    Captured(reference): Captured<String>,
    Query(query): Query<RemoveImageQuery>,
) -> Result<Response, Refusal> {
    let store = api.hands.images().clone();
    let snapshots = api.snapshots.clone();
    let force = query.force.is_some_and(|value| value != "false");
    let removed = tokio::task::spawn_blocking(move || {
        let in_use = |id: &str| snapshots.borrow().images.contains(id);
        let removed = store.remove(&reference, force, &in_use)?;
        // Who removes an image by hand does not want it kept.
        for name in &removed.untagged {
            store.keep(name, false)?;
        }
        Ok(removed)
    });
    match removed.await {
        Ok(Ok(removed)) => Ok(Json(removed).into_response()),
        // A damaged image is none to use, but one to remove.
        Ok(Err(error @ Error::Unknown { .. })) => Err(Refusal::not_found(chain(&error))),
        Ok(Err(error)) => Err(Refusal::conflict(chain(&error))),
        Err(failed) => Err(Refusal::internal(failed.to_string())),
    }
}
