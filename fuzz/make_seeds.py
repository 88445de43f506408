"""Writes the seeds of the fuzz targets: small files as torch, gpt-neox and kintsugi write them, and hostile ones.

    python fuzz/make_seeds.py        # needs torch; writes fuzz/corpus/*/

The files are committed, so that neither tests nor fuzzing need Python.
"""

import argparse
import io
import json
import os
import pickle
import signal
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

CORPUS = Path(__file__).parent / "corpus"
REPOSITORY = Path(__file__).parent.parent


def write(target, name, content):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def data_pkl(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith("data.pkl")))


def archive_of(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return file.getvalue()


class Runs:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


base = torch.arange(16, dtype=torch.float32)
SOUND = {
    "layer": OrderedDict(weight=base.view(4, 4).half(), bias=base[:4].clone()),
    "views": {"transposed": base.view(4, 4).t(), "tail": base[12:], "same": base},
    "types": {str(kind)[6:]: base.to(kind) for kind in (torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool)},
    "rank_file": {"module": {"sequential.2.norm.weight": base[:2]}, "iteration": 3, "args": {"num_layers": 2}, "none": None},
    "parameter": {"p": torch.nn.Parameter(base[:2])},
    "expanded": {"e": torch.ones(1).expand(1000)},
    "empty": {"z": torch.zeros(0, 3)},
}
for name, value in SOUND.items():
    write("archive", f"{name}.pt", saved(value))
    write("archive", f"{name}_legacy.pt", saved(value, _use_new_zipfile_serialization=False))
    write("pickle", f"{name}.pkl", data_pkl(saved(value)))

HOSTILE = {
    "os_system": Runs(os.system, "touch /tmp/kintsugi-was-here"),
    "eval": Runs(eval, "1"),
    "nested": {"weight": [{"deep": (Runs(exec, "pass"),)}]},
}
for name, value in HOSTILE.items():
    pickled = pickle.dumps(value, protocol=2)
    write("pickle", f"{name}.pkl", pickled)
    write("archive", f"{name}.pt", archive_of({"a/data.pkl": pickled, "a/version": "3\n"}))
    write("archive", f"{name}_plain.pt", pickled)

# A list that holds itself ten times, thirty levels deep.
bomb = b"\x80\x02]q\x00" + b"".join(
    b"](" + b"h" + bytes([level]) * 1 + (b"h" + bytes([level])) * 9 + b"eq" + bytes([level + 1]) for level in range(30)
)
write("pickle", "memo_bomb.pkl", bomb + b".")
write("pickle", "deep.pkl", b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".")
write("pickle", "long_claim.pkl", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".")
write("pickle", "string_claim.pkl", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".")


def rebuilt(shape, stride, offset=0, count=16, storage=b"FloatStorage"):
    """A state dict of one tensor with this shape, written by hand so that it may lie."""

    def number(value):
        data = value.to_bytes((value.bit_length() // 8) + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    dims = lambda values: b"(" + b"".join(number(value) for value in values) + b"t"
    persistent = b"(" + text(b"storage") + b"ctorch\n" + storage + b"\n" + text(b"0") + text(b"cpu") + number(count) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + number(offset) + dims(shape) + dims(stride)
    return b"\x80\x02}(" + text(b"w") + tensor + b"\x89ccollections\nOrderedDict\n)RtRu."


for name, tensor in {
    "overflowing_shape": rebuilt([2**33, 2**33], [1, 1]),
    "negative_shape": rebuilt([-4, -4], [1, 1]),
    "negative_stride": rebuilt([4], [-1], 3),
    "stride_zero_bomb": rebuilt([1 << 20, 1 << 10], [0, 0]),
    "beyond_storage": rebuilt([4, 4], [4, 1], 2**40),
    "count_lies": rebuilt([64], [1], 0, 64),
    "many_dimensions": rebuilt([1] * 5000, [1] * 5000),
}.items():
    write("pickle", f"{name}.pkl", tensor)

write("archive", "compressed.pt", archive_of({"a/data.pkl": bytes(2**20)}, zipfile.ZIP_DEFLATED))
write("archive", "traversal.pt", archive_of({"../../etc/data.pkl": data_pkl(saved({"w": base})), "../../etc/data/0": bytes(64)}))
write("archive", "no_pickle.pt", archive_of({"a/version": "3"}))
write("archive", "safetensors.pt", struct.pack("<Q", 2) + b"{}")
write("archive", "empty.pt", b"")
tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as opened:
    opened.addfile(tarfile.TarInfo("storages"))
write("archive", "tar.pt", tar.getvalue()[:1024])

CONFIGS = {
    "demo.yml": next((REPOSITORY / "evals/demo/checkpoint/global_step1600/configs").iterdir()).read_text(),
    "llama.yml": '{"num-layers": 2, "hidden-size": 64, "num-attention-heads": 8, "max-position-embeddings": 64, '
    '"norm": "rmsnorm", "pos-emb": "rotary", "mlp-type": "llama", "activation": "swiglu", "num_kv_heads": 2, '
    '"attention-config": [[["global", "local"], 1]], "fp16": {"enabled": true}, "mup_attn_temp": 2.0}',
    "aliases.yml": "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\nnum_layers: 1\n",
    "deep.yml": "x: " + "[" * 500 + "]" * 500,
    "two_files.yml": "num_layers: 2\nhidden_size: 64\0num_attention_heads: 4\nmax_position_embeddings: 2048\n",
    "numbers.yml": "num_layers: 1e308\nhidden_size: -1\nseq_length: 18446744073709551616\nrotary_pct: .nan\n",
    "heads.yml": "num_layers: 1\nhidden_size: 9223372036854775807\nnum_attention_heads: 1\nmax_position_embeddings: 1\n",
}
for name, content in CONFIGS.items():
    write("config", name, content)

for strategy in sorted((REPOSITORY / "configs/strategies").glob("*.yml")):
    write("strategy", strategy.name, strategy.read_text())
write("strategy", "overrides.yml", "name: mine\nrules: {norm-gain: {rank: 1}, norm-bias: mean, row-parallel-bias: {scale: 0.5}}\n"
      "overrides:\n  - parameters: 'layer.*.attention.dense.bias'\n    rule: sum\n")
for name in ("lambada_openai.yml", "lambada_standard.yml"):
    write("task", name, (REPOSITORY / "evals" / name).read_text())
write("gates", "gates.yml", (REPOSITORY / "evals/gates.yml").read_text())
write("gates", "models.yml", "significance: 0.01\ndefault: {max-acc-loss: 0.5pp, max-ppl-increase: 1%}\n"
      "models:\n  fold: {expect-exact: true}\n  zeroth: {skip: true}\n")

LINES = (REPOSITORY / "evals/demo/passages.jsonl").read_text().splitlines()[:2]
write("passages", "lines.jsonl", "\n".join(line[:300] for line in LINES) if all(len(l) < 300 for l in LINES) else
      '{"text": "w1 w2 w3"}\n{"id": 1, "text": "W\\u00f6rd and \\ud83d\\ude00 end"}\n')
write("passages", "plain.txt", "\ufeffa b c\r\n\nd  e f\n")
write("passages", "not_utf8.txt", b"a b\nc \xff d\n")
write("passages", "surrogate.jsonl", '{"text": "a \\ud800 b"}\n')
write("passages", "deep.jsonl", '{"text": ' + "[" * 300 + "\n")
write("passages", "gzip.gz", b"\x1f\x8b\x08\x00\x00")

SAMPLE = {"doc_id": 0, "target": " w", "loglikelihood": -1.5, "is_greedy": True,
          "tokens": [{"id": 5, "greedy_id": 5, "logprob": -1.5, "kl": 0.1}], "prompt_hash": "0" * 64, "target_hash": "1" * 64}
write("samples", "two.jsonl", json.dumps(SAMPLE) + "\n\n" + json.dumps({**SAMPLE, "doc_id": 1}) + "\n")
write("samples", "numbers.jsonl", json.dumps(SAMPLE).replace("-1.5", "1e999"))

REPORT = (REPOSITORY / "tests/library/snapshots/library__report_snapshots__json.snap").read_text().split("---\n", 2)[2]
write("report", "report.json", json.dumps(json.loads(REPORT)))

FOUND = json.loads(REPORT)
FILES = [{"file": "global_step1/layer_00-model_00-model_states.pt", "blake3": "0" * 64, "bytes": 1}]
CERTIFICATE = {
    "certificate_version": "1", "tool": FOUND["tool"], "evaluated": FOUND["run"]["started"],
    "versions": FOUND["run"]["versions"], "device": "cpu", "dtype": "f32", "partial": False,
    "checkpoint": {"name": "c", "iteration": 1, "tp_size": 2, "dtype": "f16", "architecture": {"padded_vocab_size": 128},
                   "files": FILES},
    "model": {"name": "fold", "strategies": [{"name": "fold", "blake3": "0" * 64}], "exact": True},
    "task": FOUND["task"], "baseline": {"perplexity": 3.5, "acc": 0.5}, "merged": {"perplexity": 3.5, "acc": 0.5},
    "standing": "within", "significance": 0.05, "limits_origin": "built-in",
    "limits": [{"criterion": "kl-divergence", "verdict": "within", "loss": 1e-8, "lower": -1e-9, "upper": 1e-7,
                "limit": 0.001, "may_stay_undecided": False}]}
RECIPE = {"schema_version": 1, "strategy": {"name": "fold", "text": (REPOSITORY / "configs/strategies/fold.yml").read_text()},
          "output": {"tp_size": 1, "dtype": "f16", "vocab_size": 128}, "exact": True, "inputs": FILES, "outputs": FILES}
CANDIDATE = {"format": "Hugging Face GPTNeoXForCausalLM", "settings": [], "files": FILES}
write("certificate", "merge.json", json.dumps(CERTIFICATE) + "\0" + json.dumps(RECIPE))
write("certificate", "candidate.json", json.dumps({**CERTIFICATE, "model": {"name": "other", "candidate": CANDIDATE}}))

WORDS = {f"w{number}": number for number in range(4)}
TOKENIZER = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "NFC"},
             "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
             "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "w0"}}
BPE = {**TOKENIZER, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
       "added_tokens": [{"id": 6, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": False, "special": True}],
       "model": {"type": "BPE", "dropout": None, "unk_token": None, "vocab": {"w": 0, "1": 1, "w1": 2, "\u0120": 3},
                 "merges": ["w 1"]}}
UNIGRAM = {**TOKENIZER, "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["w", -1.0], ["1", -2.0]]}}
WORD_PIECE = {**TOKENIZER, "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "w1": 1, "##2": 2}, "unk_token": "[UNK]",
                                     "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}}
SPLIT = {**BPE, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "(?:a+)+$|\\s+"}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}}
for name, tokenizer in {"words": TOKENIZER, "bpe": BPE, "unigram": UNIGRAM, "word_piece": WORD_PIECE, "split": SPLIT}.items():
    write("tokenizer", f"{name}.json", json.dumps(tokenizer))
write("tokenizer", "other.json", '{"w1": 1}')

# transformers' directories. The tensors of each fill DATA_BYTES of entry_points.rs, by a mask that is passed over.
DATA_BYTES = 1024
NEOX = {"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 8, "vocab_size": 4, "max_position_embeddings": 8, "rotary_pct": 1.0,
        "use_parallel_residual": True, "hidden_act": "gelu"}
LLAMA = {**NEOX, "architectures": ["LlamaForCausalLM"], "num_key_value_heads": 1, "tie_word_embeddings": True,
         "hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
LAYER = "gpt_neox.layers.0."
NEOX_SHAPES = {"gpt_neox.embed_in.weight": [4, 4], "embed_out.weight": [4, 4], "gpt_neox.final_layer_norm.weight": [4],
               "gpt_neox.final_layer_norm.bias": [4]}
for name, shape in {"input_layernorm": [4], "post_attention_layernorm": [4], "attention.query_key_value": [12, 4],
                    "attention.dense": [4, 4], "mlp.dense_h_to_4h": [8, 4], "mlp.dense_4h_to_h": [4, 8]}.items():
    NEOX_SHAPES |= {f"{LAYER}{name}.weight": shape, f"{LAYER}{name}.bias": shape[:1]}
LAYER = "model.layers.0."
LLAMA_SHAPES = {"model.embed_tokens.weight": [4, 4], "model.norm.weight": [4], f"{LAYER}input_layernorm.weight": [4],
                f"{LAYER}post_attention_layernorm.weight": [4], f"{LAYER}self_attn.q_proj.weight": [4, 4],
                f"{LAYER}self_attn.k_proj.weight": [2, 4], f"{LAYER}self_attn.v_proj.weight": [2, 4],
                f"{LAYER}self_attn.o_proj.weight": [4, 4], f"{LAYER}mlp.up_proj.weight": [8, 4],
                f"{LAYER}mlp.gate_proj.weight": [8, 4], f"{LAYER}mlp.down_proj.weight": [4, 8]}


def header_of(shapes):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    mask = {"dtype": "U8", "shape": [DATA_BYTES - end], "data_offsets": [end, DATA_BYTES]}
    return {**header, "layers.0.attention.bias": mask}


def directory(config, header, *index):
    return "\0".join(json.dumps(part) for part in (config, header, *index))


def whole(header, length=None):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(DATA_BYTES)


neox, llama = header_of(NEOX_SHAPES), header_of(LLAMA_SHAPES)
first = "gpt_neox.embed_in.weight"
lies = {
    "overlapping": {**neox, first: {**neox[first], "data_offsets": [16, 80]}},
    "out_of_range": {**neox, first: {**neox[first], "data_offsets": [2**63, 2**63 + 64]}},
    "backwards": {**neox, first: {**neox[first], "data_offsets": [64, 0]}},
    "overflowing": {**neox, first: {**neox[first], "shape": [2**62, 8]}},
    "other_type": {**neox, first: {"dtype": "F8_E4M3", "shape": [64], "data_offsets": [0, 64]}},
}
places = {name: "a.safetensors" for name in neox if name != "__metadata__"}
write("hugging_face", "neox", directory(NEOX, neox))
write("hugging_face", "llama", directory(LLAMA, llama))
write("hugging_face", "indexed", directory(NEOX, neox, {"metadata": {}, "weight_map": places}))
write("hugging_face", "traversal", directory(NEOX, neox, {"weight_map": {**places, first: "../a.safetensors"}}))
write("hugging_face", "layers", directory({**NEOX, "num_hidden_layers": 100_000}, neox))
for name, header in lies.items():
    write("hugging_face", name, directory(NEOX, header))
    write("safetensors", f"{name}.safetensors", whole(header))
write("safetensors", "neox.safetensors", whole(neox))
write("safetensors", "long_header.safetensors", whole(neox, 2**63))
write("safetensors", "no_header.safetensors", b"\0" * 8)
write("..", "config.json", json.dumps(NEOX) + "\n")


# One rank's file of Megatron-LM: 1 layer of width 4, every storage of at most 256 bytes.
ARGS = dict(
    num_layers=1, hidden_size=4, num_attention_heads=2, max_position_embeddings=8, padded_vocab_size=8, ffn_hidden_size=8,
    kv_channels=2, tensor_model_parallel_size=1, pipeline_model_parallel_size=1, params_dtype=torch.float32,
    exit_signal=signal.SIGTERM, layernorm_epsilon=1e-5, bias_gelu_fusion=True,
)


def megatron_names(legacy, swiglu, bias):
    attention, layer = "self_attention.", "decoder.layers.0."
    names = {
        "embedding.word_embeddings.weight": (8, 4), "embedding.position_embeddings.weight": (8, 4),
        layer + "input_layernorm.weight": (4,), layer + attention + "linear_qkv.weight": (12, 4),
        layer + attention + "linear_proj.weight": (4, 4), layer + "pre_mlp_layernorm.weight": (4,),
        layer + "mlp.linear_fc1.weight": (16 if swiglu else 8, 4), layer + "mlp.linear_fc2.weight": (4, 8),
        "decoder.final_layernorm.weight": (4,),
    }
    if bias:
        names |= {name.replace("weight", "bias"): shape[:1] for name, shape in names.items() if not name.startswith("emb")}
    if swiglu:
        del names["embedding.position_embeddings.weight"]
        names["output_layer.weight"] = (8, 4)
    tensors = OrderedDict((name, torch.ones(shape)) for name, shape in names.items())
    tensors[layer + attention + "linear_qkv._extra_state"] = None
    if not legacy:
        return tensors
    renamed = [("decoder.", ""), ("linear_qkv", "query_key_value"), ("linear_proj", "dense"), ("pre_mlp", "post_attention")]
    renamed += [("linear_fc1", "dense_h_to_4h"), ("linear_fc2", "dense_4h_to_h"), ("self_attention", "attention")]
    embedding = {name.split(".")[1]: {"weight": tensor} for name, tensor in tensors.items() if name.startswith("emb")}
    inner = {}
    for name, tensor in tensors.items():
        if not name.startswith("emb"):
            for old, new in renamed:
                name = name.replace(old, new)
            inner[name] = tensor
    return {"language_model": {"embedding": embedding, "transformer": inner}}


LLAMA_ARGS = dict(
    normalization="RMSNorm", swiglu=True, add_bias_linear=False, position_embedding_type="rope", rotary_interleaved=True,
    untie_embeddings_and_output_weights=True, window_size=(2, 0), window_attn_skip_freq=[1], num_query_groups=1,
)
core = {"args": argparse.Namespace(**ARGS), "checkpoint_version": 3.0, "iteration": 7, "rng_state": [{"np": None}]}
core["model"] = megatron_names(False, False, True)
llama = core | {"args": argparse.Namespace(**ARGS | LLAMA_ARGS), "model": megatron_names(False, True, False)}
oldest = {"args": argparse.Namespace(**ARGS), "iteration": 7, "model": megatron_names(True, False, True)}
cyclic = {}
cyclic["model"] = {"decoder": cyclic, "again": cyclic}
for name, value in {
    "core": core,
    "llama": llama,
    "legacy": oldest,
    "version_1": oldest | {"checkpoint_version": 1.0},
    "virtual": {"args": core["args"], "model0": core["model"], "model1": core["model"]},
    "calls": core | {"args": argparse.Namespace(**ARGS, spec=Runs(os.system, "touch /tmp/kintsugi-was-here"))},
    "cyclic": cyclic,
}.items():
    write("megatron", f"{name}.pkl", data_pkl(saved(value)))
write("..", "megatron.pkl", data_pkl(saved({name: value for name, value in core.items() if name != "args"})))
plain = json.dumps({name: value for name, value in ARGS.items() if isinstance(value, (int, float)) and name != "exit_signal"})
for name, parts in {
    "sound": ("mp_rank_00", "1", plain),
    "release": ("mp_rank_00_000", "release", plain),
    "pipelines": ("mp_rank_01_003", "1", plain[:-1] + ', "pipeline_model_parallel_size": 4}'),
    "huge": ("mp_rank_00", "1", plain.replace("4", "4000000000000000000")),
    "types": ("mp_rank_00", "1", plain[:-1] + ', "swiglu": 3, "window_size": [1], "num_query_groups": "x"}'),
    "rope": ("mp_rank_00", "1", plain[:-1] + ', "position_embedding_type": "rope", "rotary_percent": 1e-300}'),
    "tracker": ("mp_rank_00", "../..", plain),
}.items():
    write("megatron_args", name, "\0".join(parts))
