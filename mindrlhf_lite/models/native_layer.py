"""A decoder layer by the CPU's own operators, a few for a whole layer, and its backward pass, where this rank has all
columns of its weights. What a forward pass keeps: queries and keys, turned, and values; those before their norms, where
they have any; the stream between the blocks; gate and up; then attention's results.
"""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Parameter, Tensor

from mindrlhf_lite.models.adapted_product import adapters_at
from mindrlhf_lite.models.decoder_layer import DecoderLayer
from mindrlhf_lite.models.precision import Precision
from mindrlhf_lite.native import layer_operators
from mindrlhf_lite.native.layer_operators import ABSENT
from mindrlhf_lite.parallel.collectives import scatter_tokens
from mindrlhf_lite.parallel.mesh import RoleMesh
from mindrlhf_lite.shapes.model_config import ModelConfig


class NativeLayer(DecoderLayer):
    """`DecoderLayer` by the CPU's operators."""

    def __init__(
        self,
        config: ModelConfig,
        number: int,
        parameters: Mapping[str, Parameter],
        mesh: RoleMesh,
        is_sequence_split: bool,
        precision: Precision,
        is_trained: bool,
    ):
        super().__init__(config, number, parameters, mesh, is_sequence_split, precision, is_trained)
        attention, mlp, eps = self.attention, self.mlp, config.rms_norm_eps
        has_norms = attention.q_norm is not None
        self.count = 5 if has_norms else 3  # of the attention block's products
        self.num_products = self.count + 3
        self.pairs, scale = attention.pairs, attention.scale_of_adapters
        self.enter = layer_operators.AttentionIn(eps, attention.head_dim**-0.5, has_norms, scale)
        self.leave, self.gated = layer_operators.AttentionOut(scale), layer_operators.GatedMlp(eps, scale)
        self.scatter_keys, self.scatter_values = scatter_tokens(mesh.context), scatter_tokens(mesh.context)
        self.of_attention = (attention.q, attention.k, attention.v)
        self.biases = (attention.q_bias, attention.k_bias, attention.v_bias)
        self.norms = (attention.q_norm, attention.k_norm)
        self.of_mlp = (mlp.gate, mlp.up, mlp.down)

    def _chosen(self, weights: tuple, places: tuple) -> tuple:
        chosen: tuple = ()
        for place in places:
            chosen += (ABSENT if place is None else weights[place],)
        return chosen

    def _attended(self, products: tuple, inputs: tuple) -> tuple:
        attention = self.attention
        keys, values = attention.gather_keys(products[1]), attention.gather_values(products[2])
        return attention.attend(products[0], keys, values, inputs[4])

    def _products(self, x: Tensor, weights: tuple, inputs: tuple) -> tuple:
        parts = (self._chosen(weights, self.of_attention), self._chosen(weights, self.biases))
        norms, adapters = self._chosen(weights, self.norms), adapters_at(self.pairs, weights, self.of_attention)
        return self.enter(x, weights[self.attention.input_norm], *parts, norms, inputs[:2], adapters)

    def run(self, x: Tensor, weights: tuple, inputs: tuple, known: tuple = ()) -> tuple[Tensor, tuple]:
        """As of `DecoderLayer.run`."""
        known = self._kept(x, weights, inputs, known)
        between, gate, up = known[self.count : self.num_products]
        adapter = adapters_at(self.pairs, weights, (self.mlp.down,))
        return self.gated.out(gate, up, weights[self.mlp.down], between, adapter), known

    def _kept(self, x: Tensor, weights: tuple, inputs: tuple, kept: tuple) -> tuple:
        """All that a forward pass keeps; what is not in `kept` runs."""
        if len(kept) > self.num_products:
            return kept
        if len(kept) > 0:
            return (*kept, *self._attended(kept, inputs))
        attention, mlp = self.attention, self.mlp
        products = self._products(x, weights, inputs)
        results = self._attended(products, inputs)
        between = self.leave(results[0], weights[attention.o], x, adapters_at(self.pairs, weights, (attention.o,)))
        adapters = adapters_at(self.pairs, weights, (mlp.gate, mlp.up))
        gated = self.gated(between, weights[mlp.input_norm], weights[mlp.gate], weights[mlp.up], adapters)
        return (*products, between, *gated, *results)

    def backward(self, x: Tensor, weights: tuple, inputs: tuple, kept: tuple, gradient: Tensor, sums: tuple) -> Tensor:
        """Adds the gradients of the weights to their sums. Args: kept: of the forward pass, its first `num_products`
        entries, or (); gradient: of the output [T, H]; sums: in the order of the weights, `ABSENT` where one is not
        trained. Returns the gradient of x.
        """
        attention, mlp, count = self.attention, self.mlp, self.count
        kept = self._kept(x, weights, inputs, kept)
        between, gate, up, attended, log_sums = kept[count:]
        mlp_sums = self._chosen(sums, (mlp.input_norm, *self.of_mlp))
        of_mlp = self._chosen(weights, self.of_mlp)
        of_between = self.gated.gradient(
            between,
            weights[mlp.input_norm],
            of_mlp,
            (gate, up),
            gradient,
            mlp_sums,
            *self._both(weights, sums, self.of_mlp),
        )
        of_o = self._both(weights, sums, (attention.o,))
        of_attended = self.leave.gradient(of_between, attended, weights[attention.o], sums[attention.o], *of_o)
        keys, values = attention.gather_keys(kept[1]), attention.gather_values(kept[2])
        of_q, of_k, of_v = attention.attend_known.gradient(
            kept[0], keys, values, inputs[4], attended, log_sums, of_attended
        )
        gradients = (of_q, self.scatter_keys(of_k), self.scatter_values(of_v))
        own_sums = self._chosen(sums, (attention.input_norm, *self.of_attention, *self.biases, *self.norms))
        return self.enter.gradient(
            x,
            weights[attention.input_norm],
            self._chosen(weights, self.of_attention),
            self._chosen(weights, self.norms),
            inputs[:2],
            kept[3:5] if count == 5 else (ABSENT, ABSENT),
            gradients,
            of_between,
            own_sums,
            *self._both(weights, sums, self.of_attention),
        )

    def _both(self, weights: tuple, sums: tuple, places: tuple) -> tuple[tuple, tuple]:
        """Adapters at `places`, and their sums."""
        return adapters_at(self.pairs, weights, places), adapters_at(self.pairs, sums, places)
