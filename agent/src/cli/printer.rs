//! Container output on our own standard output and error, with a prefix per container.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};

use jiff::Timestamp;

use super::Error;
use crate::api::types::LogLine;

/// As `docker compose` hands them out.
const COLOURS: [&str; 10] = [
    "\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[96m", "\x1b[93m", "\x1b[92m",
    "\x1b[95m", "\x1b[94m",
];
const RESET: &str = "\x1b[0m";

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) prefix: bool,
    pub(super) colour: bool,
    pub(super) timestamps: bool,
}

/// Colour is for people who look, and who did not say that they want none.
pub(super) fn wants_colour(no_color: bool) -> bool {
    let set = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && !set && io::stdout().is_terminal()
}

/// Prints lines, and remembers whether the last one was left without its end.
#[derive(Debug)]
pub(super) struct Printer {
    style: Style,
    prefixes: HashMap<String, String>,
    /// Container and stream of the part of a line that was printed last.
    open: Option<(String, String)>,
    buffer: Vec<u8>,
}

impl Printer {
    /// `containers` in the order in which colours go round.
    pub(super) fn new<'a>(style: Style, containers: impl Iterator<Item = &'a str> + Clone) -> Self {
        let width = containers.clone().map(|name| name.chars().count()).max().unwrap_or(0);
        let prefix = |(n, name): (usize, &str)| {
            let text = if style.colour {
                format!("{}{name:width$} |{RESET} ", COLOURS[n % COLOURS.len()])
            } else {
                format!("{name:width$} | ")
            };
            (name.to_owned(), text)
        };
        let prefixes = if style.prefix {
            containers.enumerate().map(prefix).collect()
        } else {
            HashMap::new()
        };
        Self { style, prefixes, open: None, buffer: Vec::new() }
    }

    /// Prints a line to the stream it was written to.
    pub(super) fn print(&mut self, line: &LogLine) -> Result<(), Error> {
        self.format(line);
        let written = if line.stream == "stderr" {
            io::stderr().lock().write_all(&self.buffer)
        } else {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&self.buffer).and_then(|()| stdout.flush())
        };
        written.map_err(|source| Error::Output { source })
    }

    fn format(&mut self, line: &LogLine) {
        self.buffer.clear();
        let goes_on = match &self.open {
            Some((container, stream)) => *container == line.container && *stream == line.stream,
            None => false,
        };
        if !goes_on {
            // Without prefixes the bytes are the container's own, and so is where lines end.
            if self.open.is_some() && self.style.prefix {
                self.buffer.push(b'\n');
            }
            if let Some(prefix) = self.prefixes.get(&line.container) {
                self.buffer.extend_from_slice(prefix.as_bytes());
            }
            if self.style.timestamps {
                self.buffer.extend_from_slice(fixed_width(&line.time).as_bytes());
                self.buffer.push(b' ');
            }
        }
        self.buffer.extend_from_slice(line.log.as_bytes());
        self.open = if line.log.ends_with('\n') {
            None
        } else {
            Some((line.container.clone(), line.stream.clone()))
        };
    }
}

/// The time with nine digits of a second, as `docker logs -t` prints it.
fn fixed_width(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => format!("{time:.9}"),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container: &str, stream: &str, log: &str) -> LogLine {
        LogLine {
            container: container.to_owned(),
            stream: stream.to_owned(),
            time: "2026-11-21T10:00:00.5Z".to_owned(),
            log: log.to_owned(),
        }
    }

    fn print(style: Style, lines: &[LogLine]) -> String {
        let mut printer = Printer::new(style, ["web", "sidecar"].into_iter());
        let mut text = String::new();
        for line in lines {
            printer.format(line);
            text.push_str(&String::from_utf8_lossy(&printer.buffer));
        }
        text
    }

    #[test]
    fn prefixes_are_padded_and_parts_of_a_line_joined() {
        let lines = [
            line("web", "stdout", "one\n"),
            line("sidecar", "stdout", "two "),
            line("sidecar", "stdout", "goes on\n"),
            line("web", "stdout", "cut"),
            line("sidecar", "stderr", "other\r\n"),
        ];
        let plain = Style { prefix: true, colour: false, timestamps: false };
        assert_eq!(
            print(plain, &lines),
            "web     | one\nsidecar | two goes on\nweb     | cut\nsidecar | other\r\n"
        );
        let bare = Style { prefix: false, colour: false, timestamps: false };
        assert_eq!(print(bare, &lines), "one\ntwo goes on\ncutother\r\n");
    }

    #[test]
    fn colours_and_times() {
        let style = Style { prefix: true, colour: true, timestamps: true };
        assert_eq!(
            print(style, &[line("sidecar", "stdout", "x\n")]),
            "\x1b[33msidecar |\x1b[0m 2026-11-21T10:00:00.500000000Z x\n"
        );
    }
}
