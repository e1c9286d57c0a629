"""Prompts as the model will see them, and how long they are: what is looked at before data is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindrlhf_lite.files.text_file import say
from mindrlhf_lite.types import Prompt


def preview(prompts: Sequence[Prompt], count: int, output: Path | None) -> None:
    """Prints prompts and their lengths; a histogram goes beside the output file where one is named."""
    for prompt in prompts[:count]:
        say(f"--- row {prompt.row}, {len(prompt.ids)} tokens, gold {prompt.gold!r}\n{prompt.text}")
    lengths = np.array([len(prompt.ids) for prompt in prompts])
    median, high, longest = np.percentile(lengths, [50, 95, 100])
    say(f"--- {len(lengths)} prompts: median {median:.0f} tokens, 95th percentile {high:.0f}, longest {longest:.0f}")
    if output is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.hist(lengths, bins=min(50, int(np.ptp(lengths)) + 1))
    axes.set_xlabel("prompt length (tokens)")
    axes.set_ylabel("prompts")
    figure.tight_layout()
    path = output.with_name(output.name + ".lengths.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    say(f"--- histogram in {path}")
