//! Bytes into every reader of files that others wrote. What comes out, a value or an error, makes no difference: a reader
//! must come back, without a panic and without more memory than its input warrants. `fuzz_targets/` mutates the bytes;
//! `tests/corpus_replay.rs` feeds the recorded ones, on stable and in seconds.

use std::cell::RefCell;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use kintsugi::checkpoint::{CheckpointError, Shard};
use kintsugi::config::{Architecture, NeoxConfig, Observed};
use kintsugi::eval::documents::parse_documents;
use kintsugi::eval::task::Task;
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::gate::Gates;
use kintsugi::merge::Strategy;
use kintsugi::report::{parse_json, render_markdown, to_json};
use kintsugi::samples::{DocumentText, Sample, parse_jsonl};
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A reader: takes bytes, gives nothing back.
pub type EntryPoint = fn(&[u8]);

/// Every entry point by the name of its fuzz target and corpus folder.
pub const ENTRY_POINTS: &[(&str, EntryPoint)] = &[
    ("archive", archive),
    ("config", config),
    ("gates", gates),
    ("passages", passages),
    ("pickle", pickle),
    ("report", report),
    ("samples", samples),
    ("strategy", strategy),
    ("task", task),
    ("tokenizer", tokenizer),
];

/// A whole `.pt` file.
pub fn archive(bytes: &[u8]) {
    in_file(bytes, read_shard);
}

/// The pickle inside a `.pt` file that is sound otherwise: checksums would stop nearly every mutation of a whole file.
pub fn pickle(bytes: &[u8]) {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut archive = ZipWriter::new(&mut file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let storage: Vec<u8> = (0..64).collect();
    let entries: [(&str, &[u8]); 4] =
        [("a/data.pkl", bytes), ("a/byteorder", b"little"), ("a/data/0", &storage), ("a/data/1", &storage)];
    for (name, bytes) in entries {
        let written = archive.start_file(name, stored).is_ok() && archive.write_all(bytes).is_ok();
        assert!(written, "writing to memory");
    }
    assert!(archive.finish().is_ok(), "writing to memory");
    in_file(file.get_ref(), read_shard);
}

fn read_shard(path: &Path) {
    let read = |shard: Result<Shard, CheckpointError>| -> Result<(), CheckpointError> {
        let shard = shard?;
        for (name, form) in shard.forms()? {
            let tensor = shard.read(&name)?;
            assert_eq!((tensor.dtype(), tensor.shape()), (form.dtype, form.shape.as_slice()));
            let _ = tensor.first_non_finite();
        }
        Ok(())
    };
    let _ = read(Shard::open(path));
    let _ = read(Shard::open_key(path, "module"));
}

/// Runs with the bytes in a file, for readers that seek. In memory where the system has a file system there.
fn in_file(bytes: &[u8], run: impl FnOnce(&Path)) {
    thread_local! {
        static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|slot| {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let mut file = match slot.take() {
            Some(file) => file,
            None => NamedTempFile::new_in(folder).unwrap_or_else(|error| panic!("a temporary file: {error}")),
        };
        let inner = file.as_file_mut();
        let written =
            inner.set_len(0).and_then(|()| inner.seek(SeekFrom::Start(0))).and_then(|_| inner.write_all(bytes));
        assert!(written.is_ok(), "writing a temporary file");
        run(file.path());
        *slot = Some(file);
    });
}

/// gpt-neox's configuration, YAML or JSON, up to the architecture; a zero byte divides files.
pub fn config(bytes: &[u8]) {
    let files: Vec<_> = bytes
        .split(|&byte| byte == 0)
        .enumerate()
        .map(|(number, part)| (PathBuf::from(format!("{number}.yml")), part.to_vec()))
        .collect();
    let Ok(config) = NeoxConfig::from_bytes(&files) else { return };
    for tp_size in [1, 2] {
        let observed = Observed { tp_size, ..Observed::default() };
        if let Ok(architecture) = Architecture::resolve(&config, &observed) {
            let _ = architecture.summary();
        }
    }
}

/// A file of gates.
pub fn gates(bytes: &[u8]) {
    if let Some(gates) = text(bytes).and_then(|text| Gates::parse(text, "gates.yml").ok()) {
        let _ = gates.of("mean");
    }
}

/// A data set, JSONL or plain text.
pub fn passages(bytes: &[u8]) {
    let Ok(task) = Task::resolve("lambada_openai") else { return };
    let _ = parse_documents(bytes, Path::new("passages.jsonl"), &task, Some(3));
}

/// A report, and what is made of it.
pub fn report(bytes: &[u8]) {
    if let Ok(report) = parse_json(bytes, Path::new("report.json")) {
        let _ = to_json(&report);
        let _ = render_markdown(&report);
    }
}

/// The samples of a model, and the passages beside them.
pub fn samples(bytes: &[u8]) {
    let _ = parse_jsonl::<Sample>(bytes, Path::new("mean.jsonl"));
    let _ = parse_jsonl::<DocumentText>(bytes, Path::new("documents.jsonl"));
}

/// A strategy file.
pub fn strategy(bytes: &[u8]) {
    let _ = text(bytes).map(|text| Strategy::parse(text, "strategy.yml"));
}

/// A task file.
pub fn task(bytes: &[u8]) {
    let _ = text(bytes).map(|text| Task::from_yaml(text, "task.yml"));
}

/// A tokenizer, and a text through it.
pub fn tokenizer(bytes: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("tokenizer.json")) {
        let _ = tokenizer.encode_pair("w1 Ünï  42", " w2");
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
