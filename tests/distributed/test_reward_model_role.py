"""A reward model as a frozen role of a GRPO run: its score is part of the reward, under a strategy of its own."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from distributed.small_runs import QUICKSTART_MODEL, completions, metrics, msrun, single
from helpers import random_weights

from mindrlhf_lite.algorithms.aggregation import BatchTotals, token_mean
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.models.decoder import Decoder
from mindrlhf_lite.models.hf_weights import load_weights, save_hf_model
from mindrlhf_lite.scoring.batches import make_microbatch
from mindrlhf_lite.scoring.pairs import LastTokenScorer
from mindrlhf_lite.shapes.model_config import ModelConfig
from mindrlhf_lite.shapes.streams import StreamShapes
from mindrlhf_lite.trainer.model_reward import normalised
from mindrlhf_lite.trainer.reward_texts import RewardTexts
from mindrlhf_lite.types import Prompt, TrainSequence

NAME, WEIGHT = "reward_model", 0.5


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward") / "model"
    base = ModelConfig.from_dir(QUICKSTART_MODEL).vocab_size
    shape = ModelConfig(base, 32, 48, 1, 4, 2, rope_theta=10000.0, max_position_embeddings=64).scoring
    save_hf_model(folder, shape, random_weights(shape), None, None)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(QUICKSTART_MODEL / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def other_model(reward_model, tmp_path_factory):
    """Of fewer tokens with other numbers, and with a chat template."""
    folder = tmp_path_factory.mktemp("reward") / "other"
    characters = sorted({*map(chr, range(32, 127)), "Ċ", "Ġ"})[::-1]
    shape = replace(ModelConfig.from_dir(reward_model), vocab_size=len(characters) + 1)
    save_hf_model(folder, shape, random_weights(shape), None, None)
    (folder / "vocab.json").write_text(json.dumps({text: number for number, text in enumerate(characters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    turns = "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}"
    settings = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": turns, "eos_token": "~", "pad_token": "~"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "~"}))
    return folder


def options(folder, *more):
    given = (f"--reward_config.reward_model.load={folder}", f"--reward_config.reward_model.weight={WEIGHT}")
    given += (f"--actor_config.load={QUICKSTART_MODEL}",)  # it ends its answers
    return (*given, "--rl_config.max_steps=2", "--rl_config.save_hf_model=false", *more)


@pytest.fixture(scope="module")
def one_rank(data, reward_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "one"
    result = single(data, output, *options(reward_model))
    assert result.returncode == 0, result.stderr
    return output


def test_its_score_is_part_of_the_reward(one_rank, reward_model):
    rows = completions(one_rank, 1)
    for row in rows:
        verified = row["rewards"]["verifiers_for_runs.length_modulo"] + row["rewards"]["format_reward"]
        assert row["reward"] == pytest.approx(verified + WEIGHT * row["rewards"][NAME], abs=1e-5)
    shape, tokenizer = ModelConfig.from_dir(reward_model), Tokenizer(str(reward_model))
    whole, expected = [], []
    for row in rows:
        prompt, answer = tokenizer.encode(row["prompt"]), tokenizer.encode_continuation(row["completion"])
        answer += tokenizer.encode_continuation("<|im_end|>") if row["finish_reason"] == "stop" else []
        if len(answer) == row["tokens"]:  # its ids are known from its text
            whole.append(TrainSequence.of(np.array([*prompt, *answer], np.int32), len(prompt)))
            expected.append(row["rewards"][NAME])
    assert len(whole) > 2
    scorer = LastTokenScorer(Decoder(shape, load_weights(reward_model, shape), False, 64))
    batch = make_microbatch(whole, StreamShapes(2048, 64), token_mean, BatchTotals(1, 1, 1))
    np.testing.assert_allclose(np.concatenate(scorer.score(batch)), expected, atol=1e-4)
    (first, _) = metrics(one_rank)
    assert first[f"reward/{NAME}/mean"] == pytest.approx(np.mean([row["rewards"][NAME] for row in rows]), abs=1e-5)
    assert first[f"time_s/{NAME}"] > 0


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("{prompt} is {completion}!", "{prompt} is {completion}!"),
        ("chat:prompt", "user: {prompt}\nassistant: {completion}\n"),
    ],
)
def test_it_reads_texts_by_its_own_template(data, other_model, tmp_path, template, read):
    own = (f"--reward_config.reward_model.template={template}", "--rl_config.max_steps=1")
    result = single(data, tmp_path / "run", *options(other_model), *own)
    assert result.returncode == 0, result.stderr
    shape, tokenizer = ModelConfig.from_dir(other_model), Tokenizer(str(other_model))
    scorer = LastTokenScorer(Decoder(shape, load_weights(other_model, shape), False, 64))
    longest = json.loads((tmp_path / "run/summary.json").read_text())["config"]["rl_config"]["seq_length"]
    for row in completions(tmp_path / "run", 1):
        text = read.format(prompt=row["prompt"], completion=row["completion"])
        sequence = TrainSequence.of(np.array(tokenizer.encode(text)[-longest:], np.int32), 1)
        batch = make_microbatch([sequence], StreamShapes(longest, longest), token_mean, BatchTotals(1, 1, 1))
        assert scorer.score(batch)[0] == pytest.approx(row["rewards"][NAME], abs=1e-4)


def test_texts_that_begin_alike_share_their_beginning():
    class Letters:
        def encode_batch(self, texts):
            return [list(map(ord, text)) for text in texts]

    prompt = Prompt(0, (1,), "2+3", "5", 1, columns={"question": "{completion}?"})
    group = SimpleNamespace(prompt=prompt, texts=["abc", "abx", "ab"])
    texts = RewardTexts("{question} {completion}", Letters(), 8)
    found = texts.sequences([SimpleNamespace(group=group)])
    read = ["".join(map(chr, each.token_ids)) for each in found]
    assert read == ["ion}? abc"[-8:], "ion}? abx"[-8:], "tion}? ab"[-8:]]  # the last eight
    assert [each.prompt_length for each in found] == [1, 1, 1]
    short = RewardTexts("{completion}", Letters(), 8)
    few = short.sequences([SimpleNamespace(group=SimpleNamespace(prompt=prompt, texts=["56", "5", ""]))])
    assert [each.token_ids.tolist() for each in few] == [[53, 54], [0, 53], [0, 0]]
    assert all(each.completion_length == 1 for each in few)
    alike = RewardTexts("{question} {completion}", Letters(), 80).sequences([SimpleNamespace(group=group)])
    assert {each.prompt_length for each in alike} == {len("{completion}? ab") - 1}


@pytest.mark.full
def test_two_ranks_are_one(data, one_rank, reward_model, tmp_path):
    split = ("--reward_config.reward_model.parallel_config.model_parallel=2", "--rl_config.swap=true")
    code, text, logs = msrun(2, data, tmp_path / "two", *options(reward_model, *split))
    assert code == 0, text + logs
    for own, other in zip(metrics(tmp_path / "two"), metrics(one_rank), strict=True):
        for key in ("reward/mean", f"reward/{NAME}/mean", "loss/total", "policy/grad_norm"):
            assert own[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key
        assert own["swap/bytes"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["load={actor}"], "a language model, which gives no score"),
        (["load={model}", "weight=1e30"], "reward_config.reward_model.weight=1e+30: must be a number of at most"),
        (["weight=0.5"], "there is no reward model; set reward_config.reward_model.load"),
        (["load={model}", "template=Q: A:"], "template='Q: A:': must hold {completion} once"),
        (["load={model}", "template=chat:question"], "has no chat template; write the text, with {completion}"),
        (["load={other}", "template=chat:question"], "has no column 'question'; convert it with"),
        (["load={other}"], "vocabulary of 98, the actor's has"),
        (["load={model}", "parallel_config.model_parallel=3"], "reward_config.reward_model.parallel_config"),
    ],
)
def test_mistakes(data, reward_model, other_model, tmp_path, given, said):
    words = [each.replace("{actor}", str(data / "model")).replace("{model}", str(reward_model)) for each in given]
    words = [each.replace("{other}", str(other_model)) for each in words]
    result = single(data, tmp_path / "never", *(f"--reward_config.reward_model.{each}" for each in words))
    assert result.returncode == 2 and said in result.stderr, result.stderr


def test_a_reward_model_writes_no_text(data, reward_model, tmp_path):
    result = single(data, tmp_path / "never", f"--actor_config.load={reward_model}")
    assert result.returncode == 2 and "a reward model, which writes no text" in result.stderr


def test_a_plan_has_it(data, reward_model, tmp_path):
    result = single(data, tmp_path / "never", *options(reward_model), "--dry_run")
    assert result.returncode == 0 and "reward_model dp=1,tp=1,pp=1" in result.stdout, result.stderr


def test_normalised_scores():
    np.testing.assert_allclose(normalised(np.array([1.0, 3.0]), "batch"), [-1, 1], rtol=1e-5)
    assert json.dumps(normalised(np.array([2.0, 2.0]), "batch").tolist()) == "[0.0, 0.0]"
