//! The report in a few sentences: what was proven of every merge, the surest first.

use super::contents::Report;
use super::format;
use super::rows::VariantRow;
use super::standing::Standing;
use crate::limits::Criterion;
use crate::stats::Verdict;

impl Report {
    /// Which merges are within the limits, which are beyond and which undecided; then for each what was proven.
    pub fn verdict(&self) -> String {
        let (lead, clauses) = self.verdict_parts();
        if clauses.is_empty() { lead } else { format!("{lead} {}.", clauses.join(". ")) }
    }

    /// The verdict's first sentences, and a clause for every merge: those within first, the smaller divergence first.
    pub(super) fn verdict_parts(&self) -> (String, Vec<String>) {
        let passages = self.task.passages;
        let lead = if self.variants.is_empty() {
            format!("{} has {}.", self.baseline.name, self.baseline_scores())
        } else {
            [Some(self.counted()), self.shown()].into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        let lead = if self.partial {
            format!("Of {} passages {} were evaluated. {lead}", passages.original, passages.effective)
        } else {
            lead
        };
        let mut rows: Vec<&VariantRow> = self.variants.iter().collect();
        let divergence = |row: &VariantRow| row.fidelity.as_ref().map_or(f64::INFINITY, |fidelity| fidelity.kl_mean);
        rows.sort_by(|one, other| {
            one.standing().cmp(&other.standing()).then(divergence(one).total_cmp(&divergence(other)))
        });
        (lead, rows.into_iter().map(|row| self.clause(row)).collect())
    }

    fn baseline_scores(&self) -> String {
        let accuracy = format::points(self.baseline.acc);
        format!("accuracy {accuracy} % and perplexity {}", format::perplexity(self.baseline.perplexity))
    }

    /// `fold is within the limits, mean and zeroth are beyond, against the baseline (…).`
    fn counted(&self) -> String {
        let part = |standing: Standing| {
            let rows = self.variants.iter().filter(|row| row.standing() == standing);
            let names: Vec<_> = rows.flat_map(|row| row.model.names()).collect();
            let verb = if names.len() == 1 { "is" } else { "are" };
            let words = match standing {
                Standing::Within => "within the limits",
                Standing::Undecided => "undecided",
                Standing::Beyond => "beyond the limits",
                Standing::NotJudged => "not judged",
            };
            (!names.is_empty()).then(|| format!("{} {verb} {words}", format::list(&names)))
        };
        let all = [Standing::Within, Standing::Undecided, Standing::Beyond, Standing::NotJudged];
        let parts: Vec<_> = all.into_iter().filter_map(part).collect();
        format!("{}. The baseline has {}.", parts.join("; "), self.baseline_scores())
    }

    /// The loss of accuracy that these passages can show at all.
    fn shown(&self) -> Option<String> {
        let verdicts = self.variants.iter().flat_map(|row| &row.verdicts);
        let of_accuracy = verdicts.filter(|verdict| verdict.criterion == Criterion::AccuracyLoss);
        let largest = of_accuracy.max_by(|one, other| {
            let detectable = |one: Option<f64>| one.unwrap_or(f64::INFINITY);
            detectable(one.detectable).total_cmp(&detectable(other.detectable))
        })?;
        let passages = format::count(self.task.passages.effective, "passage");
        Some(match largest.detectable_words() {
            Some(loss) => {
                format!(
                    "A loss of accuracy of {loss} would be found with these {passages}, a smaller one may be missed."
                )
            }
            None => format!("{passages} are too few to find any loss of accuracy."),
        })
    }

    /// What was proven of a merge: the limits that decided it, then the others.
    fn clause(&self, row: &VariantRow) -> String {
        let standing = row.standing();
        let decides = |verdict: Verdict| match standing {
            Standing::Within => verdict == Verdict::Within,
            Standing::Beyond => verdict == Verdict::Beyond,
            Standing::Undecided | Standing::NotJudged => verdict == Verdict::Undecided,
        };
        let (first, others): (Vec<_>, Vec<_>) = row.verdicts.iter().partition(|limit| decides(limit.verdict));
        let mut words: Vec<String> = first.into_iter().chain(others).map(super::judged::LimitVerdict::words).collect();
        if row.is_exact() {
            words.insert(0, self.exact_words(row));
        }
        words.insert(0, standing.word().to_owned());
        format!("{}: {}", row.model.title(), words.join("; "))
    }

    /// An exact merge differs by rounding alone.
    fn exact_words(&self, row: &VariantRow) -> String {
        let largest = format::scientific(row.loss.max_abs_delta_loglikelihood);
        let floor = self.noise_floor.as_ref().map_or_else(String::new, |floor| {
            format!(", of the noise floor by {}", format::scientific(floor.loss.max_abs_delta_loglikelihood))
        });
        format!("exact but for rounding (no passage changes by more than {largest} nats{floor})")
    }
}
