//! `kill`: a signal to the container's init, or to all of its processes.

use std::path::Path;
use std::str::FromStr as _;

use nix::sys::signal::Signal;

use super::Error;
use super::arguments::{Given, Misuse, Opt, owned};
use crate::container::Container;

pub(super) const OPTIONS: &[Opt] =
    &[Opt::switch("all", "Send the signal to every process of the container").short('a')];

#[derive(Debug)]
pub(super) struct Arguments {
    all: bool,
    id: String,
    signal: String,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        let signal = given.words.get(1);
        Ok(Self {
            all: given.is_on("all"),
            id: given.id()?,
            signal: signal.map_or(Ok("SIGTERM".to_owned()), |word| owned("the signal", word))?,
        })
    }
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
        for (text, number) in
            [("9", 9), ("0", 0), ("64", 64), ("KILL", 9), ("sigterm", 15), ("Hup", 1)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "65", "-1", "SIGFLY", "9x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
