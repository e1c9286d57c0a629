"""What flash attention of variable length is given: the same tokens see the same keys as in the form that masks, the
kernel's rules hold, and what is brought together is bounded.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindrlhf_lite.models.flash_attention import flash_spans


def stream_of(groups, padding):
    """segments, prompts, positions of groups (prompt length, completions' lengths)."""
    segments, prompts, positions = [], [], []
    for prompt, completions in groups:
        own = (max(segments) if segments else -1) + 1
        segments += [own] * prompt
        prompts += [own] * prompt
        positions += range(prompt)
        for number, length in enumerate(completions, own + 1):
            segments += [number] * length
            prompts += [own] * length
            positions += range(prompt, prompt + length)
    segments, prompts, positions = (
        each + [fill] * padding for each, fill in ((segments, -1), (prompts, -1), (positions, 0))
    )
    return (np.array(each, np.int32) for each in (segments, prompts, positions))


def seen(segments, prompts, own):
    """Keys of every query, by the kernel's rule: the last query of a segment sees all its keys, the one before all but
    one.
    """
    places, query_ends, key_ends = flash_spans(segments, prompts, own)
    found = []
    for first, last, key_first, key_last in zip((0, *query_ends), query_ends, (0, *key_ends), key_ends):
        found += [places[key_first : key_last - (last - 1 - query)].tolist() for query in range(first, last)]
    return found


@st.composite
def streams(draw):
    groups = draw(
        st.lists(
            st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=0, max_size=4)), min_size=1, max_size=4
        )
    )
    length = sum(prompt + sum(completions) for prompt, completions in groups)
    parts = draw(st.sampled_from([1, 2, 4]))
    return groups, -length % parts + parts * draw(st.integers(0, 5)), parts


@settings(max_examples=200, deadline=None)
@given(streams())
def test_tokens_see_their_prompt_and_themselves_up_to_their_place(case):
    groups, padding, parts = case
    segments, prompts, positions = stream_of(groups, padding)
    share = len(segments) // parts
    for part in range(parts):  # of ranks that share a sequence's tokens
        own = slice(part * share, (part + 1) * share)
        found = seen(segments, prompts, own)
        assert len(found) == share
        for token, keys in zip(range(own.start, own.stop), found):
            if segments[token] < 0:  # sees no real token that would take a gradient from it
                assert all(key >= len(segments) or segments[key] < 0 for key in keys)
                continue
            wanted = [
                key
                for key in range(len(segments))
                if segments[key] in (segments[token], prompts[token]) and positions[key] <= positions[token]
            ]
            assert keys == wanted, token


@settings(max_examples=200, deadline=None)
@given(streams())
def test_the_kernels_rules(case):
    groups, padding, parts = case
    segments, prompts, _ = stream_of(groups, padding)
    share = len(segments) // parts
    places, query_ends, key_ends = flash_spans(segments, prompts, slice(0, share))
    queries, keys = (np.diff((0, *ends)) for ends in (query_ends, key_ends))
    assert len(queries) == len(keys) and query_ends[-1] == share and key_ends[-1] == len(places)
    assert (queries >= 0).all() and (keys > 0).all() and (queries <= keys).all()


def test_a_graph_serves_streams_of_other_lengths():
    """Sizes follow the stream's tokens, not who shares them."""
    found = []
    for shift in range(0, 120, 10):
        segments, prompts, _ = stream_of([(500 - shift, [400 + shift, 300, 400, 200 + shift])], 2048 - 1800 - shift)
        places, query_ends, _ = flash_spans(segments, prompts, slice(0, 2048))
        found.append((len(places), len(query_ends)))
    assert len(set(found)) <= 2, found


@pytest.mark.parametrize(("prompt", "completion"), [(512, 512), (1024, 15_360)])
def test_keys_that_are_brought_together(prompt, completion):
    """At most two and a half times what the completions and their repeated prompts are; blocks of 32 queries brought
    together the keys of a whole sequence for every 32 tokens.
    """
    segments, prompts, _ = stream_of([(prompt, [completion] * 8)], 0)
    places, *_ = flash_spans(segments, prompts, slice(0, len(segments)))
    by_blocks = len(segments) // 32 * (prompt + completion)
    assert len(places) <= 1.25 * (prompt + 8 * (prompt + completion)) and 15 * len(places) < by_blocks
