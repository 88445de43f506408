"""Random tiny models of every class that is read, written by transformers, and what transformers computes with them.

Each folder holds config.json and weights in one of the forms that save_pretrained has written over the years, and
expected.json: passages of token ids, and the log-probability of each target token in float64.

    python evals/verify/hugging_face_models.py models --count 300
    KINTSUGI_HUGGING_FACE=models cargo test --test evaluation models_of_transformers
"""

import argparse
import copy
import json
import random
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/fixtures/hugging_face"))
from make_fixtures import pickled, scatter, write_expected


def rope(pick, base):
    """Under the keys of transformers 5 or of 4."""
    scaled = pick([
        {},
        {"rope_type": "linear", "factor": pick([2.0, 3.5])},
        {
            "rope_type": "llama3",
            "factor": pick([4.0, 8.0]),
            "low_freq_factor": 1.0,
            "high_freq_factor": pick([2.0, 4.0]),
            "original_max_position_embeddings": pick([8, 20, 64]),
        },
    ])
    if pick([True, False]):
        return {"rope_parameters": {"rope_type": "default", **scaled, "rope_theta": base}}
    if scaled and pick([True, False]):
        scaled["type"] = scaled.pop("rope_type")
    return {"rope_theta": base, **({"rope_scaling": scaled} if scaled else {})}


def windows(pick, layers):
    if pick([True, False]):
        return {"use_sliding_window": False, "sliding_window": pick([None, 4096, 3])}
    types = pick([None, [pick(["full_attention", "sliding_attention"]) for _ in range(layers)]])
    return {
        "use_sliding_window": True,
        "sliding_window": pick([2, 4, 7]),
        "max_window_layers": pick([0, 0, 1, layers]),
        **({"layer_types": types} if types else {}),
    }


def config(seed):
    chance = random.Random(seed)
    pick = chance.choice
    kind = pick(["GPTNeoX", "Llama", "Mistral", "Qwen2", "Qwen3", "GPT2"])
    heads, size, layers = pick([2, 4]), pick([4, 6, 8]), pick([1, 2, 3])
    hidden = heads * size
    common = dict(vocab_size=40, tie_word_embeddings=pick([True, False]), bos_token_id=None, eos_token_id=None)
    if kind == "GPT2":
        keys = dict(
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_positions=32,
            n_inner=pick([None, 20]),
            activation_function=pick(["gelu_new", "gelu_new", "gelu", "relu", "silu", "relu2"]),
            layer_norm_epsilon=pick([1e-5, 1e-3]),
            reorder_and_upcast_attn=pick([True, False]),
        )
    else:
        keys = dict(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=pick([20, 24]),
            max_position_embeddings=32,
        )
    if kind == "GPTNeoX":
        keys |= dict(
            hidden_act=pick(["gelu", "gelu_fast", "relu", "relu2"]),
            rotary_pct=pick([0.5, 1.0]) if size == 4 else pick([0.34, 1.0]),
            rotary_emb_base=pick([10000, 500]),
            use_parallel_residual=pick([True, False]),
            attention_bias=pick([True, False]),
            layer_norm_eps=pick([1e-5, 1e-3]),
        )
        scaled = rope(pick, 1).get("rope_scaling")
        keys |= {"rope_scaling": scaled} if scaled else {}
    elif kind != "GPT2":
        keys |= dict(
            num_key_value_heads=pick([heads, heads // 2, 1]),
            hidden_act=pick(["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]),
            rms_norm_eps=pick([1e-6, 1e-3]),
            **rope(pick, pick([10000.0, 500.0])),
        )
        if kind == "Qwen3" or pick([True, False]):
            keys["head_dim"] = pick([size, size + 2, 4])
    if kind in ("Qwen2", "Qwen3"):
        keys |= windows(pick, layers)
    if kind == "Mistral":
        keys["sliding_window"] = pick([None, 3, 6, 100])
    if kind in ("Llama", "Qwen3"):
        keys["attention_bias"] = pick([True, False])
    if kind == "Llama":
        keys["mlp_bias"] = pick([True, False])
    return kind, keys | common, chance


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    for seed in range(arguments.count):
        kind, keys, chance = config(seed)
        settings = getattr(transformers, f"{kind}Config")(**keys)
        name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
        model = scatter(getattr(transformers, name)._from_config(settings, attn_implementation="eager"), seed)
        folder = arguments.folder / f"{seed:04}-{kind.lower()}"
        folder.mkdir(parents=True, exist_ok=True)
        form = chance.choice(["whole", "sharded", "pickled", "headless"])
        if form == "headless" and kind == "GPT2" and settings.tie_word_embeddings:
            # As the published GPT-2: the model without its head, under the class that has one.
            model.transformer.save_pretrained(folder)
            saved = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(saved | {"architectures": [name]}))
        elif form == "pickled":
            pickled(model, folder, chance.choice([1, 2]))
        else:
            model.save_pretrained(folder, max_shard_size="4KB" if form == "sharded" else "1GB")
        if chance.random() < 0.3:
            # The keys as they were given, as in files of transformers 4.
            saved = json.loads((folder / "config.json").read_text())
            for key in ("rope_parameters", "layer_types"):
                saved.pop(key, None)
            given = {key: value for key, value in keys.items() if key != "rope_parameters"}
            if "rope_parameters" in keys:
                theta = {"rope_theta": keys["rope_parameters"]["rope_theta"]}
                scaled = {key: value for key, value in keys["rope_parameters"].items() if key != "rope_theta"}
                given |= theta | ({"rope_scaling": scaled} if scaled["rope_type"] != "default" else {})
            (folder / "config.json").write_text(json.dumps(saved | given))
        exact = copy.deepcopy(model).double()
        for module in exact.modules():
            # It computes in float32, whatever the model is in.
            if hasattr(module, "reorder_and_upcast_attn"):
                module.reorder_and_upcast_attn = False
        write_expected(exact, folder)


if __name__ == "__main__":
    main()
