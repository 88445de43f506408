//! The plan of a merge, made before anything big is read: every parameter with its form and rule, grouped into units of
//! work that are in memory together. Most matrices are a unit of their own; a norm that is folded comes with the layers
//! that read it.

use std::collections::BTreeSet;

use super::ExportError;
use crate::checkpoint::{ModelSource, ParamEntry, stage_number};
use crate::config::Head;
use crate::merge::{Exactness, StageMerger, Strategy};
use crate::partition::{Kind, Partition, Role, StageId, StageKind, StageTensors};
use crate::tensor::DType;

/// Which merge of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct MergeChoice<'a> {
    /// How replicas become one.
    pub strategy: &'a Strategy,
    /// Type of the written weights; none: as each is in the checkpoint.
    pub dtype: Option<DType>,
    /// Rows of the vocabulary to keep; none: all, with their padding.
    pub vocab_size: Option<usize>,
    /// In gpt-neox's format: pad the vocabulary with rows of zeros to a multiple of this times the ranks; none: as it is.
    pub vocab_multiple: Option<usize>,
    /// Whether whole stages come merged from a calibration.
    pub calibrated: bool,
}

/// A parameter of the merged model.
#[derive(Debug, Clone)]
pub(super) struct PlannedParam {
    pub stage: StageId,
    pub role: Role,
    /// Number of its stage in file names.
    pub file_stage: usize,
    /// Name in gpt-neox's files.
    pub name: String,
    pub kind: Kind,
    /// Type to merge in: the wider of the checkpoint's and the output's.
    pub work_dtype: DType,
    /// Type to write.
    pub dtype: DType,
    /// Shape of the one-rank tensor.
    pub shape: Vec<usize>,
    /// How it divides among ranks; none: every rank has all of it.
    pub partition: Option<Partition>,
    /// Whether the model uses it.
    pub used: bool,
    /// Whether nothing is computed from it: it is written as it was read, but for its type.
    pub untouched: bool,
    pub rule: String,
}

/// Parameters that are in memory together.
#[derive(Debug)]
pub(super) struct Unit {
    pub stage: StageId,
    /// Indices into [`Plan::params`].
    pub params: std::ops::Range<usize>,
    pub work: Work,
    /// At most, in memory.
    pub bytes: u64,
}

/// The work on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Goes through [`StageMerger`].
    Merge,
    /// No rule touches it: shards are written one behind another.
    Join,
    /// In the files, but not used by the model: rank 0's is written.
    FirstRank,
    /// The merged stage comes from outside.
    Supplied,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub params: Vec<PlannedParam>,
    pub units: Vec<Unit>,
    pub exactness: Exactness,
    /// Whether a tied head becomes a matrix of its own.
    pub unties_head: bool,
    /// Rows that are written, padding included.
    pub vocab_size: usize,
}

impl Plan {
    /// Plans the merge for so many ranks. Reads the replicated parameters, a small part of the model.
    pub(super) fn new(source: &dyn ModelSource, choice: &MergeChoice<'_>, tp_size: usize) -> Result<Self, ExportError> {
        let rows = source.architecture().padded_vocab_size;
        if let Some(asked) = choice.vocab_size.filter(|&asked| asked == 0 || asked > rows) {
            return Err(ExportError::Vocabulary { asked, rows });
        }
        choice.strategy.check_exists(source.architecture(), source.tp_size())?;
        let multiple = choice.vocab_multiple.map_or(1, |multiple| multiple.saturating_mul(tp_size)).max(1);
        let vocab_size = choice.vocab_size.unwrap_or(rows).checked_next_multiple_of(multiple);
        let vocab_size = vocab_size.ok_or(ExportError::Padding { multiple })?;
        let mut plan = Self { vocab_size, ..Self::default() };
        for id in source.stage_ids() {
            plan.add_stage(source, choice, id)?;
        }
        Ok(plan)
    }

    fn add_stage(
        &mut self,
        source: &dyn ModelSource,
        choice: &MergeChoice<'_>,
        id: StageId,
    ) -> Result<(), ExportError> {
        let replicated = source.read_replicated(id)?.used;
        let merger = StageMerger::new(&replicated, source.architecture());
        merger.judge(choice.strategy, &mut self.exactness)?;
        let groups = merger.folded_together(choice.strategy)?;
        let folded = |role: Role| groups.iter().any(|group| group.contains(&role));
        let tied = source.architecture().head == Head::Tied;
        // Calibration may give any head a term of its own.
        let unties = tied && (folded(Role::HeadWeight) || choice.calibrated);
        let mut entries = source.stage_entries(id);
        if id == StageId::Output {
            self.unties_head |= unties;
            entries.retain(|&(role, _)| role != Role::HeadWeight || !tied || unties);
        }
        let context = Context { source, choice, rows: self.vocab_size, replicated: &replicated, folded: &groups };

        let (used, unused): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(_, entry)| entry.used);
        if choice.calibrated {
            self.add_unit(&context, &used, Work::Supplied)?;
        } else {
            for group in &groups {
                let together: Vec<_> = used.iter().filter(|(role, _)| group.contains(role)).copied().collect();
                self.add_unit(&context, &together, Work::Merge)?;
            }
            let rest = used.into_iter().filter(|&(role, _)| !folded(role));
            let (replicas, partitioned): (Vec<_>, Vec<_>) = rest.partition(|(_, entry)| entry.row.kind.is_replicated());
            self.add_unit(&context, &replicas, Work::Merge)?;
            for entry in partitioned {
                self.add_unit(&context, &[entry], Work::Join)?;
            }
        }
        unused.iter().try_for_each(|&entry| self.add_unit(&context, &[entry], Work::FirstRank))
    }

    fn add_unit(
        &mut self,
        context: &Context<'_>,
        entries: &[(Role, &ParamEntry)],
        work: Work,
    ) -> Result<(), ExportError> {
        if entries.is_empty() {
            return Ok(());
        }
        let start = self.params.len();
        let tp_size = context.source.tp_size();
        let mut bytes = 0;
        for &(role, entry) in entries {
            let param = context.param(role, entry, work)?;
            let count = entry.rank_shape.iter().product::<usize>() * tp_size;
            bytes += count * (entry.dtype.size() + if param.dtype == entry.dtype { 0 } else { param.dtype.size() });
            self.params.push(param);
        }
        // Joining and folding each make a second tensor of the size of the first.
        let copies =
            if work == Work::Join && self.params[start].partition.as_ref().is_some_and(|p| p.dim == 0) { 1 } else { 2 };
        let (stage, params) = (context.replicated.id, start..self.params.len());
        self.units.push(Unit { stage, params, work, bytes: bytes as u64 * copies });
        Ok(())
    }
}

struct Context<'a> {
    source: &'a dyn ModelSource,
    choice: &'a MergeChoice<'a>,
    /// Of the vocabulary.
    rows: usize,
    replicated: &'a StageTensors,
    /// Roles that change together, a group for every norm that is folded.
    folded: &'a [BTreeSet<Role>],
}

impl Context<'_> {
    fn param(&self, role: Role, entry: &ParamEntry, work: Work) -> Result<PlannedParam, ExportError> {
        let architecture = self.source.architecture();
        let stage = self.replicated.id;
        let dtype = self.choice.dtype.unwrap_or(entry.dtype);
        let work_dtype = match (entry.dtype, dtype) {
            (from, to) if from == to || from.size() > to.size() => from,
            (from, to) if from.size() == to.size() => DType::F32,
            (_, to) => to,
        };
        let mut shape = (entry.row.shape)(architecture);
        let mut partition = entry.row.partition(architecture);
        if self.rows != architecture.padded_vocab_size
            && (role == Role::WordEmbedding || (role == Role::HeadWeight && architecture.head != Head::Reward))
        {
            shape[0] = self.rows;
            if let Some(partition) = partition.as_mut().filter(|partition| partition.dim == 0) {
                partition.blocks = vec![self.rows];
            }
        }
        let (name, file) = match role {
            Role::HeadWeight if architecture.head == Head::Tied => ("final_linear.weight".to_owned(), StageKind::Head),
            _ if self.source.as_neox().is_some() => (entry.name.clone(), entry.row.stage),
            _ => (entry.row.names[0].to_owned(), entry.row.stage),
        };
        let nth = if let StageId::Layer(number) = stage { number } else { 0 };
        let file_stage = stage_number(architecture, file, nth);
        let rule = self.rule(role, entry, work)?;
        Ok(PlannedParam {
            stage,
            role,
            file_stage,
            name,
            kind: entry.row.kind,
            work_dtype,
            dtype,
            shape,
            partition,
            used: entry.used,
            untouched: matches!(work, Work::Join | Work::FirstRank),
            rule,
        })
    }

    fn rule(&self, role: Role, entry: &ParamEntry, work: Work) -> Result<String, ExportError> {
        let kind = entry.row.kind;
        if work == Work::FirstRank {
            return Ok("rank 0; the model does not use it".to_owned());
        }
        if kind.is_replicated() {
            let rule = self.choice.strategy.rule(self.replicated.id, &entry.name, kind)?;
            let rule = rule.for_role(role).resolve(kind, self.source.architecture().residual);
            let agree = self.replicated.ranks_agree(role) && rule.keeps_equal_replicas();
            return Ok(if agree { format!("{rule}; replicas agree") } else { rule.to_string() });
        }
        let folded = self.folded.iter().any(|group| group.contains(&role));
        Ok(match (folded, work) {
            (true, Work::Supplied) => "joined, the norm that it reads folded in, calibrated".to_owned(),
            (false, Work::Supplied) => "joined, calibrated where a norm is read".to_owned(),
            (true, _) => "joined, the norm that it reads folded in".to_owned(),
            (false, _) => "joined".to_owned(),
        })
    }
}
