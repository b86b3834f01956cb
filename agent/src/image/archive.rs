//! Images in a tar file: OCI layouts (`skopeo oci-archive`, `podman save --format oci-archive`,
//! containerd, Docker ≥ 25) and docker-archives (`docker save`, `podman save`, `skopeo
//! docker-archive`), plain or compressed.
//!
//! Opening reads the file once for a table of its members; members are then read where they lie.
//! A compressed archive is first decompressed into the pull's own directory. An archive with an
//! `index.json` is read as an OCI layout, else by its `manifest.json`.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Deserialize;

use super::decompress::{decompress, is_compressed};
use super::entries::{Entries, Input, Kind};
use super::gate::Windows;
use super::layer::{Bounded, Counted};
use super::manifest::{self, Descriptor, Document, Manifest};
use super::platform::{self, Platform};
use super::reference::{Reference, is_digest};
use super::signature::ArchiveKind;
use super::unpack::Limits;

const MAX_MEMBERS: usize = 100_000;
/// Bytes of a member's name or of what a link leads to.
const MAX_NAME: usize = 256;
/// Bytes of all documents that are read, which are held until all images are known.
const MAX_DOCUMENTS: u64 = 64 << 20;
/// The largest archive that is decompressed, in bytes.
const MAX_ARCHIVE: u64 = 128 << 30;
/// `containerd.io` and Docker put the whole name here.
const NAME: &str = "io.containerd.image.name";
/// The specification's: only a tag in a layout of one image, by many tools the whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What is wrong with the archive, for `Error::Archive`.
pub(super) type Reason = String;

/// A place in the file.
#[derive(Debug, Clone, Copy)]
struct Member {
    offset: u64,
    size: u64,
}

#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
    links: HashMap<String, String>,
    /// Bytes of documents read.
    documents: Cell<u64>,
}

/// An image as the archive describes it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) names: Vec<Reference>,
    pub(super) config: Vec<u8>,
    /// The manifest as stored; a docker-archive has none.
    pub(super) manifest: Option<(Vec<u8>, Manifest)>,
    /// Members with the layers, lowest first.
    pub(super) layers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

struct Seekable(BufReader<File>);

impl Read for Seekable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Input for Seekable {
    fn data(&mut self) -> io::Result<&[u8]> {
        self.0.data()
    }

    fn take_data(&mut self, bytes: usize) {
        self.0.take_data(bytes);
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
        self.0.seek_relative(bytes)
    }
}

/// A member, read at its own offset: several readers share the file.
pub(super) struct MemberReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Archive {
    /// `scratch` is a directory for the decompressed archive.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self, Reason> {
        let mut file = File::open(path).map_err(|error| format!("open: {error}"))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err("not a regular file".to_owned());
        }
        let mut magic = [0; 4];
        let have = file.read_at(&mut magic, 0).map_err(|error| format!("read: {error}"))?;
        if is_compressed(&magic[..have]) {
            file = expand(file, scratch, Limits { bytes: MAX_ARCHIVE, ..Limits::DEFAULT })?;
        }
        let table = file.try_clone().map_err(|error| format!("read: {error}"))?;
        let mut archive = Self {
            file: Arc::new(file),
            members: HashMap::new(),
            links: HashMap::new(),
            documents: Cell::new(0),
        };
        archive.index(table)?;
        Ok(archive)
    }

    fn index(&mut self, file: File) -> Result<(), Reason> {
        let end = file.metadata().map_err(|error| format!("read: {error}"))?.len();
        let mut entries = Entries::new(Seekable(BufReader::new(file)));
        let mut count = 0;
        loop {
            let entry = match entries.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    let cause = std::error::Error::source(&error)
                        .map(|cause| format!(": {cause}"))
                        .unwrap_or_default();
                    return Err(format!("not a tar archive: {error}{cause}"));
                }
            };
            count += 1;
            if count > MAX_MEMBERS {
                return Err(format!("more than {MAX_MEMBERS} members"));
            }
            // The table is held in memory, and what names its members names none like that.
            if entry.path.len().max(entry.link.len()) > MAX_NAME {
                continue;
            }
            let Ok(name) = String::from_utf8(entry.path) else { continue };
            let name = name.trim_start_matches("./").to_owned();
            match entry.kind {
                Kind::File if entry.segments == [(0, entry.size)] => {
                    let member = Member { offset: entries.position(), size: entry.size };
                    if member.offset.checked_add(member.size).is_none_or(|past| past > end) {
                        return Err(format!("truncated within {name:?}"));
                    }
                    self.members.insert(name, member);
                }
                // `docker save` before 25 stores a repeated layer as a link to the other one.
                Kind::Symlink | Kind::HardLink => {
                    let Ok(target) = String::from_utf8(entry.link) else { continue };
                    let base = match (entry.kind, name.rsplit_once('/')) {
                        (Kind::Symlink, Some((directory, _))) => directory,
                        _ => "",
                    };
                    self.links.insert(name.clone(), join(base, &target));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn member(&self, name: &str) -> Option<Member> {
        let mut name = name.trim_start_matches("./");
        for _ in 0..8 {
            if let Some(member) = self.members.get(name) {
                return Some(*member);
            }
            name = self.links.get(name)?;
        }
        None
    }

    /// Size and content of a member.
    pub(super) fn read(&self, name: &str) -> Result<(u64, MemberReader), Reason> {
        let member = self.member(name).ok_or_else(|| format!("has no member {name:?}"))?;
        let file = Arc::clone(&self.file);
        Ok((member.size, MemberReader { file, at: member.offset, left: member.size }))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, Reason> {
        let (size, mut reader) = self.read(name)?;
        if size > manifest::MAX_DOCUMENT {
            return Err(format!("{name:?} is larger than {} bytes", manifest::MAX_DOCUMENT));
        }
        let read = self.documents.get().saturating_add(size);
        if read > MAX_DOCUMENTS {
            return Err(format!("its documents have more than {MAX_DOCUMENTS} bytes together"));
        }
        self.documents.set(read);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map_err(|error| format!("read {name:?}: {error}"))?;
        Ok(text)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Reason> {
        let text = self.document(&blob_name(&descriptor.digest))?;
        let actual = super::layer::digest_of(&text);
        if actual != descriptor.digest || text.len() as u64 != descriptor.size {
            return Err(format!(
                "content of {} has digest {actual} and {} bytes instead of {}",
                descriptor.digest,
                text.len(),
                descriptor.size
            ));
        }
        Ok(text)
    }

    /// What Docker wrote has its manifest.json, with or without an OCI layout beside it.
    pub(super) fn kind(&self) -> ArchiveKind {
        match self.member("manifest.json") {
            Some(_) => ArchiveKind::Docker,
            None => ArchiveKind::Oci,
        }
    }

    /// The images for `platform`.
    pub(super) fn images(&self, platform: &Platform) -> Result<Vec<Found>, Reason> {
        let docker = match self.member("manifest.json") {
            Some(_) => self.docker_entries()?,
            None => Vec::new(),
        };
        if self.member("index.json").is_some() {
            return self.oci_images(platform, &docker);
        }
        if docker.is_empty() {
            return Err("neither an OCI layout (index.json) nor a docker-archive (manifest.json)"
                .to_owned());
        }
        docker
            .iter()
            .map(|entry| {
                Ok(Found {
                    // Nothing here has a digest that a registry would know it by.
                    names: tags(entry, &[])?,
                    config: self.document(&entry.config)?,
                    manifest: None,
                    layers: entry.layers.clone(),
                })
            })
            .collect()
    }

    fn docker_entries(&self) -> Result<Vec<DockerEntry>, Reason> {
        let text = self.document("manifest.json")?;
        serde_json::from_slice(&text).map_err(|error| format!("manifest.json: {error}"))
    }

    /// The manifest for `platform` below an index, or which platforms there are instead.
    fn manifest(
        &self,
        index: Document,
        platform: &Platform,
    ) -> Result<Result<(Vec<u8>, Document), String>, Reason> {
        let (mut text, mut document) = (Vec::new(), index);
        for _ in 0..platform::MAX_NESTING {
            let Document::Index(entries) = &document else { break };
            let Some(chosen) = platform.choose(entries) else {
                return Ok(Err(platform::offered(entries)));
            };
            text = self.blob(chosen)?;
            document = parse(&chosen.digest, &text)?;
        }
        Ok(Ok((text, document)))
    }

    fn oci_images(
        &self,
        platform: &Platform,
        docker: &[DockerEntry],
    ) -> Result<Vec<Found>, Reason> {
        let entries = match parse("index.json", &self.document("index.json")?)? {
            Document::Index(entries) => entries,
            Document::Manifest(_) => return Err("index.json is not an index".to_owned()),
        };
        let mut found: Vec<(String, Found)> = Vec::new();
        let mut others = Vec::new();
        for entry in &entries {
            if !is_digest(&entry.digest) {
                return Err(format!("index.json: {:?} is not a digest", entry.digest));
            }
            let mut text = self.blob(entry)?;
            let mut document = parse(&entry.digest, &text)?;
            if matches!(document, Document::Index(_)) {
                match self.manifest(document, platform)? {
                    Ok((chosen, manifest)) => (text, document) = (chosen, manifest),
                    Err(offered) => {
                        others.push(offered);
                        continue;
                    }
                }
            } else if let Some(offered) = &entry.platform
                && !platform.fits(&offered.os, &offered.architecture, offered.variant.as_deref())
            {
                others.push(format!("{}/{}", offered.os, offered.architecture));
                continue;
            }
            let Document::Manifest(manifest) = document else {
                return Err(format!("{}: {}", entry.digest, platform::NESTED));
            };
            let digest = super::layer::digest_of(&text);
            let own = [entry.digest.as_str(), &digest];
            let mut names = match annotated(entry) {
                Some(name) => {
                    vouched(&name, &own).map_err(|error| format!("index.json: {error}"))?
                }
                None => Vec::new(),
            };
            if names.is_empty() {
                let config = blob_name(&manifest.config.digest);
                for entry in docker.iter().filter(|entry| entry.config == config) {
                    names.extend(tags(entry, &own)?);
                }
            }
            // Several entries may name one image.
            match found.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, image)) => image.names.extend(names),
                None => {
                    let config = self.blob(&manifest.config)?;
                    let layers =
                        manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
                    let manifest = Some((text, manifest));
                    found.push((digest, Found { names, config, manifest, layers }));
                }
            }
        }
        if found.is_empty() {
            let offered = if others.is_empty() { "no image".to_owned() } else { others.join(", ") };
            return Err(format!("no image for platform {platform}; there is {offered}"));
        }
        Ok(found.into_iter().map(|(_, image)| image).collect())
    }
}

fn parse(name: &str, text: &[u8]) -> Result<Document, Reason> {
    manifest::parse(text).map_err(|refusal| match refusal {
        manifest::Refusal::Json(error) => format!("{name}: {error}"),
        manifest::Refusal::MediaType { media_type, hint } => {
            format!("{name}: media type {media_type:?} is not supported{hint}")
        }
        manifest::Refusal::Inconsistent(reason) => format!("{name}: {reason}"),
    })
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn tags(entry: &DockerEntry, own: &[&str]) -> Result<Vec<Reference>, Reason> {
    let mut names = Vec::new();
    for tag in entry.repo_tags.iter().flatten() {
        let name = Reference::parse(tag)
            .map_err(|error| format!("manifest.json: name {tag:?}: {error}"))?;
        names.extend(vouched(&name, own).map_err(|error| format!("manifest.json: {error}"))?);
    }
    Ok(names)
}

/// The names that an archive may give by this one to an image with these digests: who names an image
/// by its digest relies on getting no other one.
fn vouched(name: &Reference, own: &[&str]) -> Result<Vec<Reference>, Reason> {
    match name.digest() {
        None => Ok(vec![name.clone()]),
        Some(digest) if own.contains(&digest) => {
            Ok([Some(name.with_digest(digest)), name.tagged()].into_iter().flatten().collect())
        }
        Some(_) => Err(format!("name {name}: the image in the archive has not this digest")),
    }
}

/// The name in an entry's annotations. A bare `ref.name` like `latest` is a tag without a name.
fn annotated(entry: &Descriptor) -> Option<Reference> {
    let annotations = entry.annotations.as_ref()?;
    let whole = |name: &&String| name.contains(['/', ':']);
    let name = annotations.get(NAME).or_else(|| annotations.get(REF_NAME).filter(whole))?;
    Reference::parse(name).ok()
}

/// `target` as seen from `directory`, both within the archive.
fn join(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn expand(file: File, scratch: &Path, limits: Limits) -> Result<File, Reason> {
    let failed = |error: io::Error| format!("decompress: {error}");
    let mut to = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch.join("archive.tar"))
        .map_err(failed)?;
    let compressed = AtomicU64::new(0);
    let counted = Counted { inner: BufReader::new(file), read: &compressed };
    let inner = decompress(counted, Windows::default()).map_err(failed)?;
    let mut bounded = Bounded { inner, limits, compressed: &compressed, made: 0, exceeded: None };
    let copied = io::copy(&mut bounded, &mut to);
    if let Some(error) = bounded.exceeded {
        return Err(format!("decompress: {error}"));
    }
    copied.map_err(failed)?;
    to.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn names_that_would_fill_the_memory_are_passed_over() {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in [("n".repeat(300), "long"), ("m".repeat(200), "short")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
        let archive = Archive::open(&path, dir.path()).unwrap();
        assert_eq!(archive.members.len(), 1);
        assert_eq!(archive.document(&"m".repeat(200)).unwrap(), b"short");
    }

    #[test]
    fn an_archive_that_swells_beyond_measure_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { expansion_from: 1 << 20, ..Limits::DEFAULT };
        let expanded = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::best());
            io::Write::write_all(&mut encoder, content).unwrap();
            encoder.finish().unwrap();
            let scratch = tempfile::tempdir().unwrap();
            let file = expand(File::open(&path).unwrap(), scratch.path(), limits)?;
            Ok::<_, Reason>(file.metadata().unwrap().len())
        };
        let error = expanded("bomb", &vec![0; 8 << 20]).unwrap_err();
        assert!(error.contains("a decompression bomb"), "{error}");
        let few: Vec<u8> =
            (0..2_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        assert_eq!(expanded("few", &few).unwrap(), 2 << 20);
    }

    #[test]
    fn links_stay_within_the_archive() {
        for (directory, target, path) in [
            ("a", "../b/layer.tar", "b/layer.tar"),
            ("", "b", "b"),
            ("a/b", "../../../../etc/passwd", "etc/passwd"),
            ("a", "/etc/passwd", "a/etc/passwd"),
        ] {
            assert_eq!(join(directory, target), path);
        }
    }
}
