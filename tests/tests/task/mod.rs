//! Tasks on one host, through `lighter` as people use it.

mod bad_input;
mod budget;
mod crash;
mod efs;
mod login;
mod metadata;
mod network;
mod run;
mod stop;
mod user_isolation;
mod user_namespace;
mod volumes;
