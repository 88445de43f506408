//! Tiny checkpoints for tests, written by `export::synth`, and ways to damage them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test file uses some of these"
)]

pub mod defects;
pub mod disk;
#[cfg(feature = "libtorch")]
pub mod evaluation;
#[cfg(feature = "hub")]
pub mod hub;
pub mod hugging_face;
pub mod megatron;
pub mod merging;
pub mod npz;
pub mod report_input;
pub mod reports;
#[cfg(feature = "libtorch")]
pub mod runs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, ModelSource as _, TorchFile};
use kintsugi::config::read_files;
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::export::{StoredTensor, Value, save, save_tensors};
use kintsugi::tensor::{DType, HostTensor};
use serde_json::Map;
use tempfile::TempDir;

/// What a tiny checkpoint is to be: 2 layers, hidden size 64, 8 heads (so 1, 2, 4 and 8 ranks divide it), 128 tokens
/// whatever the number of ranks, float32, two ranks, gpt-neox's names and Pythia's architecture.
#[derive(Debug, Clone)]
pub struct TinyModel {
    pub options: SynthOptions,
}

impl TinyModel {
    pub fn new() -> Self {
        let shape = Shape {
            layer_count: 2,
            hidden_size: 64,
            head_count: 8,
            kv_head_count: None,
            mlp_inner_size: None,
            vocab_size: 120,
            make_vocab_size_divisible_by: 16,
            max_position_embeddings: 64,
        };
        Self { options: SynthOptions { tp_size: 2, dtype: DType::F32, ..SynthOptions::new(shape) } }
    }

    /// The same with some options changed.
    pub fn with(mut self, change: impl FnOnce(&mut SynthOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Writes it into a temporary directory.
    pub fn write(&self) -> TinyCheckpoint {
        let directory = tempfile::tempdir().unwrap();
        let step = write_checkpoint(&self.options, directory.path()).unwrap();
        TinyCheckpoint { directory, step }
    }
}

/// A checkpoint on disk, removed when dropped.
pub struct TinyCheckpoint {
    directory: TempDir,
    step: PathBuf,
}

impl TinyCheckpoint {
    /// The save directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The `global_stepN` directory.
    pub fn step(&self) -> &Path {
        &self.step
    }

    pub fn layer_file(&self, stage: usize, tp_rank: usize) -> PathBuf {
        self.step.join(format!("layer_{stage:02}-model_{tp_rank:02}-model_states.pt"))
    }

    pub fn rank_file(&self, tp_rank: usize) -> PathBuf {
        self.step.join(format!("mp_rank_{tp_rank:02}_model_states.pt"))
    }

    pub fn config_file(&self) -> PathBuf {
        self.step.join("configs/synthetic.yml")
    }

    pub fn open(&self) -> Checkpoint {
        Checkpoint::open(self.path(), &[]).unwrap()
    }

    /// Changes the configuration; keys carry `_` for `-`.
    pub fn edit_config(&self, edit: impl FnOnce(&mut Map<String, serde_json::Value>)) {
        let path = self.config_file();
        let (mut raw, _) = read_files(std::slice::from_ref(&path)).unwrap();
        edit(&mut raw);
        fs::write(path, serde_json::to_string_pretty(&raw).unwrap()).unwrap();
    }
}

/// Cuts a file off after `bytes`.
pub fn truncate(path: &Path, bytes: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Cuts a file in half.
pub fn truncate_half(path: &Path) {
    truncate(path, fs::metadata(path).unwrap().len() / 2);
}

/// Deletes a file.
pub fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// Inverts one byte.
pub fn flip_byte(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// Copies a folder and everything in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            // Not `copy`, which would keep the source from being written to.
            fs::write(&target, fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// The layer files of a `global_stepN` folder, in order.
pub fn layer_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("layer_"));
    files.sort();
    files
}

/// All tensors of a layer file.
pub fn read_tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    read_shard(&TorchFile::open(path).unwrap())
}

/// Rewrites a layer file with other tensors.
pub fn edit_layer_file(path: &Path, edit: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
    let mut tensors = read_tensors(path);
    edit(&mut tensors);
    save_tensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
}

/// Writes one file of these tensors.
pub fn save_all(path: &Path, tensors: &BTreeMap<String, HostTensor>) {
    save_tensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
}

/// A tensor of float32.
pub fn f32s(shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_f64(DType::F32, shape.to_vec(), values).unwrap()
}

/// The weights of every stage, bit for bit.
pub fn weights(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let stages = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap());
    let bytes = stages.flat_map(|stage| stage.params.into_values().map(|param| param.value.tensors().to_vec()));
    bytes.flatten().map(|tensor| tensor.bytes().to_vec()).collect()
}

/// Rewrites a file that holds a rank's whole model with other tensors (named `sequential.N.…`). What lies beside the
/// model in the file is lost.
pub fn edit_rank_file(path: &Path, edit: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
    let mut tensors = read_shard(&TorchFile::open_key(path, "module").unwrap());
    edit(&mut tensors);
    let tensors: Vec<_> = tensors.into_iter().collect();
    let module = tensors.iter().enumerate().map(|(storage, (name, tensor))| {
        let stored = StoredTensor { storage, dtype: tensor.dtype(), shape: tensor.shape().to_vec() };
        (name.clone(), Value::Tensor(stored))
    });
    let root = Value::Dict(vec![("module".to_owned(), Value::OrderedDict(module.collect()))]);
    save(path, &root, |storage| Ok::<_, std::io::Error>(tensors[storage].1.clone())).unwrap();
}

/// Puts another tensor under an existing name of a layer file.
pub fn replace_tensor(path: &Path, name: &str, tensor: HostTensor) {
    edit_layer_file(path, |tensors| {
        assert!(tensors.insert(name.to_owned(), tensor).is_some(), "no tensor `{name}` in {}", path.display());
    });
}

/// Makes one element of a tensor of a layer file something else.
pub fn set_element(path: &Path, name: &str, index: usize, value: f64) {
    edit_layer_file(path, |tensors| {
        let tensor = &tensors[name];
        let mut values = tensor.to_f64().unwrap();
        values[index] = value;
        let changed = HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &values).unwrap();
        tensors.insert(name.to_owned(), changed);
    });
}

fn read_shard(shard: &TorchFile) -> BTreeMap<String, HostTensor> {
    shard.forms().unwrap().into_keys().map(|name| (name.clone(), shard.read(&name).unwrap())).collect()
}
