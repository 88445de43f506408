//! What losses are judged against.

/// What a loss is judged against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// The largest loss that is allowed.
    pub limit: f64,
    /// What rounding alone may make of the loss: beyond is one that exceeds the limit by more than this.
    pub noise: f64,
}

impl Threshold {
    /// What a loss that is beyond exceeds.
    pub(super) fn beyond(self) -> f64 {
        self.limit + self.noise
    }
}

impl From<f64> for Threshold {
    fn from(limit: f64) -> Self {
        Self { limit, noise: 0.0 }
    }
}
