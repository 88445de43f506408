//! The reason why a model is refused.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct Unsupported {
    pub setting: String,
    pub reason: String,
    pub needed: String,
}

impl Unsupported {
    pub(crate) fn new(setting: impl Into<String>, reason: &str, needed: &str) -> Self {
        Self { setting: setting.into(), reason: reason.to_owned(), needed: needed.to_owned() }
    }
}
