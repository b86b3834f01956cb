//! From the store into an archive that `docker load`, `podman load`, `skopeo`, containerd and our
//! own load read: one tar that is both an OCI layout and a docker-archive, as Docker makes it since
//! version 25. Layers are uncompressed, so that each blob's digest is its diff id; image ids stay,
//! manifests are new. The same images make the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Error;
use super::content::{LayerRecord, RECIPE, Store};
use super::layer::digest_of;
use super::lease::Lease;
use super::manifest::{
    Descriptor, ImageConfig, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use super::pull::refuse;
use super::recipe;
use super::reference::Reference;
use crate::failpoint;

const BUFFER: usize = 256 << 10;

/// An image to save, and the names it is to have in the archive.
struct Chosen {
    id: String,
    layers: Vec<LayerRecord>,
    names: BTreeSet<Reference>,
    /// It stays while it is read.
    _lease: Arc<Lease>,
}

impl Store {
    /// Writes the images to the file `path`: each under the tag that is asked for, under all tags of
    /// the repository if only that is named, or without a name if it is asked for by id or digest.
    /// Ends early with an error when it is `cancelled`.
    pub fn save(
        &self,
        references: &[String],
        path: &Path,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let failed =
            |source| Error::Io { operation: "write archive", path: path.to_owned(), source };
        let chosen = self.choose(references)?;
        let file = File::options().write(true).open(path).map_err(failed)?;
        let out = Checked { inner: file, cancelled };
        let mut archive = Archive {
            out: BufWriter::with_capacity(BUFFER, out),
            written: BTreeSet::new(),
            path,
            store: self,
        };
        archive.images(&chosen)?;
        archive.out.flush().map_err(failed)?;
        archive.out.get_ref().inner.sync_all().or_else(unsynced).map_err(failed)?;
        failpoint::hit("image.archived");
        Ok(())
    }

    fn choose(&self, references: &[String]) -> Result<Vec<Chosen>, Error> {
        let lock = self.lock()?;
        let mut chosen: Vec<Chosen> = Vec::new();
        for text in references {
            let mut found: Vec<(String, Option<Reference>)> = Vec::new();
            if Reference::is_only_name(text)
                && let Ok(name) = Reference::parse(text)
            {
                // A repository without a tag stands for all its tags.
                found = self
                    .names(&lock)?
                    .into_iter()
                    .filter(|(_, other, _)| other.tag().is_some() && other.same_repository(&name))
                    .map(|(_, other, id)| (id, Some(other)))
                    .collect();
            }
            if found.is_empty() {
                let one = self.resolve(&lock, text)?;
                let one = one.ok_or_else(|| Error::Unknown { reference: text.clone() })?;
                found.push(one);
            }
            for (id, name) in found {
                let name = name.filter(|name| name.tag().is_some());
                match chosen.iter_mut().find(|known| known.id == id) {
                    Some(known) => known.names.extend(name),
                    None => {
                        let (_, record) = self.whole_by_id(&lock, &id)?;
                        let names = name.into_iter().collect();
                        let _lease = self.lease_id(&lock, &id);
                        chosen.push(Chosen { id, layers: record.layers, names, _lease });
                    }
                }
            }
        }
        Ok(chosen)
    }

    /// Writes the archive of a layer of image `id` to `out`, verified once it is whole.
    pub(super) fn rebuild(
        &self,
        id: &str,
        layer: &LayerRecord,
        out: impl Write,
    ) -> Result<(), Error> {
        let dir = self.layer_path(&layer.diff_id);
        recipe::rebuild(&dir.join(RECIPE), &dir.join("fs"), &layer.diff_id, out).map_err(|source| {
            let (id, layer) = (id.to_owned(), layer.diff_id.clone());
            Error::Rebuild { id, layer, source: Box::new(source) }
        })
    }
}

/// A pipe has nothing to sync.
fn unsynced(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(error) }
}

/// Stops when nobody waits any more.
struct Checked<'a> {
    inner: File,
    cancelled: &'a dyn Fn() -> bool,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.cancelled)() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Archive<'a> {
    out: BufWriter<Checked<'a>>,
    /// Digests of blobs that are in the archive.
    written: BTreeSet<String>,
    path: &'a Path,
    store: &'a Store,
}

impl Archive<'_> {
    fn images(&mut self, chosen: &[Chosen]) -> Result<(), Error> {
        self.directory("blobs/")?;
        self.directory("blobs/sha256/")?;
        let (mut entries, mut docker) = (Vec::new(), Vec::new());
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for image in chosen {
            let config = self.store.configuration(&image.id)?;
            let diff_ids = ImageConfig::parse(&config)
                .map_err(|refusal| refuse(&image.id, "configuration", refusal))?
                .rootfs
                .diff_ids;
            let mut layers = Vec::new();
            for diff_id in &diff_ids {
                let record = image.layers.iter().find(|layer| layer.diff_id == *diff_id);
                layers.push(self.layer(&image.id, diff_id, record)?);
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.to_owned(),
                config: descriptor(OCI_CONFIG, &image.id, config.len() as u64),
                layers,
            };
            let manifest = serde_json::to_vec(&manifest).map_err(|source| Error::Document {
                reference: image.id.clone(),
                document: "manifest".to_owned(),
                source,
            })?;
            self.blob(&image.id, &config)?;
            let digest = digest_of(&manifest);
            self.blob(&digest, &manifest)?;
            let entry = json!({
                "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len(),
            });
            if image.names.is_empty() {
                entries.push(entry.clone());
            }
            for name in &image.names {
                let tag = name.tag().unwrap_or_default();
                let mut entry = entry.clone();
                entry["annotations"] = json!({
                    "io.containerd.image.name": name.to_string(),
                    "org.opencontainers.image.ref.name": tag,
                });
                entries.push(entry);
                let top = diff_ids.last().map(|top| top.trim_start_matches("sha256:"));
                repositories
                    .entry(name.familiar_name())
                    .or_default()
                    .insert(tag.to_owned(), top.unwrap_or_default().to_owned());
            }
            let tags: Vec<String> = image.names.iter().map(Reference::familiar).collect();
            docker.push(json!({
                "Config": blob_name(&image.id),
                "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
                "Layers": diff_ids.iter().map(|diff_id| blob_name(diff_id)).collect::<Vec<_>>(),
            }));
            failpoint::hit("image.saved");
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.file("index.json", index.to_string().as_bytes())?;
        self.file("manifest.json", Value::from(docker).to_string().as_bytes())?;
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            self.file("repositories", json!(repositories).to_string().as_bytes())?;
        }
        // The two blocks that end a tar.
        self.write(&[0; 1024])
    }

    fn layer(
        &mut self,
        id: &str,
        diff_id: &str,
        record: Option<&LayerRecord>,
    ) -> Result<Descriptor, Error> {
        let unknown = |source| Error::Rebuild {
            id: id.to_owned(),
            layer: diff_id.to_owned(),
            source: Box::new(source),
        };
        let layer = record.ok_or_else(|| unknown(recipe::Error::Missing))?;
        // An image of an older version may have got its layers anew from another image's pull.
        let layer = match layer.archive {
            Some(_) => layer.clone(),
            None => self.store.layer(diff_id)?.unwrap_or_else(|| layer.clone()),
        };
        let size = layer.archive.ok_or_else(|| unknown(recipe::Error::Missing))?;
        if self.written.insert(diff_id.to_owned()) {
            self.header(&blob_name(diff_id), size, tar::EntryType::Regular)?;
            let mut out = Exactly { inner: &mut self.out, left: size };
            let rebuilt = self.store.rebuild(id, &layer, &mut out);
            let left = out.left;
            rebuilt.map_err(|error| match error {
                Error::Rebuild { id, layer, source } => match *source {
                    recipe::Error::Write(source) => self.failed(source),
                    other => Error::Rebuild { id, layer, source: Box::new(other) },
                },
                other => other,
            })?;
            if left > 0 {
                return Err(unknown(recipe::Error::Missing));
            }
            self.pad(size)?;
        }
        Ok(descriptor(OCI_LAYER, diff_id, size))
    }

    fn blob(&mut self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        if self.written.insert(digest.to_owned()) {
            self.file(&blob_name(digest), bytes)?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.header(name, bytes.len() as u64, tar::EntryType::Regular)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn directory(&mut self, name: &str) -> Result<(), Error> {
        self.header(name, 0, tar::EntryType::Directory)
    }

    fn header(&mut self, name: &str, size: u64, kind: tar::EntryType) -> Result<(), Error> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).map_err(|error| self.failed(error))?;
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let rest = usize::try_from(size % 512).unwrap_or(0);
        if rest == 0 { Ok(()) } else { self.write(&[0; 512][rest..]) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { operation: "write archive", path: self.path.to_owned(), source }
    }
}

/// Takes so many bytes and no more: what follows in the archive stays where its headers say.
struct Exactly<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Exactly<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("the layer is larger than recorded"));
        }
        let written = self.inner.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_owned(),
        size,
        platform: None,
        annotations: None,
        artifact_type: None,
        urls: Vec::new(),
    }
}
