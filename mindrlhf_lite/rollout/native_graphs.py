"""The two graphs of the native engine, over a slotted KV cache: prefill prompts, decode one token in every slot.

The cache of a layer is a Parameter [slots * kv_heads * cache_length, head_dim]: rows, because ScatterUpdate writes rows
in place, while ScatterNdUpdate on CPU copies the whole cache at every step. Attention reads it through a view of four
dimensions on the same memory: reshaped within a graph, it would be copied too. An idle slot decodes too and writes to
its own position 0, which the next prompt overwrites. Prefill covers all prompt tokens but the last: decoding starts by
feeding that one, so sampling exists in one place.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, jit, mutable, nn, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.decoder_layer import DecoderLayer
from mindrlhf_lite.models.kernels import kernels_of
from mindrlhf_lite.models.native_attention import causal_spans
from mindrlhf_lite.models.native_layer import NativeLayer
from mindrlhf_lite.models.packed_attention import MASKED, causal_mask
from mindrlhf_lite.models.zeros import zeros
from mindrlhf_lite.native import step_operators
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.rollout.agreement import Agreement
from mindrlhf_lite.rollout.graph_draw import Drawing, WholeDraw
from mindrlhf_lite.rollout.split_draw import SplitDraw

_scatter_update = ops.ScatterUpdate()


def allocate_cache(model: Decoder, slots: int, cache_length: int) -> tuple[Parameter, ...]:
    """Zeroed key caches of all layers, then the value caches: slots, or blocks, of so many tokens each; of the model's
    compute type.
    """
    shape = (slots * model.num_kv_heads * cache_length, model.config.head_dim)

    def layer_caches(kind: str) -> tuple[Parameter, ...]:
        names = (f"{kind}_cache.{i}" for i in range(len(model.layers)))
        return tuple(
            Parameter(zeros(shape, model.precision.activations), name=name, requires_grad=False) for name in names
        )

    return layer_caches("key") + layer_caches("value")


def cache_views(caches: Sequence[Parameter], slots: int, kv_heads: int) -> tuple[Tensor, ...]:
    """[slots, kv_heads, length, head_dim] of every cache, on its memory: of no use once that is given back."""
    return tuple(cache.view(slots, kv_heads, -1, cache.shape[-1]) for cache in caches)


class _PrefillBegin(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    @jit
    def construct(self, token_ids: Tensor) -> tuple:
        """token_ids [P, T] -> (embedded tokens, cos, sin, scaled cos, scaled sin, mask)."""
        length = token_ids.shape[1]
        return (self.model.embed(token_ids.reshape(-1)), *self.model.tables(length), causal_mask(length))


class _PrefillLayer(CompiledCell):
    """One layer of a prefill; the weights are arguments, so that it is compiled once for all layers of a kind."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer = layer

    @jit
    def construct(self, x: Tensor, weights: tuple, inputs: tuple, source_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (x after the layer, keys and values of the prompts `source_rows`, [R, KV, T, D])."""
        length = inputs[4].shape[-1]
        batch = x.shape[0] // length
        query, key, value = self.layer.attention.project(x, weights, inputs[:4], batch, length)
        x = self.layer.finish(x, self.layer.attention.attend_causally(query, key, value, inputs[4]), weights)
        return x, ops.gather(key, source_rows, 0), ops.gather(value, source_rows, 0)


class NativeBegin(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    @jit
    def construct(self, token_ids: Tensor, positions: Tensor) -> tuple:
        """token_ids, positions [tokens] -> (embedded tokens, cos, sin, scaled cos, scaled sin)."""
        return (self.model.embed(token_ids), *self.model.table_rows(positions))


class _NativePrefillLayer(CompiledCell):
    """`_PrefillLayer` by the CPU's own operators."""

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer, self.is_whole = layer, isinstance(layer, NativeLayer)

    @jit
    def construct(self, x: Tensor, weights: tuple, inputs: tuple, source_rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """inputs: tables [P * T, D], spans [P * T, 4]; source_rows [R * T]: of the tokens. Returns (x after the layer,
        keys and values of those rows, [R * T, KV * D]).
        """
        layer = self.layer
        if self.is_whole:
            x, kept = layer.run(x, weights, inputs)
            key, value = kept[1], kept[2]
        else:
            query, key, value = layer.attention.project_by_token(x, weights, inputs[:4])
            x = layer.finish(x, layer.attention.attend(query, key, value, inputs[4])[0], weights)
        return x, ops.gather(key, source_rows, 0), ops.gather(value, source_rows, 0)


class NativePrefill:
    """`Prefill` by the CPU's own operators."""

    def __init__(self, model: Decoder, cache_length: int):
        self.model, self.num_kv_heads, self.cache_length = model, model.num_kv_heads, cache_length
        self._begin = NativeBegin(model)
        self._graphs = {kind: _NativePrefillLayer(layer) for kind, layer in model.layers_by_kind().items()}

    def run(self, token_ids: np.ndarray, source_rows: np.ndarray, slots: np.ndarray, caches: tuple) -> None:
        """Args as of `Prefill.run`."""
        prompts, length = token_ids.shape
        pairs = slots[:, None, None] * self.num_kv_heads + np.arange(self.num_kv_heads)
        places = pairs * self.cache_length + np.arange(length)[:, None]  # [R, T, KV]
        at = Tensor(places.reshape(-1).astype(np.int32))
        rows = Tensor((source_rows[:, None] * length + np.arange(length)).reshape(-1).astype(np.int32))
        positions = np.tile(np.arange(length, dtype=np.int32), prompts)
        x, *tables = self._begin(Tensor(token_ids.reshape(-1)), Tensor(positions))
        shared = mutable((*tables, Tensor(causal_spans(prompts, length))))
        num_layers = len(caches) // 2
        for layer, key_cache, value_cache in zip(self.model.layers, caches[:num_layers], caches[num_layers:]):
            x, keys, values = self._graphs[layer.kind](x, mutable(tuple(layer.weights)), shared, rows)
            head_dim = key_cache.shape[-1]
            _scatter_update(key_cache, at, keys.reshape(-1, head_dim))
            _scatter_update(value_cache, at, values.reshape(-1, head_dim))


class Prefill:
    """Runs prompts and writes their keys and values into one or more slots each."""

    def __init__(self, model: Decoder, cache_length: int):
        self.model, self.num_kv_heads, self.cache_length = model, model.num_kv_heads, cache_length
        self._begin = _PrefillBegin(model)
        self._graphs = {kind: _PrefillLayer(layer) for kind, layer in model.layers_by_kind().items()}

    def run(self, token_ids: np.ndarray, source_rows: np.ndarray, slots: np.ndarray, caches: tuple) -> None:
        """Args: token_ids int32 [P, T]; source_rows, slots int32 [R]: slots[i] receives prompt source_rows[i]; caches:
        of `allocate_cache`.
        """
        pairs = slots[:, None, None] * self.num_kv_heads + np.arange(self.num_kv_heads)[:, None]
        places = Tensor((pairs * self.cache_length + np.arange(token_ids.shape[1])).astype(np.int32))  # [R, KV, T]
        x, *inputs = self._begin(Tensor(token_ids))
        shared, rows = mutable(tuple(inputs)), Tensor(source_rows)
        num_layers = len(caches) // 2
        for layer, key_cache, value_cache in zip(self.model.layers, caches[:num_layers], caches[num_layers:]):
            x, keys, values = self._graphs[layer.kind](x, mutable(tuple(layer.weights)), shared, rows)
            _scatter_update(key_cache, places, keys)
            _scatter_update(value_cache, places, values)


class Decode(CompiledCell):
    """One decoding step of all slots."""

    def __init__(self, model: Decoder, slots: int, cache_length: int, stop_bias: np.ndarray, drawing: Drawing):
        super().__init__()
        self.model, self.slots, self.cache_length, self.drawing = model, slots, cache_length, drawing
        self.num_kv_heads, self.head_dim = model.num_kv_heads, model.config.head_dim
        kernels = kernels_of(model.precision, self.head_dim)
        self.attend = kernels.decode_attention(model.precision, model.num_heads, self.num_kv_heads)
        self.write, axis = kernels.written_rows(), model.mesh.tensor
        self.pairs = Tensor(np.arange(slots * self.num_kv_heads, dtype=np.int32))
        self.cache_positions = Tensor(np.arange(cache_length, dtype=np.int32).reshape(1, 1, -1))
        self.splits = axis is not None and drawing.in_graph and not drawing.filters
        self.draw: nn.Cell = WholeDraw(axis, stop_bias, drawing)
        if axis is not None and self.splits:
            assert model.head is not None  # generation has one stage
            self.draw = SplitDraw(axis, model.head.shape[0], stop_bias, drawing)

    def lengths_of(self, positions: np.ndarray) -> Tensor | tuple:
        """What attention asks of the host."""
        return Tensor(positions.astype(np.int64) + 1) if self.attend.takes_lengths else ()

    def _write(self, cache: Parameter, places: Tensor, rows: Tensor) -> Tensor:
        return self.write(cache, places, rows.reshape(-1, self.head_dim))

    @jit
    def construct(
        self,
        token_ids: Tensor,
        positions: Tensor,
        uniform: Tensor,
        forbid_stop: Tensor,
        inverse_temperature: Tensor,
        lengths: Tensor | tuple,
        views: tuple,
        *caches: Parameter,
    ) -> tuple[Tensor, ...]:
        """Args: token_ids, positions int32 [B]; uniform, forbid_stop float32 [B]; inverse_temperature [1]; lengths:
        `lengths_of` the positions; views: of `cache_views`, then `Decoder.head_view` if there is one; caches: of
        `allocate_cache`.

        Returns: (token [B], logprob [B], policy logprob [B]), then what `Agreement` adds; or (logits [B, V], unused,
        unused).
        """
        repeated = ops.broadcast_to(positions.reshape(-1, 1), (self.slots, self.num_kv_heads)).reshape(-1)
        places = self.pairs * self.cache_length + repeated  # [B * KV]
        mask = (1.0 - (self.cache_positions <= positions.reshape(-1, 1, 1)).astype(ms.float32)) * MASKED
        tables = self.model.tables_at(positions)
        x = self.model.embed(token_ids)
        num_layers = len(caches) // 2
        for index, layer in enumerate(self.model.layers):
            query, key, value = layer.attention.project(x, layer.weights, tables, self.slots, 1)
            # the views are read after the caches were written
            keys = ops.depend(views[index], self._write(caches[index], places, key))
            values = ops.depend(views[num_layers + index], self._write(caches[num_layers + index], places, value))
            x = layer.finish(x, self.attend(query, keys, values, mask, lengths), layer.weights)
        head = views[2 * num_layers] if len(views) > 2 * num_layers else None
        hidden = self.model.norm(x)
        if self.splits:
            return self.draw(self.model.own_logits(hidden, head), uniform, forbid_stop, inverse_temperature)
        logits = self.model.logits(hidden, head)
        if not self.drawing.in_graph:
            return logits, positions, positions
        return self.draw(logits, uniform, forbid_stop, inverse_temperature)


class NativeDecode(CompiledCell):
    """`Decode` by the CPU's own operators. Args: caches: of `allocate_cache`, which the graph owns."""

    def __init__(self, model: Decoder, caches: tuple, stop_bias: np.ndarray, drawing: Drawing):
        super().__init__()
        self.model, self.drawing, self.caches = model, drawing, ms.ParameterTuple(caches)
        self.columns, self.head = step_operators.Columns(), step_operators.HeadStep(model.config.rms_norm_eps)
        self.draw = step_operators.Draw(stop_bias, drawing.is_greedy, drawing.reports_scaled_policy)
        self.agreement = Agreement(model.mesh.tensor)

    @jit
    def construct(
        self, token_ids: Tensor, positions: Tensor, uniform: Tensor, forbid_stop: Tensor, inverse_temperature: Tensor
    ) -> tuple[Tensor, ...]:
        """Args and result as of `Decode`."""
        model, num_layers = self.model, len(self.caches) // 2
        cos, sin, _, _ = model.table_rows(positions)
        tables, x = (self.columns(cos), self.columns(sin)), self.columns(model.embed(token_ids))
        for index, layer in enumerate(model.layers):
            caches = (self.caches[index], self.caches[num_layers + index])
            x = layer.attention.step(x, layer.weights, tables, positions, *caches)
            x = layer.mlp.step(x, layer.weights)
        logits = model.whole_logits(self.head(x, model.final_norm, model.head, positions))
        if not self.drawing.in_graph:
            return logits, positions, positions
        return self.agreement(self.draw(logits, uniform, forbid_stop, inverse_temperature))
