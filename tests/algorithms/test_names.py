"""The names of a configuration are those of the registries."""

from mindrlhf_lite.algorithms import names
from mindrlhf_lite.algorithms.advantage import ADVANTAGES
from mindrlhf_lite.algorithms.aggregation import AGGREGATIONS
from mindrlhf_lite.algorithms.losses import LOSSES


def test_names_and_registries_are_alike():
    assert set(names.ADVANTAGE_NAMES) == ADVANTAGES.keys()
    assert set(names.LOSS_NAMES) == LOSSES.keys()
    assert set(names.AGGREGATION_NAMES) == AGGREGATIONS.keys()
