//! Operations of this resource.

use super::{Answer, Context};

pub(super) async fn handle(_: &Context, _: &str, _: &[u8]) -> Option<Answer> {
    None
}
