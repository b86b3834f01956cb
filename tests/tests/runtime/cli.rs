//! The command line itself: its options beside runc's, help, version, what is no command.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use tests::bundle::{is_ours, runtime};

const VERBS: [&str; 17] = [
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
];

/// Options of runc 1.2 to 1.4, where the runc that is installed may not have them yet.
const NEWER: [(&str, &[&str]); 5] = [
    ("checkpoint", &["--tcp-skip-in-flight", "--link-remap"]),
    ("create", &["--pidfd-socket"]),
    ("exec", &["--pidfd-socket"]),
    ("run", &["--pidfd-socket"]),
    ("update", &["--cpu-burst", "--cpu-idle"]),
];

fn call(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap()
}

fn ours(words: &[&str]) -> Output {
    call(runtime().to_str().unwrap(), words)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The options that a help text lists, long and short.
fn options(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in help.lines().map(str::trim).filter(|line| line.starts_with('-')) {
        // Names come before what they mean, from which two spaces part them.
        let names = line.split("  ").next().unwrap();
        let names = names.split([' ', ',', '=']).filter(|word| word.starts_with('-'));
        options.extend(names.map(|name| name.trim_end_matches([']', '[']).to_owned()));
    }
    options
}

#[test]
fn every_option_of_runc_is_one_of_ours() {
    for verb in VERBS.iter().map(|verb| Some(*verb)).chain([None]) {
        let words: Vec<&str> = verb.into_iter().chain(["--help"]).collect();
        let theirs = options(&text(&call("runc", &words).stdout));
        assert!(theirs.contains("--help") || verb.is_some(), "{theirs:?}");
        let help = ours(&words);
        assert!(help.status.success(), "{verb:?}");
        let have = options(&text(&help.stdout));
        let newer = NEWER.iter().filter(|row| Some(row.0) == verb).flat_map(|row| row.1);
        let wanted: BTreeSet<String> =
            theirs.into_iter().chain(newer.map(|name| (*name).to_owned())).collect();
        let missing: Vec<&String> = wanted.difference(&have).collect();
        if is_ours() {
            assert_eq!(missing, [""; 0], "{verb:?}");
        }
    }
}

#[test]
fn help_is_no_failure() {
    for verb in VERBS {
        for flag in ["-h", "--help"] {
            let output = ours(&[verb, flag]);
            assert_eq!(output.status.code(), Some(0), "{verb} {flag}");
            assert!(text(&output.stdout).contains(verb), "{verb} {flag}");
        }
    }
    for words in [&[][..], &["-h"], &["--help"], &["help"], &["help", "state"]] {
        let output = ours(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(text(&output.stdout).contains("state"), "{words:?}");
    }
}

#[test]
fn what_is_no_command_is_refused_in_runcs_words() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let output = ours(&["--log", log.to_str().unwrap(), "--log-format", "json", "fly", "box"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("No help topic for 'fly'"), "{output:?}");
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("No help topic for 'fly'"), "{logged}");
    for words in [&["--nope"][..], &["state"], &["state", "--nope", "x"], &["state", "a", "b"]] {
        assert_eq!(ours(words).status.code(), Some(1), "{words:?}");
    }
}

/// As containerd (by lines and their beginnings) and dockerd (by the word) take it apart.
#[test]
fn the_version_is_one_that_callers_read() {
    for flag in ["--version", "-v"] {
        let output = text(&ours(&[flag]).stdout);
        let mut lines = output.lines();
        let (name, version) = lines.next().unwrap().split_once(" version ").unwrap();
        assert!(!name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()), "{output}");
        let values: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
        let spec = values.iter().find(|row| row.0 == "spec").unwrap().1;
        if is_ours() {
            assert_eq!(spec, "1.3.0");
            assert!(values.iter().all(|row| matches!(row.0, "spec" | "commit")), "{output}");
        }
    }
    if is_ours() {
        let features: serde_json::Value =
            serde_json::from_slice(&ours(&["features"]).stdout).unwrap();
        assert_eq!(features["ociVersionMax"], "1.3.0");
        assert_eq!(features["linux"]["intelRdt"]["schemata"], true);
        assert_eq!(features["linux"]["memoryPolicy"]["modes"][2], "MPOL_BIND");
    }
}
