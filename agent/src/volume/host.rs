//! Volumes of the host: bind mounts of what exists already.
//!
//! Docker's `-v` makes a missing source; a typing error then mounts an empty directory and the
//! task runs on nothing. We refuse.

use std::io;

use super::Error;
use super::plan::{Source, VolumeMount};

/// That every host path among the mounts exists. The check serves the message; the runtime opens the
/// source by itself and fails if it vanished.
///
/// # Errors
/// The first that does not, or cannot be looked at.
pub fn check(mounts: &[VolumeMount]) -> Result<(), Error> {
    for mount in mounts {
        let Source::Host(path) = &mount.source else { continue };
        let (path, destination) = (path.clone(), mount.destination.clone());
        match path.metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::MissingSource { path, destination });
            }
            Err(source) => return Err(Error::CheckSource { path, destination, source }),
        }
    }
    Ok(())
}
