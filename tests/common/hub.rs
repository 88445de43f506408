//! A server on this machine that answers as the Hugging Face Hub does: files of git with their own checksum, files in
//! large-file storage by a redirect to another address, ranges, private repositories, connections that break off.

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
    /// The same, but with bytes that are not those of the `ETag`.
    LargeAndDamaged,
    /// Only for who brings the token `secret`.
    Private,
}

/// One request: path and the token that came along.
pub type Request = (String, Option<String>);

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
}

fn answer(stream: &TcpStream, files: &Files, log: &Mutex<Vec<Request>>, endpoint: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
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
        log.push((path.clone(), token.clone()));
        log.iter().filter(|(other, _)| *other == path).count() - 1
    };
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
        Storage::Large | Storage::LargeAndInterrupted | Storage::LargeAndDamaged if !is_storage => {
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
    let headers = format!(
        "ETag: \"{git}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        end.saturating_sub(1),
        body.len()
    );
    let whole = &body[start.min(body.len())..end.min(body.len())];
    // The first request for a storage address asks for one byte only, to learn the size.
    if *storage == Storage::LargeAndInterrupted && earlier == 1 {
        let mut stream = stream;
        write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n{headers}\r\n", whole.len())?;
        return stream.write_all(&whole[..whole.len() / 2]);
    }
    respond(stream, "206 Partial Content", &headers, whole)
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
