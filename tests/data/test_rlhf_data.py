"""tools/rlhf_data.py as its users call it, and what it wrote."""

import json

import pytest
from helpers import make_sums, run_python

from mindrlhf_lite.data.prompt_sampler import PromptSampler
from mindrlhf_lite.data.records import Padding, read_prompts, write_prompts
from mindrlhf_lite.types import Prompt

GOOD = [{"question": f"What is {n}+1?", "answer": f"It is\n#### {n + 1}"} for n in range(5)]


def convert(tmp_path, lines, model, *arguments):
    source, output = tmp_path / "rows.jsonl", tmp_path / "out" / "rows.mindrecord"
    source.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    where = ("--file_path", source, "--output_path", output, "--overwrite")
    result = run_python("tools/rlhf_data.py", "--tokenizer_dir", model, *where, "--dataset_type", "gsm8k", *arguments)
    return result, source, output


def test_rows_keep_ids_gold_and_row_number(tmp_path, quickstart_model):
    result, _, output = convert(tmp_path, [GOOD[0], "", *GOOD[1:]], quickstart_model)
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("Total number of samples: 5")
    prompts = read_prompts(output)
    assert [(p.index, p.row, p.gold) for p in prompts] == [
        (0, 1, "1"),
        (1, 3, "2"),
        (2, 4, "3"),
        (3, 5, "4"),
        (4, 6, "5"),
    ]
    assert prompts[1].text == "What is 1+1?"
    assert len(prompts[1].ids) == len("What is 1+1?")  # this tokenizer has no merges for these bytes


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"question": "x", "ans', "not valid JSON"),
        ({"question": "no answer here"}, "field 'answer' is missing"),
        ({"question": "x", "answer": "#### none"}, "no number"),
        ({"question": "x", "answer": "just 5"}, "no number behind '####'"),
        ({"question": "", "answer": "#### 1"}, "non-empty"),
        ({"question": "long " * 30, "answer": "#### 1"}, "over --max_prompt_length 100"),
        ("[1, 2]", "a JSON object is needed"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path, quickstart_model, bad, reason):
    result, source, output = convert(tmp_path, [*GOOD, bad], quickstart_model, "--max_prompt_length", 100)
    assert result.returncode == 2
    assert f"{source}:6: " in result.stderr and reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not output.exists() and not list(output.parent.glob("*")) if output.parent.exists() else True


def test_skip_bad_rows_counts_and_lists_them(tmp_path, quickstart_model):
    result, source, output = convert(
        tmp_path, [GOOD[0], "{", {"question": "q"}, *GOOD[1:]], quickstart_model, "--skip_bad_rows"
    )
    assert result.returncode == 0, result.stderr
    assert (
        f"{source}:2: not valid JSON" in result.stdout
        and f"{source}:3: field 'answer'" in result.stdout
        and "Skipped bad rows: 2" in result.stdout
    )
    assert [p.row for p in read_prompts(output)] == [1, 4, 5, 6, 7]


def test_a_failed_conversion_leaves_the_old_file(tmp_path, quickstart_model):
    result, _, output = convert(tmp_path, GOOD, quickstart_model)
    before = output.read_bytes()
    result, _, output = convert(tmp_path, ["{"], quickstart_model)
    assert result.returncode == 2 and output.read_bytes() == before


def test_templates_and_mistakes_in_them(tmp_path, quickstart_model):
    own = tmp_path / "own.yaml"
    own.write_text('mine: "Q: {question}\\nA:"\nlost: "no slot"\n')
    result, _, output = convert(tmp_path, GOOD, quickstart_model, "--prompt_type", f"{own}:mine")
    assert read_prompts(output)[0].text == "Q: What is 0+1?\nA:"
    result, _, output = convert(tmp_path, GOOD, quickstart_model, "--prompt_type", "qwen_r1")
    text = read_prompts(output)[0].text
    assert "<think>" in text and "\\boxed{}" in text and text.endswith("<|im_start|>assistant\n")
    for name, message in ((f"{own}:lost", "exactly once"), ("qwen_r2", "known: plain, qwen, qwen_r1")):
        result, _, _ = convert(tmp_path, GOOD, quickstart_model, "--prompt_type", name)
        assert result.returncode == 2 and message in result.stderr


def test_padding_is_only_padding(tmp_path):
    """The pad id may occur in prompts: lengths come from their own column."""
    prompts = [Prompt(0, (5, 7, 7), "a", "1", 1), Prompt(1, (7,), "b", "x", 2)]
    write_prompts(tmp_path / "a.mindrecord", prompts, Padding(7, 6))
    assert read_prompts(tmp_path / "a.mindrecord") == prompts


def test_arithmetic_splits_are_seeded_and_disjoint(tmp_path, quickstart_model):
    def make(split, seed, name):
        return read_prompts(make_sums(quickstart_model, tmp_path / name, 300, split, seed))

    train, again, other, held_out = (
        make("train", 0, "a"),
        make("train", 0, "b"),
        make("train", 1, "c"),
        make("held_out", 0, "d"),
    )
    assert train == again != other
    assert len({p.text for p in train}) == 300
    pairs = {frozenset(p.text.rstrip("=").split("+")) for p in held_out}  # a + b is b + a
    assert not pairs & {frozenset(p.text.rstrip("=").split("+")) for p in train}
    assert all(sum(map(int, p.text.rstrip("=").split("+"))) == int(p.gold) for p in train + held_out)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_prompts(tmp_path / "missing.mindrecord")
    (tmp_path / "junk.mindrecord").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"index junk\.mindrecord\.db is missing"):
        read_prompts(tmp_path / "junk.mindrecord")


def test_gsm8k_converts_whole(shared, tmp_path):
    tokenizer, output = shared / "tokenizers/qwen2_5", tmp_path / "gsm8k.mindrecord"
    result = run_python(
        "tools/rlhf_data.py",
        "--vocab_path",
        tokenizer / "vocab.json",
        "--merges_file_path",
        tokenizer / "merges.txt",
        "--file_path",
        shared / "data/gsm8k/train.jsonl",
        "--output_path",
        output,
        "--dataset_type",
        "gsm8k",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("Total number of samples: 7473")
    assert "tokenizing" in result.stderr  # the progress bar
    prompts = read_prompts(output)
    assert len(prompts) == 7473 and prompts[0].gold == "72" and prompts[-1].row == 7473
    from mindrlhf_lite.data.tokenizer import Tokenizer

    assert Tokenizer(str(tokenizer)).decode(prompts[17].ids) == prompts[17].text


def test_sampler_resumes_anywhere_even_across_epochs():
    straight = PromptSampler(7, seed=3)
    whole = [straight.take(3) for _ in range(10)]
    assert sorted(sum(whole, [])[:7]) == list(range(7)) and sum(whole, [])[:7] != sum(whole, [])[7:14]
    for cut in range(10):
        first, second = PromptSampler(7, seed=3), PromptSampler(7, seed=3)
        before = [first.take(3) for _ in range(cut)]
        second.restore(first.state)
        assert before + [second.take(3) for _ in range(10 - cut)] == whole
