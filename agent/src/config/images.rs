//! What the configuration says about images: when they are pulled, how long that may take, and when
//! they go.

use std::collections::BTreeSet;
use std::time::Duration;

use super::load::{Given, Problem, one_of};
use super::table::Kind;
use crate::image::{Mark, Marks, Reference, Rules};

/// Images on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub pulls: Limits,
    /// `None`: `ECS_DISABLE_IMAGE_CLEANUP`, or `ECS_IMAGE_PULL_BEHAVIOR=prefer-cached`.
    pub cleanup: Option<Cleanup>,
    /// `LIGHTER_IMAGE_PREPULL`
    pub prepull: BTreeSet<String>,
}

/// How long pulls may take, and how many go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `ECS_MANIFEST_PULL_TIMEOUT`
    pub manifest: Duration,
    /// `ECS_IMAGE_PULL_TIMEOUT`
    pub whole: Duration,
    /// `ECS_IMAGE_PULL_INACTIVITY_TIMEOUT`
    pub inactivity: Duration,
    /// `LIGHTER_IMAGE_PULL_PARALLEL`
    pub parallel: usize,
}

/// When images that nobody needs go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// `ECS_IMAGE_CLEANUP_INTERVAL`
    pub interval: Duration,
    pub rules: Rules,
    /// `LIGHTER_IMAGE_DISK_HIGH`, `LIGHTER_IMAGE_DISK_LOW`; `None`: `off`.
    pub marks: Option<Marks>,
    /// `ECS_EXCLUDE_UNTRACKED_IMAGE`
    pub excluded: BTreeSet<String>,
}

impl Given {
    pub(super) fn images(&mut self) -> Images {
        let behavior = self.value("ECS_IMAGE_PULL_BEHAVIOR", one_of);
        let cleanup = self.cleanup();
        let off = self.flag("ECS_DISABLE_IMAGE_CLEANUP");
        Images {
            pulls: Limits {
                manifest: self.duration("ECS_MANIFEST_PULL_TIMEOUT"),
                whole: self.duration("ECS_IMAGE_PULL_TIMEOUT"),
                inactivity: self.duration("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT"),
                parallel: self.count("LIGHTER_IMAGE_PULL_PARALLEL"),
            },
            cleanup: (!off && behavior.as_deref() != Some("prefer-cached")).then_some(cleanup),
            prepull: self.references("LIGHTER_IMAGE_PREPULL"),
        }
    }

    fn cleanup(&mut self) -> Cleanup {
        let high = self.value("LIGHTER_IMAGE_DISK_HIGH", |text, _| mark(text)).flatten();
        let low = self.value("LIGHTER_IMAGE_DISK_LOW", |text, _| mark(text)).flatten();
        let marks = high.zip(low).map(|(high, low)| Marks { high, low });
        if marks.is_some_and(|marks| !in_order(marks.high, marks.low)) {
            let (value, origin) = self
                .values
                .get("LIGHTER_IMAGE_DISK_LOW")
                .cloned()
                .unwrap_or_else(|| ("75%".to_owned(), "the defaults".to_owned()));
            self.problems.push(Problem {
                name: "LIGHTER_IMAGE_DISK_LOW",
                value: Some(value),
                rule: "below LIGHTER_IMAGE_DISK_HIGH".to_owned(),
                origin,
            });
        }
        Cleanup {
            interval: self.duration("ECS_IMAGE_CLEANUP_INTERVAL"),
            rules: Rules {
                minimum_age: self.duration("ECS_IMAGE_MINIMUM_CLEANUP_AGE"),
                untracked_minimum_age: self.duration("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE"),
                untracked: self.flag("ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP"),
                per_cycle: self.count("ECS_NUM_IMAGES_DELETE_PER_CYCLE"),
            },
            marks,
            excluded: self.references("ECS_EXCLUDE_UNTRACKED_IMAGE"),
        }
    }

    fn references(&mut self, name: &'static str) -> BTreeSet<String> {
        self.value(name, |text, _| references(text)).unwrap_or_default()
    }

    fn count(&mut self, name: &'static str) -> usize {
        let value = self.value(name, |text, kind| {
            let Kind::Count { least } = kind else { return None };
            text.parse().ok().filter(|count: &u32| *count >= least)
        });
        value.and_then(|count| usize::try_from(count).ok()).unwrap_or_default()
    }
}

/// Names of images: with commas between them, or as a JSON list.
fn references(text: &str) -> Option<BTreeSet<String>> {
    let names: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).ok()?
    } else {
        text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    names.iter().all(|name| Reference::parse(name).is_ok()).then(|| names.into_iter().collect())
}

/// A mark, or `off`.
fn mark(text: &str) -> Option<Option<Mark>> {
    if text == "off" { Some(None) } else { Mark::parse(text).map(Some) }
}

/// Whether the low mark is below the high one; unknown before the filesystem is looked at where only
/// one of them is in percent.
fn in_order(high: Mark, low: Mark) -> bool {
    match (high, low) {
        (Mark::Percent(high), Mark::Percent(low)) => low < high,
        (Mark::Bytes(high), Mark::Bytes(low)) => low < high,
        (Mark::Percent(_), Mark::Bytes(_)) | (Mark::Bytes(_), Mark::Percent(_)) => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::types::PullPolicy;
    use crate::config::Config;

    fn load(file: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ecs.config");
        std::fs::write(&path, file).unwrap();
        Config::load(&path, []).unwrap().0
    }

    #[test]
    fn names_are_a_list_with_commas_or_of_json() {
        let two = Some(BTreeSet::from(["alpine:3.20".to_owned(), "r.example/app".to_owned()]));
        assert_eq!(references("alpine:3.20, r.example/app,"), two);
        assert_eq!(references(r#"["alpine:3.20","r.example/app"]"#), two);
        assert_eq!(references("Alpine"), None);
        assert_eq!(references(r#"["alpine""#), None);
    }

    #[test]
    fn a_low_mark_is_below_the_high_one() {
        assert!(in_order(Mark::Percent(85), Mark::Percent(75)));
        assert!(!in_order(Mark::Percent(85), Mark::Percent(85)));
        assert!(!in_order(Mark::Bytes(1), Mark::Bytes(2)));
        assert!(in_order(Mark::Bytes(1), Mark::Percent(99)));
        assert_eq!(mark("off"), Some(None));
        assert_eq!(mark("on"), None);
    }

    #[test]
    fn images_are_cleaned_up_as_far_as_the_behaviour_allows() {
        let cleanup = |text: &str| load(text).images.cleanup;
        assert!(cleanup("ECS_DISABLE_IMAGE_CLEANUP=true").is_none());
        assert!(cleanup("ECS_IMAGE_PULL_BEHAVIOR=prefer-cached").is_none());
        assert!(cleanup("ECS_IMAGE_PULL_BEHAVIOR=once").is_some());
        assert_eq!(cleanup("LIGHTER_IMAGE_DISK_HIGH=off").unwrap().marks, None);
        let marks = "LIGHTER_IMAGE_DISK_HIGH=40GB\nLIGHTER_IMAGE_DISK_LOW=50%";
        let expected = Marks { high: Mark::Bytes(40_000_000_000), low: Mark::Percent(50) };
        assert_eq!(cleanup(marks).unwrap().marks, Some(expected));
        let excluded = cleanup("ECS_EXCLUDE_UNTRACKED_IMAGE=alpine,b:1").unwrap().excluded;
        assert_eq!(excluded, BTreeSet::from(["alpine".to_owned(), "b:1".to_owned()]));
        for (text, policy) in [
            ("default", PullPolicy::Refresh),
            ("always", PullPolicy::Always),
            ("once", PullPolicy::Once),
            ("prefer-cached", PullPolicy::Missing),
        ] {
            let config = load(&format!("ECS_IMAGE_PULL_BEHAVIOR={text}"));
            assert_eq!(config.ecs.image_pull, policy);
        }
    }
}
