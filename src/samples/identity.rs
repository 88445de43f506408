//! The identity of a run: everything that its numbers depend on. Results of equal identity may be put together.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a run's numbers depend on, by name. Values that are long stand there by their digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, String>);

/// What differs between a journal and the run that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences(Vec<Difference>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    what: String,
    journal: Option<String>,
    run: Option<String>,
}

impl Identity {
    /// The same with one thing more that the numbers depend on.
    #[must_use]
    pub fn with(mut self, what: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(what.into(), value.into());
        self
    }

    /// BLAKE3 of all of it, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in self.0.iter().flat_map(|(what, value)| [what, value]) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What a run has otherwise than a journal; `None` where they are the same.
    #[must_use]
    pub fn differences(journal: &Self, run: &Self) -> Option<Differences> {
        let names = journal.0.keys().chain(run.0.keys().filter(|what| !journal.0.contains_key(*what)));
        let found = names.filter(|&what| journal.0.get(what) != run.0.get(what)).map(|what| Difference {
            what: what.clone(),
            journal: journal.0.get(what).cloned(),
            run: run.0.get(what).cloned(),
        });
        let found: Vec<_> = found.collect();
        (!found.is_empty()).then_some(Differences(found))
    }
}

impl Differences {
    /// One thing that differs.
    #[must_use]
    pub fn of(what: &str, journal: impl Into<String>, run: impl Into<String>) -> Self {
        let (journal, run) = (Some(journal.into()), Some(run.into()));
        Self(vec![Difference { what: what.to_owned(), journal, run }])
    }
}

/// Digests by their first digits: they only have to be told apart.
fn abbreviated(value: &str) -> Cow<'_, str> {
    const DIGITS: usize = 12;
    let digest = value.len() > 2 * DIGITS && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digest { format!("{}…", &value[..DIGITS]).into() } else { value.into() }
}

impl fmt::Display for Differences {
    /// `data is 0123…, now 4567…; dtype is f32, now bf16`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Difference { what, journal, run }) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            let [journal, run] = [journal, run].map(|value| value.as_deref().map_or("absent".into(), abbreviated));
            write!(formatter, "{separator}{what} is {journal}, now {run}")?;
        }
        Ok(())
    }
}
