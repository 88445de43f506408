//! GPT-NeoX on libtorch, one stage at a time, over any number of in-process tensor-parallel ranks. A merged model is the
//! model with one rank: baseline and merges run the same code and differ in weights only. Passages are concatenated
//! without padding; see [`Chunk`]. After gpt-neox `megatron/model/transformer.py` and `megatron/mpu/layers.py`.

mod attention;
mod backend;
mod chunk;
mod cuda;
mod devices;
mod embedding;
mod error;
mod extent;
mod feed;
mod kernels;
mod layer;
mod mlp;
mod norm;
mod output;
mod parallel;
mod probe;
mod products;
mod rotary;
mod scores;
mod speed;
mod streams;
mod sync;
#[cfg(test)]
mod tests;
mod threads;
mod weights;

pub use backend::{Backend, wide};
pub use chunk::{Chunk, Group};
pub use cuda::{Gpu, cuda_versions, free_device_memory, gpu_memory, gpus};
pub use devices::ChosenDevice;
pub use embedding::EmbeddingStage;
pub use error::ModelError;
pub use extent::to_i64;
pub use feed::{Fed, Feed};
pub use layer::{LayerMeans, LayerStage};
pub use norm::NormMeans;
pub use output::{DeviceScores, FinalNorm, OutputStage, Reference, TargetScores};
pub use probe::probe;
pub use products::has_tiles;
pub use rotary::RotaryTable;
pub use speed::matrix_product_flops;
pub use streams::Streams;
pub use tch::Device;
pub use threads::{each, set_threads};
pub use weights::Uploader;
