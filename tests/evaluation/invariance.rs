//! What must not change the numbers: chunk sizes, the order of passages, threads, slices, shards, hashing. On the
//! bundled checkpoint and on a model of four ranks whose residual streams differ.

use crate::common::evaluation::{
    Evaluation, cpu, demo, demo_reference, evaluate, pairs, passages, variants, worst_difference,
};
use crate::common::{TinyCheckpoint, TinyModel};
use kintsugi::checkpoint::{Checkpoint, ModelSource as _, digest_file};
use kintsugi::eval::chunk_plan::Assignment;
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::tokenizer::TokenPair;
use kintsugi::eval::{EngineOptions, EvalError, Models, Quiet, SliceOutcome, Variant, evaluate_chunks, plan_chunks};
use kintsugi::model::{Backend, set_threads};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;

/// What log-likelihoods may change by where sums are taken in another order, in nats.
const TOLERANCE: f64 = 1e-5;

/// A checkpoint with passages, and merges of every sort.
struct Case {
    name: &'static str,
    _files: Option<TinyCheckpoint>,
    checkpoint: Checkpoint,
    pairs: Vec<TokenPair>,
    variants: Vec<Variant>,
}

impl Case {
    fn demo() -> Self {
        Self {
            name: "demo",
            _files: None,
            checkpoint: Checkpoint::open(&demo(), &[]).unwrap(),
            pairs: pairs(&demo_reference())[..40].to_vec(),
            variants: variants(&["reduce-aware", "mean", "fold"]),
        }
    }

    /// Four ranks, sequential residual, replicas that drifted: every rank has a residual stream of its own.
    fn sequential() -> Self {
        let tiny = TinyModel::new().with(|options| {
            (options.tp_size, options.gpt_j_residual, options.drift) = (4, false, 0.05);
        });
        let files = tiny.write();
        // Contexts of 2 to 41 tokens with targets of 1 to 3, all different.
        let ids = |start: u32, count: u32| (0..count).map(|at| (start * 37 + at * at * 11 + at) % 120).collect();
        let pairs = (0..40_u32).map(|at| (ids(at, 2 + (at * 17) % 40), ids(at + 50, 1 + at % 3))).collect();
        Self {
            name: "sequential residual, 4 ranks",
            checkpoint: files.open(),
            _files: Some(files),
            pairs,
            variants: variants(&["zeroth", "fold", "fold-calibrated"]),
        }
    }

    fn all() -> [Self; 2] {
        [Self::demo(), Self::sequential()]
    }

    fn passages(&self, pairs: &[TokenPair]) -> Vec<TokenizedPassage> {
        passages(pairs, self.checkpoint.architecture().max_position_embeddings)
    }

    fn options(&self) -> EngineOptions {
        let mut options = EngineOptions::on(vec![cpu()]);
        options.calibration = self.passages(&self.pairs[..6]);
        options
    }

    fn try_evaluate(&self, passages: Vec<TokenizedPassage>, options: &EngineOptions) -> Result<Evaluation, EvalError> {
        evaluate(&self.checkpoint, &self.variants, passages, options, &Quiet)
    }

    fn evaluate_pairs(&self, pairs: &[TokenPair]) -> Evaluation {
        self.try_evaluate(self.passages(pairs), &self.options()).unwrap()
    }

    fn evaluate_with(&self, change: impl FnOnce(&mut EngineOptions)) -> Evaluation {
        let mut options = self.options();
        change(&mut options);
        self.try_evaluate(self.passages(&self.pairs), &options).unwrap()
    }

    fn evaluate(&self) -> Evaluation {
        self.evaluate_with(|_| {})
    }

    /// Asserts that an evaluation of the passages numbered `order` agrees with one of all passages.
    fn assert_close(&self, whole: &Evaluation, found: &Evaluation, order: &[usize], what: &str) {
        for (variant, (whole, found)) in self.variants.iter().zip(whole.scores.iter().zip(&found.scores)) {
            let expected: Vec<_> = order.iter().map(|&at| whole[at].clone()).collect();
            let worst = worst_difference(&expected, found);
            assert!(worst <= TOLERANCE, "{}, {}, {what}: changes by {worst:e}", self.name, variant.name);
            for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
                assert_eq!(expected.id, found.id, "{}, {}, {what}", self.name, variant.name);
                let kl = [expected.kl, found.kl].map(Option::unwrap_or_default);
                assert!((kl[0] - kl[1]).abs() <= 1e-6, "{}, {}, {what}: {kl:?}", self.name, variant.name);
            }
        }
    }

    fn everything(&self) -> Vec<usize> {
        (0..self.pairs.len()).collect()
    }
}

#[test]
fn the_cases_can_tell_passages_and_models_apart() {
    for case in Case::all() {
        let evaluation = case.evaluate();
        let baseline = &evaluation.scores[0];
        for (variant, scores) in case.variants.iter().zip(&evaluation.scores).skip(1) {
            let worst = worst_difference(baseline, scores);
            assert!(variant.name.starts_with("fold") || worst > 1e2 * TOLERANCE, "{}: {worst:e}", variant.name);
        }
        let mut turned = baseline.clone();
        turned.rotate_left(1);
        assert!(worst_difference(baseline, &turned) > 1e4 * TOLERANCE, "{}", case.name);
    }
}

#[test]
fn a_repeated_run_gives_the_same_bits() {
    for case in Case::all() {
        assert_eq!(case.evaluate().scores, case.evaluate().scores, "{}", case.name);
    }
}

#[test]
fn chunk_sizes_do_not_change_the_numbers() {
    for case in Case::all() {
        let whole = case.evaluate();
        for chunk_tokens in [1, 7, 100, 1024, 1_000_000] {
            let found = case.evaluate_with(|options| options.chunk_tokens = Some(chunk_tokens));
            assert_eq!(found.chunk_tokens, chunk_tokens);
            case.assert_close(&whole, &found, &case.everything(), &format!("chunks of {chunk_tokens}"));
        }
    }
}

#[test]
fn the_baseline_in_other_chunks_is_the_baseline() {
    for mut case in Case::all() {
        case.variants = vec![Variant::baseline(), Variant::noise_floor()];
        let found = case.evaluate_with(|options| options.chunk_tokens = Some(64));
        let worst = worst_difference(&found.scores[0], &found.scores[1]);
        assert!(worst <= TOLERANCE, "{}: {worst:e}", case.name);
    }
}

/// In types whose products are libtorch's on every processor.
#[test]
fn the_noise_floor_is_another_order_in_every_type() {
    for (kind, largest) in [(tch::Kind::Double, 1e-9), (tch::Kind::BFloat16, 1.0)] {
        for mut case in Case::all() {
            case.variants = vec![Variant::baseline(), Variant::noise_floor()];
            let backend = Backend { device: tch::Device::Cpu, kind };
            let found = case.evaluate_with(|options| options.backends = vec![backend]);
            let worst = worst_difference(&found.scores[0], &found.scores[1]);
            assert!(worst > 0.0 && worst <= largest, "{}, {kind:?}: {worst:e}", case.name);
        }
    }
}

#[test]
fn the_order_of_passages_does_not_change_the_numbers() {
    let mut random = rand::rngs::ChaCha8Rng::seed_from_u64(7);
    for case in Case::all() {
        let whole = case.evaluate();
        // With their indices, the same computation.
        let mut shuffled = case.passages(&case.pairs);
        shuffled.shuffle(&mut random);
        let found = case.try_evaluate(shuffled, &case.options()).unwrap();
        assert_eq!(found.scores, whole.scores, "{}", case.name);
        // Numbered anew.
        let mut order = case.everything();
        order.shuffle(&mut random);
        let pairs: Vec<_> = order.iter().map(|&at| case.pairs[at].clone()).collect();
        case.assert_close(&whole, &case.evaluate_pairs(&pairs), &order, "shuffled");
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for mut case in Case::all() {
        case.variants.push(Variant::noise_floor());
        let evaluate = || case.evaluate_with(|options| (options.chunk_tokens, options.divergence) = (Some(64), true));
        let whole = evaluate();
        for threads in [1, 2, 4] {
            set_threads(threads);
            assert_eq!(usize::try_from(tch::get_num_threads()).unwrap(), threads);
            let found = evaluate();
            assert_eq!(found.scores, whole.scores, "{}, {threads} threads", case.name);
            assert_eq!(found.divergence, whole.divergence, "{}, {threads} threads", case.name);
        }
    }
}

#[test]
fn slices_that_memory_asks_for_do_not_change_the_numbers() {
    for case in Case::all() {
        let whole = case.evaluate();
        assert_eq!(whole.slice_count, 1);
        let tokens = |pair: &TokenPair| pair.0.len() + pair.1.len() - 1;
        let longest = case.pairs.iter().map(tokens).max().unwrap();
        let total: usize = case.pairs.iter().map(tokens).sum();
        // The least that is enough for one passage, found from what a budget of nothing is told.
        let mut options = case.options();
        options.memory_budget = Some(1);
        let Err(EvalError::Budget { needed, budget: 1 }) = case.try_evaluate(case.passages(&case.pairs), &options)
        else {
            panic!("{}: a byte was enough", case.name)
        };
        for slices in [1, 3] {
            let found = case.evaluate_with(|options| options.memory_budget = Some(slices * needed));
            let per_slice = longest * usize::try_from(slices).unwrap();
            assert!(found.slice_count >= total.div_ceil(per_slice), "{}: {}", case.name, found.slice_count);
            assert!(found.slice_count > 1, "{}", case.name);
            case.assert_close(&whole, &found, &case.everything(), &format!("{} slices", found.slice_count));
        }
        options.memory_budget = Some(needed - 1);
        assert!(case.try_evaluate(case.passages(&case.pairs), &options).is_err(), "{}", case.name);
    }
}

/// Evaluates the parts of a plan that `parts` asks for, in slices of this many tokens, and joins the results.
fn in_parts(case: &Case, slice_tokens: Option<usize>, count: usize) -> (Evaluation, Vec<usize>) {
    let options = EngineOptions { slice_tokens, chunk_tokens: Some(64), divergence: true, ..case.options() };
    let models = Models { checkpoint: &case.checkpoint, variants: &case.variants };
    let plan = plan_chunks(models, &case.passages(&case.pairs), &options).unwrap();
    let (mut slices, mut sizes): (Vec<SliceOutcome>, Vec<usize>) = (Vec::new(), Vec::new());
    for index in (1..=count).rev() {
        let mut keep = |slice: SliceOutcome| {
            sizes.push(slice.chunks.len());
            slices.push(slice);
            Ok(())
        };
        evaluate_chunks::<EvalError>(models, &plan, &plan.shard(index, count), &options, &Quiet, &mut keep).unwrap();
    }
    (Evaluation::of(&plan, case.variants.len(), slices), sizes)
}

#[test]
fn no_division_changes_a_bit() {
    for mut case in Case::all() {
        case.variants.push(Variant::noise_floor());
        let (whole, sizes) = in_parts(&case, None, 1);
        assert_eq!(sizes.len(), 1);
        assert!(sizes[0] > 8, "{}: only {} chunks", case.name, sizes[0]);
        for (slice_tokens, shards) in [(Some(1), 1), (Some(200), 1), (None, 2), (Some(150), 3), (None, 7), (None, 50)] {
            let (found, sizes) = in_parts(&case, slice_tokens, shards);
            let what = format!("{}, {shards} shards, {} slices", case.name, sizes.len());
            assert!(sizes.len() > 1, "{what}");
            assert_eq!(found.scores, whole.scores, "{what}");
            assert_eq!(found.divergence, whole.divergence, "{what}");
            assert_eq!(found.token_count, whole.token_count, "{what}");
            assert!(found.exactness == whole.exactness, "{what}");
        }
        // The noise floor is the baseline in another order, and other sums: the test can tell.
        let logprobs = |variant: usize| {
            let tokens = whole.scores[variant].iter().flatten();
            tokens.map(|token| token.logprob).collect::<Vec<f64>>()
        };
        assert_ne!(logprobs(0), logprobs(case.variants.len() - 1), "{}", case.name);
    }
}

#[test]
fn what_is_done_is_not_done_again() {
    let case = Case::demo();
    let options = EngineOptions { slice_tokens: Some(200), chunk_tokens: Some(64), ..case.options() };
    let models = Models { checkpoint: &case.checkpoint, variants: &case.variants };
    let plan = plan_chunks(models, &case.passages(&case.pairs), &options).unwrap();
    let evaluate = |assignment: &Assignment| {
        let mut slices: Vec<SliceOutcome> = Vec::new();
        let mut keep = |slice| {
            slices.push(slice);
            Ok(())
        };
        evaluate_chunks::<EvalError>(models, &plan, assignment, &options, &Quiet, &mut keep).unwrap();
        slices
    };
    let whole = evaluate(&plan.whole());
    for done in 0..=whole.len() {
        let chunks = whole[..done].iter().flat_map(|slice| slice.chunks.clone()).collect();
        let rest = evaluate(&Assignment { done: chunks, ..plan.whole() });
        let chunks = |slices: &[SliceOutcome]| slices.iter().map(|slice| slice.chunks.clone()).collect::<Vec<_>>();
        assert_eq!(chunks(&rest), chunks(&whole[done..]), "the same slices as without the interruption");
        for (found, expected) in rest.iter().zip(&whole[done..]) {
            assert_eq!(found.scores, expected.scores);
        }
    }
}

#[test]
fn hashing_changes_nothing_and_names_every_file() {
    for case in Case::all() {
        let plain = case.evaluate();
        assert!(plain.digests.is_empty());
        let hashed = case.evaluate_with(|options| options.digests = true);
        assert_eq!(hashed.scores, plain.scores, "{}", case.name);
        let mut files: Vec<_> =
            case.checkpoint.stage_ids().into_iter().flat_map(|id| case.checkpoint.stage_files(id)).collect();
        files.sort();
        files.dedup();
        let expected: Vec<_> = files.iter().map(|path| digest_file(path).unwrap()).collect();
        assert_eq!(hashed.digests, expected, "{}", case.name);
        // Again when the checkpoint is read several times over: once a file, not once a slice.
        let sliced = case.evaluate_with(|options| (options.digests, options.memory_budget) = (true, Some(1 << 19)));
        assert!(sliced.slice_count > 1, "{}", case.name);
        assert_eq!(sliced.digests, expected, "{}", case.name);
    }
}

#[test]
fn a_process_can_be_asked_for_other_threads() {
    let demo = |name: &str| format!("{}/evals/demo/{name}", env!("CARGO_MANIFEST_DIR"));
    for threads in ["1", "2"] {
        let words = ["kintsugi", "--quiet", "compare", "--dry-run", "--device", "cpu", "--threads", threads];
        let files = ["--tokenizer", &demo("tokenizer.json"), "--data", &demo("passages.jsonl"), &demo("checkpoint")];
        let arguments = words.into_iter().chain(files).map(std::ffi::OsString::from);
        assert_eq!(kintsugi::cli::run(arguments.collect::<Vec<_>>()), std::process::ExitCode::SUCCESS, "{threads}");
    }
}
