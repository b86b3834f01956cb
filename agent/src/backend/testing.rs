//! A service that answers as a test says, one request per connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Client;
use super::credentials::{Keys, Source};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) date: Option<String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn ok(body: &str) -> Self {
        Self { status: 200, date: None, body: body.to_owned() }
    }

    pub(crate) fn refusal(name: &str) -> Self {
        let body = serde_json::json!({"__type": name, "message": "no"}).to_string();
        Self { status: 400, date: None, body }
    }
}

#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// What is asked when no answer is left is answered with an empty object.
    pub(crate) async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let mut answers = VecDeque::from(answers);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else { continue };
                seen.lock().unwrap().push(request);
                let answer = answers.pop_front().unwrap_or_else(|| Answer::ok("{}"));
                let date = answer.date.map(|date| format!("date: {date}\r\n"));
                let text = format!(
                    "HTTP/1.1 {} X\r\n{}content-length: {}\r\nconnection: close\r\n\r\n{}",
                    answer.status,
                    date.unwrap_or_default(),
                    answer.body.len(),
                    answer.body
                );
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        Self { address, requests }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What came, in its order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// A client with keys of its own.
pub(crate) fn client() -> Client {
    let keys = Keys {
        access_key_id: "AKIATEST".to_owned(),
        secret_access_key: "very-secret".to_owned(),
        session_token: None,
    };
    Client::new(None, Source::Fixed(Arc::new(keys)), "eu-x-1").unwrap()
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = vec![0; 64 << 10];
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let request = Request { head, body: serde_json::Value::Null };
        let length: usize = request.header("content-length").map_or(0, |n| n.parse().unwrap());
        let body = &bytes[end + 4..];
        if body.len() >= length {
            return Some(Request { body: serde_json::from_slice(body).unwrap(), ..request });
        }
    }
}
