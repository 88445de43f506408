//! A reader thread that dies in the middle of a run: an error, and every slice before it stays in the journal.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::evaluation::{demo, demo_reference, options, pairs, passages, variants};
use kintsugi::checkpoint::{Checkpoint, CheckpointError, ModelSource, ParamEntry, Reading, StageReader};
use kintsugi::config::Architecture;
use kintsugi::eval::chunk_plan::{Assignment, ChunkPlan};
use kintsugi::eval::{EngineOptions, EvalError, Models, Quiet, SliceOutcome, evaluate_chunks, plan_chunks};
use kintsugi::partition::{Role, StageId};
use kintsugi::run::RunError;
use kintsugi::run::journal::{Journal, read_journal};
use kintsugi::samples::TokenScore;
use kintsugi::tensor::DType;

/// The bundled checkpoint, whose reading ends in a panic after so many stages.
#[derive(Debug)]
struct Dying {
    checkpoint: Checkpoint,
    stages_left: AtomicUsize,
}

impl ModelSource for Dying {
    fn folder(&self) -> &Path {
        self.checkpoint.folder()
    }

    fn architecture(&self) -> &Architecture {
        self.checkpoint.architecture()
    }

    fn tp_size(&self) -> usize {
        self.checkpoint.tp_size()
    }

    fn dtype(&self) -> DType {
        self.checkpoint.dtype()
    }

    fn size(&self) -> (u64, u64) {
        self.checkpoint.size()
    }

    fn layout_name(&self) -> &'static str {
        "layer-files"
    }

    fn describe(&self) -> String {
        "dying".to_owned()
    }

    fn iteration(&self) -> Option<u64> {
        None
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        None
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        self.checkpoint.stage_files(id)
    }

    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        self.checkpoint.stage_entries(id)
    }

    fn open_stage(
        &self,
        id: StageId,
        roles: &[Role],
        reading: &Reading,
    ) -> Result<Box<dyn StageReader + '_>, CheckpointError> {
        let left = self.stages_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_ok(), "this reader dies here, as it is meant to");
        self.checkpoint.open_stage(id, roles, reading)
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.checkpoint.check_unchanged(id)
    }
}

/// A slice as this test keeps it.
type Kept = (Vec<usize>, Vec<BTreeMap<usize, Vec<TokenScore>>>);

fn evaluate(
    models: Models<'_>,
    plan: &ChunkPlan,
    assignment: &Assignment,
    options: &EngineOptions,
    journal: &mut Journal,
) -> Result<(), RunError> {
    let mut keep = |slice: SliceOutcome| journal.append(&(slice.chunks, slice.scores));
    evaluate_chunks(models, plan, assignment, options, &Quiet, &mut keep)
}

#[test]
fn the_run_ends_with_an_error_and_the_journal_intact() {
    let folder = tempfile::tempdir().unwrap();
    let variants = variants(&["mean"]);
    let checkpoint = Checkpoint::open(&demo(), &[]).unwrap();
    let passages = passages(&pairs(&demo_reference())[..24], checkpoint.architecture().max_position_embeddings);
    let options = EngineOptions { chunk_tokens: Some(96), slice_tokens: Some(96), ..options() };
    let models = Models { checkpoint: &checkpoint, variants: &variants };
    let plan = plan_chunks(models, &passages, &options).unwrap();

    let whole_path = folder.path().join("whole.jsonl");
    let (mut journal, _) = Journal::open::<Kept>(&whole_path).unwrap();
    evaluate(models, &plan, &plan.whole(), &options, &mut journal).unwrap();
    let whole = read_journal::<Kept>(&whole_path).unwrap().records;
    assert!(whole.len() > 5);

    let stages = checkpoint.stage_ids().len();
    for stages_left in [0, 1, stages - 1, stages, 3 * stages + 2] {
        let path = folder.path().join(format!("{stages_left}.jsonl"));
        let dying = Dying { checkpoint: Checkpoint::open(&demo(), &[]).unwrap(), stages_left: stages_left.into() };
        let (mut journal, _) = Journal::open::<Kept>(&path).unwrap();
        let error = evaluate(Models { checkpoint: &dying, ..models }, &plan, &plan.whole(), &options, &mut journal)
            .unwrap_err();
        assert!(matches!(error, RunError::Eval(EvalError::ReaderGone { .. })), "{error}");
        drop(journal);

        let (mut journal, contents) = Journal::open::<Kept>(&path).unwrap();
        assert!(!contents.torn);
        assert_eq!(contents.records, whole[..stages_left / stages]);
        let done = contents.records.into_iter().flat_map(|(chunks, _)| chunks).collect();
        let rest = Assignment { done, ..plan.whole() };
        evaluate(models, &plan, &rest, &options, &mut journal).unwrap();
        assert_eq!(read_journal::<Kept>(&path).unwrap().records, whole);
    }
}
