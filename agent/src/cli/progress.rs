//! Progress of pulls and loads: bars on a terminal, a line per step elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{human, output};
use crate::api::types::PullEvent;

/// Shows events on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    kind: Kind,
    /// What was shown, by reference and layer.
    steps: HashMap<(String, String), Step>,
}

#[derive(Debug)]
enum Kind {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

#[derive(Debug)]
struct Step {
    /// The first line.
    shown: String,
    bar: Option<ProgressBar>,
    done: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        let kind = if quiet {
            Kind::Quiet
        } else if io::stderr().is_terminal() {
            Kind::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Kind::Lines
        };
        Self { kind, steps: HashMap::new() }
    }

    /// Shows one event; repeating it changes nothing.
    pub(super) fn show(&mut self, event: &PullEvent) {
        match event {
            PullEvent::Resolved { .. } => {}
            PullEvent::Resolving { reference } => {
                self.step(reference, "", |_| format!("{reference}: resolving"));
            }
            PullEvent::Layer { reference, layer, done, total } => {
                let short = human::short(layer).to_owned();
                let size = human::size(*total);
                self.step(reference, layer, |ended| {
                    let what = if ended { "done" } else { "pulling" };
                    format!("{reference}: {short}: {what} {size}")
                });
                self.advance(reference, layer, *done, *total);
            }
            PullEvent::Done { reference, digest } => {
                self.end(reference);
                let text = format!("{reference}: {digest}");
                // A load resolves nothing before.
                self.step(reference, "", |_| text.clone());
                self.finish(reference, "", &text);
            }
            // Told by whoever asked for the pull.
            PullEvent::Failed { reference, .. } => self.end(reference),
        }
    }

    /// Runs what writes to the terminal while the bars are out of the way.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::Bars(bars) if self.steps.values().any(|step| !step.done) => bars.suspend(write),
            _ => write(),
        }
    }

    /// Takes the bars away.
    pub(super) fn clear(&mut self) {
        if let Kind::Bars(bars) = &self.kind {
            for step in self.steps.values_mut().filter(|step| !step.done) {
                step.done = true;
                if let Some(bar) = &step.bar {
                    bar.finish_and_clear();
                }
            }
            // A terminal that is gone shows no bars either.
            let _ = bars.clear();
        }
    }

    fn step(&mut self, reference: &str, layer: &str, text: impl Fn(bool) -> String) {
        let key = (reference.to_owned(), layer.to_owned());
        if self.steps.contains_key(&key) {
            return;
        }
        let shown = text(false);
        let bar = match &self.kind {
            Kind::Quiet => None,
            Kind::Lines => {
                output::tell(&shown);
                None
            }
            Kind::Bars(bars) if layer.is_empty() => {
                let bar = ProgressBar::new_spinner().with_style(style("{msg}"));
                let bar = bars.add(bar.with_message(shown.clone()));
                Some(bar)
            }
            Kind::Bars(bars) => {
                let bar = ProgressBar::new(0)
                    .with_style(style("  {prefix} [{bar:30}] {bytes}/{total_bytes}"))
                    .with_prefix(human::short(layer).to_owned());
                Some(bars.add(bar))
            }
        };
        self.steps.insert(key, Step { shown, bar, done: false });
    }

    fn advance(&mut self, reference: &str, layer: &str, done: u64, total: u64) {
        let key = (reference.to_owned(), layer.to_owned());
        let Some(step) = self.steps.get_mut(&key).filter(|step| !step.done) else { return };
        if let Some(bar) = &step.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        if total > 0 && done >= total {
            step.done = true;
            match &step.bar {
                Some(bar) => bar.finish(),
                None if matches!(self.kind, Kind::Lines) => output::tell(&format!(
                    "{reference}: {}: done {}",
                    human::short(layer),
                    human::size(total)
                )),
                None => {}
            }
        }
    }

    fn finish(&mut self, reference: &str, layer: &str, text: &str) {
        let key = (reference.to_owned(), layer.to_owned());
        let Some(step) = self.steps.get_mut(&key).filter(|step| !step.done) else { return };
        step.done = true;
        match &step.bar {
            Some(bar) => bar.finish_with_message(text.to_owned()),
            None if matches!(self.kind, Kind::Lines) && step.shown != text => output::tell(text),
            None => {}
        }
    }

    /// Takes away what is unfinished of a reference's layers: they were there already, or the pull
    /// failed.
    fn end(&mut self, reference: &str) {
        for ((of, layer), step) in &mut self.steps {
            if of == reference && !layer.is_empty() && !step.done {
                step.done = true;
                if let Some(bar) = &step.bar {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
