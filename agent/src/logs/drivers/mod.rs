//! Log drivers: readers of the spool, each with the format and the destination of one of Docker's.

pub mod awslogs;
pub mod json_file;
