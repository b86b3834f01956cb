//! Small images made by hand: layers as tar bytes, among them ones that no tool would write.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// `sha256:<hex>`
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A tar archive, entry by entry; names and links are written as given.
#[derive(Debug, Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// An entry of a [`Tar`]. The default is an empty regular file of root, mode 0644.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub kind: u8,
    pub name: &'a str,
    pub link: &'a str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: (u32, u32),
    pub mtime: u64,
    pub pax: &'a [(&'a str, &'a [u8])],
    pub data: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            name: "",
            link: "",
            mode: 0o644,
            owner: (0, 0),
            device: (0, 0),
            mtime: 1_700_000_000,
            pax: &[],
            data: b"",
        }
    }
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(&Entry { name, data, ..Entry::default() })
    }

    pub fn directory(self, name: &str) -> Self {
        self.entry(&Entry { kind: b'5', name, mode: 0o755, ..Entry::default() })
    }

    pub fn symlink(self, name: &str, link: &str) -> Self {
        self.entry(&Entry { kind: b'2', name, link, mode: 0o777, ..Entry::default() })
    }

    pub fn hard_link(self, name: &str, link: &str) -> Self {
        self.entry(&Entry { kind: b'1', name, link, ..Entry::default() })
    }

    pub fn entry(mut self, entry: &Entry<'_>) -> Self {
        let mut records = Vec::new();
        for (key, value) in entry.pax {
            records.extend_from_slice(&pax_record(key, value));
        }
        // Names longer than the header's field go into pax records, as Go does.
        for (key, value) in [("path", entry.name), ("linkpath", entry.link)] {
            if value.len() > 100 {
                records.extend_from_slice(&pax_record(key, value.as_bytes()));
            }
        }
        if !records.is_empty() {
            let header = Entry { kind: b'x', name: "pax", ..Entry::default() };
            self.block(&header, &records);
        }
        self.block(entry, entry.data);
        self
    }

    fn block(&mut self, entry: &Entry<'_>, data: &[u8]) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, most: usize, text: &[u8]| {
            let length = text.len().min(most);
            header[at..at + length].copy_from_slice(&text[..length]);
        };
        put(0, 100, entry.name.as_bytes());
        put(100, 8, format!("{:07o}", entry.mode).as_bytes());
        put(108, 8, format!("{:07o}", entry.owner.0).as_bytes());
        put(116, 8, format!("{:07o}", entry.owner.1).as_bytes());
        put(124, 12, format!("{:011o}", data.len()).as_bytes());
        put(136, 12, format!("{:011o}", entry.mtime).as_bytes());
        put(156, 1, &[entry.kind]);
        put(157, 100, entry.link.as_bytes());
        put(257, 8, b"ustar\x0000");
        put(329, 8, format!("{:07o}", entry.device.0).as_bytes());
        put(337, 8, format!("{:07o}", entry.device.1).as_bytes());
        put(148, 8, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    /// With the two zero blocks at the end.
    pub fn finish(&self) -> Vec<u8> {
        [self.bytes.as_slice(), &[0; 1024]].concat()
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// gzip
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    // A vector takes every write.
    written.unwrap_or_default()
}

/// A layer as a registry has it.
#[derive(Debug, Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub diff_id: String,
}

impl Layer {
    pub fn gzip(tar: &Tar) -> Self {
        let bytes = tar.finish();
        Self::new(gzip(&bytes), "tar+gzip", &bytes)
    }

    pub fn plain(tar: &Tar) -> Self {
        let layer = Self::new(tar.finish(), "tar", b"");
        Self { diff_id: layer.digest.clone(), ..layer }
    }

    /// `blob` is the compressed form of `tar`, or pretends to be.
    pub fn new(blob: Vec<u8>, suffix: &str, tar: &[u8]) -> Self {
        Self {
            media_type: format!("application/vnd.oci.image.layer.v1.{suffix}"),
            digest: digest(&blob),
            size: blob.len() as u64,
            diff_id: digest(tar),
            blob,
        }
    }
}

/// An image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    pub layers: Vec<Layer>,
    /// Fields of the configuration's `config`.
    pub config: Value,
    pub os: String,
    pub architecture: String,
}

impl Image {
    pub fn new(layers: Vec<Layer>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers,
            config: json!({}),
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        }
    }

    /// Debian's static busybox with its applets in `/bin`, and a user; it sleeps if not told otherwise.
    ///
    /// # Errors
    /// If the package busybox-static is not installed.
    pub fn busybox() -> Result<Self> {
        const PROGRAM: &str = "/bin/busybox";
        let program = std::fs::read(PROGRAM).with_context(|| format!("read {PROGRAM}"))?;
        let applets = Command::new(PROGRAM).arg("--list").output().context("list its applets")?;
        let mut tar = Tar::new().entry(&Entry {
            name: "bin/busybox",
            mode: 0o755,
            data: &program,
            ..Entry::default()
        });
        for applet in
            String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox")
        {
            tar = tar.symlink(&format!("bin/{applet}"), "busybox");
        }
        let users = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
        let mut image = Self::new(vec![Layer::plain(&tar.file("etc/passwd", users))]);
        image.config = json!({"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin"]});
        Ok(image)
    }

    pub fn config_blob(&self) -> Vec<u8> {
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        json!({
            "architecture": self.architecture, "os": self.os, "created": "2026-01-02T03:04:05Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// Docker's image id.
    pub fn id(&self) -> String {
        digest(&self.config_blob())
    }

    pub fn manifest(&self) -> Vec<u8> {
        let config = self.config_blob();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size})
            })
            .collect();
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": digest(&config), "size": config.len()},
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    /// The entry of an index.
    pub fn descriptor(&self, annotations: Value) -> Value {
        let manifest = self.manifest();
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest), "size": manifest.len(), "annotations": annotations,
            "platform": {"os": self.os, "architecture": self.architecture},
        })
    }

    /// Manifest, configuration and layers by digest.
    pub fn blobs(&self) -> Vec<(String, Vec<u8>)> {
        let own = [self.manifest(), self.config_blob()].map(|blob| (digest(&blob), blob));
        let layers = self.layers.iter().map(|layer| (layer.digest.clone(), layer.blob.clone()));
        own.into_iter().chain(layers).collect()
    }

    /// An OCI layout in a tar, named by the annotation that containerd and Docker use.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        oci_archive(&[(self, json!({"io.containerd.image.name": name}))])
    }

    /// What `docker save` wrote before it learnt OCI layouts: layers uncompressed if they are so here.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let config = self.config_blob();
        let name = format!("{}.json", &digest(&config)["sha256:".len()..]);
        let mut tar = Tar::new().file(&name, &config);
        let mut names = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            names.push(format!("{at}/layer.tar"));
            tar = tar.file(&names[at], &layer.blob);
        }
        let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": names}]);
        tar.file("manifest.json", manifest.to_string().as_bytes()).finish()
    }
}

/// An OCI layout of several images, each with the annotations of its entry in the index.
pub fn oci_archive(images: &[(&Image, Value)]) -> Vec<u8> {
    let entries: Vec<Value> =
        images.iter().map(|(image, annotations)| image.descriptor(annotations.clone())).collect();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let mut tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes());
    for (image, _) in images {
        for (name, blob) in image.blobs() {
            tar = tar.file(&format!("blobs/{}", name.replacen(':', "/", 1)), &blob);
        }
    }
    tar.finish()
}

/// Writes an archive to a file.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}
