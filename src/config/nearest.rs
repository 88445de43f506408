//! Suggestions for mistyped names.

/// The name that was perhaps meant: one that differs in a letter or two, or begins as the other does.
///
/// ```
/// use kintsugi::config::nearest_name;
///
/// assert_eq!(nearest_name("reduceaware", ["mean", "reduce-aware"]), Some("reduce-aware"));
/// assert_eq!(nearest_name("folded", ["mean", "fold"]), Some("fold"));
/// assert_eq!(nearest_name("median", ["zeroth", "fold"]), None);
/// ```
pub fn nearest_name<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fits = |&(distance, name): &(usize, &str)| {
        let shorter = asked.len().min(name.len());
        let begins = shorter >= 3 && (name.starts_with(asked) || asked.starts_with(name));
        begins || (distance <= 2 && distance < shorter)
    };
    let all = names.into_iter().map(|name| (strsim::osa_distance(asked, name), name));
    all.filter(fits).min().map(|(_, name)| name)
}

/// How a hint begins that lists the names there are: `` did you mean `fold`?  `` with a space behind it, or nothing.
pub fn did_you_mean<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest_name(asked, names).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default()
}
