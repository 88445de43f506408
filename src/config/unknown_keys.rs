//! Keys that nothing reads.

use super::keys;
use super::nearest::nearest_name;
use super::neox::NeoxConfig;

/// Similarity (Jaro-Winkler) from which a known key is suggested for an unknown one.
const SIMILAR: f64 = 0.9;

impl NeoxConfig {
    /// The keys that neither gpt-neox nor a known fork of it has had, a sentence each.
    pub fn unknown_keys(&self) -> Vec<String> {
        let unknown = self.raw.keys().filter(|key| !keys::is_known(key));
        let sentence = |key: &String| {
            let place = self.sources.place_of(key).map(|place| format!(" ({place})")).unwrap_or_default();
            let meant = self.meant(key).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            format!("`{key}`{place} is not a setting of gpt-neox and is not read{meant}")
        };
        unknown.map(sentence).collect()
    }

    /// The key that was perhaps meant by an unknown one: one that is not given otherwise.
    fn meant(&self, unknown: &str) -> Option<&'static str> {
        let mut names: Vec<_> = keys::known().filter(|(_, key)| key.of == "gpt-neox").map(|(name, _)| name).collect();
        names.retain(|name| !self.raw.contains_key(*name));
        names.sort_unstable();
        let similar = |name: &&'static str| (strsim::jaro_winkler(unknown, name), *name);
        let best = names.iter().map(similar).max_by(|left, right| left.0.total_cmp(&right.0));
        let best = best.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, name)| name);
        best.or_else(|| nearest_name(unknown, names))
    }
}
