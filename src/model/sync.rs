//! Stages can be shared by threads. Their weights are private to them, and no method writes to them.

use super::{EmbeddingStage, FinalNorm, LayerStage, OutputStage, RotaryTable};

macro_rules! read_by_many_threads {
    ($($stage:ty),*) => {$(
        // SAFETY: through a shared reference the stage's methods only have libtorch read its tensors and count
        // references to them, both of which libtorch allows to many threads at once.
        #[expect(unsafe_code, reason = "tch does not mark its tensors as readable by many threads")]
        unsafe impl Sync for $stage {}
    )*};
}

read_by_many_threads!(EmbeddingStage, FinalNorm, LayerStage, OutputStage, RotaryTable);
