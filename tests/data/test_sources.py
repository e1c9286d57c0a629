"""Formats, fields, templates, choices and headers of data files, without starting the tool."""

import csv
import json
from collections import Counter

import pytest
from helpers import run_python

from mindrlhf_lite.data.convert import Conversion, convert_questions, mix, sample, without_duplicates
from mindrlhf_lite.data.files import read_rows
from mindrlhf_lite.data.records import Header, read_file, read_prompts, write_prompts
from mindrlhf_lite.data.sources import (
    DATASET_TYPES,
    BadRow,
    Question,
    as_question,
    dataset_type,
    parse_map_keys,
    read_questions,
)
from mindrlhf_lite.data.templates import load_template
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.types import Prompt

ROWS = [{"problem": f"What is {n} + {n}?\nSay ü.", "answer": str(2 * n)} for n in range(5)]


@pytest.fixture(scope="module")
def tokenizer(quickstart_model):
    return Tokenizer(str(quickstart_model))


def write(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow==19.0.0")
        from pyarrow.parquet import write_table

        write_table(arrow.Table.from_pylist(rows), path)
    elif path.name == "list.json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


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


def questions(count, system=""):
    return [
        Question(n + 1, f"What is {n}+{n}?", str(2 * n), system, "a.jsonl", "even" if n % 2 == 0 else "odd")
        for n in range(count)
    ]


def test_two_workers_give_what_one_gives(quickstart_model):
    converter = Conversion("plain", str(quickstart_model), max_prompt_length=16).open()
    one, two = (convert_questions(converter, questions(1200), workers) for workers in (1, 2))
    assert one == two
    prompts, bad = one[:1000], one[1000:]
    assert prompts[7] == Prompt(0, tuple(converter.tokenizer.encode("What is 7+7?")), "What is 7+7?", "14", 8, "odd")
    assert len(bad) == 200 and bad[0] == BadRow(
        1001, "the prompt has 18 tokens, over --max_prompt_length 16", "a.jsonl"
    )


def test_golds_that_nothing_can_verify_and_lost_system_messages_are_bad_rows(quickstart_model):
    converter = Conversion("plain", str(quickstart_model)).open()
    good = [
        "5",
        "-3/4",
        "\\frac{1}{29,\\!322,\\!216}",
        "\\{1, 2\\}",
        "[0, \\infty)",
        "18 dollars",
        "\\text{Evelyn}",
        "50\\%",
        "Tuesday",
        "x^2 + 1",
    ]
    broken = ["it depends on what you mean", "\u2014", "\\frac{1}{", "\\sqrt[", "asdf \\badmacro{x", "x}", "}{$$"]
    rows = [Question(n, "Q", gold) for n, gold in enumerate([*good, *broken], 1)]
    results = convert_questions(converter, [*rows, *questions(1, "Be brief.")])
    assert [result.gold for result in results if isinstance(result, Prompt)] == good  # verbatim
    bad = [result for result in results if isinstance(result, BadRow)]
    assert (
        [row.row for row in bad] == [*range(11, 18), 1]
        and "verified by nothing" in bad[0].reason
        and "would lose" in bad[-1].reason
    )


def test_duplicates_samples_and_mixtures_are_seeded():
    def prompts(texts, source="a"):
        return [Prompt(0, (1,), text, "2", row, source) for row, text in enumerate(texts, 1)]

    some = prompts(["1+1?", "Is x = A?", "1 +1?", "Is x = a?", " Is  x = A? "])
    assert without_duplicates([*some, Prompt(0, (1,), "1+1?", "3", 9, "b")]) == (
        some[:4],
        2,
        [Prompt(0, (1,), "1+1?", "3", 9, "b")],
    )
    hundred = prompts([str(number) for number in range(100)])
    chosen = sample(hundred, 10, seed=1)
    assert len(chosen) == 10 and chosen == sample(hundred, 10, seed=1) != sample(hundred, 10, seed=2)
    assert [prompt.row for prompt in chosen] == sorted(prompt.row for prompt in chosen)
    with pytest.raises(ValueError, match="--sample 101"):
        sample(hundred, 101, 0)
    parts = [hundred, prompts("x" * 10, "b")]
    mixed = mix(parts, [3, 1], seed=0)
    assert Counter(prompt.source for prompt in mixed) == {"a": 30, "b": 10}  # the second file is used up
    assert (
        mixed == mix(parts, [3, 1], seed=0) != mix(parts, [3, 1], seed=1)
        and len({prompt.row for prompt in mixed if prompt.source == "a"}) == 30
    )
    for ratios in ([1.0], [1.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="--ratios"):
            mix(parts, ratios, 0)


def test_bad_rows_do_not_count_where_rows_are_chosen(tmp_path, quickstart_model):
    """A bad first copy does not cost the good one; a sample is of usable rows; every row is checked, and inspection
    shows the others.
    """
    rows = [
        {"problem": "What is 1+1?", "answer": "((("},
        {"problem": "What is 1+1?", "answer": "2"},
        {"problem": "What is 1+1?", "answer": "3"},
    ]
    write(tmp_path / "rows.jsonl", [*rows, *({"problem": f"{n}?", "answer": str(n)} for n in range(4))])
    common = (
        "--tokenizer_dir",
        quickstart_model,
        "--dataset_type",
        "deepscaler",
        "--file_path",
        tmp_path / "rows.jsonl",
    )
    options = ("--output_path", tmp_path / "out.mindrecord", "--sample", 5, "--dedup")
    refused = run_python("tools/rlhf_data.py", *common, *options)
    assert refused.returncode == 2 and "rows.jsonl:1:" in refused.stderr
    result = run_python("tools/rlhf_data.py", *common, *options, "--skip_bad_rows")
    assert (
        result.returncode == 0
        and "of them 1 with another gold answer than the one that was kept: rows row 3" in result.stdout
    ), result.stderr
    assert [(prompt.index, prompt.gold) for prompt in read_prompts(tmp_path / "out.mindrecord")] == [
        (0, "2"),
        (1, "0"),
        (2, "1"),
        (3, "2"),
        (4, "3"),
    ]
    shown = run_python("tools/rlhf_data.py", *common, "--inspect", 2, cwd=tmp_path)
    assert shown.returncode == 0 and "rows.jsonl:1:" in shown.stdout and shown.stdout.count("--- row") == 2, (
        shown.stderr
    )
    assert not list(tmp_path.glob("*.png"))


def test_header_and_the_wrong_tokenizer(tmp_path, tokenizer, shared):
    header = Header("models/a", tokenizer.fingerprint(), "plain", {"x": 1}, 2)
    write_prompts(tmp_path / "a.mindrecord", [Prompt(0, (1, 2), "t", "g", 1, "x")], header=header)
    found, prompts = read_file(tmp_path / "a.mindrecord")
    assert found == header and prompts == [Prompt(0, (1, 2), "t", "g", 1, "x")]
    found.check(tokenizer, "models/a", "a.mindrecord")
    with pytest.raises(
        ValueError,
        match=r"a\.mindrecord: its prompts were tokenized with models/a, whose tokens differ from those of Qwen",
    ):
        found.check(Tokenizer(str(shared / "tokenizers/qwen2_5")), "Qwen", "a.mindrecord")


def test_real_data_sets_convert_whole_but_for_rows_without_an_answer(shared, tmp_path):
    from mindrlhf_lite.rewards.golds import gold_problem

    math500 = list(read_questions(shared / "data/math500/math500.jsonl", DATASET_TYPES["math"]))
    assert (
        len(math500) == 500
        and not [row for row in math500 if isinstance(row, BadRow)]
        and math500[0].source == "Precalculus"
    )
    assert not [question for question in math500 if gold_problem(question.gold)]
    bad = {}
    for name, rows in (("train_math", 7474), ("train_aime", 975)):
        found = list(read_questions(shared / f"data/deepscaler/{name}.json", DATASET_TYPES["deepscaler"]))
        assert len(found) == rows
        bad[name] = [row.row for row in found if isinstance(row, BadRow)]
    assert bad == {"train_math": [887, 1010, 5329, 5331], "train_aime": []}  # two null and two empty answers


def test_settings_from_a_yaml_and_inspection(tmp_path, quickstart_model):
    write(tmp_path / "rows.jsonl", ROWS)
    settings = {
        "input": str(tmp_path / "rows.jsonl"),
        "tokenizer_name_or_path": str(quickstart_model),
        "output_prefix": str(tmp_path / "out"),
        "handler_name": "R1Handler",
        "tokenizer_type": "HuggingFaceTokenizer",
        "dataset_additional_keys": ["labels"],
    }
    config = tmp_path / "data.yaml"
    config.write_text(
        json.dumps(
            {
                **settings,
                "dataset_type": "deepscaler",
                "dedup": True,
                "workers": 1,
                "log_interval": 2,
                "map_keys": {"system": ""},
            }
        )
    )
    result = run_python("tools/rlhf_data.py", "--config", config, "--sample", 4)
    assert result.returncode == 0, result.stderr
    assert "tokenized 5 of 5 rows" in result.stdout and result.stdout.rstrip().endswith("Total number of samples: 4")
    assert "tokenizer_type is not needed" in result.stdout
    header, prompts = read_file(tmp_path / "out.mindrecord")
    assert (
        len(prompts) == 4
        and header.counts == {"rows": 4}
        and header.longest == max(len(prompt.ids) for prompt in prompts)
    )
    result = run_python(
        "tools/rlhf_data.py", "--config", config, "--inspect", 2, "--output_path", tmp_path / "new.mindrecord"
    )
    assert result.returncode == 0 and result.stdout.count("--- row") == 2 and ROWS[1]["problem"] in result.stdout, (
        result.stderr
    )
    assert (tmp_path / "new.mindrecord.lengths.png").stat().st_size > 1000 and not (
        tmp_path / "new.mindrecord"
    ).exists()
    config.write_text("inputs: a\n")
    result = run_python("tools/rlhf_data.py", "--config", config)
    assert result.returncode == 2 and "inputs is unknown" in result.stderr and "Traceback" not in result.stderr


def test_golds_that_the_runs_verifiers_cannot_find_right_are_bad_rows(tmp_path, quickstart_model):
    write(tmp_path / "rows.jsonl", [{"problem": "1+1?", "answer": "2"}, {"problem": "x?", "answer": "x^2+1"}])
    common = (
        "--tokenizer_dir",
        quickstart_model,
        "--dataset_type",
        "deepscaler",
        "--file_path",
        tmp_path / "rows.jsonl",
    )
    options = ("--output_path", tmp_path / "out.mindrecord", "--verifier_function", "accuracy_reward,format_reward")
    refused = run_python("tools/rlhf_data.py", *common, *options)
    assert refused.returncode == 2 and "rows.jsonl:2:" in refused.stderr, refused.stderr
    assert "'x^2+1' is found right in no form by accuracy_reward" in refused.stderr
    unknown = run_python("tools/rlhf_data.py", *common, *options[:3], "acuracy_reward")
    assert unknown.returncode == 2 and "is unknown: use one of accuracy_reward" in unknown.stderr
    assert run_python("tools/rlhf_data.py", *common, *options[:3], "math_reward").returncode == 0


def test_mindspeed_rls_data_file_as_it_is(shared, tmp_path):
    """But for its paths; its query, which is empty there, follows the question where it is not."""
    folder, rows = shared / "tokenizers/qwen2_5", tmp_path / "rows.json"
    rows.write_text(json.dumps([{"problem": "What is 2 + 3?", "answer": "5", "more": "Be brief."}]))
    command = ("tools/rlhf_data.py", "--config", shared / "configs/mindspeed_rl/deepscaler.yaml")
    paths = ("--tokenizer_dir", folder, "--file_path", rows)
    result = run_python(*command, *paths, "--output_path", tmp_path / "a.mindrecord")
    assert result.returncode == 0, result.stdout + result.stderr
    (prompt,) = read_file(tmp_path / "a.mindrecord")[1]
    assert prompt.gold == "5" and "What is 2 + 3?" in prompt.text and "<think>" in prompt.text
    keys = ("--map_keys", '{"prompt": "problem", "query": "more", "response": "answer"}')
    result = run_python(*command, *paths, *keys, "--output_path", tmp_path / "b.mindrecord")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "What is 2 + 3?\nBe brief." in read_file(tmp_path / "b.mindrecord")[1][0].text


def test_a_key_that_stands_twice_inside_a_kept_column_is_a_bad_row(tmp_path):
    """It must not become a text about itself."""
    (tmp_path / "a.jsonl").write_text('{"question": "1+1?", "answer": "2", "more": {"deep": {"a": 1, "a": 2}}}\n')
    kind = dataset_type("arithmetic", {}, ("more",))
    (row,) = read_questions(tmp_path / "a.jsonl", kind)
    assert isinstance(row, BadRow) and "stands twice" in row.reason
