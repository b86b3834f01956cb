//! Progress of pulls and loads, in Docker's words: a bar per layer on a terminal; elsewhere a line
//! when a layer begins and one when it is there, however large it is.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{human, output};
use crate::api::types::PullEvent;
use crate::image::Reference;

/// Shows events on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    kind: Kind,
    words: Words,
    /// What was shown, by reference and layer; the layer of an image as a whole is empty.
    steps: HashMap<(String, String), Step>,
}

#[derive(Debug)]
enum Kind {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

/// What happens to layers.
#[derive(Debug, Clone, Copy)]
struct Words {
    waiting: &'static str,
    moving: &'static str,
    complete: &'static str,
}

const PULL: Words =
    Words { waiting: "Pulling fs layer", moving: "Downloading", complete: "Pull complete" };
const LOAD: Words =
    Words { waiting: "Loading layer", moving: "Loading layer", complete: "Load complete" };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Moving,
    /// All of it is here, the last of it is being unpacked.
    Extracting,
    Complete,
    /// It was here before.
    Exists,
}

impl Stage {
    fn after(before: Option<Self>, done: u64, total: u64) -> Self {
        match (before, done) {
            (None, done) if done >= total => Self::Exists,
            (Some(Self::Exists), _) => Self::Exists,
            (Some(Self::Complete), _) => Self::Complete,
            (Some(_), done) if done >= total => Self::Complete,
            (_, 0) => Self::Waiting,
            (_, done) if done + 1 >= total => Self::Extracting,
            _ => Self::Moving,
        }
    }

    fn is_last(self) -> bool {
        matches!(self, Self::Complete | Self::Exists)
    }
}

#[derive(Debug)]
struct Step {
    stage: Stage,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of pulls.
    pub(super) fn new(quiet: bool) -> Self {
        Self::with(quiet, PULL)
    }

    pub(super) fn of_load(quiet: bool) -> Self {
        Self::with(quiet, LOAD)
    }

    fn with(quiet: bool, words: Words) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if io::stderr().is_terminal() {
            Kind::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Kind::Lines
        };
        Self { kind, words, steps: HashMap::new() }
    }

    /// Shows one event; repeating it changes nothing.
    pub(super) fn show(&mut self, event: &PullEvent) {
        match event {
            PullEvent::Resolving { reference } => self.begin(reference),
            PullEvent::Layer { reference, layer, done, total } => {
                self.layer(reference, layer, *done, *total);
            }
            PullEvent::Resolved { .. } => {}
            // The rest is told by whoever asked.
            PullEvent::Done { reference, .. } | PullEvent::Failed { reference, .. } => {
                self.end(reference);
            }
        }
    }

    /// Runs what writes to the terminal while the bars are out of the way.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::Bars(bars) if self.steps.values().any(|step| !step.stage.is_last()) => {
                bars.suspend(write)
            }
            _ => write(),
        }
    }

    /// Takes away what has not come to its end; the others stay on the screen.
    pub(super) fn clear(&mut self) {
        for step in self.steps.values_mut() {
            step.abandon();
        }
    }

    fn begin(&mut self, reference: &str) {
        let key = (reference.to_owned(), String::new());
        if self.steps.contains_key(&key) {
            return;
        }
        let text = pulling(reference);
        let bar = match &self.kind {
            Kind::Quiet => None,
            Kind::Lines => {
                output::tell(&text);
                None
            }
            Kind::Bars(bars) => {
                let bar = bars.add(ProgressBar::new(0).with_style(style("{msg}")));
                bar.finish_with_message(text);
                Some(bar)
            }
        };
        self.steps.insert(key, Step { stage: Stage::Complete, bar });
    }

    fn layer(&mut self, reference: &str, layer: &str, done: u64, total: u64) {
        let key = (reference.to_owned(), layer.to_owned());
        let before = self.steps.get(&key).map(|step| step.stage);
        let stage = Stage::after(before, done, total);
        let name = human::short(layer).to_owned();
        let step = self.steps.entry(key).or_insert_with(|| {
            let bar = match &self.kind {
                Kind::Quiet | Kind::Lines => None,
                Kind::Bars(bars) => {
                    Some(bars.add(ProgressBar::new(total).with_prefix(name.clone())))
                }
            };
            Step { stage, bar }
        });
        let changed = before != Some(stage);
        step.stage = stage;
        let word = match stage {
            Stage::Waiting => self.words.waiting,
            Stage::Moving => self.words.moving,
            Stage::Extracting => "Extracting",
            Stage::Complete => self.words.complete,
            Stage::Exists => "Already exists",
        };
        match (&step.bar, &self.kind) {
            (Some(bar), _) if stage.is_last() && changed => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(word);
            }
            (Some(bar), _) if stage == Stage::Waiting && changed => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message(word);
            }
            (Some(bar), _) if !stage.is_last() => {
                if changed {
                    bar.set_style(style(&format!("{{prefix}}: {word} [{{bar:30}}] {{msg}}")));
                    bar.set_length(total);
                }
                bar.set_position(done);
                bar.set_message(format!("{}/{}", human::size(done), human::size(total)));
            }
            // A line when it begins and one when it ends.
            (None, Kind::Lines) if before.is_none() && !stage.is_last() => {
                output::tell(&format!("{name}: {}", self.words.waiting));
            }
            (None, Kind::Lines) if stage.is_last() && changed => {
                output::tell(&format!("{name}: {word}"));
            }
            _ => {}
        }
    }

    /// Takes away what is unfinished of a reference's layers: the pull failed.
    fn end(&mut self, reference: &str) {
        for ((of, _), step) in &mut self.steps {
            if of == reference {
                step.abandon();
            }
        }
    }
}

impl Step {
    fn abandon(&mut self) {
        if !self.stage.is_last() {
            self.stage = Stage::Complete;
            if let Some(bar) = &self.bar {
                bar.finish_and_clear();
            }
        }
    }
}

/// `3.20: Pulling from library/alpine`
fn pulling(reference: &str) -> String {
    match Reference::parse(reference) {
        Ok(parsed) => {
            let what = parsed.digest().or(parsed.tag()).unwrap_or_default();
            let path = match parsed.domain() {
                "docker.io" => parsed.path().to_owned(),
                domain => format!("{domain}/{}", parsed.path()),
            };
            format!("{what}: Pulling from {path}")
        }
        Err(_) => format!("Pulling {reference}"),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_goes_through_its_stages_once() {
        let stages = |all: &[u64]| {
            let mut stage = None;
            all.iter()
                .map(|done| {
                    let next = Stage::after(stage, *done, 10);
                    stage = Some(next);
                    next
                })
                .collect::<Vec<_>>()
        };
        use Stage::{Complete, Exists, Extracting, Moving, Waiting};
        assert_eq!(stages(&[10]), [Exists]);
        assert_eq!(stages(&[10, 10]), [Exists, Exists]);
        assert_eq!(
            stages(&[0, 0, 3, 9, 10, 10]),
            [Waiting, Waiting, Moving, Extracting, Complete, Complete]
        );
        // A small one.
        assert_eq!(stages(&[0, 10]), [Waiting, Complete]);
        assert_eq!(Stage::after(None, 0, 0), Exists);
    }

    #[test]
    fn what_is_pulled_is_said_as_docker_says_it() {
        assert_eq!(pulling("alpine"), "latest: Pulling from library/alpine");
        assert_eq!(pulling("team/app:1"), "1: Pulling from team/app");
        assert_eq!(pulling("localhost:5000/app:1"), "1: Pulling from localhost:5000/app");
        assert_eq!(pulling("Not A Name"), "Pulling Not A Name");
    }
}
