"""What of a row counts, by token: answers and what ends them, whatever a chat template puts around."""

import json

import pytest
from helpers import ROOT

from mindrlhf_lite.data.supervised_rows import Reading, read_supervised
from mindrlhf_lite.data.tokenizer import Tokenizer

MODEL = str(ROOT / "examples/quickstart/model")
CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "1+1="},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+2="},
    {"role": "assistant", "content": "4"},
]
# strips what was thought in earlier answers, as Qwen3's does
FORGETS = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.fixture
def read(tmp_path):
    """Rows of given objects: usable ones, reasons of the others."""

    def read(rows, kind="conversations", **options):
        path = tmp_path / f"{len(list(tmp_path.glob('*.jsonl')))}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"tokenizer_dir": MODEL, "longest": 200, "vocab_size": 300, "is_chatml": True} | options
        found, bad = read_supervised(str(path), Reading(kind, model_dir=given["tokenizer_dir"], **given))
        return found, [f"{each.row}: {each.reason}" for each in bad]

    return read


def shown(sequence, folder=MODEL):
    """(prompt, [(text, whether it counts), ...]), with special tokens."""
    own = Tokenizer(folder)._tokenizer
    prompt, rest = sequence.token_ids[: sequence.prompt_length], sequence.token_ids[sequence.prompt_length :]
    runs = []
    for token, counts in zip(rest, sequence.mask, strict=True):
        if not runs or runs[-1][1] != bool(counts):
            runs.append([[], bool(counts)])
        runs[-1][0].append(int(token))
    return own.decode(prompt), [(own.decode(ids), counts) for ids, counts in runs]


def test_answers_and_their_ends_count(read):
    prompt = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n"
    between = "\n<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
    ((row,), bad) = read([{"messages": CHAT}])
    assert not bad and len(row.sequences) == 1
    assert shown(row.sequences[0]) == (prompt, [("2<|im_end|>", True), (between, False), ("4<|im_end|>", True)])
    ((row,), _) = read([{"messages": CHAT}], only_last=True)
    assert shown(row.sequences[0]) == (prompt + "2<|im_end|>" + between, [("4<|im_end|>", True)])
    ((row,), _) = read([{"messages": [*CHAT, {"role": "user", "content": "thanks"}]}])
    assert shown(row.sequences[0])[1][-1] == ("4<|im_end|>", True)  # nothing answers what follows


def test_prompts_and_answers_that_are_texts(read):
    rows = [{"prompt": "1+1=", "completion": " 2"}, {"instruction": "3", "output": "4<|im_end|>"}]
    (found, bad) = read(rows)
    assert not bad and [shown(row.sequences[0]) for row in found] == [
        ("1+1=", [(" 2<|im_end|>", True)]),
        ("3", [("4<|im_end|>", True)]),
    ]
    ((row,), _) = read([{"prompt": CHAT[:2], "completion": "2"}])
    assert shown(row.sequences[0])[1] == [("2<|im_end|>", True)]


def test_a_rendered_prompt_keeps_its_last_new_line(read):
    """As tools/sample_best.py writes it: the model is asked with it, and so is trained with it."""
    rendered = "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n"
    (row,), bad = read([{"prompt": rendered, "response": "2"}])
    assert not bad and shown(row.sequences[0])[0] == rendered


def test_a_template_that_changes_the_past_makes_samples(read, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt", "config.json"):
        (folder / name).write_bytes((ROOT / "examples/quickstart/model" / name).read_bytes())
    settings = json.loads((ROOT / "examples/quickstart/model/tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": FORGETS}))
    said = [dict(each) for each in CHAT]
    said[2]["content"] = "<think>x</think>2"
    ((row,), bad) = read([{"messages": said}], tokenizer_dir=str(folder), is_chatml=False)
    assert not bad and len(row.sequences) == 2
    first, second = (shown(each, str(folder)) for each in row.sequences)
    assert first[1] == [("<think>x</think>2<|im_end|>", True)] and "<think>" not in second[0]
    assert second[1] == [("4<|im_end|>", True)] and "assistant\n2<|im_end|>" in second[0]


def test_a_file_without_a_usable_row(read):
    found, bad = read([{"prompt": "1+1="}, {"completion": "2"}])
    assert not found and len(bad) == 2
    assert read([]) == ((), [])
    found, bad = read([{"messages": CHAT}], is_chatml=False)
    assert not found and "supervised_config.chat_template=chatml" in bad[0]


def test_pairs(read):
    rows = [
        {"prompt": "1+1=", "chosen": "2", "rejected": "3", "margin": 0.5},
        {"prompt": CHAT[:2], "chosen": [CHAT[2]], "rejected": "3"},
        {"chosen": CHAT, "rejected": [*CHAT[:-1], {"role": "assistant", "content": "5"}]},
    ]
    (found, bad) = read(rows, "pairs")
    assert not bad and [row.margin for row in found] == [0.5, 0, 0]
    for row, (good, worse) in zip(found, (("2", "3"), ("2", "3"), ("4", "5")), strict=True):
        chosen, rejected = map(shown, row.sequences)
        assert chosen[0] == rejected[0]
        assert (chosen[1], rejected[1]) == ([(f"{good}<|im_end|>", True)], [(f"{worse}<|im_end|>", True)])


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("conversations", {"messages": CHAT[:2]}, "none of the messages is the assistant's"),
        ("conversations", {"messages": CHAT[2:]}, "the first message is the assistant's"),
        ("conversations", {"messages": [{"from": "human", "value": "x"}]}, "messages with role and content is needed"),
        ("conversations", {"prompt": "a"}, "field 'completion' or 'response' or 'answer' or 'output' is missing"),
        ("conversations", {"question": "a" * 300, "answer": "b"}, "it has 302 tokens, over rl_config.seq_length=200"),
        ("conversations", {"prompt": "a", "completion": " "}, "a non-empty string is needed"),
        ("conversations", {"prompt": "a", "completion": 4}, "field 'completion' is the number 4: write the text"),
        ("pairs", {"prompt": "a", "chosen": "b"}, "field 'rejected' is missing"),
        ("pairs", {"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
        ("pairs", {"chosen": "b", "rejected": "c"}, "without it, chosen and rejected must be whole conversations"),
        ("pairs", {"chosen": CHAT[:3], "rejected": [CHAT[1], CHAT[4]]}, "have different prompts"),
        ("pairs", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "d"}, "field 'margin' is 'd'"),
        (
            "pairs",
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1},
            "field 'margin' is -1: then the chosen",
        ),
    ],
)
def test_bad_rows_say_why(read, kind, row, reason):
    good = {"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}
    (found, bad) = read([good, row], kind)
    assert len(found) == 1 and len(bad) == 1 and bad[0].startswith("2: ") and reason in bad[0]


def test_tokens_beyond_the_vocabulary(read):
    _, (reason,) = read([{"prompt": "<|im_start|>", "completion": "b"}], vocab_size=200)
    assert reason.endswith("but the model's vocabulary has 200")
