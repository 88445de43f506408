# `make demo` and `make test` are all a new machine needs: each sets up libtorch first.

LIBTORCH_KIND ?= cpu
CARGO ?= cargo

.PHONY: help setup build demo test bench lint fuzz soak clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: ## Get libtorch 2.11 (LIBTORCH_KIND=cuda for the GPU build; an existing LIBTORCH or torch 2.11 is used instead)
	@LIBTORCH_KIND=$(LIBTORCH_KIND) .cargo/setup-libtorch.sh

build: setup ## Build the release binary, target/release/kintsugi
	$(CARGO) build --release --locked

demo: setup ## Compare all merges of the bundled checkpoint
	$(CARGO) run --release --locked -- demo

test: setup ## Run all tests, with libtorch and without
	$(CARGO) test --locked
	$(CARGO) test --locked --no-default-features --lib --test architecture

bench: setup ## Run the criterion benches
	$(CARGO) bench --locked

lint: setup ## Formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --all-targets -- -D warnings

fuzz: setup ## Fuzz every reader of files, EXECUTIONS=1000000 each (needs `cargo install cargo-fuzz`)
	RUSTC_BOOTSTRAP=1 $(CARGO) fuzz build -s none
	LIBTORCH=$${LIBTORCH:-$(CURDIR)/.libtorch} fuzz/run.sh

soak: setup ## 200 compares in one process: memory and descriptors flat, numbers the same
	$(CARGO) test --release --locked --test soak -- --ignored --nocapture

clean: ## Remove what was built and what the demo wrote
	$(CARGO) clean
	rm -rf kintsugi-out
