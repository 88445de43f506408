//! The key of a run: everything that its numbers depend on, but for the contents of the model's files, whose digests are
//! known once they have been read. Results under one key may be joined.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::FileDigest;

/// What a run's numbers depend on: name to value. Long values are replaced by their digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunKey(BTreeMap<String, String>);

/// How a journal differs from the run that was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences(Vec<Difference>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    what: String,
    journal: Option<String>,
    run: Option<String>,
}

impl RunKey {
    #[cfg(any(test, feature = "libtorch"))]
    pub(crate) fn with(mut self, what: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(what.into(), value.into());
        self
    }

    /// How the key of a run differs from that of a journal; `None` where they are equal.
    pub(crate) fn differences(journal: &Self, run: &Self) -> Option<Differences> {
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
    pub(crate) fn of(what: &str, journal: impl Into<String>, run: impl Into<String>) -> Self {
        let (journal, run) = (Some(journal.into()), Some(run.into()));
        Self(vec![Difference { what: what.to_owned(), journal, run }])
    }

    /// The first file whose digest differs, of files in the same order.
    pub(crate) fn of_files<'a>(
        mut journal: impl Iterator<Item = &'a FileDigest>,
        mut run: impl Iterator<Item = &'a FileDigest>,
    ) -> Option<Self> {
        loop {
            match (journal.next(), run.next()) {
                (None, None) => return None,
                (Some(before), Some(now)) if before == now => {}
                (before, now) => {
                    let file = before.or(now).map(|digest| digest.file.clone()).unwrap_or_default();
                    let sum = |digest: Option<&FileDigest>| digest.map(|digest| digest.blake3.clone());
                    return Some(Self(vec![Difference { what: file, journal: sum(before), run: sum(now) }]));
                }
            }
        }
    }
}

/// The first digits of a digest, which are enough to tell two apart.
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
