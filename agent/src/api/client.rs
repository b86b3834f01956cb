//! Client of the agent's API socket.
//!
//! The socket is reached through a descriptor of its directory, because a socket's address holds
//! 107 bytes and a root may be anywhere.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;

use super::types::{
    AgentInfo, Deregistered, Failure, HistoryView, ImageDetail, ImageView, KeepImage, LogLine,
    PruneImages, PrunedImages, PullEvent, PullImage, PushEvent, PushImage, RemovedImage, RunTask,
    SaveImages, StopTask, TagImage, TaskView,
};

/// Speaks to the agent of one root.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    /// Keeps the number in the socket's path ours.
    _directory: std::sync::Arc<File>,
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("open the agent's run directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("set up the client of the agent's socket")]
    SetUp { source: reqwest::Error },
    #[error("no agent answers at {path}")]
    NotRunning { path: PathBuf, source: reqwest::Error },
    #[error("ask the agent")]
    Send { source: reqwest::Error },
    #[error("read the agent's answer")]
    Receive { source: reqwest::Error },
    #[error("understand the agent's answer")]
    Decode { source: serde_json::Error },
    /// The agent's own words.
    #[error("{message}")]
    Refused { status: u16, message: String },
}

impl ClientError {
    /// The agent knows no such task or image.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The agent is not there, ended before it had answered, or said that it is about to end.
    pub fn is_lost(&self) -> bool {
        use ClientError::{NotRunning, Receive, Refused, Send};
        matches!(
            self,
            NotRunning { .. } | Send { .. } | Receive { .. } | Refused { status: 503, .. }
        )
    }

    /// The agent was reached and said no, and not because it ends.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. }) && !self.is_lost()
    }
}

/// Which lines of a log to ask for.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    pub follow: bool,
    pub containers: Vec<String>,
    pub since: Option<jiff::Timestamp>,
    pub tail: Option<usize>,
}

impl Client {
    /// Connects to the agent whose socket is `socket`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if nobody listens there.
    pub async fn connect(socket: &Path) -> Result<(Self, AgentInfo), ClientError> {
        let client = Self::new(socket)?;
        match client.json(client.request(Method::GET, &["agent"])).await {
            Ok(info) => Ok((client, info)),
            // Nobody listens, or who listened died before answering.
            Err(ClientError::Send { source } | ClientError::Receive { source }) => {
                Err(ClientError::NotRunning { path: socket.to_owned(), source })
            }
            Err(error) => Err(error),
        }
    }

    fn new(socket: &Path) -> Result<Self, ClientError> {
        let (path, name) = match (socket.parent(), socket.file_name()) {
            (Some(path), Some(name)) => (path, name),
            _ => (Path::new("/"), socket.as_os_str()),
        };
        let directory = File::open(path)
            .map_err(|source| ClientError::Directory { path: path.to_owned(), source })?;
        let address = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        let http = reqwest::Client::builder()
            .unix_socket(address)
            .no_proxy()
            .build()
            .map_err(|source| ClientError::SetUp { source })?;
        #[expect(clippy::expect_used, reason = "a constant that parses")]
        let base = Url::parse("http://agent/v1").expect("a constant that parses");
        Ok(Self { http, base, _directory: std::sync::Arc::new(directory) })
    }

    /// Starts a task.
    ///
    /// # Errors
    /// If the agent refuses it or cannot be asked.
    pub async fn run(&self, task: &RunTask) -> Result<TaskView, ClientError> {
        self.json(self.request(Method::POST, &["tasks"]).json(task)).await
    }

    /// The tasks, those that have stopped only with `all`.
    ///
    /// # Errors
    /// If the agent cannot be asked.
    pub async fn tasks(&self, all: bool) -> Result<Vec<TaskView>, ClientError> {
        self.json(self.request(Method::GET, &["tasks"]).query(&[("all", all)])).await
    }

    /// One task by id or unambiguous prefix.
    ///
    /// # Errors
    /// If there is none, or the agent cannot be asked.
    pub async fn task(&self, task: &str) -> Result<TaskView, ClientError> {
        self.json(self.request(Method::GET, &["tasks", task])).await
    }

    /// Asks for a task to be stopped; returns before it is.
    ///
    /// # Errors
    /// If there is none, or the agent cannot be asked.
    pub async fn stop(&self, task: &str, stop: &StopTask) -> Result<TaskView, ClientError> {
        self.json(self.request(Method::POST, &["tasks", task, "stop"]).json(stop)).await
    }

    /// Removes a stopped task.
    ///
    /// # Errors
    /// If there is none, it has not stopped, or the agent cannot be asked.
    pub async fn remove(&self, task: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &["tasks", task])).await.map(drop)
    }

    /// The task now and after each change, until it has stopped.
    ///
    /// # Errors
    /// If there is none, or the agent cannot be asked.
    pub async fn watch(&self, task: &str) -> Result<Lines<TaskView>, ClientError> {
        self.lines(self.request(Method::GET, &["tasks", task, "watch"])).await
    }

    /// The task's output.
    ///
    /// # Errors
    /// If there is no such task or container, or the agent cannot be asked.
    pub async fn logs(&self, task: &str, query: &LogQuery) -> Result<Lines<LogLine>, ClientError> {
        let mut pairs = vec![("follow", query.follow.to_string())];
        pairs.extend(query.containers.iter().map(|name| ("container", name.clone())));
        pairs.extend(query.since.map(|since| ("since", since.to_string())));
        pairs.extend(query.tail.map(|tail| ("tail", tail.to_string())));
        self.lines(self.request(Method::GET, &["tasks", task, "logs"]).query(&pairs)).await
    }

    /// Takes the host out of its cluster.
    ///
    /// # Errors
    /// If it is in none, the control plane cannot be told, or the agent cannot be asked.
    pub async fn deregister(&self) -> Result<Deregistered, ClientError> {
        self.json(self.request(Method::POST, &["deregister"])).await
    }

    /// Asks an agent in the background to end, so that the caller can take its place.
    ///
    /// # Errors
    /// If the agent cannot be asked, or serves otherwise than in the background.
    pub async fn give_way(&self) -> Result<(), ClientError> {
        self.json(self.request(Method::POST, &["give-way"])).await
    }

    /// The images in the store.
    ///
    /// # Errors
    /// If the agent cannot be asked.
    pub async fn images(&self) -> Result<Vec<ImageView>, ClientError> {
        self.json(self.request(Method::GET, &["images"])).await
    }

    /// All that is known of an image.
    ///
    /// # Errors
    /// If there is none, or the agent cannot be asked.
    pub async fn image(&self, reference: &str) -> Result<ImageDetail, ClientError> {
        let request = self.request(Method::GET, &["image"]);
        self.json(request.query(&[("reference", reference)])).await
    }

    /// How an image was made, the last step first.
    ///
    /// # Errors
    /// If there is none, or the agent cannot be asked.
    pub async fn image_history(&self, reference: &str) -> Result<Vec<HistoryView>, ClientError> {
        let request = self.request(Method::GET, &["image", "history"]);
        self.json(request.query(&[("reference", reference)])).await
    }

    /// Writes an archive of images to a file that the agent can open.
    ///
    /// # Errors
    /// If one of them cannot be saved, or the agent cannot be asked.
    pub async fn save(&self, images: &SaveImages) -> Result<(), ClientError> {
        self.json(self.request(Method::POST, &["images", "save"]).json(images)).await
    }

    /// Pushes images to their registry.
    ///
    /// # Errors
    /// If the agent cannot be asked; a failed push is an event.
    pub async fn push(&self, image: &PushImage) -> Result<Lines<PushEvent>, ClientError> {
        self.lines(self.request(Method::POST, &["images", "push"]).json(image)).await
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// If there is none, the name is none, or the agent cannot be asked.
    pub async fn tag_image(&self, tag: &TagImage) -> Result<(), ClientError> {
        self.json(self.request(Method::POST, &["images", "tag"]).json(tag)).await
    }

    /// Removes images that nothing needs.
    ///
    /// # Errors
    /// If the agent cannot be asked, or cannot remove one.
    pub async fn prune_images(&self, prune: &PruneImages) -> Result<PrunedImages, ClientError> {
        self.json(self.request(Method::POST, &["images", "prune"]).json(prune)).await
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// If the agent cannot be asked; a failed pull is an event.
    pub async fn pull(&self, image: &PullImage) -> Result<Lines<PullEvent>, ClientError> {
        self.lines(self.request(Method::POST, &["images", "pull"]).json(image)).await
    }

    /// Loads an archive that the agent can open.
    ///
    /// # Errors
    /// If the agent cannot be asked; a failed load is an event.
    pub async fn load(&self, archive: &str) -> Result<Lines<PullEvent>, ClientError> {
        let request = self.request(Method::POST, &["images", "load"]);
        self.lines(request.query(&[("path", archive)])).await
    }

    /// Keeps the image of a name from being cleaned up, or no longer; whether that changed anything.
    ///
    /// # Errors
    /// If there is no such image, or the agent cannot be asked.
    pub async fn keep_image(&self, image: &KeepImage) -> Result<bool, ClientError> {
        self.json(self.request(Method::POST, &["images", "keep"]).json(image)).await
    }

    /// Removes an image by name, digest or id.
    ///
    /// # Errors
    /// If there is none, a task uses it, or the agent cannot be asked.
    pub async fn remove_image(
        &self,
        reference: &str,
        force: bool,
    ) -> Result<RemovedImage, ClientError> {
        let path: Vec<&str> = std::iter::once("images").chain(reference.split('/')).collect();
        self.json(self.request(Method::DELETE, &path).query(&[("force", force)])).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        self.http.request(method, url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| ClientError::Send { source })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|source| ClientError::Receive { source })?;
        let message = match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => failure.message,
            Err(_) => format!("the agent answered {status}"),
        };
        Err(ClientError::Refused { status: status.as_u16(), message })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|source| ClientError::Receive { source })?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode { source })
    }

    async fn lines<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Lines<T>, ClientError> {
        let response = self.send(request).await?;
        Ok(Lines { response, buffer: Vec::new(), taken: 0, value: std::marker::PhantomData })
    }
}

/// An answer of one JSON value per line, as they come.
#[derive(Debug)]
pub struct Lines<T> {
    response: Response,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    taken: usize,
    value: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next value; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// If the connection breaks or a line is no such value.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = memchr::memchr(b'\n', rest) {
                self.taken += end + 1;
                return decode(&rest[..end]).map(Some);
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let chunk = self.response.chunk().await;
            match chunk.map_err(|source| ClientError::Receive { source })? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return decode(&std::mem::take(&mut self.buffer)).map(Some),
            }
        }
    }
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(line).map_err(|source| ClientError::Decode { source })
}
