//! Errors of statistics, and the checks that find them.

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    #[error("{what}: no values, expected at least one")]
    Empty { what: &'static str },
    #[error("{what}: value {index} is {value}, expected a finite number")]
    NotFinite { what: &'static str, index: usize, value: f64 },
    #[error("{what}: {found} values, expected {expected} as in the series it is paired with")]
    LengthMismatch { what: &'static str, expected: usize, found: usize },
    #[error("{what} is {value}, expected {expected}")]
    OutOfRange { what: &'static str, value: f64, expected: &'static str },
}

/// At least one value, all of them finite.
pub(super) fn check_values(what: &'static str, values: &[f64]) -> Result<(), StatsError> {
    if values.is_empty() {
        return Err(StatsError::Empty { what });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(StatsError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// As many values as in the series that this one is paired with.
pub(super) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), StatsError> {
    if found == expected { Ok(()) } else { Err(StatsError::LengthMismatch { what, expected, found }) }
}
