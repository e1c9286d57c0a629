"""How many communicators a rank's share of a run takes of an Ascend device."""

from mindrlhf_lite.config.communicators import communicator_bytes, groups_of_rank, pairs_of_rank
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy
from mindrlhf_lite.reshard.plan import make_plan
from mindrlhf_lite.shapes.model_config import ModelConfig

SHAPE = ModelConfig(96, 32, 48, 4, 4, 2, tie_word_embeddings=False)
ACTOR, ROLLOUT, REFERENCE = (Strategy(ParallelDims(*each)) for each in ((1, 2, 4), (4, 2, 1), (2, 1, 4)))


def partners(destination, rank):
    pieces = make_plan(SHAPE, ACTOR, destination, 8)
    sent = {piece.receiver for piece in pieces.pieces_sent_by(rank)}
    return (sent | {piece.sender for piece in pieces.pieces_received_by(rank)}) - {rank}


def test_pairs_of_ranks_that_exchange_weights():
    """A role that follows the actor has messages of its own, with the ranks of the rollout model's or with others."""
    together = max(len(partners(ROLLOUT, rank) | partners(REFERENCE, rank)) for rank in range(8))
    alone = max(len(partners(ROLLOUT, rank)) for rank in range(8))
    assert pairs_of_rank(SHAPE, ACTOR, (ROLLOUT,), 8) == alone
    assert pairs_of_rank(SHAPE, ACTOR, (ROLLOUT, REFERENCE), 8) == together > alone


def test_followers_take_more_memory():
    strategies = {"actor": ACTOR, "rollout": ROLLOUT, "reference": REFERENCE}
    plain, following = (communicator_bytes(SHAPE, strategies, 8, names) for names in ((), ("reference",)))
    assert following > plain >= 2 * 200 * 10**6 * groups_of_rank([each.dims for each in strategies.values()], 8)
