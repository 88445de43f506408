//! Exceptions in few words: what is the same of several parameters and layers is said once.

use std::collections::BTreeMap;

use super::diagnosis::{Diagnosis, Distance};
use crate::partition::StageId;
use crate::words::list;

/// Parameters of a candidate that are not its strategy's.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateException {
    /// Their names inside their layers; none where whole layers are meant.
    pub parameters: Vec<String>,
    /// In order; none for parameters outside of layers.
    pub layers: Vec<usize>,
    /// What they are instead; completes a sentence about one of them.
    pub what: String,
    /// Whether something must be wrong with them. Otherwise they follow another rule that keeps what the model has, but for
    /// drift.
    pub suspect: bool,
}

impl std::fmt::Display for CandidateException {
    /// `for mlp.linear2.weight of layer 2, which is the transpose`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { parameters, layers, what, .. } = self;
        let several = if parameters.is_empty() { layers.len() > 1 } else { parameters.len() * layers.len().max(1) > 1 };
        let what = if several { plural(what) } else { what.clone() };
        if parameters.is_empty() {
            return write!(formatter, "{} {what}", of_layers(layers));
        }
        let place = if layers.is_empty() { String::new() } else { format!(" of {}", of_layers(layers)) };
        write!(formatter, "for {}{place}, which {what}", list(parameters))
    }
}

/// Something about a parameter.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub stage: StageId,
    pub name: String,
    pub what: Diagnosis,
    pub suspect: bool,
}

/// Every exception once, in the order of the model.
pub(super) fn grouped(said: Vec<Said>) -> Vec<CandidateException> {
    let whole = whole_layers(&said);
    let mut exceptions = of_whole_layers(&whole);
    let is_whole = |said: &Said| matches!(said.stage, StageId::Layer(layer) if whole.contains_key(&layer));
    let mut groups: Vec<(Vec<String>, Vec<usize>, Diagnosis, bool)> = Vec::new();
    for Said { stage, name, what, suspect } in said.into_iter().filter(|said| !is_whole(said)) {
        let in_layer = matches!(stage, StageId::Layer(_));
        let same = |(names, layers, known, of): &&mut (Vec<String>, Vec<usize>, Diagnosis, bool)| {
            *names == [name.as_str()] && in_layer != layers.is_empty() && *of == suspect && alike(known, &what)
        };
        match groups.iter_mut().find(same) {
            Some((_, layers, known, _)) => {
                join(known, &what);
                layers.extend(number(stage));
            }
            None => groups.push((vec![name], number(stage).into_iter().collect(), what, suspect)),
        }
    }
    let mut merged: Vec<(Vec<String>, Vec<usize>, Diagnosis, bool)> = Vec::new();
    for (names, layers, what, suspect) in groups {
        let same = |(_, of, known, other): &&mut (Vec<String>, Vec<usize>, Diagnosis, bool)| {
            *of == layers && *other == suspect && alike(known, &what)
        };
        match merged.iter_mut().find(same) {
            Some((known, _, of, _)) => {
                join(of, &what);
                known.extend(names);
            }
            None => merged.push((names, layers, what, suspect)),
        }
    }
    exceptions.extend(merged.into_iter().map(|(parameters, layers, what, suspect)| CandidateException {
        parameters,
        layers,
        what: what.to_string(),
        suspect,
    }));
    exceptions
}

fn number(stage: StageId) -> Option<usize> {
    if let StageId::Layer(layer) = stage { Some(layer) } else { None }
}

/// Layers all of whose exceptions are one other layer's parameters, by that layer.
fn whole_layers(said: &[Said]) -> BTreeMap<usize, usize> {
    let mut of: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::new();
    for said in said {
        let Some(layer) = number(said.stage) else { continue };
        let other = if let Diagnosis::OfLayer(other) = said.what { Some(other) } else { None };
        let (count, known) = of.entry(layer).or_insert((0, other));
        *count += 1;
        if *known != other {
            *known = None;
        }
    }
    of.into_iter()
        .filter(|&(_, (count, _))| count > 1)
        .filter_map(|(layer, (_, other))| Some((layer, other?)))
        .collect()
}

fn of_whole_layers(whole: &BTreeMap<usize, usize>) -> Vec<CandidateException> {
    let mut exceptions = Vec::new();
    for (&layer, &other) in whole {
        let back = whole.get(&other) == Some(&layer);
        if back && other < layer {
            continue;
        }
        let (layers, what) = match (back, whole.contains_key(&other)) {
            (true, _) => (vec![layer, other], "are exchanged".to_owned()),
            (false, false) => (vec![layer], format!("is layer {other} once more")),
            (false, true) => (vec![layer], format!("is layer {other}")),
        };
        exceptions.push(CandidateException { parameters: Vec::new(), layers, what, suspect: true });
    }
    exceptions
}

/// Whether both are said in one sentence.
fn alike(one: &Diagnosis, other: &Diagnosis) -> bool {
    match (one, other) {
        (Diagnosis::Differs(_), Diagnosis::Differs(_)) => true,
        (one, other) => one == other,
    }
}

fn join(known: &mut Diagnosis, other: &Diagnosis) {
    if let (Diagnosis::Differs(known), Diagnosis::Differs(other)) = (known, other) {
        *known = Distance {
            max_abs: known.max_abs.max(other.max_abs),
            relative: known.relative.max(other.relative),
            differing: known.differing + other.differing,
            count: known.count + other.count,
        };
    }
}

fn plural(what: &str) -> String {
    for (one, several) in [("is ", "are "), ("has ", "have "), ("differs ", "differ "), ("adds ", "add ")] {
        if let Some(rest) = what.strip_prefix(one) {
            return format!(
                "{several}{}",
                if one == "has " { rest.replace("its ", "their ") } else { rest.to_owned() }
            );
        }
    }
    what.to_owned()
}

/// `layer 2`, `layers 2 and 5-7`.
pub(super) fn of_layers(layers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer)),
        }
    }
    let words = runs.iter().flat_map(|&(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first}-{last}")],
    });
    let words: Vec<String> = words.collect();
    format!("{} {}", if layers.len() == 1 { "layer" } else { "layers" }, list(&words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn said(layer: usize, name: &str, what: Diagnosis) -> Said {
        Said { stage: StageId::Layer(layer), name: name.to_owned(), what, suspect: true }
    }

    fn sentences(said: Vec<Said>) -> Vec<String> {
        grouped(said).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_is_said_once() {
        let distance =
            |max_abs: f64| Diagnosis::Differs(Distance { max_abs, relative: max_abs, differing: 2, count: 8 });
        let found = sentences(vec![
            said(0, "a", Diagnosis::Zero),
            said(0, "b", Diagnosis::Zero),
            said(2, "a", Diagnosis::Zero),
            said(2, "b", Diagnosis::Zero),
            said(3, "a", Diagnosis::Zero),
            said(3, "b", Diagnosis::Zero),
            said(3, "c", distance(0.5)),
            said(4, "c", distance(0.25)),
            Said { stage: StageId::Output, name: "d".to_owned(), what: Diagnosis::Transposed, suspect: true },
        ]);
        assert_eq!(
            found,
            [
                "for a and b of layers 0, 2 and 3, which are all zero",
                "for c of layers 3 and 4, which differ by up to 5.0e−1 (relative 5.0e−1) in 4 of 16 elements",
                "for d, which is the transpose"
            ]
        );
    }

    #[test]
    fn layers_in_each_others_place_are_said_as_a_whole() {
        let of = |layer, other| ["a", "b"].map(|name| said(layer, name, Diagnosis::OfLayer(other)));
        assert_eq!(sentences([of(1, 2), of(2, 1)].concat()), ["layers 1 and 2 are exchanged"]);
        assert_eq!(sentences(of(2, 1).to_vec()), ["layer 2 is layer 1 once more"]);
        assert_eq!(
            sentences([of(0, 1), of(1, 2), of(2, 0)].concat()),
            ["layer 0 is layer 1", "layer 1 is layer 2", "layer 2 is layer 0"]
        );
        let mut mixed = of(1, 2).to_vec();
        mixed.push(said(1, "c", Diagnosis::Zero));
        assert_eq!(
            sentences(mixed),
            ["for a and b of layer 1, which are layer 2's", "for c of layer 1, which is all zero"]
        );
        assert_eq!(of_layers(&[0, 1, 2, 5, 7, 8]), "layers 0-2, 5, 7 and 8");
    }
}
