//! Errors of statistics, and the checks that find them.

/// Why a statistic could not be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// There is nothing to summarise.
    #[error("{what}: no values, expected at least one")]
    Empty {
        /// The input at fault.
        what: &'static str,
    },
    /// An input value is NaN or infinite.
    #[error("{what}: value {index} is {value}, expected a finite number")]
    NotFinite {
        /// The input at fault.
        what: &'static str,
        /// 0-based position of the first such value.
        index: usize,
        /// The value itself.
        value: f64,
    },
    /// Paired inputs have different lengths.
    #[error("{what}: {found} values, expected {expected} as in the series it is paired with")]
    LengthMismatch {
        /// The input at fault.
        what: &'static str,
        /// Length of the series it is paired with.
        expected: usize,
        /// Its own length.
        found: usize,
    },
    /// A parameter or probability lies outside its range.
    #[error("{what} is {value}, expected {expected}")]
    OutOfRange {
        /// The parameter at fault.
        what: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words.
        expected: &'static str,
    },
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
