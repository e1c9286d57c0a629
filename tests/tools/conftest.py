"""Fixtures of several files."""

import pytest
from helpers import run_python
from tools.rows import write_rows


@pytest.fixture(scope="module")
def sums(quickstart_model, tmp_path_factory):
    """60 held-out sums, of two sources."""
    folder = tmp_path_factory.mktemp("sums")
    for name, numbers in (("small", range(1, 31)), ("large", range(40, 70))):
        write_rows(folder / f"{name}.jsonl", [{"q": f"{n}+{n + 7}=", "a": str(2 * n + 7)} for n in numbers])
    inputs = (
        "--file_path",
        folder / "small.jsonl",
        folder / "large.jsonl",
        "--map_keys",
        '{"prompt":"q","response":"a"}',
        "--prompt_type",
        "plain",
    )
    made = run_python(
        "tools/rlhf_data.py", "--tokenizer_dir", quickstart_model, *inputs, "--output_path", folder / "sums.mindrecord"
    )
    assert made.returncode == 0, made.stderr
    return folder / "sums.mindrecord"
