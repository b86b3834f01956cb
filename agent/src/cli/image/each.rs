//! Commands of several names: each is asked for once, also where the agent goes away meanwhile.

use std::cell::Cell;

use super::super::{Failure, output};
use crate::api::client::ClientError;

/// How far a command has come, for when it is begun anew with another agent.
#[derive(Debug, Default)]
pub(in crate::cli) struct Asked {
    names: Cell<usize>,
    refused: Cell<bool>,
}

impl Asked {
    /// Asks for each name, prints what `ask` answers, and tells of those that the agent refuses; the
    /// exit code.
    pub(super) async fn each(
        &self,
        names: &[String],
        ask: impl AsyncFn(&str) -> Result<String, ClientError>,
    ) -> Result<u8, Failure> {
        while let Some(name) = names.get(self.names.get()) {
            match ask(name).await {
                Ok(text) => output::print(&text)?,
                Err(error) if error.is_refusal() => {
                    self.refused.set(true);
                    output::tell(&format!("lighter: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            self.names.set(self.names.get() + 1);
        }
        Ok(self.refused.get().into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::cell::RefCell;

    use super::*;

    fn refusal() -> ClientError {
        ClientError::Refused { status: 404, message: "no such image".to_owned() }
    }

    #[tokio::test]
    async fn what_was_answered_is_not_asked_of_the_next_agent() {
        let asked = Asked::default();
        let heard = RefCell::new(Vec::new());
        let names = ["a", "none", "c", "d"].map(str::to_owned);
        let lost = Cell::new(true);
        let ask = async |name: &str| {
            heard.borrow_mut().push(name.to_owned());
            match name {
                "none" => Err(refusal()),
                "c" if lost.replace(false) => {
                    Err(ClientError::Decode { source: serde_json::from_str::<u8>("").unwrap_err() })
                }
                _ => Ok(String::new()),
            }
        };
        assert!(asked.each(&names, ask).await.is_err());
        assert_eq!(asked.each(&names, ask).await.unwrap(), 1);
        assert_eq!(heard.into_inner(), ["a", "none", "c", "c", "d"]);
    }

    #[tokio::test]
    async fn an_agent_that_ends_refuses_nothing() {
        let ending = || ClientError::Refused { status: 503, message: "it is ending".to_owned() };
        let asked = Asked::default();
        let names = ["a".to_owned()];
        assert!(asked.each(&names, async |_| Err(ending())).await.is_err());
        assert_eq!(asked.each(&names, async |_| Ok(String::new())).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_exit_code_tells_of_a_refusal() {
        let ask = async |name: &str| if name == "b" { Err(refusal()) } else { Ok(String::new()) };
        for (names, code) in [(vec!["a", "c"], 0), (vec!["a", "b", "c"], 1)] {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(Asked::default().each(&names, ask).await.unwrap(), code);
        }
    }
}
