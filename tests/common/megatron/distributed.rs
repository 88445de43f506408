//! Tiny distributed checkpoints as Megatron-LM writes them (`torch_dist`): every tensor once, in parts of the ranks.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use kintsugi::config::{Architecture, Head};
use kintsugi::partition::{PartitionTable, Role, StageId, StageTensors};
use kintsugi::tensor::{DType, HostTensor, Piece, concatenate};

use super::pickle::item;
use super::{Naming, RankContents, Writing};

/// How the tensors of a distributed checkpoint are divided.
#[derive(Debug, Clone)]
pub struct Division {
    /// Whether every layer has its own keys; else the layers are the first dimension of one tensor.
    pub keys_per_layer: bool,
    /// Whether the halves of SwiGLU are tensors of their own.
    pub halves: bool,
    /// Number of files.
    pub writers: usize,
    /// Of the order of the parts.
    pub seed: u64,
    /// What stands before the names.
    pub prefix: &'static str,
}

impl Division {
    pub const DEFAULT: Self = Self { keys_per_layer: false, halves: false, writers: 2, seed: 1, prefix: "" };
}

/// A part of a tensor and the file that has it.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub offsets: Vec<usize>,
    pub tensor: HostTensor,
}

#[derive(Debug, Clone)]
pub struct Saved {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub chunks: Vec<Chunk>,
}

/// The contents of a distributed checkpoint, to be changed before it is written.
#[derive(Debug, Clone)]
pub struct Contents {
    pub common: RankContents,
    pub tensors: BTreeMap<String, Saved>,
    pub writers: usize,
    /// What is done to a place, by name and offsets, after it was written: file, offset, length; none: it is left out.
    pub places: fn(&str, &[usize], Place) -> Option<Place>,
}

/// A file, an offset and a length.
pub type Place = (String, u64, u64);

impl Contents {
    /// A model as these ranks save it.
    pub fn new(writing: &Writing, division: &Division, architecture: &Architecture, stages: &[StageTensors]) -> Self {
        let writing = Writing { naming: Naming::TransformerEngine, version: Some(3.0), ..writing.clone() };
        let mut tensors: BTreeMap<String, Saved> = BTreeMap::new();
        for stage in stages {
            for &role in stage.params.keys() {
                if role == Role::HeadWeight && architecture.head == Head::Tied {
                    continue;
                }
                for (name, shape, chunks) in parameter(&writing, division, architecture, stage, role) {
                    let (name, shape, chunks) = placed(division, architecture, stage.id, name, shape, chunks);
                    let dtype = chunks[0].tensor.dtype();
                    let saved = tensors.entry(name).or_insert_with(|| Saved { dtype, shape, chunks: Vec::new() });
                    saved.chunks.extend(chunks);
                }
            }
        }
        let mut seed = division.seed;
        for saved in tensors.values_mut() {
            for at in (1..saved.chunks.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                saved.chunks.swap(at, usize::try_from((seed >> 33) % (at as u64 + 1)).unwrap());
            }
        }
        let args = Some(writing.args(architecture));
        let common =
            RankContents { args, version: Some(3.0), iteration: 7, models: Vec::new(), nested: false, zip: true };
        Self { common, tensors, writers: division.writers, places: |_, _, place| Some(place) }
    }

    /// Writes a save folder of one step, with an optimizer's moments and objects beside the model.
    pub fn write(&self, folder: &Path) {
        let step = folder.join("iter_0000007");
        fs::create_dir_all(&step).unwrap();
        fs::write(folder.join("latest_checkpointed_iteration.txt"), "7").unwrap();
        self.write_step(&step);
    }

    pub fn write_step(&self, step: &Path) {
        fs::create_dir_all(step).unwrap();
        let format = "{\"sharded_backend\": \"torch_dist\", \"sharded_backend_version\": 1}";
        fs::write(step.join("metadata.json"), format).unwrap();
        self.common.write(&step.join("common.pt"));
        let mut files = vec![b"an object".to_vec(); self.writers];
        let mut pickle = Pickle(b"\x80\x02".to_vec());
        let mut places = Vec::new();
        pickle.object("metadata", "Metadata");
        pickle.0.extend(b"}(");
        pickle.text("state_dict_metadata");
        pickle.0.extend(b"}(");
        let mut turn = 0;
        // A moment has the name of the parameter at its end, and other numbers.
        let moments = self.tensors.iter().map(|(name, saved)| (format!("optimizer.state.exp_avg.{name}"), saved, true));
        let model = self.tensors.iter().map(|(name, saved)| (name.clone(), saved, false));
        for (name, saved, is_moment) in model.chain(moments) {
            pickle.tensor(&name, saved);
            for chunk in &saved.chunks {
                let file = turn % self.writers;
                turn += 1;
                let bytes = if is_moment { b"no archive".to_vec() } else { item(&chunk.tensor) };
                let place = (format!("__{file}_0.distcp"), files[file].len() as u64, bytes.len() as u64);
                files[file].extend(bytes);
                let place = if is_moment { Some(place) } else { (self.places)(&name, &chunk.offsets, place) };
                places.push((name.clone(), Some(chunk.offsets.clone()), place));
            }
        }
        for name in ["rng_state/shard_0.0_1.1", "decoder.layers.mlp.linear_fc1._extra_state/shard_0_1"] {
            pickle.text(name);
            pickle.object("metadata", "BytesStorageMetadata");
            places.push((name.to_owned(), None, Some(("__0_0.distcp".to_owned(), 0, 9))));
        }
        pickle.0.push(b'u');
        pickle.text("planner_data");
        pickle.0.push(b'N');
        pickle.text("storage_data");
        pickle.0.extend(b"}(");
        for (name, offsets, place) in &places {
            if let Some(place) = place {
                pickle.place(name, offsets.as_deref(), place);
            }
        }
        pickle.0.extend(b"uub.");
        fs::write(step.join(".metadata"), pickle.0).unwrap();
        for (number, bytes) in files.iter().enumerate() {
            fs::write(step.join(format!("__{number}_0.distcp")), bytes).unwrap();
        }
    }
}

/// The tensors of a parameter: name, shape and chunks, without the layers.
fn parameter(
    writing: &Writing,
    division: &Division,
    architecture: &Architecture,
    stage: &StageTensors,
    role: Role,
) -> Vec<(String, Vec<usize>, Vec<Chunk>)> {
    let layer = if let StageId::Layer(layer) = stage.id { layer } else { 0 };
    let name = format!("{}{}", division.prefix, writing.naming.whole_name(stage.id, layer, role));
    let shards = writing.shards(architecture, stage, role);
    let table = PartitionTable::new(architecture);
    let Some(partition) = table.partition(role) else {
        let tensor = shards[0].clone();
        let (shape, offsets) = (tensor.shape().to_vec(), vec![0; tensor.shape().len()]);
        return vec![(name, shape, vec![Chunk { offsets, tensor }])];
    };
    let dim = partition.dim;
    let mut shape = shards[0].shape().to_vec();
    shape[dim] *= shards.len();
    let chunk = |tensor: HostTensor, at: usize| {
        let mut offsets = vec![0; shape.len()];
        offsets[dim] = at;
        Chunk { offsets, tensor }
    };
    let gated = architecture.gated && matches!(role, Role::MlpInputWeight | Role::MlpInputBias);
    if !gated {
        let chunks = shards.iter().enumerate().map(|(rank, shard)| chunk(shard.clone(), rank * shard.shape()[dim]));
        return vec![(name, shape.clone(), chunks.collect())];
    }
    let half = shards[0].shape()[0] / 2;
    let rows = shape[0] / 2;
    let part = |shard: &HostTensor, which: usize| {
        concatenate(0, &[Piece { tensor: shard, range: which * half..(which + 1) * half }]).unwrap()
    };
    let chunks = |which: usize, first: usize| -> Vec<Chunk> {
        shards.iter().enumerate().map(|(rank, shard)| chunk(part(shard, which), first + rank * half)).collect()
    };
    if division.halves {
        let mut half_shape = shape.clone();
        half_shape[0] = rows;
        return vec![
            (format!("{name}_w"), half_shape.clone(), chunks(0, 0)),
            (format!("{name}_v"), half_shape, chunks(1, 0)),
        ];
    }
    vec![(name, shape.clone(), [chunks(0, 0), chunks(1, rows)].concat())]
}

/// A tensor where it is stored: in that of all layers, or in its own.
fn placed(
    division: &Division,
    architecture: &Architecture,
    stage: StageId,
    name: String,
    shape: Vec<usize>,
    chunks: Vec<Chunk>,
) -> (String, Vec<usize>, Vec<Chunk>) {
    let StageId::Layer(layer) = stage else { return (name, shape, chunks) };
    if division.keys_per_layer {
        return (name, shape, chunks);
    }
    let stacked = |Chunk { offsets, tensor }: Chunk| {
        let shape = [&[1], tensor.shape()].concat();
        let tensor = HostTensor::new(tensor.dtype(), shape, tensor.bytes().to_vec()).unwrap();
        Chunk { offsets: [&[layer], &offsets[..]].concat(), tensor }
    };
    let name = name.replace(&format!("layers.{layer}."), "layers.");
    (name, [&[architecture.layer_count], &shape[..]].concat(), chunks.into_iter().map(stacked).collect())
}

/// `.metadata`, as Python pickles the dataclasses.
struct Pickle(Vec<u8>);

impl Pickle {
    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.extend([0x8a, 8]);
        self.0.extend(number.to_le_bytes());
    }

    /// An object of a class of `torch.distributed.checkpoint`.
    fn object(&mut self, module: &str, class: &str) {
        self.0.extend(format!("ctorch.distributed.checkpoint.{module}\n{class}\n)\x01").bytes().map(
            |byte| match byte {
                1 => 0x81,
                byte => byte,
            },
        ));
    }

    fn size(&mut self, sizes: &[usize]) {
        self.0.extend(b"ctorch\nSize\n(");
        for &size in sizes {
            self.number(size as u64);
        }
        self.0.extend(b"t\x85R");
    }

    fn tensor(&mut self, name: &str, saved: &Saved) {
        self.text(name);
        self.object("metadata", "TensorStorageMetadata");
        self.0.extend(b"}(");
        self.text("properties");
        self.object("metadata", "TensorProperties");
        let dtype = match saved.dtype {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "int64",
        };
        self.0.extend(format!("(ctorch\n{dtype}\nctorch.serialization\n_get_layout\n").as_bytes());
        self.text("torch.strided");
        self.0.extend(b"\x85R\x89ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\nK\x00\x85R\x89tb");
        self.text("size");
        self.size(&saved.shape);
        self.text("chunks");
        self.0.extend(b"](");
        for chunk in &saved.chunks {
            self.object("metadata", "ChunkStorageMetadata");
            self.0.extend(b"}(");
            self.text("offsets");
            self.size(&chunk.offsets);
            self.text("sizes");
            self.size(chunk.tensor.shape());
            self.0.extend(b"ub");
        }
        self.0.extend(b"eub");
    }

    fn place(&mut self, name: &str, offsets: Option<&[usize]>, (file, offset, length): &Place) {
        self.object("metadata", "MetadataIndex");
        self.0.extend(b"}(");
        self.text("fqn");
        self.text(name);
        if let Some(offsets) = offsets {
            self.text("offset");
            self.size(offsets);
        }
        self.text("index");
        self.0.push(b'N');
        self.0.extend(b"ub");
        self.object("filesystem", "_StorageInfo");
        self.0.extend(b"}(");
        self.text("relative_path");
        self.text(file);
        self.text("offset");
        self.number(*offset);
        self.text("length");
        self.number(*length);
        self.0.extend(b"ub");
    }
}
