//! What the user of a command is logged in with to registries: Docker's configuration of that user and
//! its credential helpers, which speak to the user's own session. The agent, which pulls, is told.

use std::collections::BTreeMap;

use protocol::taskdef::TaskDefinition;

use crate::api::types::GivenLogin;
use crate::image::Reference;
use crate::image::auth::{Auth, config_path};

/// The login of an image's registry, if the user has one.
pub(super) async fn of_image(image: &str) -> Option<GivenLogin> {
    // Why another name is refused, the pull tells.
    let reference = Reference::parse(image).ok()?;
    let auth = Auth::of_docker(config_path());
    match auth.login(reference.domain(), reference.path()).await {
        Ok(login) => login.map(GivenLogin::Login),
        // Only whoever needs it fails for it.
        Err(error) => Some(GivenLogin::Failed(super::chain(&error))),
    }
}

/// Those of a task's containers, by their names. A container that names a secret needs none.
pub(super) async fn of_task(definition: &TaskDefinition) -> BTreeMap<String, GivenLogin> {
    let mut asked: BTreeMap<&str, Option<GivenLogin>> = BTreeMap::new();
    let mut logins = BTreeMap::new();
    for container in &definition.containers {
        if container.repository_credentials.is_some() {
            continue;
        }
        let image = container.image.as_str();
        if !asked.contains_key(image) {
            asked.insert(image, of_image(image).await);
        }
        if let Some(Some(login)) = asked.get(image) {
            logins.insert(container.name.clone(), login.clone());
        }
    }
    logins
}
