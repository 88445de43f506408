//! `--until-decided`: the rule by which a run stops, settled before anything is computed.

use super::records::StoppingRule;
use super::request::Request;
use crate::error::{Error, Result};
use crate::eval::Passages;
use crate::eval::task::{Splitting, Task};
use crate::limits::{Gates, LimitsError};

/// Refuses what cannot stop early.
pub(super) fn check_request(request: &Request, task: &Task) -> Result<()> {
    if !request.statistics.until_decided {
        return Ok(());
    }
    if let Some(shard) = request.output.shard.filter(|shard| shard.count > 1) {
        return Err(Error::usage(format!(
            "--until-decided: shard {shard} cannot stop alone: its limits are those of all passages"
        ))
        .with_hint("leave out --until-decided, or evaluate everything in one process (--shard 1/1)"));
    }
    if task.splitting == Splitting::RollingWindows {
        return Err(Error::usage(format!(
            "--until-decided: {} is of whole texts, which are not seen in part",
            task.name
        ))
        .with_hint("leave out --until-decided"));
    }
    Ok(())
}

/// The rule, with the places of the passages in the order in which they are evaluated; `None` where all are.
pub(super) fn stopping_rule(request: &Request, passages: &Passages) -> Result<Option<(StoppingRule, Vec<usize>)>> {
    let statistics = &request.statistics;
    if !statistics.until_decided {
        return Ok(None);
    }
    let limits = statistics.gates.as_ref().map_or("built-in".to_owned(), |path| path.display().to_string());
    let places = statistics.bootstrap().permutation(passages.data.passages.len());
    let order = places.iter().map(|&place| passages.data.passages[place].id).collect();
    let rule = StoppingRule { limits, gates: Gates::text(statistics.gates.as_deref())?, order };
    rule.gates()?;
    Ok(Some((rule, places)))
}

impl StoppingRule {
    /// There must be a limit for one of the models.
    pub(super) fn check<'a>(&self, task: &str, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
        let gates = self.gates()?;
        let has_limit = |name| {
            let limits = gates.of(task, name);
            !limits.skip && limits.has_any()
        };
        if names.any(has_limit) { Ok(()) } else { Err(LimitsError::NoLimit.into()) }
    }
}
