//! The other direction: blobs and manifests to a registry.
//!
//! A blob that is there already is not sent; one that another repository of the registry has is
//! mounted from it. The rest goes in one request (`POST`, then `PUT` with all of it), and only to a
//! registry that refuses that in pieces. What breaks begins anew, and the registry is told to forget
//! what had begun; only of a push that is killed it finds out by itself. Mirrors are pushed to only if the
//! configuration has them before the registry with the capability `push`, as in containerd.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Body, Response, Url};

use super::registry::{Endpoint, Error, Session, check};
use super::rounds::ATTEMPTS;
use super::transport::{Call, Transport, same_origin, silence};
use crate::failpoint;

/// A registry may take long to store what it has got.
const SILENCE: Duration = Duration::from_secs(120);
const READ: u64 = 256 << 10;
/// A piece, where a registry takes a blob only in pieces, and the largest that it may ask for.
const PIECE: u64 = 16 << 20;
const MAX_PIECE: u64 = 64 << 20;
/// How long a registry may take to forget an upload.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is pushed; read as often as need be.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    File { file: Arc<File>, size: u64 },
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The bytes from `from` up to `to`; `moved` counts what was taken.
    fn body(&self, from: u64, to: u64, moved: &Arc<AtomicU64>) -> Body {
        let (content, moved) = (self.clone(), Arc::clone(moved));
        Body::wrap_stream(futures_util::stream::try_unfold(from, move |at| {
            let (content, moved) = (content.clone(), Arc::clone(&moved));
            async move {
                if at >= to {
                    return Ok::<_, std::io::Error>(None);
                }
                let piece = content.read(at, to).await?;
                moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
                let next = at + piece.len() as u64;
                Ok(Some((piece, next)))
            }
        }))
    }

    async fn read(&self, at: u64, to: u64) -> std::io::Result<Bytes> {
        let length = usize::try_from((to - at).min(READ)).map_err(std::io::Error::other)?;
        match self {
            Self::Bytes(bytes) => {
                let at = usize::try_from(at).map_err(std::io::Error::other)?;
                Ok(bytes.slice(at..at + length))
            }
            Self::File { file, .. } => {
                let file = Arc::clone(file);
                tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; length];
                    file.read_exact_at(&mut buffer, at)?;
                    Ok(Bytes::from(buffer))
                })
                .await
                .map_err(std::io::Error::other)?
            }
        }
    }
}

/// How a blob came to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Existed,
    Mounted,
    Uploaded,
}

/// A request with a body, for each attempt anew.
struct Upload<'a> {
    method: Method,
    url: Url,
    headers: HeaderMap,
    content: &'a Content,
    from: u64,
    to: u64,
}

/// An upload that a registry has begun. It is told to forget it unless it is finished.
struct Begun {
    endpoint: Arc<Endpoint>,
    /// Where it goes on; in pieces, each answer says it anew.
    url: Url,
    open: bool,
}

impl Begun {
    fn finish(mut self) {
        self.open = false;
    }

    async fn give_up(mut self) {
        self.open = false;
        forget(Arc::clone(&self.endpoint), self.url.clone()).await;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Whoever wanted it is gone.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            runtime.spawn(forget(Arc::clone(&self.endpoint), self.url.clone()));
        }
    }
}

/// What cannot be told the registry finds out some day.
async fn forget(endpoint: Arc<Endpoint>, url: Url) {
    let told = endpoint.request(Method::DELETE, url, HeaderMap::new());
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

impl Endpoint {
    /// Sends content, and logs in if asked to.
    async fn upload(&self, upload: Upload<'_>, moved: &Arc<AtomicU64>) -> Result<Response, Error> {
        let own = same_origin(&self.transport.base, &upload.url);
        let mut renewed = false;
        loop {
            let authorization = self.authorization().await?;
            let mut headers = upload.headers.clone();
            headers.insert(header::CONTENT_LENGTH, (upload.to - upload.from).into());
            let call = Call {
                method: upload.method.clone(),
                url: upload.url.clone(),
                headers,
                authorization: authorization.as_ref(),
            };
            let body = upload.content.body(upload.from, upload.to, moved);
            let response = progressing(self.transport.send(&call, Some(body)), moved).await?;
            // Where the registry keeps its content is nobody to log in to.
            if renewed || !own || !self.renew(&response, authorization.as_ref()).await? {
                return Ok(response);
            }
            renewed = true;
        }
    }

    async fn has(
        self: &Arc<Self>,
        digest: &str,
        mount_from: Option<&str>,
    ) -> Result<Option<Pushed>, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.request(Method::HEAD, url, HeaderMap::new()).await?;
        if response.status() == StatusCode::OK {
            return Ok(Some(Pushed::Existed));
        }
        if mount_from.is_none() {
            return Ok(None);
        }
        let Some(begun) = self.begin(digest, mount_from).await? else {
            return Ok(Some(Pushed::Mounted));
        };
        // What the registry began instead is not wanted.
        begun.give_up().await;
        Ok(None)
    }

    async fn push(
        self: &Arc<Self>,
        digest: &str,
        content: &Content,
        mount_from: Option<&str>,
        moved: &Arc<AtomicU64>,
    ) -> Result<Pushed, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.request(Method::HEAD, url, HeaderMap::new()).await?;
        if response.status() == StatusCode::OK {
            return Ok(Pushed::Existed);
        }
        let Some(begun) = self.begin(digest, mount_from).await? else {
            return Ok(Pushed::Mounted);
        };
        let whole = self.push_whole(&begun.url, digest, content, moved).await;
        if matches!(whole, Ok(true)) {
            begun.finish();
            return Ok(Pushed::Uploaded);
        }
        begun.give_up().await;
        whole?;
        let (mut begun, piece) = self.begin_in_pieces(digest).await?;
        match self.push_in_pieces(&mut begun, piece, digest, content, moved).await {
            Ok(()) => begun.finish(),
            Err(error) => {
                begun.give_up().await;
                return Err(error);
            }
        }
        Ok(Pushed::Uploaded)
    }

    /// Whether the registry takes a blob so.
    async fn push_whole(
        &self,
        to: &Url,
        digest: &str,
        content: &Content,
        moved: &Arc<AtomicU64>,
    ) -> Result<bool, Error> {
        let mut url = to.clone();
        url.query_pairs_mut().append_pair("digest", digest);
        let whole = Upload {
            method: Method::PUT,
            url,
            headers: octets(),
            content,
            from: 0,
            to: content.size(),
        };
        let response = self.upload(whole, moved).await?;
        // Too large, or not this way.
        if matches!(response.status().as_u16(), 405 | 413 | 501) {
            return Ok(false);
        }
        check(response, UPLOAD, self.who()).await.map(|_| true)
    }

    /// Begins an upload. `None`: the blob was mounted from the other repository.
    async fn begin(
        self: &Arc<Self>,
        digest: &str,
        mount_from: Option<&str>,
    ) -> Result<Option<Begun>, Error> {
        let response = self.post(digest, mount_from).await?;
        if response.status() == StatusCode::CREATED && mount_from.is_some() {
            return Ok(None);
        }
        if response.status() == StatusCode::ACCEPTED {
            return self.begun(&response).map(Some);
        }
        let unexpected = response.status();
        check(response, UPLOAD, self.who()).await?;
        Err(Error::Protocol(format!("answer {unexpected} to the beginning of an upload")))
    }

    fn uploads(&self) -> Url {
        self.url("blobs/uploads/")
    }

    async fn post(&self, digest: &str, mount_from: Option<&str>) -> Result<Response, Error> {
        let mut url = self.uploads();
        if let Some(from) = mount_from {
            url.query_pairs_mut().append_pair("mount", digest).append_pair("from", from);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = self.request(Method::POST, url, headers.clone()).await?;
        // No right to read the other repository is no reason not to push.
        if mount_from.is_some() && response.status().is_client_error() {
            return self.request(Method::POST, self.uploads(), headers).await;
        }
        Ok(response)
    }

    /// Begins an upload in pieces, and how large they are.
    async fn begin_in_pieces(self: &Arc<Self>, digest: &str) -> Result<(Begun, u64), Error> {
        let response = self.post(digest, None).await?;
        let response = check(response, UPLOAD, self.who()).await?;
        let least = response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
        let begun = self.begun(&response)?;
        if least > MAX_PIECE {
            begun.give_up().await;
            let reason =
                format!("it wants pieces of {least} bytes at least, more than {MAX_PIECE}");
            return Err(Error::Protocol(reason));
        }
        Ok((begun, PIECE.max(least)))
    }

    fn begun(self: &Arc<Self>, response: &Response) -> Result<Begun, Error> {
        let url = Transport::location(&self.uploads(), response)?;
        failpoint::hit("image.upload-begun");
        Ok(Begun { endpoint: Arc::clone(self), url, open: true })
    }

    async fn push_in_pieces(
        &self,
        begun: &mut Begun,
        piece: u64,
        digest: &str,
        content: &Content,
        moved: &Arc<AtomicU64>,
    ) -> Result<(), Error> {
        let (mut at, size) = (0, content.size());
        while at < size {
            let to = size.min(at + piece);
            let mut headers = octets();
            let range = HeaderValue::try_from(format!("{at}-{}", to - 1))
                .map_err(|error| Error::Protocol(error.to_string()))?;
            headers.insert(header::CONTENT_RANGE, range);
            let url = begun.url.clone();
            let part = Upload { method: Method::PATCH, url, headers, content, from: at, to };
            let response = check(self.upload(part, moved).await?, UPLOAD, self.who()).await?;
            begun.url = Transport::location(&begun.url, &response)?;
            at = to;
        }
        let mut url = begun.url.clone();
        url.query_pairs_mut().append_pair("digest", digest);
        let last =
            Upload { method: Method::PUT, url, headers: octets(), content, from: size, to: size };
        check(self.upload(last, moved).await?, UPLOAD, self.who()).await.map(|_| ())
    }

    async fn push_manifest(
        &self,
        target: &str,
        media_type: &str,
        content: &Content,
        digest: &str,
    ) -> Result<(), Error> {
        let kind = HeaderValue::from_str(media_type)
            .map_err(|error| Error::Protocol(format!("media type: {error}")))?;
        let upload = Upload {
            method: Method::PUT,
            url: self.url(&format!("manifests/{target}")),
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]),
            content,
            from: 0,
            to: content.size(),
        };
        let response = self.upload(upload, &Arc::default()).await?;
        let response = check(response, UPLOAD, self.who()).await?;
        let name = HeaderName::from_static("docker-content-digest");
        let served = response.headers().get(name).and_then(|text| text.to_str().ok());
        match served {
            Some(served) if served.starts_with("sha256:") && served != digest => {
                Err(Error::Digest { asked: digest.to_owned(), served: served.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

const UPLOAD: &str = "such repository";

fn octets() -> HeaderMap {
    let kind = HeaderValue::from_static("application/octet-stream");
    HeaderMap::from_iter([(header::CONTENT_TYPE, kind)])
}

/// Waits for an answer as long as content moves.
async fn progressing(
    sending: impl Future<Output = Result<Response, Error>>,
    moved: &AtomicU64,
) -> Result<Response, Error> {
    tokio::pin!(sending);
    let mut before = moved.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            answer = &mut sending => return answer,
            () = tokio::time::sleep(SILENCE) => {}
        }
        let now = moved.load(Ordering::Relaxed);
        if now == before {
            return Err(Error::Broken(silence()));
        }
        before = now;
    }
}

impl Session {
    /// Who is pushed to.
    fn target(&self) -> Result<Arc<Endpoint>, Error> {
        self.endpoints()
            .iter()
            .find(|endpoint| endpoint.host.can.push)
            .cloned()
            .ok_or(Error::Nobody)
    }

    /// Whether the repository has a blob, or has it now because it was mounted from another one.
    pub(super) async fn has_blob(
        &self,
        digest: &str,
        mount_from: Option<&str>,
    ) -> Result<Option<Pushed>, Error> {
        let endpoint = self.target()?;
        persevere(|| endpoint.has(digest, mount_from)).await
    }

    /// Makes the repository have a blob. `mount_from`: a repository of the same registry that
    /// probably has it. `moved` counts the bytes that were sent, again if they were sent again.
    pub(super) async fn push_blob(
        &self,
        digest: &str,
        content: &Content,
        mount_from: Option<&str>,
        moved: &Arc<AtomicU64>,
    ) -> Result<Pushed, Error> {
        let endpoint = self.target()?;
        persevere(|| endpoint.push(digest, content, mount_from, moved)).await
    }

    /// Puts a manifest or index under a tag or its digest.
    pub(super) async fn push_manifest(
        &self,
        target: &str,
        media_type: &str,
        manifest: Bytes,
    ) -> Result<(), Error> {
        let endpoint = self.target()?;
        let digest = super::layer::digest_of(&manifest);
        let content = Content::Bytes(manifest);
        persevere(|| endpoint.push_manifest(target, media_type, &content, &digest)).await
    }
}

/// Repeats what may work a moment later.
async fn persevere<T, F>(attempt: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        match attempt().await {
            Err(error)
                if error.is_transient()
                    && !matches!(error, Error::Down(_))
                    && tries + 1 < ATTEMPTS =>
            {
                tokio::time::sleep(error.pause(tries)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;

    use axum::extract::{Request, State};
    use axum::response::IntoResponse as _;

    use super::*;
    use crate::image::registry::{Access, Found};
    use crate::image::{Reference, Registries};

    struct Registry {
        child: Child,
        address: String,
        _directory: tempfile::TempDir,
    }

    impl Drop for Registry {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Debian's `docker-registry`.
    fn registry() -> Registry {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            drop(listener);
            let file = directory.path().join("config.yml");
            let data = directory.path().display();
            let text = format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {data}\nhttp:\n  addr: {address}\n"
            );
            std::fs::write(&file, text).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(file)
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            for _ in 0..1000 {
                if std::net::TcpStream::connect(&address).is_ok() {
                    return Registry { child, address, _directory: directory };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            child.wait().unwrap();
        }
        panic!("docker-registry does not listen");
    }

    fn session(address: &str, repository: &str) -> Session {
        let reference = Reference::parse(&format!("{address}/{repository}:1")).unwrap();
        Session::open(&reference, None, &Registries::default(), Access::Push).unwrap()
    }

    fn noise(size: u32) -> Vec<u8> {
        (0..size).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    #[tokio::test]
    async fn a_registry_gets_what_it_has_not() {
        let registry = registry();
        let (one, other) =
            (session(&registry.address, "team/one"), session(&registry.address, "other"));
        let bytes = noise(1 << 20);
        let digest = crate::image::layer::digest_of(&bytes);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let layer = Content::File { file: Arc::new(file), size: bytes.len() as u64 };
        let moved = Arc::default();
        let push = |session: Session, from| {
            let (digest, layer, moved) = (digest.clone(), layer.clone(), Arc::clone(&moved));
            async move { session.push_blob(&digest, &layer, from, &moved).await.unwrap() }
        };
        assert_eq!(push(one.clone(), None).await, Pushed::Uploaded);
        assert_eq!(moved.load(Ordering::Relaxed), 1 << 20);
        assert_eq!(push(one.clone(), None).await, Pushed::Existed);
        assert_eq!(push(other.clone(), Some("team/one")).await, Pushed::Mounted);
        assert_eq!(push(other, Some("no/such")).await, Pushed::Existed);
        assert_eq!(
            push(session(&registry.address, "third"), Some("no/such")).await,
            Pushed::Uploaded
        );

        let config = Bytes::from_static(b"{}");
        let name = crate::image::layer::digest_of(&config);
        one.push_blob(&name, &Content::Bytes(config), None, &moved).await.unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": crate::image::manifest::OCI_MANIFEST,
            "config": {"mediaType": crate::image::manifest::OCI_CONFIG, "digest": name, "size": 2},
            "layers": [{"mediaType": crate::image::manifest::OCI_LAYER, "digest": digest, "size": 1 << 20}],
        });
        let manifest = Bytes::from(manifest.to_string());
        let kind = crate::image::manifest::OCI_MANIFEST;
        one.push_manifest("1", kind, manifest.clone()).await.unwrap();
        assert_eq!(one.manifest("1").await.unwrap().0, manifest);
        assert!(matches!(one.resolve("1").await.unwrap(), Found::Digest(_)));
        // What it names must be there.
        let manifest = manifest.to_vec();
        let unknown = String::from_utf8(manifest).unwrap().replace(&name, &digest_of_nothing());
        let refused = one.push_manifest("2", kind, unknown.into()).await.unwrap_err();
        assert!(matches!(refused, Error::Status { code: 400 | 404, .. }), "{refused}");
        assert!(refused.to_string().contains("blob unknown"), "{refused}");
    }

    fn digest_of_nothing() -> String {
        format!("sha256:{}", "0".repeat(64))
    }

    /// What a registry in pieces got, and which uploads it was told to forget.
    #[derive(Default)]
    struct Pieces {
        got: Mutex<Vec<u8>>,
        begun: AtomicU64,
        forgotten: Mutex<Vec<String>>,
    }

    /// Takes no blob as a whole.
    async fn in_pieces(
        State(pieces): State<Arc<Pieces>>,
        request: Request,
    ) -> impl axum::response::IntoResponse {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        let at = |state: &str| [("location", format!("/upload?state={state}"))];
        let query = parts.uri.query().unwrap_or_default().to_owned();
        match parts.method.as_str() {
            "HEAD" => StatusCode::NOT_FOUND.into_response(),
            "POST" => {
                let number = pieces.begun.fetch_add(1, Ordering::SeqCst);
                (StatusCode::ACCEPTED, at(&number.to_string())).into_response()
            }
            "DELETE" => {
                pieces.forgotten.lock().unwrap().push(query);
                StatusCode::NO_CONTENT.into_response()
            }
            "PUT" if !body.is_empty() => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            "PUT" => StatusCode::CREATED.into_response(),
            // What begins so is never answered.
            _ if body.starts_with(b"stall") => std::future::pending().await,
            _ => {
                let mut got = pieces.got.lock().unwrap();
                let from = got.len();
                got.extend_from_slice(&body);
                let range = format!("{from}-{}", got.len() - 1);
                assert_eq!(parts.headers["content-range"], range.as_str());
                (StatusCode::ACCEPTED, at("more")).into_response()
            }
        }
    }

    #[tokio::test]
    async fn a_registry_that_takes_no_large_body_gets_pieces() {
        let pieces = Arc::new(Pieces::default());
        let app = axum::Router::new().fallback(in_pieces).with_state(Arc::clone(&pieces));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let bytes = noise(u32::try_from(PIECE).unwrap() + 1000);
        let digest = crate::image::layer::digest_of(&bytes);
        let content = Content::Bytes(bytes.clone().into());
        let session = session(&address, "x");
        let pushed = session.push_blob(&digest, &content, None, &Arc::default()).await.unwrap();
        assert_eq!(pushed, Pushed::Uploaded);
        assert!(*pieces.got.lock().unwrap() == bytes);
        let forgotten = || pieces.forgotten.lock().unwrap().clone();
        assert_eq!(forgotten(), ["state=0"], "the one that the registry refused");

        // Who gives a push up ends its upload, too.
        let content = Content::Bytes(Bytes::from_static(b"stall"));
        let moved = Arc::default();
        let push = session.push_blob(&digest, &content, None, &moved);
        let second = async {
            // The first of this push is given up, the second goes nowhere.
            while pieces.begun.load(Ordering::SeqCst) < 4 {
                tokio::task::yield_now().await;
            }
            while moved.load(Ordering::Relaxed) < 10 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            pushed = push => panic!("{pushed:?}"),
            () = second => {}
        }
        while forgotten().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(forgotten(), ["state=0", "state=2", "state=3"]);
    }

    #[derive(Default)]
    struct Storage {
        address: String,
        /// What was sent to it to log in.
        logins: Mutex<Vec<String>>,
    }

    /// A registry whose storage wants a login of its own.
    async fn greedy(
        State(storage): State<Arc<Storage>>,
        request: Request,
    ) -> axum::response::Response {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        if let Some(login) = request.headers().get("authorization") {
            storage.logins.lock().unwrap().push(format!("{host} {login:?}"));
        }
        let storage = format!("http://{}", storage.address);
        let path = request.uri().path().to_owned();
        match (request.method().as_str(), path.as_str()) {
            ("POST", _) => {
                (StatusCode::ACCEPTED, [("location", format!("{storage}/upload"))]).into_response()
            }
            (_, "/upload") => {
                let challenge = format!("Bearer realm=\"{storage}/token\"");
                (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response()
            }
            (_, "/token") => "{\"token\":\"t\"}".into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    #[tokio::test]
    async fn the_login_is_not_for_where_the_registry_keeps_its_content() {
        let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storage = Arc::new(Storage {
            address: elsewhere.local_addr().unwrap().to_string(),
            ..Storage::default()
        });
        let address = registry.local_addr().unwrap().to_string();
        for listener in [registry, elsewhere] {
            let app = axum::Router::new().fallback(greedy).with_state(Arc::clone(&storage));
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        let reference = Reference::parse(&format!("{address}/x:1")).unwrap();
        let (user, password) = ("alice".to_owned(), "hunter2".to_owned());
        let login = Some(crate::image::Login::Password { user, password });
        let session =
            Session::open(&reference, login, &Registries::default(), Access::Push).unwrap();
        let bytes = noise(10);
        let digest = crate::image::layer::digest_of(&bytes);
        let content = Content::Bytes(bytes.into());
        let refused = session.push_blob(&digest, &content, None, &Arc::default()).await;
        assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
        assert_eq!(*storage.logins.lock().unwrap(), [""; 0]);
    }
}
