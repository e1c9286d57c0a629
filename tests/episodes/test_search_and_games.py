"""The tool search, and gymnasium's environments."""

import pytest

from mindrlhf_lite.episodes.environment import Action, Task, ToolCall
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.registry import EnvironmentSpec, maker_of
from mindrlhf_lite.episodes.tools import schema_of
from mindrlhf_lite.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "rivers.txt").write_text("The Nile flows through Egypt.\n\n" + "The Amazon is long. " * 60)
    (tmp_path / "deep/towns.md").write_text("Cairo lies on the Nile.\n\n开罗是埃及的首都。")
    (tmp_path / "picture.png").write_bytes(b"Nile")
    return tmp_path


def test_passages_are_ranked(folder):
    pytest.importorskip("rank_bm25", reason="needs the extra search")
    from mindrlhf_lite.episodes.search import Library

    library = Library(str(folder))
    assert library.search("cairo", 3).startswith("[deep/towns.md] Cairo lies on the Nile.")
    both = library.search("Nile", 3).split("\n\n")
    assert {passage.partition("]")[0] for passage in both} == {"[deep/towns.md", "[rivers.txt"}
    assert library.search("Nile", 1).count("[") == 1
    assert "开罗" in library.search("首都", 3)  # a character is a word
    assert library.search("Rhine", 3) == "nothing was found"
    assert library.search("Nile", 3) == Library(str(folder)).search("Nile", 3)


def test_it_is_a_tool(folder):
    pytest.importorskip("rank_bm25", reason="needs the extra search")
    spec = EnvironmentSpec("", ["search"], [schema_of("search")], {"folder": str(folder)})
    environment = maker_of(spec)()
    environment.reset(Task(0, "Where is Cairo?", ""), 0)
    step = environment.step(Action("", (ToolCall("search", {"query": "Cairo", "num_results": 1}),)))
    assert "on the Nile" in step.messages[0]["content"]
    for arguments, problem in (({}, r"search needs .*folder=DIR"), ({"folder": "nowhere"}, "no folder 'nowhere'")):
        with pytest.raises(UserError, match=problem):
            maker_of(EnvironmentSpec("", ["search"], spec.schemas, arguments))


def game(**arguments):
    pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
    return maker_of(EnvironmentSpec("gymnasium", arguments=arguments))()


def test_frozen_lake_is_won_and_lost():
    lake = game(id="FrozenLake-v1", settings={"is_slippery": False}, answers_as="text")
    opening = lake.reset(Task(0, "Reach G.", "3"), 11)
    assert opening.endswith("Say one of: left, down, right, up.\n[S]FFF\nFHFH\nFFFH\nHFFG\n")
    for word in ("down", "I go DOWN", "right", "down", "right"):
        step = lake.step(Action(word))
        assert not step.done and step.reward == 0
    assert step.messages.split("\n")[3] == "HF[F]G"
    last = lake.step(Action("right"))
    assert (last.reward, last.done, last.info) == (1.0, True, {"solved": True})
    lake.reset(Task(0, "Reach G.", "3"), 11)
    assert lake.step(Action("jump")).messages == "Say one of: left, down, right, up.\n"
    lake.step(Action("down"))
    fell = lake.step(Action("right"))
    assert (fell.reward, fell.done, fell.info) == (0.0, True, {"solved": False})


def test_taxi_is_told_in_words():
    taxi = game(id="Taxi-v4")
    one, other, third = (taxi.reset(Task(0, "Drive.", gold), seed) for gold, seed in (("3", 1), ("3", 2), ("4", 1)))
    assert one == other != third and one[0]["role"] == "user"  # the row says which game it is
    assert "The taxi is at (" in one[0]["content"] and "\x1b" not in one[0]["content"]
    wrong = taxi.step(Action("dropoff"))
    assert wrong.reward == -10 and not wrong.done and "the destination" in wrong.messages[0]["content"]


def test_chance_is_the_completions_own():
    """On slippery ice one seed always slips alike, and seeds differ."""

    def way(seed):
        lake = game(id="FrozenLake-v1", settings={"map_name": "8x8"}, answers_as="text")
        lake.reset(Task(0, "Reach G.", "3"), seed)
        return [lake.step(Action("right")).messages for _ in range(8)]

    assert way(5) == way(5) and len({tuple(way(seed)) for seed in range(6)}) > 2


def test_it_plays_in_a_process_of_its_own():
    pytest.importorskip("gymnasium", reason="needs the extra gymnasium")
    host = EnvironmentHost(EnvironmentSpec("gymnasium", arguments={"id": "Taxi-v4"}), 20.0)
    try:
        host.begin(0, Task(0, "Drive.", "1"), 7)
        host.step(0, "north", "stop")
        answers = []
        while len(answers) < 2:
            answers += host.take(waits=True)
        assert all(not answer.problem for _, answer in answers)
    finally:
        host.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"id": "Pond-v1"}, "gymnasium: Pond-v1: "),
        ({"settings": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"answers_as": "speech"}, "must be messages or text"),
    ],
)
def test_mistakes(arguments, problem):
    with pytest.raises(UserError, match=problem):
        game(**arguments)
