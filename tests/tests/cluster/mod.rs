//! Control plane and agents together, driven by boto3 and the `aws` CLI.

mod bad_input;
mod cli;
mod cli_operations;
mod crash;
mod deregister;
mod hosts;
mod images;
mod login;
mod operations;
mod roles;
mod telemetry;
mod up;
