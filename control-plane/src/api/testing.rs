//! A caller for tests.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use crate::config::Config;
use crate::scheduler::fixtures::{ACCOUNT, REGION, at};
use crate::state::State;

/// Options with which nothing happens by itself.
pub(crate) fn config() -> Config {
    Config {
        account: ACCOUNT.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        advertise: None,
        data: PathBuf::new(),
        lost_after: None,
        settle: Duration::ZERO,
        keep_stopped: Duration::from_secs(3600),
    }
}

/// A call of somebody who may do everything.
pub(crate) fn context(state: &Arc<State>) -> Context {
    Context {
        state: Arc::clone(state),
        config: Arc::new(config()),
        access_key: "AKIATEST".to_owned(),
        principal: format!("arn:aws:iam::{ACCOUNT}:user/test"),
        region: REGION.to_owned(),
        origin: "http://127.0.0.1:4780".to_owned(),
        now: at(0),
    }
}
