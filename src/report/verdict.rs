//! The report in one or two sentences.

use std::cmp::Ordering;

use super::contents::Report;
use super::format;
use super::rows::{Loss, VariantRow};

/// A mean log-likelihood difference below this, in nats, is no change: the ratio of perplexities that people see has four
/// decimals and would read 1.0000. Folded weights, rounded to 16 bits, differ by less.
const NEGLIGIBLE: f64 = 5e-5;

/// The significant differences of a merge, in words: merges with the same differences share a clause.
#[derive(PartialEq)]
struct Difference {
    /// `Greater` where accuracy is lost.
    accuracy: Ordering,
    points: String,
    p: String,
    /// `Greater` where perplexity rises.
    perplexity: Ordering,
    rise: String,
    ratio: String,
}

impl Difference {
    /// `a and b lose 2.04 points of accuracy (p < 0.001)`.
    fn clause(&self, names: &[&str]) -> String {
        let ending = if names.len() == 1 { "s" } else { "" };
        let Self { accuracy, points, p, perplexity, rise, ratio } = self;
        let accuracy_words = match accuracy {
            Ordering::Greater => format!("lose{ending} {points} points of accuracy ({p})"),
            Ordering::Less => format!("gain{ending} {points} points of accuracy ({p})"),
            Ordering::Equal => format!("no measurable change of accuracy ({p})"),
        };
        let perplexity_words = match perplexity {
            Ordering::Greater => format!("raise{ending} perplexity by {rise} (× {ratio})"),
            Ordering::Less => format!("lower{ending} perplexity by {rise} (× {ratio})"),
            Ordering::Equal => "no measurable change of perplexity".to_owned(),
        };
        let names = format::list(names);
        match (accuracy, perplexity) {
            (Ordering::Equal, _) => format!("{names} {perplexity_words}, {accuracy_words}"),
            (_, Ordering::Equal) => format!("{names} {accuracy_words}, {perplexity_words}"),
            _ => format!("{names} {accuracy_words} and {perplexity_words}"),
        }
    }
}

impl Report {
    /// Names the merges without a measurable loss, and the loss of the others.
    ///
    /// Accuracy counts as changed where the corrected `McNemar` p-value is below one minus the confidence level;
    /// perplexity where the interval of the mean log-likelihood difference leaves out zero and the difference is larger
    /// than anything in the noise floor's interval, and large enough to be seen in a ratio of four decimals.
    pub fn verdict(&self) -> String {
        let (lead, differences) = self.verdict_parts();
        if differences.is_empty() { lead } else { format!("{lead} {}.", differences.join("; ")) }
    }

    /// The verdict's first sentences, and a clause for every group of merges that differs from the baseline.
    pub(super) fn verdict_parts(&self) -> (String, Vec<String>) {
        let (lead, differences) = if self.variants.is_empty() {
            (format!("{} has {}.", self.baseline.name, self.baseline_scores()), Vec::new())
        } else {
            self.compare()
        };
        let passages = self.task.passages;
        let lead = if self.partial {
            format!("Of {} passages {} were evaluated. {lead}", passages.original, passages.effective)
        } else {
            lead
        };
        (lead, differences)
    }

    /// How a variant compares, in a word or two.
    pub(super) fn standing(&self, row: &VariantRow) -> &'static str {
        match (self.accuracy_change(&row.loss), self.perplexity_change(&row.loss)) {
            (Ordering::Equal, Ordering::Equal) => "nothing measurable",
            (Ordering::Greater, Ordering::Less) | (Ordering::Less, Ordering::Greater) => "mixed",
            (Ordering::Greater, _) | (_, Ordering::Greater) => "worse",
            _ => "better",
        }
    }

    fn baseline_scores(&self) -> String {
        let accuracy = format::points(self.baseline.acc);
        format!("accuracy {accuracy} % and perplexity {}", format::perplexity(self.baseline.perplexity))
    }

    fn compare(&self) -> (String, Vec<String>) {
        let mut harmless = Vec::new();
        let mut differences: Vec<(Difference, Vec<&str>)> = Vec::new();
        for row in &self.variants {
            let Some(difference) = self.difference(&row.loss) else {
                harmless.push(row);
                continue;
            };
            match differences.iter_mut().find(|(known, _)| *known == difference) {
                Some((_, names)) => names.extend(row.model.names()),
                None => differences.push((difference, row.model.names().collect())),
            }
        }
        let lead = if harmless.is_empty() {
            let scores = self.baseline_scores();
            format!("No merge is free of measurable change against the baseline ({scores}).")
        } else {
            let names: Vec<_> = harmless.iter().flat_map(|row| row.model.names()).collect();
            let verb = if names.len() == 1 { "loses" } else { "lose" };
            let most = harmless.iter().map(|row| row.loss.acc_interval.upper).fold(0.0, f64::max);
            format!(
                "{} {verb} nothing measurable against the baseline ({}); at {} confidence at most {} points of accuracy.",
                format::list(&names),
                self.baseline_scores(),
                format::level(self.statistics.confidence),
                format::points(most),
            )
        };
        (lead, differences.iter().map(|(difference, names)| difference.clause(names)).collect())
    }

    /// `None` where neither accuracy nor perplexity differs measurably from the baseline's.
    fn difference(&self, loss: &Loss) -> Option<Difference> {
        let (accuracy, perplexity) = (self.accuracy_change(loss), self.perplexity_change(loss));
        let unless_equal = |change: Ordering, text: String| if change.is_eq() { String::new() } else { text };
        (accuracy.is_ne() || perplexity.is_ne()).then(|| Difference {
            accuracy,
            points: unless_equal(accuracy, format::points(loss.acc.abs())),
            p: format::p_statement(loss.mcnemar_p_holm),
            perplexity,
            rise: unless_equal(perplexity, format::perplexity(loss.perplexity.abs())),
            ratio: unless_equal(perplexity, format::ratio(loss.perplexity_ratio)),
        })
    }

    /// `Greater` where accuracy is lost.
    fn accuracy_change(&self, loss: &Loss) -> Ordering {
        let flips = |loss: &Loss| loss.baseline_only + loss.variant_only;
        let noise = self.noise_floor.as_ref().map_or(0, |floor| flips(&floor.loss));
        if loss.mcnemar_p_holm < 1.0 - self.statistics.confidence && flips(loss) > noise {
            loss.baseline_only.cmp(&loss.variant_only)
        } else {
            Ordering::Equal
        }
    }

    /// `Greater` where perplexity rises.
    fn perplexity_change(&self, loss: &Loss) -> Ordering {
        let noise = self.noise_floor.as_ref().map_or(0.0, |floor| largest_mean_difference(&floor.loss)).max(NEGLIGIBLE);
        match loss.delta_loglikelihood_interval {
            Some(interval) if interval.upper < 0.0 && -loss.delta_loglikelihood > noise => Ordering::Greater,
            Some(interval) if interval.lower > 0.0 && loss.delta_loglikelihood > noise => Ordering::Less,
            _ => Ordering::Equal,
        }
    }
}

/// The largest mean difference of log-likelihoods in a row's interval, either way.
fn largest_mean_difference(loss: &Loss) -> f64 {
    let ends = loss.delta_loglikelihood_interval.map_or(0.0, |interval| interval.lower.abs().max(interval.upper.abs()));
    ends.max(loss.delta_loglikelihood.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_with_the_same_differences_share_a_clause() {
        let clause = |accuracy, perplexity, names: &[&str]| {
            let [points, p, rise, ratio] = ["2.04", "p < 0.001", "0.5", "1.1000"].map(str::to_owned);
            Difference { accuracy, points, p, perplexity, rise, ratio }.clause(names)
        };
        let both = clause(Ordering::Greater, Ordering::Greater, &["a", "b"]);
        assert_eq!(both, "a and b lose 2.04 points of accuracy (p < 0.001) and raise perplexity by 0.5 (× 1.1000)");
        let one = clause(Ordering::Less, Ordering::Equal, &["a"]);
        assert_eq!(one, "a gains 2.04 points of accuracy (p < 0.001), no measurable change of perplexity");
        let other = clause(Ordering::Equal, Ordering::Less, &["a", "b", "c"]);
        assert_eq!(
            other,
            "a, b and c lower perplexity by 0.5 (× 1.1000), no measurable change of accuracy (p < 0.001)"
        );
    }
}
