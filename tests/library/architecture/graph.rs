//! Circles among the files of a module.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Crate, Reference};

/// Sets of files that all use each other, directly or by way of others, with the imports among them.
pub(super) fn circles(sources: &Crate) -> Vec<String> {
    let mut edges: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for (from, file) in sources.files.iter().enumerate() {
        for (line, to) in sources.references(file, Reference::InCode) {
            if sources.files[to].top() == file.top() {
                edges.entry(from).or_default().entry(to).or_insert(line);
            }
        }
    }
    assert!(edges.values().map(BTreeMap::len).sum::<usize>() > 100, "too few imports: are the sources still read?");
    let reached: Vec<BTreeSet<usize>> = (0..sources.files.len()).map(|from| reachable(&edges, from)).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for from in 0..sources.files.len() {
        if !reached[from].contains(&from) || !seen.insert(from) {
            continue;
        }
        let circle: BTreeSet<usize> =
            reached[from].iter().copied().filter(|&other| reached[other].contains(&from)).collect();
        seen.extend(&circle);
        let imports = circle.iter().flat_map(|member| {
            let inside = edges[member].iter().filter(|(to, _)| circle.contains(to));
            inside.map(|(&to, line)| {
                format!("  src/{}:{line} uses {}", sources.files[*member].name, sources.files[to].name)
            })
        });
        let names: Vec<_> = circle.iter().map(|&member| sources.files[member].name.as_str()).collect();
        found.push(format!("{}\n{}", names.join(", "), imports.collect::<Vec<_>>().join("\n")));
    }
    found
}

/// Files that one uses, directly or by way of others.
fn reachable(edges: &BTreeMap<usize, BTreeMap<usize, usize>>, from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(next) = open.pop() {
        for &to in edges.get(&next).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(to) {
                open.push(to);
            }
        }
    }
    found
}
