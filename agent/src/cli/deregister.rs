//! `lighter deregister`: takes this host out of its cluster and forgets the registration.
//!
//! Tasks that run here are no longer the cluster's; they run on until they are stopped. The agent
//! joins again when it is started anew.

use super::connect::Connection;
use super::{Failure, output};

pub(super) async fn run(connection: &Connection) -> Result<u8, Failure> {
    let left = connection.client.deregister().await?;
    output::print(&format!("{}\n", left.container_instance_arn))?;
    Ok(0)
}
