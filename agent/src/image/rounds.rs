//! Asking several that may answer: one after the other, and those again whose failure may pass.

use std::time::Duration;

/// Answers in a row without progress after which we give up.
pub(super) const ATTEMPTS: u32 = 5;
/// How long hosts may keep us waiting until they give something: less than the minute after which
/// a pull counts as idle, whose error would hide theirs.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(45);

/// What is left of [`MAX_WAIT`].
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(MAX_WAIT)
    }
}

impl Patience {
    /// Whether there is enough for one more pause.
    pub(super) fn lasts(&mut self, pause: Duration) -> bool {
        let left = self.0.checked_sub(pause);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Asks one after the other, and those again whose failure is worth a `pause`, until one answers.
pub(super) async fn in_rounds<P: Clone, T, E, F>(
    mut open: Vec<P>,
    attempts: u32,
    attempt: impl Fn(P) -> F,
    pause: impl Fn(&E, u32) -> Option<Duration>,
    mut failed: impl FnMut(P, E),
) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    let mut patience = Patience::default();
    for tries in 0..attempts {
        let mut least: Option<Duration> = None;
        let mut again = Vec::new();
        for asked in open {
            let error = match attempt(asked.clone()).await {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            if let Some(wanted) = pause(&error, tries) {
                least = Some(least.map_or(wanted, |least| least.min(wanted)));
                again.push(asked.clone());
            }
            failed(asked, error);
        }
        open = again;
        match least {
            Some(least) if tries + 1 < attempts && patience.lasts(least) => {
                tokio::time::sleep(least).await;
            }
            _ => break,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn patience_ends() {
        let mut patience = Patience::default();
        let lasts = [20, 20, 20, 5, 1].map(|s| patience.lasts(Duration::from_secs(s)));
        assert_eq!(lasts, [true, true, false, true, false]);
    }

    /// Who was asked, with what answer: a digit is the round in which that one answers.
    async fn asked(of: &str, attempts: u32) -> (String, Option<char>) {
        let heard = RefCell::new(String::new());
        let attempt = |name: char| {
            heard.borrow_mut().push(name);
            let round = heard.borrow().matches(name).count();
            async move {
                match name.to_digit(10) {
                    Some(answers) if answers as usize == round => Ok(name),
                    Some(_) => Err(true),
                    None => Err(false),
                }
            }
        };
        let pause = |again: &bool, _| again.then_some(Duration::from_millis(1));
        let failures = RefCell::new(0);
        let failed = |_, _| *failures.borrow_mut() += 1;
        let answer = in_rounds(of.chars().collect(), attempts, attempt, pause, failed).await;
        let heard = heard.into_inner();
        let answers = usize::from(answer.is_some());
        assert_eq!(*failures.borrow() + answers, heard.chars().count(), "{of}");
        (heard, answer)
    }

    #[tokio::test]
    async fn who_may_answer_later_is_asked_after_all_others() {
        for (of, attempts, heard, answer) in [
            ("", 5, "", None),
            ("1", 5, "1", Some('1')),
            ("a1b", 5, "a1", Some('1')),
            ("2a1", 5, "2a1", Some('1')),
            ("2a3", 5, "2a32", Some('2')),
            ("ab", 5, "ab", None),
            ("2", 1, "2", None),
            ("9", 3, "999", None),
        ] {
            assert_eq!(asked(of, attempts).await, (heard.to_owned(), answer), "{of}");
        }
    }
}
