//! How far a service's clock is from this host's. A signature is good for minutes only, so a host
//! whose clock is wrong could otherwise never join.
//!
//! Learned from the `Date` of a refusal that a clock explains, as the AWS SDKs do; what is learned
//! only moves the time in signatures.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// What does no harm: services take five minutes.
const TOLERATED: SignedDuration = SignedDuration::from_mins(4);

/// Names of refusals that a clock may explain.
const EXPLAINED: [&str; 6] = [
    "AuthFailure",
    "InvalidSignatureException",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
];

/// Seconds by which the service is ahead. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Skew(Arc<AtomicI64>);

impl Skew {
    /// The service's time, as far as it is known.
    pub(super) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(self.ahead()).unwrap_or(now)
    }

    fn ahead(&self) -> SignedDuration {
        SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }

    /// `name`: the refusal's. `date`: its `Date` header.
    pub(super) fn learn(&self, name: &str, date: Option<&str>) {
        if !EXPLAINED.contains(&name) {
            return;
        }
        let parser = jiff::fmt::rfc2822::DateTimeParser::new();
        let Some(theirs) = date.and_then(|date| parser.parse_timestamp(date).ok()) else { return };
        let ahead = theirs.duration_since(Timestamp::now());
        let off = ahead.checked_sub(self.ahead()).unwrap_or(SignedDuration::MAX);
        if off > TOLERATED || off < -TOLERATED {
            tracing::warn!(
                seconds = ahead.as_secs(),
                "the clocks of this host and of the service differ; requests are signed with the service's time"
            );
            self.0.store(ahead.as_secs(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_clock_explains_is_learned() {
        let skew = Skew::default();
        for (name, date) in [
            ("InvalidSignatureException", None),
            ("InvalidSignatureException", Some("yesterday")),
            ("ClientException", Some("Sat, 21 Nov 2020 17:00:00 GMT")),
        ] {
            skew.learn(name, date);
            assert_eq!(skew.ahead(), SignedDuration::ZERO, "{name} {date:?}");
        }
        skew.learn("InvalidSignatureException", Some("Sat, 21 Nov 2020 17:00:00 GMT"));
        assert!(skew.ahead() < SignedDuration::ZERO);
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let now = printer.timestamp_to_rfc9110_string(&Timestamp::now()).ok();
        skew.learn("InvalidSignatureException", now.as_deref());
        assert!(skew.ahead().abs() < SignedDuration::from_secs(60), "the clock was set");
    }
}
