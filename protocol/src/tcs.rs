//! TCS, the telemetry service: what an agent publishes about its tasks, and the answers.
//!
//! Frames from an agent are signed pseudo-HTTP messages: header lines, an empty line, then the JSON
//! envelope ([`split`]); frames to it are bare envelopes. The envelope is that of ACS
//! ([`crate::acs::Frame`]).

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::acs::{Frame, FrameError, Text};
use crate::time::EpochSeconds;

/// Splits what an agent sent into its header lines and its envelope. A frame that begins with `{`
/// has no headers.
pub fn split(frame: &str) -> (&str, &str) {
    match frame.find("\r\n\r\n") {
        Some(at) if !frame.starts_with('{') => {
            (frame.get(..at).unwrap_or(""), frame.get(at + 4..).unwrap_or(""))
        }
        _ => ("", frame),
    }
}

/// What an agent publishes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", content = "message")]
pub enum AgentMessage {
    PublishMetricsRequest(PublishMetrics),
    PublishHealthRequest(PublishHealth),
    PublishInstanceStatusRequest(PublishInstanceStatus),
    /// A type nobody knows here.
    #[serde(skip)]
    Unknown {
        kind: String,
    },
}

impl AgentMessage {
    /// Reads an envelope.
    ///
    /// # Errors
    /// If it is none, or the message of a known type is malformed.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let frame = Frame::parse(text)?;
        Ok(match &*frame.kind {
            "PublishMetricsRequest" => Self::PublishMetricsRequest(frame.message()?),
            "PublishHealthRequest" => Self::PublishHealthRequest(frame.message()?),
            "PublishInstanceStatusRequest" => Self::PublishInstanceStatusRequest(frame.message()?),
            kind => Self::Unknown { kind: kind.to_owned() },
        })
    }
}

/// What a control plane answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", content = "message")]
pub enum ServerMessage {
    AckPublishMetric(Text),
    AckPublishHealth(Text),
    AckPublishInstanceStatus(Text),
    HeartbeatMessage(Heartbeat),
    StopTelemetrySessionMessage(Text),
    ServerException(Text),
    BadRequestException(Text),
    ResourceValidationException(Text),
    InvalidParameterException(Text),
    /// A type nobody knows here.
    #[serde(skip)]
    Unknown {
        kind: String,
    },
}

impl ServerMessage {
    /// Reads an envelope.
    ///
    /// # Errors
    /// If it is none, or the message of a known type is malformed.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let frame = Frame::parse(text)?;
        Ok(match &*frame.kind {
            "AckPublishMetric" => Self::AckPublishMetric(frame.message()?),
            "AckPublishHealth" => Self::AckPublishHealth(frame.message()?),
            "AckPublishInstanceStatus" => Self::AckPublishInstanceStatus(frame.message()?),
            "HeartbeatMessage" => Self::HeartbeatMessage(frame.message()?),
            "StopTelemetrySessionMessage" => Self::StopTelemetrySessionMessage(frame.message()?),
            "ServerException" => Self::ServerException(frame.message()?),
            "BadRequestException" => Self::BadRequestException(frame.message()?),
            "ResourceValidationException" => Self::ResourceValidationException(frame.message()?),
            "InvalidParameterException" => Self::InvalidParameterException(frame.message()?),
            kind => Self::Unknown { kind: kind.to_owned() },
        })
    }
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    pub healthy: Option<bool>,
}

/// Who publishes, and whether more of the same batch follows.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub cluster: Option<String>,
    pub container_instance: Option<String>,
    /// The same for all messages of a batch.
    pub message_id: Option<String>,
    /// Instead of `message_id` in [`PublishInstanceStatus`].
    pub request_id: Option<String>,
    /// No task is tracked.
    pub idle: Option<bool>,
    /// The last message of the batch.
    pub fin: Option<bool>,
}

/// At most 10 tasks and 1 MiB.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishMetrics {
    pub metadata: Metadata,
    pub timestamp: Option<EpochSeconds>,
    pub task_metrics: Vec<TaskMetric>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskMetric {
    pub task_arn: Option<String>,
    pub cluster_arn: Option<String>,
    pub task_definition_family: Option<String>,
    pub task_definition_version: Option<String>,
    pub container_metrics: Vec<ContainerMetric>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerMetric {
    pub container_arn: Option<String>,
    pub container_name: Option<String>,
    /// Per cent of the whole instance.
    pub cpu_stats_set: Option<Statistic>,
    /// MiB.
    pub memory_stats_set: Option<Statistic>,
    pub network_stats_set: Option<NetworkStatistics>,
    pub storage_stats_set: Option<StorageStatistics>,
}

/// Over the samples since the last message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Statistic {
    pub min: f64,
    pub max: f64,
    pub sample_count: i64,
    pub sum: f64,
}

/// The same of counters. What exceeds 2^63-1 stands in the overflow members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CounterStatistic {
    pub min: i64,
    pub overflow_min: i64,
    pub max: i64,
    pub overflow_max: i64,
    pub sample_count: i64,
    pub sum: i64,
    pub overflow_sum: i64,
}

/// Bytes and packets since the interface exists.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatistics {
    pub rx_bytes: Option<CounterStatistic>,
    pub rx_dropped: Option<CounterStatistic>,
    pub rx_errors: Option<CounterStatistic>,
    pub rx_packets: Option<CounterStatistic>,
    pub tx_bytes: Option<CounterStatistic>,
    pub tx_dropped: Option<CounterStatistic>,
    pub tx_errors: Option<CounterStatistic>,
    pub tx_packets: Option<CounterStatistic>,
    pub rx_bytes_per_second: Option<Statistic>,
    pub tx_bytes_per_second: Option<Statistic>,
}

/// Bytes since the container runs.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StorageStatistics {
    pub read_size_bytes: Option<CounterStatistic>,
    pub write_size_bytes: Option<CounterStatistic>,
}

/// Results of container health checks.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishHealth {
    pub metadata: Metadata,
    pub timestamp: Option<EpochSeconds>,
    pub tasks: Vec<TaskHealth>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskHealth {
    pub task_arn: Option<String>,
    pub cluster_arn: Option<String>,
    pub task_definition_family: Option<String>,
    pub task_definition_version: Option<String>,
    pub containers: Vec<ContainerHealth>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerHealth {
    pub container_name: Option<String>,
    /// `HEALTHY`, `UNHEALTHY` or `UNKNOWN`.
    pub health_status: Option<String>,
    pub status_since: Option<EpochSeconds>,
    pub status_message: Option<String>,
}

/// Results of the instance's own health checks.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublishInstanceStatus {
    pub metadata: Metadata,
    pub timestamp: Option<EpochSeconds>,
    pub statuses: Vec<InstanceStatus>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `OK`, `IMPAIRED`, `INSUFFICIENT_DATA` or `INITIALIZING`.
    pub status: Option<String>,
    pub status_reason: Option<String>,
    pub last_updated: Option<EpochSeconds>,
    pub last_status_change: Option<EpochSeconds>,
}
