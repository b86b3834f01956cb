//! `lighter image`: the image store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::connect::Connection;
use super::progress::Progress;
use super::ps::Format;
use super::{Error, Failure, human, login, output};
use crate::api::client::Lines;
use crate::api::types::{ImageView, PullEvent, PullImage};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        /// Only ids of images
        #[arg(short, long)]
        quiet: bool,
        /// Show digests
        #[arg(long)]
        digests: bool,
        /// Do not shorten ids
        #[arg(long)]
        no_trunc: bool,
        /// How to print
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Pull an image from its registry
    Pull {
        /// The platform to pull, such as linux/arm64; otherwise the host's
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
        /// Print only the image's name
        #[arg(short, long)]
        quiet: bool,
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        reference: String,
    },
    /// Load images from an archive of OCI or Docker
    Load {
        /// The archive; otherwise standard input
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// No progress
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        /// Also remove an image that has other names
        #[arg(short, long)]
        force: bool,
        /// Names, digests or ids
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
}

pub(super) async fn run(verb: Verb, connection: &Connection) -> Result<u8, Failure> {
    match verb {
        Verb::Ls { quiet, digests, no_trunc, format } => {
            let images = connection.client.images().await?;
            output::print(&list(&images, quiet, digests, no_trunc, format, Timestamp::now())?)?;
            Ok(0)
        }
        Verb::Pull { platform, quiet, reference } => {
            let login = login::of_image(&reference).await;
            let request = PullImage { reference: reference.clone(), platform, login };
            let events = connection.client.pull(&request).await?;
            let mut text = String::new();
            for (name, digest) in follow(events, quiet, &reference, &reference).await? {
                if !quiet {
                    text.push_str(&format!("Digest: {digest}\n"));
                }
                text.push_str(&format!("{name}\n"));
            }
            output::print(&text)?;
            Ok(0)
        }
        Verb::Load { input, quiet } => load(input.as_deref(), quiet, connection).await,
        Verb::Rm { force, references } => {
            let mut code = 0;
            for reference in references {
                match connection.client.remove_image(&reference, force).await {
                    Ok(removed) => {
                        let untagged = removed.untagged.iter().map(|n| format!("Untagged: {n}\n"));
                        let deleted = removed.deleted.iter().map(|n| format!("Deleted: {n}\n"));
                        output::print(&untagged.chain(deleted).collect::<String>())?;
                    }
                    Err(error) => {
                        code = 1;
                        output::tell(&format!("lighter: {}", super::chain(&error)));
                    }
                }
            }
            Ok(code)
        }
    }
}

/// The agent opens the archive itself: it is on the same host, and layers may be large.
async fn load(input: Option<&Path>, quiet: bool, connection: &Connection) -> Result<u8, Failure> {
    let spooled;
    let shown = input.map_or("standard input".to_owned(), |input| input.display().to_string());
    let archive = match input.filter(|input| *input != Path::new("-")) {
        Some(input) => {
            let failed = |source| Error::Read { path: input.to_owned(), source };
            let path = std::fs::canonicalize(input).map_err(failed)?;
            // Known to be readable before the agent is asked.
            File::open(&path).map_err(failed)?;
            path
        }
        None => {
            if io::IsTerminal::is_terminal(&io::stdin()) {
                return Err(Failure::said("load images: give an archive by --input or on stdin"));
            }
            let directory = connection.layout.state();
            // In a thread, because the read may wait for ever and signals must not.
            spooled = tokio::task::spawn_blocking(move || Spooled::from_stdin(&directory))
                .await
                .map_err(|error| Failure::said(format!("read standard input: {error}")))??;
            spooled.path()
        }
    };
    let archive = archive.to_str().ok_or_else(|| {
        Failure::said(format!("load {}: the path is not UTF-8; rename it", archive.display()))
    })?;
    let events = connection.client.load(archive).await?;
    for (name, digest) in follow(events, quiet, archive, &shown).await? {
        // An archive may hold an image without a name.
        let text = if name.is_empty() || name == shown {
            format!("Loaded image ID: {digest}\n")
        } else {
            format!("Loaded image: {name}\n")
        };
        output::print(&text)?;
    }
    Ok(0)
}

/// What came on standard input, in a file without a name: it goes when this process does.
#[derive(Debug)]
struct Spooled(File);

impl Spooled {
    fn from_stdin(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(format!("load-{}", uuid::Uuid::new_v4().simple()));
        let failed = |source| Error::Write { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut file =
            File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        io::copy(&mut io::stdin().lock(), &mut file).map_err(failed)?;
        Ok(Self(file))
    }

    /// How another process of this host opens it.
    fn path(&self) -> PathBuf {
        let (process, number) = (std::process::id(), self.0.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{number}"))
    }
}

/// Shows the events, those of `source` as those of `shown`; the images that are done.
async fn follow(
    mut events: Lines<PullEvent>,
    quiet: bool,
    source: &str,
    shown: &str,
) -> Result<Vec<(String, String)>, Failure> {
    let mut progress = Progress::new(quiet);
    let mut done = BTreeMap::new();
    let mut failed = None;
    while let Some(mut event) = events.next().await? {
        let (PullEvent::Resolving { reference }
        | PullEvent::Layer { reference, .. }
        | PullEvent::Done { reference, .. }
        | PullEvent::Failed { reference, .. }) = &mut event;
        if reference == source {
            *reference = shown.to_owned();
        }
        progress.show(&event);
        match event {
            PullEvent::Done { reference, digest } => {
                done.insert(reference, digest);
            }
            PullEvent::Failed { reference, message } => {
                failed = Some(format!("{reference}: {message}"));
            }
            PullEvent::Resolving { .. } | PullEvent::Layer { .. } => {}
        }
    }
    progress.clear();
    match failed {
        Some(message) => Err(Failure::said(message)),
        None if done.is_empty() => {
            Err(Failure::said(format!("{shown}: the agent ended meanwhile")))
        }
        None => Ok(done.into_iter().collect()),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repository: String,
    tag: String,
    digest: String,
    #[serde(rename = "ID")]
    id: String,
    created_at: String,
    created_since: String,
    size: String,
}

fn list(
    images: &[ImageView],
    quiet: bool,
    digests: bool,
    no_trunc: bool,
    format: Format,
    now: Timestamp,
) -> Result<String, Error> {
    let shorten = |id: &str| if no_trunc { id.to_owned() } else { human::short(id).to_owned() };
    if quiet {
        return Ok(images.iter().map(|image| format!("{}\n", shorten(&image.id))).collect());
    }
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, shorten, now)).collect();
    if format == Format::Json {
        let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|source| Error::Json { source })?;
        return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
    }
    let mut head = vec!["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
    let mut cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| vec![row.repository, row.tag, row.digest, row.id, row.created_since, row.size])
        .collect();
    if !digests {
        head.remove(2);
        cells.iter_mut().for_each(|row| drop(row.remove(2)));
    }
    cells.insert(0, head.into_iter().map(str::to_owned).collect());
    Ok(output::table(&cells))
}

fn rows(image: &ImageView, shorten: impl Fn(&str) -> String, now: Timestamp) -> Vec<Row> {
    const NONE: &str = "<none>";
    let created: Option<Timestamp> = image.created.as_deref().and_then(|time| time.parse().ok());
    let row = |repository: &str, tag: &str| Row {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: image.digest.clone(),
        id: shorten(&image.id),
        created_at: image.created.clone().unwrap_or_default(),
        created_since: created
            .map_or_else(|| "N/A".to_owned(), |time| format!("{} ago", human::since(time, now))),
        size: human::size(image.size),
    };
    if image.references.is_empty() {
        return vec![row(NONE, NONE)];
    }
    let names = image.references.iter().map(|reference| {
        let name = reference.split_once('@').map_or(reference.as_str(), |(name, _)| name);
        // A colon before a slash belongs to the registry's port.
        match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((repository, tag)) => row(repository, tag),
            None => row(name, NONE),
        }
    });
    names.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_docker_splits_them() {
        let image = ImageView {
            references: vec![
                "localhost:5000/web:1".to_owned(),
                "localhost:5000/web".to_owned(),
                "web@sha256:ab".to_owned(),
            ],
            id: "sha256:0123456789abcdef".to_owned(),
            digest: "sha256:fe".to_owned(),
            created: Some("2026-11-21T09:00:00Z".to_owned()),
            size: 1_500_000,
        };
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let text = list(std::slice::from_ref(&image), false, false, false, Format::Table, now);
        assert_eq!(
            text.unwrap(),
            "REPOSITORY           TAG       IMAGE ID       CREATED       SIZE\n\
             localhost:5000/web   1         0123456789ab   3 hours ago   1.5MB\n\
             localhost:5000/web   <none>    0123456789ab   3 hours ago   1.5MB\n\
             web                  <none>    0123456789ab   3 hours ago   1.5MB\n"
        );
        let none = ImageView { references: Vec::new(), created: None, ..image };
        let text = list(&[none], false, true, true, Format::Json, now).unwrap();
        assert!(
            text.contains(r#""Repository":"<none>""#) && text.contains(r#""CreatedSince":"N/A""#)
        );
    }
}
