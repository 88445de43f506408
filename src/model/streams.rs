//! Residual streams: one per rank where ranks can hold different ones, else one for all.

use tch::Tensor;

use super::{Chunk, ModelError};

/// The residual streams of one variant, each `[packed rows, hidden]`: one for all ranks as long as they are bound to be
/// equal, one per rank after something was added that differs between them.
#[derive(Debug)]
pub struct Streams(Vec<Tensor>);

impl Streams {
    /// From one stream for all ranks, or one per rank.
    #[must_use]
    pub fn new(streams: Vec<Tensor>) -> Self {
        Self(streams)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The stream of a rank, `[packed rows, hidden]`.
    pub fn of_rank(&self, tp_rank: usize) -> &Tensor {
        &self.0[tp_rank.min(self.0.len() - 1)]
    }

    /// One stream per rank from now on.
    ///
    /// # Errors
    /// No memory for the copies.
    pub fn fork(&mut self, tp_size: usize) -> Result<(), ModelError> {
        while self.0.len() < tp_size {
            let copy = copy_of(&self.0[0])?;
            self.0.push(copy);
        }
        Ok(())
    }

    /// A copy that shares no memory.
    ///
    /// # Errors
    /// No memory for it.
    pub fn deep_copy(&self) -> Result<Self, ModelError> {
        Ok(Self(self.0.iter().map(copy_of).collect::<Result<_, ModelError>>()?))
    }

    /// The chunk's rows, averaged over the streams.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn mean_rows(&self, chunk: &Chunk) -> Result<Tensor, ModelError> {
        let rows = self.rows(chunk)?;
        match rows.as_slice() {
            [only] => Ok(only.shallow_clone()),
            many => Ok(Tensor::f_stack(many, 0)?.f_mean_dim(0, false, None::<tch::Kind>)?),
        }
    }

    /// The chunk's rows of every stream, as views.
    pub(super) fn rows(&self, chunk: &Chunk) -> Result<Vec<Tensor>, ModelError> {
        Ok(self.0.iter().map(|stream| stream.f_narrow(0, chunk.start, chunk.tokens)).collect::<Result<_, _>>()?)
    }
}

/// The element of a rank in a list that has one for all or one per rank.
pub(super) fn of_rank<T>(list: &[T], tp_rank: usize) -> &T {
    &list[tp_rank.min(list.len() - 1)]
}

fn copy_of(tensor: &Tensor) -> Result<Tensor, ModelError> {
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}
