//! An inspection on a terminal.

use comfy_table::Table;

use super::heat_map::{HeatMap, Shade};
use super::{Inspection, Judgement, ParameterRow, Vocabulary};
use crate::merge::{Drift, ParamDrift};
use crate::report::page::{Page, TerminalStyle, natural_width, plain_table};
use crate::report::{format, why};

/// The inspection as text with a final line break.
pub fn render_inspection(inspection: &Inspection, style: TerminalStyle) -> String {
    let checkpoint = &inspection.checkpoint;
    let mut page = Page::new(style);
    let ranks = format::count(checkpoint.tp_size, "rank");
    page.title(
        &format!("{}, step {}", checkpoint.name, checkpoint.iteration),
        &format!("{ranks}, {}, {}", checkpoint.dtype, checkpoint.layout),
    );
    page.paragraph(&weights(inspection), 0);
    page.paragraph(&vocabulary(inspection.vocabulary, checkpoint.tp_size), 0);

    page.blank();
    page.heading("architecture");
    let width = checkpoint.architecture.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in &checkpoint.architecture {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        page.entry(&format!("  {key:width$}  "), &value);
    }
    page.section("notes", &inspection.notes);
    page.blank();
    page.heading("parameters (in: number of stages that have it)");
    page.table(parameters(&inspection.parameters, inspection.dtypes.len() > 1));
    if let Some(drift) = &inspection.drift {
        page.blank();
        drift_section(&mut page, inspection, drift);
    }
    if let Some(strategies) = &inspection.strategies {
        page.blank();
        strategy_section(&mut page, inspection, strategies);
    }
    page.text
}

fn weights(inspection: &Inspection) -> String {
    let checkpoint = &inspection.checkpoint;
    let count = format::grouped(checkpoint.parameter_count);
    let dtypes: Vec<_> = inspection.dtypes.iter().map(|entry| format!("{} {}", entry.tensors, entry.dtype)).collect();
    format!(
        "{count} parameters in {} tensors; {} in all shards",
        format::list(&dtypes),
        format::bytes(checkpoint.bytes)
    )
}

fn vocabulary(vocabulary: Vocabulary, tp_size: usize) -> String {
    let Vocabulary { padded_size, make_vocab_size_divisible_by, multiple_of, tokens } = vocabulary;
    let (Some(multiple_of), Some(make_vocab_size_divisible_by)) = (multiple_of, make_vocab_size_divisible_by) else {
        return format!("vocabulary of {padded_size} rows");
    };
    let rule = format!(
        "{multiple_of} (make_vocab_size_divisible_by {make_vocab_size_divisible_by} × {})",
        format::count(tp_size, "rank")
    );
    match tokens {
        Some([fewest, most]) => format!(
            "vocabulary of {padded_size} rows, a multiple of {rule}: the tokenizer, which is not in these files, has \
             {fewest} to {most} tokens"
        ),
        None => format!(
            "vocabulary of {padded_size} rows, which is no multiple of {rule}: it was not padded with this setting"
        ),
    }
}

fn parameters(rows: &[ParameterRow], with_dtype: bool) -> Table {
    let shape = |extents: &[usize]| extents.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
    let mut header = vec!["name", "kind", "shape", "per rank", "in"];
    if with_dtype {
        header.push("type");
    }
    let cells = rows.iter().map(|row| {
        let kind = if row.used { row.kind.to_string() } else { format!("{}, unused", row.kind) };
        let mut cells =
            vec![row.name.clone(), kind, shape(&row.shape), shape(&row.rank_shape), row.stage_count.to_string()];
        if with_dtype {
            cells.push(row.dtype.to_string());
        }
        cells
    });
    plain_table(header.into_iter().map(str::to_owned).collect(), cells)
}

fn drift_section(page: &mut Page, inspection: &Inspection, drift: &[ParamDrift]) {
    let map = HeatMap::new(inspection.drift.as_deref().unwrap_or_default());
    if inspection.checkpoint.tp_size < 2 {
        return page.heading("one rank: nothing to merge");
    }
    if !map.has_drift() {
        let replicas = format::count(drift.len(), "replicated tensor");
        return page.heading(&format!("no drift: {replicas} bit-identical on all ranks"));
    }
    page.heading("drift of the replicas (the largest of all stages)");
    let wide = drift_table(&map, true);
    page.table(if natural_width(&wide) <= page.style.width { wide } else { drift_table(&map, false) });
    page.blank();
    page.heading("drift by layer: rms of the difference / rms of the value (E embedding, O output)");
    for line in map.lines(page.style.width) {
        page.line(&line, false);
    }
    let legend: Vec<_> = Shade::ALL.iter().map(|shade| format!("{} {}", shade.block(), shade.meaning())).collect();
    page.line(&legend.join("   "), false);
}

/// One row a parameter: the largest of each number over its stages, and the stage of the largest relative drift.
fn drift_table(map: &HeatMap<'_>, wide: bool) -> Table {
    let mut header = vec!["parameter", "differs\nin", "max |Δ|", "relative", "ulps", "most in"];
    if wide {
        header.extend(["mean |Δ|", "cosine", "ranks"]);
    }
    let rows = map.rows.iter().filter_map(|row| {
        let entries: Vec<&ParamDrift> = row.cells.iter().flatten().copied().collect();
        let largest = |number: fn(&Drift) -> f64| entries.iter().map(|entry| number(&entry.drift)).fold(0.0, f64::max);
        let differing = entries.iter().filter(|entry| !entry.drift.bit_identical).count();
        let by_drift = |one: &&&ParamDrift, other: &&&ParamDrift| one.drift.relative.total_cmp(&other.drift.relative);
        let worst = entries.iter().rev().max_by(by_drift)?;
        let mut cells = vec![
            row.name.to_owned(),
            format!("{differing} of {}", entries.len()),
            format::scientific(largest(|drift| drift.max_abs)),
            format::percent(largest(|drift| drift.relative)),
            entries.iter().map(|entry| entry.drift.max_ulps).max().unwrap_or(0).to_string(),
            if differing == 0 { format::NOTHING.to_owned() } else { worst.stage.to_string() },
        ];
        if wide {
            let ranks = worst.drift.most_different_ranks.map(|[one, other]| format!("{one}, {other}"));
            cells.push(format::scientific(largest(|drift| drift.mean_abs)));
            cells.push(format!("{:.6}", entries.iter().map(|entry| entry.drift.min_cosine).fold(1.0, f64::min)));
            cells.push(ranks.unwrap_or_else(|| format::NOTHING.to_owned()));
        }
        Some(cells)
    });
    plain_table(header.into_iter().map(str::to_owned).collect(), rows)
}

fn strategy_section(page: &mut Page, inspection: &Inspection, strategies: &[Judgement]) {
    page.heading("strategies");
    let rows = strategies.iter().map(|judgement| {
        let rounding = if judgement.folded_norms > 0 {
            format!(
                "{} folded, weights rounded to {} again",
                format::count(judgement.folded_norms, "norm"),
                inspection.checkpoint.dtype
            )
        } else {
            String::new()
        };
        vec![judgement.name.clone(), if judgement.exact.exact { "yes" } else { "no" }.to_owned(), rounding]
    });
    page.table(plain_table(vec!["name".to_owned(), "exact".to_owned(), String::new()], rows));
    let because = strategies.iter().map(|row| (row.name.as_str(), row.exact.because.as_slice()));
    page.groups("why not exact", why::grouped(because));
    let warnings: Vec<_> = strategies.iter().flat_map(warnings).collect();
    if !warnings.is_empty() {
        page.blank();
    }
    for warning in warnings {
        page.heading(&warning);
    }
}

/// A line for each multiple that a strategy makes of what the model has.
fn warnings(judgement: &Judgement) -> impl Iterator<Item = String> {
    judgement.miscounts.iter().map(|miscount| format!("WARNING: {} makes {miscount}", judgement.name))
}
