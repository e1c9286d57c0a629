"""What a person sees while a run goes on: one progress bar over steps, one line of metrics a step. Only rank 0 speaks."""

from __future__ import annotations

import sys

from tqdm import tqdm

from mindrlhf_lite.types import StepMetrics


class Console:
    """Silent on every rank but the main one.

    Args:
        first_step, last_step: of this process; the bar starts at first_step - 1.
        print_interval: steps between metric lines.
    """

    def __init__(self, is_main: bool, last_step: int, first_step: int, progress_bar: bool, print_interval: int):
        self.is_main, self.print_interval, self.last_step = is_main, print_interval, last_step
        self._bar = tqdm(
            total=last_step,
            initial=first_step - 1,
            unit="step",
            desc="grpo",
            disable=not (is_main and progress_bar),
            file=sys.stdout,
            ascii=True,
            ncols=110,
            mininterval=0.5,
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}",
        )

    def say(self, text: str) -> None:
        """One line above the progress bar."""
        if self.is_main:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def phase(self, name: str) -> None:
        """What the run is doing now, shown on the bar."""
        self._bar.set_description(f"grpo {name:<9}", refresh=True)

    def step(self, metrics: StepMetrics) -> None:
        """The line of a finished step, and the bar's progress."""
        v = metrics.values
        if metrics.step % self.print_interval == 0 or metrics.step == self.last_step:
            self.say(
                f"step {metrics.step:4d} | reward {v['reward/mean']:6.3f} | correct {v['reward/outcome/correct']:.0%} | loss {v['loss/total']:8.5f} | "
                f"kl {v['loss/kl']:.4f} | grad {v['policy/grad_norm']:.3f} | tokens {v['completion/mean_tokens']:.1f} | {v['time_s/step']:.2f} s"
            )
        self._bar.set_postfix_str(
            f"reward {v['reward/mean']:.3f}, {v['completion/mean_tokens']:.0f} tokens, {v['speed/generated_tokens_per_s']:.0f} tok/s", refresh=False
        )
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
