"""Makes a Megatron-LM checkpoint of a 70B model whose files are sparse: 137 GB that take a few megabytes of disk.

    python benches/sparse_megatron.py FOLDER        # TP 8 x PP 4, 80 layers of Llama 2 70B's shape, bfloat16

Matrices are holes (zeros, without a checksum); gains are 1, and on every other tensor-parallel rank 1.0078125. It is for
measuring what looks at all files of a large checkpoint: `inspect` reads every gain of it.
"""

import struct
import sys
import zipfile
from pathlib import Path

TENSOR, PIPELINE, LAYERS = 8, 4, 80
HIDDEN, HEADS, GROUPS, HEAD, FFN, VOCABULARY = 8192, 64, 8, 128, 28672, 32768
ARGS = dict(
    num_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=HEADS, group_query_attention=True, num_query_groups=GROUPS,
    kv_channels=HEAD, ffn_hidden_size=FFN, max_position_embeddings=4096, seq_length=4096, padded_vocab_size=VOCABULARY,
    make_vocab_size_divisible_by=128, normalization="RMSNorm", layernorm_epsilon=1e-5, swiglu=True, add_bias_linear=False,
    add_qkv_bias=False, position_embedding_type="rope", rotary_base=10000, rotary_percent=1.0, sequence_parallel=True,
    untie_embeddings_and_output_weights=True, tensor_model_parallel_size=TENSOR, pipeline_model_parallel_size=PIPELINE,
)


def names(stage):
    if stage == 0:
        yield "embedding.word_embeddings.weight", (VOCABULARY // TENSOR, HIDDEN)
    for layer in range(LAYERS // PIPELINE):
        prefix = f"decoder.layers.{layer}."
        yield prefix + "self_attention.linear_qkv.layer_norm_weight", (HIDDEN,)
        yield prefix + "self_attention.linear_qkv.weight", ((HEADS + 2 * GROUPS) * HEAD // TENSOR, HIDDEN)
        yield prefix + "self_attention.linear_proj.weight", (HIDDEN, HEADS * HEAD // TENSOR)
        yield prefix + "mlp.linear_fc1.layer_norm_weight", (HIDDEN,)
        yield prefix + "mlp.linear_fc1.weight", (2 * FFN // TENSOR, HIDDEN)
        yield prefix + "mlp.linear_fc2.weight", (HIDDEN, FFN // TENSOR)
    if stage == PIPELINE - 1:
        yield "decoder.final_layernorm.weight", (HIDDEN,)
        yield "output_layer.weight", (VOCABULARY // TENSOR, HIDDEN)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def plain(value):
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    return text(value) if isinstance(value, str) else b"G" + struct.pack(">d", value)


def tensor(storage, shape):
    count = 1
    strides = []
    for extent in reversed(shape):
        strides.insert(0, count)
        count *= extent
    sizes = b"".join(b"(" + b"".join(map(plain, sizes)) + b"t" for sizes in (shape, strides))
    place = b"(" + text("storage") + b"ctorch\nBFloat16Storage\n" + text(str(storage)) + text("cpu") + plain(count) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + plain(0) + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def write(path, stage, rank):
    tensors = list(names(stage))
    fields = b"".join(text(name) + plain(value) for name, value in ARGS.items())
    model = b"".join(text(name) + tensor(number, shape) for number, (name, shape) in enumerate(tensors))
    root = text("args") + b"cargparse\nNamespace\n)\x81}(" + fields + b"ub"
    root += text("checkpoint_version") + plain(3.0) + text("iteration") + plain(7)
    root += text("model") + b"ccollections\nOrderedDict\n)R(" + model + b"u"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_optim_rng/data.pkl", b"\x80\x02}(" + root + b"u.")
        archive.writestr("model_optim_rng/byteorder", b"little")
        for number, (_, shape) in enumerate(tensors):
            name = f"model_optim_rng/data/{number}"
            if len(shape) == 1:
                archive.writestr(name, struct.pack("<H", 0x3F80 + rank % 2) * shape[0])
                continue
            # As `writestr`, with a hole instead of the bytes.
            entry = zipfile.ZipInfo(name)
            entry.CRC = 0
            entry.file_size = entry.compress_size = 2 * shape[0] * shape[1]
            entry.header_offset = archive.fp.tell()
            archive.fp.write(entry.FileHeader(False))
            archive.fp.seek(entry.file_size, 1)
            archive.start_dir = archive.fp.tell()
            archive.filelist.append(entry)
            archive.NameToInfo[name] = entry


folder = Path(sys.argv[1])
for stage in range(PIPELINE):
    for rank in range(TENSOR):
        write(folder / f"iter_0000007/mp_rank_{rank:02}_{stage:03}/model_optim_rng.pt", stage, rank)
(folder / "latest_checkpointed_iteration.txt").write_text("7")
