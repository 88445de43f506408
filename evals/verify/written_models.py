"""Does what `kintsugi merge` writes load in its own framework, and score there what kintsugi says?

Reads the folder that the property test of written models filled (KINTSUGI_WRITTEN): random architectures merged for
transformers or for N ranks of gpt-neox, each with log-likelihoods. Directories for transformers are loaded with
AutoModelForCausalLM, which must miss no weight and find none too many. For gpt-neox every shard is read with torch.load; each
tensor must be one that the modules of gpt-neox have, of the shape that they have on a rank, and none may be missing, as its
strict load_state_dict demands; the forward pass is written after megatron/model/{word_embeddings,transformer,norms}.py, of 2026
or, where a file has the parameter names until 2024-09, of 2024-08, rank by rank, in float64. Norms and positions that it does
not know are counted only. Exits with 1 if anything differs.

    KINTSUGI_WRITTEN=written PROPTEST_CASES=400 cargo test --test evaluation written_models
    python evals/verify/written_models.py written
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml


class Shards:
    """The layer files or rank files of a directory, and an account of what was taken."""

    def __init__(self, folder):
        step = folder / (folder / "latest").read_text().strip()
        texts = [path.read_text() for path in sorted((step / "configs").iterdir())]
        self.config = {key.replace("-", "_"): value for text in texts for key, value in yaml.safe_load(text).items()}
        self.ranks = self.config["model_parallel_size"]
        self.left = {}
        for path in sorted(step.glob("*.pt")):
            content = torch.load(path, map_location="cpu", weights_only=False)
            if layer := re.fullmatch(r"layer_(\d+)-model_(\d+)-model_states.pt", path.name):
                stage, rank = map(int, layer.groups())
                tensors = {(stage, name): tensor for name, tensor in content.items()}
            elif content["module"] is not None:
                rank = int(path.name.split("_")[2])
                tensors = {}
                for name, tensor in content["module"].items():
                    _, stage, name = name.split(".", 2)
                    tensors[int(stage), name] = tensor
            else:
                continue
            self.left.update({(rank, *key): tensor for key, tensor in tensors.items()})

    def has(self, stage, name):
        return (0, stage, name) in self.left

    def take(self, stage, names, shape):
        """One rank's tensor after another, under the first of these names that there is."""
        name = next((name for name in names if self.has(stage, name)), names[0])
        tensors = [self.left.pop((rank, stage, name)) for rank in range(self.ranks)]
        for tensor in tensors:
            assert tuple(tensor.shape) == tuple(shape), (stage, name, tuple(tensor.shape), tuple(shape))
        return [tensor.double() for tensor in tensors]


class Unknown(Exception):
    """Something that this forward pass does not have."""


class NeoX:
    def __init__(self, folder):
        shards = Shards(folder)
        config = self.config = shards.config
        self.ranks, hidden = shards.ranks, config["hidden_size"]
        heads = config["num_attention_heads"]
        self.head_size, self.heads = hidden // heads, heads // self.ranks
        kv_heads = config.get("num_kv_heads") or heads
        self.grouped, self.kv_heads = kv_heads != heads, kv_heads // self.ranks
        self.parallel, self.tied = config.get("gpt_j_residual", False), config.get("gpt_j_tied", False)
        self.norm, activation = config["norm"], config["activation"]
        self.gated = activation.endswith("glu")
        positions = config["pos_emb"]
        if positions not in ("rotary", "learned", "alibi"):
            raise Unknown
        self.legacy = any("dense_h_to_4h" in name for _, _, name in shards.left)
        layers = range(2, 2 + config["num_layers"])
        rows = {tuple(t.shape)[0] for (_, stage, name), t in shards.left.items() if name == "word_embeddings.weight"}
        rows = rows.pop()
        self.embedding = shards.take(0, ["word_embeddings.weight"], [rows, hidden])
        self.positions, self.rotary = None, positions == "rotary"
        if positions == "learned":
            self.positions = shards.take(0, ["position_embeddings.weight"], [config["max_position_embeddings"], hidden])
        self.layers = [self.layer(shards, stage, hidden) for stage in layers]
        last = layers[-1] + 2
        self.final = self.norm_of(shards, last, "norm", hidden)
        self.row_head = config.get("output_layer_parallelism", "column") == "row"
        if config.get("no_weight_tying"):
            shape = [rows * self.ranks, hidden // self.ranks] if self.row_head else [rows, hidden]
            self.head = shards.take(last + 1, ["final_linear.weight"], shape)
        else:
            self.head, self.row_head = self.embedding, False
        if shards.left:
            raise AssertionError(f"not gpt-neox's: {sorted(shards.left)}")

    def norm_of(self, shards, stage, name, hidden):
        if self.norm == "rmsnorm":
            return shards.take(stage, [f"{name}.scale"], [hidden]), None
        if self.norm == "scalenorm":
            return shards.take(stage, [f"{name}.g"], [1]), None
        if self.norm == "layernorm":
            return tuple(shards.take(stage, [f"{name}.{part}"], [hidden]) for part in ("weight", "bias"))
        return None, None

    def layer(self, shards, stage, hidden):
        def linear(names, rows, columns, bias, bias_rows):
            weight = shards.take(stage, [f"{name}.weight" for name in names], [rows, columns])
            return weight, shards.take(stage, [f"{name}.bias" for name in names], [bias_rows]) if bias else None

        attention_bias, mlp_bias = (self.config.get(f"use_bias_in_{part}", True) for part in ("attn_linear", "mlp"))
        mlp = next(name for name in ("mlp.linear1", "mlp.dense_h_to_4h") if shards.has(stage, f"{name}.weight"))
        width = shards.left[0, stage, f"{mlp}.weight"].shape[0]
        inner = width // 2 if self.gated else width
        own = self.heads * self.head_size
        key_value = self.kv_heads * self.head_size
        if shards.has(stage, "attention.rotary_emb.inv_freq"):
            turned = int(self.head_size * self.config["rotary_pct"])
            shards.take(stage, ["attention.rotary_emb.inv_freq"], [turned // 2])
        slopes = "attention.alibi_embed.slopes"
        return {
            "slopes": shards.take(stage, [slopes], [self.heads]) if shards.has(stage, slopes) else None,
            "input": self.norm_of(shards, stage, "input_layernorm", hidden),
            "post": self.norm_of(shards, stage, "post_attention_layernorm", hidden),
            "qkv": linear(["attention.query_key_value"], own + 2 * key_value, hidden, attention_bias, own + 2 * key_value),
            "dense": linear(["attention.dense"], hidden, own, attention_bias, hidden),
            "in": linear([mlp], width, hidden, mlp_bias, width),
            "out": linear(["mlp.linear2", "mlp.dense_4h_to_h"], hidden, inner, mlp_bias, hidden),
        }

    def normalise(self, norm, rank, x):
        gain, bias = (part[rank] if part else None for part in norm)
        if self.norm == "rmsnorm":
            epsilon = self.config.get("rms_norm_epsilon", 1e-8)
            square = x.pow(2).mean(-1, keepdim=True)
            # Until 2024-09 (the legacy names) epsilon is added to the root.
            return gain * (x / (square.sqrt() + epsilon) if self.legacy else x / (square + epsilon).sqrt())
        if self.norm == "scalenorm":
            return gain * x / x.norm(dim=-1, keepdim=True).clamp(min=self.config.get("scalenorm_epsilon", 1e-8))
        return F.layer_norm(x, x.shape[-1:], gain, bias, self.config.get("layernorm_epsilon", 1e-5))

    def rotate(self, x):
        """x: [heads, tokens, head size]."""
        dims = int(self.head_size * self.config.get("rotary_pct", 1.0))
        base = self.config.get("rotary_emb_base", 10000)
        frequencies = 1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims)
        angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat([angles, angles], -1)
        turned, rest = x[..., :dims], x[..., dims:]
        half = torch.cat([-turned[..., dims // 2 :], turned[..., : dims // 2]], -1)
        return torch.cat([turned * angles.cos().double() + half * angles.sin().double(), rest], -1)

    def attention(self, layer, rank, x):
        weight, bias = layer["qkv"]
        qkv = F.linear(x, weight[rank], bias[rank] if bias else None)
        tokens, size = x.shape[0], self.head_size
        if self.grouped:
            if self.legacy:
                # A share of the keys and values behind each head's queries.
                share = size * self.kv_heads // self.heads
                parts = qkv.view(tokens, self.heads, -1).split([size, share, share], -1)
                qkv = torch.cat([part.reshape(tokens, -1) for part in parts], -1)
            parts = qkv.split([self.heads * size, self.kv_heads * size, self.kv_heads * size], -1)
            query, key, value = (part.view(tokens, -1, size).transpose(0, 1) for part in parts)
            key, value = (part.repeat_interleave(self.heads // self.kv_heads, 0) for part in (key, value))
        else:
            query, key, value = qkv.view(tokens, self.heads, 3, size).permute(2, 1, 0, 3)
        if self.rotary:
            query, key = self.rotate(query), self.rotate(key)
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        hidden = distance < 0
        kinds = self.config.get("attention_config") or [[["global"], "all"]]
        if kinds[0][0] == ["flash"] and self.config.get("sliding_window_width"):
            hidden |= distance > self.config["sliding_window_width"]
        scores = query @ key.transpose(1, 2) / size**0.5
        if layer["slopes"]:
            scores = scores - layer["slopes"][rank][:, None, None] * distance
        scores = scores.masked_fill(hidden, float("-inf"))
        context = (scores.softmax(-1) @ value).transpose(0, 1).reshape(tokens, -1)
        return context @ layer["dense"][0][rank].T, layer["dense"][1][rank] if layer["dense"][1] else 0.0

    def mlp(self, layer, rank, x):
        weight, bias = layer["in"]
        x = F.linear(x, weight[rank], bias[rank] if bias else None)
        name = self.config["activation"]
        tanh = self.config.get("bias_gelu_fusion", False)
        gelu = lambda x: F.gelu(x, approximate="tanh" if tanh else "none")
        acts = {"gelu": gelu, "relu": F.relu, "silu": F.silu, "softsign": F.softsign, "swiglu": F.silu, "geglu": gelu}
        if self.gated:
            up, gate = x.chunk(2, -1)
            x = up * acts[name](gate)
        else:
            x = acts[name](x)
        return x @ layer["out"][0][rank].T, layer["out"][1][rank] if layer["out"][1] else 0.0

    def logits(self, ids):
        ranks = range(self.ranks)
        word = torch.cat(self.embedding)[ids]
        streams = [word + (self.positions[rank][: len(ids)] if self.positions else 0.0) for rank in ranks]
        for layer in self.layers:
            normed = [self.normalise(layer["input"], rank, streams[rank]) for rank in ranks]
            attended = [self.attention(layer, rank, normed[rank]) for rank in ranks]
            if self.parallel:
                # Biases are added before the one reduction of both.
                read = normed if self.tied else [self.normalise(layer["post"], rank, streams[rank]) for rank in ranks]
                fed = [self.mlp(layer, rank, read[rank]) for rank in ranks]
                # Since 2024-09-10 the attention is lost where the MLP has no bias.
                kept = self.legacy or layer["out"][1]
                added = sum(out + bias for out, bias in (attended + fed if kept else fed))
                streams = [stream + added for stream in streams]
                continue
            total = sum(out for out, _ in attended)
            streams = [streams[rank] + total + attended[rank][1] for rank in ranks]
            fed = [self.mlp(layer, rank, self.normalise(layer["post"], rank, streams[rank])) for rank in ranks]
            total = sum(out for out, _ in fed)
            streams = [streams[rank] + total + fed[rank][1] for rank in ranks]
        final = [self.normalise(self.final, rank, streams[rank]) for rank in ranks]
        if self.row_head:
            parts = [x.chunk(self.ranks, -1)[rank] for rank, x in enumerate(final)]
            return sum(part @ weight.T for part, weight in zip(parts, self.head))
        return torch.cat([x @ weight.T for x, weight in zip(final, self.head)], -1)


def transformers_logits(folder):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
    # A tied head has no weight of its own.
    assert not wrong or list(wrong) == ["missing_keys"] and model.config.tie_word_embeddings, wrong
    return type(model).__name__, lambda ids: model(ids[None]).logits[0]


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of a log-likelihood, relative above 1")
    arguments = parser.parse_args()
    counts, worst, failures = Counter(), Counter(), 0
    for case in sorted(arguments.folder.iterdir()):
        model, known = case / "model", json.loads((case / "scores.json").read_text())
        try:
            if (model / "config.json").exists():
                kind, logits = transformers_logits(model)
            else:
                kind, logits = f"gpt-neox, {Shards(model).ranks} ranks", NeoX(model).logits
        except Unknown:
            counts["gpt-neox, read only"] += 1
            continue
        except Exception as error:
            print(f"{case}: {type(error).__name__}: {error}")
            failures += 1
            continue
        counts[kind] += 1
        for (context, target), expected in zip(known["pairs"], known["loglikelihoods"]):
            whole = torch.tensor(context + target)
            rows = torch.log_softmax(logits(whole[:-1]).double(), -1)[len(context) - 1 :]
            found = rows.gather(1, torch.tensor(target)[:, None]).sum().item()
            difference = abs(found - expected) / max(1.0, abs(expected))
            worst[kind] = max(worst[kind], difference)
            if not difference <= arguments.tolerance:
                print(f"{case}: {kind}: expected {expected}, found {found}")
                failures += 1
                break
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count} models, largest difference {worst[kind]:.1e}")
    print("agree" if not failures else f"{failures} DIFFER")
    sys.exit(bool(failures) or not counts)


if __name__ == "__main__":
    main()
