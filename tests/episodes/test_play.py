"""Whole episodes with real environments, by a policy that says what a test wants."""

from pathlib import Path

import pytest
from episodes.scripted_engine import ScriptedEngine
from episodes.templates import CHATML
from episodes.test_bridge import with_template

from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.failures import FailureRecord
from mindrlhf_lite.episodes.host import EnvironmentHost
from mindrlhf_lite.episodes.past import ChangedPast
from mindrlhf_lite.episodes.play import EpisodeLimits, Stage, environment_seed
from mindrlhf_lite.episodes.registry import EnvironmentSpec
from mindrlhf_lite.episodes.tools import schema_of
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.inference.chat import Conversation, answer
from mindrlhf_lite.rewards.verifiers import find_verifier
from mindrlhf_lite.rollout.groups import generate_groups
from mindrlhf_lite.turns import EpisodeEnd
from mindrlhf_lite.types import FinishReason, Outcome, Prompt, SamplingParams

ACTING = str(Path(__file__).with_name("acting.py"))
CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "%s"}}</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return with_template(tmp_path_factory.mktemp("play") / "one", CHATML)


@pytest.fixture
def stage_of(tokenizer):
    stages = []

    def start(spec, max_turns=8, max_turn_tokens=0, max_prompt_tokens=400):
        limits = EpisodeLimits(max_turns, max_turn_tokens, max_prompt_tokens, 400, 800)
        stages.append(stage_on(tokenizer, spec, limits))
        return stages[-1]

    yield start
    for stage in stages:
        stage.close()


def stage_on(tokenizer, spec, limits, on_changed_past="go_on"):
    host, bridge = EnvironmentHost(spec, 20.0), Bridge(tokenizer, [tokenizer.eos_token_id], spec.schemas)
    past = ChangedPast(on_changed_past, bridge, tokenizer)
    return Stage(host, bridge, tokenizer, limits, FailureRecord(spec.name), past)


def spec(name, **arguments):
    return EnvironmentSpec(f"{ACTING}:{name}", arguments=arguments)


TOOLS = EnvironmentSpec("", ["calculator"], [schema_of("calculator")])


def prompts(tokenizer, *golds, text="2*3?"):
    return [Prompt(index, tuple(tokenizer.encode(text)), text, gold, index + 1) for index, gold in enumerate(golds)]


def play(stage, tokenizer, says, golds=("6",), num_samples=1, max_tokens=400):
    engine = ScriptedEngine(tokenizer.encode_continuation, says, tokenizer.eos_token_id)
    given = prompts(tokenizer, *golds)
    seeds = [(0, 1, prompt.index) for prompt in given]
    sampling = SamplingParams(max_tokens)
    return generate_groups(engine, tokenizer, given, num_samples, sampling, seeds, stage=stage)


def test_a_call_is_answered_in_the_chat_templates_words(stage_of, tokenizer):
    said = ["I ask. " + CALL % "2*3", "It is 6."]
    (group,) = play(stage_of(TOOLS), tokenizer, lambda request, sample: said)
    ((completion,), (text,)) = group.completions, group.texts
    messages = [
        {"role": "user", "content": "2*3?"},
        {"role": "assistant", "content": said[0]},
        {"role": "tool", "content": "6"},
        {"role": "assistant", "content": said[1]},
    ]
    whole = tokenizer.apply_chat_template(messages, tools=TOOLS.schemas, begins_answer=False).rstrip("\n")
    assert list(group.prompt.ids + completion.token_ids) == tokenizer.encode(whole)
    assert group.prompt.text == tokenizer.apply_chat_template(messages[:1], tools=TOOLS.schemas)
    written = [token for token, own in zip(completion.token_ids, completion.written, strict=True) if own]
    assert tokenizer.decode(written) == "".join(said)
    episode = completion.episode
    assert (episode.end, episode.answer, episode.failure) == (EpisodeEnd.DONE, "It is 6.", "")
    assert [(turn.num_calls, turn.num_malformed) for turn in episode.turns] == [(1, 0), (0, 0)]
    for turn, words in zip(episode.turns, said, strict=True):
        assert tokenizer.decode(completion.token_ids[turn.start : turn.end]) == words
    assert [segment["written"] for segment in episode.segments] == [True, False, True]
    (view,) = group.views
    assert find_verifier("accuracy_reward").score(view, "6").outcome is Outcome.CORRECT and text != view.text


def test_a_wrong_call_is_answered_and_the_policy_goes_on(stage_of, tokenizer):
    (group,) = play(stage_of(TOOLS), tokenizer, lambda request, sample: ["<tool_call>2*3</tool_call>", "I guess 5."])
    episode = group.completions[0].episode
    assert "error: the call is not JSON" in episode.segments[1]["text"]
    assert episode.turns[0].num_malformed == 1 and episode.end is EpisodeEnd.DONE


def test_limits(stage_of, tokenizer):
    """Two turns at most; turns of 6 tokens, which the environment sees as cut; and no room for an answer."""
    (group,) = play(stage_of(spec("Echo"), max_turns=2), tokenizer, lambda request, sample: ["one", "three", "x"])
    assert [len(turn_texts(group)), group.completions[0].episode.end] == [2, EpisodeEnd.TURNS]
    assert group.completions[0].episode.reward == 2  # both turns were paid, the last one too
    (group,) = play(stage_of(spec("Echo"), max_turn_tokens=6), tokenizer, lambda request, sample: ["0123456789"] * 3)
    assert turn_texts(group) == ["012345"] * 3 and group.completions[0].finish_reason is FinishReason.STOP
    (group,) = play(stage_of(spec("Echo")), tokenizer, lambda request, sample: ["one"] * 3, max_tokens=8)
    (completion,) = group.completions
    assert (completion.episode.end, completion.finish_reason) == (EpisodeEnd.LENGTH, FinishReason.LENGTH)
    assert len(completion.token_ids) == 4 and completion.episode.reward == 1


def turn_texts(group):
    return [segment["text"] for segment in group.completions[0].episode.segments if segment["written"]]


def test_rewards_and_what_the_environment_says(stage_of, tokenizer):
    groups = play(stage_of(spec("Echo")), tokenizer, lambda request, sample: ["a" * sample] * 3, ("1", "2"), 4)
    for group in groups:
        for sample, completion in enumerate(group.completions):
            assert [turn.reward for turn in completion.episode.turns] == [sample % 2] * 3
            assert completion.episode.is_solved and completion.episode.end is EpisodeEnd.DONE
            seed = environment_seed((0, 1, group.prompt.index), sample) % 97
            answer = completion.episode.segments[1]["text"]
            assert answer == f"1 {sample} {group.prompt.gold} {seed} "
        (score,) = {find_verifier("environment_reward").score(view, "").value for view in group.views[1::2]}
        assert score == 3


def test_failures_hit_their_own_episode_only(stage_of, tokenizer, capsys):
    how = ["fine", "raise", "die", "nothing"]
    (group,) = play(
        stage_of(spec("Broken"), max_turns=2), tokenizer, lambda request, sample: ["fine", how[sample]], num_samples=4
    )
    assert [completion.has_failed for completion in group.completions] == [False, True, True, True]
    ends = [completion.episode.end for completion in group.completions]
    assert ends == [EpisodeEnd.TURNS] + [EpisodeEnd.FAILURE] * 3
    assert "failed on 1 episode(s): RuntimeError: no luck" in capsys.readouterr().err


def test_what_cannot_be_begun_or_is_too_long_is_told(stage_of, tokenizer):
    with pytest.raises(UserError, match="cannot be reset to the task of row 2: RuntimeError: no such task"):
        play(stage_of(spec("Broken")), tokenizer, lambda request, sample: [], ("6", "no"))
    with pytest.raises(UserError, match=r"opens the task of row 1 with .* tokens, and .*max_prompt_length=20"):
        play(stage_of(TOOLS, max_prompt_tokens=20), tokenizer, lambda request, sample: [])
    with pytest.raises(UserError, match=r"opens the episodes of one task .row 1. in different ways"):
        play(stage_of(spec("Different")), tokenizer, lambda request, sample: ["x"], num_samples=12)


def test_more_tasks_than_are_opened_at_once(stage_of, tokenizer):
    groups = play(stage_of(spec("Echo", turns=1)), tokenizer, lambda request, sample: ["x"], ["1"] * 70)
    assert len(groups) == 70 and all(group.completions[0].episode.end is EpisodeEnd.DONE for group in groups)


def test_a_chat_with_tools(stage_of, tokenizer):
    tools = EnvironmentSpec("", ["calculator"], [schema_of("calculator")], {"opens": False})
    stage, written = stage_of(tools), []
    said = [["I ask. " + CALL % "2*3", "It is 6."], ["Always."]]
    conversation = Conversation(tokenizer, tools=tools.schemas)
    for question in ("2*3?", "Sure?"):
        engine = ScriptedEngine(tokenizer.encode_continuation, lambda *place: said.pop(0), tokenizer.eos_token_id)
        answer(conversation, question, engine, SamplingParams(200), (0,), written.append, stage)
    assert "".join(written) == f"I ask. {CALL % '2*3'}\n[6]\nIt is 6.Always."
    assert [turn["role"] for turn in conversation.turns] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]
    assert tokenizer.decode(engine.requests[0].prompt_ids).count("6") >= 2  # the second question's prompt has it all
