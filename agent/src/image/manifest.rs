//! The documents of an image: index, manifest, configuration; the OCI image specification's types
//! and Docker's twins. Lenient where old builders were (null for empty), strict in what the store
//! relies on: digests, sizes, counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Config;
use super::bounded::{annotations, list, map, nullable};
use super::reference::is_digest;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// Types of layers that we unpack; how they are compressed is read from their first bytes, as
/// Docker does, because builders have mislabelled them.
const LAYERS: &[&str] = &[
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Types that are refused, and what to say beside.
const REFUSED: &[(&str, &str)] = &[
    ("application/vnd.in-toto+json", ": this is an attestation about an image, not an image"),
    ("application/vnd.oci.artifact.manifest.v1+json", ARTIFACT),
    ("application/vnd.cncf.helm.", ": this is a Helm chart, not a container image"),
    ("application/vnd.cncf.artifacthub.", ARTIFACT),
    ("application/vnd.dev.cosign.", ": this is a signature of an image, not an image"),
    ("application/vnd.wasm.", ": WebAssembly modules do not run here"),
    ("application/vnd.docker.plugin", ": this is a Docker plugin, not a container image"),
    ("application/vnd.oci.empty.v1+json", ARTIFACT),
    ("application/vnd.erofs.", ": build the image with layers in tar"),
];
const ARTIFACT: &str = ": this is an artifact, not a container image";

/// The largest manifest or configuration, in bytes: the limit of the registries.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// As many as overlayfs stacks.
pub(super) const MAX_LAYERS: usize = 500;
/// Entries of an index.
const MAX_ENTRIES: usize = 4096;
/// Variables, arguments, labels, … of a configuration, of each.
const MAX_ITEMS: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "annotations")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    /// What it is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    /// Where a layer is that its registry may not give away.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "urls")]
    pub(super) urls: Vec<String>,
}

fn urls<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<_, _, 16>(deserializer)
}

fn layers<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Descriptor>>, D::Error> {
    list::<_, _, MAX_LAYERS>(deserializer).map(Some)
}

fn entries<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Descriptor>>, D::Error> {
    list::<_, _, MAX_ENTRIES>(deserializer).map(Some)
}

pub(super) fn diff_ids<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    list::<_, _, MAX_LAYERS>(deserializer)
}

fn strings<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list::<_, _, MAX_ITEMS>(deserializer)
}

fn items<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    map::<_, _, MAX_ITEMS>(deserializer)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DescriptorPlatform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A manifest or an index, told apart by type and content.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one at a time, and not for long
pub(super) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Debug)]
pub(super) enum Refusal {
    Json(serde_json::Error),
    MediaType { media_type: String, hint: &'static str },
    Inconsistent(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "layers")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "entries")]
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or index.
pub(super) fn parse(text: &[u8]) -> Result<Document, Refusal> {
    let raw: Raw = serde_json::from_slice(text).map_err(Refusal::Json)?;
    let declared = raw.media_type.unwrap_or_default();
    let schema_1 = raw.schema_version == 1 || declared.starts_with(DOCKER_SCHEMA_1);
    if schema_1 {
        let media_type = if declared.is_empty() { "Docker schema 1".to_owned() } else { declared };
        return Err(Refusal::MediaType {
            media_type,
            hint: ", the format of 2014: pull it with an old Docker and push the image again with a current one",
        });
    }
    // Docker's and OCI's documents differ in names only. A document that could be read as both is
    // how one digest becomes two images (CVE-2021-41190).
    match (raw.config, raw.layers, raw.manifests) {
        (None, None, Some(entries))
            if matches!(declared.as_str(), "" | OCI_INDEX | DOCKER_LIST) =>
        {
            entries.iter().try_for_each(check)?;
            Ok(Document::Index(entries))
        }
        (Some(config), layers, None)
            if matches!(declared.as_str(), "" | OCI_MANIFEST | DOCKER_MANIFEST) =>
        {
            let layers = layers.unwrap_or_default();
            check(&config)?;
            layers.iter().try_for_each(check)?;
            if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "") {
                let hint = hint(&config.media_type, ARTIFACT);
                return Err(Refusal::MediaType { media_type: config.media_type, hint });
            }
            for layer in &layers {
                if !LAYERS.contains(&layer.media_type.as_str()) {
                    let hint = hint(&layer.media_type, "");
                    return Err(Refusal::MediaType { media_type: layer.media_type.clone(), hint });
                }
            }
            if config.size > MAX_DOCUMENT {
                return Err(Refusal::Inconsistent(format!(
                    "the configuration has {} bytes; the limit is {MAX_DOCUMENT}",
                    config.size
                )));
            }
            let media_type = if declared.is_empty() { OCI_MANIFEST.to_owned() } else { declared };
            Ok(Document::Manifest(Manifest { schema_version: 2, media_type, config, layers }))
        }
        (_, _, Some(_)) | (None, _, None) if declared.is_empty() => Err(Refusal::Inconsistent(
            "the document is neither a manifest (config, layers) nor an index (manifests)"
                .to_owned(),
        )),
        _ if matches!(
            declared.as_str(),
            OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST
        ) =>
        {
            Err(Refusal::Inconsistent(format!(
                "the document does not have the fields of its type {declared}"
            )))
        }
        _ => Err(Refusal::MediaType { hint: hint(&declared, ""), media_type: declared }),
    }
}

fn hint(media_type: &str, otherwise: &'static str) -> &'static str {
    if media_type.contains("encrypted") {
        return ": encrypted layers need their key";
    }
    let known = REFUSED.iter().find(|(prefix, _)| media_type.starts_with(prefix));
    known.map_or(otherwise, |(_, hint)| hint)
}

fn check(descriptor: &Descriptor) -> Result<(), Refusal> {
    if is_digest(&descriptor.digest) {
        return Ok(());
    }
    Err(Refusal::Inconsistent(format!(
        "{:?} is not a digest (sha256:<64 hexadecimal digits>)",
        descriptor.digest
    )))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageConfig {
    #[serde(deserialize_with = "nullable")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) os: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) variant: String,
    pub(super) created: Option<String>,
    #[serde(deserialize_with = "nullable")]
    config: Process,
    #[serde(deserialize_with = "nullable")]
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(deserialize_with = "diff_ids")]
    pub(super) diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Process {
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "strings")]
    env: Vec<String>,
    #[serde(deserialize_with = "strings")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "strings")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "items")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    working_dir: String,
    #[serde(deserialize_with = "items")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

impl ImageConfig {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let config: Self = serde_json::from_slice(text).map_err(Refusal::Json)?;
        match config.rootfs.diff_ids.iter().find(|diff_id| !is_digest(diff_id)) {
            Some(bad) => Err(Refusal::Inconsistent(format!(
                "the configuration's diff id {bad:?} is not a digest (sha256:<64 hexadecimal digits>)"
            ))),
            None => Ok(config),
        }
    }

    /// The layers as overlayfs wants them: lowest first, each once, because it refuses a directory
    /// that is given twice. Of a layer that comes twice the upper place counts: all that the lower
    /// one would show is shown, or hidden, from above.
    pub(super) fn stack(&self) -> Vec<String> {
        let mut stack: Vec<String> = Vec::new();
        for diff_id in self.rootfs.diff_ids.iter().rev() {
            if !stack.contains(diff_id) {
                stack.push(diff_id.clone());
            }
        }
        stack.reverse();
        stack
    }

    pub(super) fn into_config(self) -> Config {
        let Process { user, env, entrypoint, cmd, volumes, working_dir, labels, stop_signal } =
            self.config;
        Config {
            entrypoint,
            cmd,
            env,
            working_dir,
            user,
            stop_signal: stop_signal.filter(|signal| !signal.is_empty()),
            volumes: volumes.into_keys().collect(),
            labels,
            architecture: self.architecture,
            os: self.os,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "a".repeat(64))
    }

    fn refusal(document: serde_json::Value) -> String {
        match parse(document.to_string().as_bytes()) {
            Ok(document) => panic!("accepted {document:?}"),
            Err(Refusal::Json(error)) => error.to_string(),
            Err(Refusal::MediaType { media_type, hint }) => format!("{media_type}{hint}"),
            Err(Refusal::Inconsistent(reason)) => reason,
        }
    }

    #[test]
    fn documents_are_told_apart_and_ambiguous_ones_refused() {
        let config = json!({"mediaType": OCI_CONFIG, "digest": digest(), "size": 2});
        let layer = json!({"mediaType": LAYERS[1], "digest": digest(), "size": 2});
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        assert!(matches!(parse(manifest.to_string().as_bytes()), Ok(Document::Manifest(_))));
        let index = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [config]});
        assert!(matches!(parse(index.to_string().as_bytes()), Ok(Document::Index(_))));

        for (document, text) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "Docker schema 1"),
            (
                json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}),
                "push the image again",
            ),
            (json!({"config": config, "layers": [], "manifests": []}), "neither"),
            (json!({"mediaType": OCI_INDEX, "config": config, "layers": []}), "fields of its type"),
            (json!({"mediaType": "text/plain", "config": config, "layers": []}), "text/plain"),
            (json!({}), "neither"),
            (
                json!({"config": {"digest": "sha256:../../x", "size": 1}, "layers": []}),
                "not a digest",
            ),
            (
                json!({"config": {"digest": digest(), "size": 1, "mediaType": "application/vnd.cncf.helm.config.v1+json"}, "layers": []}),
                "a Helm chart, not a container image",
            ),
            (
                json!({"config": config, "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "digest": digest(), "size": 1}]}),
                "key",
            ),
            (
                json!({"config": {"mediaType": OCI_CONFIG, "digest": digest(), "size": 99_999_999}, "layers": []}),
                "99999999 bytes",
            ),
            (json!({"config": config, "layers": vec![layer; 501]}), "more than 500 elements"),
            (json!({"manifests": vec![config.clone(); 4097]}), "more than 4096 elements"),
            (
                json!({"config": config, "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": digest(), "size": 1}]}),
                "an attestation about an image",
            ),
        ] {
            let refusal = refusal(document);
            assert!(refusal.contains(text), "{refusal} does not say {text}");
        }
    }

    #[test]
    fn null_means_empty_in_a_configuration() {
        let text = json!({"architecture": "amd64", "os": "linux", "created": null,
            "config": {"Env": null, "Cmd": ["sh"], "Entrypoint": null, "Volumes": {"/b": {}, "/a": {}},
                       "User": null, "StopSignal": "", "Labels": null, "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": null}});
        let config = ImageConfig::parse(text.to_string().as_bytes()).unwrap().into_config();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.volumes, ["/a", "/b"]);
        assert_eq!(config.stop_signal, None);
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:1"]}}"#).is_err());
    }

    #[test]
    fn configurations_of_millions_of_fields_are_refused_early() {
        let many = |element: &str| vec![element; 1_000_000].join(",");
        let labels: Vec<String> = (0..10_001).map(|at| format!("\"{at}\":\"\"")).collect();
        for (text, reason) in [
            (format!(r#"{{"config":{{"Env":[{}]}}}}"#, many(r#""""#)), "more than 10000 elements"),
            (format!(r#"{{"config":{{"Labels":{{{}}}}}}}"#, labels.join(",")), "more than 10000"),
            (format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, many(r#""""#)), "more than 500"),
            ("[".repeat(1_000_000), "expected a string"),
            (format!(r#"{{"x":{}"#, "[".repeat(1_000_000)), "EOF"),
        ] {
            match ImageConfig::parse(text.as_bytes()) {
                Err(Refusal::Json(error)) => {
                    assert!(error.to_string().contains(reason), "{error} does not say {reason}");
                }
                other => panic!("{other:?} does not say {reason}"),
            }
        }
        // What nobody reads costs nothing.
        let history = format!(r#"{{"history":[{}],"rootfs":{{}}}}"#, many("{}"));
        assert!(ImageConfig::parse(history.as_bytes()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = ImageConfig::parse(&bytes);
        }
    }
}
