"""Advantages of tokens beside their texts, by hand."""

import numpy as np
import pytest

from mindrlhf_lite.observe.token_advantages import token_advantages
from mindrlhf_lite.turns import Episode, EpisodeEnd, Turn
from mindrlhf_lite.types import Completion, FinishReason

BYTES = {1: b"3+5", 2: b"=", 3: b"8", 4: "\N{GRINNING FACE}".encode()[:2], 5: "\N{GRINNING FACE}".encode()[2:], 6: b""}


def decode(ids):
    """As a tokenizer of bytes does; 6 is a stop token, which is no text."""
    return b"".join(BYTES[each] for each in ids).decode(errors="replace")


def found(ids, advantages, **more):
    completion = Completion(tuple(ids), None, None, FinishReason.STOP, **more)
    return token_advantages(completion, np.float32(advantages), decode)


def test_neighbours_of_one_advantage_are_one_piece():
    assert found([1, 2, 3, 6], [0.5, 0.5, -0.3, -0.3]) == [[["3+5=", 0.5], ["8", -0.3]]]
    assert found([1, 2, 3], [0.1, 0.2, 0.3]) == [[["3+5", 0.1], ["=", 0.2], ["8", 0.3]]]


def test_one_advantage_needs_no_pieces():
    assert found([1, 2, 3], [0.5, 0.5, 0.5]) == []


def test_the_tokens_of_a_character_stay_together():
    assert found([4, 5, 3], [1.0, 0.0, 2.0]) == [[["\N{GRINNING FACE}", 0.5], ["8", 2.0]]]  # the mean
    assert found([3, 4], [1.0, 2.0]) == [[["8", 1.0], ["\N{REPLACEMENT CHARACTER}", 2.0]]]  # cut off by the limit


def test_turns_of_an_episode():
    written = np.array([1, 0, 1, 1], bool)
    episode = Episode((Turn(0, 1), Turn(2, 4)), EpisodeEnd.DONE)
    by_turn = found([1, 2, 2, 3], [0.5, 0.0, -0.5, -0.5], written=written, episode=episode)
    assert by_turn == [[["3+5", 0.5]], [["=8", -0.5]]]  # 0 where nothing was written does not count


@pytest.mark.parametrize("advantages", [[0.5, 0.0, 0.5, 0.5], [0.5, -9.0, 0.5, 0.5]])
def test_what_an_environment_answered_is_no_difference(advantages):
    written = np.array([1, 0, 1, 1], bool)
    assert found([1, 2, 2, 3], advantages, written=written) == []
