//! Container output: from the spool that the monitor writes to the log that people read.
//!
//! ```text
//! monitor → spool segments → Shipper: spool → lines → drivers::json_file → log → stream → readers
//!                               └ cursor, beside the log
//! ```
//! One [`Shipper`] per container owns the cursor and the log, and deletes spool segments; where the
//! log driver is `awslogs`, that log is a copy of limited size for `lighter logs`, and an
//! [`Uploader`] with a cursor of its own reads the same spool and deletes the segments.
//! [`stream`] only reads logs. Which files these are is the caller's business.

mod crash;
mod cursor;
pub mod drivers;
pub mod lines;
mod read;
mod shipper;
pub mod spool;
#[cfg(test)]
mod tests;
mod upload;
mod watch;

pub use cursor::CursorError;
pub use read::{Query, ReadError, Source, stream};
pub use shipper::{ShipError, Shipper, ShipperConfig, ShipperHandle};
pub use upload::{Uploader, UploaderConfig};
pub use watch::{POLL, Watch, Watcher};
