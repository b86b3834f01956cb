//! The agent's configuration: Amazon's variables, and ours beside them.
//!
//! [`table`] is the one list of variables; [`Config`] is what the rest of the agent sees, and it
//! cannot hold a bad value. Sources, the first one that has a value wins: environment,
//! `ecs.config`, default. Where Amazon's agent warns about a bad value and goes on with the
//! default, this one refuses to start: a typing error must not halve a timeout unseen.

mod duration;
mod ecs;
mod images;
mod load;
pub mod table;

pub use duration::{DurationError, parse_duration, shown};
pub use ecs::{AwsCredentials, Ecs, Metadata, StaticCredentials};
pub use images::{Cleanup, Images, Limits};
pub use load::{Config, ConfigError, LogLevel, Problem, RegistryAuth, example};
