"""Which part of which parameter every rank holds, under a parallel strategy: the layout algebra, pure numbers.

One description serves the model (its local shapes), the optimizer, the reshard planner and the checkpoints. A tensor is
the parameter as Hugging Face names and shapes it; a buffer is what a rank allocates; a part says which box of which
tensor lies where in a buffer. Buffers may be larger than their parts: a padded vocabulary's last rows belong to no
tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mindrlhf_lite.errors import UserError
from mindrlhf_lite.parallel.dims import Coordinates, ParallelDims
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import ParameterSpec, parameter_specs

Box = tuple[tuple[int, int], ...]  # (start, stop) of every dimension, in the whole tensor

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
# what engines with fused linears call them, and what they are made of
FUSED_PARAMETERS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass(frozen=True)
class Strategy:
    """How a model's weights lie on the ranks.

    Example: Strategy(ParallelDims(copies=1, tensor=2, pipeline=2), stage_layers=(13, 11))
    """

    dims: ParallelDims
    stage_layers: tuple[
        int, ...
    ] = ()  # layers of every pipeline stage; empty: even, the first stages take what is left over
    splits_embedding: bool = True  # False: every tensor rank holds the whole embedding table (vocab_emb_dp)
    splits_data: bool = False  # True: the data ranks share rows where they divide evenly (optimizer sharding)
    is_fused: bool = False  # True: q, k, v in one buffer, gate and up in another

    def layers_of_stage(self, num_layers: int) -> list[range]:
        """The layers of every stage."""
        counts = self.stage_layers or even_stages(num_layers, self.dims.pipeline)
        starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
        return [range(start, stop) for start, stop in zip(starts, starts[1:])]

    def problems(self, config: ModelConfig) -> list[str]:
        """Why `config` cannot be laid out so, each with its equation."""
        found, tensor, heads, kv_heads = [], self.dims.tensor, config.num_attention_heads, config.num_key_value_heads
        if heads % tensor:
            found.append(f"num_attention_heads {heads} % model_parallel {tensor} = {heads % tensor}; it must be 0")
        if kv_heads % tensor and tensor % kv_heads:
            found.append(
                f"num_key_value_heads {kv_heads} and model_parallel {tensor}: one must be a multiple of the other"
            )
        if config.intermediate_size % tensor:
            found.append(
                f"intermediate_size {config.intermediate_size} % model_parallel {tensor} = "
                f"{config.intermediate_size % tensor}; it must be 0"
            )
        if self.dims.pipeline > config.num_hidden_layers:
            found.append(
                f"pipeline_stage {self.dims.pipeline} > num_hidden_layers {config.num_hidden_layers}: a stage "
                "would be empty"
            )
        if self.stage_layers and (
            len(self.stage_layers) != self.dims.pipeline
            or sum(self.stage_layers) != config.num_hidden_layers
            or min(self.stage_layers) < 1
        ):
            listed = " + ".join(map(str, self.stage_layers))
            found.append(
                f"stage_layers {listed} = {sum(self.stage_layers)}: {self.dims.pipeline} positive numbers are "
                f"needed that add up to num_hidden_layers {config.num_hidden_layers}"
            )
        if config.tie_word_embeddings and not self.splits_embedding and tensor > 1:
            found.append(
                "vocab_emb_dp: true needs an embedding of its own, but tie_word_embeddings shares it with the "
                "head, which is split; set it to false"
            )
        return found


def even_stages(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Example: even_stages(10, 4) == (3, 3, 2, 2)"""
    return tuple(num_layers // num_stages + (stage < num_layers % num_stages) for stage in range(num_stages))


def parse_strategy(text: str, source: str, config: ModelConfig | None = None) -> Strategy:
    """A strategy from text: dp=1,tp=4,pp=2 and optionally layers=13/11, zero=1, fused=1, emb=whole.

    Args:
        source: named in errors, e.g. "--src".
        config: if given, the strategy must be possible for it.

    Raises:
        ValueError: names what is wrong and what is understood.
    """
    known = "dp=N,tp=N,pp=N[,layers=A/B/...][,zero=1][,fused=1][,emb=whole]"
    values = dict.fromkeys(("dp", "tp", "pp", "layers", "zero", "fused", "emb"), "")
    for word in text.replace(" ", "").split(","):
        key, _, value = word.partition("=")
        if key not in values or not value:
            raise UserError(f"{source} {text}: {word!r} is not understood; write {known}")
        values[key] = value
    try:
        dims = ParallelDims(*(int(values[key] or 1) for key in ("dp", "tp", "pp")))
        layers = tuple(int(count) for count in values["layers"].split("/")) if values["layers"] else ()
    except ValueError:
        raise UserError(f"{source} {text}: whole numbers are needed; write {known}") from None
    if min(dims.copies, dims.tensor, dims.pipeline) < 1:
        raise UserError(f"{source} {text}: every degree must be at least 1")
    strategy = Strategy(dims, layers, values["emb"] != "whole", values["zero"] == "1", values["fused"] == "1")
    if config is not None and (problems := strategy.problems(config)):
        raise UserError(f"{source} {text}: " + "; ".join(problems))
    return strategy


@dataclass(frozen=True)
class Part:
    """Rows [offset, offset + box rows) of a buffer hold this box of a tensor.

    Example: Part("model.embed_tokens.weight", ((0, 130), (0, 256)), 0)
    """

    tensor: str
    box: Box
    offset: int


@dataclass(frozen=True)
class Buffer:
    """What one rank allocates for a parameter.

    Example: Buffer("model.norm.weight", (256,), (Part("model.norm.weight", ((0, 256),), 0),))
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def tensor_range(spec: ParameterSpec, index: int, degree: int) -> tuple[int, int]:
    """Indices [start, stop) of `spec.tensor_dim` on tensor rank `index` of `degree`; clipped where a padded vocabulary
    ends.
    """
    assert spec.tensor_dim is not None
    extent = spec.shape[spec.tensor_dim]
    if spec.units == 0:
        rows = -(-extent // degree)
        return min(index * rows, extent), min((index + 1) * rows, extent)
    if spec.units % degree == 0:
        return index * extent // degree, (index + 1) * extent // degree
    assert degree % spec.units == 0, f"{spec.name}: {spec.units} units on {degree} tensor ranks"
    unit, width = index * spec.units // degree, extent // spec.units
    return unit * width, (unit + 1) * width


def _buffer(spec: ParameterSpec, strategy: Strategy, at: Coordinates) -> Buffer:
    box, shape = [(0, extent) for extent in spec.shape], list(spec.shape)
    if spec.tensor_dim is not None and not (spec.name == EMBEDDING and not strategy.splits_embedding):
        box[spec.tensor_dim] = tensor_range(spec, at.tensor, strategy.dims.tensor)
        start, stop = box[spec.tensor_dim]
        shape[spec.tensor_dim] = (
            -(-spec.shape[spec.tensor_dim] // strategy.dims.tensor) if spec.units == 0 else stop - start
        )
    if strategy.splits_data and shape[0] % strategy.dims.copies == 0:
        rows, (start, stop) = shape[0] // strategy.dims.copies, box[0]
        box[0] = min(start + at.data * rows, stop), min(start + (at.data + 1) * rows, stop)
        shape[0] = rows
    return Buffer(spec.name, tuple(shape), (Part(spec.name, tuple(box), 0),))


def _fuse(buffers: list[Buffer]) -> list[Buffer]:
    """Joins the buffers of FUSED_PARAMETERS groups along their rows, each where its first member stood."""
    by_name, done, result = {buffer.name: buffer for buffer in buffers}, set(), []
    for buffer in buffers:
        group = next(
            ((fused, old) for fused, olds in FUSED_PARAMETERS.items() for old in olds if f".{old}." in buffer.name),
            None,
        )
        if group is None:
            result.append(buffer)
            continue
        fused, old = group
        name = buffer.name.replace(old, fused)
        if name in done:
            continue
        done.add(name)
        members, parts, offset = (
            [by_name[buffer.name.replace(old, member)] for member in FUSED_PARAMETERS[fused]],
            [],
            0,
        )
        for member in members:
            parts += [Part(part.tensor, part.box, part.offset + offset) for part in member.parts]
            offset += member.shape[0]
        result.append(Buffer(name, (offset, *buffer.shape[1:]), tuple(parts)))
    return result


def buffers_of_rank(config: ModelConfig, strategy: Strategy, rank: int) -> list[Buffer]:
    """All buffers of `rank`, in forward order. A tied head is a second copy of the embedding's shard on the last of
    several stages.
    """
    return buffers_at(config, strategy, strategy.dims.coordinates(rank))


def buffers_at(config: ModelConfig, strategy: Strategy, at: Coordinates) -> list[Buffer]:
    """`buffers_of_rank`, by coordinates."""
    last, layers = strategy.dims.pipeline - 1, strategy.layers_of_stage(config.num_hidden_layers)[at.stage]

    def is_here(spec: ParameterSpec) -> bool:
        if spec.layer is not None:
            return spec.layer in layers
        return at.stage == 0 if spec.name == EMBEDDING else at.stage == last

    specs = parameter_specs(config)
    buffers = [_buffer(spec, strategy, at) for spec in specs if is_here(spec)]
    has_ends = specs[0].name == EMBEDDING  # else a table of adapters alone
    if config.tie_word_embeddings and has_ends and at.stage == last and last > 0:
        copy = _buffer(specs[0], strategy, at)
        buffers.append(Buffer(HEAD, copy.shape, copy.parts))
    return _fuse(buffers) if strategy.is_fused else buffers


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def whole_box(shape: Sequence[int]) -> Box:
    """Example: whole_box((4, 3)) == ((0, 4), (0, 3))"""
    return tuple((0, extent) for extent in shape)


def rows_of(part: Part) -> slice:
    """Where the part lies in its buffer, along the rows."""
    return slice(part.offset, part.offset + part.box[0][1] - part.box[0][0])


def part_view(array: np.ndarray, part: Part) -> np.ndarray:
    """The part's own region of its buffer's array."""
    return array[(rows_of(part), *(slice(0, stop - start) for start, stop in part.box[1:]))]


def fill_buffer(buffer: Buffer, read: Callable[[str, Box], np.ndarray]) -> np.ndarray:
    """A float32 array; `read(tensor, box)` gives the values of a box. Padding rows are zero."""
    array = np.zeros(buffer.shape, np.float32)
    for part in buffer.parts:
        part_view(array, part)[...] = read(part.tensor, part.box)
    return array


def fill_buffers(buffers: Sequence[Buffer], read: Callable[[str, Box], np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of `fill_buffer` by buffer name."""
    return {buffer.name: fill_buffer(buffer, read) for buffer in buffers}


class BuffersToFill(Mapping[str, np.ndarray]):
    """`fill_buffers`, each array made when it is asked for and kept by nobody: a large model is not in memory twice."""

    def __init__(self, buffers: Sequence[Buffer], read: Callable[[str, Box], np.ndarray]):
        self._buffers, self._read = {buffer.name: buffer for buffer in buffers}, read

    def __getitem__(self, name: str) -> np.ndarray:
        return fill_buffer(self._buffers[name], self._read)

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)


def box_reader(tensors: dict[str, np.ndarray]) -> Callable[[str, Box], np.ndarray]:
    """A `read` for `fill_buffers` over whole tensors in memory."""
    return lambda name, box: tensors[name][slices(box)]
