"""Rows as other toolkits write them (verl's Parquet, TRL's JSON lines), broken ones, names of files, and what is kept
of a conversion that bad rows ended.
"""

import json

import pytest
from data.layout_rows import MAP, USER, VERL, questions_of, write_lines, write_parquet

from mindrlhf_lite.data.convert import Conversion, convert_questions
from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.data.records import read_file, write_prompts
from mindrlhf_lite.data.rows import output_problem
from mindrlhf_lite.data.sources import DATASET_TYPES, BadRow, as_question, dataset_type, read_questions, recognised_type
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.types import Prompt

SYSTEM = {"role": "system", "content": "Be brief."}


BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_verls_layout_is_known_by_itself(tmp_path, write):
    path = write(tmp_path / f"train.{'jsonl' if write is write_lines else 'parquet'}", [VERL, VERL])
    assert recognised_type(path) == "verl"
    first, _ = read_questions(path, DATASET_TYPES["verl"])
    assert (first.text, first.gold, first.source, first.is_chat) == ("What is 2+3?", "5", "openai/gsm8k", True)


@pytest.mark.parametrize(
    ("row", "gold", "before"),
    [
        ({"prompt": [USER], "answer": "5"}, "5", ()),
        ({"prompt": [SYSTEM, USER], "ground_truth": 5}, "5", ()),
        ({"messages": [*BEFORE, USER], "solution": "so \\boxed{5}"}, "5", (("user", "Hi"), ("assistant", "Hello"))),
        ({"messages": [USER, {"role": "assistant", "content": "It is 5."}], "answer": "5"}, "5", ()),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "What is 2+3?"}]}], "answer": "5"}, "5", ()),
    ],
)
def test_trls_layouts_are_known_by_themselves(tmp_path, row, gold, before):
    path = write_lines(tmp_path / "a.jsonl", [row])
    assert recognised_type(path) == "trl"
    (found,) = read_questions(path, DATASET_TYPES["trl"])
    assert (found.text, found.gold, found.before) == ("What is 2+3?", gold, before)
    assert found.system == ("Be brief." if SYSTEM in row.get("prompt", []) else "")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2+3?", "answer": "5"},  # could be anything
        {"prompt": [USER]},
        {"prompt": [USER], "messages": [USER], "answer": "5"},
        {"prompt": [USER], "answer": "5", "solution": "so 5"},
        {"prompt": [], "answer": "5"},
    ],
)
def test_what_could_be_read_in_two_ways_is_asked_for(tmp_path, row):
    with pytest.raises(UserError, match=r"say which it is by --dataset_type, or which fields.*--map_keys"):
        recognised_type(write_lines(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([SYSTEM], "none of the messages is the user's"),
        ([USER, {"role": "assistant", "content": "5"}], "the last message is of role 'assistant'"),
        ([{"role": "human", "content": "x"}], "role 'human'; known: system, developer, user"),
        ([{"role": "user", "content": None}], "content of a message is 'None'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a text is needed"),
        ([{"role": "user", "content": " "}], "last user message is empty"),
        ([{"role": "user", "content": "x \ud83d"}], "half a surrogate pair"),
        ([{"content": "x"}], "a non-empty string is needed"),
    ],
)
def test_messages_that_are_no_prompt_are_bad_rows(tmp_path, prompt, reason):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": prompt, "answer": "5"}])
    (found,) = read_questions(path, dataset_type("custom", MAP))
    assert isinstance(found, BadRow) and reason in found.reason


def test_dotted_paths():
    keys = {"prompt": "prompt", "response": "reward_model.ground_truth", "source": "extra_info.split"}
    found = as_question(1, VERL, dataset_type("custom", keys))
    assert (found.gold, found.source) == ("5", "train")
    row = {"a.b": "1", "a": {"b": "2", "c": [{"d": "3"}]}}
    for path, gold in (("a.b", "1"), ("a.c.0.d", "3")):  # a field of that very name comes first
        assert as_question(1, row, dataset_type("custom", {"prompt": "a.b", "response": path})).gold == gold
    for path in ("a.x", "a.c.7.d", "a.b.c"):
        with pytest.raises(UserError, match=f"field '{path}' is missing; the row has 'a.b', 'a'"):
            as_question(1, row, dataset_type("custom", {"prompt": "a.b", "response": path}))


def test_a_column_of_objects_has_its_gold_answer_in_ground_truth():
    """As MindSpeed-RL's data files name DAPO-Math-17k's columns."""
    kind = dataset_type("custom", {"prompt": "prompt", "response": "reward_model"})
    assert as_question(1, VERL, kind).gold == "5"
    with pytest.raises(UserError, match=r"field 'reward_model.ground_truth' is missing"):
        as_question(1, {**VERL, "reward_model": {"style": "rule"}}, kind)


BAD_LINES = [
    ('{"prompt": "1+1 \\ud83d", "answer": "2"}', "half a surrogate pair"),
    ('{"prompt": "1+1", "answer": "2\\udc00"}', "holds \\udc00, half a surrogate pair"),
    ('{"prompt": "1+1", "answer": ' + "7" * 5000 + "}", "too many digits"),
    ('{"prompt": "1+1", "answer": NaN}', "is nan, which is no number"),
    ('{"prompt": "1+1", "answer": -Infinity}', "is -inf, which is no number"),
    ('{"prompt": "1+1", "answer": 1e999}', "is inf, which is no number"),
    ('{"prompt": "1+1", "answer": ' + "[" * 100000 + "}", "nested too deeply"),
    ('{"prompt": "1+1", "answer": "2", "answer": "3"}', "the key 'answer' stands twice"),
    ('{"prompt": "1+1", "answer": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    ('{"prompt": "1+1", "answer": true}', "is True, a non-empty string is needed"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_broken_row_is_a_bad_row_and_the_others_are_read(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "1+2", "answer": "3"}\n' + line + '\n{"prompt": "1+3", "answer": "4"}\n')
    first, bad, last = read_questions(path, dataset_type("custom", MAP))
    assert (first.gold, last.gold) == ("3", "4")
    assert isinstance(bad, BadRow) and bad.row == 2 and reason in bad.reason and len(bad.reason) < 400


def test_what_stands_in_fields_that_nobody_reads_does_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "1+2", "answer": "3", "score": NaN, "more": {"a": 1, "a": 2}, "x": "\\ud83d"}\n')
    (found,) = read_questions(path, dataset_type("custom", MAP))
    assert found.gold == "3"


@pytest.mark.parametrize("space", ["", "\n  "])
def test_a_list_may_begin_with_a_byte_order_mark(tmp_path, space):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + f'{space}[{{"a": 1}}, {{"a": 2}}]'.encode())
    assert [row for _, row in read_rows(path)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_a_file_in_utf_16_is_one_mistake_not_many_bad_rows(tmp_path, kind):
    (tmp_path / f"a.{kind}").write_text('[{"a": 1}]', encoding="utf-16")
    with pytest.raises(UserError, match="but UTF-16; save it as UTF-8"):
        list(read_rows(tmp_path / f"a.{kind}"))


def test_a_layout_is_known_by_the_first_row_that_can_be_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n" + json.dumps(VERL) + "\n")
    assert recognised_type(path) == "verl"


@pytest.mark.parametrize("character", "\\:*?\"<>|`&;'")
def test_a_name_that_mindrecord_does_not_take_is_said(tmp_path, character):
    path = tmp_path / f"a{character}b.mindrecord"
    assert f"MindRecord takes no {character} in a file's name" in output_problem(path)
    with pytest.raises(UserError, match="MindRecord takes no"):
        write_prompts(path, [Prompt(0, (1,), "a", "1", 1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a b", "训练", "a#(1),b=[c]", "x" * 233])
def test_other_names_are_written(tmp_path, name):
    path = tmp_path / "it's a & b" / f"{name}.mindrecord"
    assert output_problem(path) == ""
    write_prompts(path, [Prompt(0, (1,), "a", "1", 1)])
    assert len(read_file(path)[1]) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (" a", "begins or ends with a space"),
        ("x" * 250, "at most 244"),
        ("a\udc80", "not UTF-8"),
        (".", "it is a folder"),
        ("file/a", "is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_said(tmp_path, name, reason):
    (tmp_path / "file").touch()
    assert reason in output_problem(f"{tmp_path}/{name}")


def test_a_conversation_is_rendered_by_the_chat_template_or_refused(tmp_path, quickstart_model):
    (tmp_path / "t.yaml").write_text("turns: {user: '{question}'}\nwith: '{system} {question}'\n")
    rows = [{"prompt": [SYSTEM, *BEFORE, USER], "answer": "5"}, {"prompt": [SYSTEM, USER], "answer": "5"}]
    whole, short = questions_of(tmp_path, rows)

    def convert(template, question):
        return convert_questions(Conversion(template, str(quickstart_model)).open(), [question])[0]

    text = convert(f"{tmp_path}/t.yaml:turns", whole).text
    assert [text.index(word) for word in ("Be brief.", "Hi", "Hello", "2+3")] == sorted(
        text.index(word) for word in ("Be brief.", "Hi", "Hello", "2+3")
    )
    assert "2 earlier messages, which template plain would lose" in convert("plain", whole).reason
    assert (
        "system message, which template plain would lose; put {system} in, or use chat"
        in convert("plain", short).reason
    )
    assert convert(f"{tmp_path}/t.yaml:with", short).text == "Be brief. What is 2+3?"
