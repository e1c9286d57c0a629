"""Between turns: what the policy sampled stays, and what comes behind it is what the chat template writes there."""

import json
import shutil
from pathlib import Path

import pytest
from episodes.templates import CHATML, FORGETFUL, LLAMA3, PLAIN, QWEN3, STRICT
from helpers import ROOT

from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.episodes.bridge import Bridge
from mindrlhf_lite.episodes.tools import schema_of
from mindrlhf_lite.errors import UserError

END = "<|im_end|>"


def with_template(folder, template, config=None):
    """The quickstart's tokenizer, with a chat template. Args: config: of the tokenizer, in the place of its own."""
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROOT / "examples/quickstart/model" / name, folder / name)
    config = config or json.loads((ROOT / "examples/quickstart/model/tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return Tokenizer(str(folder))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, shared):
    source = Path(shared) / "tokenizers/qwen2_5"
    if not (source / "vocab.json").is_file():
        pytest.skip(f"Qwen2.5's tokenizer is not in {source}")
    folder = tmp_path_factory.mktemp("qwen")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "tokenizer_config.instruct.json", folder / "tokenizer_config.json")
    return Tokenizer(str(folder))


CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "123*456"}}\n</tool_call>'
TURNS = [
    ("I need a product.\n" + CALL, [{"role": "tool", "content": "56088"}]),
    (CALL + "\n" + CALL, [{"role": "tool", "content": "56088"}, {"role": "tool", "content": "error: 1/0"}]),
    ("  It is 56088.\n\n", [{"role": "user", "content": "Sure? \u4f60\u597d"}]),
    ("Yes.", [{"role": "user", "content": "Thanks."}]),
]


def whole_conversation(tokenizer, bridge, turns, end=END):
    """(ids by the bridge, messages): every answer is sampled up to its stop token."""
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "What is 123*456?"}]
    ids = list(bridge.opening(messages)[0])
    for said, new in turns:
        ids += tokenizer.encode_continuation(said + end)
        ids += bridge.extend(ids, new)
        messages += [{"role": "assistant", "content": said}, *new]
    return ids, messages


def test_equals_transformers_rendering_of_the_whole_conversation(qwen):
    tools = [schema_of("calculator")]
    bridge = Bridge(qwen, [qwen.eos_token_id], tools)
    ids, messages = whole_conversation(qwen, bridge, TURNS)
    assert ids == qwen.encode(qwen.apply_chat_template(messages, tools=tools))
    assert bridge.notes("tool") == bridge.notes("user") == []
    assert "calculator" in bridge.opening(messages)[1]


def test_what_was_sampled_is_not_encoded_again(qwen):
    """A model may sample a word in other pieces than the tokenizer's: they stay."""
    bridge = Bridge(qwen, [qwen.eos_token_id])
    pieces = [token for letter in "calculator" for token in qwen.encode_continuation(letter)]
    assert pieces != qwen.encode_continuation("calculator")
    behind = bridge.extend([*pieces, qwen.eos_token_id], [{"role": "user", "content": "go on"}])
    assert qwen.encode_continuation("\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n") == list(behind)


@pytest.mark.parametrize("template", [CHATML, FORGETFUL, QWEN3, LLAMA3])
def test_own_templates(tmp_path, template):
    tokenizer = with_template(tmp_path / "one", template)
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    turns = [(said.strip(), new) for said, new in TURNS]  # as the second one trims
    ids, messages = whole_conversation(tokenizer, bridge, turns)
    assert ids == tokenizer.encode(tokenizer.apply_chat_template(messages))


def test_a_cut_answer_gets_the_whole_end_of_its_turn(tmp_path):
    tokenizer = with_template(tmp_path / "one", CHATML)
    bridge, new = Bridge(tokenizer, [tokenizer.eos_token_id]), [{"role": "tool", "content": "7"}]
    cut, stopped = bridge.extend([40, 41], new), bridge.extend([40, 41, tokenizer.eos_token_id], new)
    assert cut == (tokenizer.eos_token_id, *stopped)
    assert tokenizer.encode_continuation("\n<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\n") == list(stopped)


def test_another_stop_token_stands_for_the_end_of_the_turn(tmp_path):
    tokenizer = with_template(tmp_path / "one", CHATML)
    bridge, new = Bridge(tokenizer, [tokenizer.eos_token_id, 256]), [{"role": "tool", "content": "7"}]
    assert bridge.extend([40, 256], new) == bridge.extend([40, tokenizer.eos_token_id], new)


def test_a_template_that_changes_the_past_is_noticed(tmp_path):
    tokenizer = with_template(tmp_path / "one", FORGETFUL)
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    assert [note.split(" when")[0] for note in bridge.notes("tool")] == [
        "the chat template changes an earlier answer",
        "the chat template changes the thoughts of an earlier answer",
    ]
    turns = [("<think>hm</think>7", [{"role": "user", "content": "more"}])]
    ids, messages = whole_conversation(tokenizer, bridge, turns)
    assert "hm" in tokenizer.decode(ids)  # the episode goes on with what was sampled
    assert "hm" not in tokenizer.apply_chat_template(messages)


THOUGHTFUL = [
    (f"<think>a product</think>{CALL}", [{"role": "tool", "content": "56088"}]),
    ("<think>as it says</think>It is 56088.", [{"role": "user", "content": "Sure?"}]),
]


def test_qwen3s_kind_keeps_thoughts_while_tools_answer_and_not_behind_a_question(tmp_path):
    tokenizer = with_template(tmp_path / "one", QWEN3)
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    assert bridge.notes("tool") == []
    assert [note.split(" when")[0] for note in bridge.notes("user")] == [
        "the chat template changes the thoughts of an earlier answer"
    ]
    ids, messages = whole_conversation(tokenizer, bridge, THOUGHTFUL[:1])
    assert ids == tokenizer.encode(tokenizer.apply_chat_template(messages))
    ids, messages = whole_conversation(tokenizer, bridge, THOUGHTFUL)
    assert "a product" in tokenizer.decode(ids) and "a product" not in tokenizer.apply_chat_template(messages)


def test_llama3s_kind_trims_what_was_said(tmp_path):
    tokenizer = with_template(tmp_path / "one", LLAMA3)
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    assert bridge.notes("tool") == bridge.notes("user") == []
    ids, messages = whole_conversation(tokenizer, bridge, [(" 7 ", [{"role": "user", "content": "more"}])])
    assert tokenizer.decode(ids).replace(" 7 ", "7") == tokenizer.decode(
        tokenizer.encode(tokenizer.apply_chat_template(messages))
    )


@pytest.mark.parametrize("kind", ["qwen3", "llama-3"])
def test_between_turns_stands_what_renderers_writes(tmp_path, kind):
    """Fixtures of tests/peers/renderers_turns.py: prime-rl's library, which has its own code for each model."""
    given = json.loads((ROOT / "tests/peers/renderers_turns.json").read_text())["kinds"][kind]
    marks = {"<|start|>": "<|start_header_id|>", "<|end_of_head|>": "<|end_header_id|>", "<|im_end|>": given["end"]}
    template = QWEN3 if kind == "qwen3" else LLAMA3
    for ours, theirs in marks.items():
        template = template.replace(ours, theirs)
    tokenizer = with_template(tmp_path / "one", template, given["tokenizer_config"])
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    for turn in given["turns"]:
        ids = [*bridge.opening([{"role": "user", "content": "What is 123*456?"}])[0]]
        ids += tokenizer.encode_continuation(turn["said"] + given["end"])
        assert list(bridge.extend(ids, turn["new"])) == turn["written"], turn


def test_smollm2s_own_template():
    """Where its folder is there (examples/smollm2/get_model.sh)."""
    folder = ROOT / "output/smollm2/model"
    if not (folder / "tokenizer_config.json").is_file():
        pytest.skip(f"SmolLM2's tokenizer is not in {folder}")
    tokenizer = Tokenizer(str(folder))
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    turns = [(said.strip(), new) for said, new in TURNS]  # else it joins the newline before an answer with its spaces
    ids, messages = whole_conversation(tokenizer, bridge, turns)
    assert ids == tokenizer.encode(tokenizer.apply_chat_template(messages))
    assert bridge.notes("tool") == bridge.notes("user") == []


def test_a_template_without_marks(tmp_path):
    tokenizer = with_template(tmp_path / "one", PLAIN)
    bridge = Bridge(tokenizer, [tokenizer.eos_token_id])
    assert bridge.notes("user") == []
    ids = tokenizer.encode("USER: 1+1?\nASSISTANT: 2")
    behind = bridge.extend(ids, [{"role": "user", "content": "2+2?"}])
    assert tokenizer.decode([*ids, *behind]) == "USER: 1+1?\nASSISTANT: 2\nUSER: 2+2?\nASSISTANT:"


def test_roles_and_templates_that_are_not_there(tmp_path):
    tokenizer = with_template(tmp_path / "one", STRICT)
    with pytest.raises(UserError, match="only users and assistants speak here"):
        Bridge(tokenizer, []).extend([40], [{"role": "tool", "content": "7"}])
    bare = Bridge(Tokenizer(str(ROOT / "examples/quickstart/model")), [])
    with pytest.raises(UserError, match="no chat template; let it answer with text"):
        bare.extend([40], [{"role": "tool", "content": "7"}])
    assert list(bare.extend([40], "higher")) == Tokenizer(str(ROOT / "examples/quickstart/model")).encode("higher")
