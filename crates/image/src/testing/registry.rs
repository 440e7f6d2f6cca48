//! The registry: just enough of HTTP/1.1 and of the distribution specification.

use super::{Blob, TestImage};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What is done once instead of answering properly.
#[derive(Debug, Clone)]
pub(crate) enum Misbehaviour {
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// Nothing comes after so many bytes of the body.
    StallAfter(usize),
    /// The whole content is sent, though a part was asked for.
    IgnoreRange,
    Status(u16),
    RedirectTo(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

#[derive(Default)]
struct State {
    content: HashMap<String, Blob>,
    misbehaviours: HashMap<String, VecDeque<Misbehaviour>>,
    requests: Vec<Request>,
    /// What the `Authorization` header must be, and what is answered when it is not.
    protection: Option<(String, String)>,
}

/// A server on a port of its own, until the runtime ends.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    pub(crate) address: String,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self {
            state: Arc::default(),
            address,
        };
        let state = server.state.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, state.clone()));
            }
        });
        server
    }

    /// The name of something that is served here.
    pub(crate) fn reference(&self, rest: &str) -> crate::Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    pub(crate) fn publish(&self, repository: &str, tag: &str, image: &TestImage) {
        self.publish_parts(repository, image);
        self.put(
            &format!("/v2/{repository}/manifests/{tag}"),
            image.manifest.clone(),
        );
    }

    /// An image without a tag.
    pub(crate) fn publish_parts(&self, repository: &str, image: &TestImage) {
        for blob in image.blobs() {
            self.put(
                &format!("/v2/{repository}/blobs/{}", blob.digest()),
                blob.clone(),
            );
        }
        let path = format!("/v2/{repository}/manifests/{}", image.manifest.digest());
        self.put(&path, image.manifest.clone());
    }

    pub(crate) fn put(&self, path: &str, content: Blob) {
        self.state().content.insert(path.to_owned(), content);
    }

    /// The next requests for this path are answered so, each once.
    pub(crate) fn misbehave(&self, path: &str, how: impl IntoIterator<Item = Misbehaviour>) {
        self.state()
            .misbehaviours
            .insert(path.to_owned(), how.into_iter().collect());
    }

    /// Everything below `/v2/` needs this `Authorization`.
    pub(crate) fn protect(&self, authorization: &str, challenge: &str) {
        self.state().protection = Some((authorization.to_owned(), challenge.to_owned()));
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// How often something was got whose path ends so.
    pub(crate) fn count(&self, method: &str, end: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|r| r.method == method && r.path.ends_with(end))
            .count()
    }

    pub(crate) fn forget_requests(&self) {
        self.state().requests.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn serve(connection: TcpStream, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    while let Some(request) = read_request(&mut connection).await {
        if answer(&request, &mut connection, &state).await.is_none() {
            return;
        }
    }
}

async fn read_request(connection: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    Some(Request {
        method,
        path,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}

/// None when the connection is to end.
async fn answer(
    request: &Request,
    connection: &mut BufReader<TcpStream>,
    state: &Mutex<State>,
) -> Option<()> {
    let path = request.path.split('?').next().unwrap_or_default();
    let (content, how, protection) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let how = state
            .misbehaviours
            .get_mut(path)
            .and_then(VecDeque::pop_front);
        (
            state.content.get(path).cloned(),
            how,
            state.protection.clone(),
        )
    };
    if let Some((authorization, challenge)) = protection.filter(|_| path.starts_with("/v2/"))
        && request.headers.get("authorization") != Some(&authorization)
    {
        let header = format!("WWW-Authenticate: {challenge}\r\n");
        return send(connection, "401 Unauthorized", &header, b"").await;
    }
    match how {
        Some(Misbehaviour::Status(status)) => {
            send(connection, &format!("{status} No"), "", b"").await
        }
        Some(Misbehaviour::RedirectTo(url)) => {
            send(connection, "307 Away", &format!("Location: {url}\r\n"), b"").await
        }
        how => match content {
            Some(content) => send_content(request, connection, &content, how).await,
            None => send(connection, "404 Not Found", "", b"").await,
        },
    }
}

async fn send_content(
    request: &Request,
    connection: &mut BufReader<TcpStream>,
    content: &Blob,
    how: Option<Misbehaviour>,
) -> Option<()> {
    let range = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let range = range.filter(|_| !matches!(how, Some(Misbehaviour::IgnoreRange)));
    let start: usize = range.map_or(0, |start| start.parse().unwrap());
    let (body, total) = (&content.bytes[start..], content.bytes.len());
    let mut headers = format!(
        "Content-Type: {}\r\nDocker-Content-Digest: {}\r\nContent-Length: {}\r\n",
        content.media_type,
        content.digest(),
        body.len()
    );
    if range.is_some() {
        headers += &format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
    }
    let status = if range.is_some() {
        "206 Partial"
    } else {
        "200 OK"
    };
    write(
        connection,
        format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes(),
    )
    .await?;
    match how {
        _ if request.method == "HEAD" => Some(()),
        Some(Misbehaviour::CutAfter(len)) => {
            write(connection, &body[..len]).await?;
            None
        }
        Some(Misbehaviour::StallAfter(len)) => {
            write(connection, &body[..len]).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
            None
        }
        _ => write(connection, body).await,
    }
}

async fn send(
    connection: &mut BufReader<TcpStream>,
    status: &str,
    headers: &str,
    body: &[u8],
) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    write(connection, head.as_bytes()).await?;
    write(connection, body).await
}

async fn write(connection: &mut BufReader<TcpStream>, bytes: &[u8]) -> Option<()> {
    connection.write_all(bytes).await.ok()?;
    connection.flush().await.ok()
}
