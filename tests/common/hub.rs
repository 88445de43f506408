//! A server on this machine that answers as the Hugging Face Hub does: what a repository holds, files of git with their own
//! checksum, files in large-file storage by a redirect to another address, ranges, private repositories, connections that
//! break off.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that every branch of the server stands at.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a file is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// From the repository itself; its `ETag` is git's.
    Git,
    /// From large-file storage behind a redirect; its `ETag` is a SHA-256.
    Large,
    /// The same, but half of the bytes are missing the first time.
    LargeAndInterrupted,
    /// The same, and later nothing comes at all.
    LargeAndLost,
    /// The same, but the first connection is closed without an answer.
    LargeAndClosed,
    /// The same, but with bytes that are not those of the `ETag`.
    LargeAndDamaged,
    /// Only for who brings the token `secret`.
    Private,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// With `main` in the place of [`COMMIT`].
    pub path: String,
    /// The token that came along.
    pub token: Option<String>,
    /// The bytes asked for, as in `0-`.
    pub range: Option<String>,
}

type Files = HashMap<String, (Storage, Vec<u8>)>;

/// The server; it ends with the process.
pub struct HubServer {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HubServer {
    /// Serves files by path, such as `datasets/OWNER/NAME/resolve/main/FILE`.
    pub fn new(files: &[(&str, Storage, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files: Files =
            files.iter().map(|(path, storage, bytes)| (format!("/{path}"), (*storage, bytes.to_vec()))).collect();
        let requests = Arc::default();
        let (log, address) = (Arc::clone(&requests), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that goes away is its own affair.
                let _ = answer(&stream, &files, &log, &address);
            }
        });
        Self { endpoint, requests }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The bytes of a large file that were asked for, request by request, without those that only learn its size.
    pub fn ranges(&self, path: &str) -> Vec<String> {
        let path = format!("/storage/{path}");
        let of_file = self.requests().into_iter().filter(|request| request.path == path && request.is_for_bytes());
        of_file.filter_map(|request| request.range).collect()
    }
}

impl Request {
    fn is_for_bytes(&self) -> bool {
        self.range.as_deref().is_some_and(|range| range != "0-0")
    }
}

fn answer(stream: &TcpStream, files: &Files, log: &Mutex<Vec<Request>>, endpoint: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().replace(COMMIT, "main");
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.strip_prefix("bytes=").map(str::to_owned),
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let earlier = {
        let mut log = log.lock().unwrap();
        let earlier = log.iter().filter(|other| other.path == path && other.is_for_bytes()).count();
        log.push(Request { path: path.clone(), token: token.clone(), range: range.clone() });
        earlier
    };
    let is_for_bytes = range.as_deref().is_some_and(|range| range != "0-0");
    if let Some(repo) = path.strip_prefix("/api/models/").and_then(|path| path.strip_suffix("/revision/main")) {
        return list(stream, repo, files, token.as_deref());
    }
    let (stored, is_storage) = match path.strip_prefix("/storage") {
        Some(rest) => (files.get(rest), true),
        None => (files.get(&path), false),
    };
    let Some((storage, bytes)) = stored else {
        return respond(stream, "404 Not Found", "x-error-code: EntryNotFound\r\n", b"");
    };
    if *storage == Storage::Private && token.as_deref() != Some("secret") {
        return respond(stream, "401 Unauthorized", "x-error-code: RepoNotFound\r\n", b"");
    }
    let sha256 = hexadecimal(&Sha256::digest(bytes));
    match storage {
        Storage::Large
        | Storage::LargeAndInterrupted
        | Storage::LargeAndLost
        | Storage::LargeAndClosed
        | Storage::LargeAndDamaged
            if !is_storage =>
        {
            let headers = format!(
                "Location: {endpoint}/storage{path}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{sha256}\"\r\n\
                 X-Linked-Size: {}\r\nETag: \"pointer\"\r\n",
                bytes.len()
            );
            return respond(stream, "302 Found", &headers, b"");
        }
        _ => {}
    }
    let mut body = bytes.clone();
    if *storage == Storage::LargeAndDamaged {
        body.reverse();
    }
    let git = hexadecimal(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize());
    let (start, end) = match range.as_deref().and_then(|range| range.split_once('-')) {
        Some((start, end)) => (start.parse().unwrap(), end.parse().map_or(body.len(), |end: usize| end + 1)),
        None => (0, body.len()),
    };
    if start >= body.len() {
        return respond(stream, "416 Range Not Satisfiable", "", b"");
    }
    let headers = format!(
        "ETag: \"{git}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        end.saturating_sub(1),
        body.len()
    );
    let whole = &body[start..end.min(body.len())];
    match (storage, earlier) {
        (Storage::LargeAndClosed, 0) | (Storage::LargeAndLost, 1..) if is_for_bytes => Ok(()),
        (Storage::LargeAndInterrupted | Storage::LargeAndLost, 0) if is_for_bytes => {
            let mut stream = stream;
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n{headers}\r\n", whole.len())?;
            stream.write_all(&whole[..whole.len() / 2])
        }
        _ => respond(stream, "206 Partial Content", &headers, whole),
    }
}

/// What a model's repository holds.
fn list(stream: &TcpStream, repo: &str, files: &Files, token: Option<&str>) -> std::io::Result<()> {
    let prefix = format!("/{repo}/resolve/main/");
    let of_repo: Vec<_> = files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&prefix)?, file))).collect();
    if of_repo.is_empty() {
        return respond(stream, "404 Not Found", "x-error-code: RepoNotFound\r\n", b"");
    }
    if token != Some("secret") && of_repo.iter().any(|(_, (storage, _))| *storage == Storage::Private) {
        return respond(stream, "401 Unauthorized", "x-error-code: RepoNotFound\r\n", b"");
    }
    let siblings: Vec<_> = of_repo.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
    let text = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
    respond(stream, "200 OK", "Content-Type: application/json\r\n", text.as_bytes())
}

fn respond(mut stream: &TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    stream.write_all(body)
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
