//! `kintsugi diff` for people: the differences, parameter by parameter, and a verdict.

use super::format;
use super::page::{Page, TerminalStyle, plain_table};
use crate::merge::{DiffTensor, ModelDiff, ParameterDiff};

/// The comparison as text with a final line break; identical parameters are counted, and listed only if `all` says so.
pub fn render_model_diff(diff: &ModelDiff, all: bool, style: TerminalStyle) -> String {
    let mut page = Page::new(style);
    for (side, name) in [(&diff.left, "A"), (&diff.right, "B")] {
        page.paragraph(&format!("{name}  {}: {}, {}", side.path, side.format, side.dtype), 0);
    }
    let settings = diff.settings.iter();
    page.section(
        "settings that differ",
        settings.map(|setting| format!("{}: {} in A, {} in B", setting.setting, setting.left, setting.right)),
    );
    let shown: Vec<_> = diff.parameters.iter().filter(|parameter| all || !parameter.identical).collect();
    if !shown.is_empty() {
        page.blank();
        let header = ["parameter", "B is A's", "max abs", "mean abs", "relative", "ulps", "differ"];
        let header = header.map(str::to_owned).to_vec();
        page.table(plain_table(header, shown.into_iter().map(row)));
    }
    page.blank();
    page.heading(&verdict(diff));
    page.text
}

fn row(parameter: &ParameterDiff) -> Vec<String> {
    let name = match (&parameter.left, &parameter.right) {
        (Some(tensor), _) | (None, Some(tensor)) => format!("{}: {}", parameter.stage, tensor.name),
        (None, None) => parameter.stage.clone(),
    };
    let shapes = |tensor: &DiffTensor| format!("{:?}", tensor.shape);
    let what = match (&parameter.left, &parameter.right) {
        (Some(_), None) => "only in A".to_owned(),
        (None, Some(_)) => "only in B".to_owned(),
        (Some(left), Some(right)) if left.shape != right.shape => format!("{} → {}", shapes(left), shapes(right)),
        (Some(left), Some(right)) => match (&parameter.rule, left.dtype == right.dtype) {
            // The rule is about the side that has copies.
            (Some(rule), true) if right.replicas > left.replicas => format!("{rule} is A's"),
            (Some(rule), true) => rule.clone(),
            (Some(rule), false) => format!("{rule}, {} → {}", left.dtype, right.dtype),
            (None, true) => if parameter.identical { "same" } else { "other values" }.to_owned(),
            (None, false) => format!("{} → {}", left.dtype, right.dtype),
        },
        (None, None) => String::new(),
    };
    let mut cells = vec![name, what];
    match &parameter.values {
        None => cells.extend(std::iter::repeat_n(format::NOTHING.to_owned(), 5)),
        Some(values) => cells.extend([
            format::scientific(values.max_abs),
            format::scientific(values.mean_abs),
            values.relative.map_or_else(|| format::NOTHING.to_owned(), format::scientific),
            values.max_ulps.to_string(),
            format!("{} of {}", values.differing, values.count),
        ]),
    }
    cells
}

fn verdict(diff: &ModelDiff) -> String {
    let total = diff.parameters.len();
    let parameters = format::count(total, "parameter");
    if diff.identical {
        return format!("identical: {parameters}, every bit and every setting the same");
    }
    let count =
        |wanted: fn(&ParameterDiff) -> bool| diff.parameters.iter().filter(|&parameter| wanted(parameter)).count();
    let equal_to_rule = |parameter: &ParameterDiff| {
        parameter.rule.is_some() && parameter.values.is_some_and(|values| values.differing == 0)
    };
    let mut parts = vec![format!("{} identical", count(|parameter| parameter.identical))];
    for rule in rules(diff) {
        let of_rule = diff.parameters.iter().filter(|&p| p.rule.as_ref() == Some(&rule) && equal_to_rule(p)).count();
        if of_rule > 0 {
            parts.push(format!("{of_rule} exactly the {rule} of the ranks' copies"));
        }
    }
    let lone = count(|parameter| parameter.left.is_none() || parameter.right.is_none());
    if lone > 0 {
        parts.push(format!("{lone} in one model only"));
    }
    let reshaped = count(
        |parameter| matches!((&parameter.left, &parameter.right), (Some(left), Some(right)) if left.shape != right.shape),
    );
    if reshaped > 0 {
        parts.push(format!("{reshaped} of another shape"));
    }
    let explained = |p: &ParameterDiff| {
        let same_shape = matches!((&p.left, &p.right), (Some(left), Some(right)) if left.shape == right.shape);
        p.identical || equal_to_rule(p) || !same_shape
    };
    let other = diff.parameters.iter().filter(|&parameter| !explained(parameter)).count();
    if other > 0 {
        parts.push(format!("{other} with other values or types"));
    }
    let settings = match diff.settings.len() {
        0 => "every setting the same".to_owned(),
        count => format!("{} of another value", format::count(count, "setting")),
    };
    format!("not identical: of {parameters}, {}; {settings}", parts.join(", "))
}

fn rules(diff: &ModelDiff) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    for rule in diff.parameters.iter().filter_map(|parameter| parameter.rule.as_ref()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}
