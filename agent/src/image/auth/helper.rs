//! Docker's credential helpers: `docker-credential-<name> get`, the registry's name on standard input,
//! JSON on standard output (docker/docker-credential-helpers, "Development").
//!
//! The program is looked for in `PATH` and started without a shell. It has a minute, because it may ask
//! a person, and its answer is bounded. What it says when it fails is repeated, one line of it, unless
//! that could be an answer.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::Login;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at one that has said all and not ended yet.
const LOOK: Duration = Duration::from_millis(2);
/// Bytes of an answer at most.
const LARGEST: u64 = 64 << 10;
/// User name that says that the secret is an identity token.
const TOKEN: &str = "<token>";
/// What a helper says, and exits with 1, that has no login.
const NOT_FOUND: &str = "credentials not found";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a helper's name is of letters, digits and the characters . _ -")]
    Name,
    #[error("start {program}, which must be in a directory of PATH")]
    Start { program: String, source: std::io::Error },
    #[error("speak to {program}")]
    Speak { program: String, source: std::io::Error },
    #[error("{program} did not answer within {} s", PATIENCE.as_secs())]
    Silent { program: String },
    #[error("{program} answers more than {LARGEST} bytes")]
    TooLong { program: String },
    #[error("{program} fails ({status}){said}")]
    Failed { program: String, status: ExitStatus, said: String },
    #[error("{program} does not answer with the JSON of a login")]
    Answer { program: String },
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    user: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// What the helper has for the registry. `None`: nothing.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Login>, Error> {
    if !is_name(name) {
        return Err(Error::Name);
    }
    let program = format!("docker-credential-{name}");
    let child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })?;
    let mut child = Killed(child);
    let spoken = tokio::time::timeout(PATIENCE, speak(&mut child.0, server)).await;
    let (status, output) = match spoken {
        Err(_elapsed) => return Err(Error::Silent { program }),
        Ok(Err(source)) => return Err(Error::Speak { program, source }),
        Ok(Ok(spoken)) => spoken,
    };
    let Some(status) = status else { return Err(Error::TooLong { program }) };
    if status.success() {
        return read(&output).ok_or(Error::Answer { program });
    }
    let said = String::from_utf8_lossy(&output);
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    Err(Error::Failed { program, status, said: repeatable(&said) })
}

/// A child that does not outlive this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended and was waited for is not signalled.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How it ended, `None` if it says too much, and what it said.
async fn speak(child: &mut Child, server: &str) -> std::io::Result<(Option<ExitStatus>, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // Shorter than what a pipe holds, so it does not wait. One that does not read what it is
        // asked may know anyway.
        match stdin.write_all(server.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
        stdout.take(LARGEST + 1).read_to_end(&mut output).await?;
    }
    if output.len() as u64 > LARGEST {
        return Ok((None, output));
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((Some(status), output));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(fits)
}

pub(super) fn read(output: &[u8]) -> Option<Option<Login>> {
    let Answer { user, secret } = serde_json::from_slice(output).ok()?;
    match (user.as_str(), secret.as_str()) {
        ("", "") => Some(None),
        ("", _) | (_, "") => None,
        (TOKEN, _) => Some(Some(Login::IdentityToken(secret))),
        _ => Some(Some(Login::Password { user, password: secret })),
    }
}

/// A failure's words, unless they could be a login.
pub(super) fn repeatable(said: &str) -> String {
    let line = said.trim().lines().next().unwrap_or_default();
    if line.is_empty() || line.contains(['{', '"']) {
        return String::new();
    }
    format!(": {}", line.chars().take(200).collect::<String>().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["pass", "ecr-login", "gcr_2", "osx.keychain"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "../evil", "a/b", "a b", "a;b", "a\0", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn answers() {
        let read = |text: &str| read(text.as_bytes());
        let text = r#"{"ServerURL":"r.example","Username":"u","Secret":"s"}"#;
        let login = Login::Password { user: "u".to_owned(), password: "s".to_owned() };
        assert_eq!(read(text), Some(Some(login)));
        let token = r#"{"Username":"<token>","Secret":"s"}"#;
        assert_eq!(read(token), Some(Some(Login::IdentityToken("s".to_owned()))));
        assert_eq!(read("{}"), Some(None));
        for bad in ["", "null", r#"{"Username":"u"}"#, r#"{"Secret":"s"}"#, r#"{"Username":7}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_failure_says() {
        assert_eq!(repeatable("no key\nmore"), ": no key");
        assert_eq!(repeatable(""), "");
        assert_eq!(repeatable(r#"{"Secret":"s"}"#), "");
        assert_eq!(repeatable("a\u{1b}[31m"), ": a\\u{1b}[31m");
    }
}
