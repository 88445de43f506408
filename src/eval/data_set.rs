//! Data sets: the passages of a data file, split into context and target. A file is JSONL with `{"text": …}` a line,
//! or plain text with one passage a line; its first line decides which.

use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::data_error::DataError;
use super::task::{DataIdentity, Splitting, Task};
use crate::files;

/// The longest line read. LAMBADA's longest line has 979 bytes; this guards against files that are no text.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// The largest text that is read as one passage.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// One passage of the data set, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// 0-based position of the passage in the data set; lines without text are not counted.
    pub id: usize,
    /// The text before the target.
    pub context: String,
    /// The text whose probability is asked for, with its leading space.
    pub target: String,
    /// SHA-256 of the context's UTF-8 bytes, hexadecimal; lm-evaluation-harness' `prompt_hash`.
    pub prompt_hash: String,
    /// SHA-256 of the target's UTF-8 bytes, hexadecimal; lm-evaluation-harness' `target_hash`.
    pub target_hash: String,
}

/// How a data file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFormat {
    /// One JSON object with a string `text` a line; other keys are ignored.
    Jsonl,
    /// One passage a line.
    PlainText,
}

/// The contents of a data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    pub path: PathBuf,
    pub format: DataFormat,
    /// The passages, in file order; the first `limit` of them where a limit was given.
    pub passages: Vec<Passage>,
    /// How many passages the whole file holds, whatever the limit.
    pub total_count: usize,
    /// SHA-256 of the whole file, hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
    /// Whether the file is the data set that the task names.
    pub identity: DataIdentity,
}

/// Reads and checks every line of a data file and keeps the first `limit` passages.
///
/// A byte order mark and carriage returns at line ends are dropped, and lines of nothing but white space are skipped;
/// otherwise the text is taken unchanged.
///
/// # Errors
/// A file that cannot be read or has no passage; a line that is too long, not UTF-8, not JSON or without `text`; a
/// passage with nothing but white space before its last word. lm-evaluation-harness would predict such a word from
/// an end-of-text token alone; in a set of passages it is a mistake. Errors name the file and the line.
pub fn read_passages(path: &Path, task: &Task, limit: Option<usize>) -> Result<DataSet, DataError> {
    parse_passages(BufReader::new(files::open(path)?), path, task, limit)
}

/// As [`read_passages`], of bytes from anywhere; `path` is named in errors.
///
/// # Errors
/// As [`read_passages`].
pub fn parse_passages(
    reader: impl BufRead,
    path: &Path,
    task: &Task,
    limit: Option<usize>,
) -> Result<DataSet, DataError> {
    let mut lines = Lines { path: path.to_owned(), reader, hasher: Sha256::new(), number: 0 };
    let mut format = None;
    let mut passages = Vec::new();
    let mut total_count = 0;
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let format = *format.get_or_insert_with(|| DataFormat::of_first_line(&line));
        let text = match format {
            DataFormat::Jsonl => passage_of_json(&line, path, lines.number)?,
            DataFormat::PlainText => line,
        };
        if task.splitting == Splitting::RollingWindows && format == DataFormat::PlainText {
            return whole_text(path, task);
        }
        let (context, target) = task.splitting.split(&text);
        if task.splitting == Splitting::LastSpace && trim_end_as_python(&context).is_empty() {
            return Err(DataError::NoContext { path: path.to_owned(), line: lines.number, text: shorten(&text) });
        }
        if limit.is_none_or(|limit| total_count < limit) {
            passages.push(Passage::new(total_count, context, target));
        }
        total_count += 1;
    }
    let Some(format) = format else {
        return Err(DataError::NoPassages { path: path.to_owned() });
    };
    let sha256 = files::hexadecimal(&lines.hasher.finalize());
    let identity = task.data.identify(&sha256, total_count);
    Ok(DataSet { path: path.to_owned(), format, passages, total_count, sha256, identity })
}

/// A text file that is one passage, to the last byte.
fn whole_text(path: &Path, task: &Task) -> Result<DataSet, DataError> {
    let bytes = files::read(path, MAX_TEXT_BYTES)?;
    let sha256 = sha256_of(&bytes);
    let text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path.to_owned(),
        line: error.as_bytes()[..error.utf8_error().valid_up_to()].split(|&byte| byte == b'\n').count(),
        byte: error.utf8_error().valid_up_to(),
        binary_format: None,
    })?;
    let (passages, identity) = (vec![Passage::new(0, String::new(), text)], task.data.identify(&sha256, 1));
    let (path, format) = (path.to_owned(), DataFormat::PlainText);
    Ok(DataSet { path, format, passages, total_count: 1, sha256, identity })
}

/// SHA-256 in hexadecimal, as `sha256sum` prints it.
pub(super) fn sha256_of(bytes: &[u8]) -> String {
    files::hexadecimal(&Sha256::digest(bytes))
}

/// Whether Python takes a character for white space (`str.isspace`, and `\s` of `re`): Unicode white space and the four
/// separators U+001C to U+001F, which Rust does not count.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Text without trailing white space, as Python's `str.rstrip` returns it.
pub(super) fn trim_end_as_python(text: &str) -> &str {
    text.trim_end_matches(is_python_space)
}

impl Passage {
    /// A passage with its hashes.
    pub fn new(id: usize, context: String, target: String) -> Self {
        let (prompt_hash, target_hash) = (sha256_of(context.as_bytes()), sha256_of(target.as_bytes()));
        Self { id, context, target, prompt_hash, target_hash }
    }
}

impl DataFormat {
    fn of_first_line(line: &str) -> Self {
        if line.trim_start().starts_with('{') { Self::Jsonl } else { Self::PlainText }
    }
}

/// The lines of a file as UTF-8, with every byte hashed on the way.
struct Lines<R> {
    path: PathBuf,
    reader: R,
    hasher: Sha256,
    /// 1-based number of the line read last.
    number: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its line end, or nothing at the end of the file.
    fn next_line(&mut self) -> Result<Option<String>, DataError> {
        let mut bytes = Vec::new();
        // One byte more than allowed: a line of the longest length is not a longer one.
        let read = self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.hasher.update(&bytes);
        if read > MAX_LINE_BYTES {
            let (path, line) = (self.path.clone(), self.number);
            return Err(DataError::LineTooLong { path, line, limit_bytes: MAX_LINE_BYTES });
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        let line = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
            path: self.path.clone(),
            line: self.number,
            byte: error.utf8_error().valid_up_to(),
            binary_format: if self.number == 1 { binary_format(error.as_bytes()) } else { None },
        })?;
        match line.strip_prefix('\u{feff}') {
            Some(rest) if self.number == 1 => Ok(Some(rest.to_owned())),
            _ => Ok(Some(line)),
        }
    }
}

/// The string `text` of one JSONL line.
fn passage_of_json(line: &str, path: &Path, number: usize) -> Result<String, DataError> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| {
        // serde_json ends its message with a position of its own, whose line is always 1 here.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        DataError::NotJson { path: path.to_owned(), line: number, column: error.column(), message }
    })?;
    let found = match value {
        serde_json::Value::Object(mut object) => match object.swap_remove("text") {
            Some(serde_json::Value::String(text)) => return Ok(text),
            Some(other) => format!("`text` is {}", kind_of(&other)),
            None if object.is_empty() => "an empty object".to_owned(),
            None => format!("only {}", object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
        },
        other => kind_of(&other).to_owned(),
    };
    Err(DataError::NoText { path: path.to_owned(), line: number, found: shorten(&found) })
}

fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

/// Formats that data sets are often shipped in, by their first bytes.
fn binary_format(bytes: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (b"PAR1", "a Parquet file"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
        (b"PK\x03\x04", "a zip file"),
    ];
    known.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| *format)
}

/// At most 80 characters of a text, for messages.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err as fs;

    use super::*;

    fn read(bytes: &[u8], limit: Option<usize>) -> Result<DataSet, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        fs::write(&path, bytes).unwrap();
        read_passages(&path, &Task::resolve("lambada_openai").unwrap(), limit)
    }

    fn message(bytes: &[u8]) -> String {
        let error = read(bytes, None).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        // Without the temporary path.
        error.to_string().split_once("data: ").unwrap().1.to_owned()
    }

    #[test]
    fn jsonl_and_plain_text_give_the_same_passages() {
        let jsonl = read(b"{\"text\": \"a b c\"}\n\n{\"id\": 7, \"text\": \"d  e\"}\n", None).unwrap();
        let plain = read("\u{feff}a b c\r\n \nd  e".as_bytes(), None).unwrap();
        assert_eq!((jsonl.format, plain.format), (DataFormat::Jsonl, DataFormat::PlainText));
        assert_eq!(jsonl.passages, plain.passages);
        let [first, second] = &jsonl.passages[..] else { unreachable!() };
        assert_eq!((first.id, first.context.as_str(), first.target.as_str()), (0, "a b", " c"));
        assert_eq!((second.id, second.context.as_str(), second.target.as_str()), (1, "d ", " e"));
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let data = read(b"a b c", None).unwrap();
        // printf 'a b c' | sha256sum, and so on
        assert_eq!(data.sha256, "0e9f64031fcb2bc708b531c2a20441580425d151a38503f38592a7dd36019d3b");
        assert_eq!(data.passages[0].prompt_hash, "c8687a08aa5d6ed2044328fa6a697ab8e96dc34291e8c2034ae8c38e6fcc6d65");
        assert_eq!(data.passages[0].target_hash, "e2b70895a5215ddbcabd2b3932446d2094ed69bf8521eee40ac4e3fcd3a1b021");
        assert!(matches!(data.identity, DataIdentity::Different { what: "sha256", .. }));
    }

    #[test]
    fn a_limit_keeps_the_first_passages_and_still_hashes_and_counts_the_file() {
        let whole = read(b"a b\nc d\ne f\n", None).unwrap();
        let limited = read(b"a b\nc d\ne f\n", Some(2)).unwrap();
        assert_eq!(limited.passages, whole.passages[..2]);
        assert_eq!((limited.total_count, &limited.sha256), (3, &whole.sha256));
    }

    #[test]
    fn broken_lines_are_named() {
        let ok = b"{\"text\": \"a b\"}\n";
        let second = |bytes: &[u8]| message(&[ok, bytes].concat());
        assert_eq!(second(b"{\"text\": \"a b\""), "line 2, column 14: not JSON: EOF while parsing an object");
        assert_eq!(
            second(b"{\"passage\": \"a b\"}"),
            "line 2: expected an object with a string `text`, found only `passage`"
        );
        assert_eq!(second(b"{}"), "line 2: expected an object with a string `text`, found an empty object");
        assert_eq!(
            second(b"{\"text\": 3}"),
            "line 2: expected an object with a string `text`, found `text` is a number"
        );
        assert_eq!(second(b"[1]"), "line 2: expected an object with a string `text`, found an array");
        assert_eq!(second(b"{\"text\": \"a\xff\"}"), "line 2 is not UTF-8 (first bad byte at 11)");
        assert!(second(b"{\"text\": \"a \\ud800\"}").starts_with("line 2, column"));
        assert_eq!(second(b"{\"text\": \"word\"}"), "line 2: passage has no context before its last word: \"word\"");
        assert_eq!(second(b"{\"text\": \" word\"}"), "line 2: passage has no context before its last word: \" word\"");
        let separators = message("a b\n\u{1c}\u{a0} word".as_bytes());
        assert!(separators.starts_with("line 2: passage has no context before its last word"), "{separators}");
    }

    #[test]
    fn files_that_are_no_text_are_refused() {
        assert_eq!(message(b""), "no passages in this file");
        assert_eq!(message(b"\n \n"), "no passages in this file");
        assert_eq!(message(&vec![b'a'; MAX_LINE_BYTES + 1]), "line 1 is longer than 16777216 bytes");
        let gzip = read(b"\x1f\x8b\x08\x00", None).unwrap_err();
        assert!(gzip.hint().unwrap().contains("a gzip file"));
        let missing = read_passages(Path::new("no/such/file"), &Task::resolve("lambada_openai").unwrap(), None);
        assert!(missing.unwrap_err().to_string().contains("no/such/file"));
    }

    /// `[hex(i) for i in range(0x110000) if chr(i).isspace()]` in Python 3.11.
    #[test]
    fn white_space_is_that_of_python() {
        let mut python = vec![0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0, 0x1680];
        python.extend(0x2000..=0x200a);
        python.extend([0x2028, 0x2029, 0x202f, 0x205f, 0x3000]);
        let ours: Vec<u32> = ('\0'..=char::MAX).filter(|&c| is_python_space(c)).map(u32::from).collect();
        assert_eq!(ours, python);
    }
}
