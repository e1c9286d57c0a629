"""Folders of runs to watch, made up by hand: what a run writes, and what somebody hostile would."""

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
from helpers import ROOT, clean_environment
from observe.made_runs import answers

SCRIPT = "<script>document.title = 'ran'; window.ran = 1</script><img src=x onerror='window.ran = 1'>"
HIDDEN = "a\u202eb\x1b[2J\ud83d"


def metrics_row(step, keys=80, **more):
    """As many metrics as a GRPO run has."""
    wave = float(np.sin(step / 300))
    values = {
        "reward/mean": 0.5 + 0.4 * wave,
        "reward/max": 1.1,
        "reward/outcome/correct": 0.5 + 0.3 * wave,
        "loss/total": 0.01 * wave,
        "loss/kl": 0.001 * step,
        "completion/mean_tokens": 22.5 + wave,
        "policy/entropy": 0.2,
        "time_s/step": 2.0,
        "memory/rss_gb": 1.25,
        "memory/peak_rss_gb": 1.5,
    }
    padding = {f"made/metric_{place:02d}": wave * place for place in range(keys - len(values))}
    return {"step": step, **values, **padding, **more}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def completion(text, reward, **more):
    return {
        "prompt": f"60+29= {SCRIPT}",
        "completion": text,
        "gold": "89",
        "reward": reward,
        "rewards": {"accuracy": reward, "format": 1.0},
        "outcome": "correct" if reward > 0.5 else "wrong",
        "advantage": reward - 0.5,
        "tokens": 5,
        "finish_reason": "stop",
        "group": 7,
        "row": 8,
        **more,
    }


EPISODE = {
    "segments": [
        {"written": True, "text": "look up 89"},
        {"written": False, "text": f"found {SCRIPT}"},
        {"written": True, "text": "it is 89"},
    ],
    "end": "done",
}


def make_watched(folder, steps=12, last_step=20, keys=80):
    """A run at step `steps`, with completions of the last one and two evaluations."""
    completions = folder / "completions"
    completions.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(lines(metrics_row(step, keys) for step in range(1, steps + 1)))
    (folder / "run.json").write_text(json.dumps({"last_step": last_step, "config": {}}))
    texts = [(f"first {SCRIPT}", 0.0), ("second", 1.0), (f"third {HIDDEN}", 0.5)]
    made = [completion(text, reward) for text, reward in texts] + [completion("look up 89it is 89", 0.75, **EPISODE)]
    made[1]["token_advantages"] = [[["se", 0.5], ["cond", -0.25]]]
    (completions / f"step_{steps:06d}.jsonl").write_text(lines(made))
    (completions / "eval_000000.jsonl").write_text(lines(answers(["15", "2", "3", "15"])))
    (completions / f"eval_{steps:06d}.jsonl").write_text(lines(answers(["15", "15", "3", SCRIPT])))
    return folder


@contextmanager
def held(folder):
    """The folder's lock, as a run that goes on holds it."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def watching(*arguments):
    """tools/watch.py on a free port; its address."""
    command = [sys.executable, ROOT / "tools/watch.py", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment(PYTHONPATH=str(ROOT)))
    try:
        yield re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
