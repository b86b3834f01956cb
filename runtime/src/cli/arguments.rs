//! The parser of the command line: it sorts words by the tables of options that the verbs have.
//!
//! Options may follow the container id, `--` ends them, and global ones may come before the verb. Of an
//! option that is given twice the last counts. A switch is turned on by its name alone, and takes `=true`
//! and `=false` as Go's do.

use std::ffi::{OsStr, OsString};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::{Arg, Parser};

use super::Command;
use super::verbs::{GLOBAL, OUTER, VERBS};
use crate::rootless;

const NO_TEXT: &str = "it is not UTF-8";

/// An option.
#[derive(Debug)]
pub(super) struct Opt {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    /// What its value is called; a switch has none.
    pub(super) value: Option<&'static str>,
    /// What it does; one that is not to be shown has none.
    pub(super) help: &'static str,
}

impl Opt {
    pub(super) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, value: None, help }
    }

    pub(super) const fn value(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { long, short: None, value: Some(value), help }
    }

    pub(super) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }
}

/// A command, and what may be said to it.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) options: &'static [&'static [Opt]],
    /// Name and meaning of what is no option; a name in angle brackets is required.
    pub(super) words: &'static [(&'static str, &'static str)],
    /// Whether all that follows the first word is words, whatever it looks like.
    pub(super) trailing: bool,
    pub(super) read: fn(&Given) -> Result<Command, Misuse>,
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misuse {
    #[error("No help topic for '{}'", word.display())]
    NoVerb { word: OsString },
    #[error("unknown option {option}")]
    Unknown { option: String },
    #[error("--{option} lacks its value")]
    NoValue { option: &'static str },
    #[error("{value:?} is not a value of {what}: {rule}")]
    Invalid { what: String, value: OsString, rule: String },
    #[error("{what} is missing")]
    Missing { what: &'static str },
    #[error("unexpected argument {word:?}")]
    Surplus { word: OsString },
    #[error("take the arguments apart")]
    Words(#[source] lexopt::Error),
}

/// What is said of an option.
#[derive(Debug)]
enum Said {
    On,
    Off,
    Value(OsString),
}

/// What is said to a verb, or to all of them.
#[derive(Debug, Default)]
pub(super) struct Given {
    options: Vec<(&'static Opt, Said)>,
    pub(super) words: Vec<OsString>,
}

/// A whole command line.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) global: Given,
    pub(super) verb: Option<&'static Verb>,
    pub(super) own: Given,
    pub(super) asks_for_help: bool,
}

impl Line {
    /// Sorts the words after the program's name; what was sorted before a failure stays.
    pub(super) fn sort(&mut self, words: impl Iterator<Item = OsString>) -> Result<(), Misuse> {
        let mut parser = Parser::from_args(words);
        let mut last = None;
        loop {
            let found = match parser.next() {
                Ok(None) => break,
                Ok(Some(Arg::Value(word))) => {
                    self.word(word, &mut parser)?;
                    continue;
                }
                Ok(Some(Arg::Long("help") | Arg::Short('h'))) => {
                    self.asks_for_help = true;
                    return Ok(());
                }
                Ok(Some(Arg::Long(name))) => self
                    .find(&|option| option.long == name)
                    .ok_or_else(|| Misuse::Unknown { option: format!("--{name}") })?,
                Ok(Some(Arg::Short(letter))) => {
                    self.find(&|option| option.short == Some(letter))
                        .ok_or_else(|| Misuse::Unknown { option: format!("-{letter}") })?
                }
                Err(error) => {
                    let (option, value, is_own) = match (error, last) {
                        (lexopt::Error::UnexpectedValue { value, .. }, Some((option, is_own))) => {
                            (option, value, is_own)
                        }
                        (error, _) => return Err(Misuse::Words(error)),
                    };
                    let said = switched(option, value)?;
                    self.given(is_own).options.push((option, said));
                    continue;
                }
            };
            let (option, is_own) = found;
            let said = match option.value {
                None => Said::On,
                Some(_) => {
                    let lacks = Misuse::NoValue { option: option.long };
                    Said::Value(parser.value().or(Err(lacks))?)
                }
            };
            self.given(is_own).options.push((option, said));
            last = Some(found);
        }
        let missing = self.verb.and_then(|verb| verb.words.get(self.own.words.len()));
        match missing.filter(|word| word.0.starts_with('<') && !self.asks_for_help) {
            Some((what, _)) => Err(Misuse::Missing { what }),
            None => Ok(()),
        }
    }

    fn word(&mut self, word: OsString, parser: &mut Parser) -> Result<(), Misuse> {
        let Some(verb) = self.verb else {
            if word == "help" {
                self.asks_for_help = true;
            } else {
                let verb = VERBS.iter().find(|verb| word == verb.name);
                self.verb = Some(verb.ok_or(Misuse::NoVerb { word })?);
            }
            return Ok(());
        };
        if verb.trailing {
            self.own.words.push(word);
            self.own.words.extend(parser.raw_args().map_err(Misuse::Words)?);
        } else if self.own.words.len() < verb.words.len() {
            self.own.words.push(word);
        } else {
            return Err(Misuse::Surplus { word });
        }
        Ok(())
    }

    /// The option, and whether it is the verb's own.
    fn find(&self, is: &dyn Fn(&Opt) -> bool) -> Option<(&'static Opt, bool)> {
        let own = self.verb.iter().flat_map(|verb| verb.options.iter().copied().flatten());
        let outer = OUTER.iter().filter(|_| self.verb.is_none());
        own.map(|option| (option, true))
            .chain(GLOBAL.iter().chain(outer).map(|option| (option, false)))
            .find(|(option, _)| is(option))
    }

    fn given(&mut self, is_own: bool) -> &mut Given {
        if is_own { &mut self.own } else { &mut self.global }
    }
}

/// What a switch with a value says.
fn switched(option: &Opt, value: OsString) -> Result<Said, Misuse> {
    match value.to_str().and_then(rootless::boolean) {
        Some(true) => Ok(Said::On),
        Some(false) => Ok(Said::Off),
        None => Err(invalid(option, value, "give true or false".to_owned())),
    }
}

fn invalid(option: &Opt, value: OsString, rule: String) -> Misuse {
    Misuse::Invalid { what: format!("--{}", option.long), value, rule }
}

impl Given {
    /// What was said of an option last.
    fn last(&self, name: &str) -> Option<&(&'static Opt, Said)> {
        debug_assert!(is_known(name), "{name}");
        self.options.iter().rev().find(|(option, _)| option.long == name)
    }

    /// Whether a switch is on, if it was touched.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.last(name).map(|(_, said)| matches!(said, Said::On))
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    pub(super) fn path(&self, name: &str) -> Result<Option<PathBuf>, Misuse> {
        match self.last(name) {
            Some((option, Said::Value(value))) if value.is_empty() => {
                Err(Misuse::NoValue { option: option.long })
            }
            Some((_, Said::Value(value))) => Ok(Some(value.into())),
            _ => Ok(None),
        }
    }

    /// The value as `read` understands it.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Misuse> {
        self.last(name).map(|said| understand(said, &read)).transpose().map(Option::flatten)
    }

    /// Every value of an option that may be repeated.
    pub(super) fn each<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Misuse> {
        debug_assert!(is_known(name), "{name}");
        let said = self.options.iter().filter(|(option, _)| option.long == name);
        said.filter_map(|said| understand(said, &read).transpose()).collect()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Misuse> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }

    /// The name of the container.
    pub(super) fn id(&self) -> Result<String, Misuse> {
        self.words.first().map_or(Ok(String::new()), |word| owned("the container id", word))
    }
}

/// Whether an option has this name, of whichever verb.
fn is_known(name: &str) -> bool {
    let tables = VERBS.iter().flat_map(|verb| verb.options.iter().copied());
    tables.chain([GLOBAL, OUTER]).flatten().any(|option| option.long == name)
}

/// One of few values that have names.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)], text: &str) -> Result<T, String> {
    let chosen = choices.iter().find(|(name, _)| *name == text);
    chosen.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("give {}", names.join(" or "))
    })
}

pub(super) fn number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| error.to_string())
}

/// A word that is to be text.
pub(super) fn owned(what: &str, word: &OsStr) -> Result<String, Misuse> {
    word.to_str().map(str::to_owned).ok_or_else(|| Misuse::Invalid {
        what: what.to_owned(),
        value: word.to_owned(),
        rule: NO_TEXT.to_owned(),
    })
}

fn understand<T>(
    (option, said): &(&'static Opt, Said),
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Misuse> {
    let Said::Value(value) = said else { return Ok(None) };
    let read = value.to_str().map_or_else(|| Err(NO_TEXT.to_owned()), read);
    read.map(Some).map_err(|rule| invalid(option, value.clone(), rule))
}
