"""The graph of the vLLM worker: any mix of prompt chunks and single tokens over a paged KV cache.

The cache of a layer (`rollout.graphs.allocate_cache`) is a Parameter [blocks * kv_heads * block_size, head_dim], so
that one gather gives the keys that a batched product wants. vLLM never gives out block 0: padding writes there.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, jit, ops

from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.packed_attention import MASKED
from mindrlhf_lite.parallel.compiled import CompiledCell
from mindrlhf_lite.rollout.cached_attention import attend_to_caches
from mindrlhf_lite.rollout.graph_draw import draw_greedily, draw_tokens

_scatter_update = ops.ScatterUpdate()


class PagedForward(CompiledCell):
    """Runs R rows of T tokens, writes their keys and values into the cache and samples from each row's last token.

    Args:
        samples_in_graph: whether to return sampled tokens (temperature only) or the logits.
    """

    def __init__(self, model: Decoder, block_size: int, samples_in_graph: bool):
        super().__init__()
        self.model, self.block_size, self.samples_in_graph = model, block_size, samples_in_graph
        self.num_kv_heads, self.num_heads, self.head_dim = (
            model.num_kv_heads,
            model.num_heads,
            model.config.head_dim,
        )
        self.heads = Tensor(np.arange(self.num_kv_heads, dtype=np.int32).reshape(1, -1, 1))
        self.block_offsets = Tensor(np.arange(block_size, dtype=np.int32).reshape(1, -1))

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
        """query [R, heads, T, D]; keys, values: the layer's caches; sources [R*KV, S]: their rows that make up each
        context; mask [R, 1, T, S].
        """
        # rows, not blocks: a reshaped cache would be a copy of it
        key, value = ops.gather(keys, sources, 0), ops.gather(values, sources, 0)  # [R*KV, S, D]
        return attend_to_caches(query, key, value, mask, self.model.low)

    @jit
    def construct(
        self,
        token_ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        block_tables: Tensor,
        last: Tensor,
        uniform: Tensor,
        inverse_temperature: Tensor,
        policy_inverse: Tensor,
        is_greedy: Tensor,
        *caches: Parameter,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Args: token_ids, positions, slots int32 [R, T], slot = block * block_size + place in it; block_tables int32
        [R, blocks]; last int32 [R]: row of each sequence's last token among the R*T; uniform, inverse_temperature,
        policy_inverse (of the temperature of the policy that is reported) float32 [R]; is_greedy bool [R];
        caches: of `allocate_cache`.

        Returns: (token [R], logprob [R], policy logprob [R]), or (logits [R, V], unused, unused).
        """
        rows, length = token_ids.shape
        blocks = (slots // self.block_size).reshape(rows, 1, length) * self.num_kv_heads + self.heads
        places = blocks * self.block_size + (slots % self.block_size).reshape(rows, 1, length)  # [R, KV, T]
        sources = (block_tables.reshape(rows, 1, -1) * self.num_kv_heads + self.heads).reshape(
            -1, 1
        ) * self.block_size + self.block_offsets
        sources = sources.reshape(rows * self.num_kv_heads, -1)
        context = ops.arange(block_tables.shape[1] * self.block_size).astype(ms.int32).reshape(1, 1, 1, -1)
        mask = (1.0 - (context <= positions.reshape(rows, 1, length, 1)).astype(ms.float32)) * MASKED
        tables = self.model.tables_at(positions)
        x = self.model.embed(token_ids.reshape(-1))
        num_layers = len(caches) // 2
        for layer, key_cache, value_cache in zip(self.model.layers, caches[:num_layers], caches[num_layers:]):
            query, key, value = layer.attention.project(x, layer.weights, tables, rows, length)
            keys = _scatter_update(key_cache, places, key)
            values = _scatter_update(value_cache, places, value)
            x = layer.finish(x, self._attend(query, keys, values, sources, mask), layer.weights)
        logits = self.model.logits(self.model.norm(ops.gather(x, last, 0)))
        if not self.samples_in_graph:
            return logits, positions, positions
        scaled = logits * inverse_temperature.reshape(-1, 1)
        reported = logits * policy_inverse.reshape(-1, 1)
        token, logprob, policy = draw_tokens(scaled, reported, True, uniform)
        best, best_logprob, best_policy = draw_greedily(logits, logits, False)
        return (
            ops.select(is_greedy, best, token),
            ops.select(is_greedy, best_logprob, logprob),
            ops.select(is_greedy, best_policy, policy),
        )
