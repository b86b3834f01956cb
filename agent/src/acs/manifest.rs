//! `TaskManifestMessage`: all tasks that should exist here, and the question which of the others
//! must really stop. Source: protocol reference §7.6.
//!
//! A manifest counts only if its number is above every one before it and above the last payload's;
//! the number is stored before the manifest is acknowledged, so that a stale one is known after a
//! restart, too. Which tasks stop is never decided here: the control plane confirms each.

use std::collections::BTreeSet;

use protocol::acs::{
    AgentMessage, TaskIdentifier, TaskManifest, TaskStopVerification, TaskStopVerificationAck,
};
use serde::{Deserialize, Serialize};

use super::{Context, ack, payload};
use crate::engine::TaskEvent;
use crate::error::chain;
use crate::registration::with_store;
use crate::store::{self, Batch, Store, Table};

/// Row of the host table with the last manifest's number.
const ROW: &str = "task-manifest";

/// What is remembered of manifests. Owner: the session.
#[derive(Debug)]
pub struct Manifests {
    /// Greatest number of a manifest or payload.
    number: i64,
    /// The manifest whose question is open.
    asked: Option<String>,
}

/// The number belongs to one instance; another counts anew.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    instance: String,
    number: i64,
}

impl Manifests {
    /// What an earlier agent remembered. Blocks.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load(store: &Store, instance: &str) -> Result<Self, store::Error> {
        // Other rows of the table are of other types, which is told per row.
        let rows: store::Rows<Row> = store.load(Table::Host)?;
        let row = rows.into_iter().find(|(key, _)| key == ROW).map(|(_, row)| row).transpose()?;
        let number = row.filter(|row| row.instance == instance).map_or(-1, |row| row.number);
        Ok(Self { number, asked: None })
    }

    /// A payload with this number has come: manifests up to it are stale.
    pub(super) fn passed(&mut self, number: i64) {
        self.number = self.number.max(number);
    }
}

pub(super) async fn handle(
    context: &Context,
    manifests: &mut Manifests,
    message: TaskManifest,
) -> Vec<AgentMessage> {
    let number = message.timeline.unwrap_or_default();
    if number <= manifests.number {
        tracing::debug!(number, last = manifests.number, "a stale manifest; dropped");
        return Vec::new();
    }
    let row = Row { instance: context.identity.container_instance_arn.clone(), number };
    let stored = with_store(&context.store, move |store| {
        let mut batch = Batch::default();
        batch.put(Table::Host, ROW, &row)?;
        store.commit(batch)
    });
    if let Err(error) = stored.await {
        tracing::warn!(error = chain(&error), "cannot store a manifest's number; dropped");
        return Vec::new();
    }
    manifests.number = number;
    manifests.asked = message.message_id.clone();
    let running: BTreeSet<&str> = message
        .tasks
        .iter()
        .filter(|task| task.desired_status.as_deref() == Some("RUNNING"))
        .filter_map(|task| task.task_arn.as_deref())
        .collect();
    let candidates: Vec<TaskIdentifier> = payload::wanted(&context.snapshots.borrow())
        .iter()
        .filter_map(|task| task.ecs.as_ref())
        .filter(|ecs| !running.contains(ecs.arn.as_str()))
        .map(|ecs| TaskIdentifier {
            task_arn: Some(ecs.arn.clone()),
            task_cluster_arn: Some(ecs.cluster_arn.clone()),
            desired_status: Some("STOPPED".to_owned()),
        })
        .collect();
    let mut answers =
        vec![ack(message.cluster_arn, message.container_instance_arn, message.message_id.clone())];
    if !candidates.is_empty() {
        answers.push(AgentMessage::TaskStopVerificationMessage(TaskStopVerification {
            message_id: message.message_id,
            stop_candidates: candidates,
        }));
    }
    answers
}

/// The answer to the question; an answer to another one changes nothing.
pub(super) async fn stop_verified(
    context: &Context,
    manifests: &mut Manifests,
    message: TaskStopVerificationAck,
) {
    if message.message_id.is_none() || message.message_id != manifests.asked {
        tracing::warn!("a verification of stops that was not asked for; dropped");
        return;
    }
    manifests.asked = None;
    for task in message.stop_tasks {
        let Some(known) = task.task_arn.as_deref().and_then(|arn| context.find(arn)) else {
            continue;
        };
        tracing::info!(task = %known.id, "the control plane does not know this task; it stops");
        if let Err(error) = context.ask(known.id.clone(), TaskEvent::StopRequested).await {
            tracing::warn!(task = %known.id, error = chain(&error), "cannot store a stop");
        }
    }
}
