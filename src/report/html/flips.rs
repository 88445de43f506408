//! The passages on which a variant answers differently from the baseline, with both models' probabilities.

use std::collections::HashMap;

use crate::report::format;
use crate::report::report_files::ReportFiles;
use crate::samples::{PassageText, Sample, TokenScore};
use crate::words::minus;

/// Most rows on one page; beyond that, those that change most are shown.
const MOST_SHOWN: usize = 1500;
/// Characters of the context shown before the target until all of it is unfolded.
const TAIL: usize = 140;

pub(super) struct Flips<'a> {
    pub rows: Vec<Flip<'a>>,
    /// How many there are, shown or not.
    pub total: usize,
    /// The variants that have any, for the filter.
    pub variants: Vec<&'a str>,
    pub has_top: bool,
    /// Whether the texts of the passages are available.
    pub has_text: bool,
}

/// One passage; variants that answer it alike share a row.
pub(super) struct Flip<'a> {
    pub doc_id: usize,
    pub variants: Vec<&'a str>,
    /// Whether only the baseline is right.
    pub is_lost: bool,
    /// The context, all but the end of it.
    pub start: &'a str,
    /// The end of the context, which matters most for the target.
    pub end: &'a str,
    pub target: &'a str,
    /// Which of several target tokens the likely tokens are of.
    pub position: Option<String>,
    pub baseline: Answer,
    pub variant: Answer,
    /// Variant minus baseline log-likelihood of the target.
    pub change: f64,
    shared: &'a Sample,
}

pub(super) struct Answer {
    pub probability: f64,
    pub top: Vec<Likely>,
}

pub(super) struct Likely {
    pub text: String,
    pub probability: String,
    pub is_target: bool,
}

impl Flip<'_> {
    pub(super) fn variant_list(&self) -> String {
        format::list(&self.variants)
    }

    /// The baseline's, then the variant's.
    pub(super) fn answers(&self) -> [&Answer; 2] {
        [&self.baseline, &self.variant]
    }

    pub(super) fn change_text(&self) -> String {
        minus(&format!("{:+.3}", self.change))
    }
}

impl Answer {
    fn of(sample: &Sample, token: Option<&TokenScore>) -> Self {
        let likely = |token: &TokenScore| {
            let target = token.id;
            let shown = token.top.iter().map(|token| Likely {
                text: visible(&token.text, token.id),
                probability: format::percent(token.logprob.exp()),
                is_target: token.id == target,
            });
            shown.collect()
        };
        Self { probability: sample.loglikelihood.exp(), top: token.map(likely).unwrap_or_default() }
    }

    pub(super) fn probability_text(&self) -> String {
        format::percent(self.probability)
    }
}

/// Every flipped passage, in order; `None` where samples are missing or nothing is compared.
pub(super) fn find<'a>(files: &ReportFiles<'a>) -> Option<Flips<'a>> {
    let report = files.report?;
    let samples = |name: &'a str| Some((name, *files.samples.get(name)?));
    let (_, baseline) = samples(&report.baseline.name)?;
    let texts: HashMap<usize, &PassageText> = files.passages.iter().map(|text| (text.doc_id, text)).collect();
    let compared: Vec<_> = report.variants.iter().filter_map(|row| samples(&row.model.name)).collect();
    if compared.is_empty() {
        return None;
    }
    let mut rows: Vec<Flip<'_>> = Vec::new();
    for (place, base) in baseline.iter().enumerate() {
        let first = rows.len();
        let text = texts.get(&base.doc_id).copied();
        for &(name, samples) in &compared {
            let Some(sample) = samples.get(place).filter(|sample| sample.is_greedy != base.is_greedy) else { continue };
            match rows[first..].iter_mut().find(|known| is_alike(known.shared, sample)) {
                Some(known) => known.variants.push(name),
                None => rows.push(flip(base, sample, name, text)),
            }
        }
    }
    let total = rows.len();
    if total > MOST_SHOWN {
        rows.sort_by(|one, other| other.change.abs().total_cmp(&one.change.abs()));
        rows.truncate(MOST_SHOWN);
        rows.sort_by_key(|flip| flip.doc_id);
    }
    let names = compared.iter().map(|&(name, _)| name);
    Some(Flips {
        total,
        variants: names.filter(|name| rows.iter().any(|flip| flip.variants.contains(name))).collect(),
        has_top: rows.iter().any(|flip| !flip.baseline.top.is_empty()),
        has_text: !files.passages.is_empty(),
        rows,
    })
}

fn flip<'a>(base: &'a Sample, sample: &'a Sample, name: &'a str, text: Option<&'a PassageText>) -> Flip<'a> {
    // Where the answers part; a greedy answer that is right in one model only differs at some token.
    let mut pairs = base.tokens.iter().zip(&sample.tokens);
    let parted = pairs.position(|(one, other)| one.greedy_id != other.greedy_id);
    let token = |sample: &'a Sample| sample.tokens.get(parted?);
    let count = base.tokens.len();
    let position = parted.filter(|_| count > 1).map(|place| format!("token {} of {count}", place + 1));
    let context = text.map_or("", |text| text.context.as_str());
    let (start, end) = context.split_at(tail_start(context));
    Flip {
        doc_id: base.doc_id,
        variants: vec![name],
        is_lost: base.is_greedy,
        start,
        end,
        target: &base.target,
        position,
        baseline: Answer::of(base, token(base)),
        variant: Answer::of(sample, token(sample)),
        change: sample.loglikelihood - base.loglikelihood,
        shared: sample,
    }
}

/// Whether two answers would read the same.
fn is_alike(one: &Sample, other: &Sample) -> bool {
    let ids = |sample: &Sample| -> Vec<u32> {
        sample.tokens.iter().flat_map(|token| &token.top).map(|token| token.id).collect()
    };
    (one.loglikelihood - other.loglikelihood).abs() < 5e-4 && ids(one) == ids(other)
}

/// Where the last [`TAIL`] characters of a context begin, at a space.
fn tail_start(context: &str) -> usize {
    let Some((at, _)) = context.char_indices().rev().nth(TAIL) else { return 0 };
    context[at..].find(' ').map_or(at, |space| at + space)
}

/// A token with its spaces and line ends made visible.
fn visible(text: &str, id: u32) -> String {
    if text.is_empty() {
        return format!("#{id}");
    }
    text.replace(' ', "␣").replace('\n', "⏎").replace('\t', "⇥")
}
