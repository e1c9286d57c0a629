"""Asks TRL's distillation losses for value and gradient, on numbers that tests/algorithms/test_distillation.py gives to
ours.

Run by hand, in an environment of its own (it needs torch and trl 1.16, no MindSpore):
    python tests/peers/trl_distillation.py tests/peers/trl_distillation.json

`sampled`: IW-OPD's loss of drawn tokens, with its weight by place switched off (gamma 0). `whole`: GKD's reverse KL
over the whole vocabulary (beta 1), of one row of logits.
"""

import json
import os
import sys
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from trl.experimental.gkd import GKDTrainer
from trl.experimental.iw_opd import IWOPDTrainer

LENGTHS, VOCABULARY, TEMPERATURE = (5, 2, 4), 7, 0.7


def ask_sampled(numbers: dict[str, torch.Tensor]) -> dict:
    trainer = object.__new__(IWOPDTrainer)
    trainer.__dict__.update(
        temperature=TEMPERATURE,
        iw_opd_gamma=0.0,
        iw_opd_epsilon=1e-6,
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    logits = numbers["student"].clone().requires_grad_(True)
    teacher = torch.log_softmax(numbers["teacher"] / TEMPERATURE, -1).gather(-1, numbers["tokens"][..., None])[..., 0]
    drawn = torch.log_softmax(numbers["drawn"] / TEMPERATURE, -1).gather(-1, numbers["tokens"][..., None])[..., 0]
    labels = torch.where(numbers["mask"], numbers["tokens"], -100)
    found = {}
    for name, rollout in (("on_policy", None), ("off_policy", drawn)):
        logits.grad = None
        loss = trainer._compute_iw_opd_loss(logits, numbers["tokens"], labels, teacher, rollout)
        loss.backward()
        found[name] = {"loss": loss.item(), "gradient": logits.grad.tolist()}
    return found


def ask_whole(numbers: dict[str, torch.Tensor]) -> dict:
    logits, teacher = numbers["student"][0, :1].clone().requires_grad_(True), numbers["teacher"][0, :1]
    loss = GKDTrainer.generalized_jsd_loss(logits[None], teacher[None], beta=1.0, temperature=TEMPERATURE)
    loss.backward()
    return {"loss": loss.item(), "gradient": logits.grad[0].tolist()}


def main() -> None:
    torch.manual_seed(0)
    shape = (len(LENGTHS), max(LENGTHS))
    numbers = {name: torch.randn(*shape, VOCABULARY, dtype=torch.float64) for name in ("student", "teacher", "drawn")}
    numbers["tokens"] = torch.randint(0, VOCABULARY, shape)
    numbers["mask"] = torch.tensor([[place < length for place in range(shape[1])] for length in LENGTHS])
    fixture = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "temperature": TEMPERATURE,
        "numbers": {name: values.tolist() for name, values in numbers.items()},
        "sampled": ask_sampled(numbers),
        "whole": ask_whole(numbers),
    }
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
