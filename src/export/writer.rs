//! The writer thread: takes tensors in the order in which they come and writes each file front to back. Waiting for the
//! disk is left to another thread, so that the next file is written meanwhile.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::budget::Permit;
use super::direct::Disk;
use super::output_file::OutputFile;
use super::safetensors::{SafetensorsFile, TensorHeader};
use super::sharded_tensor::ByteSpan;
use super::torch_archive::TorchArchive;
use super::{ExportError, Progress, Value};
use crate::checkpoint::FileDigest;
use crate::tensor::DType;

/// A file that is to be written.
#[derive(Debug)]
pub(super) struct FilePlan {
    /// Path below the output directory.
    pub path: PathBuf,
    pub content: Content,
    /// Number of tensors that will come.
    pub tensor_count: usize,
}

/// The forms of a file's tensors.
#[derive(Debug)]
pub(super) enum Content {
    /// A `.pt` file.
    Torch(Value),
    /// A safetensors file.
    Safetensors(Vec<TensorHeader>),
}

pub(super) struct Output {
    pub file: usize,
    pub dtype: DType,
    pub spans: Vec<ByteSpan>,
}

/// Tensors of one unit. The permit is dropped once they are written.
pub(super) struct Batch<'a> {
    pub outputs: Vec<Output>,
    /// Bytes of the unit, for [`Progress`].
    pub bytes: u64,
    pub permit: Permit<'a>,
}

enum OpenFile {
    Torch(Box<TorchArchive>),
    Safetensors(Box<SafetensorsFile>),
}

impl OpenFile {
    fn create(plan: &FilePlan, folder: &Path, disk: &Disk) -> Result<Self, ExportError> {
        let path = folder.join(&plan.path);
        Ok(match &plan.content {
            Content::Torch(root) => Self::Torch(Box::new(TorchArchive::start(&path, root, true, disk)?)),
            Content::Safetensors(tensors) => {
                Self::Safetensors(Box::new(SafetensorsFile::create(&path, tensors, disk)?))
            }
        })
    }

    fn push(&mut self, output: &Output) -> Result<(), ExportError> {
        match self {
            Self::Torch(archive) => archive.push_spans(output.dtype, &output.spans),
            Self::Safetensors(file) => file.push(&output.spans),
        }
    }

    fn close(self) -> Result<OutputFile, ExportError> {
        match self {
            Self::Torch(archive) => archive.close(),
            Self::Safetensors(file) => file.close(),
        }
    }
}

/// Writes `files` into `folder`. Returns their digests, in the order of `files`, under their paths.
pub(super) fn write_files(
    files: &[FilePlan],
    folder: &Path,
    batches: Receiver<Batch<'_>>,
    progress: &dyn Progress,
) -> Result<Vec<FileDigest>, ExportError> {
    thread::scope(|scope| {
        let (closed, to_publish) = channel::<(usize, OutputFile)>();
        let publishing = scope.spawn(move || {
            let publish = |(file, output): (usize, OutputFile)| Ok((file, output.publish()?));
            to_publish.into_iter().map(publish).collect::<Result<Vec<_>, ExportError>>()
        });
        let written = write_all(files, folder, batches, progress, &closed);
        drop(closed);
        // A publisher that failed made the writer stop, so its error is the one to report.
        let mut published = publishing.join().map_err(|_| ExportError::ThreadLost).flatten()?;
        written?;
        published.sort_by_key(|(file, _)| *file);
        let digest = |(file, digest): (usize, Option<FileDigest>)| {
            digest.map(|digest| FileDigest { file: files[file].path.to_string_lossy().into_owned(), ..digest })
        };
        Ok(published.into_iter().filter_map(digest).collect())
    })
}

fn write_all(
    files: &[FilePlan],
    folder: &Path,
    batches: Receiver<Batch<'_>>,
    progress: &dyn Progress,
    closed: &Sender<(usize, OutputFile)>,
) -> Result<(), ExportError> {
    let mut open: Vec<Option<OpenFile>> = files.iter().map(|_| None).collect();
    let mut left: Vec<usize> = files.iter().map(|plan| plan.tensor_count).collect();
    let disk = Disk::new().map_err(ExportError::at(folder))?;
    let create = |file: usize| OpenFile::create(&files[file], folder, &disk);
    let finish = |file: usize, writing: OpenFile| {
        let finished = (file, writing.close()?);
        closed.send(finished).map_err(|_| ExportError::ThreadLost)
    };
    for Batch { outputs, bytes, permit } in batches {
        for output in outputs {
            let file = output.file;
            let mut writing = open[file].take().map_or_else(|| create(file), Ok)?;
            writing.push(&output)?;
            left[file] = left[file].saturating_sub(1);
            if left[file] == 0 {
                finish(file, writing)?;
            } else {
                open[file] = Some(writing);
            }
        }
        drop(permit);
        progress.advance(bytes);
    }
    for (file, plan) in files.iter().enumerate() {
        // Files without tensors, and files that lack some: closing those is an error.
        if let Some(writing) = open[file].take() {
            finish(file, writing)?;
        } else if plan.tensor_count == 0 {
            finish(file, create(file)?)?;
        }
    }
    Ok(())
}
