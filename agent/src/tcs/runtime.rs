//! The health of this host's container runtime, as `PublishInstanceStatus` tells it.
//!
//! Checked at the start and whenever a heartbeat of ACS arrives, by asking the engine's owner, through whom every task
//! is started and stopped: it is well if it answers within [`PATIENCE`], and ill if it does not or
//! cannot store its state. Source: protocol reference §10.6.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::tcs::InstanceStatus;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::host::Input;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A check's outcome. The reason says why it is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub ill: Option<String>,
    /// When it was checked last.
    pub checked: Timestamp,
    /// When it became so.
    pub since: Timestamp,
}

impl Health {
    /// In the protocol's words.
    pub fn status(&self) -> InstanceStatus {
        let status = if self.ill.is_none() { "OK" } else { "IMPAIRED" };
        InstanceStatus {
            kind: Some("ContainerRuntime".to_owned()),
            status: Some(status.to_owned()),
            status_reason: self.ill.clone(),
            last_updated: Some(self.checked.into()),
            last_status_change: Some(self.since.into()),
        }
    }

    /// The next outcome.
    fn follow(before: Option<&Self>, ill: Option<String>, now: Timestamp) -> Self {
        let same = before.filter(|before| before.ill.is_none() == ill.is_none());
        Self { ill, checked: now, since: same.map_or(now, |before| before.since) }
    }
}

/// Checks now and at every heartbeat, for as long as the future lives.
pub async fn watch(
    inbox: mpsc::Sender<Input>,
    heartbeat: Arc<Notify>,
    outcome: watch::Sender<Option<Health>>,
) {
    loop {
        let ill = check(&inbox, PATIENCE).await.err();
        let now = Timestamp::now();
        let health = Health::follow(outcome.borrow().as_ref(), ill, now);
        outcome.send_replace(Some(health));
        heartbeat.notified().await;
    }
}

async fn check(inbox: &mpsc::Sender<Input>, patience: Duration) -> Result<(), String> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        inbox.send(Input::Ping { reply }).await.map_err(|_closed| "the engine has ended")?;
        answer.await.map_err(|_closed| "the engine has ended".to_owned())?
    };
    tokio::time::timeout(patience, asked)
        .await
        .unwrap_or_else(|_elapsed| Err(format!("the engine has not answered for {patience:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_status_changes_when_health_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ill = |text: &str| Some(text.to_owned());
        let mut health = None;
        for (now, reason, status, since) in [
            (1, None, "OK", 1),
            (2, None, "OK", 1),
            (3, ill("a"), "IMPAIRED", 3),
            (4, ill("b"), "IMPAIRED", 3),
            (5, None, "OK", 5),
        ] {
            let next = Health::follow(health.as_ref(), reason.clone(), at(now));
            let told = next.status();
            assert_eq!(told.status.as_deref(), Some(status));
            assert_eq!(told.status_reason, reason);
            assert_eq!(told.last_updated, Some(at(now).into()));
            assert_eq!(told.last_status_change, Some(at(since).into()));
            health = Some(next);
        }
    }

    #[tokio::test]
    async fn an_engine_that_answers_is_well() {
        let (inbox, mut inputs) = mpsc::channel(1);
        let engine = tokio::spawn(async move {
            for answer in [Ok(()), Err("no space".to_owned())] {
                let Some(Input::Ping { reply }) = inputs.recv().await else { return };
                let _ = reply.send(answer);
            }
        });
        assert_eq!(check(&inbox, PATIENCE).await, Ok(()));
        assert_eq!(check(&inbox, PATIENCE).await, Err("no space".to_owned()));
        engine.await.unwrap();
        assert_eq!(check(&inbox, PATIENCE).await, Err("the engine has ended".to_owned()));
    }

    #[tokio::test]
    async fn an_engine_that_is_stuck_is_ill() {
        let (inbox, _inputs) = mpsc::channel(1);
        let ill = check(&inbox, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(ill, "the engine has not answered for 10ms");
    }
}
