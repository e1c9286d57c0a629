"""How many copies go between device and host, and how large: bundles of parameters, two under way."""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
from helpers import ROOT
from mindspore import Parameter, Tensor

from mindrlhf_lite.config.model_file import read_model_file
from mindrlhf_lite.parallel.dims import ParallelDims
from mindrlhf_lite.parallel.layout import Strategy, buffers_of_rank
from mindrlhf_lite.reshard.transports import Location
from mindrlhf_lite.swap.host_copies import BUNDLE_BYTES, MOST_UNDER_WAY, HostCopies, bundles_of
from mindrlhf_lite.swap.phases import Phase
from mindrlhf_lite.swap.residency import Contents, Residency
from mindrlhf_lite.swap.stores import HostStore

MIB = 1 << 20


class CountedCopies(HostCopies):
    def __init__(self):
        super().__init__()
        self.sizes, self.most = [], 0

    def start(self, target, source):
        super().start(target, source)
        self.sizes.append(target.nbytes)
        self.most = max(self.most, len(self.under_way))

    def take(self):
        taken, self.sizes = self.sizes, []
        return taken


def parameters(prefix, seed):
    """A layer's, as it were: of two types, of all sizes, not-a-numbers among them."""
    rng = np.random.default_rng(seed)
    shapes = [(34 * MIB // 4, 4), *[(rows, 96) for rows in range(1, 40)], (64,), (1,)]
    found = []
    for index, shape in enumerate(shapes):
        bits = rng.integers(0, 2**16, (*shape, 2), np.uint16)
        values = bits.view(np.float32)[..., 0] if index % 3 else bits.view(np.float16)[..., 0].copy()
        found.append(Parameter(Tensor(values), name=f"{prefix}.{index}", requires_grad=False))
    return found


def bytes_of(parameter):
    return np.array(parameter.asnumpy()).tobytes()


def test_a_step_takes_few_copies_of_many_parameters_and_loses_no_bit():
    copies = CountedCopies()
    phases = {"update": Phase(changes=("actor", "moments")), "reference": Phase(needs=("reference",))}
    residency = Residency(phases, HostStore(copies))
    groups = {name: parameters(name, seed) for seed, name in enumerate(("actor", "moments", "reference"))}
    before = {name: [bytes_of(each) for each in group] for name, group in groups.items()}
    for name, group in groups.items():
        residency.add(name, group, Contents.FROZEN if name == "reference" else Contents.CHANGES)
    copies.take()
    sizes = {name: sum(each.nbytes for each in group) for name, group in groups.items()}
    for turn in range(2):
        with residency.phase("reference"):
            assert [bytes_of(each) for each in groups["reference"]] == before["reference"]
        with residency.phase("update"):
            for name in ("actor", "moments"):
                assert [bytes_of(each) for each in groups[name]] == before[name]
        # in and out again, but for the reference, which is saved once: of 42 parameters, two types and a large one
        moved = copies.take()
        assert len(moved) == 3 * 3 + turn * 2 * 3, moved
        assert sum(moved) == sum(sizes.values()) + turn * (sizes["actor"] + sizes["moments"])
    assert copies.most == MOST_UNDER_WAY and not copies.under_way


@dataclass
class Sized:
    """What `bundles_of` asks of a parameter."""

    nbytes: int
    dtype: ms.Type


def test_parameters_of_a_large_model_are_copied_in_large_pieces():
    """7B on 8 ranks: what is left of 339 copies a group."""
    shape = read_model_file(str(ROOT / "model_configs/qwen2_5_7b.yaml")).shape
    for itemsize, most in ((2, 100), (4, 170)):
        buffers = buffers_of_rank(shape, Strategy(ParallelDims(2, 4, 1)), 0)
        sized = [Sized(itemsize * int(np.prod(buffer.shape)), ms.float32) for buffer in buffers]
        bundles = bundles_of(sized)
        assert len(sized) == 339 and len(bundles) <= most
        assert sum(len(bundle) for bundle in bundles) == len(sized)
        assert all(len(bundle) == 1 or sum(each.nbytes for each in bundle) <= BUNDLE_BYTES for bundle in bundles)
        # no two neighbours that would have gone together
        assert all(sum(each.nbytes for each in (*a, b[0])) > BUNDLE_BYTES for a, b in zip(bundles, bundles[1:]))


@pytest.mark.parametrize("region", [(slice(3, 9), slice(0, 96)), (slice(0, 20), slice(5, 8)), (slice(4, 5),)])
def test_what_is_stored_is_read_where_it_lies(region):
    store, group = HostStore(CountedCopies()), parameters("actor", 0)
    store.reserve(group)
    store.save(group)
    store._copies.take()
    parameter = group[24] if len(region) > 1 else group[-2]
    wanted = parameter.asnumpy()[region].copy()
    store.release(group)
    found = store.tensor(parameter, region).asnumpy()
    assert found.tobytes() == wanted.tobytes()
    (copied,) = store._copies.take()  # whole rows
    assert copied == wanted.itemsize * (region[0].stop - region[0].start) * int(np.prod(parameter.shape[1:]))
    out = np.empty_like(wanted)
    store.read(parameter, region, out)
    assert out.tobytes() == wanted.tobytes()
    location = store.locate(parameter)
    assert isinstance(location, Location) and location.shape == tuple(parameter.shape) and location.address
