//! The checkpoint as a source of stages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::DistributedCheckpoint;
use super::parameters::{Entry, Source};
use super::tiles::Tile;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::inventory::ParamEntry;
use crate::checkpoint::source::{ModelSource, StageReader};
use crate::checkpoint::torch_file::Reading;
use crate::config::{Architecture, Head};
use crate::hub::ConfiguredTokenizer;
use crate::partition::{Param, Role, StageId};
use crate::tensor::{DType, HostTensor};

impl DistributedCheckpoint {
    /// The parameters of a stage. A tied head has its own role and the word embedding's entry.
    fn entries(&self, id: StageId) -> impl Iterator<Item = (Role, &Entry)> {
        let stage = |id: StageId| self.stages.get(&id).into_iter().flatten();
        let tied = id == StageId::Output && self.architecture.head == Head::Tied;
        let head = tied.then(|| stage(StageId::Embedding).find(|(role, _)| **role == Role::WordEmbedding));
        let head = head.flatten().map(|(_, entry)| (Role::HeadWeight, entry));
        stage(id).map(|(&role, entry)| (role, entry)).chain(head)
    }

    /// The numbers of the files with parts of these parameters.
    fn files_of<'a>(&self, entries: impl Iterator<Item = (Role, &'a Entry)>) -> BTreeSet<usize> {
        let sources = entries.flat_map(|(_, entry)| &entry.sources);
        let parts = sources.flat_map(|source| self.tensors[source.tensor].parts_of(source.layer));
        parts.filter_map(|part| Some(part.item.as_ref()?.file)).collect()
    }

    /// Reads a parameter part by part, piece by piece, into its place.
    fn read(&self, entry: &Entry, reading: &Reading) -> Result<HostTensor, CheckpointError> {
        let stored = self.tensors[entry.sources[0].tensor].dtype;
        let shape = &entry.param.rank_shape;
        // In memory there is room for what a file has: the parts tile the tensor, and each fits its item.
        let count = shape.iter().product::<usize>() * stored.size();
        let mut bytes = reading.pool.as_ref().map_or_else(|| vec![0; count], |pool| pool.take(count));
        let each = count / entry.sources.len();
        for (source, target) in entry.sources.iter().zip(bytes.chunks_mut(each.max(1))) {
            self.read_source(*source, target, reading)?;
        }
        let failed = |source| {
            let (path, name) = (self.folder.clone(), entry.param.name.clone());
            CheckpointError::Tensor { path, name, source }
        };
        let joined = HostTensor::of_pool(stored, shape.clone(), bytes, reading.pool.clone()).map_err(failed)?;
        let row = entry.param.row;
        self.orders.arrange(&self.architecture, (row.role, row.kind), 1, joined).map_err(failed)
    }

    fn read_source(&self, source: Source, target: &mut [u8], reading: &Reading) -> Result<(), CheckpointError> {
        let tensor = &self.tensors[source.tensor];
        let shape = tensor.inner_shape(source.layer);
        for part in tensor.parts_of(source.layer) {
            // A part may hold several layers.
            let (layers_before, inner) = match source.layer {
                None => (0, 0),
                Some(layer) => (layer - part.offsets[0], 1),
            };
            let tile = Tile::new(shape, &part.offsets[inner..], &part.sizes[inner..], tensor.dtype.size());
            let own = layers_before * tile.bytes()..(layers_before + 1) * tile.bytes();
            self.files.read(&tensor.name, tensor.dtype, part, reading, &mut |at, piece| {
                let (start, end) = (own.start.max(at), own.end.min(at + piece.len()));
                if start < end {
                    tile.place(target, start - own.start, &piece[start - at..end - at]);
                }
            })?;
        }
        Ok(())
    }
}

impl ModelSource for DistributedCheckpoint {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn tp_size(&self) -> usize {
        1
    }

    fn stored_once(&self) -> bool {
        true
    }

    fn dtype(&self) -> DType {
        let words = self.entries(StageId::Embedding).find(|(role, _)| *role == Role::WordEmbedding);
        words.map_or(DType::F32, |(_, entry)| entry.param.dtype)
    }

    fn size(&self) -> (u64, u64) {
        let entries = self.stages.values().flat_map(|stage| stage.values());
        entries.fold((0, 0), |(parameters, bytes), Entry { param, .. }| {
            let count = param.rank_shape.iter().product::<usize>() as u64;
            (parameters + count, bytes + count * param.dtype.size() as u64)
        })
    }

    fn layout_name(&self) -> &'static str {
        "torch-dist"
    }

    fn describe(&self) -> String {
        "Megatron-LM, distributed (torch_dist)".to_owned()
    }

    fn iteration(&self) -> Option<u64> {
        self.iteration
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        self.vocabulary_multiple
    }

    fn tokenizer(&self) -> ConfiguredTokenizer<'_> {
        self.tokenizer.configured()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        self.entries(id).map(|(role, entry)| (role, &entry.param)).collect()
    }

    fn open_stage(
        &self,
        id: StageId,
        roles: &[Role],
        reading: &Reading,
    ) -> Result<Box<dyn StageReader + '_>, CheckpointError> {
        let params: Vec<_> = self.entries(id).filter(|(role, _)| roles.contains(role)).collect();
        let files = self.files_of(params.iter().copied());
        // Before, so that a change is reported as one; the caller checks again, to be sure there was none.
        files.iter().try_for_each(|&file| self.files.check_unchanged(file))?;
        Ok(Box::new(OpenStage { checkpoint: self, params, files, reading: reading.clone() }))
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        self.files_of(self.entries(id)).into_iter().map(|file| self.files.path(file).to_owned()).collect()
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.files_of(self.entries(id)).into_iter().try_for_each(|file| self.files.check_unchanged(file))
    }
}

/// A stage whose items are opened one by one.
struct OpenStage<'a> {
    checkpoint: &'a DistributedCheckpoint,
    params: Vec<(Role, &'a Entry)>,
    files: BTreeSet<usize>,
    reading: Reading,
}

impl OpenStage<'_> {
    fn entry(&self, role: Role) -> Result<&Entry, CheckpointError> {
        let found = self.params.iter().find(|(known, _)| *known == role).map(|&(_, entry)| entry);
        found.ok_or_else(|| CheckpointError::MissingTensor {
            path: self.checkpoint.folder.clone(),
            name: format!("{role:?}"),
        })
    }
}

impl StageReader for OpenStage<'_> {
    fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError> {
        Ok(vec![self.checkpoint.read(self.entry(role)?, &self.reading)?])
    }

    fn read(&self, role: Role) -> Result<Param, CheckpointError> {
        let entry = self.entry(role)?;
        Ok(entry.param.of_one(self.checkpoint.read(entry, &self.reading)?))
    }

    fn check_unchanged(&self) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(|&file| self.checkpoint.files.check_unchanged(file))
    }
}
