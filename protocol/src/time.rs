//! Time on the wires of AWS.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment as awsJson1_1 writes it: a number of seconds since the epoch with milliseconds as
/// fraction. What is finer is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochSeconds(pub Timestamp);

impl Default for EpochSeconds {
    fn default() -> Self {
        Self(Timestamp::UNIX_EPOCH)
    }
}

impl From<Timestamp> for EpochSeconds {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl Serialize for EpochSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let milliseconds = self.0.as_millisecond();
        if milliseconds % 1000 == 0 {
            return serializer.serialize_i64(milliseconds / 1000);
        }
        // Exact to the millisecond for every representable time: 2^53 ms are 285,000 years.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        serializer.serialize_f64(milliseconds as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for EpochSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let milliseconds = (seconds * 1000.0).round();
        // Casts saturate; what is out of a timestamp's range is refused below.
        #[allow(clippy::cast_possible_truncation, reason = "saturates")]
        let at = Timestamp::from_millisecond(milliseconds as i64);
        at.map(Self)
            .map_err(|_range| de::Error::custom("is out of range for seconds since the epoch"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn there_and_back() {
        for (text, milliseconds) in [
            ("1693526400.123", 1_693_526_400_123),
            ("0", 0),
            ("1693526400", 1_693_526_400_000),
            ("-1.5", -1500),
        ] {
            let at: EpochSeconds = serde_json::from_str(text).unwrap();
            assert_eq!(at.0.as_millisecond(), milliseconds);
            assert_eq!(serde_json::to_string(&at).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["1e300", "\"2020-01-01\"", "null"] {
            assert!(serde_json::from_str::<EpochSeconds>(text).is_err(), "{text}");
        }
    }
}
