"""docs/guides/own_task.md as its reader goes through it: the files that it shows, and the commands up to training."""

import re

from helpers import ROOT, run_python

GUIDE = ROOT / "docs/guides/own_task.md"


def test_the_files_of_the_guide_make_a_run(tmp_path, quickstart_model):
    """With the quickstart's model, whose tokenizer needs more tokens a prompt."""
    for text in re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        (tmp_path / re.match(r"# (\S+)\n", text)[1]).write_text(text, encoding="utf-8")
    assert run_python(tmp_path / "make_rows.py", cwd=tmp_path).returncode == 0
    command = GUIDE.read_text(encoding="utf-8").partition("rlhf_data.py ")[2].partition("\ndone")[0].replace("\\\n", "")
    for split in ("train", "held_out"):
        words = (
            command.replace("$split", split)
            .replace("'", "")
            .replace('{"prompt": "question", "response": "answer"}', "MAP")
        )
        given = ['{"prompt": "question", "response": "answer"}' if word == "MAP" else word for word in words.split()]
        given[given.index("model")] = str(quickstart_model)
        given += ["--max_prompt_length", "150", "--seq_length", "180"]
        made = run_python("tools/rlhf_data.py", *given, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    sizes = ("--generate_config.max_prompt_length=150", "--rl_config.seq_length=180")
    main = (ROOT / "examples/qwen_grpo/main.py", "--config", "words.yaml", "--actor_checkpoint_path", quickstart_model)
    result = run_python(*main, *sizes, "--dry_run", cwd=tmp_path)
    assert result.returncode == 0 and "a step: 8 prompts x 8 completions" in result.stdout, (
        result.stdout + result.stderr
    )
