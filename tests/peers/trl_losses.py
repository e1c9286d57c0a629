"""Asks TRL's own loss for its value and gradient, on numbers that tests/algorithms/test_against_trl.py gives to ours.

Run by hand, in an environment of its own (it needs torch and trl 1.16, no MindSpore):
    python tests/peers/trl_losses.py tests/peers/trl_losses.json

The numbers go to `GRPOTrainer._compute_loss` itself; only what would run a model is replaced by given logprobs.
Advantages are those that a trainer of the quickstart's model makes of given rewards in its first step.
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
from trl import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

REWARDS = [3.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.1, 0.1, 0.0]
LENGTHS, LONGEST, MAX_TOKENS = (2, 6, 1, 4), 6, 8
EPSILON_LOW, EPSILON_HIGH, BETA = 0.2, 0.28, 0.3
TEMPERATURE = 0.7

# name -> what differs from plain GRPO, by TRL's names
CASES = {
    "grpo": {},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.28},  # TRL bounds the ratio itself
    "sapo": {"loss_type": "sapo"},
    "gspo": {"importance_sampling_level": "sequence"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "dual_clip": {"delta": 1.4},
    "kl": {"beta": BETA},
    "kl_unbiased": {"beta": BETA, "use_bias_correction_kl": True},
    "importance_weights": {"use_vllm": True},
}


def make_numbers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (len(LENGTHS), LONGEST)
    old = rng.normal(-1.5, 0.7, shape)
    return {
        "logprobs": old + rng.normal(0, 0.25, shape),
        "old": old,
        "reference": old + rng.normal(0, 0.4, shape),
        "weights": np.exp(rng.normal(0, 0.3, shape)),  # given importance weights
        "advantages": np.array([1.2, -0.7, 0.4, -1.1]),
        "mask": np.array([[t < length for t in range(LONGEST)] for length in LENGTHS], float),
    }


def ask_trl(numbers: dict[str, np.ndarray], changes: dict) -> tuple[float, np.ndarray]:
    """(loss, its gradient by logprob [sequences, longest])."""
    given = {name: torch.tensor(values) for name, values in numbers.items()}
    logprobs = given["logprobs"].clone().requires_grad_(True)
    settings = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": EPSILON_LOW,
        "epsilon_high": EPSILON_HIGH,
        "use_vllm": False,
        **changes,
    }
    trainer = _bare_trainer(settings)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (logprobs, torch.zeros_like(logprobs), None)
    ids = torch.zeros(logprobs.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": given["mask"],
        "advantages": given["advantages"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["reference"],
        "importance_sampling_ratio": given["weights"],
        "num_items_in_batch": given["mask"].sum(),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad.numpy()


def _bare_trainer(settings: dict) -> GRPOTrainer:
    """One that only computes losses."""
    trainer = object.__new__(GRPOTrainer)
    trainer.__dict__.update(
        settings,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        args=SimpleNamespace(
            delta=settings.get("delta"),
            use_bias_correction_kl=settings.get("use_bias_correction_kl", False),
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=1,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        vllm_importance_sampling_correction=settings["use_vllm"],
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_TOKENS,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    return trainer


def ask_advantages(scale_rewards: str) -> list[float]:
    """TRL's advantages of REWARDS, in groups of four."""
    kept = []

    class Watched(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            kept.append(inputs["advantages"])
            return super()._compute_loss(model, inputs)

    _train_one_step(Watched, scale_rewards=scale_rewards, max_completion_length=4)
    return kept[0].flatten().tolist()


def _train_one_step(kind: type, **settings) -> None:
    """Of the quickstart's model, on three groups of four."""
    model_dir = str(Path(__file__).parents[2] / "examples/quickstart/model")
    trainer = kind(
        model=transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
        processing_class=transformers.AutoTokenizer.from_pretrained(model_dir, padding_side="left"),
        reward_funcs=lambda completions, **others: list(REWARDS),
        train_dataset=Dataset.from_list([{"prompt": f"{n}+{n}="} for n in range(3)]),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(REWARDS),
            num_generations=4,
            max_steps=1,
            **settings,
            report_to=[],
            use_cpu=True,
            bf16=False,
            shuffle_dataset=False,
            save_strategy="no",
        ),
    )
    # the generated batch is shuffled before it is cut into micro-batches; with the identity it stays in order
    trl.trainer.grpo_trainer.shuffle_sequence_dict = lambda batch: batch
    trainer.train()


def ask_temperature() -> dict:
    """A first step at TEMPERATURE: its sequences, and what TRL makes of them: logprobs, entropy, loss, gradient."""
    kept = {}

    class Watched(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            logprobs, entropy, _ = self._get_per_token_logps_and_entropies(
                model, ids, mask, inputs["completion_ids"].shape[1], compute_entropy=True
            )
            loss = super()._compute_loss(model, inputs)
            loss.backward(retain_graph=True)
            parameters = dict(model.named_parameters())
            norm = torch.sqrt(sum((each.grad**2).sum() for each in parameters.values() if each.grad is not None))
            kept.update(
                prompts=[p[m.bool()].tolist() for p, m in zip(inputs["prompt_ids"], inputs["prompt_mask"])],
                completions=[c[m.bool()].tolist() for c, m in zip(inputs["completion_ids"], inputs["completion_mask"])],
                logprobs=[row[m.bool()].tolist() for row, m in zip(logprobs, inputs["completion_mask"])],
                entropy=[row[m.bool()].tolist() for row, m in zip(entropy, inputs["completion_mask"])],
                advantages=inputs["advantages"].flatten().tolist(),
                loss=loss.item(),
                grad_norm=norm.item(),
                final_norm_gradient=parameters["model.norm.weight"].grad.tolist(),
            )
            model.zero_grad()
            return loss

    _train_one_step(Watched, temperature=TEMPERATURE, max_completion_length=MAX_TOKENS, loss_type="grpo")
    return {"temperature": TEMPERATURE, **kept}


def main() -> None:
    numbers = make_numbers()
    results = {}
    for name, changes in CASES.items():
        loss, gradient = ask_trl(numbers, changes)
        results[name] = {"changes": changes, "loss": loss, "gradient": gradient.tolist()}
    fixture = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "max_tokens": MAX_TOKENS,
        "epsilon_low": EPSILON_LOW,
        "epsilon_high": EPSILON_HIGH,
        "beta": BETA,
        "numbers": {name: values.tolist() for name, values in numbers.items()},
        "results": results,
        "rewards": REWARDS,
        "advantages": {scale: ask_advantages(scale) for scale in ("group", "batch", "none")},
        "sampled": ask_temperature(),
    }
    with open(sys.argv[1], "w") as file:
        file.write(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
