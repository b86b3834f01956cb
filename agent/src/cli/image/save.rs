//! `lighter image save`: an archive appears whole or not at all.

use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::super::connect::Connection;
use super::super::{Error, Failure};
use super::{Spooled, path_of};
use crate::api::client::ClientError;
use crate::api::types::SaveImages;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names or ids; a name without a tag stands for all its tags
    #[arg(required = true, value_name = "IMAGE")]
    references: Vec<String>,
}

pub(in crate::cli) async fn run(arguments: Args, connection: &Connection) -> Result<u8, Failure> {
    let Args { output, references } = arguments;
    let Some(output) = output else {
        if io::stdout().is_terminal() {
            return Err(Failure::said(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        // Verified before the first byte goes out.
        let mut spooled = Spooled::new(&connection.layout.state())?;
        save(references, &spooled.path(), "standard output", connection).await?;
        tokio::task::spawn_blocking(move || {
            spooled.0.seek(SeekFrom::Start(0))?;
            let mut stdout = io::stdout().lock();
            io::copy(&mut spooled.0, &mut stdout)?;
            stdout.flush()
        })
        .await
        .map_err(|error| Failure::said(format!("write to standard output: {error}")))?
        .map_err(|source| Error::Output { source })?;
        return Ok(0);
    };
    let new = NewFile::create(&output)?;
    let shown = output.display().to_string();
    save(references, &path_of(&new.file), &shown, connection).await?;
    new.publish()?;
    Ok(0)
}

async fn save(
    references: Vec<String>,
    path: &Path,
    shown: &str,
    connection: &Connection,
) -> Result<(), Failure> {
    let path = path.display().to_string();
    let request = SaveImages { references, path: path.clone() };
    match connection.client.save(&request).await {
        // The agent knows the file by a number only.
        Err(ClientError::Refused { message, .. }) if message.contains(&path) => {
            Err(Failure::said(message.replace(&path, shown)))
        }
        result => Ok(result?),
    }
}

/// A file that takes its name when it is whole; until then it has another, which goes with it.
#[derive(Debug)]
struct NewFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, Failure> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.is_dir() {
            return Err(Failure::said(format!(
                "failed to save image: invalid output path: directory {:?} does not exist",
                directory.display()
            )));
        }
        if path.exists() && !path.is_file() {
            return Err(Failure::said(format!(
                "failed to save image: invalid output path: {:?} is not a regular file",
                path.display()
            )));
        }
        let temporary = directory.join(format!(".save-{}", uuid::Uuid::new_v4().simple()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| Error::Write { path: temporary.clone(), source })?;
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    /// What the agent wrote is synced.
    fn publish(self) -> Result<(), Error> {
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After it was renamed there is none.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
