"""What a person sees while a run goes on: one progress bar over steps, one line of metrics a step. Only rank 0
speaks.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

from mindrlhf_lite.commands.progress import Progress
from mindrlhf_lite.job.whereabouts import RUN_BAR, Whereabouts
from mindrlhf_lite.types import StepMetrics

_WITHOUT_GRAPHS = ("reward", "reshard", "save", "finish")  # phases in which nothing is compiled


class Console:
    """Silent on every rank but the main one.

    Args:
        first_step, last_step: of this process; the bar starts at first_step - 1.
        print_interval: steps between metric lines.
    """

    def __init__(self, is_main: bool, last_step: int, first_step: int, progress_bar: bool, print_interval: int):
        self.is_main, self.print_interval = is_main, print_interval
        self.last_step, self.first_step = last_step, first_step
        self._step_seconds: list[float] = []  # of this process's steps, without the first, which compiles
        self._has_stepped, self._has_announced, self._started = False, False, time.perf_counter()
        self._step, self._whereabouts = first_step - 1, Whereabouts()
        self._bar = Progress(
            last_step,
            "step",
            RUN_BAR,
            initial=first_step - 1,
            file=sys.stdout,
            is_shown=is_main and progress_bar,
            says_end=False,
            ascii=True,
            ncols=110,
            mininterval=0.5,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}",
        )

    def say(self, text: str) -> None:
        """One line above the progress bar."""
        if self.is_main:
            self._bar.say(text)

    def phase(self, name: str) -> None:
        """What the run is doing now, shown on the bar; the first time in words, because compiling takes long."""
        if name not in _WITHOUT_GRAPHS and not self._has_stepped and not self._has_announced:
            self._has_announced = True
            self.say("compiling graphs: the first step takes several times as long as the others")
        text = f"{name}, compiling" if name not in _WITHOUT_GRAPHS and not self._has_stepped else name
        self._whereabouts.note(f"step {self._step}, {text}")
        self._bar.describe(f"{RUN_BAR} {text:<9}")

    def begin(self, step: int) -> None:
        """The phases from now on are this step's."""
        self._step = step

    def step(self, metrics: StepMetrics) -> None:
        """The line of a finished step, and the bar's progress."""
        v = metrics.values
        if self._has_stepped:
            self._step_seconds.append(v["time_s/step"])
        elif self.is_main and metrics.step < self.last_step:
            self.say(
                f"first step done after {_clock(time.perf_counter() - self._started)}, compiling included; an "
                "estimate follows with the second"
            )
        self._has_stepped = True
        if metrics.step % self.print_interval == 0 or metrics.step == self.last_step:
            self.say(f"step {metrics.step:4d} | {self.line(v)} | {v['time_s/step']:.2f} s")
        self._bar.note(f"{self._estimate(metrics.step)}{self.note(v)}")
        self._bar.update()

    def line(self, v: dict[str, float]) -> str:
        """What its line says of a step."""
        return (
            f"reward {v['reward/mean']:6.3f} | correct {v['reward/outcome/correct']:.0%}{_failures(v)} | "
            f"loss {v['loss/total']:8.5f} | kl {v.get('reward/kl', v['loss/kl']):.4f} | "
            f"grad {v['policy/grad_norm']:.3f} | tokens {v['completion/mean_tokens']:.1f}"
        )

    def note(self, v: dict[str, float]) -> str:
        """And the bar."""
        return (
            f"reward {v['reward/mean']:.3f}, {v['completion/mean_tokens']:.0f} tokens, "
            f"{v['speed/generated_tokens_per_s']:.0f} tok/s"
        )

    def performance(self, metrics: StepMetrics) -> None:
        """Where a step's time went."""
        v = metrics.values
        phases = ((key.removeprefix("time_s/"), seconds) for key, seconds in v.items() if key.startswith("time_s/"))
        self.say(
            f"step {metrics.step:4d} | "
            + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases if name != "step" and seconds >= 0.005)
            + f" | generated {v['speed/generated_tokens_per_s']:.0f} tokens/s, trained "
            f"{v['speed/trained_tokens_per_s']:.0f} tokens/s | memory {v['memory/rss_gb']:.2f} GiB a rank"
        )

    def _estimate(self, step: int) -> str:
        left = seconds_left(self._step_seconds, self.last_step - step)
        return "" if left is None else f"{_clock(left)} left, "

    def close(self) -> None:
        self._whereabouts.note("")
        self._bar.close()


def seconds_left(step_seconds: Sequence[float], steps: int) -> float | None:
    """By the median step, once there is one that did not compile. Args: step_seconds: of steps that did not."""
    return steps * statistics.median(step_seconds) if step_seconds else None


def _failures(values: dict[str, float]) -> str:
    """The share of completions that no verifier could judge, where there are any."""
    share = values["reward/outcome/error"] + values["reward/outcome/timeout"]
    return f" (verifier failed {share:.0%})" if share else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
