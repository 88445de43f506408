"""Makes a distributed checkpoint of Megatron-LM of a 70B model whose files are sparse: 137 GB that take a few megabytes of disk.

    python benches/sparse_torch_dist.py FOLDER        # TP 8, 80 layers of Llama 2 70B's shape, bfloat16

Matrices are holes (zeros, without a checksum), gains are 1. It is for measuring what reads a large checkpoint layer by layer.
Needs no torch: classes of its names are pickled in its place.
"""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
import zlib
from pathlib import Path

from sparse_megatron import ARGS, FFN, GROUPS, HEAD, HEADS, HIDDEN, LAYERS, TENSOR, VOCABULARY, plain, tensor, text

METADATA = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"


def of_torch(module, name, **methods):
    made = type(name, (), {"__module__": module, "__qualname__": name, **methods})
    setattr(sys.modules.setdefault(module, types.ModuleType(module)), name, made)
    return made


def with_state(cls, **state):
    made = cls()
    made.__dict__.update(state)
    return made


Size = of_torch("torch", "Size", __init__=lambda self, sizes: setattr(self, "sizes", sizes), __reduce__=lambda self: (Size, (self.sizes,)))
Type = of_torch("torch", "Type", __reduce__=lambda self: "bfloat16")
sys.modules["torch"].bfloat16 = Type()
Properties = of_torch(METADATA, "TensorProperties", __getstate__=lambda self: (sys.modules["torch"].bfloat16, None, False, None, False))
Tensor, Chunk, Index, Metadata = (
    of_torch(METADATA, name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata", "MetadataIndex", "Metadata")
)
Place = of_torch(FILESYSTEM, "_StorageInfo")

# Name, shape without the layers, and the dimension that is divided among the ranks.
IN_LAYERS = [
    ("self_attention.linear_qkv.layer_norm_weight", (HIDDEN,), None),
    ("self_attention.linear_qkv.weight", ((HEADS + 2 * GROUPS) * HEAD, HIDDEN), 0),
    ("self_attention.linear_proj.weight", (HIDDEN, HEADS * HEAD), 1),
    ("mlp.linear_fc1.layer_norm_weight", (HIDDEN,), None),
    ("mlp.linear_fc1.weight", (2 * FFN, HIDDEN), 0),
    ("mlp.linear_fc2.weight", (HIDDEN, FFN), 1),
]
OUTER = [
    ("embedding.word_embeddings.weight", (VOCABULARY, HIDDEN), 0),
    ("decoder.final_layernorm.weight", (HIDDEN,), None),
    ("output_layer.weight", (VOCABULARY, HIDDEN), 0),
]


def item(file, shape):
    """An archive of one tensor; returns where it is."""
    start, directory = file.tell(), b""
    bytes_of = [("data.pkl", b"\x80\x02" + tensor(0, shape) + b"."), ("byteorder", b"little"), ("data/0", None)]
    for name, content in bytes_of:
        size, crc = 2, 0
        for extent in shape:
            size *= extent
        if content is None and max(shape) == size // 2:
            content = struct.pack("<H", 0x3F80) * (size // 2)
        if content is not None:
            size, crc = len(content), zlib.crc32(content)
        name = f"archive/{name}".encode()
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0x21, crc, size, size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, file.tell() - start) + name
        file.write(b"PK\3\4" + fields + name)
        file.write(content) if content is not None else file.seek(size, io.SEEK_CUR)
    at = file.tell() - start
    file.write(directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 3, 3, len(directory), at, 0))
    return start, file.tell() - start


def main(folder):
    step = folder / "iter_0000007"
    step.mkdir(parents=True)
    files = [open(step / f"__{rank}_0.distcp", "wb") for rank in range(TENSOR)]
    tensors, places = {}, {}
    for name, shape, dim in [(f"decoder.layers.{name}", (LAYERS, *shape), dim) for name, shape, dim in IN_LAYERS] + OUTER:
        layered = name.startswith("decoder.layers.")
        chunks = []
        for layer in range(LAYERS if layered else 1):
            for rank in range(TENSOR if dim is not None else 1):
                offsets, sizes = [0] * len(shape), list(shape)
                if layered:
                    offsets[0], sizes[0] = layer, 1
                if dim is not None:
                    sizes[dim + layered] //= TENSOR
                    offsets[dim + layered] = rank * sizes[dim + layered]
                start, length = item(files[rank], tuple(sizes))
                chunks.append(with_state(Chunk, offsets=Size(tuple(offsets)), sizes=Size(tuple(sizes))))
                index = with_state(Index, fqn=name, offset=Size(tuple(offsets)), index=None)
                places[index] = with_state(Place, relative_path=f"__{rank}_0.distcp", offset=start, length=length)
        tensors[name] = with_state(Tensor, properties=Properties(), size=Size(shape), chunks=chunks)
    metadata = with_state(Metadata, state_dict_metadata=tensors, planner_data=None, storage_data=places)
    (step / ".metadata").write_bytes(pickle.dumps(metadata, 4))
    (step / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
    fields = b"".join(text(name) + plain(value) for name, value in ARGS.items())
    root = b"\x80\x02}(" + text("args") + b"cargparse\nNamespace\n)\x81}(" + fields + b"ub" + text("iteration") + plain(7) + b"u."
    with zipfile.ZipFile(step / "common.pt", "w") as archive:
        archive.writestr("common/data.pkl", root)
    (folder / "latest_checkpointed_iteration.txt").write_text("7")


main(Path(sys.argv[1]))
