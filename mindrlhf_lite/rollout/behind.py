"""Prefill behind what slots of the cache hold: what a policy reads between two turns is computed together, and nothing
that came before is computed again.

A chunk is what is new of one sequence: the last token of its turn, whose keys may not be there yet, and what it reads,
but for the last token, which decoding feeds. How it is computed depends on its own length and position only: rows of
its matrix products do not know each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor, jit, mutable, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.decoder_layer import DecoderLayer
from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.native import step_operators
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.rollout.cached_attention import attend_to_caches
from mindrlhf_lite.rollout.native_graphs import NativeBegin, cache_views
from mindrlhf_lite.shapes.buckets import round_up

_WIDTHS = (16, 64, 256, 1024)  # tokens that a chunk is padded to, in the plain form
_TOKENS = 128  # computed together

_scatter_update = ops.ScatterUpdate()


@dataclass(frozen=True)
class Chunk:
    """Example: Chunk(slot=3, position=17, token_ids=(42, 8, 9)): the slot's cache holds 17 tokens before it"""

    slot: int
    position: int
    token_ids: tuple[int, ...]


class _Begin(CompiledCell):
    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    @jit
    def construct(self, token_ids: Tensor, positions: Tensor) -> tuple:
        """token_ids, positions [R, T] -> (embedded tokens, tables [R, 1, T, D])."""
        return (self.model.embed(token_ids.reshape(-1)), *self.model.tables_at(positions))


class _Project(CompiledCell):
    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer = layer

    @jit
    def construct(self, x: Tensor, weights: tuple, tables: tuple) -> tuple[Tensor, Tensor, Tensor]:
        rows, _, length, _ = tables[0].shape
        return self.layer.attention.project(x, weights, tables, rows, length)


class _Finish(CompiledCell):
    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer = layer

    @jit
    def construct(self, x: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, weights: tuple) -> Tensor:
        """keys, values: of the rows' slots [R, KV, S, D]; mask [R, 1, T, S]."""
        of_pairs = (-1, keys.shape[2], keys.shape[3])
        attended = attend_to_caches(query, keys.reshape(of_pairs), values.reshape(of_pairs), mask, self.layer.low)
        return self.layer.finish(x, attended, weights)


class PrefillBehind:
    """Computes chunks, and writes their keys and values into their slots. Args: as of `Prefill`."""

    def __init__(self, model: Decoder, slots: int, cache_length: int):
        self.model, self.slots, self.cache_length = model, slots, cache_length
        self.num_kv_heads, self._begin = model.num_kv_heads, _Begin(model)
        kinds = model.layers_by_kind()
        self._project = {kind: _Project(layer) for kind, layer in kinds.items()}
        self._finish = {kind: _Finish(layer) for kind, layer in kinds.items()}

    def run(self, chunks: Sequence[Chunk], caches: Sequence[Parameter]) -> None:
        """Args: chunks: of different slots; caches: of `allocate_cache`."""
        by_width: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            by_width.setdefault(self._width_of(len(chunk.token_ids)), []).append(chunk)
        for width, alike in by_width.items():
            rows = max(_TOKENS // width, 1)
            for start in range(0, len(alike), rows):
                self._run_rows(alike[start : start + rows], rows, width, caches)

    def _width_of(self, length: int) -> int:
        return round_up(length, _WIDTHS) if length <= _WIDTHS[-1] else -(-length // _WIDTHS[-1]) * _WIDTHS[-1]

    def _run_rows(self, chunks: Sequence[Chunk], rows: int, width: int, caches: Sequence[Parameter]) -> None:
        token_ids = np.zeros((rows, width), np.int32)
        positions = np.full((rows, width), -1, np.int32)
        slots = np.zeros(rows, np.int32)
        for row in range(rows):
            chunk = chunks[min(row, len(chunks) - 1)]  # rows that are left compute the last one again
            count = len(chunk.token_ids)
            token_ids[row, :count], slots[row] = chunk.token_ids, chunk.slot
            positions[row, :count] = chunk.position + np.arange(count)
        self._compute(token_ids, positions, slots, caches)

    def _compute(
        self, token_ids: np.ndarray, positions: np.ndarray, slots: np.ndarray, caches: Sequence[Parameter]
    ) -> None:
        """Args: token_ids, positions [R, T], below 0: padding; slots [R]."""
        # padding is written where nothing is read before it is written again: at the end of the slot
        at = np.where(positions < 0, self.cache_length - 1, positions)
        pairs = slots[:, None, None] * self.num_kv_heads + np.arange(self.num_kv_heads)[:, None]
        places = Tensor((pairs * self.cache_length + at[:, None]).astype(np.int32))  # [R, KV, T]
        is_seen = np.arange(self.cache_length) <= at[:, None, :, None]
        mask, own = Tensor(np.where(is_seen, 0, MASKED).astype(np.float32)), Tensor(slots)
        x, *tables = self._begin(Tensor(token_ids), Tensor(at))
        shared = mutable(tuple(tables))
        views = cache_views(caches, self.slots, self.num_kv_heads)
        num_layers = len(caches) // 2
        for index, layer in enumerate(self.model.layers):
            weights = mutable(tuple(layer.weights))
            query, key, value = self._project[layer.kind](x, weights, shared)
            _scatter_update(caches[index], places, key)
            _scatter_update(caches[num_layers + index], places, value)
            keys, values = (ops.gather(views[place], own, 0) for place in (index, num_layers + index))
            x = self._finish[layer.kind](x, query, keys, values, mask, weights)


class _NativeLayer(CompiledCell):
    def __init__(self, layer: DecoderLayer, cache_length: int):
        super().__init__()
        self.layer, self.attend = layer, step_operators.AttentionBehind(cache_length)

    @jit
    def construct(self, x: Tensor, weights: tuple, tables: tuple, at: tuple, keys: Tensor, values: Tensor) -> Tensor:
        """at: slots and positions of the tokens; keys, values: the layer's caches, on their memory."""
        query, key, value = self.layer.attention.project_by_token(x, weights, tables)
        return self.layer.finish(x, self.attend(query, key, value, *at, keys, values), weights)


class NativePrefillBehind:
    """`PrefillBehind` by the CPU's own operators: tokens of all chunks one after the other, so many at a time."""

    def __init__(self, model: Decoder, slots: int, cache_length: int):
        self.model, self._begin = model, NativeBegin(model)
        self._graphs = {kind: _NativeLayer(layer, cache_length) for kind, layer in model.layers_by_kind().items()}

    def run(self, chunks: Sequence[Chunk], caches: Sequence[Parameter]) -> None:
        """As of `PrefillBehind`."""
        token_ids = [token for chunk in chunks for token in chunk.token_ids]
        slots = [chunk.slot for chunk in chunks for _ in chunk.token_ids]
        positions = [chunk.position + place for chunk in chunks for place in range(len(chunk.token_ids))]
        for start in range(0, len(token_ids), _TOKENS):
            part = slice(start, start + _TOKENS)
            self._compute(token_ids[part], slots[part], positions[part], caches)

    def _compute(
        self, token_ids: Sequence[int], slots: Sequence[int], positions: Sequence[int], caches: Sequence[Parameter]
    ) -> None:
        arrays = np.zeros((3, _TOKENS), np.int32)
        arrays[2] = -1  # padding
        arrays[:, : len(token_ids)] = token_ids, slots, positions
        at = mutable((Tensor(arrays[1]), Tensor(arrays[2])))
        x, *tables = self._begin(Tensor(arrays[0]), Tensor(np.maximum(arrays[2], 0)))
        shared, num_layers = mutable(tuple(tables)), len(caches) // 2
        for index, layer in enumerate(self.model.layers):
            keys, values = (cache.view(*cache.shape) for cache in (caches[index], caches[num_layers + index]))
            x = self._graphs[layer.kind](x, mutable(tuple(layer.weights)), shared, at, keys, values)
