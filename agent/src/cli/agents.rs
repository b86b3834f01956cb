//! Asking an agent, and the next one where it goes away before it has answered: it may be another
//! command, which ends when it has done its own work, or be killed. What is asked is asked again, so
//! it is what may be done twice: a task is run by its id, images are removed and kept by those names
//! that are left.

use super::connect::Connection;
use super::{Failure, chain};

/// How many agents a command asks at most.
pub(super) const AGENTS: u32 = 4;
/// A question that stands for as long as there are agents.
pub(super) const EVERY: u32 = u32::MAX;

/// Asks up to `most` agents: the answer, and the connection to the agent that gave it.
pub(super) async fn ask<T>(
    most: u32,
    mut open: impl AsyncFnMut() -> Result<Connection, Failure>,
    mut question: impl AsyncFnMut(&Connection) -> Result<T, Failure>,
) -> Result<(Connection, T), Failure> {
    in_turn(most, async || {
        let connection = open().await?;
        match question(&connection).await {
            Ok(answer) => Ok((connection, answer)),
            Err(failure) => connection.close_after(Err(failure)).await,
        }
    })
    .await
}

async fn in_turn<T>(
    most: u32,
    mut ask: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    for _ in 1..most {
        match ask().await {
            Err(failure) if failure.is_lost_agent() => {
                tracing::debug!(error = chain(&failure.error), "look for another agent");
            }
            result => return result,
        }
    }
    ask().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::api::client::ClientError;
    use crate::cli::Error;

    fn refused(status: u16) -> Failure {
        ClientError::Refused { status, message: "no".to_owned() }.into()
    }

    /// What comes of asking agents that answer so, and how many are asked.
    async fn asked(
        most: u32,
        answers: impl IntoIterator<Item = Failure>,
    ) -> (Result<(), Failure>, u32) {
        let (mut answers, mut count) = (answers.into_iter(), 0);
        let result = in_turn(most, async || {
            count += 1;
            answers.next().map_or(Ok(()), Err)
        });
        (result.await, count)
    }

    #[tokio::test]
    async fn the_next_agent_is_asked_where_one_has_gone() {
        let ended = || Failure::from(Error::Ended { what: "pull a".to_owned() });
        let (result, count) = asked(AGENTS, [ended(), refused(503)]).await;
        assert!(result.is_ok());
        assert_eq!(count, 3);
    }

    #[tokio::test]
    async fn what_an_agent_refuses_no_other_is_asked() {
        let (result, count) = asked(AGENTS, [refused(404)]).await;
        assert_eq!((result.unwrap_err().error.to_string().as_str(), count), ("no", 1));
    }

    #[tokio::test]
    async fn not_more_agents_are_asked_than_may_be() {
        for most in [1, AGENTS] {
            let (result, count) = asked(most, (0..9).map(|_| refused(503))).await;
            assert!(result.unwrap_err().is_lost_agent());
            assert_eq!(count, most);
        }
    }
}
