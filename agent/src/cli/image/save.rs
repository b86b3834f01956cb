//! `lighter image save`: an archive appears whole or not at all.

use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use sha2::{Digest as _, Sha256};

use super::super::connect::Connection;
use super::super::{Error, Failure};
use super::{Spooled, path_of, unnamed};
use crate::api::client::ClientError;
use crate::api::types::SaveImages;
use crate::failpoint;

#[derive(Debug, Clone, clap::Args)]
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
        let directory = connection.layout.state();
        let mut spooled = Spooled::new(&directory)?;
        let shown = format!("to a temporary file in {}", directory.display());
        save(references, &spooled.path(), &shown, connection).await?;
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

/// A file that takes its name when it is whole. Until then it has none and goes with this process,
/// however that ends; on a filesystem without such files it has another one, which only a kill leaves.
#[derive(Debug)]
struct NewFile {
    file: File,
    path: PathBuf,
    /// The other name.
    beside: PathBuf,
    has_name: bool,
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
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        let name = Sha256::digest(path.file_name().unwrap_or_default().as_encoded_bytes());
        let beside = directory.join(format!(".save-{}", hex::encode(&name[..8])));
        // A whole archive that a save was about to give its name to when it was killed.
        match std::fs::remove_file(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&beside)(source).into());
            }
            _ => {}
        }
        let path = path.to_owned();
        if let Some(file) = unnamed(directory).map_err(failed(directory))? {
            return Ok(Self { file, path, beside, has_name: false });
        }
        let beside = directory.join(format!(".save-{}", uuid::Uuid::new_v4().simple()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed(&beside))?;
        Ok(Self { file, path, beside, has_name: true })
    }

    /// What the agent wrote is synced.
    fn publish(mut self) -> Result<(), Error> {
        let failed = |source| Error::Write { path: self.path.clone(), source };
        if !self.has_name {
            match self.link(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result.map_err(failed),
            }
            // Only a rename replaces a file, and it wants a name.
            self.link(&self.beside).map_err(failed)?;
            self.has_name = true;
            failpoint::hit("image.linked");
        }
        std::fs::rename(&self.beside, &self.path)
            .map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn link(&self, path: &Path) -> io::Result<()> {
        Ok(linkat(CWD, path_of(&self.file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.has_name {
            // After it was renamed there is none.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}
