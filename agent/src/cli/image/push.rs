//! `lighter image push`, in Docker's words.

use super::super::connect::Connection;
use super::super::{Failure, human, login, output};
use crate::api::types::{PushEvent, PushImage};
use crate::image::Reference;

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Args {
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the images' names
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG]")]
    reference: String,
}

pub(in crate::cli) async fn run(arguments: Args, connection: &Connection) -> Result<u8, Failure> {
    let Args { all_tags, quiet, reference } = arguments;
    let parsed = Reference::parse(&reference)
        .map_err(|error| Failure::said(format!("image reference {reference:?}: {error}")))?;
    if parsed.digest().is_some() {
        return Err(Failure::said("cannot push a digest reference"));
    }
    let bare = Reference::is_only_name(&reference);
    if all_tags && !bare {
        return Err(Failure::said("tag can't be used with --all-tags/-a"));
    }
    let login = login::of_image(&reference).await;
    let request = PushImage { reference: reference.clone(), all_tags, login };
    let mut events = connection.client.push(&request).await?;
    if !quiet {
        let default = if bare && !all_tags { "Using default tag: latest\n" } else { "" };
        let (domain, path) = (parsed.domain(), parsed.path());
        let text = format!("The push refers to repository [{domain}/{path}]\n");
        output::print(&format!("{default}{text}"))?;
    }
    let mut ended = false;
    while let Some(event) = events.next().await? {
        let text = match event {
            PushEvent::Failed { message } => return Err(Failure::said(message)),
            PushEvent::Done { reference, .. } if quiet => {
                ended = true;
                format!("{reference}\n")
            }
            PushEvent::Done { tag, digest, size, .. } => {
                ended = true;
                format!("{tag}: digest: {digest} size: {size}\n")
            }
            PushEvent::Layer { .. } if quiet => continue,
            PushEvent::Layer { layer, status, .. } => {
                format!("{}: {status}\n", human::short(&layer))
            }
        };
        output::print(&text)?;
    }
    if ended {
        return Ok(0);
    }
    Err(Failure::ended(format!("push {reference}")))
}
