//! `kill`: a signal to the container's init, or to all of its processes.

use std::path::Path;
use std::str::FromStr as _;

use clap::Args;
use nix::sys::signal::Signal;

use super::Error;
use crate::container::Container;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Send the signal to every process of the container
    #[arg(long, short)]
    all: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
    /// Signal by name or number
    #[arg(default_value = "SIGTERM", allow_negative_numbers = true)]
    signal: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let signal = parse(&arguments.signal)?;
    Container::load(root, &arguments.id)?.kill(signal, arguments.all)?;
    Ok(0)
}

/// A number, or a name with or without `SIG`, in either case.
fn parse(text: &str) -> Result<i32, Error> {
    let unknown = || Error::Signal { signal: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Signal::from_str(&name).map(|signal| signal as i32).map_err(|_errno| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("9", 9), ("0", 0), ("64", 64), ("KILL", 9), ("sigterm", 15), ("Hup", 1)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "65", "-1", "SIGFLY", "9x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
