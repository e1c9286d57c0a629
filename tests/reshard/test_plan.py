"""The planner's properties: any pair of layouts equals gather-then-slice bit for bit, moves only what is missing, and
shares the sending.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, box_reader, buffers_of_rank, fill_buffers
from mindrlhf_lite.reshard.blocks import blocks_of_receiver
from mindrlhf_lite.reshard.plan import lower_bound_bytes, make_plan
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.parameters import parameter_specs


def whole_tensors(config, seed=0):
    """Random bit patterns: not-a-numbers and denormals have to arrive as they are."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.integers(0, 2**32, spec.shape, np.uint32).view(np.float32) for spec in parameter_specs(config)
    }


@st.composite
def models(draw):
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4]))
    return ModelConfig(
        vocab_size=draw(st.integers(5, 40)),
        hidden_size=draw(st.sampled_from([4, 6, 10])),
        intermediate_size=8 * draw(st.integers(1, 3)),
        num_hidden_layers=draw(st.integers(1, 5)),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 4])),
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def layouts(draw, config):
    """A strategy that `config` allows, on at most 16 ranks."""
    tensor = draw(st.sampled_from([t for t in (1, 2, 4, 8) if not Strategy(ParallelDims(1, t)).problems(config)]))
    pipeline = draw(st.integers(1, min(3, config.num_hidden_layers)))
    data = draw(st.integers(1, max(1, 16 // (tensor * pipeline))))
    cuts = sorted(draw(st.permutations(range(1, config.num_hidden_layers)))[: pipeline - 1])
    stages = tuple(np.diff([0, *cuts, config.num_hidden_layers]).tolist()) if draw(st.booleans()) else ()
    splits_embedding = draw(st.booleans()) or (config.tie_word_embeddings and tensor > 1)
    return Strategy(
        ParallelDims(data, tensor, pipeline),
        stages,
        splits_embedding,
        splits_data=draw(st.booleans()),
        is_fused=draw(st.booleans()),
    )


@st.composite
def cases(draw):
    config = draw(models())
    return config, draw(layouts(config)), draw(layouts(config)), draw(st.sampled_from([16, 64, 1 << 20]))


def arrays(config, strategy, num_ranks, tensors):
    return [
        fill_buffers(buffers_of_rank(config, strategy, r), box_reader(tensors)) if r < strategy.dims.size else {}
        for r in range(num_ranks)
    ]


def execute(plan, source, destination, bucket_bytes):
    """Carries out a plan between arrays, block by block."""
    for rank, buffers in enumerate(destination):
        for array in buffers.values():
            array.view(np.uint32)[...] = 0xDEADBEEF
        for block in blocks_of_receiver(plan, rank, bucket_bytes):
            assert len(block.slabs) == 1 or sum(slab.num_bytes for slab in block.slabs) <= bucket_bytes
            for slab in block.slabs:
                assert slab.num_bytes <= bucket_bytes or slab.rows[1] - slab.rows[0] == 1
                assembled = np.zeros(slab.shape, np.float32)
                for piece in slab.pieces:
                    assembled[piece.destination] = source[piece.sender][piece.source_buffer][piece.source]
                buffers[slab.buffer][slab.rows[0] : slab.rows[1]] = assembled


def check_pair(case):
    config, source, destination, bucket_bytes = case
    assert not source.problems(config) and not destination.problems(config)
    num_ranks, tensors = max(source.dims.size, destination.dims.size), whole_tensors(config)
    plan = make_plan(config, source, destination)
    found, expected = (arrays(config, destination, num_ranks, tensors) for _ in range(2))
    execute(plan, arrays(config, source, num_ranks, tensors), found, bucket_bytes)
    for rank in range(num_ranks):
        for buffer in buffers_of_rank(config, destination, rank) if rank < destination.dims.size else []:
            # rows of padding that share no block with real rows are never written
            for part in buffer.parts:
                rows = slice(part.offset, part.offset + part.box[0][1] - part.box[0][0])
                assert (
                    found[rank][buffer.name][rows].view(np.uint32) == expected[rank][buffer.name][rows].view(np.uint32)
                ).all(), (rank, buffer.name)
    bound = brute_force_bound(config, source, destination, num_ranks)
    assert plan.received_bytes.tolist() == bound == lower_bound_bytes(config, source, destination, num_ranks).tolist()
    assert plan.sent_bytes.sum() == plan.received_bytes.sum()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_any_pair_of_layouts_equals_gather_then_slice(case):
    check_pair(case)


@pytest.mark.full
@settings(max_examples=500, deadline=None)
@given(cases())
def test_five_hundred_pairs_of_layouts_equal_gather_then_slice(case):
    check_pair(case)


def brute_force_bound(config, source, destination, num_ranks):
    """Marks every number that a rank holds and needs, one array a tensor."""
    bounds = []
    for rank in range(num_ranks):
        missing = 0
        for spec in parameter_specs(config):
            marks = []
            for strategy in (source, destination):
                mark = np.zeros(spec.shape, int)
                for buffer in buffers_of_rank(config, strategy, rank) if rank < strategy.dims.size else []:
                    for part in buffer.parts:
                        if part.tensor == spec.name:
                            mark[tuple(slice(*bounds) for bounds in part.box)] += 1
                marks.append(mark)
            missing += int((marks[1] * (marks[0] == 0)).sum())
        bounds.append(4 * missing)
    return bounds


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sending_is_shared_by_replicas(data):
    """Models large enough that pieces are small against a rank's share."""
    config = ModelConfig(1000, 64, 256, 6, 8, 4, tie_word_embeddings=data.draw(st.booleans()))
    plain = layouts(config).map(lambda s: Strategy(s.dims, s.stage_layers, s.splits_embedding, False, s.is_fused))
    plan = make_plan(config, data.draw(plain), data.draw(plain))
    assert plan.balance <= 1.1


def test_by_hand():
    """Two layers of one row each on two stages, to two replicas of the whole: each rank lacks what the other has."""
    config = ModelConfig(2, 2, 1, 2, 1, 1, head_dim=2, tie_word_embeddings=False)
    plan = make_plan(config, Strategy(ParallelDims(1, 1, 2)), Strategy(ParallelDims(2, 1, 1)))
    layer = 2 + 3 * (4 + 2) + 4 + 2 + 2 + 2 + 2  # norm, qkv with biases, o, norm, gate, up, down
    assert plan.received_bytes.tolist() == [
        4 * (layer + 2 + 4),
        4 * (layer + 4),
    ]  # rank 0 lacks layer 1, norm and head; rank 1 layer 0 and the embedding
    assert plan.copied_bytes.tolist() == [4 * (2 * layer + 10)] * 2


def test_replicated_key_value_heads():
    """Four tensor ranks to two: heads 0 and 1 lie on ranks (0, 1) and (2, 3); rank 1 of the new two needs head 1, which
    old rank 1 lacks.
    """
    config = ModelConfig(8, 8, 4, 1, 4, 2, tie_word_embeddings=True)
    plan = make_plan(config, Strategy(ParallelDims(1, 4)), Strategy(ParallelDims(2, 2)))
    key = [
        piece for rank in range(4) for piece in plan.pieces_received_by(rank) if piece.tensor.endswith("k_proj.bias")
    ]
    assert [piece.receiver for piece in key if piece.sender == piece.receiver] == [0, 3]
    assert {(piece.sender, piece.receiver) for piece in key if piece.sender != piece.receiver} <= {
        (2, 1),
        (3, 1),
        (0, 2),
        (1, 2),
    }


def test_a_source_that_lacks_something_is_refused():
    config = ModelConfig(8, 4, 4, 2, 2, 2)
    wider = ModelConfig(8, 4, 8, 2, 2, 2)
    from mindrlhf_lite.reshard import plan as module

    needed = module.holdings(wider, Strategy(ParallelDims(1)))
    with pytest.raises(ValueError, match=r"gate_proj.weight: the source layout covers 16 of the 32 numbers"):
        list(module._overlaps(needed, module.holdings(config, Strategy(ParallelDims(1)))))


@pytest.mark.parametrize(
    ("config", "source", "destination"),
    [
        (
            ModelConfig(152064, 3584, 18944, 28, 28, 4, tie_word_embeddings=False),
            ParallelDims(1, 4, 2),
            ParallelDims(2, 4, 1),
        ),
        (
            ModelConfig(152064, 8192, 29568, 80, 64, 8, tie_word_embeddings=False),
            ParallelDims(16, 8, 8),
            ParallelDims(128, 8, 1),
        ),
    ],
)
def test_large_models_on_paper(config, source, destination):
    plan = make_plan(config, Strategy(source), Strategy(destination))
    assert plan.balance <= 1.1
    assert (
        plan.received_bytes == lower_bound_bytes(config, Strategy(source), Strategy(destination), plan.num_ranks)
    ).all()
