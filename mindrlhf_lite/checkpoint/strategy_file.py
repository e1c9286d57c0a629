"""A parallel strategy as JSON: in every checkpoint's state.json, from `main.py --only_save_strategy`, and into
`tools/transform_checkpoint.py`.

Example: {"data_parallel": 1, "model_parallel": 2, "pipeline_stage": 2, "stage_layers": [], "vocab_emb_dp": false,
"enable_parallel_optimizer": false}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy

_MOST_RANKS = 1 << 16


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def strategy_to_json(strategy: Strategy) -> dict[str, Any]:
    dims = strategy.dims
    return {
        "data_parallel": dims.copies,
        "model_parallel": dims.tensor,
        "pipeline_stage": dims.pipeline,
        "stage_layers": list(strategy.stage_layers),
        "vocab_emb_dp": not strategy.splits_embedding,
        "enable_parallel_optimizer": strategy.splits_data,
    }


def strategy_from_json(values: Mapping[str, Any], source: str) -> Strategy:
    """The inverse of `strategy_to_json`.

    Raises:
        ValueError: a key is missing or unknown, or a degree is not a positive number.
    """
    known = strategy_to_json(Strategy(ParallelDims(1)))
    if unknown := values.keys() - known.keys():
        raise UserError(f"{source}: unknown {', '.join(sorted(unknown))}; a strategy has {', '.join(known)}")
    filled = {**known, **values}
    degrees = [filled[key] for key in ("data_parallel", "model_parallel", "pipeline_stage")]
    if not all(_is_count(degree) for degree in degrees):
        raise UserError(
            f"{source}: data_parallel, model_parallel, pipeline_stage = {degrees}: positive whole numbers are needed"
        )
    if math.prod(degrees) > _MOST_RANKS:
        raise UserError(f"{source}: {math.prod(degrees)} ranks; at most {_MOST_RANKS} are understood")
    layers = filled["stage_layers"]
    if not isinstance(layers, list) or not all(map(_is_count, layers)):
        raise UserError(f"{source}: stage_layers={layers!r}: a list of positive whole numbers is needed")
    for key in ("vocab_emb_dp", "enable_parallel_optimizer"):
        if not isinstance(filled[key], bool):
            raise UserError(f"{source}: {key}={filled[key]!r}: true or false is needed")
    return Strategy(
        ParallelDims(*degrees),
        tuple(layers),
        splits_embedding=not filled["vocab_emb_dp"],
        splits_data=filled["enable_parallel_optimizer"],
    )
