//! Signals by name or number, as runc takes them: `KILL`, `SIGKILL`, `sigkill`, `9`, `RTMIN+3`.

use std::str::FromStr as _;

use nix::sys::signal::Signal;

/// Highest signal number of Linux.
const LAST: i32 = 64;

/// Number of a signal.
pub(super) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=LAST).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // As the kernel and bash count; libcs keep the first two for themselves.
    let (first, last) = (34, LAST);
    let real_time = |offset: &str, base: i32| {
        if offset.is_empty() { Some(base) } else { Some(base + offset.parse::<i32>().ok()?) }
    };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(offset, first).filter(|number| (first..=last).contains(number));
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(offset, last).filter(|number| (first..=last).contains(number));
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("KILL", Some(9)),
            ("SIGTERM", Some(15)),
            ("sigint", Some(2)),
            ("9", Some(9)),
            ("0", Some(0)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("CLD", Some(17)),
            ("65", None),
            ("-1", None),
            ("RTMAX+1", None),
            ("NONE", None),
            ("", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
