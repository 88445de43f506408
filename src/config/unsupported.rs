//! The reason why a model is refused.

/// A setting that this version refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct Unsupported {
    /// The configuration key and its value.
    pub setting: String,
    /// Why it is refused.
    pub reason: String,
    /// What to do instead.
    pub needed: String,
}

impl Unsupported {
    pub(crate) fn new(setting: impl Into<String>, reason: &str, needed: &str) -> Self {
        Self { setting: setting.into(), reason: reason.to_owned(), needed: needed.to_owned() }
    }
}
