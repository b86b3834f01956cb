//! ACS, the control plane's word to this host: one WebSocket that the agent keeps open.
//!
//! [`session`] connects, watches over the connection and reads; each message has a file with its
//! handler, which is given the message and says what to answer. Handlers run one after the other in
//! the order of the messages. What is acknowledged is stored: an answer is made only after the
//! owner has committed. Source: protocol reference §6 to §8.
//!
//! | Message | Answer | File |
//! |---|---|---|
//! | `PayloadMessage` | ack, and one per set of credentials | [`payload`] |
//! | `IAMRoleCredentialsMessage` | its ack | [`role`] |
//! | `TaskManifestMessage` | ack, perhaps a question | [`manifest`] |
//! | `TaskStopVerificationAck` | none | [`manifest`] |
//! | `HeartbeatMessage` | its ack | here |
//! | `StageUpdateMessage`, `PerformUpdateMessage` | nack: packages update this agent | here |
//! | `Attach…`, `ConfirmAttachmentMessage` | none: nothing is attached to this host | here |

pub mod manifest;
pub mod payload;
pub mod role;
pub mod session;

use std::sync::Arc;

use protocol::acs::{Ack, Addressed, AgentMessage, ServerMessage, Update};
use protocol::ids::TaskId;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::credentials::Credentials;
use crate::engine::TaskEvent;
use crate::host::Input;
use crate::host::view::Snapshot;
use crate::identity::Identity;
use crate::store::Store;

use self::manifest::Manifests;

/// What handlers work with.
#[derive(Debug, Clone)]
pub struct Context {
    pub identity: Arc<Identity>,
    pub inbox: mpsc::Sender<Input>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub credentials: Credentials,
    pub store: Arc<Store>,
    /// How images of tasks are fetched.
    pub pull: crate::api::types::PullPolicy,
    /// Rung at each heartbeat, upon which the host looks at its own health.
    pub heartbeat: Arc<Notify>,
}

/// The owner did not store it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the agent is ending")]
    Ending,
    #[error("{0}")]
    Refused(String),
}

impl Context {
    /// Tells the owner something about a task; it is stored when this returns.
    async fn ask(&self, task: TaskId, event: TaskEvent) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.inbox
            .send(Input::Ask { task, event, reply })
            .await
            .map_err(|_closed| Error::Ending)?;
        answer.await.map_err(|_closed| Error::Ending)?.map(|_view| ()).map_err(Error::Refused)
    }

    /// The task with this ARN.
    fn find(&self, arn: &str) -> Option<Arc<crate::engine::Task>> {
        let snapshot = self.snapshots.borrow();
        let by_id = payload::task_id(arn).and_then(|id| snapshot.states.get(&id));
        let is_it =
            |task: &Arc<crate::engine::Task>| task.ecs.as_ref().is_some_and(|ecs| ecs.arn == arn);
        by_id.filter(|task| is_it(task)).cloned().or_else(|| {
            // One whose ARN ends in no id stands under another.
            snapshot.states.get(&payload::stand_in(arn)).filter(|task| is_it(task)).cloned()
        })
    }
}

/// What a message leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answers: Vec<AgentMessage>,
    /// The control plane ended the session with this exception.
    pub exception: Option<(String, String)>,
}

/// Handles one message.
pub async fn handle(
    context: &Context,
    manifests: &mut Manifests,
    message: ServerMessage,
) -> Outcome {
    let answers = match message {
        ServerMessage::HeartbeatMessage(heartbeat) => {
            context.heartbeat.notify_one();
            let heartbeat = protocol::acs::Heartbeat { healthy: None, ..heartbeat };
            vec![AgentMessage::HeartbeatAckRequest(heartbeat)]
        }
        ServerMessage::PayloadMessage(message) => {
            payload::handle(context, manifests, message).await
        }
        ServerMessage::IamRoleCredentialsMessage(message) => role::handle(context, message).await,
        ServerMessage::TaskManifestMessage(message) => {
            manifest::handle(context, manifests, message).await
        }
        ServerMessage::TaskStopVerificationAck(message) => {
            manifest::stop_verified(context, manifests, message).await;
            Vec::new()
        }
        ServerMessage::StageUpdateMessage(update) | ServerMessage::PerformUpdateMessage(update) => {
            refuse_update(update)
        }
        ServerMessage::AttachTaskNetworkInterfacesMessage(message)
        | ServerMessage::AttachInstanceNetworkInterfacesMessage(message)
        | ServerMessage::ConfirmAttachmentMessage(message) => {
            refuse_attachment(&message);
            Vec::new()
        }
        ServerMessage::CloseMessage(text) => {
            tracing::info!(message = text.message, "the control plane closes the session");
            Vec::new()
        }
        ServerMessage::ErrorMessage(text) => {
            tracing::warn!(message = text.message, "the control plane reports an error");
            Vec::new()
        }
        ServerMessage::Exception { kind, message } => {
            let exception = Some((kind, message.message.unwrap_or_default()));
            return Outcome { answers: Vec::new(), exception };
        }
        ServerMessage::Unknown { kind } => {
            tracing::info!(kind, "the control plane sent a message of an unknown type; dropped");
            Vec::new()
        }
    };
    Outcome { answers, exception: None }
}

/// An acknowledgement; what it repeats is the message's.
fn ack(cluster: Option<String>, instance: Option<String>, message: Option<String>) -> AgentMessage {
    AgentMessage::AckRequest(Ack {
        cluster,
        container_instance: instance,
        message_id: message,
        reason: None,
    })
}

fn refuse_update(update: Update) -> Vec<AgentMessage> {
    vec![AgentMessage::NackRequest(Ack {
        cluster: update.cluster_arn,
        container_instance: update.container_instance_arn,
        message_id: update.message_id,
        reason: Some("Updates are disabled".to_owned()),
    })]
}

/// Without an ack the control plane gives up on the attachment and fails its task, which is right:
/// an ack would promise a device that never comes.
fn refuse_attachment(message: &Addressed) {
    tracing::warn!(
        task = message.task_arn,
        "the control plane attaches a device, which this agent does not take; not acknowledged"
    );
}
