//! `lighter image`: the image store. The more common verbs are also commands of their own, as in
//! Docker (`lighter images`, `lighter pull`, …).

mod each;
pub(super) mod ls;
mod prune;
mod push;
mod save;
mod show;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub(super) use self::each::Asked;
use super::connect::Connection;
use super::progress::Progress;
use super::{Error, Failure, login, output};
use crate::api::client::Lines;
use crate::api::types::{ImageView, KeepImage, PullEvent, PullImage, TagImage};
use crate::image::Reference;

#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum Verb {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Pull an image from its registry
    Pull {
        /// Pull all tags of the repository
        #[arg(short, long)]
        all_tags: bool,
        /// The platform to pull, such as linux/arm64; otherwise the host's
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
        /// Print only the image's name
        #[arg(short, long)]
        quiet: bool,
        /// Keep it from being cleaned up, until `image unkeep` or `image rm`
        #[arg(long)]
        keep: bool,
        #[arg(value_name = "NAME[:TAG|@DIGEST]")]
        reference: String,
    },
    /// Keep images from being cleaned up
    Keep {
        /// Names or digests
        #[arg(required = true, value_name = "NAME[:TAG|@DIGEST]")]
        references: Vec<String>,
    },
    /// Let images that were kept be cleaned up again
    Unkeep {
        /// Names or digests
        #[arg(required = true, value_name = "NAME[:TAG|@DIGEST]")]
        references: Vec<String>,
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
    /// Save images to an archive, standard output by default
    Save(save::Args),
    /// Push an image to the registry of its name
    Push(push::Args),
    /// Remove images
    #[command(visible_aliases = ["remove", "rmi"])]
    Rm {
        /// Also remove an image that has other names
        #[arg(short, long)]
        force: bool,
        /// Without effect: there are no untagged parents in this store
        #[arg(long)]
        no_prune: bool,
        /// Names, digests or ids
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
    /// Show all that is known of images, as JSON
    Inspect(show::Inspect),
    /// Show how an image was made
    History(show::History),
    /// Remove images that nothing needs
    Prune(prune::Args),
    /// Give an image another name
    Tag {
        #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
        source: String,
        #[arg(value_name = "TARGET_IMAGE[:TAG]")]
        target: String,
    },
}

impl Verb {
    /// Done twice it is as if it were done once; only what came on standard input is gone.
    pub(super) fn can_be_repeated(&self) -> bool {
        !matches!(self, Self::Load { input, .. }
            if input.as_ref().is_none_or(|input| input == Path::new("-")))
    }
}

pub(super) async fn run(verb: Verb, asked: &Asked, connection: &Connection) -> Result<u8, Failure> {
    match verb {
        Verb::Ls(arguments) => ls::run(arguments, connection).await,
        Verb::Push(arguments) => push::run(arguments, connection).await,
        Verb::Save(arguments) => save::run(arguments, connection).await,
        Verb::Inspect(arguments) => show::inspect(arguments, connection).await,
        Verb::History(arguments) => show::history(arguments, connection).await,
        Verb::Prune(arguments) => prune::run(arguments, connection).await,
        Verb::Tag { source, target } => {
            connection.client.tag_image(&TagImage { source, target }).await?;
            Ok(0)
        }
        Verb::Pull { all_tags, platform, quiet, keep, reference } => {
            let bare = Reference::is_only_name(&reference);
            if all_tags && !bare {
                return Err(Failure::said("tag can't be used with --all-tags/-a"));
            }
            let login = login::of_image(&reference).await;
            let request =
                PullImage { reference: reference.clone(), platform, login, keep, all_tags };
            let before = if quiet { Vec::new() } else { connection.client.images().await? };
            let events = connection.client.pull(&request).await?;
            if !quiet && bare && !all_tags && Reference::parse(&reference).is_ok() {
                output::print("Using default tag: latest\n")?;
            }
            let progress = Progress::new(quiet);
            let done = follow(events, progress, &reference, &reference).await?;
            let text =
                done.into_iter().map(|(name, digest)| pulled(&name, &digest, quiet, &before));
            output::print(&text.collect::<String>())?;
            Ok(0)
        }
        Verb::Keep { references } => mark(&references, true, asked, connection).await,
        Verb::Unkeep { references } => mark(&references, false, asked, connection).await,
        Verb::Load { input, quiet } => load(input.as_deref(), quiet, connection).await,
        Verb::Rm { force, no_prune: _, references } => {
            let remove = async |reference: &str| {
                let removed = match connection.client.remove_image(reference, force).await {
                    // As for Docker, what is not there is no failure then.
                    Err(error) if force && error.is_not_found() => {
                        output::tell(&format!("lighter: {error}"));
                        return Ok(String::new());
                    }
                    removed => removed?,
                };
                let untagged = removed.untagged.iter().map(|n| format!("Untagged: {n}\n"));
                let deleted = removed.deleted.iter().map(|n| format!("Deleted: {n}\n"));
                Ok(untagged.chain(deleted).collect())
            };
            asked.each(&references, remove).await
        }
    }
}

/// Says each name that is kept, or no longer kept, from now on.
async fn mark(
    references: &[String],
    keep: bool,
    asked: &Asked,
    connection: &Connection,
) -> Result<u8, Failure> {
    let mark = async |reference: &str| {
        let request = KeepImage { reference: reference.to_owned(), keep };
        connection.client.keep_image(&request).await.map(|_changed| format!("{reference}\n"))
    };
    asked.each(references, mark).await
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
    for (name, _) in follow(events, Progress::of_load(quiet), archive, &shown).await? {
        // An archive may hold an image without a name.
        let what = if name.starts_with("sha256:") { "image ID" } else { "image" };
        output::print(&format!("Loaded {what}: {name}\n"))?;
    }
    Ok(0)
}

/// What comes on standard input or goes to standard output, in a file without a name: it goes when
/// this process does.
#[derive(Debug)]
struct Spooled(File);

impl Spooled {
    fn new(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(format!("load-{}", uuid::Uuid::new_v4().simple()));
        let failed = |source| Error::Write { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        if let Some(file) = unnamed(directory).map_err(failed)? {
            return Ok(Self(file));
        }
        let file =
            File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Self(file))
    }

    fn from_stdin(directory: &Path) -> Result<Self, Error> {
        let mut spooled = Self::new(directory)?;
        let failed = |source| Error::Write { path: directory.to_owned(), source };
        io::copy(&mut io::stdin().lock(), &mut spooled.0).map_err(failed)?;
        Ok(spooled)
    }

    fn path(&self) -> PathBuf {
        path_of(&self.0)
    }
}

/// A file that is in no directory, on the filesystem of this one; `None` if that has no such files.
fn unnamed(directory: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    match options.open(directory) {
        Ok(file) => Ok(Some(file)),
        // NFS; and kernels that take it for a plain open of a directory.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// How another process of this host opens a file of ours.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

/// A filter of Docker's command line, `key=value`.
fn parse_filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok((key.trim().to_lowercase(), value.trim().to_owned()))
        }
        _ => Err("bad format of filter (expected name=value)".to_owned()),
    }
}

/// What a pull ends with, as Docker has it; `before` are the images that were here before.
fn pulled(name: &str, digest: &str, quiet: bool, before: &[ImageView]) -> String {
    let reference = Reference::parse(name).ok();
    let full = reference.as_ref().map_or_else(|| name.to_owned(), ToString::to_string);
    if quiet {
        return format!("{full}\n");
    }
    let familiar = reference.as_ref().map_or_else(|| name.to_owned(), Reference::familiar);
    let pinned = reference.as_ref().map(|reference| reference.with_digest(digest).familiar());
    let had = before.iter().any(|image| {
        let has =
            |name: &String| image.references.contains(name) || image.repo_digests.contains(name);
        // Beside a digest a tag says nothing.
        let digested = reference.as_ref().is_some_and(|reference| reference.digest().is_some());
        image.damage.is_none() && (digested || has(&familiar)) && pinned.as_ref().is_none_or(has)
    });
    let status = if had { "Image is up to date for" } else { "Downloaded newer image for" };
    format!("Digest: {digest}\nStatus: {status} {familiar}\n{full}\n")
}

/// Shows the events, those of `source` as those of `shown`; the images that are done.
async fn follow(
    mut events: Lines<PullEvent>,
    mut progress: Progress,
    source: &str,
    shown: &str,
) -> Result<Vec<(String, String)>, Failure> {
    let mut done = BTreeMap::new();
    let mut resolved = BTreeMap::new();
    let mut failed = None;
    while let Some(mut event) = events.next().await? {
        let (PullEvent::Resolving { reference }
        | PullEvent::Resolved { reference, .. }
        | PullEvent::Layer { reference, .. }
        | PullEvent::Done { reference, .. }
        | PullEvent::Failed { reference, .. }) = &mut event;
        if reference == source {
            *reference = shown.to_owned();
        }
        progress.show(&event);
        match event {
            PullEvent::Resolved { reference, digest } => {
                resolved.insert(reference, digest);
            }
            // What the name stands for at the registry goes before the manifest of the platform.
            PullEvent::Done { reference, digest } => {
                let digest = resolved.remove(&reference).unwrap_or(digest);
                done.insert(reference, digest);
            }
            PullEvent::Failed { reference, message } => {
                // Most name it themselves.
                failed = Some(match message.contains(&reference) {
                    true => message,
                    false => format!("{reference}: {message}"),
                });
            }
            PullEvent::Resolving { .. } | PullEvent::Layer { .. } => {}
        }
    }
    progress.clear();
    match failed {
        Some(message) => Err(Failure::said(message)),
        None if done.is_empty() => Err(Failure::ended(shown)),
        None => Ok(done.into_iter().collect()),
    }
}
