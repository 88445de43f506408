//! Residual streams: one per rank where ranks can hold different ones, else one for all.

use tch::Tensor;

use super::{Backend, ModelError};

/// The residual streams of one variant, each `[packed rows, hidden]`: one for all ranks as long as they are bound to be
/// equal, one per rank after something was added that differs between them.
#[derive(Debug)]
pub struct Streams(pub(super) Vec<Tensor>);

impl Streams {
    pub fn new(streams: Vec<Tensor>) -> Self {
        Self(streams)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn hidden_size(&self) -> usize {
        self.0
            .first()
            .and_then(|stream| stream.size().last().copied())
            .map_or(0, |size| usize::try_from(size).unwrap_or(0))
    }

    pub fn of_rank(&self, tp_rank: usize) -> &Tensor {
        of_rank(&self.0, tp_rank)
    }

    /// One stream per rank from now on.
    pub fn fork(&mut self, tp_size: usize) -> Result<(), ModelError> {
        while self.0.len() < tp_size {
            let copy = copy_of(&self.0[0])?;
            self.0.push(copy);
        }
        Ok(())
    }

    /// As many streams of `rows` rows as asked for, with anything in them, in memory that has room for `room`: of equal
    /// blocks one serves as well as the other.
    pub fn blank(count: usize, rows: i64, room: i64, hidden_size: i64, backend: Backend) -> Result<Self, ModelError> {
        let blank = |_| {
            let memory = Tensor::f_empty([room.max(rows), hidden_size], (backend.kind, backend.device))?;
            Ok(memory.f_narrow(0, 0, rows)?)
        };
        Ok(Self((0..count).map(blank).collect::<Result<_, ModelError>>()?))
    }

    /// A copy that shares no memory.
    pub fn deep_copy(&self) -> Result<Self, ModelError> {
        Ok(Self(self.0.iter().map(copy_of).collect::<Result<_, ModelError>>()?))
    }

    /// The given packed rows of every stream.
    pub fn select(&self, rows: &Tensor) -> Result<Self, ModelError> {
        Ok(Self(self.0.iter().map(|stream| stream.f_index_select(0, rows)).collect::<Result<_, _>>()?))
    }

    /// The rows of all parts, one part after the other.
    pub fn concatenate(parts: &[Self]) -> Result<Self, ModelError> {
        let count = parts.first().map_or(0, Self::count);
        let of_one = |at: usize| Ok(Tensor::f_cat(&parts.iter().map(|part| part.of_rank(at)).collect::<Vec<_>>(), 0)?);
        Ok(Self((0..count).map(of_one).collect::<Result<_, ModelError>>()?))
    }

    /// Overwrites these rows with those of other streams; one of theirs serves all where they have one only.
    pub fn copy_from(&mut self, others: &Self) -> Result<(), ModelError> {
        for (at, stream) in self.0.iter_mut().enumerate() {
            stream.f_copy_(others.of_rank(at))?;
        }
        Ok(())
    }

    /// The given number of packed rows from `start` on, as views: what is written to them is written here.
    pub fn narrow(&self, start: i64, rows: i64) -> Result<Self, ModelError> {
        Ok(Self(self.0.iter().map(|stream| stream.f_narrow(0, start, rows)).collect::<Result<_, _>>()?))
    }

    /// The rows averaged over the streams.
    pub fn mean(&self) -> Result<Tensor, ModelError> {
        match self.0.as_slice() {
            [only] => Ok(only.shallow_clone()),
            many => Ok(Tensor::f_stack(many, 0)?.f_mean_dim(0, false, None::<tch::Kind>)?),
        }
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
