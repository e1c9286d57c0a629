"""Conversions of data files: workers, bad rows, choices, headers, settings."""

import json
from collections import Counter

import pytest
from data.written_rows import ROWS, write
from helpers import run_python

from mindrlhf_lite.data.convert import Conversion, convert_questions, mix, sample, without_duplicates
from mindrlhf_lite.data.records import Header, read_file, read_prompts, write_prompts
from mindrlhf_lite.data.sources import (
    DATASET_TYPES,
    BadRow,
    Question,
    read_questions,
)
from mindrlhf_lite.data.tokenizer import Tokenizer
from mindrlhf_lite.types import Prompt


def questions(count, system=""):
    return [
        Question(n + 1, f"What is {n}+{n}?", str(2 * n), system, "a.jsonl", "even" if n % 2 == 0 else "odd")
        for n in range(count)
    ]


def of_deepscaler(tokenizer, rows):
    """Options of tools/rlhf_data.py."""
    return ("--tokenizer_dir", tokenizer, "--dataset_type", "deepscaler", "--file_path", rows)


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
    common = of_deepscaler(quickstart_model, tmp_path / "rows.jsonl")
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
    common = of_deepscaler(quickstart_model, tmp_path / "rows.jsonl")
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
