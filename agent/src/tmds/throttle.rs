//! A token bucket. Pure: now is a parameter.

use std::time::{Duration, Instant};

/// Admits `rate` requests per second in the long run and `burst` at once.
#[derive(Debug, Clone)]
pub struct Bucket {
    limits: Limits,
    tokens: f64,
    filled: Instant,
}

/// Of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Per second.
    pub rate: u32,
    pub burst: u32,
}

impl Default for Limits {
    /// Amazon's.
    fn default() -> Self {
        Self { rate: 40, burst: 60 }
    }
}

impl Bucket {
    /// A full bucket.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, tokens: f64::from(limits.burst), filled: now }
    }

    /// Takes a token if there is one.
    pub fn admit(&mut self, now: Instant) -> bool {
        let elapsed: Duration = now.saturating_duration_since(self.filled);
        self.filled = now.max(self.filled);
        let refilled = self.tokens + elapsed.as_secs_f64() * f64::from(self.limits.rate);
        self.tokens = refilled.min(f64::from(self.limits.burst));
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Limits { rate: 40, burst: 60 }, start);
        let admitted = |bucket: &mut Bucket, at: Duration, asked: usize| {
            (0..asked).filter(|_| bucket.admit(start + at)).count()
        };
        assert_eq!(admitted(&mut bucket, Duration::ZERO, 100), 60);
        assert_eq!(admitted(&mut bucket, Duration::from_millis(500), 100), 20);
        // Never more than the burst, however long nobody asked.
        assert_eq!(admitted(&mut bucket, Duration::from_secs(3600), 100), 60);
        // Time does not run backwards for it.
        assert_eq!(admitted(&mut bucket, Duration::from_secs(1), 1), 0);
    }
}
