//! Examples at the end of every command's help.

pub(super) const COMPARE: &str = "\
Every option can also be set in a run file (--config) or in the environment (KINTSUGI_DEVICE=cpu).

Examples:
  kintsugi compare path/to/checkpoint --output-dir out
  kintsugi compare path/to/checkpoint --strategy fold --strategy mine.yml --limit 500
  kintsugi compare path/to/checkpoint --candidate upstream=path/to/hf_converted
  kintsugi compare path/to/checkpoint --task text_perplexity --data wiki.test.raw
  kintsugi compare --config configs/examples/compare-demo.yml --dry-run";

pub(super) const EVAL: &str = "\
Every option can also be set in a run file (--config) or in the environment (KINTSUGI_DEVICE=cpu).

Examples:
  kintsugi eval path/to/checkpoint
  kintsugi eval EleutherAI/pythia-160m --limit 500
  kintsugi eval merged-hf --tokenizer EleutherAI/gpt-neox-20b --output-dir out";

pub(super) const EXPLAIN: &str = "\
Every option can also be set in a run file (--config) or in the environment (KINTSUGI_DEVICE=cpu).

Examples:
  kintsugi explain path/to/checkpoint --output-dir out
  kintsugi explain path/to/checkpoint --strategy mean --limit 500 --json";

pub(super) const DEMO: &str = "\
Examples:
  kintsugi demo
  kintsugi demo --output-dir out --device cpu
  kintsugi demo --model EleutherAI/pythia-160m --limit 500";

pub(super) const MERGE: &str = "\
Examples:
  kintsugi merge path/to/checkpoint -o merged
  kintsugi merge path/to/checkpoint -o merged-hf --format hf --trim-vocab
  kintsugi merge path/to/checkpoint -o merged-4 --tensor-parallel 4
  kintsugi merge path/to/checkpoint -o merged --strategy reduce-aware --report out/report.json";

pub(super) const INSPECT: &str = "\
Examples:
  kintsugi inspect path/to/checkpoint
  kintsugi inspect path/to/checkpoint --json | jq .parameters";

pub(super) const GATE: &str = "\
Examples:
  kintsugi gate out
  kintsugi gate out --model fold --max-kl 0.001 --max-ppl-increase 1%
  kintsugi gate out --against accepted/report.json --junit gate.xml
  kintsugi gate out --plan
  kintsugi gate --baseline lm-eval/before --model lm-eval/after";

pub(super) const DIFF: &str = "\
Examples:
  kintsugi diff path/to/checkpoint path/to/hf_converted
  kintsugi diff merged-a merged-b --json";

pub(super) const VERIFY: &str = "\
Examples:
  kintsugi verify certificate.json merged
  kintsugi verify certificate.json merged --checkpoint path/to/checkpoint";

pub(super) const REPORT: &str = "\
Examples:
  kintsugi report out
  kintsugi report out --format markdown > comment.md
  kintsugi report out --format certificate --model fold > certificate.json
  kintsugi report out --output report.html";

pub(super) const DOCTOR: &str = "\
Examples:
  kintsugi doctor
  kintsugi doctor --json";

pub(super) const SYNTH: &str = "\
Examples:
  kintsugi synth --shape 70m --drift 0.01 -o synthetic";

pub(super) const COMPLETIONS: &str = "\
Examples:
  kintsugi completions bash > ~/.local/share/bash-completion/completions/kintsugi
  kintsugi completions zsh > ~/.zfunc/_kintsugi";

pub(super) const MAN: &str = "\
Examples:
  kintsugi man ~/.local/share/man/man1";

pub(super) const COMBINE: &str = "\
Examples:
  kintsugi combine out -o out
  kintsugi combine node-1/shards/1-of-2 node-2/shards/2-of-2 -o out";
