//! What `--help` prints, from the tables of options.

use super::arguments::{Opt, Verb};
use super::verbs::{ABOUT, GLOBAL, OUTER, VERBS};

const HELP: [Opt; 1] = [Opt::switch("help", "Print help").short('h')];

/// The help of a verb, or of the program.
pub(super) fn text(verb: Option<&Verb>) -> String {
    let mut text = verb.map_or(ABOUT, |verb| verb.about).to_owned();
    match verb {
        None => {
            text.push_str("\n\nUsage: lighter-runtime [OPTIONS] [COMMAND]\n");
            let verbs = VERBS.iter().map(|verb| (verb.name.to_owned(), verb.about));
            let help = ("help".to_owned(), "Print this, or the help of the command that follows");
            section(&mut text, "Commands", verbs.chain([help]).collect());
            section(&mut text, "Options", listed(&mut GLOBAL.iter().chain(OUTER).chain(&HELP)));
        }
        Some(verb) => {
            text.push_str("\n\nUsage: lighter-runtime ");
            text.push_str(verb.name);
            text.push_str(" [OPTIONS]");
            for (name, _) in verb.words {
                text.push(' ');
                text.push_str(name);
            }
            text.push('\n');
            let words = verb.words.iter().map(|(name, help)| ((*name).to_owned(), *help));
            section(&mut text, "Arguments", words.collect());
            let own = verb.options.iter().copied().flatten();
            section(&mut text, "Options", listed(&mut own.chain(&HELP)));
            section(&mut text, "Global options", listed(&mut GLOBAL.iter()));
        }
    }
    text
}

/// How an option is written, and what it does.
fn listed(options: &mut dyn Iterator<Item = &'static Opt>) -> Vec<(String, &'static str)> {
    let mut rows = Vec::new();
    for option in options.filter(|option| !option.help.is_empty()) {
        let mut written =
            option.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        written.push_str("--");
        written.push_str(option.long);
        if let Some(value) = option.value {
            written.push_str(" <");
            written.push_str(value);
            written.push('>');
        }
        rows.push((written, option.help));
    }
    rows
}

fn section(text: &mut String, title: &str, rows: Vec<(String, &str)>) {
    let Some(width) = rows.iter().map(|(name, _)| name.len()).max() else { return };
    text.push('\n');
    text.push_str(title);
    text.push_str(":\n");
    for (name, meaning) in rows {
        text.push_str(&format!("  {name:width$}  {meaning}\n"));
    }
}
