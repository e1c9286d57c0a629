"""Decoder layers of Qwen2, Qwen3 and Llama 3 in plain MindSpore operators: they run the same in jit on CPU and on
Ascend.

A layer is an attention block and an MLP block (models/attention.py, models/mlp.py). Its weights are arguments: one
graph serves all layers of a kind. Activations are [tokens, hidden]; which operator forms are fast on CPU was measured
(reductions over two-dimensional views, scaling folded into the rotary tables, the attention gradient written out).

A rank holds the buffers that `parallel.layout` gives it: its heads and columns of every linear, its rows of the
vocabulary, its stage's layers. Between `enter` and `leave` a rank computes with its own columns, outside of them on the
residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindrlhf_lite.models.decoder_layer import DecoderLayer, without_absent_kernels
from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.native_layer import NativeLayer
from mindrlhf_lite.models.packed_attention import causal_mask
from mindrlhf_lite.models.precision import FLOAT32, Precision, full, to_compute, weight_to_compute
from mindrlhf_lite.models.rotary import rotary_tables
from mindrlhf_lite.models.spread import spread
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.parallel.collectives import (
    GatherRows,
    cut_tokens,
    enter_tensor_parallel,
    leave_tensor_parallel,
)
from mindrlhf_lite.parallel.layout import EMBEDDING, FINAL_NORM, HEAD, Buffer, Strategy, buffers_at
from mindrlhf_lite.parallel.mesh import ALONE, RoleMesh
from mindrlhf_lite.shapes.adapters import is_adapter
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import SCORE, parameter_specs


def _parameter(
    buffer: Buffer,
    weights: Mapping[str, np.ndarray] | None,
    precision: Precision,
    trained: set[str],
    has_adapters: bool,
) -> Parameter:
    """Args: has_adapters: then what is trained is float32, as adapters are also where they are not trained."""
    stored = FLOAT32 if is_adapter(buffer.name) or (has_adapters and buffer.name in trained) else precision
    values = zeros(buffer.shape, stored.storage) if weights is None else stored.stored(weights[buffer.name])
    return Parameter(values, name=buffer.name, requires_grad=buffer.name in trained)


class Decoder(nn.Cell):
    """The decoder, or this rank's share of it: parameters under their buffers' names, `hidden` for whole sequences,
    `head` for logits.

    Args:
        config: its shape.
        weights: float32 arrays by buffer name, as `fill_buffers` returns them; on one rank, all tensors of the model.
            Copied, rounded to what `precision` stores. None: zeros.
        trainable: whether the parameters take gradients.
        max_length: longest sequence; sizes the rotary tables.
        mesh: the role's axes.
        strategy: how the weights lie on the ranks; None: whole, on one rank.
        is_sequence_split: whether the residual stream's tokens are split over the tensor axis (sequence parallelism).
        precision: what it computes in, and stores.
        frozen: names of parameters that are not trained, where the others are; * stands for any text.
        shared: parameters of another model that this one uses as its own, by buffer name.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray] | None,
        trainable: bool,
        max_length: int,
        mesh: RoleMesh = ALONE,
        strategy: Strategy | None = None,
        is_sequence_split: bool = False,
        precision: Precision = FLOAT32,
        frozen: Sequence[str] = (),
        shared: Mapping[str, Parameter] | None = None,
    ):
        super().__init__(auto_prefix=False)
        precision = without_absent_kernels(precision, config)
        self.config, self.max_length, self.mesh, self.precision = config, max_length, mesh, precision
        self.low, self.low_weight = to_compute(precision), weight_to_compute(precision, trainable)
        kernels = kernels_of(precision, config.head_dim)
        self.product = kernels.product(precision, trainable)
        self.normalise = kernels.norm(precision, config.rms_norm_eps)
        self.strategy = strategy or Strategy(mesh.dims)
        self.tensor_degree, self.is_first_stage = mesh.dims.tensor, mesh.is_first_stage
        self.is_sequence_split = is_sequence_split and mesh.tensor is not None
        self.buffers: list[Buffer] = buffers_at(config, self.strategy, mesh.at)
        trained = {spec.name for spec in parameter_specs(config, frozen) if spec.is_trained and trainable}
        trained |= {HEAD} if config.tie_word_embeddings and EMBEDDING in trained else set()  # a copy, on the last stage
        # a copy: a Tensor may share numpy's memory, and two roles must not share weights by accident
        by_name = {
            b.name: shared[b.name]
            if shared and b.name in shared
            else _parameter(b, weights, precision, trained, config.adapters is not None)
            for b in self.buffers
        }
        own_layers = self.strategy.layers_of_stage(config.num_hidden_layers)[mesh.at.stage]
        made = NativeLayer if precision.has_native_kernels and mesh.tensor is None else DecoderLayer
        self.layers = nn.CellList(
            [made(config, i, by_name, mesh, is_sequence_split, precision, trainable) for i in own_layers],
            auto_prefix=False,
        )
        self.num_layers, self.first_layer = len(own_layers), own_layers[0]  # of this stage
        attention = self.layers[0].attention
        self.num_heads, self.num_kv_heads = attention.num_heads, attention.num_kv_heads  # of this rank
        self.parameters_in_order = ms.ParameterTuple([by_name[buffer.name] for buffer in self.buffers])
        self.trained_buffers = [buffer for buffer in self.buffers if buffer.name in trained]
        self.trained = ms.ParameterTuple([by_name[buffer.name] for buffer in self.trained_buffers])
        self._build_ends(by_name, mesh)
        self.rotary, self.scale = rotary_tables(config, max_length), np.float32(config.head_dim**-0.5)
        self._build_tables(*self.rotary)

    @property
    def trained_precision(self) -> Precision:
        """Of the parameters that are trained and moved: adapters are stored and changed in float32."""
        return self.precision if self.config.adapters is None else FLOAT32

    def _build_tables(self, cos: np.ndarray, sin: np.ndarray) -> None:
        self.cos, self.sin, self.scaled_cos, self.scaled_sin = (
            Tensor(table) for table in (cos, sin, cos * self.scale, sin * self.scale)
        )

    def _build_ends(self, by_name: Mapping[str, Parameter], mesh: RoleMesh) -> None:
        """The embedding on the first stage, the final norm and the head on the last."""
        self.embedding = by_name.get(EMBEDDING)
        self.splits_embedding = self.strategy.splits_embedding and mesh.tensor is not None
        if self.embedding is not None:
            self.first_row, self.rows = mesh.at.tensor * self.embedding.shape[0], self.embedding.shape[0]
            self.leave_embedding = leave_tensor_parallel(
                mesh.tensor if self.splits_embedding else None, self.is_sequence_split
            )
            self.cut_tokens = cut_tokens(mesh.tensor, self.is_sequence_split and not self.splits_embedding)
        self.final_norm = by_name.get(FINAL_NORM)
        self.head = self.score = None
        if self.final_norm is not None:
            self.head = by_name.get(HEAD, self.embedding)
            self.score = by_name.get(SCORE)
            self.enter_head = enter_tensor_parallel(mesh.tensor, self.is_sequence_split)
            self.gather_logits = GatherRows(mesh.tensor)

    def tables(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables of positions 0..length-1, each [1, 1, length, D]."""
        shape = (1, 1, length, self.config.head_dim)
        return (
            self.cos[:length].reshape(shape),
            self.sin[:length].reshape(shape),
            self.scaled_cos[:length].reshape(shape),
            self.scaled_sin[:length].reshape(shape),
        )

    def tables_at(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables at positions [B] or [B, T], each [B, 1, 1 or T, D]."""
        shape = (positions.shape[0], 1, -1, self.config.head_dim)
        cos, sin, scaled_cos, scaled_sin = self.table_rows(positions)
        return cos.reshape(shape), sin.reshape(shape), scaled_cos.reshape(shape), scaled_sin.reshape(shape)

    def table_rows(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotary tables at positions [...], each [..., D]."""
        cos, sin = ops.gather(self.cos, positions, 0), ops.gather(self.sin, positions, 0)
        return cos, sin, ops.gather(self.scaled_cos, positions, 0), ops.gather(self.scaled_sin, positions, 0)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids [tokens] int32 -> [tokens, H]; first stage only."""
        return self.placed(ops.gather(self.embedding, self.rows_of(token_ids), 0), token_ids)

    def rows_of(self, token_ids: Tensor) -> Tensor:
        """The rows of this rank's part of the embedding that tokens are looked up in; any row for others' tokens."""
        if not self.splits_embedding:
            return token_ids
        return ops.minimum(ops.maximum(token_ids - self.first_row, 0), self.rows - 1)

    def placed(self, embedded: Tensor, token_ids: Tensor) -> Tensor:
        """Rows looked up on this rank [tokens, H] -> the residual stream."""
        embedded = self.low(embedded)
        if not self.splits_embedding:
            return self.cut_tokens(embedded)
        local = token_ids - self.first_row
        is_here = ops.logical_and(local >= 0, local < self.rows).astype(embedded.dtype).reshape(-1, 1)
        return self.leave_embedding(embedded * spread(is_here, embedded.shape))

    def attention_inputs(
        self, positions: np.ndarray, segments: np.ndarray, prompts: np.ndarray, keys: np.ndarray, used: np.ndarray
    ) -> tuple:
        """What every layer's attention over packed sequences takes: as `GroupedQueryAttention.inputs_of`."""
        stream = (positions, segments, prompts, keys, used)
        return self.layers[0].attention.inputs_of(self.rotary, self.scale, self.own_part, *stream)

    def own_part(self, count: int) -> slice:
        """Which of `count` tokens, or blocks of them, this rank computes: all, where no others share its sequences."""
        part = count // self.mesh.dims.context
        return slice(self.mesh.context_index * part, (self.mesh.context_index + 1) * part)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """Final-normed hidden states [B*T, H] of right-padded sequences token_ids [B, T] int32; all stages on this
        rank.
        """
        batch, length = token_ids.shape
        x, tables, mask = self.embed(token_ids.reshape(-1)), self.tables(length), causal_mask(length)
        for layer in self.layers:
            query, key, value = layer.attention.project(x, layer.weights, tables, batch, length)
            x = layer.finish(x, layer.attention.attend_causally(query, key, value, mask), layer.weights)
        return self.norm(x)

    def norm(self, x: Tensor) -> Tensor:
        """The final norm over the residual stream; every tensor rank gets all rows [tokens, H]. Last stage only."""
        return self.enter_head(self.normalise(x, self.low_weight(self.final_norm)))

    def logits(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        """[tokens, H] after `norm` -> [tokens, V], whole on every tensor rank. Not for training: see
        `TokenLogprobs`. Args: head: of `head_view`, in the parameter's place.
        """
        return full(self.whole_logits(self.own_product(hidden, head)))

    def own_logits(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        """`logits` of this rank's rows of the head, float32 [tokens, rows]."""
        return full(self.own_product(hidden, head))

    def own_product(self, hidden: Tensor, head: Tensor | None) -> Tensor:
        return self.product(hidden, self.head if head is None else head)

    def whole_logits(self, logits: Tensor) -> Tensor:
        """[tokens, V] on every tensor rank, of each one's part [tokens, rows of the head]."""
        if self.tensor_degree == 1:
            return logits
        tokens = logits.shape[0]
        gathered = (
            self.gather_logits(logits).reshape(self.tensor_degree, tokens, -1).transpose(1, 0, 2).reshape(tokens, -1)
        )
        return gathered[:, : self.config.vocab_size]

    def head_view(self) -> Tensor | None:
        """A tied head on the embedding's memory, for a graph that uses both; None where it needs none. A parameter that
        a graph reads before and after collectives is copied in it, each time (MindSpore 2.9).
        """
        table = self.embedding
        is_read_twice = table is not None and self.head is table and self.tensor_degree > 1
        return table.view(*table.shape) if is_read_twice and table is not None else None

    def construct(self, token_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of right-padded token_ids [B, T]; for tests and small inputs."""
        batch, length = token_ids.shape
        return self.logits(self.hidden(token_ids)).reshape(batch, length, -1)

    def layers_by_kind(self) -> dict[tuple[str, str], DecoderLayer]:
        """A layer of every kind: a graph of it serves all of its kind."""
        return {layer.kind: layer for layer in reversed(self.layers)}

    def named_weights(self) -> dict[str, Parameter]:
        """Parameters by buffer name."""
        return {parameter.name: parameter for parameter in self.parameters_in_order}

    def weights_as_numpy(self, frozen_only: bool = False) -> dict[str, np.ndarray]:
        """A copy of this rank's buffers, float32 by name. Args: frozen_only: of those that are not trained."""
        left_out = {parameter.name for parameter in self.trained} if frozen_only else set()
        return {
            parameter.name: np.array(parameter.asnumpy(), np.float32)
            for parameter in self.parameters_in_order
            if parameter.name not in left_out
        }
