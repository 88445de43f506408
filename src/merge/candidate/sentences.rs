//! A conclusion in sentences.

use std::fmt::Write as _;

use super::conclusion::{CALIBRATED, Conclusion, UNMERGED};
use crate::words::list;

/// Exceptions that are named one by one.
const NAMED: usize = 8;

impl Conclusion {
    /// What is wrong with the candidate, a sentence each; none where it is a strategy's in every parameter.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> =
            self.miscounts.iter().map(|(sentence, miscount)| format!("{sentence}: {miscount}")).collect();
        let Self { strategy, explained, parameters, .. } = self;
        if !self.is_followed() {
            warnings.push(format!(
                "it follows no strategy: {explained} of {parameters} parameters are as {strategy} makes them"
            ));
        }
        let suspects: Vec<_> = self.exceptions.iter().filter(|exception| exception.suspect).collect();
        let named = suspects.iter().take(NAMED);
        warnings.extend(named.map(|exception| format!("{strategy}, but {exception}")));
        let further: usize = suspects
            .iter()
            .skip(NAMED)
            .map(|exception| exception.parameters.len() * exception.layers.len().max(1))
            .sum();
        if further > 0 {
            warnings.push(format!("{strategy}, but for {further} further parameters"));
        }
        warnings
    }

    /// Whether it is the strategy's for the most part.
    pub fn is_followed(&self) -> bool {
        2 * self.explained > self.parameters
    }

    /// What the candidate is, in a line.
    pub fn summary(&self) -> String {
        let Self { strategy, same_as, explained, parameters, .. } = self;
        let share = if explained == parameters {
            format!("all {parameters} parameters are")
        } else {
            format!("{explained} of {parameters} parameters are")
        };
        let what = match strategy.as_str() {
            UNMERGED => "each rank's own, unmerged".to_owned(),
            CALIBRATED => format!("as {CALIBRATED} makes them (biases that it corrects are not checked)"),
            strategy => format!("as {strategy} makes them"),
        };
        let closeness = match (self.rounding, self.same_bits) {
            (Some(dtype), _) => format!("rounded to {dtype}"),
            (None, true) => "bit for bit".to_owned(),
            (None, false) => "but for rounding".to_owned(),
        };
        let mut text = format!("{share} {what}, {closeness}");
        if !same_as.is_empty() {
            let _ = write!(text, "; {} would make the same of this checkpoint", list(same_as));
        }
        for exception in self.exceptions.iter().filter(|exception| !exception.suspect) {
            let _ = write!(text, "; but {exception}");
        }
        text
    }
}
