//! The passages that a stage is given at once.

use tch::Tensor;

use super::ModelError;

/// Consecutive passages that go through a stage together.
#[derive(Debug)]
pub struct Chunk {
    /// The first packed row.
    pub start: i64,
    pub tokens: i64,
    /// Its passages by length, in order; together they cover the rows.
    pub groups: Vec<Group>,
    /// Each row's position in its passage, `[tokens]`, int64, on the device.
    pub positions: Tensor,
}

impl Chunk {
    /// Two chunks with half of the passages each, first and second; `None` where there is but one passage.
    pub fn halves(&self) -> Result<Option<[Self; 2]>, ModelError> {
        let passages: i64 = self.groups.iter().map(|group| group.passages).sum();
        if passages < 2 {
            return Ok(None);
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let (mut wanted, mut rows) = (passages / 2, 0);
        for group in &self.groups {
            let taken = group.passages.min(wanted);
            wanted -= taken;
            if taken > 0 {
                first.push(Group { passages: taken, ..*group });
                rows += taken * group.length;
            }
            if taken < group.passages {
                let start = group.start + taken * group.length - rows;
                second.push(Group { start, passages: group.passages - taken, ..*group });
            }
        }
        let part = |start: i64, tokens: i64, groups| -> Result<Self, ModelError> {
            let positions = self.positions.f_narrow(0, start, tokens)?;
            Ok(Self { start: self.start + start, tokens, groups, positions })
        };
        Ok(Some([part(0, rows, first)?, part(rows, self.tokens - rows, second)?]))
    }

    /// The same chunk for another thread.
    pub fn shallow_clone(&self) -> Self {
        let (groups, positions) = (self.groups.clone(), self.positions.shallow_clone());
        Self { start: self.start, tokens: self.tokens, groups, positions }
    }
}

/// Consecutive passages of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its first row, counted from the chunk's first.
    pub start: i64,
    pub passages: i64,
    pub length: i64,
}
