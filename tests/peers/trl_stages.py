"""Asks TRL's own trainers for the losses of supervised training, pairs and reward models, and for their gradients.

Run by hand, in an environment of its own (it needs torch and trl 1.16, no MindSpore):
    python tests/peers/trl_stages.py tests/peers/trl_stages.json

Pairs: the numbers go to `_compute_loss` (CPO: `cpo_loss`) itself; only what would run a model is replaced by given
logprobs. Supervised: a tiny Qwen2 whose weights tests/trainer/test_stage_losses.py makes again, through SFTTrainer.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from hf_scores import SHAPE, weights_of
from trl import DPOTrainer, KTOTrainer, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOTrainer

LENGTHS = ((4, 2), (1, 6), (3, 3))  # tokens of the chosen and the rejected answers
LONGEST, BETA, SMOOTHING, GAMMA, DESIRABLE, UNDESIRABLE = 6, 0.3, 0.2, 0.7, 1.3, 0.8
ROWS = [(20, 4, 18), (9, 3, 9), (30, 11, 25)]  # tokens, of them prompt, end of what counts


def make_numbers() -> dict[str, np.ndarray]:
    """[chosen of all pairs, then rejected of all, LONGEST]."""
    rng = np.random.default_rng(0)
    lengths = [chosen for chosen, _ in LENGTHS] + [rejected for _, rejected in LENGTHS]
    mask = np.array([[t < length for t in range(LONGEST)] for length in lengths], float)
    logprobs = rng.normal(-1.5, 0.7, mask.shape)
    far = logprobs + rng.normal(0.4, 0.5, mask.shape)
    numbers = {"logprobs": logprobs, "reference": logprobs + rng.normal(0, 0.6, mask.shape)}
    numbers |= {"kl_logprobs": far, "kl_reference": far - rng.normal(0.1, 0.3, mask.shape)}
    return {**{name: values * mask for name, values in numbers.items()}, "mask": mask}


class _Outputs(SimpleNamespace):
    """What a fused head gives, where only log_probs matter."""

    @classmethod
    def of(cls, logprobs: torch.Tensor) -> "_Outputs":
        zeros = torch.zeros_like(logprobs).detach()
        return cls(log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def _bare(kind: type, **settings) -> object:
    """A trainer that only computes losses."""
    trainer = object.__new__(kind)
    same = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer.__dict__.update(
        accelerator=same,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        loss_weights=[1.0],
        label_smoothing=0.0,
        beta=BETA,
        **settings,
    )
    trainer.model = SimpleNamespace(training=True)
    return trainer


def _inputs(numbers: dict[str, np.ndarray], prefix: str = "") -> dict[str, torch.Tensor]:
    mask = torch.tensor(np.pad(numbers["mask"], ((0, 0), (1, 0)))).long()  # one prompt token each
    ids = torch.zeros_like(mask)
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": ids + 1, f"{prefix}completion_mask": mask}


def ask_dpo(numbers: dict[str, np.ndarray], loss: str) -> tuple[float, torch.Tensor]:
    logprobs = torch.tensor(numbers["logprobs"], requires_grad=True)
    chosen, rejected = torch.tensor(numbers["reference"]).sum(1).chunk(2)
    trainer = _bare(DPOTrainer, loss_types=[loss])
    inputs = {**_inputs(numbers), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    model = lambda **kwargs: _Outputs.of(logprobs)  # noqa: E731
    value = trainer._compute_loss(model, inputs, return_outputs=False)
    value.backward()
    return value.item(), logprobs.grad


def ask_smoothed_dpo(numbers: dict[str, np.ndarray]) -> tuple[float, torch.Tensor]:
    """TRL's label smoothing of that kind is CPO's; it has no reference, so the logprobs are given as differences."""
    logprobs = torch.tensor(numbers["logprobs"], requires_grad=True)
    chosen, rejected = (logprobs - torch.tensor(numbers["reference"])).sum(1).chunk(2)
    trainer = _bare(CPOTrainer, loss_type="sigmoid", alpha=0.0)
    trainer.label_smoothing = SMOOTHING
    value = trainer.cpo_loss(chosen, rejected)[0].mean()
    value.backward()
    return value.item(), logprobs.grad


def ask_simpo(numbers: dict[str, np.ndarray], smoothing: float) -> tuple[float, torch.Tensor]:
    logprobs = torch.tensor(numbers["logprobs"], requires_grad=True)
    chosen, rejected = (logprobs.sum(1) / torch.tensor(numbers["mask"]).sum(1)).chunk(2)
    trainer = _bare(CPOTrainer, loss_type="simpo", simpo_gamma=GAMMA, alpha=0.0)
    trainer.label_smoothing = smoothing
    value = trainer.cpo_loss(chosen, rejected)[0].mean()
    value.backward()
    return value.item(), logprobs.grad


def ask_kto(numbers: dict[str, np.ndarray]) -> tuple[float, torch.Tensor]:
    logprobs = torch.tensor(numbers["logprobs"], requires_grad=True)
    trainer = _bare(KTOTrainer, loss_type="kto", calculate_KL=True)
    trainer.desirable_weight, trainer.undesirable_weight = DESIRABLE, UNDESIRABLE
    given = iter([torch.tensor(numbers["kl_logprobs"]), logprobs])  # in the order that the trainer asks
    inputs = {
        **_inputs(numbers),
        **_inputs(numbers, "KL_"),
        "label": torch.tensor([True] * len(LENGTHS) + [False] * len(LENGTHS)),
        "ref_logps": torch.tensor(numbers["reference"]).sum(1),
        "ref_KL_logps": torch.tensor(numbers["kl_reference"]).sum(1),
    }
    value = trainer._compute_loss(lambda **kwargs: _Outputs.of(next(given)), inputs, return_outputs=False)
    value.backward()
    return value.item(), logprobs.grad


def ask_reward(center: float | None) -> dict:
    scores = torch.tensor([0.3, -1.2, 2.0, 0.1, 0.4, -0.5], dtype=torch.float64, requires_grad=True)
    margins = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    trainer = _bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=center))
    inputs = {"margin": margins, "attention_mask": torch.ones(6, 1)}
    loss = trainer.compute_loss(lambda **kwargs: SimpleNamespace(logits=scores[:, None]), inputs)
    loss.backward()
    return {
        "center": center or 0.0,
        "scores": scores.tolist(),
        "margins": margins.tolist(),
        "loss": loss.item(),
        "gradient": scores.grad.tolist(),
    }


def supervised_rows() -> list[dict]:
    rng = np.random.default_rng(2)
    return [
        {
            "input_ids": rng.integers(1, 97, length).tolist(),
            "completion_mask": [int(prompt <= place < end) for place in range(length)],
        }
        for length, prompt, end in ROWS
    ]


def projections(name: str, values: np.ndarray) -> list[float]:
    """What of a gradient is compared: its norm, and its product with a random tensor of that name's length."""
    rng = np.random.default_rng(len(name))
    return [float(np.linalg.norm(values)), float((values * rng.standard_normal(values.shape)).sum())]


def ask_sft() -> dict:
    """On all rows as one batch: loss, and gradients by parameter; the same by transformers' own shifted loss."""
    shape = {name: value for name, value in SHAPE.items() if name != "num_labels"}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape, tie_word_embeddings=False))
    weights = weights_of({name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(folder, per_device_train_batch_size=3, report_to=[], use_cpu=True, bf16=False, max_length=None)
        args.completion_only_loss = True
        tokenizer = _tokenizer()
        rows = Dataset.from_list(supervised_rows())
        trainer = SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(len(ROWS))])
        trainer.model.train()
        given = dict(batch.items())
        loss = trainer.compute_loss(trainer.model, given)
        loss.backward()
    gradients = {name: projections(name, value.grad.numpy()) for name, value in model.named_parameters()}
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    shifted = model(batch["input_ids"], attention_mask=mask, labels=batch["labels"]).loss
    return {"rows": supervised_rows(), "loss": loss.item(), "transformers": shifted.item(), "gradients": gradients}


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(97)}
    own = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, pad_token="w0", eos_token="w1", unk_token="w0")


def main(path: str) -> None:
    numbers = make_numbers()
    asked = {
        "dpo": ask_dpo(numbers, "sigmoid"),
        "ipo": ask_dpo(numbers, "ipo"),
        "dpo_smoothed": ask_smoothed_dpo(numbers),
        "simpo": ask_simpo(numbers, 0.0),
        "simpo_smoothed": ask_simpo(numbers, SMOOTHING),
        "kto": ask_kto(numbers),
    }
    found = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "options": {"beta": BETA, "smoothing": SMOOTHING, "gamma": GAMMA, "weights": [DESIRABLE, UNDESIRABLE]},
        "numbers": {name: values.tolist() for name, values in numbers.items()},
        # of a sequence all tokens' gradients are equal
        "pairs": {
            name: {"loss": loss, "gradient": gradient.numpy()[:, 0].tolist()}
            for name, (loss, gradient) in asked.items()
        },
        "rewards": [ask_reward(None), ask_reward(0.05)],
        "supervised": ask_sft(),
    }
    Path(path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
