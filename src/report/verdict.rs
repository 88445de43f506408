//! The report in one or two sentences.

use std::cmp::Ordering;

use super::{Loss, Report, VariantRow, format};

/// A mean log-likelihood difference below this, in nats, is no change: the ratio of perplexities that people see has four
/// decimals and would read 1.0000. Folded weights, rounded to 16 bits, differ by less.
const NEGLIGIBLE: f64 = 5e-5;

/// What can be said about one variant.
enum Finding<'a> {
    /// Neither accuracy nor perplexity can be told from the baseline's.
    NothingMeasurable(&'a VariantRow),
    /// A difference, in words: `loses 2.04 points of accuracy (p < 0.001)`.
    Difference(String),
}

impl Report {
    /// Which merges lose nothing measurable, and which lose how much.
    ///
    /// Accuracy counts as changed where the corrected `McNemar` p-value is below one minus the confidence level;
    /// perplexity where the interval of the mean log-likelihood difference leaves out zero and the difference is larger
    /// than anything the noise floor's interval holds, and large enough to be seen in a ratio of four decimals.
    #[must_use]
    pub fn verdict(&self) -> String {
        let (lead, differences) = self.verdict_parts();
        if differences.is_empty() { lead } else { format!("{lead} {}.", differences.join("; ")) }
    }

    /// The verdict's first sentences, and one clause for each merge that can be told from the baseline.
    pub(super) fn verdict_parts(&self) -> (String, Vec<String>) {
        let (lead, differences) = if self.variants.is_empty() { (self.alone(), Vec::new()) } else { self.compare() };
        let documents = self.task.documents;
        let lead = if self.partial {
            format!("Of {} documents {} were evaluated. {lead}", documents.original, documents.effective)
        } else {
            lead
        };
        (lead, differences)
    }

    /// What became of a variant, in a word or two.
    pub(super) fn standing(&self, row: &VariantRow) -> &'static str {
        match (self.accuracy_change(&row.loss), self.perplexity_change(&row.loss)) {
            (Ordering::Equal, Ordering::Equal) => "nothing measurable",
            (Ordering::Greater, Ordering::Less) | (Ordering::Less, Ordering::Greater) => "mixed",
            (Ordering::Greater, _) | (_, Ordering::Greater) => "worse",
            _ => "better",
        }
    }

    fn alone(&self) -> String {
        format!("{} has {}.", self.baseline.name, self.baseline_scores())
    }

    fn baseline_scores(&self) -> String {
        let accuracy = format::points(self.baseline.acc);
        format!("accuracy {accuracy} % and perplexity {}", format::perplexity(self.baseline.perplexity))
    }

    fn compare(&self) -> (String, Vec<String>) {
        let (mut harmless, mut differences) = (Vec::new(), Vec::new());
        for row in &self.variants {
            match self.finding(row) {
                Finding::NothingMeasurable(row) => harmless.push(row),
                Finding::Difference(difference) => differences.push(difference),
            }
        }
        let lead = if harmless.is_empty() {
            let scores = self.baseline_scores();
            format!("No merge is free of measurable change against the baseline ({scores}).")
        } else {
            let names: Vec<_> = harmless.iter().map(|row| row.model.name.as_str()).collect();
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
        (lead, differences)
    }

    fn finding<'a>(&self, row: &'a VariantRow) -> Finding<'a> {
        let (name, loss) = (&row.model.name, &row.loss);
        let accuracy = self.accuracy_change(loss);
        let perplexity = self.perplexity_change(loss);
        let p = format::p_statement(loss.mcnemar_p_holm);
        let accuracy_words = match accuracy {
            Ordering::Greater => format!("loses {} points of accuracy ({p})", format::points(loss.acc)),
            Ordering::Less => format!("gains {} points of accuracy ({p})", format::points(-loss.acc)),
            Ordering::Equal => format!("no measurable change of accuracy ({p})"),
        };
        let size = format::perplexity(loss.perplexity.abs());
        let ratio = format::ratio(loss.perplexity_ratio);
        let perplexity_words = match perplexity {
            Ordering::Greater => format!("raises perplexity by {size} (× {ratio})"),
            Ordering::Less => format!("lowers perplexity by {size} (× {ratio})"),
            Ordering::Equal => "no measurable change of perplexity".to_owned(),
        };
        match (accuracy, perplexity) {
            (Ordering::Equal, Ordering::Equal) => Finding::NothingMeasurable(row),
            (Ordering::Equal, _) => Finding::Difference(format!("{name} {perplexity_words}, {accuracy_words}")),
            (_, Ordering::Equal) => Finding::Difference(format!("{name} {accuracy_words}, {perplexity_words}")),
            _ => Finding::Difference(format!("{name} {accuracy_words} and {perplexity_words}")),
        }
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

/// The largest mean difference of log-likelihoods that a row's interval holds, either way.
fn largest_mean_difference(loss: &Loss) -> f64 {
    let ends = loss.delta_loglikelihood_interval.map_or(0.0, |interval| interval.lower.abs().max(interval.upper.abs()));
    ends.max(loss.delta_loglikelihood.abs())
}
