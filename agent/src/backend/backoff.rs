//! Growing pauses between attempts. Pure: the random number is a parameter.

use std::time::Duration;

/// A schedule: from `first` to `last`, times `factor` each time, and up to `jitter` of it more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub first: Duration,
    pub last: Duration,
    pub factor: f64,
    /// As a part of the pause.
    pub jitter: f64,
}

impl Schedule {
    /// The pause after `failures` (at least 1) failures in a row; `random` is in 0.0..1.0.
    pub fn pause(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(exponent);
        // Also what has grown out of range.
        let pause = if grown < self.last.as_secs_f64() { grown } else { self.last.as_secs_f64() };
        Duration::from_secs_f64(pause * (1.0 + self.jitter * random))
    }
}

/// A number in 0.0..1.0, for [`Schedule::pause`] and jitter.
pub fn random() -> f64 {
    let bits = u32::try_from(uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX)).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_last() {
        let acs = Schedule {
            first: Duration::from_millis(250),
            last: Duration::from_secs(120),
            factor: 1.5,
            jitter: 0.2,
        };
        assert_eq!(acs.pause(0, 0.0), Duration::from_millis(250));
        assert_eq!(acs.pause(1, 0.0), Duration::from_millis(250));
        assert_eq!(acs.pause(2, 0.0), Duration::from_millis(375));
        assert_eq!(acs.pause(2, 0.5), Duration::from_micros(412_500));
        for failures in [17, 100, u32::MAX] {
            assert_eq!(acs.pause(failures, 0.0), Duration::from_secs(120));
            assert_eq!(acs.pause(failures, 1.0), Duration::from_secs(144));
        }
        assert!((0..100).map(|_| random()).all(|number| (0.0..1.0).contains(&number)));
    }
}
