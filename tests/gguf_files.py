"""GGUF files that tests write with the library `gguf`."""

from dataclasses import replace

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from helpers import TINY

# rows of 256 numbers hold a block of every quantisation
SHAPE = replace(
    TINY,
    hidden_size=256,
    intermediate_size=512,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=300,
    model_type="llama",
)
OURS_BY_THEIRS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}<eos>{% endfor %}"


def gguf_name(name):
    """llama.cpp's name of one of ours."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    stem, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{OURS_BY_THEIRS[stem]}.{suffix}"


def interleaved(values, heads):
    """llama.cpp's order of query and key rows: its convert script's own formula."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def vocabulary(size):
    """Bytes, two merges, specials at the end."""
    alphabet = [chr(256 + n) if n < 33 or 126 < n < 161 or n == 173 else chr(n) for n in range(256)]
    tokens = [*dict.fromkeys(alphabet), "in", "ing", "<bos>", "<eos>"]
    return tokens + [f"<extra{n}>" for n in range(size - len(tokens))]


def write_gguf(path, config, weights, stored_as="F32", settings=None, extra=None):
    writer, kind = GGUFWriter(str(path), config.model_type), config.model_type
    writer.add_name("test")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    if kind == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    else:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    tokens = vocabulary(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges(["i n", "in g"])
    writer.add_bos_token_id(tokens.index("<bos>"))
    writer.add_eos_token_id(tokens.index("<eos>"))
    writer.add_pad_token_id(tokens.index("<eos>"))
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    for key, value in (settings or {}).items():
        writer.add_key_value(key, *value)
    rng = np.random.default_rng(0)
    for name, values in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads and kind == "llama":
            values = interleaved(values, heads)
        quantization = GGMLQuantizationType[stored_as if values.ndim > 1 else "F32"]
        if quantization == GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), values)
        else:
            writer.add_tensor(gguf_name(name), blocks(values, quantization, rng), raw_dtype=quantization)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(values, quantization, rng):
    """Quantised values; random bytes where the library can only read a kind."""
    try:
        return quantize(values, quantization)
    except NotImplementedError:
        block, size = GGML_QUANT_SIZES[quantization]
        return rng.integers(0, 256, (values.shape[0], values.shape[1] // block * size), np.uint8)
