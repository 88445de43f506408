//! Bytes into every reader of files that others wrote. What comes out, a value or an error, makes no difference: a reader
//! must come back, without a panic and without more memory than its input warrants. `fuzz_targets/` mutates the bytes;
//! `tests/library/corpus_replay.rs` feeds the recorded ones, on stable and in seconds.

use std::cell::RefCell;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use kintsugi::checkpoint::{
    CheckpointError, HuggingFaceModel, MegatronCheckpoint, ModelSource, OpenOptions, TorchFile,
};
use kintsugi::config::{Architecture, NeoxConfig, Observed};
#[cfg(feature = "libtorch")]
use kintsugi::eval::data_set::parse_passages;
#[cfg(feature = "libtorch")]
use kintsugi::eval::task::Task;
#[cfg(feature = "libtorch")]
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::export::TokenizerFiles;
use kintsugi::limits::Gates;
use kintsugi::merge::Strategy;
use kintsugi::report::{Certificate, ReportFiles, parse_json, render_html, render_markdown, to_json};
use kintsugi::samples::{PassageText, Sample, parse_jsonl};
use kintsugi::verify::{check_merge, render};
use tempfile::{NamedTempFile, TempDir};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A reader: takes bytes, gives nothing back.
pub type EntryPoint = fn(&[u8]);

/// Every entry point by the name of its fuzz target and corpus folder.
pub const ENTRY_POINTS: &[(&str, EntryPoint)] = &[
    ("archive", archive),
    ("certificate", certificate),
    ("config", config),
    ("gates", gates),
    ("hugging_face", hugging_face),
    ("megatron", megatron),
    ("megatron_args", megatron_args),
    #[cfg(feature = "libtorch")]
    ("passages", passages),
    ("pickle", pickle),
    ("report", report),
    ("safetensors", safetensors),
    ("samples", samples),
    ("strategy", strategy),
    #[cfg(feature = "libtorch")]
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
    let read = |shard: Result<TorchFile, CheckpointError>| -> Result<(), CheckpointError> {
        let shard = shard?;
        for (name, form) in shard.forms()? {
            let tensor = shard.read(&name)?;
            assert_eq!((tensor.dtype(), tensor.shape()), (form.dtype, form.shape.as_slice()));
            let _ = tensor.first_non_finite();
        }
        Ok(())
    };
    let _ = read(TorchFile::open(path));
    let _ = read(TorchFile::open_key(path, "module"));
}

/// Runs with the bytes in a file, for readers that seek. In memory where the system has a file system there.
fn in_file(bytes: &[u8], run: impl FnOnce(&Path)) {
    thread_local! {
        static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|slot| {
        let mut file = match slot.take() {
            Some(file) => file,
            None => NamedTempFile::new_in(memory()).unwrap_or_else(|error| panic!("a temporary file: {error}")),
        };
        let inner = file.as_file_mut();
        let written =
            inner.set_len(0).and_then(|()| inner.seek(SeekFrom::Start(0))).and_then(|_| inner.write_all(bytes));
        assert!(written.is_ok(), "writing a temporary file");
        run(file.path());
        *slot = Some(file);
    });
}

/// Where files are in memory, if the system has such a place.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// A Hugging Face directory, in parts with a zero byte between them: `config.json`, the header of a safetensors file with
/// [`DATA_BYTES`] of tensors behind it, and perhaps an index.
pub fn hugging_face(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let (config, header, index) = (parts.next(), parts.next().unwrap_or_default(), parts.next());
    let file = [&(header.len() as u64).to_le_bytes(), header, &[0; DATA_BYTES]].concat();
    let name = if index.is_some() { "a.safetensors" } else { "model.safetensors" };
    let files = [("config.json", config), (name, Some(file.as_slice())), ("model.safetensors.index.json", index)];
    in_folder(&files, read_hugging_face);
}

/// Bytes of the tensors behind every header of [`hugging_face`].
const DATA_BYTES: usize = 1024;

/// The pickle of a rank's file of Megatron-LM, every storage of 256 bytes.
pub fn megatron(bytes: &[u8]) {
    in_file_of_rank("mp_rank_00", &rank_file(bytes), read_megatron);
}

/// The layout and the arguments of a checkpoint of Megatron-LM whose one file is sound and holds none: the name of its
/// folder, the tracker of the save folder and the arguments, with a zero byte between them.
pub fn megatron_args(bytes: &[u8]) {
    const PICKLE: &[u8] = include_bytes!("megatron.pkl");
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    let name = parts.next().map(String::from_utf8_lossy).unwrap_or_default();
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(sound) {
        return;
    }
    let (tracker, args) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    in_file_of_rank(&name, &rank_file(PICKLE), |step| {
        let save = step.parent().unwrap_or(step);
        let (tracker_file, args_file) = (save.join("latest_checkpointed_iteration.txt"), save.join("args.yml"));
        assert!(fs::write(&tracker_file, tracker).is_ok() && fs::write(&args_file, args).is_ok(), "writing files");
        for folder in [save, step] {
            if let Ok(Some(model)) = MegatronCheckpoint::open(folder, std::slice::from_ref(&args_file)) {
                read_stages(&model);
            }
        }
        assert!(fs::remove_file(tracker_file).is_ok() && fs::remove_file(args_file).is_ok(), "removing files");
    });
}

fn read_megatron(folder: &Path) {
    if let Ok(Some(model)) = MegatronCheckpoint::open(folder, &[]) {
        read_stages(&model);
    }
}

fn rank_file(pickle: &[u8]) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut archive = ZipWriter::new(&mut file);
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let storage = [0x3c; 256];
    let storages = (0..24).map(|number| (format!("a/data/{number}"), storage.as_slice()));
    for (name, bytes) in [("a/data.pkl".to_owned(), pickle)].into_iter().chain(storages) {
        let written = archive.start_file(name, stored).is_ok() && archive.write_all(bytes).is_ok();
        assert!(written, "writing to memory");
    }
    assert!(archive.finish().is_ok(), "writing to memory");
    file.into_inner()
}

/// Runs with a step whose one rank has a folder of this name.
fn in_file_of_rank(name: &str, file: &[u8], run: impl FnOnce(&Path)) {
    in_folder(&[], |folder| {
        let step = folder.join("iter_0000001");
        let rank = step.join(name);
        let written = fs::create_dir_all(&rank).is_ok() && fs::write(rank.join("model_optim_rng.pt"), file).is_ok();
        assert!(written, "writing a temporary file");
        run(&step);
        assert!(fs::remove_dir_all(step).is_ok(), "removing a temporary folder");
    });
}

/// A whole safetensors file beside a `config.json` that is sound.
pub fn safetensors(bytes: &[u8]) {
    const CONFIG: &[u8] = include_bytes!("config.json");
    in_folder(&[("config.json", Some(CONFIG)), ("model.safetensors", Some(bytes))], read_hugging_face);
}

fn read_hugging_face(folder: &Path) {
    if let Ok(model) = HuggingFaceModel::open(folder) {
        read_stages(&model);
    }
}

fn read_stages(model: &dyn ModelSource) {
    let _ = (model.size(), model.dtype(), model.architecture().summary());
    for id in model.stage_ids() {
        let (whole, replicas) = (model.read_stage(id), model.read_replicated(id));
        assert!(whole.is_err() || replicas.is_ok(), "a part of what was read");
    }
}

/// Runs with these files in a folder, and no others.
fn in_folder(files: &[(&str, Option<&[u8]>)], run: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|slot| {
        let folder = match slot.take() {
            Some(folder) => folder,
            None => TempDir::new_in(memory()).unwrap_or_else(|error| panic!("a temporary folder: {error}")),
        };
        for (name, bytes) in files {
            let path = folder.path().join(name);
            let written = bytes.is_none_or(|bytes| fs::write(path, bytes).is_ok());
            assert!(written, "writing a temporary file");
        }
        run(folder.path());
        for (name, bytes) in files {
            assert!(bytes.is_none() || fs::remove_file(folder.path().join(name)).is_ok(), "removing a temporary file");
        }
        *slot = Some(folder);
    });
}

/// A certificate and what is made of it, and the recipe that it is compared with; a zero byte divides them.
pub fn certificate(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    if let Ok(certificate) = Certificate::parse(parts.next().unwrap_or_default(), Path::new("certificate.json")) {
        let _ = (certificate.to_json(), certificate.to_markdown());
        let recipe = [("kintsugi_recipe.json", parts.next())];
        in_folder(&recipe, |folder| {
            let checks = check_merge(&certificate, folder, &OpenOptions::default(), false);
            let _ = render(&checks);
        });
    }
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
        let _ = gates.of("lambada_openai", "mean");
    }
}

/// A data set, JSONL or plain text.
#[cfg(feature = "libtorch")]
pub fn passages(bytes: &[u8]) {
    let Ok(task) = Task::resolve("lambada_openai") else { return };
    let _ = parse_passages(bytes, Path::new("passages.jsonl"), &task, Some(3));
}

/// A report, and what is made of it.
pub fn report(bytes: &[u8]) {
    if let Ok(report) = parse_json(bytes, Path::new("report.json")) {
        let _ = to_json(&report);
        let _ = render_markdown(&report);
        // Takes a hundred times as long as all else.
        if bytes.len().is_multiple_of(16) {
            let _ = render_html(&ReportFiles { report: Some(&report), ..ReportFiles::default() });
        }
    }
}

/// The samples of a model, and the passages beside them.
pub fn samples(bytes: &[u8]) {
    let _ = parse_jsonl::<Sample>(bytes, Path::new("mean.jsonl"));
    let _ = parse_jsonl::<PassageText>(bytes, Path::new("passages.jsonl"));
}

/// A strategy file.
pub fn strategy(bytes: &[u8]) {
    let _ = text(bytes).map(|text| Strategy::parse(text, "strategy.yml"));
}

/// A task file.
#[cfg(feature = "libtorch")]
pub fn task(bytes: &[u8]) {
    let _ = text(bytes).map(|text| Task::from_yaml(text, "task.yml"));
}

/// A tokenizer, a text through it, and what is copied of it beside a merge.
pub fn tokenizer(bytes: &[u8]) {
    in_file(bytes, |path| {
        for merges in [None, Some(path)] {
            let _ = TokenizerFiles::read(path, merges).map(|files| files.token_count());
        }
    });
    #[cfg(feature = "libtorch")]
    if let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("tokenizer.json")) {
        let _ = tokenizer.encode_pair("w1 Ünï  42", " w2");
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
