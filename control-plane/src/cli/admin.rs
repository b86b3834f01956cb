//! The admin socket: `<data>/admin.sock`, on which the serving process does what `key` and `role`
//! ask. One request and one answer per connection, each a line of JSON.
//!
//! Only the owner of the data directory and root may connect: directory and socket are closed to
//! others. Who binds the socket has the store open, so one that is there is a dead process's.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::error::chain;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::{Error, Place};
use crate::access::{self, Answer, Request};
use crate::state::State;
use crate::store::Redb;

pub(super) const SOCKET_NAME: &str = "admin.sock";
/// Of a request, in bytes.
const LONGEST_REQUEST: u64 = 64 << 10;
/// Of an answer, in bytes: a thousand keys are 300 KB.
const LONGEST_ANSWER: u64 = 64 << 20;
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long another process may hold the store without a socket: one that starts, or another
/// command.
const IN_USE_TIME: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The store of a data directory. Waits while another process has it open for a moment.
pub(super) async fn open_store(data: &Path) -> Result<Redb, Error> {
    let give_up = Instant::now() + IN_USE_TIME;
    loop {
        match Redb::open(&store_path(data)) {
            Err(error) if error.is_in_use() && Instant::now() < give_up => sleep(PAUSE).await,
            opened => return Ok(opened?),
        }
    }
}

fn store_path(data: &Path) -> PathBuf {
    data.join("state.redb")
}

/// Has a request done, by the serving process or here.
pub(super) async fn ask(place: &Place, request: Request) -> Result<Answer, Error> {
    let data = place.prepare()?;
    let path = data.join(SOCKET_NAME);
    let give_up = Instant::now() + IN_USE_TIME;
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return converse(stream, &path, &request).await,
            Err(error) if is_nobody(&error) => {}
            Err(source) => return Err(Error::Ask { path, source }),
        }
        match Redb::open(&store_path(&data)) {
            Ok(store) => {
                let state = State::open(Arc::new(store)).await?;
                return Ok(access::perform(&state, request, Timestamp::now()).await?);
            }
            Err(error) if error.is_in_use() && Instant::now() < give_up => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn converse(mut stream: UnixStream, path: &Path, request: &Request) -> Result<Answer, Error> {
    let failed = |source| Error::Ask { path: path.to_owned(), source };
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    let talk = async {
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        (&mut stream).take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let Ok(answer) = timeout(ANSWER_TIME, talk).await else {
        return Err(Error::NoAnswer { path: path.to_owned() });
    };
    let answer = answer.map_err(failed)?;
    if answer.is_empty() {
        return Err(Error::NoAnswer { path: path.to_owned() });
    }
    serde_json::from_slice(&answer).map_err(|error| failed(error.into()))
}

/// Binds the socket in place of one that a dead process left. The caller has the store open.
pub(super) fn bind(data: &Path) -> Result<(UnixListener, PathBuf), Error> {
    let path = data.join(SOCKET_NAME);
    let new = data.join("admin.sock.new");
    let failed = |source| Error::Socket { path: path.clone(), source };
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    // Under its name it is never open to others.
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&new, &path).map_err(failed)?;
    Ok((listener, path))
}

/// Does what is asked, until the future is dropped.
pub(super) async fn serve(listener: UnixListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    // Who asked has gone or never spoke; nothing is to be told to anyone.
                    let _ = timeout(ANSWER_TIME, answer(stream, &state)).await;
                });
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a connection to the admin socket was not accepted"
                );
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream).take(LONGEST_REQUEST).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(());
    }
    let answer = match serde_json::from_slice::<Request>(&line) {
        Err(error) => Answer::Refused(format!("the control plane does not know this: {error}")),
        Ok(request) => match access::perform(state, request, Timestamp::now()).await {
            Ok(answer) => answer,
            Err(error) => Answer::Refused(chain(&error)),
        },
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::state::testing;

    fn place(data: &Path) -> Place {
        Place {
            root: None,
            data: Some(data.to_owned()),
            account: "000000000000".to_owned(),
            log_level: super::super::LogLevel::Error,
        }
    }

    fn create(name: &str) -> Request {
        Request::CreateRole { name: name.to_owned(), allow: Vec::new() }
    }

    #[tokio::test]
    async fn with_and_without_a_serving_process() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(&directory.path().join("a/b"));
        let data = place.data();
        assert!(matches!(ask(&place, create("one")).await.unwrap(), Answer::Role(_)));
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);

        // A socket that a dead process left changes nothing.
        drop(bind(&data).unwrap());
        assert!(matches!(ask(&place, create("two")).await.unwrap(), Answer::Role(_)));

        let store = open_store(&data).await.unwrap();
        let state = State::open(Arc::new(store)).await.unwrap();
        let (listener, path) = bind(&data).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        assert!(matches!(ask(&place, create("three")).await.unwrap(), Answer::Role(_)));
        let refused = ask(&place, create("one")).await.unwrap();
        assert!(
            matches!(&refused, Answer::Refused(text) if text.contains("exists")),
            "{refused:?}"
        );
        assert_eq!(state.view().roles.len(), 3);
        serving.abort();
    }

    #[tokio::test]
    async fn a_store_in_use_without_a_socket_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        let held = open_store(directory.path()).await.unwrap();
        let asked = tokio::spawn(async move { ask(&place, create("one")).await });
        sleep(4 * PAUSE).await;
        assert!(!asked.is_finished());
        drop(held);
        assert!(matches!(asked.await.unwrap().unwrap(), Answer::Role(_)));
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let (_directory, state) = testing::open().await;
        for (sent, expected) in [(&b"{}\n"[..], "Refused"), (b"", ""), (b"\xff\n", "Refused")] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(sent).await.unwrap();
            ours.shutdown().await.unwrap();
            answer(theirs, &state).await.unwrap();
            let mut text = String::new();
            ours.read_to_string(&mut text).await.unwrap();
            assert!(text.to_lowercase().contains(&expected.to_lowercase()), "{text}");
        }
    }
}
