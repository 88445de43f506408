//! Samples and passages as JSON Lines: `samples/NAME.jsonl`, `passages.jsonl`.

use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::SampleError;
use crate::files;

/// The longest line read: a target of a hundred thousand tokens.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Writes one JSON object a line (samples or passages), to a temporary name first: the file is there whole
/// or not at all.
pub fn write_jsonl<T: Serialize>(path: &Path, samples: &[T]) -> Result<(), SampleError> {
    write_lines(path, samples).map_err(|source| SampleError::Write { path: path.to_owned(), source })
}

fn write_lines<T: Serialize>(path: &Path, samples: &[T]) -> std::io::Result<()> {
    let mut file = files::temporary_sibling(path)?;
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    for sample in samples {
        serde_json::to_writer(&mut out, sample).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    drop(out);
    files::publish(file, path)
}

/// Reads what [`write_jsonl`] wrote.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, SampleError> {
    parse_jsonl(BufReader::new(files::open(path)?), path)
}

/// As [`read_jsonl`], of bytes from anywhere; `path` is named in errors.
pub fn parse_jsonl<T: DeserializeOwned>(mut reader: impl BufRead, path: &Path) -> Result<Vec<T>, SampleError> {
    let mut samples = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(SampleError::LineTooLong { path: path.to_owned(), line, limit_bytes: MAX_LINE_BYTES });
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let not_a_sample = |source| SampleError::Line { path: path.to_owned(), line, source };
        samples.push(serde_json::from_slice(&bytes).map_err(not_a_sample)?);
    }
    Ok(samples)
}
