"""docs/episodes.md: its environment, in its command, cut to one step."""

import json
import re
import shlex

from distributed.small_runs import completions
from helpers import ROOT, run_python

GUIDE = ROOT / "docs/episodes.md"


def test_the_environment_of_the_guide_is_trained_on(data, tmp_path):
    text = GUIDE.read_text(encoding="utf-8")
    source = re.search(r"```python\n(# second_try.py\n.*?)```", text, re.DOTALL)[1]
    (tmp_path / "second_try.py").write_text(source, encoding="utf-8")
    assert len(source.splitlines()) <= 40
    command = text.partition("python examples/qwen_grpo/main.py ")[2].partition("```")[0].replace("\\\n", "")
    words = [word.replace("output/quickstart_data", str(data)) for word in shlex.split(command)]
    words[words.index("--config") + 1] = str(ROOT / "examples/quickstart/grpo_config.yaml")
    small = [f"--rl_config.output_dir={tmp_path}/run", "--rl_config.max_steps=1", "--rl_config.chunk_size=4"]
    small += [f"--actor_config.load={ROOT}/examples/quickstart/model", "--monitor_config.plots=false"]
    result = run_python(ROOT / "examples/qwen_grpo/main.py", *words, *small, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = completions(tmp_path / "run", 1)
    assert all(len(row["turns"]) in (1, 2) and row["reward"] in (0, 0.5, 1) for row in rows)
    assert any(len(row["turns"]) == 2 and row["segments"][1] == {"written": False, "text": "\nAgain: "} for row in rows)
    assert (
        json.loads((tmp_path / "run/summary.json").read_text())["accuracy"]["before"]["verifier"]
        == "environment_reward"
    )
