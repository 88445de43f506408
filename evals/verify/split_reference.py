"""An independent splitter: a directory of transformers as the layer files that gpt-neox loads on N ranks.

Written after gpt-neox's modules (megatron/model/{word_embeddings,transformer,norms}.py, megatron/mpu/layers.py,
megatron/tokenizer/tokenizer.py; names since 2024-09), with torch and nothing of kintsugi. For GPTNeoXForCausalLM and
LlamaForCausalLM, tied or not, with or without biases, any number of key-value heads that divides among the ranks.

- Column-parallel (queries, keys, values; the MLP's input): equal parts of the rows, in which each head holds q | k | v. With
  fewer key-value heads a rank holds [Q | K | V]; a gated MLP's input is [up | gate] on each rank.
- Row-parallel weights (the outputs of attention and MLP): equal parts of the columns.
- Row-parallel biases: with a parallel residual the all-reduce adds them up. Each rank but the first holds bias / N rounded to
  the type, the first what remains, bias - (N - 1) * part, rounded too. With a sequential residual each rank holds the bias.
- Norms: a copy on each rank. Vocabulary: rows of zeros up to a multiple of 128 * N, then equal parts.

-o writes the files, without a configuration. --against compares them bit for bit with the layer files of a checkpoint (the
MLP's names until 2024-09 count as those since), prints each tensor that differs, and exits with 1 if any does.

    kintsugi merge MODEL -o SPLIT --format neox --tensor-parallel 3
    python evals/verify/split_reference.py MODEL 3 --against SPLIT
"""

import argparse
import json
import sys
from pathlib import Path

import torch

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
# embedding, blocks, final norm, head; parts of a norm: gpt-neox's name and transformers'
NEOX = "gpt_neox.embed_in", "gpt_neox.layers", "gpt_neox.final_layer_norm", "embed_out", {"weight": "weight", "bias": "bias"}
LLAMA = "model.embed_tokens", "model.layers", "model.norm", "lm_head", {"scale": "weight"}
# queries, keys and values; their output; the MLP's input and output
NEOX_BLOCK = ["attention.query_key_value"], "attention.dense", ["mlp.dense_h_to_4h"], "mlp.dense_4h_to_h"
LLAMA_BLOCK = [f"self_attn.{x}_proj" for x in "qkv"], "self_attn.o_proj", ["mlp.up_proj", "mlp.gate_proj"], "mlp.down_proj"


def read(model):
    tensors = {}
    for path in sorted(model.glob("*.safetensors")):
        content = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = (start + offset for offset in entry["data_offsets"])
                tensors[name] = torch.frombuffer(content[begin:end], dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def parts(tensor, ranks, dim=0):
    assert tensor.shape[dim] % ranks == 0, f"{tuple(tensor.shape)} does not divide among {ranks} ranks"
    return tensor.chunk(ranks, dim)


def vocabulary(tensor, ranks):
    return parts(torch.cat([tensor, tensor.new_zeros(-len(tensor) % (128 * ranks), tensor.shape[1])]), ranks)


def column_parallel(tensors, ranks):
    return [torch.cat(own) for own in zip(*(parts(tensor, ranks) for tensor in tensors))]


def row_parallel(tensor, ranks, summed):
    if tensor.dim() == 2:
        return parts(tensor, ranks, dim=1)
    if not summed or ranks == 1:
        return [tensor] * ranks
    part = (tensor.double() / ranks).to(tensor.dtype)
    rest = (tensor.double() - part.double() * (ranks - 1)).to(tensor.dtype)
    return [torch.where(tensor == 0, tensor, rest)] + [part] * (ranks - 1)  # a sum of -0 is -0


def split(tensors, config, ranks):
    """{number of the file: {gpt-neox's name: the ranks' tensors}}"""
    neox, layers, heads = config["model_type"] == "gpt_neox", config["num_hidden_layers"], config["num_attention_heads"]
    embedding, blocks, final_norm, head, norm_parts = NEOX if neox else LLAMA
    qkv_names, dense_name, mlp_in_names, mlp_out_name = NEOX_BLOCK if neox else LLAMA_BLOCK
    summed = neox and config.get("use_parallel_residual", True)
    norm = lambda ours, theirs: {f"{ours}.{a}": [tensors[f"{theirs}.{b}"]] * ranks for a, b in norm_parts.items()}
    files = {0: {"word_embeddings.weight": vocabulary(tensors[f"{embedding}.weight"], ranks)}}
    for layer in range(layers):
        block = f"{blocks}.{layer}"
        names = "input_layernorm", "post_attention_layernorm"
        file = files[2 + layer] = {key: copies for name in names for key, copies in norm(name, f"{block}.{name}").items()}
        for kind in ("weight", "bias"):
            of = lambda name: tensors.get(f"{block}.{name}.{kind}")
            qkv, mlp_in = [of(name) for name in qkv_names], [of(name) for name in mlp_in_names]
            if qkv[0] is not None:
                if len(qkv) == 3 and qkv[0].shape == qkv[1].shape:
                    qkv = [torch.stack([tensor.unflatten(0, (heads, -1)) for tensor in qkv], 1).flatten(0, 2)]
                file[f"attention.query_key_value.{kind}"] = column_parallel(qkv, ranks)
                file[f"attention.dense.{kind}"] = row_parallel(of(dense_name), ranks, summed)
            if mlp_in[0] is not None:
                file[f"mlp.linear1.{kind}"] = column_parallel(mlp_in, ranks)
                file[f"mlp.linear2.{kind}"] = row_parallel(of(mlp_out_name), ranks, summed)
    files[layers + 3] = norm("norm", final_norm)
    if not config.get("tie_word_embeddings", False):
        files[layers + 4] = {"final_linear.weight": vocabulary(tensors[f"{head}.weight"], ranks)}
    return {f"layer_{number:02}-model_{rank:02}-model_states.pt": {name: shards[rank] for name, shards in file.items()}
            for number, file in files.items() for rank in range(ranks)}


def difference(a, b):
    """What distinguishes two tensors, in words; nothing if they are the same bits."""
    if a is None or b is None:
        return "missing" if b is None else "unexpected"
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} {list(a.shape)}, found {b.dtype} {list(b.shape)}"
    count = (a.contiguous().view(torch.uint8) != b.contiguous().view(torch.uint8)).sum().item()
    return f"{count} bytes differ, values by up to {(a.double() - b.double()).abs().max():.1e}" if count else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory of transformers, with safetensors")
    parser.add_argument("ranks", type=int)
    parser.add_argument("-o", "--output-dir", type=Path)
    parser.add_argument("--against", type=Path, help="checkpoint to compare with")
    arguments = parser.parse_args()
    files = split(read(arguments.model), json.loads((arguments.model / "config.json").read_text()), arguments.ranks)
    if folder := arguments.output_dir:
        (folder / "global_step0").mkdir(parents=True)
        (folder / "latest").write_text("global_step0")
        for name, file in files.items():
            torch.save({key: tensor.clone() for key, tensor in file.items()}, folder / "global_step0" / name)
    if arguments.against:
        step = arguments.against / (arguments.against / "latest").read_text().strip()
        found = {path.name: torch.load(path, weights_only=True) for path in step.glob("layer_*-model_*-model_states.pt")}
        since = lambda name: name.replace("dense_h_to_4h", "linear1").replace("dense_4h_to_h", "linear2")
        ours = {(file, key): tensor for file, entries in files.items() for key, tensor in entries.items()}
        theirs = {(file, since(key)): tensor for file, entries in found.items() for key, tensor in entries.items()}
        differing = {key: text for key in sorted(ours | theirs) if (text := difference(ours.get(key), theirs.get(key)))}
        print("\n".join(f"{file}: {key}: {text}" for (file, key), text in differing.items()) or "bit-identical")
        print(f"{len(ours)} tensors, {len(differing)} differ")
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()
