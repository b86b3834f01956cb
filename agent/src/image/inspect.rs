//! An image as `docker image inspect` and `docker history` show it.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounded::{list, nullable};
use super::content::{ImageRecord, Lock, Store};
use super::manifest::{Document, OCI_MANIFEST, diff_ids};
use super::{Error, Image, manifest};
use crate::api::types::{
    GraphDriver, HistoryView, ImageDescriptor, ImageDetail, ImageMetadata, RootFs,
};

/// What of a configuration is shown, beside what containers get.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Shown {
    created: Option<String>,
    author: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    os: Option<String>,
    docker_version: Option<String>,
    config: Option<Value>,
    #[serde(deserialize_with = "nullable")]
    rootfs: Layers,
    #[serde(deserialize_with = "steps")]
    history: Vec<Step>,
}

/// Steps that make an image, with and without a layer.
const MAX_STEPS: usize = 10_000;

fn steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    list::<_, _, MAX_STEPS>(deserializer)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Layers {
    #[serde(deserialize_with = "diff_ids")]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

impl Shown {
    fn diff_ids(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rootfs.diff_ids)
    }
}

impl Store {
    /// Everything about an image.
    pub fn inspect(&self, reference: &str) -> Result<ImageDetail, Error> {
        let lock = self.lock()?;
        let (image, _) = self.whole(&lock, reference)?;
        let mut shown = self.shown(&image.id)?;
        let manifest = self.blob(&image.digest).unwrap_or_default();
        let media_type = match manifest::parse(&manifest) {
            Ok(Document::Manifest(manifest)) => manifest.media_type,
            _ => OCI_MANIFEST.to_owned(),
        };
        let last_tag_time = self.last_tag_time(&lock, &image)?;
        let kept = self.kept_of(&self.names_of(&lock, &image.id)?);
        let comment = shown.history.last().and_then(|step| step.comment.clone());
        Ok(ImageDetail {
            repo_tags: image.references,
            repo_digests: image.repo_digests,
            parent: String::new(),
            comment: comment.unwrap_or_default(),
            docker_version: shown.docker_version.take().unwrap_or_default(),
            author: shown.author.take().unwrap_or_default(),
            config: shown.config.take().unwrap_or_else(|| json!({})),
            architecture: shown.architecture.take().unwrap_or_default(),
            variant: shown.variant.take().unwrap_or_default(),
            os: shown.os.take().filter(|os| !os.is_empty()).unwrap_or_else(|| "linux".to_owned()),
            size: image.size,
            graph_driver: graph_driver(&image.layers),
            root_fs: RootFs { kind: "layers".to_owned(), layers: shown.diff_ids() },
            metadata: ImageMetadata { last_tag_time },
            descriptor: ImageDescriptor {
                media_type,
                size: manifest.len() as u64,
                digest: image.digest,
            },
            created: shown.created,
            id: image.id,
            kept,
        })
    }

    /// The steps that made an image, the last one first.
    pub fn history(&self, reference: &str) -> Result<Vec<HistoryView>, Error> {
        let lock = self.lock()?;
        let (image, record) = self.whole(&lock, reference)?;
        let shown = self.shown(&image.id)?;
        Ok(history(shown, &image, &record))
    }

    fn shown(&self, id: &str) -> Result<Shown, Error> {
        let text = self.configuration(id)?;
        serde_json::from_slice(&text)
            .map_err(|source| Error::Record { path: self.blob_path(id), source })
    }

    /// When the newest of its names came.
    fn last_tag_time(&self, lock: &Lock, image: &Image) -> Result<Option<String>, Error> {
        let names = self.names(lock)?;
        let times = names.iter().filter(|(_, name, id)| *id == image.id && name.tag().is_some());
        let times = times.filter_map(|(path, ..)| std::fs::metadata(path).ok()?.modified().ok());
        let last = times.max().and_then(|time| Timestamp::try_from(time).ok());
        Ok(last.map(|time| time.to_string()))
    }
}

/// `layers` topmost first.
fn graph_driver(layers: &[std::path::PathBuf]) -> GraphDriver {
    let shown = |path: &Path| path.display().to_string();
    let mut data = BTreeMap::new();
    if let Some((upper, lower)) = layers.split_first() {
        data.insert("UpperDir".to_owned(), shown(upper));
        if !lower.is_empty() {
            let lower: Vec<String> = lower.iter().map(|path| shown(path)).collect();
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
    }
    GraphDriver { data, name: "overlay2".to_owned() }
}

fn history(mut shown: Shown, image: &Image, record: &ImageRecord) -> Vec<HistoryView> {
    let mut diff_ids = shown.diff_ids().into_iter();
    let mut steps = Vec::new();
    for step in shown.history {
        let layer = if step.empty_layer == Some(true) { None } else { diff_ids.next() };
        let size = layer
            .and_then(|diff_id| record.layers.iter().find(|layer| layer.diff_id == diff_id))
            .map_or(0, |layer| layer.size);
        steps.push(HistoryView {
            id: "<missing>".to_owned(),
            created: step.created,
            created_by: step.created_by.unwrap_or_default(),
            tags: Vec::new(),
            size,
            comment: step.comment.unwrap_or_default(),
        });
    }
    steps.reverse();
    if let Some(last) = steps.first_mut() {
        last.id.clone_from(&image.id);
        last.tags.clone_from(&image.references);
    }
    steps
}
