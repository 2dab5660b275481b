//! A server on this computer that behaves like the Hub, and as wrong as a test wants.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Name of the repository.
pub const NAME: &str = "org/model";
/// Its commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Size of the pieces in which a paced answer is sent.
const PIECE: usize = 64 << 10;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names are in lower case.
    pub headers: BTreeMap<String, String>,
    /// Whether it reached the second server, which has the content of large files.
    pub is_cdn: bool,
}

impl Request {
    /// Returns the first byte of the range.
    pub fn start(&self) -> Option<usize> {
        self.headers
            .get("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }

    /// Returns whether it asks for content, not for headers or a list.
    pub fn is_content(&self) -> bool {
        self.method == "GET" && !self.path.starts_with("/api/models/")
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after this many bytes of the body.
    pub cut: Option<usize>,
    /// The body is repeated without end, and has no stated length.
    pub is_endless: bool,
    /// Pause after each piece of the body.
    pub pace: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// The state of the server.
pub struct Hub {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The token without which the answer is 401.
    pub token: Option<&'static str>,
    /// Answers instead of the usual ones.
    handler: Mutex<Arc<Handler>>,
    log: Mutex<Vec<Request>>,
    hub: String,
    cdn: String,
}

impl Hub {
    /// Starts a server for these files.
    pub fn start(files: &[(&str, &[u8])]) -> Arc<Self> {
        Self::start_with(files, None)
    }

    /// Starts a server that wants a token.
    pub fn start_with(files: &[(&str, &[u8])], token: Option<&'static str>) -> Arc<Self> {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [hub, cdn] = [0, 1].map(|i: usize| format!("http://{}", listeners[i].local_addr().unwrap()));
        let state = Arc::new(Self {
            files: files
                .iter()
                .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
                .collect(),
            token,
            handler: Mutex::new(Arc::new(|_| None)),
            log: Mutex::default(),
            hub,
            cdn,
        });
        for (listener, is_cdn) in listeners.into_iter().zip([false, true]) {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    thread::spawn(move || drop(state.serve(stream, is_cdn)));
                }
            });
        }
        state
    }

    /// Returns the address, for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.hub
    }

    /// Answers requests for which the handler returns a reply with it.
    pub fn answer(&self, handler: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) {
        *self.handler.lock().unwrap() = Arc::new(handler);
    }

    /// Returns the requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn serve(&self, mut stream: TcpStream, is_cdn: bool) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let request = Request {
            method: words.next().unwrap_or_default().to_owned(),
            path: words.next().unwrap_or_default().to_owned(),
            headers: lines.filter_map(header).collect(),
            is_cdn,
        };
        self.log.lock().unwrap().push(request.clone());
        // The lock ends here, so that an answer can wait for another request.
        let handler = Arc::clone(&self.handler.lock().unwrap());
        let reply = handler(&request).unwrap_or_else(|| self.usual(&request));
        send(&mut stream, &request, &reply)
    }

    /// The answer of the Hub.
    pub fn usual(&self, request: &Request) -> Reply {
        let path = request.path.as_str();
        if request.is_cdn {
            let hash = path.trim_start_matches("/cdn/");
            let file = self.files.values().find(|content| sha256(content) == hash);
            return file.map_or(Reply::new(404, ""), |content| part(request, content));
        }
        if let Some(token) = self.token
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return Reply::new(401, "").with("X-Error-Code", "RepoNotFound");
        }
        if let Some(rest) = path.strip_prefix("/api/models/") {
            return match rest.split_once("/revision/") {
                Some((NAME, "main" | "refs%2Fpr%2F1" | COMMIT)) => {
                    let names = self.files.keys().map(|name| serde_json::json!({ "rfilename": name }));
                    let names: Vec<_> = names.collect();
                    Reply::new(200, serde_json::json!({"sha": COMMIT, "siblings": names}).to_string())
                }
                Some((NAME, _)) => Reply::new(404, "").with("X-Error-Code", "RevisionNotFound"),
                _ => Reply::new(404, "").with("X-Error-Code", "RepoNotFound"),
            };
        }
        // Small files are behind a redirect on the Hub itself.
        let in_cache = path.strip_prefix("/api/resolve-cache/");
        let prefix = format!("/{NAME}/resolve/");
        let Some((commit, name)) = in_cache
            .or(path.strip_prefix(&*prefix))
            .and_then(|rest| rest.split_once('/'))
        else {
            return Reply::new(404, "");
        };
        let content = self.files.get(name).filter(|_| [COMMIT, "main"].contains(&commit));
        let Some(content) = content else {
            return Reply::new(404, "")
                .with("X-Error-Code", "EntryNotFound")
                .with("X-Repo-Commit", COMMIT);
        };
        if is_large(name) {
            let hash = sha256(content);
            return Reply::new(302, "Found")
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Etag", format!("\"{hash}\""))
                .with("X-Linked-Size", content.len())
                .with("ETag", "\"of-the-redirect\"")
                .with("Location", format!("{}/cdn/{hash}", self.cdn));
        }
        match in_cache {
            None => Reply::new(307, "").with("Location", format!("/api/resolve-cache/{COMMIT}/{name}")),
            Some(_) => part(request, content)
                .with("X-Repo-Commit", COMMIT)
                .with("ETag", format!("\"{}\"", git_hash(content))),
        }
    }
}

/// Returns the content from the range of a request on.
pub fn part(request: &Request, content: &[u8]) -> Reply {
    let range = |start: usize| format!("bytes {start}-{}/{}", content.len() - 1, content.len());
    match request.start() {
        None => Reply::new(200, content),
        Some(start) if start < content.len() => Reply::new(206, &content[start..]).with("Content-Range", range(start)),
        Some(_) => Reply::new(416, "").with("Content-Range", format!("bytes */{}", content.len())),
    }
}

fn send(stream: &mut TcpStream, request: &Request, reply: &Reply) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.is_endless && !head.contains("\r\nContent-Length:") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    if reply.is_endless {
        loop {
            stream.write_all(&reply.body)?;
        }
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    match reply.pace {
        None => stream.write_all(body)?,
        Some(pause) => {
            for piece in body.chunks(PIECE) {
                stream.write_all(piece)?;
                thread::sleep(pause);
            }
        }
    }
    Ok(())
}

/// Returns whether the content of a file is on the second server.
fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".ckpt", ".pth"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the tag of a large file.
pub fn sha256(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

/// Returns the tag of a small file.
pub fn git_hash(content: &[u8]) -> String {
    let hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hexadecimal(&hasher.chain_update(content).finalize())
}

/// Returns bytes that look random.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
