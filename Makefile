# `make demo` and `make test` are all a new machine needs: each sets up libtorch first.

LIBTORCH_KIND ?= cpu
CARGO ?= cargo
PYTHON ?= python3
CHECKPOINTS ?= $(addprefix ../shared/checkpoints/,parallel-residual-tp2-drift sequential-residual-tied-tp2-drift llama-gqa-swiglu-tp2-drift)

.PHONY: help setup build wheel dist demo test test-wheel test-launchers test-cuda-host reliability bench bench-peers verify-hf verify-read verify-written verify-rolling lint doc deny msrv man fuzz soak clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: ## Get libtorch 2.11 (LIBTORCH_KIND=cuda for the GPU build; an existing LIBTORCH or torch 2.11 is used instead)
	@LIBTORCH_KIND=$(LIBTORCH_KIND) .cargo/setup-libtorch.sh

build: setup ## Build the release binary, target/release/kintsugi
	$(CARGO) build --release --locked

wheel: build ## Build dist/*.whl, which uses the torch 2.11 of the environment that it is installed in
	packaging/wheel.sh

dist: ## Build dist/*.tar.gz, the executable without libtorch, for glibc 2.28 or newer
	packaging/dist.sh

demo: setup ## Compare all merges of the bundled checkpoint
	$(CARGO) run --release --locked -- demo

test: setup ## Run all tests, with libtorch and without
	$(CARGO) test --locked
	$(CARGO) test --locked --no-default-features
	$(PYTHON) packaging/test_wheel.py

test-wheel: ## Install dist/*.whl with every Python that is here, by pip, uv and pipx, and run it (after `make wheel`)
	packaging/test-wheel.sh

test-launchers: build ## Shards under a real Slurm, mpirun and torchrun, compared with one process (installs Debian's packages)
	evals/launchers/test.sh target/release/kintsugi

test-cuda-host: build ## The CUDA host path on a GPU that computes nothing (fetches the CUDA wheel, 2.7 GB, unless KINTSUGI_CUDA_PYTHON has it)
	evals/gpu/fake/test.sh target/release/kintsugi $(ARGS)
	$(CARGO) test --locked --test evaluation --config "target.'cfg(all())'.runner = '$(CURDIR)/evals/gpu/fake/run.sh \
		$(CURDIR)/.scratch/cuda-host/built $(CURDIR)/.scratch/cuda-host/counts.json'" -- --ignored gpu::

KILLS ?= 100

reliability: setup ## Kill runs at 100 random moments (KILLS=N) and compare what they go on to with an uninterrupted run
	KINTSUGI_KILLS=$(KILLS) $(CARGO) test --locked --test cli killed_at_any_moment -- --nocapture

bench: setup ## Run the criterion benches
	$(CARGO) bench --locked

# A Python with torch, transformers, lm-eval and datasets; by default one is set up in .bench-venv from PyPI.
KINTSUGI_PEERS_PYTHON ?= .bench-venv/bin/python

bench-peers: build ## Beside transformers + lm-evaluation-harness: make bench-peers DATA=lambada_test.jsonl TOKENIZER=20B_tokenizer.json [ARGS=…]
	@test -n "$(DATA)" -a -n "$(TOKENIZER)" || { echo "give DATA=lambada_test.jsonl TOKENIZER=20B_tokenizer.json" >&2; exit 2; }
	@test -x "$(KINTSUGI_PEERS_PYTHON)" || evals/peers/setup.sh
	$(KINTSUGI_PEERS_PYTHON) evals/peers/bench.py --data $(DATA) --tokenizer $(TOKENIZER) $(ARGS)

verify-hf: build ## Compare merges for transformers with kintsugi's own numbers (PYTHON needs torch and transformers)
	$(PYTHON) evals/verify/hf_loglikelihoods.py target/release/kintsugi $(CHECKPOINTS)

verify-read: setup ## Read random models that transformers writes, and compare what they score (PYTHON needs torch and transformers; CASES=300)
	rm -rf target/hugging-face
	$(PYTHON) evals/verify/hugging_face_models.py target/hugging-face --count $(or $(CASES),300)
	KINTSUGI_HUGGING_FACE=$(CURDIR)/target/hugging-face $(CARGO) test --locked --test evaluation models_of_transformers

verify-written: setup ## Load random merges as gpt-neox and transformers do (PYTHON needs torch, transformers and pyyaml; CASES=500)
	rm -rf target/written
	KINTSUGI_WRITTEN=$(CURDIR)/target/written PROPTEST_CASES=$(or $(CASES),500) $(CARGO) test --locked --test evaluation written_models
	$(PYTHON) evals/verify/written_models.py target/written

verify-rolling: build ## Compare perplexities of whole texts with lm-evaluation-harness's (PYTHON needs torch, transformers and lm-eval; TEXT=FILE)
	@test -n "$(TEXT)" || { echo "give TEXT=FILE" >&2; exit 2; }
	$(PYTHON) evals/verify/lm_eval_rolling.py target/release/kintsugi $(firstword $(CHECKPOINTS)) $(TEXT)

lint: setup ## Formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --all-targets -- -D warnings

doc: setup ## The crate's documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

deny: ## Licences, bans and sources of all dependencies, advisories where their list can be had (cargo install cargo-deny)
	$(CARGO) deny --locked check licenses bans sources
	$(CARGO) deny --locked check advisories || $(CARGO) deny --locked --offline check advisories || \
		echo "advisories were not checked or not met; see above" >&2

MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

msrv: setup ## Check with the oldest Rust that Cargo.toml promises, where rustup has it, and that no dependency asks for a newer one
	@if rustup run $(MSRV) cargo --version >/dev/null 2>&1; then rustup run $(MSRV) cargo check --locked; \
		else echo "Rust $(MSRV) is not installed: only what dependencies ask for is checked" >&2; fi
	$(PYTHON) evals/verify/msrv.py $(MSRV)

man: build ## Write manual pages into target/man
	target/release/kintsugi man target/man

fuzz: setup ## Fuzz every reader of files, EXECUTIONS=1000000 each (needs `cargo install cargo-fuzz`)
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz build -s none
	LIBTORCH=$${LIBTORCH:-$(CURDIR)/.libtorch} fuzz/run.sh

soak: setup ## 200 compares in one process: memory and descriptors flat, numbers the same
	$(CARGO) test --locked --test soak -- --ignored --nocapture >/dev/null

clean: ## Remove what was built and what the demo wrote
	$(CARGO) clean
	rm -rf kintsugi-out dist
