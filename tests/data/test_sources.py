"""Formats, fields, templates, choices and headers of data files, without starting the tool."""

import pytest
from data.written_rows import ROWS, write

from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.data.sources import (
    DATASET_TYPES,
    BadRow,
    as_question,
    dataset_type,
    parse_map_keys,
    read_questions,
)
from mindrlhf_lite.data.templates import load_template
from mindrlhf_lite.data.tokenizer import Tokenizer


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "list.json", "rows.csv", "rows.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    assert list(read_rows(write(tmp_path / name, ROWS))) == list(enumerate(ROWS, 1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "unknown kind of file"),
        ("a.json", '[{"a": 1},\n {"b" 2}]', r"a\.json:2: not valid JSON"),
        ("a.parquet", "junk", "not a Parquet file"),
        ("a.csv", b"q,a\n\xff\xfe,1\n", "not a CSV file in UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow==19.0.0")
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("kind", "row", "question", "gold", "source"),
    [
        ("gsm8k", {"question": "Q", "answer": "so\n#### 1,234"}, "Q", "1,234", "file"),
        ("deepscaler", {"problem": "Q", "answer": "\\frac{1}{2}", "type": "Algebra"}, "Q", "\\frac{1}{2}", "Algebra"),
        (
            "math",
            {"problem": "Q", "solution": "so \\boxed{(3, \\frac{\\pi}{2})}", "subject": "Precalculus"},
            "Q",
            "(3, \\frac{\\pi}{2})",
            "Precalculus",
        ),
        ("math", {"problem": "Q", "answer": "[0, 1)", "solution": "\\boxed{9}"}, "Q", "[0, 1)", "file"),
        ("simplerl", {"question": "Q", "gt_answer": "4", "answer": "long"}, "Q", "4", "file"),
        ("simplerl", {"problem": "Q", "answer": 4}, "Q", "4", "file"),
        (
            "openr1math",
            {"problem": "Q", "answer": "v = 3", "solution": "s", "source": "olympiads"},
            "Q",
            "v = 3",
            "olympiads",
        ),
        ("kk", {"quiz": "Q", "solution_text_format": "(1) Zoey is a knight"}, "Q", "(1) Zoey is a knight", "file"),
    ],
)
def test_fields_of_known_data_sets(kind, row, question, gold, source):
    found = as_question(3, row, DATASET_TYPES[kind], "folder/file.jsonl")
    assert (found.row, found.text, found.gold, found.source) == (3, question, gold, source)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("deepscaler", {"problem": "Q", "answer": None}, "field 'answer' is null"),
        ("math", {"problem": "Q"}, "field 'answer' or 'solution' is missing"),
        ("deepscaler", {"problem": "Q", "answer": " "}, "non-empty"),
        ("kk", {"quiz": "Q", "solution_text": "who knows"}, "nobody"),
    ],
)
def test_rows_without_an_answer_are_refused(kind, row, message):
    with pytest.raises(ValueError, match=message):
        as_question(1, row, DATASET_TYPES[kind])


def test_map_keys(tmp_path):
    kind = dataset_type("custom", parse_map_keys('{"prompt": "q", "response": "a", "system": "s"}'))
    path = write(tmp_path / "rows.jsonl", [{"q": "Q", "a": "1", "s": "Be brief."}, {"q": "R", "a": "2"}, {"q": "only"}])
    first, second, third = read_questions(path, kind)
    assert (first.text, first.gold, first.system) == ("Q", "1", "Be brief.") and second.system == ""
    assert isinstance(third, BadRow) and "'a' is missing" in third.reason
    for given, message in (
        ('{"prompt"', "not valid JSON"),
        ('{"prompts": "q"}', "prompts is unknown"),
        ("[1]", "must map"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_map_keys(given)
    with pytest.raises(ValueError, match="--map_keys"):
        dataset_type("custom", {})


def template(tmp_path, content, tokenizer):
    (tmp_path / "t.yaml").write_text(content)
    return load_template(f"{tmp_path / 't.yaml'}:t", tokenizer)


def test_templates_of_turns(tmp_path, tokenizer):
    turns = template(tmp_path, 't: {system: "S", user: "{question} Think.", assistant: "<think>"}', tokenizer)
    expected = (
        "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nWhy {{}} {{question}}? "
        "Think.<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    assert turns.render("Why {} {question}?", "") == expected.format("S").replace("{{", "{").replace("}}", "}")
    assert turns.render("Why {} {question}?", "own").startswith(
        "<|im_start|>system\nown<|im_end|>"
    )  # the row's own message wins
    text = template(tmp_path, 't: "{system}: {question} {x}"', tokenizer)
    assert text.render("{system}?", "S") == "S: {system}? {x}" and text.takes_system


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('t: "no slot"', "exactly once"),
        ('t: "{question} {question}"', "exactly once"),
        ("t: {system: S}", "user's turn must hold"),
        ('t: {user: "{question}", helper: x}', "helper is unknown"),
        ('t: {user: "{question}", chat_template: llama}', "chatml, tokenizer"),
        ('t: {user: "{question}", chat_template: tokenizer}', "no chat_template"),
        ("t: 3", "text or a mapping"),
    ],
)
def test_templates_that_lose_the_question_are_refused(tmp_path, tokenizer, content, message):
    with pytest.raises(ValueError, match=message):
        template(tmp_path, content, tokenizer)


def test_the_tokenizers_own_chat_template(shared, tmp_path):
    qwen = Tokenizer(str(shared / "tokenizers/qwen2_5"))
    expected = (
        "<|im_start|>system\nYou are a helpful "
        "assistant.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert load_template("chat", qwen).render("1+1?", "") == expected
    qwen._tokenizer.chat_template = "{{ messages[0].role }}"
    with pytest.raises(ValueError, match="does not hold the question"):
        load_template("chat", qwen)


def test_a_key_that_stands_twice_inside_a_kept_column_is_a_bad_row(tmp_path):
    """It must not become a text about itself."""
    (tmp_path / "a.jsonl").write_text('{"question": "1+1?", "answer": "2", "more": {"deep": {"a": 1, "a": 2}}}\n')
    kind = dataset_type("arithmetic", {}, ("more",))
    (row,) = read_questions(tmp_path / "a.jsonl", kind)
    assert isinstance(row, BadRow) and "stands twice" in row.reason
