//! What the control plane stores: one type per kind of record, each under a key made of its names.
//!
//! Keys, by kind (see each [`Entity`]); `region` first, so that one control plane serves many:
//!
//! ```text
//! cluster/<region>/<name>                          service/<region>/<cluster>/<name>
//! family/<region>/<family>                         task/<region>/<cluster>/<id>
//! definition/<region>/<family>/<revision, 10 digits>
//! instance/<region>/<cluster>/<id>                 guard/<region>/<cluster>/<instance id>
//! connection/<region>/<cluster>/<instance id>      (under a lease)
//! token/<region>/<operation>/<token>               key/<access key id>      role/<name>
//! ```
//!
//! Names hold no `/` (checked where they come in), so keys are unambiguous.

mod access;
mod cluster;
mod definition;
mod instance;
mod service;
mod task;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use access::*;
pub use cluster::*;
pub use definition::*;
pub use instance::*;
pub use service::*;
pub use task::*;

use crate::state::{Table, View};

/// A kind of record.
pub trait Entity: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// First part of its keys, with the `/`.
    const PREFIX: &'static str;

    /// The key: [`Self::PREFIX`] and names.
    fn key(&self) -> String;

    /// Where the view holds it.
    fn table(view: &View) -> &Table<Self>;
}
