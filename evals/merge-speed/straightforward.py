"""The merge as most people would write it: load every rank's file, join, save. Norms are averaged, row-parallel biases
summed, everything else is joined along the dimension it was split on. One layer at a time.

    python evals/merge-speed/straightforward.py CHECKPOINT/global_stepN OUTPUT
"""

import re
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import torch

ROWS = ("word_embeddings.weight", "query_key_value.weight", "query_key_value.bias", "linear1.weight", "linear1.bias",
        "dense_h_to_4h.weight", "dense_h_to_4h.bias", "final_linear.weight")
COLUMNS = ("dense.weight", "linear2.weight", "dense_4h_to_h.weight")
SUMMED = ("dense.bias", "linear2.bias", "dense_4h_to_h.bias")


def join(name, tensors):
    if name.endswith(ROWS):
        return torch.cat(tensors, 0)
    if name.endswith(COLUMNS):
        return torch.cat(tensors, 1)
    if name.endswith(SUMMED):
        return torch.stack(tensors).sum(0)
    return torch.stack(tensors).mean(0)


def main(source, target):
    target.mkdir(parents=True)
    ranks = defaultdict(list)
    for path in sorted(source.glob("layer_*-model_*-model_states.pt")):
        ranks[re.match(r"layer_\d+", path.name)[0]].append(path)
    for layer, paths in ranks.items():
        shards = [torch.load(path, weights_only=True) for path in paths]
        merged = {name: join(name, [shard[name] for shard in shards]) for name in shards[0]}
        torch.save(merged, target / f"{layer}-model_00-model_states.pt")
    shutil.copy(source / "mp_rank_00_model_states.pt", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
