"""A GGUF file as a model of this project: its settings as a config, its tensors under Hugging Face's names and in its
order, its tokenizer.

Architectures llama, qwen2 and qwen3. llama.cpp stores llama's query and key rows with the two halves of every head
interleaved, for its rotary embedding; they are put back as they were. Llama 3.1's stretched wavelengths are a tensor
there (rope_freqs) and settings here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.models.gguf_file import GgufFile
from mindrlhf_lite.models.hf_weights import check_names_and_shapes
from mindrlhf_lite.parallel.layout import Box
from mindrlhf_lite.shapes.model_config import ARCHITECTURES, ModelConfig, RopeScaling
from mindrlhf_lite.shapes.parameters import parameter_specs

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
# low_freq_factor, high_freq_factor, original_max_position_embeddings of every Llama 3.1 and 3.2
_LLAMA3 = (1.0, 4.0, 8192)
_LARGEST = 2**31 - 1  # of a setting
_TOKENIZER, _TOKENIZERS = "tokenizer.ggml.", ("gpt2", "llama")


class GgufModel:
    """Reads boxes of a file's tensors by Hugging Face's names.

    Raises:
        ValueError: not a GGUF file, an architecture or a feature that this decoder does not have, tensors that do not
            fit the settings.
    """

    def __init__(self, path: str | Path):
        self.file = GgufFile(path)
        self._kind = str(self.file.settings.get("general.architecture", ""))
        if self._kind not in ARCHITECTURES:
            raise UserError(
                f"{path}: general.architecture={self._kind!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
            )
        self.config = self._config()
        self._names = {_hf_name(name): name for name in self.file.tensors if name != _ROPE_FACTORS}
        check_names_and_shapes(
            {name: self.file.tensors[own].shape for name, own in self._names.items()},
            parameter_specs(self.config),
            str(path),
        )

    def dtype(self, name: str) -> str:
        """F32, F16 or BF16: what holds the values of tensor `name` without loss."""
        return self.file.tensors[self._names[name]].dtype

    def read(self, name: str, box: Box) -> np.ndarray:
        """float32 values of a box ((start, stop) of every dimension) of tensor `name`."""
        (start, stop), *rest = box
        rows: np.ndarray | slice = slice(start, stop)
        heads = {"q_proj": self.config.num_attention_heads, "k_proj": self.config.num_key_value_heads}.get(
            name.split(".")[-2], 0
        )
        if heads and self._kind == "llama":
            rows = _interleaved(np.arange(start, stop), self.config.head_dim)
        values = self.file.read_rows(self._names[name], rows)
        return values[(slice(None), *(slice(first, last) for first, last in rest))]

    @property
    def end_token_ids(self) -> list[int]:
        """What ends an answer: end of text and, where it is another, end of turn."""
        ids = (self.file.settings.get(f"{_TOKENIZER}{name}_token_id") for name in ("eos", "eot"))
        return list(dict.fromkeys(token for token in ids if isinstance(token, int)))

    @property
    def pad_token_id(self) -> int | None:
        return self.file.settings.get(f"{_TOKENIZER}padding_token_id")

    def _config(self) -> ModelConfig:
        where = str(self.file.path)
        if self._setting("expert_count", 0):
            raise UserError(
                f"{where}: {self._kind}.expert_count={self._setting('expert_count')}: mixtures of experts are "
                "not supported"
            )
        if (scaling := self._setting("rope.scaling.type", "none")) != "none":
            raise UserError(f"{where}: {self._kind}.rope.scaling.type={scaling!r} is not supported")
        layers = self._number("block_count")
        if layers > len(self.file.tensors):  # before a table of so many layers is made
            raise UserError(
                f"{where}: {self._kind}.block_count={layers:,}, but there are {len(self.file.tensors):,} tensors"
            )
        heads, hidden = self._number("attention.head_count"), self._number("embedding_length")
        width = hidden // heads
        if self._kind == "llama":
            width = self._number("rope.dimension_count", otherwise=width or 1)
        head_dim = self._number("attention.key_length", otherwise=width or 1)
        if (
            self._setting("attention.value_length", head_dim) != head_dim
            or self._setting("rope.dimension_count", head_dim) != head_dim
        ):
            raise UserError(f"{where}: keys, values and rotary embedding of different widths are not supported")
        vocabulary = self.file.settings.get(f"{_TOKENIZER}tokens")
        vocab_size = self._number("vocab_size", otherwise=len(vocabulary) if isinstance(vocabulary, list) else None)
        theta = self._number("rope.freq_base", float, otherwise=10000.0)
        for name in ("eos", "eot", "padding"):
            token = self.file.settings.get(f"{_TOKENIZER}{name}_token_id")
            if token is not None and not (isinstance(token, int) and 0 <= token < vocab_size):
                raise UserError(f"{where}: {_TOKENIZER}{name}_token_id={token!r} is none of {vocab_size:,} tokens")
        return ModelConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=self._number("feed_forward_length"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=self._number("attention.head_count_kv", otherwise=heads),
            head_dim=head_dim,
            rms_norm_eps=self._number("attention.layer_norm_rms_epsilon", float),
            rope_theta=theta,
            max_position_embeddings=self._number("context_length"),
            tie_word_embeddings="output.weight" not in self.file.tensors,
            model_type=self._kind,
            rope_scaling=self._rope_scaling(theta, head_dim),
        )

    def _setting(self, name: str, otherwise: Any = None) -> Any:
        value = self.file.settings.get(f"{self._kind}.{name}", otherwise)
        if isinstance(value, list):  # one number a layer
            raise UserError(
                f"{self.file.path}: {self._kind}.{name} differs from layer to layer, which is not supported"
            )
        if isinstance(value, str) != isinstance(otherwise, str):
            raise UserError(f"{self.file.path}: {self._kind}.{name}={value!r} is of the wrong type")
        return value

    def _number(self, name: str, kind: type = int, otherwise: float | None = None) -> Any:
        """A positive number. kind: int, and then a whole one, or float."""
        value = self._setting(name, otherwise)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if not fits or kind(value) != value or value > _LARGEST:
            wanted = "whole " if kind is int else ""
            raise UserError(f"{self.file.path}: {self._kind}.{name}={value!r}: a positive {wanted}number is needed")
        return kind(value)

    def _rope_scaling(self, theta: float, head_dim: int) -> RopeScaling | None:
        """Llama 3.1's settings, from the factors that they make."""
        if _ROPE_FACTORS not in self.file.tensors:
            return None
        factors = self.file.read_rows(_ROPE_FACTORS, slice(None))
        low, high, original = _LLAMA3
        scaling = RopeScaling(float(factors.max()), low, high, original)
        if factors.shape != (head_dim // 2,) or not np.allclose(
            factors, _llama3_factors(scaling, theta, head_dim), rtol=1e-4
        ):
            raise UserError(
                f"{self.file.path}: {_ROPE_FACTORS} are not Llama 3.1's; other rope scalings are not supported"
            )
        return scaling


def _hf_name(name: str) -> str:
    """Example: _hf_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"; an unknown name stays."""
    stem, _, suffix = name.rpartition(".")
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _OF_A_LAYER:
        return f"model.layers.{parts[1]}.{_OF_A_LAYER[parts[2]]}.{suffix}"
    return f"{_WHOLE[stem]}.{suffix}" if stem in _WHOLE else name


def _interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Where llama.cpp keeps rows of a query or key matrix: row h of a head's first half at 2 h, of its second half at 2
    h + 1.
    """
    head, place = np.divmod(rows, head_dim)
    half, pair = np.divmod(place, head_dim // 2)
    return head * head_dim + 2 * pair + half


def _llama3_factors(scaling: RopeScaling, theta: float, head_dim: int) -> np.ndarray:
    """What every frequency is divided by."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position_embeddings / wavelengths
    share = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0)
    return 1 / ((1 - share) / scaling.factor + share)


def template_problem(template: str) -> str | None:
    """Why a chat template cannot be read, or None."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        if "'generation'" not in str(error):  # a tag that transformers adds
            return f"line {error.lineno}: {error.message}"
    return None


def write_tokenizer(model: GgufModel, folder: str | Path) -> None:
    """Writes the file's tokenizer, special tokens and chat template as transformers loads them, by transformers' own
    converter.

    Raises:
        ValueError: the file has no tokenizer, or one that the converter does not understand.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.ggml import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    settings, where = model.file.settings, model.file.path
    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    values = {
        theirs: settings[f"tokenizer.{ours}"] for ours, theirs in names.items() if f"tokenizer.{ours}" in settings
    }
    tokens = values.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{where}: {_TOKENIZER}tokens: the file holds no vocabulary")
    ids = {
        kind: settings.get(f"{_TOKENIZER}{name}_token_id")
        for kind, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    if bad := [
        f"{kind}={token}"
        for kind, token in ids.items()
        if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens))
    ]:
        raise UserError(f"{where}: special tokens {', '.join(bad)} lie outside the vocabulary of {len(tokens)}")
    if (kind := settings.get(f"{_TOKENIZER}model")) not in _TOKENIZERS:
        raise UserError(f"{where}: {_TOKENIZER}model={kind!r} is not supported; supported: {', '.join(_TOKENIZERS)}")
    try:
        # its special tokens have end and beginning swapped
        converted, _ = convert_gguf_tokenizer(model.config.model_type, values)
    except Exception as error:  # the converter raises many kinds on lists that do not fit each other
        raise UserError(f"{where}: its tokenizer cannot be converted ({type(error).__name__}: {error})") from None
    special = {f"{kind}_token": tokens[token] for kind, token in ids.items() if token is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=converted, clean_up_tokenization_spaces=False, **special)
    template = settings.get("tokenizer.chat_template")
    if isinstance(template, str):
        if problem := template_problem(template):
            raise UserError(f"{where}: tokenizer.chat_template: {problem}")
        tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
