//! ACS, the agent communication service: the messages between a control plane and an agent, both
//! ways, as the Amazon ECS agent (protocol version 2) speaks them over a WebSocket.
//!
//! A text frame holds one [`Frame`]: `{"type": …, "message": {…}}`. Unknown members are ignored;
//! absent and null are the same. An unknown type is [`Unknown`](ServerMessage::Unknown): who gets it
//! drops it and keeps the connection.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_with::skip_serializing_none;

pub mod payload;
mod task;

pub use task::*;

/// The envelope of ACS and TCS.
#[derive(Debug, Deserialize)]
pub struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub message: Option<&'a RawValue>,
}

/// A frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the frame is no JSON object with a type")]
    Envelope(#[source] serde_json::Error),
    #[error("the message of a {kind} is malformed")]
    Message { kind: String, source: serde_json::Error },
}

impl<'a> Frame<'a> {
    /// Splits a frame into type and message.
    ///
    /// # Errors
    /// If it is no envelope.
    pub fn parse(text: &'a str) -> Result<Self, FrameError> {
        serde_json::from_str(text).map_err(FrameError::Envelope)
    }

    /// Reads the message as `T`; an absent one as an empty object.
    ///
    /// # Errors
    /// If it is no object or a member has the wrong type.
    pub fn message<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        let text = self.message.map_or("{}", RawValue::get);
        // An array would be taken for the members in their order.
        let read = if text.starts_with('{') {
            serde_json::from_str(text)
        } else {
            Err(serde::de::Error::custom("it is no object"))
        };
        read.map_err(|source| FrameError::Message { kind: self.kind.to_string(), source })
    }
}

/// What a control plane sends.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", content = "message")]
pub enum ServerMessage {
    HeartbeatMessage(Heartbeat),
    PayloadMessage(Payload),
    #[serde(rename = "IAMRoleCredentialsMessage")]
    IamRoleCredentialsMessage(RoleCredentials),
    TaskManifestMessage(TaskManifest),
    TaskStopVerificationAck(TaskStopVerificationAck),
    AttachTaskNetworkInterfacesMessage(Addressed),
    AttachInstanceNetworkInterfacesMessage(Addressed),
    ConfirmAttachmentMessage(Addressed),
    StageUpdateMessage(Update),
    PerformUpdateMessage(Update),
    CloseMessage(Text),
    ErrorMessage(Text),
    /// A type nobody knows here.
    #[serde(skip)]
    Unknown {
        kind: String,
    },
    /// One of [`EXCEPTIONS`].
    #[serde(untagged)]
    Exception {
        #[serde(rename = "type")]
        kind: String,
        message: Text,
    },
}

/// Types of frames that end a session.
pub const EXCEPTIONS: [&str; 6] = [
    "AccessDeniedException",
    "BadRequestException",
    "InactiveInstanceException",
    "InvalidClusterException",
    "InvalidInstanceException",
    "ServerException",
];

impl ServerMessage {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it is no envelope, or the message of a known type is malformed.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let frame = Frame::parse(text)?;
        Ok(match &*frame.kind {
            "HeartbeatMessage" => Self::HeartbeatMessage(frame.message()?),
            "PayloadMessage" => Self::PayloadMessage(frame.message()?),
            "IAMRoleCredentialsMessage" => Self::IamRoleCredentialsMessage(frame.message()?),
            "TaskManifestMessage" => Self::TaskManifestMessage(frame.message()?),
            "TaskStopVerificationAck" => Self::TaskStopVerificationAck(frame.message()?),
            "AttachTaskNetworkInterfacesMessage" => {
                Self::AttachTaskNetworkInterfacesMessage(frame.message()?)
            }
            "AttachInstanceNetworkInterfacesMessage" => {
                Self::AttachInstanceNetworkInterfacesMessage(frame.message()?)
            }
            "ConfirmAttachmentMessage" => Self::ConfirmAttachmentMessage(frame.message()?),
            "StageUpdateMessage" => Self::StageUpdateMessage(frame.message()?),
            "PerformUpdateMessage" => Self::PerformUpdateMessage(frame.message()?),
            "CloseMessage" => Self::CloseMessage(frame.message()?),
            "ErrorMessage" => Self::ErrorMessage(frame.message()?),
            kind if EXCEPTIONS.contains(&kind) => {
                Self::Exception { kind: kind.to_owned(), message: frame.message()? }
            }
            kind => Self::Unknown { kind: kind.to_owned() },
        })
    }
}

/// What an agent sends.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", content = "message")]
pub enum AgentMessage {
    AckRequest(Ack),
    NackRequest(Ack),
    HeartbeatAckRequest(Heartbeat),
    #[serde(rename = "IAMRoleCredentialsAckRequest")]
    IamRoleCredentialsAckRequest(RoleCredentialsAck),
    TaskStopVerificationMessage(TaskStopVerification),
    /// A type nobody knows here.
    #[serde(skip)]
    Unknown {
        kind: String,
    },
}

impl AgentMessage {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it is no envelope, or the message of a known type is malformed.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let frame = Frame::parse(text)?;
        Ok(match &*frame.kind {
            "AckRequest" => Self::AckRequest(frame.message()?),
            "NackRequest" => Self::NackRequest(frame.message()?),
            "HeartbeatAckRequest" => Self::HeartbeatAckRequest(frame.message()?),
            "IAMRoleCredentialsAckRequest" => Self::IamRoleCredentialsAckRequest(frame.message()?),
            "TaskStopVerificationMessage" => Self::TaskStopVerificationMessage(frame.message()?),
            kind => Self::Unknown { kind: kind.to_owned() },
        })
    }
}

/// Keeps a session alive; also its answer, which repeats the id.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    pub message_id: Option<String>,
    pub healthy: Option<bool>,
}

/// A message that has nothing but a text.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Text {
    pub message: Option<String>,
}

/// Tasks to start or to stop.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Payload {
    pub message_id: Option<String>,
    pub cluster_arn: Option<String>,
    pub container_instance_arn: Option<String>,
    /// Read one by one ([`Task`]), so that one that cannot be read costs none of the others.
    #[serde(deserialize_with = "crate::null_as_default")]
    pub tasks: Vec<RawTask>,
    /// Milliseconds since the epoch.
    pub generated_at: Option<i64>,
    pub seq_num: Option<i64>,
    pub timeline: Option<i64>,
}

/// A task of a payload, unread.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawTask(pub Box<RawValue>);

impl PartialEq for RawTask {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Credentials of a task's role, outside a payload.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleCredentials {
    pub message_id: Option<String>,
    pub task_arn: Option<String>,
    pub task_cluster_arn: Option<String>,
    /// [`TASK_APPLICATION`] or [`TASK_EXECUTION`].
    pub role_type: Option<String>,
    pub role_credentials: Option<Credentials>,
}

/// `roleType` of the credentials that containers get.
pub const TASK_APPLICATION: &str = "TaskApplication";
/// `roleType` of the credentials that the agent itself uses for a task.
pub const TASK_EXECUTION: &str = "TaskExecution";

/// Received [`RoleCredentials`], or credentials of a payload (with the payload's id).
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleCredentialsAck {
    pub message_id: Option<String>,
    pub credentials_id: Option<String>,
    pub expiration: Option<String>,
}

/// Every task that should exist on the instance.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskManifest {
    pub message_id: Option<String>,
    pub cluster_arn: Option<String>,
    pub container_instance_arn: Option<String>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub tasks: Vec<TaskIdentifier>,
    pub generated_at: Option<i64>,
    /// Counts up; an older manifest than the newest message is stale.
    pub timeline: Option<i64>,
}

/// A task in a manifest or a verification.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskIdentifier {
    pub task_arn: Option<String>,
    pub task_cluster_arn: Option<String>,
    /// `RUNNING` or `STOPPED`.
    pub desired_status: Option<String>,
}

/// The agent asks which of these it should really stop.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskStopVerification {
    /// The manifest's.
    pub message_id: Option<String>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub stop_candidates: Vec<TaskIdentifier>,
}

/// The answer: stop these.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskStopVerificationAck {
    pub message_id: Option<String>,
    pub generated_at: Option<i64>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub stop_tasks: Vec<TaskIdentifier>,
}

/// Members that every message to acknowledge has; of those that are acknowledged and not acted on.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Addressed {
    pub message_id: Option<String>,
    pub cluster_arn: Option<String>,
    pub container_instance_arn: Option<String>,
    pub task_arn: Option<String>,
}

/// A new version of the agent.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Update {
    pub message_id: Option<String>,
    pub cluster_arn: Option<String>,
    pub container_instance_arn: Option<String>,
    pub update_info: Option<UpdateInfo>,
}

/// Where it lies, and its SHA-256 in hexadecimal digits.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateInfo {
    pub location: Option<String>,
    pub signature: Option<String>,
}

/// Received; with `reason` (a Nack): and refused.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ack {
    /// The message's `clusterArn`.
    pub cluster: Option<String>,
    /// The message's `containerInstanceArn`.
    pub container_instance: Option<String>,
    pub message_id: Option<String>,
    pub reason: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_absent() {
        for text in [
            r#"{"type":"PayloadMessage","message":{"messageId":"m","tasks":null,"seqNum":null}}"#,
            r#"{"type":"TaskManifestMessage","message":{"messageId":"m","tasks":null}}"#,
            r#"{"type":"TaskStopVerificationAck","message":{"messageId":"m","stopTasks":null}}"#,
        ] {
            let absent = text.replace(r#","tasks":null"#, "").replace(r#","stopTasks":null"#, "");
            let message = ServerMessage::parse(text).unwrap();
            assert_eq!(message, ServerMessage::parse(&absent).unwrap(), "{text}");
        }
    }
}
