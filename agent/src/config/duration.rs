//! Go's duration syntax, which the ECS agent's variables use: `90s`, `1h30m`, `1.5m`, `300ms`.

use std::time::Duration;

/// The text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as 90s, 10m or 1h30m")]
pub struct DurationError;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 6e10),
    ("h", 3.6e12),
];

/// Reads a duration; negative ones are refused.
///
/// # Errors
/// If the text is not in Go's syntax, or too large.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError);
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, behind) = behind.split_at(letters.unwrap_or(behind.len()));
        let number: f64 = number.parse().map_err(|_not_a_number| DurationError)?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
        nanoseconds += number * factor;
        rest = behind;
    }
    // As Go: what does not fit into 63 bits is refused.
    if nanoseconds >= 9.2e18 {
        return Err(DurationError);
    }
    Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_out_of_range| DurationError)
}

/// As Go prints it: `2h0m0s`, `1m0s`, `1.5s`.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = Duration::new(seconds % 60, duration.subsec_nanos()).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_as_go_does() {
        for (milliseconds, expected) in [
            (7_200_000, "2h0m0s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_601_000, "1h0m1s"),
            (1500, "1.5s"),
        ] {
            assert_eq!(shown(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn durations_of_go() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("30s", Some(30_000)),
            ("3m", Some(180_000)),
            ("3h", Some(10_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1h15m30.918s", Some(4_530_918)),
            ("1.5m", Some(90_000)),
            (".5s", Some(500)),
            ("+5s", Some(5000)),
            ("300ms", Some(300)),
            ("2000us", Some(2)),
            ("2000µs", Some(2)),
            ("1000000ns", Some(1)),
            ("", None),
            ("+", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1 s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("3000000h", None),
            ("1e3s", None),
            ("\u{663}s", None),
        ] {
            let expected = expected.map(Duration::from_millis).ok_or(DurationError);
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
